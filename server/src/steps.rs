//! Steps: leased, run, reported. The third stage.
//!
//! While a step runs, its lease is kept alive and the answer of each heartbeat tells
//! whether somebody wants the run to stop. No database lock is held through the work.

use std::{sync::Arc, time::Duration};

use mergeyard_plan::{
    event::EventKind,
    policy::Policy,
    run::{Outcome, Run},
};
use mergeyard_run::{
    engine::BuildSecret,
    executor::{StepContext, StepJob},
    log::LogSink,
    target::Target,
};
use mergeyard_types::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    config::{ConfiguredTarget, Rules},
    ends,
    given::{Given, given},
    ledger::StepLedger,
    store::{Frozen, Job, Pulse, ReportError, StoreError},
    yard::Yard,
};

/// How often a running step says that it lives, and hears whether it should stop.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Between tries to write to a database that refuses.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// How one attempt ended, as far as the database is concerned.
pub(crate) enum Ended {
    With(Outcome),
    /// The server goes; whoever comes next starts the step again.
    HandedOver,
    /// The lease is another's now, or nobody's: the step has ended with its workflow.
    Fenced,
}

/// Who besides the database wants to know how a step goes, or has it stopped.
#[derive(Default)]
pub(crate) struct Watch {
    /// Told when the step is up.
    pub(crate) up: Option<oneshot::Sender<()>>,
    /// The step has ended in the database; what it said so far is kept.
    pub(crate) stop: CancellationToken,
}

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let now = yard.clock.now();
    let Some(job) = yard.store.claim_step(now, &frozen(&yard.rules(), now)).await? else { return Ok(false) };
    started(yard, &job);
    let ended = work(yard, &job, Watch::default()).await;
    let run = settle(yard, &job, ended).await;
    tell(yard);
    if let Some(run) = run {
        ends::after(yard, &run).await;
    }
    Ok(true)
}

/// The targets that take nothing now.
fn frozen(rules: &Rules, now: Timestamp) -> Vec<Frozen> {
    let frozen = |configured: &ConfiguredTarget| {
        let until = configured.freeze.until(now)?;
        Some(Frozen { target: configured.target.name.clone(), until })
    };
    rules.targets.iter().filter_map(frozen).collect()
}

pub(crate) fn started(yard: &Yard, job: &Job) {
    info!(step = %job.lease.step, run = %job.lease.run, attempt = job.attempt, "started a step");
    yard.begun.lock().expect("no holder of this lock panics").insert(job.workflow);
    yard.changes.tell();
}

/// States have changed: there may be steps to start, and effects to perform.
pub(crate) fn tell(yard: &Yard) {
    yard.wake.steps.notify_waiters();
    yard.wake.outbox.notify_waiters();
    yard.changes.tell();
}

pub(crate) async fn work(yard: &Yard, job: &Job, watch: Watch) -> Ended {
    let step = match step_job(yard, job).await {
        Ok(step) => step,
        Err(message) => return Ended::With(Outcome::Error { message, retry: false }),
    };
    let (log, lines) = LogSink::channel(step.masker(), yard.settings.log_bytes);
    let (cancel, ready) = (CancellationToken::new(), Arc::new(Notify::new()));
    let context = StepContext {
        ready: ready.clone(),
        ledger: Arc::new(StepLedger::new(yard, job.lease)),
        ..StepContext::new(log, cancel.clone())
    };
    // On the heap: all that any kind of step may need at once is more than a stack should hold.
    let run = Box::pin(yard.executor.run(step, context));
    let keep = yard.logs.write(job.lease.run, job.lease.step, job.attempt, lines);
    let Watch { up, stop } = watch;
    let all = async {
        let run = async {
            tokio::select! {
                outcome = run => Ended::With(outcome),
                () = stop.cancelled() => Ended::Fenced,
            }
        };
        let (ended, kept) = tokio::join!(run, keep);
        if let Err(error) = kept {
            error!(step = %job.lease.step, error = %error, "could not keep a step's log");
        }
        ended
    };
    tokio::select! {
        ended = all => ended,
        () = fenced(yard, job, &cancel) => Ended::Fenced,
        () = comes_up(yard, job, &ready, up) => Ended::Fenced,
        () = yard.hand_over.cancelled() => Ended::HandedOver,
    }
}

