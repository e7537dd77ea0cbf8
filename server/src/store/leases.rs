//! The leases under which steps are worked on: taken, kept alive, lost, reported under.

use std::{collections::BTreeMap, time::Duration};

use mergeyard_plan::{
    action::Action,
    run::{Outcome, Report, Run},
};
use mergeyard_types::{
    CommitSha, DeliveryId, Digest, GitRef, ImageRef, RepoName, RunId, StepId, Timestamp, WorkflowId,
};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, Tx, json, word};

/// The right to work on a step and to report about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub step: StepId,
    pub run: RunId,
    fence: i64,
}

/// A leased step with all it needs.
#[derive(Debug, Clone)]
pub struct Job {
    pub lease: Lease,
    pub workflow: WorkflowId,
    pub name: String,
    pub attempt: u32,
    pub action: Action,
    pub timeout: Duration,
    pub repo: RepoName,
    /// The name its policy was found by.
    pub known_as: RepoName,
    pub clone_url: Option<String>,
    pub commit: CommitSha,
    pub hints: Vec<GitRef>,
    pub source_url: Option<String>,
    pub delivery: DeliveryId,
}

/// What a heartbeat brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulse {
    GoOn,
    /// Somebody asked the run to stop.
    Cancel(String),
    /// The lease belongs to another now.
    Fenced,
}

