//! Runs, their workflows and steps, and the leases under which steps are worked on.

use std::{collections::BTreeMap, time::Duration};

use mergeyard_plan::{
    action::Action,
    decide::{PlannedRun, PlannedWorkflow, Verdict as PlanVerdict},
    event::{Forge, Repository},
    run::{Outcome, Report, Run, Step, Workflow},
};
use mergeyard_types::{
    CommitSha, DeliveryId, Digest, GitRef, ImageName, ImageRef, RepoName, RunId, State, StepId, Timestamp,
    TreeId, WorkflowId,
};
use sqlx::{Row, sqlite::SqliteRow};

use super::{DeliveryState, Store, StoreError, Tx, json, to_json, word};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    Run(RunId),
    /// The same commit and event started that run before.
    Already(RunId),
}

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

/// A run as a list shows it.
#[derive(Debug, Clone)]
pub struct RunRow {
    pub id: RunId,
    pub delivery: DeliveryId,
    pub repo: RepoName,
    pub source_url: Option<String>,
    pub event: String,
    pub branch: String,
    pub commit: CommitSha,
    pub title: String,
    pub author: String,
    pub number: Option<u64>,
    pub state: State,
    pub cancel: Option<String>,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct WorkflowRow {
    pub id: WorkflowId,
    pub name: String,
    pub axis: Option<String>,
    pub state: State,
    pub why: Option<String>,
    pub steps: Vec<StepRow>,
}

#[derive(Debug, Clone)]
pub struct StepRow {
    pub id: StepId,
    pub run: RunId,
    pub name: String,
    pub action: Action,
    pub state: State,
    pub why: Option<String>,
    pub attempt: u32,
    pub not_before: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub outputs: BTreeMap<String, String>,
}

/// A run with everything on its page.
#[derive(Debug, Clone)]
pub struct RunPage {
    pub run: RunRow,
    pub workflows: Vec<WorkflowRow>,
    pub images: Vec<ImageRow>,
}

#[derive(Debug, Clone)]
pub struct ImageRow {
    pub row: i64,
    pub run: RunId,
    pub repo: RepoName,
    pub image: ImageRef,
    pub digest: Digest,
    pub tree: TreeId,
    pub commit: CommitSha,
    pub published: Timestamp,
}

impl Store {
    /// Writes a planned run, what it announces and its delivery's verdict, in one
    /// transaction. A replay is a new run; otherwise one commit and event start one.
    pub async fn create_run(
        &self,
        delivery: &DeliveryId,
        replays: u32,
        repository: &Repository,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        let mut tx = self.begin().await?;
        let created = match tx.insert_run(delivery, replays, plan, now).await? {
            Some(run) => {
                tx.remember(repository).await?;
                tx.supersede(run, replays, plan, now).await?;
                Created::Run(run)
            }
            None => Created::Already(tx.run_with_key(&key(plan, replays)).await?),
        };
        let (run, verdict) = match created {
            Created::Run(run) => (run, format!("started run {run}")),
            Created::Already(run) => (run, format!("run {run} was already started for this commit")),
        };
        sqlx::query("UPDATE deliveries SET state = ?, verdict = ?, run = ? WHERE guid = ?")
            .bind(DeliveryState::Done.as_str())
            .bind(verdict)
            .bind(run.0)
            .bind(delivery.as_str())
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await?;
        Ok(created)
    }

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

    /// Asks a run to stop. `None` when there is no such run, `false` when it is over.
    pub async fn cancel_run(
        &self,
        run: RunId,
        why: &str,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError> {
        let mut tx = self.begin().await?;
        let Some(found) = tx.load(run).await? else { return Ok(None) };
        if found.state.is_final() {
            return Ok(Some(false));
        }
        tx.apply(run, Report::Cancel { why: why.to_owned() }, now).await?;
        tx.commit().await?;
        Ok(Some(true))
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

    /// When the next step that waits out a backoff is due.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let row = sqlx::query(
            "SELECT min(at) FROM (SELECT min(not_before) AS at FROM steps WHERE ready = 1 \
             UNION ALL SELECT min(not_before) FROM deliveries WHERE state = 'queued' \
             UNION ALL SELECT min(not_before) FROM effects WHERE state = 'pending')",
        )
        .fetch_one(&self.reader)
        .await?;
        Ok(row.try_get::<Option<i64>, _>(0)?.map(Timestamp))
    }

