//! Runs: loaded, changed by what is reported, and saved again.

use mergeyard_plan::{
    event::Forge,
    run::{Answer, Approval, Report, Run, Scope, Step, Workflow},
};
use mergeyard_types::{RunId, State, StepId, Timestamp, WorkflowId};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, Tx, json, to_json, word};

/// What became of an answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answered {
    Taken(Box<Run>),
    /// Nothing of that kind waits for an answer in that run.
    NothingAsked,
    NoSuchRun,
}

impl Store {
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

    /// Opens or refuses what waits for a person.
    pub async fn answer(
        &self,
        run: RunId,
        scope: Scope,
        answer: Answer,
        now: Timestamp,
    ) -> Result<Answered, StoreError> {
        let mut tx = self.begin().await?;
        let Some(found) = tx.load(run).await? else { return Ok(Answered::NoSuchRun) };
        let is_open = |approval: &Approval| approval.scope == scope && approval.answer.is_none();
        if !found.approvals.iter().any(is_open) {
            return Ok(Answered::NothingAsked);
        }
        let run = tx.apply(run, Report::Answer { scope, answer }, now).await?;
        tx.commit().await?;
        Ok(Answered::Taken(Box::new(run)))
    }

    /// The workflows that have not ended, and their steps that have not.
    pub async fn live(&self) -> Result<(Vec<WorkflowId>, Vec<StepId>), StoreError> {
        let rows = sqlx::query(
            "SELECT w.id AS workflow, s.id AS step FROM workflows w JOIN steps s ON s.run = w.run AND s.workflow = w.id \
             WHERE w.state IN ('queued', 'running', 'blocked') AND s.state IN ('queued', 'running', 'blocked')",
        )
        .fetch_all(&self.reader)
        .await?;
        let ids = |row: &SqliteRow| Ok((WorkflowId(row.try_get("workflow")?), StepId(row.try_get("step")?)));
        let ids = rows.iter().map(ids).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(ids.into_iter().unzip())
    }

    pub async fn workflow_state(&self, id: WorkflowId) -> Result<Option<State>, StoreError> {
        let row = sqlx::query("SELECT state FROM workflows WHERE id = ?")
            .bind(id.0)
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(|row| word(row, "state")).transpose()
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

    /// Lets a run that was just written begin, and writes what that causes.
    pub(super) async fn announce(&mut self, id: RunId, now: Timestamp) -> Result<Run, StoreError> {
        let stored = self.existing(id).await?;
        let mut run = stored.clone();
        let effects = run.announce(now);
        self.save(&stored, &run, now).await?;
        self.add_effects(&effects, now).await?;
        Ok(run)
    }

    async fn existing(&mut self, id: RunId) -> Result<Run, StoreError> {
        self.load(id).await?.ok_or(StoreError::Unavailable(sqlx::Error::RowNotFound))
    }

    pub(super) async fn load(&mut self, id: RunId) -> Result<Option<Run>, StoreError> {
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
            approvals: Vec::new(),
            workflows: Vec::new(),
        };
        for row in self.rows_of("SELECT * FROM approvals WHERE run = ? ORDER BY id", id).await? {
            run.approvals.push(approval(&row)?);
        }
        for row in self.rows_of("SELECT * FROM workflows WHERE run = ? ORDER BY id", id).await? {
            run.workflows.push(workflow(&row)?);
        }
        for row in self.rows_of("SELECT * FROM steps WHERE run = ? ORDER BY id", id).await? {
            let owner = WorkflowId(row.try_get("workflow")?);
            let step = step(&row)?;
            if let Some(workflow) = run.workflows.iter_mut().find(|workflow| workflow.id == owner) {
                workflow.steps.push(step);
            }
        }
        Ok(Some(run))
    }

    async fn rows_of(&mut self, query: &'static str, run: RunId) -> Result<Vec<SqliteRow>, StoreError> {
        Ok(sqlx::query(query).bind(run.0).fetch_all(&mut *self.inner).await?)
    }

