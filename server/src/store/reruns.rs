//! Runs: another of the same plan at the same commit.

use std::collections::BTreeSet;

use mergeyard_plan::{
    facts::Facts,
    run::{Answer, Rerun, Scope, Step, Workflow, kept},
};
use mergeyard_types::{RunId, State, StepId, Timestamp, WorkflowId};
use sqlx::Row;

use super::{Store, StoreError, Tx, to_json};

/// How the reason of a step begins that a rerun did not repeat; the run it was done in follows.
pub const KEPT: &str = "kept from run ";

/// What became of the wish to repeat a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    Run(RunId),
    NoSuchRun,
    NoSuchStep,
    /// It has not ended yet.
    StillRuns,
    /// Nothing in it failed.
    Nothing,
}

/// The old run and the new one.
#[derive(Clone, Copy)]
struct Copying {
    old: RunId,
    new: RunId,
    /// How often this commit was repeated by then.
    reruns: u32,
    now: Timestamp,
}

impl Store {
    /// Starts another run of the plan of a run that is over. Steps that need not be repeated keep
    /// their end and their outputs. What was asked about the old run is asked again, except whether
    /// its commit may run at all.
    pub async fn rerun(&self, run: RunId, what: Rerun, now: Timestamp) -> Result<Repeated, StoreError> {
        let mut tx = self.begin().await?;
        let Some(old) = tx.load(run).await? else { return Ok(Repeated::NoSuchRun) };
        if matches!(what, Rerun::From(step) if old.step(step).is_none()) {
            return Ok(Repeated::NoSuchStep);
        }
        if !old.state.is_final() {
            return Ok(Repeated::StillRuns);
        }
        let kept = kept(&old, what);
        if old.workflows.iter().flat_map(|workflow| &workflow.steps).all(|step| kept.contains(&step.id)) {
            return Ok(Repeated::Nothing);
        }
        let copying = Copying { old: run, new: tx.next_run().await?, reruns: tx.reruns(run).await? + 1, now };
        tx.copy_run(copying).await?;
        let hold = old
            .approval(Scope::Run)
            .filter(|hold| !matches!(hold.answer, Some(Answer { approved: true, .. })));
        if let Some(hold) = hold {
            tx.insert_approval(copying.new, (None, None), &hold.gate, now).await?;
        }
        for workflow in &old.workflows {
            tx.copy_workflow(copying, workflow, &kept).await?;
        }
        tx.announce(copying.new, now).await?;
        tx.commit().await?;
        Ok(Repeated::Run(copying.new))
    }
}

impl Tx {
    /// How many runs of the same plan came before this one.
    async fn reruns(&mut self, run: RunId) -> Result<u32, StoreError> {
        let row = sqlx::query(
            "WITH RECURSIVE before(id) AS (SELECT rerun_of FROM runs WHERE id = ? \
             UNION SELECT r.rerun_of FROM runs r JOIN before b ON r.id = b.id) \
             SELECT count(*) FROM before WHERE id IS NOT NULL",
        )
        .bind(run.0)
        .fetch_one(&mut *self.inner)
        .await?;
        Ok(row.try_get(0)?)
    }

    async fn copy_run(&mut self, Copying { old, new, reruns, now }: Copying) -> Result<(), StoreError> {
        let row = sqlx::query("SELECT facts FROM runs WHERE id = ?")
            .bind(old.0)
            .fetch_one(&mut *self.inner)
            .await?;
        let facts: String = row.try_get("facts")?;
        // What is built in has no facts, because nothing in it asks for any.
        let repeated = serde_json::from_str::<Facts>(&facts)
            .ok()
            .map(|facts| to_json(&facts.repeated(new, reruns, now)));
        sqlx::query(
            "INSERT INTO runs (id, key, delivery, forge, repo, known_as, clone_url, source_url, event, branch, commit_sha, \
             hints, merged, title, author, number, facts, account, fork, rollback_of, rerun_of, state, created) \
             SELECT ?2, 'rerun-' || ?1 || '-' || ?2, delivery, forge, repo, known_as, clone_url, source_url, event, branch, \
             commit_sha, hints, merged, title, author, number, coalesce(?5, facts), account, fork, rollback_of, ?1, ?3, ?4 FROM runs WHERE id = ?1",
        )
        .bind(old.0)
        .bind(new.0)
        .bind(State::Queued.as_str())
        .bind(now.0)
        .bind(repeated)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    async fn copy_workflow(
        &mut self,
        copying: Copying,
        workflow: &Workflow,
        kept: &BTreeSet<StepId>,
    ) -> Result<(), StoreError> {
        let is_kept = workflow.decided || workflow.steps.iter().all(|step| kept.contains(&step.id));
        let (state, why) =
            if is_kept { (workflow.state, workflow.why.as_deref()) } else { (State::Queued, None) };
        let row = sqlx::query(
            "INSERT INTO workflows (run, name, axis, state, why, rules, decided, concurrency) \
             SELECT ?, name, axis, ?, ?, rules, decided, concurrency FROM workflows WHERE id = ? RETURNING id",
        )
        .bind(copying.new.0)
        .bind(state.as_str())
        .bind(why)
        .bind(workflow.id.0)
        .fetch_one(&mut *self.inner)
        .await?;
        let id = WorkflowId(row.try_get(0)?);
        for step in &workflow.steps {
            self.copy_step(copying, id, step, kept.contains(&step.id)).await?;
        }
        Ok(())
    }

    async fn copy_step(
        &mut self,
        Copying { old, new, now, .. }: Copying,
        workflow: WorkflowId,
        step: &Step,
        kept: bool,
    ) -> Result<(), StoreError> {
        let (state, why) = match (kept, step.state) {
            (false, _) => (State::Queued, None),
            (true, State::Success) => (State::Success, Some(kept_from(old, step))),
            (true, state) => (state, step.why.clone()),
        };
        let outputs = if kept { to_json(&step.outputs) } else { "{}".to_owned() };
        sqlx::query(
            "INSERT INTO steps (run, workflow, name, action, timeout, retry, serial, merged, rules, decided, state, why, \
             ready, not_before, finished, outputs) \
             SELECT ?, ?, name, action, timeout, retry, serial, merged, rules, decided, ?, ?, 0, ?, ?, ? FROM steps WHERE id = ?",
        )
        .bind(new.0)
        .bind(workflow.0)
        .bind(state.as_str())
        .bind(why)
        .bind(now.0)
        .bind(kept.then_some(now.0))
        .bind(outputs)
        .bind(step.id.0)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

/// Names the run in which the step was really done, which is where its log is.
fn kept_from(run: RunId, step: &Step) -> String {
    let earlier = step.why.as_deref().filter(|why| why.starts_with(KEPT));
    earlier.map_or_else(|| format!("{KEPT}{run}"), str::to_owned)
}