    /// Newest first, from before `before`, of one repository or of all.
    pub async fn runs(
        &self,
        repo: Option<&RepoName>,
        before: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreError> {
        let before = before.map_or(i64::MAX, |run| run.0);
        let rows = match repo {
            Some(repo) => {
                sqlx::query("SELECT * FROM runs WHERE repo = ? AND id < ? ORDER BY id DESC LIMIT ?")
                    .bind(repo.as_str())
                    .bind(before)
                    .bind(limit)
                    .fetch_all(&self.reader)
                    .await?
            }
            None => {
                sqlx::query("SELECT * FROM runs WHERE id < ? ORDER BY id DESC LIMIT ?")
                    .bind(before)
                    .bind(limit)
                    .fetch_all(&self.reader)
                    .await?
            }
        };
        rows.iter().map(run_row).collect()
    }

    /// The repositories of the newest runs.
    pub async fn active_repositories(&self) -> Result<Vec<RepoName>, StoreError> {
        let rows =
            sqlx::query("SELECT DISTINCT repo FROM (SELECT repo FROM runs ORDER BY id DESC LIMIT 1000)")
                .fetch_all(&self.reader)
                .await?;
        rows.iter().map(|row| word(row, "repo")).collect()
    }

    pub async fn run_page(&self, id: RunId) -> Result<Option<RunPage>, StoreError> {
        let mut reader = self.reader.begin().await?;
        let row =
            sqlx::query("SELECT * FROM runs WHERE id = ?").bind(id.0).fetch_optional(&mut *reader).await?;
        let Some(run) = row.as_ref().map(run_row).transpose()? else { return Ok(None) };
        let mut workflows = sqlx::query("SELECT * FROM workflows WHERE run = ? ORDER BY id")
            .bind(id.0)
            .fetch_all(&mut *reader)
            .await?
            .iter()
            .map(workflow_row)
            .collect::<Result<Vec<_>, _>>()?;
        for row in sqlx::query("SELECT * FROM steps WHERE run = ? ORDER BY id")
            .bind(id.0)
            .fetch_all(&mut *reader)
            .await?
        {
            let owner = WorkflowId(row.try_get("workflow")?);
            let step = step_row(&row)?;
            workflows
                .iter_mut()
                .filter(|workflow| workflow.id == owner)
                .for_each(|w| w.steps.push(step.clone()));
        }
        let images = sqlx::query(
            "SELECT i.* FROM steps s JOIN images i ON i.step = s.id WHERE s.run = ? ORDER BY i.id",
        )
        .bind(id.0)
        .fetch_all(&mut *reader)
        .await?;
        let images = images.iter().map(image_row).collect::<Result<_, _>>()?;
        Ok(Some(RunPage { run, workflows, images }))
    }

    pub async fn step(&self, id: StepId) -> Result<Option<StepRow>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM steps WHERE id = ?").bind(id.0).fetch_optional(&self.reader).await?;
        row.as_ref().map(step_row).transpose()
    }

    /// Published images, newest first, from before row `before`.
    pub async fn images(&self, before: Option<i64>, limit: u32) -> Result<Vec<ImageRow>, StoreError> {
        sqlx::query("SELECT * FROM images WHERE id < ? ORDER BY id DESC LIMIT ?")
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(image_row)
            .collect()
    }

