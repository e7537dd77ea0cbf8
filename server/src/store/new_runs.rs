//! Runs: created from a plan.

use mergeyard_plan::{
    decide::{PlannedRun, PlannedStep, PlannedWorkflow, Verdict as PlanVerdict},
    event::{EventKind, Forge, Repository},
    run::Report,
};
use mergeyard_types::{DeliveryId, RunId, State, Timestamp};
use sqlx::Row;

use super::{DeliveryState, Store, StoreError, Tx, runs::forge_word, to_json, word};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    Run(RunId),
    /// The same commit and event started that run before.
    Already(RunId),
    /// Another run took the id that the plan was made with; nothing was written, and the plan has
    /// to be made again.
    Overtaken,
}

impl Store {
    /// The id that the next run will have, unless another comes first.
    pub async fn next_run(&self) -> Result<RunId, StoreError> {
        let row = sqlx::query(NEXT_RUN).fetch_one(&self.reader).await?;
        Ok(RunId(row.try_get(0)?))
    }

    /// Writes a planned run, what it announces and its delivery's verdict, in one
    /// transaction. A replay is a new run; otherwise one commit and occasion start one.
    pub async fn create_run(
        &self,
        delivery: &DeliveryId,
        replays: u32,
        repository: &Repository,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        let mut tx = self.begin().await?;
        let key = key(plan, delivery, replays);
        let created = match tx.run_with_key(&key).await? {
            Some(run) => Created::Already(run),
            None => {
                let id = tx.next_run().await?;
                if plan.id.is_some_and(|planned| planned != id) {
                    return Ok(Created::Overtaken);
                }
                tx.insert_run(id, &key, delivery, plan, now).await?;
                tx.remember(repository).await?;
                tx.supersede(id, replays, plan, now).await?;
                Created::Run(id)
            }
        };
        let (run, verdict) = match created {
            Created::Run(run) => (run, format!("started run {run}")),
            Created::Already(run) => (run, format!("run {run} was already started for this commit")),
            Created::Overtaken => return Ok(created),
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
}

/// As SQLite gives ids to rows, so that a prediction holds.
const NEXT_RUN: &str = "SELECT coalesce(max(id), 0) + 1 FROM runs";

impl Tx {
    pub(super) async fn next_run(&mut self) -> Result<RunId, StoreError> {
        let row = sqlx::query(NEXT_RUN).fetch_one(&mut *self.inner).await?;
        Ok(RunId(row.try_get(0)?))
    }

    async fn insert_run(
        &mut self,
        id: RunId,
        key: &str,
        delivery: &DeliveryId,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let PlannedRun {
            id: _,
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
            occasion: _,
            facts,
            account,
            fork,
            hold,
            rerun_of,
            workflows,
        } = plan;
        let merged = merged_at.unwrap_or(now);
        sqlx::query(
            "INSERT INTO runs (id, key, delivery, forge, repo, known_as, clone_url, source_url, event, branch, commit_sha, \
             hints, merged, title, author, number, facts, account, fork, rerun_of, state, created) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id.0)
        .bind(key)
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
        .bind(to_json(facts))
        .bind(account)
        .bind(fork)
        .bind(rerun_of.map(|run| run.0))
        .bind(State::Queued.as_str())
        .bind(now.0)
        .execute(&mut *self.inner)
        .await?;
        if let Some(hold) = hold {
            self.insert_approval(id, (None, None), hold, now).await?;
        }
        for workflow in workflows {
            self.insert_workflow(id, known_as.as_str(), workflow, merged, now).await?;
        }
        self.announce(id, now).await?;
        Ok(())
    }

    pub(super) async fn insert_workflow(
        &mut self,
        run: RunId,
        known_as: &str,
        workflow: &PlannedWorkflow,
        merged: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let PlannedWorkflow { name, axis, verdict, rules, steps } = workflow;
        let (state, why) = match verdict {
            PlanVerdict::Run if steps.is_empty() => (State::Skipped, Some("it has no steps")),
            PlanVerdict::Run => (State::Queued, None),
            PlanVerdict::Skip(why) => (State::Skipped, Some(why.as_str())),
            PlanVerdict::Refuse(why) => (State::Failure, Some(why.as_str())),
        };
        let group = rules.concurrency.as_ref().map(|rule| &rule.group);
        let row = sqlx::query(
            "INSERT INTO workflows (run, name, axis, state, why, rules, decided, concurrency) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        )
        .bind(run.0)
        .bind(name)
        .bind(axis)
        .bind(state.as_str())
        .bind(why)
        .bind(to_json(rules))
        .bind(state.is_final())
        .bind(group.map(|group| format!("{}/{group}", known_as.to_ascii_lowercase())))
        .fetch_one(&mut *self.inner)
        .await?;
        let id: i64 = row.try_get(0)?;
        for step in steps {
            let left_out = match (&step.verdict, why) {
                (PlanVerdict::Skip(why) | PlanVerdict::Refuse(why), _) => Some(why.as_str()),
                (PlanVerdict::Run, why) => why.filter(|_| state.is_final()),
            };
            self.insert_step((run, id), step, left_out, merged, now).await?;
        }
        Ok(())
    }

    async fn insert_step(
        &mut self,
        (run, workflow): (RunId, i64),
        step: &PlannedStep,
        left_out: Option<&str>,
        merged: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let PlannedStep { name, verdict: _, action, rules, timeout, retry, serial } = step;
        let state = if left_out.is_some() { State::Skipped } else { State::Queued };
        sqlx::query(
            "INSERT INTO steps (run, workflow, name, action, timeout, retry, serial, merged, rules, decided, state, why, \
             ready, not_before, finished) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
        )
        .bind(run.0)
        .bind(workflow)
        .bind(name)
        .bind(to_json(action))
        .bind(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX))
        .bind(retry)
        .bind(serial)
        .bind(merged.0)
        .bind(to_json(rules))
        .bind(left_out.is_some())
        .bind(state.as_str())
        .bind(left_out)
        .bind(now.0)
        .bind(left_out.map(|_| now.0))
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// An older run that still waits is not worth starting once there is a newer one in its place,
    /// whichever of the two was heard of first.
    async fn supersede(
        &mut self,
        run: RunId,
        replays: u32,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if !plan.supersede || replays > 0 {
            return Ok(());
        }
        match (plan.merged_at, plan.number) {
            (Some(merged), _) => self.supersede_merge(run, merged, plan, now).await,
            (None, Some(number)) if plan.event == EventKind::PullRequest.as_str() => {
                self.supersede_pull_request(run, number, plan, now).await
            }
            _ => Ok(()),
        }
    }

    /// A newer commit takes the place of the one before it, also where that waits for a person:
    /// nobody is to be asked about what nobody wants any more.
    async fn supersede_pull_request(
        &mut self,
        run: RunId,
        number: u64,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let others = sqlx::query(
            "SELECT id, key, state FROM runs WHERE known_as = ? AND number = ? AND event = ? AND commit_sha <> ? \
             AND rerun_of IS NULL ORDER BY id",
        )
        .bind(plan.known_as.as_str())
        .bind(number as i64)
        .bind(&plan.event)
        .bind(plan.commit.to_string())
        .fetch_all(&mut *self.inner)
        .await?;
        let mine = updated(&plan.occasion);
        let mut older = Vec::new();
        for other in others {
            let (id, key): (i64, String) = (other.try_get("id")?, other.try_get("key")?);
            let state: State = word(&other, "state")?;
            // One second may see two commits; then the one that was heard of first was first.
            if updated(&key).zip(mine).is_some_and(|(theirs, mine)| theirs > mine) {
                let why = format!("superseded by run {id}, whose commit came later");
                self.apply(run, Report::Cancel { why }, now).await?;
                return Ok(());
            }
            if matches!(state, State::Queued | State::Blocked) {
                older.push(RunId(id));
            }
        }
        for older in older {
            let why = format!("superseded by run {run}, whose commit came later");
            self.apply(older, Report::Cancel { why }, now).await?;
        }
        Ok(())
    }

    /// A newer merge of a branch contains the older one.
    async fn supersede_merge(
        &mut self,
        run: RunId,
        merged: Timestamp,
        plan: &PlannedRun,
        now: Timestamp,
    ) -> Result<(), StoreError> {
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

    async fn run_with_key(&mut self, key: &str) -> Result<Option<RunId>, StoreError> {
        let row = sqlx::query("SELECT id FROM runs WHERE key = ?")
            .bind(key)
            .fetch_optional(&mut *self.inner)
            .await?;
        row.map(|row| Ok(RunId(row.try_get(0)?))).transpose()
    }
}

/// When the pull request of an occasion, or of a key that ends in one, was last changed.
fn updated(occasion: &str) -> Option<&str> {
    let occasion = occasion.split_once("/replay-").map_or(occasion, |(before, _)| before);
    occasion.rsplit('/').next().filter(|updated| updated.contains('T'))
}

/// What two deliveries have in common that tell of one thing. Only GitHub has several webhooks for
/// that; a plain git server says a push once.
fn key(plan: &PlannedRun, delivery: &DeliveryId, replays: u32) -> String {
    let mut key = format!("{}/{}/{}", plan.repo.as_str().to_ascii_lowercase(), plan.commit, plan.event);
    if !plan.occasion.is_empty() {
        key = format!("{key}/{}", plan.occasion);
    }
    if plan.forge == Forge::Git {
        key = format!("{key}/{delivery}");
    }
    if replays == 0 { key } else { format!("{key}/replay-{replays}") }
}
