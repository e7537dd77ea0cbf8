//! The leases under which steps are worked on: kept alive, lost, reported under.

use std::{collections::BTreeMap, time::Duration};

use mergeyard_plan::{
    action::Action,
    facts::Facts,
    rules::StepRules,
    run::{Outcome, Report, Run},
};
use mergeyard_types::{
    CommitSha, DeliveryId, Digest, GitRef, ImageName, ImageRef, RepoName, RunId, StepId, Timestamp,
    WorkflowId,
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
    pub rules: StepRules,
    pub timeout: Duration,
    pub place: Place,
    /// What the other steps of its workflow put out, by their names.
    pub outputs: BTreeMap<String, BTreeMap<String, String>>,
    /// `None` for what is built in, which asks for none.
    pub facts: Option<Facts>,
    /// A pull request from another repository.
    pub fork: bool,
    pub run_started: Option<Timestamp>,
    pub repo: RepoName,
    /// The name its policy was found by.
    pub known_as: RepoName,
    pub clone_url: Option<String>,
    pub commit: CommitSha,
    /// Of a pull request the one it goes to.
    pub branch: String,
    pub event: String,
    /// It puts back what was live before.
    pub rollback: bool,
    /// What its run published, or the runs that it repeats; of what deploys nothing none.
    pub images: BTreeMap<ImageName, Digest>,
    pub hints: Vec<GitRef>,
    pub source_url: Option<String>,
    pub delivery: DeliveryId,
}

/// Where a step stands in its run, and how things stand there. Numbers count from 1.
#[derive(Debug, Clone)]
pub struct Place {
    pub workflow: String,
    pub workflow_number: usize,
    pub number: usize,
    /// Whether a step of the workflow has failed so far.
    pub failed: bool,
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

    /// A detached step is up: what waited for it may start, if the lease still holds.
    pub async fn ready(&self, lease: &Lease, now: Timestamp) -> Result<Run, ReportError> {
        let mut tx = self.begin().await?;
        if !tx.holds(lease).await? {
            return Err(ReportError::Fenced(lease.step));
        }
        let run = tx.apply(lease.run, Report::Ready { step: lease.step }, now).await?;
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
    pub(super) async fn holds(&mut self, lease: &Lease) -> Result<bool, StoreError> {
        let held = sqlx::query("SELECT 1 FROM steps WHERE id = ? AND fence = ? AND state = 'running'")
            .bind(lease.step.0)
            .bind(lease.fence)
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(held.is_some())
    }

    pub(super) async fn job(&mut self, step: StepId) -> Result<Job, StoreError> {
        let row = sqlx::query(
            "SELECT s.id, s.run, s.workflow, s.fence, s.name, s.attempt, s.action, s.rules, s.timeout, r.facts, r.fork, r.started AS run_started, r.repo, \
             r.commit_sha, r.branch, r.event, r.rollback_of, r.hints, r.known_as, r.clone_url, r.source_url, r.delivery FROM steps s JOIN runs r ON r.id = s.run WHERE s.id = ?",
        )
        .bind(step.0)
        .fetch_one(&mut *self.inner)
        .await?;
        let action: Action = json(&row, "action")?;
        let images = match action.target() {
            Some(_) => self.images_of_run(RunId(row.try_get("run")?)).await?,
            None => BTreeMap::new(),
        };
        Ok(Job {
            lease: lease(&row)?,
            workflow: WorkflowId(row.try_get("workflow")?),
            name: row.try_get("name")?,
            attempt: row.try_get("attempt")?,
            action,
            images,
            branch: row.try_get("branch")?,
            event: row.try_get("event")?,
            rollback: row.try_get::<Option<i64>, _>("rollback_of")?.is_some(),
            rules: json(&row, "rules")?,
            place: self.place(step).await?,
            outputs: self.outputs(RunId(row.try_get("run")?), WorkflowId(row.try_get("workflow")?)).await?,
            facts: serde_json::from_str(&row.try_get::<String, _>("facts")?).ok(),
            fork: row.try_get("fork")?,
            run_started: row.try_get::<Option<i64>, _>("run_started")?.map(Timestamp),
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

    async fn place(&mut self, step: StepId) -> Result<Place, StoreError> {
        let row = sqlx::query(
            "SELECT w.name, (SELECT count(*) FROM workflows v WHERE v.run = w.run AND v.id <= w.id) AS workflow_number, \
             (SELECT count(*) FROM steps o WHERE o.run = s.run AND o.workflow = w.id AND o.id <= s.id) AS number, \
             EXISTS (SELECT 1 FROM steps o WHERE o.run = s.run AND o.workflow = w.id AND o.state IN ('failure', 'error') \
             AND coalesce(o.rules ->> '$.failure', 'fail') <> 'ignore') AS failed \
             FROM steps s JOIN workflows w ON w.id = s.workflow WHERE s.id = ?",
        )
        .bind(step.0)
        .fetch_one(&mut *self.inner)
        .await?;
        let number =
            |column| Ok::<_, StoreError>(usize::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default());
        Ok(Place {
            workflow: row.try_get("name")?,
            workflow_number: number("workflow_number")?,
            number: number("number")?,
            failed: row.try_get("failed")?,
        })
    }

    async fn outputs(
        &mut self,
        run: RunId,
        workflow: WorkflowId,
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, StoreError> {
        sqlx::query("SELECT name, outputs FROM steps WHERE run = ? AND workflow = ? AND outputs <> '{}'")
            .bind(run.0)
            .bind(workflow.0)
            .fetch_all(&mut *self.inner)
            .await?
            .iter()
            .map(|row| Ok((row.try_get("name")?, json(row, "outputs")?)))
            .collect()
    }

    /// What a run published, or the runs that it repeats; the nearest of one name counts.
    pub(super) async fn images_of_run(
        &mut self,
        run: RunId,
    ) -> Result<BTreeMap<ImageName, Digest>, StoreError> {
        sqlx::query(
            "WITH RECURSIVE repeated(id, depth) AS (SELECT ?, 0 UNION ALL SELECT r.rerun_of, depth + 1 FROM runs r \
             JOIN repeated p ON r.id = p.id WHERE r.rerun_of IS NOT NULL) \
             SELECT i.name, i.digest FROM repeated p JOIN steps s ON s.run = p.id JOIN images i ON i.step = s.id \
             ORDER BY p.depth DESC, i.id",
        )
        .bind(run.0)
        .fetch_all(&mut *self.inner)
        .await?
        .iter()
        .map(|row| Ok((word(row, "name")?, word(row, "digest")?)))
        .collect()
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