    /// The published versions of one image, newest first, from before row `before`.
    pub async fn images_of(
        &self,
        name: &ImageName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<ImageRow>, StoreError> {
        sqlx::query("SELECT * FROM images WHERE name = ? AND id < ? ORDER BY id DESC LIMIT ?")
            .bind(name.as_str())
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(image_row)
            .collect()
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

    async fn insert_run(
        &mut self,
        delivery: &DeliveryId,
        replays: u32,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<Option<RunId>, StoreError> {
        let PlannedRun {
            forge,
            repo,
            known_as,
            clone_url,
            source_url,
            event,
            branch,
            commit,
            hints,
            merged_at,
            title,
            author,
            number,
            supersede: _,
            workflows,
        } = plan;
        let merged = merged_at.unwrap_or(now);
        let row = sqlx::query(
            "INSERT INTO runs (key, delivery, forge, repo, known_as, clone_url, source_url, event, branch, commit_sha, hints, merged, title, \
             author, number, state, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (key) DO NOTHING RETURNING id",
        )
        .bind(key(plan, replays))
        .bind(delivery.as_str())
        .bind(forge_word(*forge))
        .bind(repo.as_str())
        .bind(known_as.as_str())
        .bind(clone_url)
        .bind(source_url)
        .bind(event)
        .bind(branch)
        .bind(commit.to_string())
        .bind(to_json(hints))
        .bind(merged.0)
        .bind(title)
        .bind(author)
        .bind(number.map(|number| number as i64))
        .bind(State::Queued.as_str())
        .bind(now.0)
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id = RunId(row.try_get(0)?);
        for workflow in workflows {
            self.insert_workflow(id, workflow, merged, now).await?;
        }
        let stored = self.existing(id).await?;
        let mut run = stored.clone();
        let effects = run.announce();
        self.save(&stored, &run, now).await?;
        self.add_effects(&effects, now).await?;
        Ok(Some(id))
    }

    async fn insert_workflow(
        &mut self,
        run: RunId,
        workflow: &PlannedWorkflow,
        merged: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (state, why) = match &workflow.verdict {
            PlanVerdict::Run => (State::Queued, None),
            PlanVerdict::Skip(why) => (State::Skipped, Some(why)),
            PlanVerdict::Refuse(why) => (State::Failure, Some(why)),
        };
        let row = sqlx::query(
            "INSERT INTO workflows (run, name, axis, state, why) VALUES (?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(run.0)
        .bind(&workflow.name)
        .bind(&workflow.axis)
        .bind(state.as_str())
        .bind(why)
        .fetch_one(&mut *self.inner)
        .await?;
        let id: i64 = row.try_get(0)?;
        for (position, step) in workflow.steps.iter().enumerate() {
            sqlx::query(
                "INSERT INTO steps (run, workflow, name, action, timeout, retry, serial, merged, state, ready, not_before) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(run.0)
            .bind(id)
            .bind(&step.name)
            .bind(to_json(&step.action))
            .bind(i64::try_from(step.timeout.as_millis()).unwrap_or(i64::MAX))
            .bind(step.retry)
            .bind(&step.serial)
            .bind(merged.0)
            .bind(State::Queued.as_str())
            .bind(position == 0)
            .bind(now.0)
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(())
    }

    /// A newer merge of a branch contains the older one, so an older run that still waits
    /// is not worth starting, whichever of the two was heard of first.
    async fn supersede(
        &mut self,
        run: RunId,
        replays: u32,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(merged) = plan.merged_at.filter(|_| plan.supersede && replays == 0) else { return Ok(()) };
        let newer = sqlx::query(
            "SELECT id FROM runs WHERE known_as = ? AND branch = ? AND event = ? AND merged > ? ORDER BY merged DESC LIMIT 1",
        )
        .bind(plan.known_as.as_str())
        .bind(&plan.branch)
        .bind(&plan.event)
        .bind(merged.0)
        .fetch_optional(&mut *self.inner)
        .await?;
        if let Some(newer) = newer {
            let why = format!("superseded by run {}, which was merged later", newer.try_get::<i64, _>(0)?);
            self.apply(run, Report::Cancel { why }, now).await?;
            return Ok(());
        }
        let older = sqlx::query(
            "SELECT id FROM runs WHERE known_as = ? AND branch = ? AND event = ? AND state = 'queued' AND merged < ? AND id <> ?",
        )
        .bind(plan.known_as.as_str())
        .bind(&plan.branch)
        .bind(&plan.event)
        .bind(merged.0)
        .bind(run.0)
        .fetch_all(&mut *self.inner)
        .await?;
        for older in older {
            let why = format!("superseded by run {run}, which was merged later");
            self.apply(RunId(older.try_get(0)?), Report::Cancel { why }, now).await?;
        }
        Ok(())
    }

    async fn run_with_key(&mut self, key: &str) -> Result<RunId, StoreError> {
        let row =
            sqlx::query("SELECT id FROM runs WHERE key = ?").bind(key).fetch_one(&mut *self.inner).await?;
        Ok(RunId(row.try_get(0)?))
    }

    /// Loads a run, lets it take in a report, and writes what changed and what it causes.
    async fn apply(&mut self, id: RunId, report: Report, now: Timestamp) -> Result<Run, StoreError> {
        let stored = self.existing(id).await?;
        let mut run = stored.clone();
        let effects = run.apply(report, now);
        self.save(&stored, &run, now).await?;
        self.add_effects(&effects, now).await?;
        Ok(run)
    }

    async fn existing(&mut self, id: RunId) -> Result<Run, StoreError> {
        self.load(id).await?.ok_or(StoreError::Unavailable(sqlx::Error::RowNotFound))
    }

    async fn load(&mut self, id: RunId) -> Result<Option<Run>, StoreError> {
        let row = sqlx::query("SELECT * FROM runs WHERE id = ?")
            .bind(id.0)
            .fetch_optional(&mut *self.inner)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut run = Run {
            id,
            forge: forge(&row)?,
            repo: word(&row, "repo")?,
            commit: word(&row, "commit_sha")?,
            event: row.try_get("event")?,
            state: word(&row, "state")?,
            cancel: row.try_get("cancel")?,
            workflows: Vec::new(),
        };
        let workflows = sqlx::query("SELECT * FROM workflows WHERE run = ? ORDER BY id")
            .bind(id.0)
            .fetch_all(&mut *self.inner)
            .await?;
        for row in workflows {
            let WorkflowRow { id, name, axis, state, why, steps: _ } = workflow_row(&row)?;
            run.workflows.push(Workflow { id, name, axis, state, why, steps: Vec::new() });
        }
        let steps = sqlx::query("SELECT * FROM steps WHERE run = ? ORDER BY id")
            .bind(id.0)
            .fetch_all(&mut *self.inner)
            .await?;
        for row in steps {
            let owner = WorkflowId(row.try_get("workflow")?);
            let step = step(&row)?;
            if let Some(workflow) = run.workflows.iter_mut().find(|workflow| workflow.id == owner) {
                workflow.steps.push(step);
            }
        }
        Ok(Some(run))
    }

    /// Writes the rows in which `after` differs from `before`.
    async fn save(&mut self, before: &Run, after: &Run, now: Timestamp) -> Result<(), StoreError> {
        if (before.state, &before.cancel) != (after.state, &after.cancel) {
            let started = (after.state != State::Queued).then_some(now.0);
            let finished = after.state.is_final().then_some(now.0);
            sqlx::query("UPDATE runs SET state = ?, cancel = ?, started = coalesce(started, ?), finished = ? WHERE id = ?")
                .bind(after.state.as_str())
                .bind(&after.cancel)
                .bind(started)
                .bind(finished)
                .bind(after.id.0)
                .execute(&mut *self.inner)
                .await?;
        }
        for (before, after) in before.workflows.iter().zip(&after.workflows) {
            if (before.state, &before.why) != (after.state, &after.why) {
                sqlx::query("UPDATE workflows SET state = ?, why = ? WHERE id = ?")
                    .bind(after.state.as_str())
                    .bind(&after.why)
                    .bind(after.id.0)
                    .execute(&mut *self.inner)
                    .await?;
            }
            for (before, after) in before.steps.iter().zip(&after.steps) {
                if before != after {
                    self.save_step(after).await?;
                }
            }
        }
        Ok(())
    }

    async fn save_step(&mut self, step: &Step) -> Result<(), StoreError> {
        let Step {
            id,
            name: _,
            state,
            why,
            ready,
            not_before,
            attempt,
            retry: _,
            crashes,
            started,
            finished,
            outputs,
        } = step;
        sqlx::query(
            "UPDATE steps SET state = ?, why = ?, ready = ?, not_before = ?, attempt = ?, crashes = ?, started = ?, \
             finished = ?, outputs = ? WHERE id = ?",
        )
        .bind(state.as_str())
        .bind(why)
        .bind(ready)
        .bind(not_before.0)
        .bind(attempt)
        .bind(crashes)
        .bind(started.map(|at| at.0))
        .bind(finished.map(|at| at.0))
        .bind(to_json(outputs))
        .bind(id.0)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    async fn job(&mut self, step: StepId) -> Result<Job, StoreError> {
        let row = sqlx::query(
            "SELECT s.id, s.run, s.fence, s.name, s.attempt, s.action, s.timeout, r.repo, r.commit_sha, r.hints, \
             r.known_as, r.clone_url, r.source_url, r.delivery FROM steps s JOIN runs r ON r.id = s.run WHERE s.id = ?",
        )
        .bind(step.0)
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(Job {
            lease: lease(&row)?,
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
        let Action::Image(action) = &job.action;
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

fn key(plan: &PlannedRun, replays: u32) -> String {
    let key = format!("{}/{}/{}", plan.repo.as_str().to_ascii_lowercase(), plan.commit, plan.event);
    if replays == 0 { key } else { format!("{key}/replay-{replays}") }
}

fn forge_word(forge: Forge) -> &'static str {
    match forge {
        Forge::Github => "github",
        Forge::Git => "git",
    }
}

fn forge(row: &SqliteRow) -> Result<Forge, StoreError> {
    let text: String = row.try_get("forge")?;
    [Forge::Github, Forge::Git]
        .into_iter()
        .find(|forge| forge_word(*forge) == text)
        .ok_or(StoreError::Unreadable { what: "forge", value: text })
}

fn lease(row: &SqliteRow) -> Result<Lease, StoreError> {
    Ok(Lease {
        step: StepId(row.try_get("id")?),
        run: RunId(row.try_get("run")?),
        fence: row.try_get("fence")?,
    })
}

fn time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp))
}

fn run_row(row: &SqliteRow) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        id: RunId(row.try_get("id")?),
        delivery: word(row, "delivery")?,
        repo: word(row, "repo")?,
        source_url: row.try_get("source_url")?,
        event: row.try_get("event")?,
        branch: row.try_get("branch")?,
        commit: word(row, "commit_sha")?,
        title: row.try_get("title")?,
        author: row.try_get("author")?,
        number: row.try_get::<Option<i64>, _>("number")?.map(i64::unsigned_abs),
        state: word(row, "state")?,
        cancel: row.try_get("cancel")?,
        created: Timestamp(row.try_get("created")?),
        started: time(row, "started")?,
        finished: time(row, "finished")?,
    })
}

fn workflow_row(row: &SqliteRow) -> Result<WorkflowRow, StoreError> {
    Ok(WorkflowRow {
        id: WorkflowId(row.try_get("id")?),
        name: row.try_get("name")?,
        axis: row.try_get("axis")?,
        state: word(row, "state")?,
        why: row.try_get("why")?,
        steps: Vec::new(),
    })
}

fn step_row(row: &SqliteRow) -> Result<StepRow, StoreError> {
    Ok(StepRow {
        id: StepId(row.try_get("id")?),
        run: RunId(row.try_get("run")?),
        name: row.try_get("name")?,
        action: json(row, "action")?,
        state: word(row, "state")?,
        why: row.try_get("why")?,
        attempt: row.try_get("attempt")?,
        not_before: Timestamp(row.try_get("not_before")?),
        started: time(row, "started")?,
        finished: time(row, "finished")?,
        outputs: json(row, "outputs")?,
    })
}

fn step(row: &SqliteRow) -> Result<Step, StoreError> {
    let StepRow { id, name, state, why, attempt, not_before, started, finished, outputs, run: _, action: _ } =
        step_row(row)?;
    Ok(Step {
        id,
        name,
        state,
        why,
        ready: row.try_get("ready")?,
        not_before,
        attempt,
        retry: row.try_get("retry")?,
        crashes: row.try_get("crashes")?,
        started,
        finished,
        outputs,
    })
}

fn image_row(row: &SqliteRow) -> Result<ImageRow, StoreError> {
    let image = ImageRef::tagged(word(row, "registry")?, word(row, "name")?, word(row, "version")?);
    Ok(ImageRow {
        row: row.try_get("id")?,
        run: RunId(row.try_get("run")?),
        repo: word(row, "repo")?,
        image,
        digest: word(row, "digest")?,
        tree: word(row, "tree")?,
        commit: word(row, "commit_sha")?,
        published: Timestamp(row.try_get("published")?),
    })
}
