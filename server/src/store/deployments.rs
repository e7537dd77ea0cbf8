//! Deployments: what went live where, begun and ended by the step that does it.
//!
//! A deployment's state and what GitHub is told about it are one transaction, and only the holder
//! of the step's lease writes: what another worker took over is that worker's to judge.

use std::{collections::HashSet, fmt, str::FromStr};

use mergeyard_plan::{
    effect::{self, Effect},
    event::Forge,
    run::Step,
};
use mergeyard_run::ledger::{Intent, Verdict};
use mergeyard_types::{
    CommitSha, DeploymentId, Digest, ImageName, RepoName, RunId, StepId, TargetName, Timestamp,
};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Lease, ReportError, Store, StoreError, Tx, runs, word, word_or_none};

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeploymentState {
    InProgress,
    /// Live and proven.
    Success,
    /// It was not proven, and what is live now is not known.
    Failure,
    /// It was not proven, and what was live before it is live again.
    RolledBack,
    /// Its step ended without a word about it, so what is live is not known.
    Error,
}

/// One deployment, as pages and lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRow {
    pub id: DeploymentId,
    pub step: StepId,
    pub run: RunId,
    pub repo: RepoName,
    pub target: TargetName,
    /// What of the target: a rollout's service, the image that a playbook was given, a mirror's list.
    pub service: String,
    /// `None`: a mirror's snapshot.
    pub image: Option<ImageName>,
    pub digest: Digest,
    /// What was live when it was begun.
    pub before: Option<Digest>,
    pub commit: CommitSha,
    /// Of the pull request.
    pub number: Option<u64>,
    pub who: String,
    /// The deployment that it takes back.
    pub rollback_of: Option<DeploymentId>,
    pub state: DeploymentState,
    /// What its proof said, or why there is none.
    pub health: Option<String>,
    /// What is live since its end. `None`: nothing, or it is not known.
    pub live: Option<Digest>,
    pub started: Timestamp,
    pub finished: Option<Timestamp>,
    /// GitHub's id of it, once it has one.
    pub github: Option<u64>,
}

impl Store {
    pub async fn deployment(&self, id: DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM deployments WHERE id = ?")
            .bind(id.0)
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(deployment_row).transpose()
    }

    /// What the last proven deployment of a service put live.
    pub async fn live_digest(
        &self,
        target: &TargetName,
        service: &str,
    ) -> Result<Option<Digest>, StoreError> {
        let row = sqlx::query(
            "SELECT digest FROM deployments WHERE target = ? AND service = ? AND state = 'success' \
             ORDER BY id DESC LIMIT 1",
        )
        .bind(target.as_str())
        .bind(service)
        .fetch_optional(&self.reader)
        .await?;
        row.as_ref().map(|row| word(row, "digest")).transpose()
    }

    /// Images that no registry may lose: what is live, what was before it, and what is being deployed.
    pub async fn deployed_digests(&self) -> Result<HashSet<Digest>, StoreError> {
        let rows = sqlx::query(
            "SELECT l.digest, l.before, (SELECT p.digest FROM deployments p WHERE p.target = l.target \
             AND p.service = l.service AND p.state = 'success' AND p.digest <> l.digest ORDER BY p.id DESC LIMIT 1) AS other \
             FROM deployments l WHERE l.image IS NOT NULL AND (l.state = 'in_progress' OR (l.state = 'success' AND NOT EXISTS \
             (SELECT 1 FROM deployments n WHERE n.target = l.target AND n.service = l.service AND n.state = 'success' \
             AND n.id > l.id)))",
        )
        .fetch_all(&self.reader)
        .await?;
        let mut digests = HashSet::new();
        for row in &rows {
            digests.insert(word(row, "digest")?);
            digests.extend(word_or_none::<Digest>(row, "before")?);
            digests.extend(word_or_none::<Digest>(row, "other")?);
        }
        Ok(digests)
    }

    /// A step is about to change its target, if its lease still holds. The same step and service is
    /// the same deployment; what was live before it stays what it was the first time.
    pub async fn begin_deployment(
        &self,
        lease: &Lease,
        intent: &Intent,
        now: Timestamp,
    ) -> Result<DeploymentId, ReportError> {
        let mut tx = self.begin().await?;
        if !tx.holds(lease).await? {
            return Err(ReportError::Fenced(lease.step));
        }
        let id = tx.write_intent(lease, intent, now).await?;
        Ok(tx.commit().await.map(|()| id)?)
    }