/// Reports that a detached step is up. Returns when it may not report it.
async fn comes_up(yard: &Yard, job: &Job, ready: &Notify, up: Option<oneshot::Sender<()>>) {
    let rung = ready.notified();
    tokio::pin!(rung);
    // Registered before the step begins, however it rings.
    rung.as_mut().enable();
    rung.await;
    loop {
        match yard.store.ready(&job.lease, yard.clock.now()).await {
            Ok(_) => break,
            Err(ReportError::Fenced(_)) => return,
            Err(ReportError::Store(error)) => {
                warn!(step = %job.lease.step, error = %error, "could not write that a step is up; trying again");
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        }
    }
    info!(step = %job.lease.step, run = %job.lease.run, "a detached step is up");
    tell(yard);
    if let Some(up) = up {
        let _ = up.send(());
    }
    std::future::pending().await
}

async fn step_job(yard: &Yard, job: &Job) -> Result<StepJob, String> {
    let rules = yard.rules();
    let policy = rules
        .policies
        .of(&job.known_as)
        .ok_or_else(|| format!("repository {} is not configured any more", job.known_as))?;
    let remote = yard.settings.remote(policy, &job.repo, job.clone_url.as_deref())?;
    let target = target(&rules, policy, job)?;
    let Given { action, environment, masked } = given(yard, job).await?;
    let kept_lines =
        yard.logs.kept_lines(job.lease.run, job.lease.step, job.attempt).await.unwrap_or_else(|error| {
            warn!(step = %job.lease.step, error = %error, "could not see what is kept of a step's log");
            0
        });
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
        action,
        environment,
        masked,
        detached: job.rules.detached,
        kept_lines,
        target,
        images: job.images.clone(),
        secrets: build_secrets(&rules, job),
        timeout: job.timeout,
    })
}

/// The machine that a step delivers to, if it may by the rules of now.
fn target(rules: &Rules, policy: &Policy, job: &Job) -> Result<Option<Arc<Target>>, String> {
    let Some(name) = job.action.target() else { return Ok(None) };
    if job.fork {
        return Err(format!("pull requests from forks deploy nothing, and so not to target `{name}`"));
    }
    let configured = rules.target(name).ok_or_else(|| {
        format!(
            "there is no target `{name}`; the operator adds it as a `[[target]]`, and the run can be repeated"
        )
    })?;
    let right = policy.targets.iter().find(|right| right.name == *name).ok_or_else(|| {
        format!(
            "{} may not use target `{name}`; the operator allows it with `targets` in its `[[repo]]`",
            job.known_as
        )
    })?;
    // A rollback is nobody's event: who asked for it had the right to.
    let (event, check) = match job.event.parse() {
        Ok(event) if !job.rollback => (event, job.action.is_check()),
        _ => (EventKind::Manual, true),
    };
    match right.refusal(&job.branch, event, check) {
        Some(why) => Err(why),
        None => Ok(Some(configured.target.clone())),
    }
}

/// What anybody may have written reads nothing that only the operator knows.
fn build_secrets(rules: &Rules, job: &Job) -> Vec<BuildSecret> {
    if job.fork { Vec::new() } else { rules.build_secrets(&job.known_as).to_vec() }
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
/// forgetting that would do it twice. Returns the run as it is then, if this end counted.
pub(crate) async fn settle(yard: &Yard, job: &Job, ended: Ended) -> Option<Run> {
    loop {
        let now = yard.clock.now();
        let written = match &ended {
            Ended::With(outcome) => yard.store.report(&job.lease, outcome.clone(), now).await.map(Some),
            Ended::HandedOver => yard.store.hand_over(&job.lease, now).await.map(|()| None),
            Ended::Fenced => Err(ReportError::Fenced(job.lease.step)),
        };
        match written {
            Ok(run) => {
                info!(step = %job.lease.step, run = %job.lease.run, "ended a step");
                return run;
            }
            Err(ReportError::Fenced(step)) if job.rules.detached => {
                info!(%step, "a detached step was let go of");
                return None;
            }
            Err(ReportError::Fenced(step)) => {
                warn!(%step, "another worker has the step now; what this one did does not count");
                return None;
            }
            Err(ReportError::Store(error)) => {
                warn!(step = %job.lease.step, error = %error, "could not write a step's end; trying again");
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        }
    }
}
