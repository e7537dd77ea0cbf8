//! Runs: created from a plan, changed by what their steps report.

use mergeyard_plan::{
    decide::{PlannedRun, PlannedWorkflow, Verdict as PlanVerdict},
    event::{Forge, Repository},
    run::{Report, Run, Step, Workflow},
};
use mergeyard_types::{DeliveryId, RunId, State, Timestamp, WorkflowId};
use sqlx::{Row, sqlite::SqliteRow};

use super::{
    DeliveryState, Store, StoreError, Tx,
    pages::{StepRow, WorkflowRow, step_row, workflow_row},
    to_json, word,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    Run(RunId),
    /// The same commit and event started that run before.
    Already(RunId),
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
}

impl Tx {
    /// Loads a run, lets it take in a report, and writes what changed and what it causes.
    pub(super) async fn apply(
        &mut self,
        id: RunId,
        report: Report,
        now: Timestamp,
    ) -> Result<Run, StoreError> {
        let stored = self.existing(id).await?;
        let mut run = stored.clone();
        let effects = run.apply(report, now);
        self.save(&stored, &run, now).await?;
        self.add_effects(&effects, now).await?;
        Ok(run)
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
            let WorkflowRow { id, name, axis, state, why, steps: _, rules: _ } = workflow_row(&row)?;
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

fn step(row: &SqliteRow) -> Result<Step, StoreError> {
    let StepRow {
        id,
        name,
        state,
        why,
        attempt,
        not_before,
        started,
        finished,
        outputs,
        run: _,
        action: _,
        rules: _,
        up: _,
    } = step_row(row)?;
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