#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The step was taken over by another; what this one found out does not count.
    #[error("{0:?} was taken over by another worker")]
    Fenced(StepId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Leases the next step that is ready: none older waits or runs under the same serial key.
    pub async fn claim_step(&self, now: Timestamp) -> Result<Option<Job>, StoreError> {
        const NEXT: &str = "SELECT id, run FROM steps s WHERE ready = 1 AND not_before <= ? AND NOT EXISTS \
             (SELECT 1 FROM steps o WHERE o.serial = s.serial AND o.state IN ('queued', 'running') AND o.id <> s.id \
              AND (o.state = 'running' OR (o.merged, o.id) < (s.merged, s.id))) \
             ORDER BY not_before, id LIMIT 1";
        // Looking costs no write lock; only a find is looked at again under it.
        if sqlx::query(NEXT).bind(now.0).fetch_optional(&self.reader).await?.is_none() {
            return Ok(None);
        }
        let mut tx = self.begin().await?;
        let Some(row) = sqlx::query(NEXT).bind(now.0).fetch_optional(&mut *tx.inner).await? else {
            return Ok(None);
        };
        let (step, run) = (StepId(row.try_get("id")?), RunId(row.try_get("run")?));
        tx.apply(run, Report::Started { step }, now).await?;
        sqlx::query("UPDATE steps SET fence = fence + 1, beat = 0 WHERE id = ?")
            .bind(step.0)
            .execute(&mut *tx.inner)
            .await?;
        let job = tx.job(step).await?;
        tx.commit().await?;
        Ok(Some(job))
    }

    pub async fn heartbeat(&self, lease: &Lease) -> Result<Pulse, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE steps SET beat = beat + 1 WHERE id = ? AND fence = ? AND state = 'running' \
             RETURNING (SELECT cancel FROM runs WHERE runs.id = steps.run)",
        )
        .bind(lease.step.0)
        .bind(lease.fence)
        .fetch_optional(&mut *tx.inner)
        .await?;
        tx.commit().await?;
        Ok(match row {
            None => Pulse::Fenced,
            Some(row) => row.try_get::<Option<String>, _>(0)?.map_or(Pulse::GoOn, Pulse::Cancel),
        })
    }

    /// The end of one attempt: new states, effects and the published image in one
    /// transaction, if the lease still holds.
    pub async fn report(&self, lease: &Lease, outcome: Outcome, now: Timestamp) -> Result<Run, ReportError> {
        let mut tx = self.begin().await?;
        if !tx.holds(lease).await? {
            return Err(ReportError::Fenced(lease.step));
        }
        if let Outcome::Success { outputs } = &outcome {
            tx.record_image(lease, outputs, now).await?;
        }
        let run = tx.apply(lease.run, Report::Finished { step: lease.step, outcome }, now).await?;
        tx.commit().await?;
        Ok(run)
    }

    /// Gives a step back that was begun, for somebody else to start again.
    pub async fn hand_over(&self, lease: &Lease, now: Timestamp) -> Result<(), ReportError> {
        let mut tx = self.begin().await?;
        if !tx.holds(lease).await? {
            return Err(ReportError::Fenced(lease.step));
        }
        tx.apply(lease.run, Report::HandedOver { step: lease.step }, now).await?;
        Ok(tx.commit().await?)
    }

    /// Each running step with the state of its lease, for the watcher of leases.
    pub async fn leases(&self) -> Result<Vec<(Lease, i64)>, StoreError> {
        let rows = sqlx::query("SELECT id, run, fence, beat FROM steps WHERE state = 'running'")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(|row| Ok((lease(row)?, row.try_get("beat")?))).collect()
    }

    /// Takes a lease away from a holder that is gone. `false` when it lives after all.
    pub async fn expire(&self, lease: &Lease, beat: i64, now: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let row =
            sqlx::query("UPDATE steps SET fence = fence + 1 WHERE id = ? AND fence = ? AND beat = ? AND state = 'running'")
                .bind(lease.step.0)
                .bind(lease.fence)
                .bind(beat)
                .execute(&mut *tx.inner)
                .await?;
        if row.rows_affected() == 0 {
            return Ok(false);
        }
        tx.apply(lease.run, Report::Lost { step: lease.step }, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}

impl Tx {
    async fn holds(&mut self, lease: &Lease) -> Result<bool, StoreError> {
        let held = sqlx::query("SELECT 1 FROM steps WHERE id = ? AND fence = ? AND state = 'running'")
            .bind(lease.step.0)
            .bind(lease.fence)
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(held.is_some())
    }

    async fn job(&mut self, step: StepId) -> Result<Job, StoreError> {
        let row = sqlx::query(
            "SELECT s.id, s.run, s.workflow, s.fence, s.name, s.attempt, s.action, s.timeout, r.repo, r.commit_sha, r.hints, \
             r.known_as, r.clone_url, r.source_url, r.delivery FROM steps s JOIN runs r ON r.id = s.run WHERE s.id = ?",
        )
        .bind(step.0)
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(Job {
            lease: lease(&row)?,
            workflow: WorkflowId(row.try_get("workflow")?),
            name: row.try_get("name")?,
            attempt: row.try_get("attempt")?,
            action: json(&row, "action")?,
            timeout: Duration::from_millis(row.try_get::<i64, _>("timeout")?.unsigned_abs()),
            repo: word(&row, "repo")?,
            known_as: word(&row, "known_as")?,
            clone_url: row.try_get("clone_url")?,
            commit: word(&row, "commit_sha")?,
            hints: json(&row, "hints")?,
            source_url: row.try_get("source_url")?,
            delivery: word(&row, "delivery")?,
        })
    }

    /// A step that published an image says so in its outputs `image` and `digest`.
    async fn record_image(
        &mut self,
        lease: &Lease,
        outputs: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (Some(image), Some(digest)) = (outputs.get("image"), outputs.get("digest")) else {
            return Ok(());
        };
        let unreadable = |what, value: &String| StoreError::Unreadable { what, value: value.clone() };
        let image: ImageRef = image.parse().map_err(|_| unreadable("output `image`", image))?;
        let digest: Digest = digest.parse().map_err(|_| unreadable("output `digest`", digest))?;
        let job = self.job(lease.step).await?;
        let Action::Image(action) = &job.action else { return Ok(()) };
        sqlx::query(
            "INSERT INTO images (step, run, repo, registry, name, version, digest, tree, commit_sha, published) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (step) DO NOTHING",
        )
        .bind(lease.step.0)
        .bind(lease.run.0)
        .bind(job.repo.as_str())
        .bind(image.registry.as_str())
        .bind(action.name.as_str())
        .bind(action.version.as_str())
        .bind(digest.to_string())
        .bind(action.tree.to_string())
        .bind(job.commit.to_string())
        .bind(now.0)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

fn lease(row: &SqliteRow) -> Result<Lease, StoreError> {
    Ok(Lease {
        step: StepId(row.try_get("id")?),
        run: RunId(row.try_get("run")?),
        fence: row.try_get("fence")?,
    })
}