    /// What became of a deployment, if the lease of its step still holds.
    pub async fn end_deployment(
        &self,
        lease: &Lease,
        id: DeploymentId,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<(), ReportError> {
        let mut tx = self.begin().await?;
        if !tx.holds(lease).await? {
            return Err(ReportError::Fenced(lease.step));
        }
        let row = tx.deployment(id).await?;
        let (state, health, live) = match verdict {
            Verdict::Healthy { said } => (DeploymentState::Success, said, Some(row.digest)),
            Verdict::RolledBack { why, to } => (DeploymentState::RolledBack, why, *to),
            Verdict::Failed { why } => (DeploymentState::Failure, why, None),
        };
        tx.end_deployment(&row, state, health, live, now).await?;
        Ok(tx.commit().await?)
    }

    /// GitHub's id of a deployment.
    pub async fn set_github_deployment(&self, id: DeploymentId, github: u64) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE deployments SET github = ? WHERE id = ?")
            .bind(i64::try_from(github).unwrap_or(i64::MAX))
            .bind(id.0)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await
    }
}

impl Tx {
    async fn write_intent(
        &mut self,
        lease: &Lease,
        intent: &Intent,
        now: Timestamp,
    ) -> Result<DeploymentId, StoreError> {
        let Intent { step: _, target, service, image, digest, before } = intent;
        let before = before.map(|digest| digest.to_string());
        // What was proven stays proven while the same is confirmed once more.
        let row = sqlx::query(
            "INSERT INTO deployments (step, run, repo, target, service, image, digest, before, commit_sha, number, who, \
             rollback_of, state, started) \
             SELECT ?1, r.id, r.repo, ?3, ?4, ?5, ?6, ?7, r.commit_sha, r.number, r.author, r.rollback_of, 'in_progress', ?8 \
             FROM runs r WHERE r.id = ?2 \
             ON CONFLICT (step, service) DO UPDATE SET digest = excluded.digest, \
             turn = turn + (state <> 'in_progress' AND (state <> 'success' OR digest <> excluded.digest)), \
             finished = CASE WHEN state = 'success' AND digest = excluded.digest THEN finished END, \
             state = CASE WHEN state = 'success' AND digest = excluded.digest THEN state ELSE 'in_progress' END \
             RETURNING id",
        )
        .bind(lease.step.0)
        .bind(lease.run.0)
        .bind(target.as_str())
        .bind(service)
        .bind(image.as_ref().map(ImageName::as_str))
        .bind(digest.to_string())
        .bind(before)
        .bind(now.0)
        .fetch_one(&mut *self.inner)
        .await?;
        let id = DeploymentId(row.try_get(0)?);
        let row = self.deployment(id).await?;
        if row.state == DeploymentState::InProgress {
            self.tell_deployment(&row, effect::DeploymentState::InProgress, &row.about(), now).await?;
        }
        Ok(id)
    }

    async fn deployment(&mut self, id: DeploymentId) -> Result<DeploymentRow, StoreError> {
        let row = sqlx::query("SELECT * FROM deployments WHERE id = ?")
            .bind(id.0)
            .fetch_one(&mut *self.inner)
            .await?;
        deployment_row(&row)
    }

    async fn end_deployment(
        &mut self,
        row: &DeploymentRow,
        state: DeploymentState,
        health: &str,
        live: Option<Digest>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE deployments SET state = ?, health = ?, live = ?, finished = ? WHERE id = ?")
            .bind(state.as_str())
            .bind(health)
            .bind(live.map(|live| live.to_string()))
            .bind(now.0)
            .bind(row.id.0)
            .execute(&mut *self.inner)
            .await?;
        let (told, description) = match (state, live) {
            (DeploymentState::InProgress, _) => (effect::DeploymentState::InProgress, row.about()),
            (DeploymentState::Success, _) => (effect::DeploymentState::Success, health.to_owned()),
            (DeploymentState::Failure, _) => (effect::DeploymentState::Failure, health.to_owned()),
            (DeploymentState::Error, _) => (effect::DeploymentState::Error, health.to_owned()),
            (DeploymentState::RolledBack, Some(live)) => {
                (effect::DeploymentState::Failure, format!("{} is live again: {health}", live.short()))
            }
            (DeploymentState::RolledBack, None) => {
                (effect::DeploymentState::Failure, format!("nothing is live, as before: {health}"))
            }
        };
        self.tell_deployment(row, told, &description, now).await?;
        if state == DeploymentState::Success {
            self.retire_before(row, now).await?;
        }
        Ok(())
    }