    /// Writes the rows in which `after` differs from `before`.
    async fn save(&mut self, before: &Run, after: &Run, now: Timestamp) -> Result<(), StoreError> {
        if (before.state, &before.cancel) != (after.state, &after.cancel) {
            let begun = !matches!(after.state, State::Queued | State::Blocked);
            let started = begun.then_some(now.0);
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
        self.save_approvals(before, after, now).await?;
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
                if before.state == State::Running && after.state.is_final() {
                    self.abandon_deployments(after, now).await?;
                }
            }
        }
        Ok(())
    }

    async fn save_approvals(&mut self, before: &Run, after: &Run, now: Timestamp) -> Result<(), StoreError> {
        for withdrawn in before.approvals.iter().filter(|old| after.approval(old.scope).is_none()) {
            let (workflow, step) = columns(after, withdrawn.scope);
            sqlx::query("DELETE FROM approvals WHERE run = ? AND workflow IS ? AND step IS ?")
                .bind(after.id.0)
                .bind(workflow)
                .bind(step)
                .execute(&mut *self.inner)
                .await?;
        }
        for approval in after.approvals.iter().filter(|new| before.approval(new.scope) != Some(new)) {
            let (workflow, step) = columns(after, approval.scope);
            if before.approval(approval.scope).is_none() {
                self.insert_approval(after.id, (workflow, step), &approval.gate, now).await?;
            }
            let Some(Answer { approved, who }) = &approval.answer else { continue };
            sqlx::query(
                "UPDATE approvals SET answer = ?, answered = ?, who = ? \
                 WHERE run = ? AND workflow IS ? AND step IS ? AND answer IS NULL",
            )
            .bind(if *approved { APPROVED } else { REJECTED })
            .bind(now.0)
            .bind(who)
            .bind(after.id.0)
            .bind(workflow)
            .bind(step)
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(())
    }

    pub(super) async fn insert_approval(
        &mut self,
        run: RunId,
        (workflow, step): (Option<i64>, Option<i64>),
        gate: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO approvals (run, workflow, step, gate, asked) VALUES (?, ?, ?, ?, ?)")
            .bind(run.0)
            .bind(workflow)
            .bind(step)
            .bind(gate)
            .bind(now.0)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    async fn save_step(&mut self, step: &Step) -> Result<(), StoreError> {
        let Step {
            id,
            name: _,
            rules: _,
            decided: _,
            state,
            why,
            ready,
            up,
            not_before,
            attempt,
            retry: _,
            crashes,
            exit_code,
            started,
            finished,
            outputs,
        } = step;
        sqlx::query(
            "UPDATE steps SET state = ?, why = ?, ready = ?, up = ?, not_before = ?, attempt = ?, crashes = ?, exit_code = ?, \
             started = ?, finished = ?, outputs = ? WHERE id = ?",
        )
        .bind(state.as_str())
        .bind(why)
        .bind(ready)
        .bind(up)
        .bind(not_before.0)
        .bind(attempt)
        .bind(crashes)
        .bind(exit_code)
        .bind(started.map(|at| at.0))
        .bind(finished.map(|at| at.0))
        .bind(to_json(outputs))
        .bind(id.0)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

const APPROVED: &str = "approved";
const REJECTED: &str = "rejected";

/// How a scope stands in the columns `workflow` and `step`.
fn columns(run: &Run, scope: Scope) -> (Option<i64>, Option<i64>) {
    match scope {
        Scope::Run => (None, None),
        Scope::Workflow(workflow) => (Some(workflow.0), None),
        Scope::Step(step) => (run.workflow_of(step).map(|workflow| workflow.id.0), Some(step.0)),
    }
}

pub(super) fn forge_word(forge: Forge) -> &'static str {
    match forge {
        Forge::Github => "github",
        Forge::Git => "git",
    }
}

pub(super) fn forge(row: &SqliteRow) -> Result<Forge, StoreError> {
    let text: String = row.try_get("forge")?;
    [Forge::Github, Forge::Git]
        .into_iter()
        .find(|forge| forge_word(*forge) == text)
        .ok_or(StoreError::Unreadable { what: "forge", value: text })
}

fn approval(row: &SqliteRow) -> Result<Approval, StoreError> {
    let (workflow, step): (Option<i64>, Option<i64>) = (row.try_get("workflow")?, row.try_get("step")?);
    let answer: Option<String> = row.try_get("answer")?;
    let approved = match answer.as_deref() {
        None => None,
        Some(APPROVED) => Some(true),
        Some(REJECTED) => Some(false),
        Some(other) => return Err(StoreError::Unreadable { what: "answer", value: other.to_owned() }),
    };
    let who: Option<String> = row.try_get("who")?;
    Ok(Approval {
        scope: match (workflow, step) {
            (_, Some(step)) => Scope::Step(StepId(step)),
            (Some(workflow), None) => Scope::Workflow(WorkflowId(workflow)),
            (None, None) => Scope::Run,
        },
        gate: row.try_get("gate")?,
        answer: approved.map(|approved| Answer { approved, who: who.unwrap_or_default() }),
    })
}

fn workflow(row: &SqliteRow) -> Result<Workflow, StoreError> {
    Ok(Workflow {
        id: WorkflowId(row.try_get("id")?),
        name: row.try_get("name")?,
        axis: row.try_get("axis")?,
        rules: json(row, "rules")?,
        decided: row.try_get("decided")?,
        state: word(row, "state")?,
        why: row.try_get("why")?,
        steps: Vec::new(),
    })
}

fn step(row: &SqliteRow) -> Result<Step, StoreError> {
    let time = |column| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(column)?.map(Timestamp));
    Ok(Step {
        id: StepId(row.try_get("id")?),
        name: row.try_get("name")?,
        rules: json(row, "rules")?,
        decided: row.try_get("decided")?,
        state: word(row, "state")?,
        why: row.try_get("why")?,
        ready: row.try_get("ready")?,
        up: row.try_get("up")?,
        not_before: Timestamp(row.try_get("not_before")?),
        attempt: row.try_get("attempt")?,
        retry: row.try_get("retry")?,
        crashes: row.try_get("crashes")?,
        exit_code: row.try_get("exit_code")?,
        started: time("started")?,
        finished: time("finished")?,
        outputs: json(row, "outputs")?,
    })
}
