//! Steps: leased, run, reported. The third stage.
//!
//! While a step runs, its lease is kept alive and the answer of each heartbeat tells
//! whether somebody wants the run to stop. No database lock is held through the work.

use std::{sync::Arc, time::Duration};

use mergeyard_plan::run::Outcome;
use mergeyard_run::{
    executor::{StepContext, StepJob},
    log::LogSink,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    store::{Job, Pulse, ReportError, StoreError},
    yard::Yard,
};

/// How often a running step says that it lives, and hears whether it should stop.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How one attempt ended, as far as the database is concerned.
enum Ended {
    With(Outcome),
    /// The server goes; whoever comes next starts the step again.
    HandedOver,
    /// The lease is another's now.
    Fenced,
}

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let Some(job) = yard.store.claim_step(yard.clock.now()).await? else { return Ok(false) };
    info!(step = %job.lease.step, run = %job.lease.run, attempt = job.attempt, "started a step");
    yard.changes.tell();
    let ended = work(yard, &job).await;
    settle(yard, &job, ended).await;
    yard.wake.steps.notify_waiters();
    yard.wake.outbox.notify_waiters();
    yard.changes.tell();
    Ok(true)
}

async fn work(yard: &Yard, job: &Job) -> Ended {
    let mut step = match step_job(yard, job) {
        Ok(step) => step,
        Err(message) => return Ended::With(Outcome::Error { message, retry: false }),
    };
    match yard.logs.kept_lines(step.run, step.step, step.attempt).await {
        Ok(kept) => step.kept_lines = kept,
        Err(error) => warn!(step = %step.step, error = %error, "could not see what is kept of a step's log"),
    }
    let (log, lines) = LogSink::channel(step.masker(), yard.settings.log_bytes);
    let cancel = CancellationToken::new();
    let context = StepContext { log, cancel: cancel.clone(), ready: Arc::default() };
    let run = yard.executor.run(step, context);
    let keep = yard.logs.write(job.lease.run, job.lease.step, job.attempt, lines);
    let all = async {
        let (outcome, kept) = tokio::join!(run, keep);
        if let Err(error) = kept {
            error!(step = %job.lease.step, error = %error, "could not keep a step's log");
        }
        outcome
    };
    tokio::select! {
        outcome = all => Ended::With(outcome),
        () = fenced(yard, job, &cancel) => Ended::Fenced,
        () = yard.hand_over.cancelled() => Ended::HandedOver,
    }
}

fn step_job(yard: &Yard, job: &Job) -> Result<StepJob, String> {
    let rules = yard.rules();
    let policy = rules
        .policies
        .of(&job.known_as)
        .ok_or_else(|| format!("repository {} is not configured any more", job.known_as))?;
    let remote = yard.settings.remote(policy, &job.repo, job.clone_url.as_deref())?;
    Ok(StepJob {
        step: job.lease.step,
        run: job.lease.run,
        workflow: job.workflow,
        name: job.name.clone(),
        attempt: job.attempt,
        repo: job.repo.clone(),
        commit: job.commit,
        hints: job.hints.clone(),
        remote,
        source_url: job.source_url.clone(),
        action: job.action.clone(),
        environment: Vec::new(),
        masked: Vec::new(),
        detached: false,
        kept_lines: 0,
        secrets: rules.build_secrets(&job.known_as).to_vec(),
        timeout: job.timeout,
    })
}

/// Keeps the lease alive; passes on the wish to cancel. Returns when the lease is lost.
async fn fenced(yard: &Yard, job: &Job, cancel: &CancellationToken) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        match yard.store.heartbeat(&job.lease).await {
            Ok(Pulse::GoOn) => {}
            Ok(Pulse::Cancel(_)) => cancel.cancel(),
            Ok(Pulse::Fenced) => return,
            // A disk that is full for a while must not cost a build its lease's holder.
            Err(error) => warn!(step = %job.lease.step, error = %error, "a heartbeat was not written"),
        }
    }
}

/// Writes the end down, trying for as long as the database refuses: the work is done, and
/// forgetting that would do it twice.
async fn settle(yard: &Yard, job: &Job, ended: Ended) {
    const BETWEEN_TRIES: Duration = Duration::from_secs(1);
    loop {
        let now = yard.clock.now();
        let written = match &ended {
            Ended::With(outcome) => yard.store.report(&job.lease, outcome.clone(), now).await.map(|_| ()),
            Ended::HandedOver => yard.store.hand_over(&job.lease, now).await,
            Ended::Fenced => Err(ReportError::Fenced(job.lease.step)),
        };
        match written {
            Ok(()) => return info!(step = %job.lease.step, run = %job.lease.run, "ended a step"),
            Err(ReportError::Fenced(step)) => {
                return warn!(%step, "another worker has the step now; what this one did does not count");
            }
            Err(ReportError::Store(error)) => {
                warn!(step = %job.lease.step, error = %error, "could not write a step's end; trying again");
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        }
    }
}