    /// GitHub shows as active what nobody took the place of.
    async fn retire_before(&mut self, row: &DeploymentRow, now: Timestamp) -> Result<(), StoreError> {
        let before = sqlx::query(
            "SELECT * FROM deployments WHERE target = ? AND service = ? AND repo = ? AND state = 'success' AND id < ? \
             ORDER BY id DESC LIMIT 1",
        )
        .bind(row.target.as_str())
        .bind(&row.service)
        .bind(row.repo.as_str())
        .bind(row.id.0)
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(before) = before.as_ref().map(deployment_row).transpose()? else { return Ok(()) };
        let description = match row.rollback_of == Some(before.id) {
            true => format!("rolled back to {} by {}", row.digest.short(), row.who),
            false => format!("{} took its place", row.digest.short()),
        };
        self.tell_deployment(&before, effect::DeploymentState::Inactive, &description, now).await
    }

    /// Nobody can be told of runs of a forge that knows no deployments.
    async fn tell_deployment(
        &mut self,
        row: &DeploymentRow,
        state: effect::DeploymentState,
        description: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let more = sqlx::query(
            "SELECT r.forge, d.turn FROM deployments d JOIN runs r ON r.id = d.run WHERE d.id = ?",
        )
        .bind(row.id.0)
        .fetch_one(&mut *self.inner)
        .await?;
        if runs::forge(&more)? != Forge::Github {
            return Ok(());
        }
        let effect = Effect::Deployment(effect::Deployment {
            id: row.id,
            mark: format!("mergeyard-{}-{}", row.id, row.started.0),
            turn: more.try_get("turn")?,
            repo: row.repo.clone(),
            commit: row.commit,
            target: row.target.clone(),
            service: row.service.clone(),
            state,
            description: description.to_owned(),
            run: row.run,
        });
        self.add_effects(&[effect], now).await
    }

    /// A step that has ended says nothing more about what it began.
    pub(super) async fn abandon_deployments(
        &mut self,
        step: &Step,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let open =
            sqlx::query("SELECT * FROM deployments WHERE step = ? AND state = 'in_progress' ORDER BY id")
                .bind(step.id.0)
                .fetch_all(&mut *self.inner)
                .await?;
        for row in &open {
            let why = step.why.as_deref().unwrap_or("its step ended without proving it");
            let health = format!("not proven, and what is live is not known: {why}");
            self.end_deployment(&deployment_row(row)?, DeploymentState::Error, &health, None, now).await?;
        }
        Ok(())
    }
}

impl DeploymentRow {
    /// `clock 1f2e3d4c5b6a to clock-vm`.
    pub fn about(&self) -> String {
        format!("{} {} to {}", self.service, self.digest.short(), self.target)
    }
}

impl DeploymentState {
    pub const ALL: [DeploymentState; 5] = [
        DeploymentState::InProgress,
        DeploymentState::Success,
        DeploymentState::Failure,
        DeploymentState::RolledBack,
        DeploymentState::Error,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            DeploymentState::InProgress => "in_progress",
            DeploymentState::Success => "success",
            DeploymentState::Failure => "failure",
            DeploymentState::RolledBack => "rolled_back",
            DeploymentState::Error => "error",
        }
    }

    /// Nothing will change any more, unless its step is started again.
    pub fn is_final(self) -> bool {
        self != DeploymentState::InProgress
    }
}

impl fmt::Display for DeploymentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DeploymentState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        DeploymentState::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

pub(super) fn deployment_row(row: &SqliteRow) -> Result<DeploymentRow, StoreError> {
    let positive =
        |column| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(column)?.map(i64::unsigned_abs));
    Ok(DeploymentRow {
        id: DeploymentId(row.try_get("id")?),
        step: StepId(row.try_get("step")?),
        run: RunId(row.try_get("run")?),
        repo: word(row, "repo")?,
        target: word(row, "target")?,
        service: row.try_get("service")?,
        image: word_or_none(row, "image")?,
        digest: word(row, "digest")?,
        before: word_or_none(row, "before")?,
        commit: word(row, "commit_sha")?,
        number: positive("number")?,
        who: row.try_get("who")?,
        rollback_of: row.try_get::<Option<i64>, _>("rollback_of")?.map(DeploymentId),
        state: word(row, "state")?,
        health: row.try_get("health")?,
        live: word_or_none(row, "live")?,
        started: Timestamp(row.try_get("started")?),
        finished: row.try_get::<Option<i64>, _>("finished")?.map(Timestamp),
        github: positive("github")?,
    })
}
