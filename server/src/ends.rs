//! What a workflow had for itself in the engine, removed when it has ended.
//!
//! A worker of its own does it, so that no step waits for what is over. It is rung for when a step's
//! end ends a workflow, and looks again and again for those that end otherwise (a command on another
//! process' command line) or whose engine did not answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use futures_util::StreamExt;
use mergeyard_plan::run::Run;
use mergeyard_run::{engine::EngineError, executor::Live};
use mergeyard_types::{Timestamp, WorkflowId};
use tracing::{debug, info, warn};

use crate::{store::StoreError, yard::Yard};

pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A workflow that could not be taken down waits this long at most, after waiting twice as long each
/// time: an engine that came back keeps what it holds that much longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// Workflows that are taken down at a time.
const AT_ONCE: usize = 4;

/// Workflows that ended and could not be taken down yet.
#[derive(Debug, Default)]
pub struct Left(BTreeMap<WorkflowId, Attempts>);

#[derive(Debug)]
struct Attempts {
    wait: Duration,
    next: Timestamp,
    /// The engine did not answer at all, which is nothing about this workflow.
    is_outage: bool,
}

/// After a report: has what it ended taken down.
pub fn after(yard: &Yard, run: &Run) {
    if run.workflows.iter().any(|workflow| workflow.state.is_final()) {
        yard.wake.ends.notify_one();
    }
}

/// Looks at every workflow that this server began to work on.
pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let mut over = Vec::new();
    let now = yard.clock.now();
    for workflow in begun(yard) {
        if left(yard).waits(workflow, now) {
            continue;
        }
        if yard.store.workflow_state(workflow).await?.is_none_or(|state| state.is_final()) {
            over.push(workflow);
        }
    }
    futures_util::stream::iter(over).for_each_concurrent(AT_ONCE, |workflow| end(yard, workflow)).await;
    Ok(false)
}

/// Removes what a server that crashed left in the engine. An engine that is down has nothing to
/// remove.
pub async fn sweep(yard: &Arc<Yard>) {
    let Ok((workflows, steps)) = yard.store.live().await else { return };
    let live = Live { steps: steps.into_iter().collect(), workflows: workflows.into_iter().collect() };
    if let Err(error) = yard.executor.reconcile(&live).await {
        warn!(error = %error, "could not look for what a crash left in the engine");
    }
}

fn begun(yard: &Yard) -> Vec<WorkflowId> {
    yard.begun.lock().expect("no holder of this lock panics").iter().copied().collect()
}

fn left(yard: &Yard) -> MutexGuard<'_, Left> {
    yard.left.lock().expect("no holder of this lock panics")
}

async fn end(yard: &Yard, workflow: WorkflowId) {
    yard.followers.leave(workflow).await;
    match yard.executor.end_workflow(workflow).await {
        Ok(()) => {
            yard.begun.lock().expect("no holder of this lock panics").remove(&workflow);
            if left(yard).gone(workflow) {
                info!("the engine answers again: what ended workflows left there is removed");
            }
        }
        Err(error) => {
            let is_outage = matches!(error, EngineError::Unreachable { .. });
            if left(yard).again(workflow, is_outage, yard.clock.now()) {
                warn!(%workflow, error = %error, "could not remove what a workflow left in the engine; it is tried again");
            } else {
                debug!(%workflow, error = %error, "could not remove what a workflow left in the engine");
            }
        }
    }
}

impl Left {
    /// A clock that was set back makes nobody wait longer than was meant.
    fn waits(&self, workflow: WorkflowId, now: Timestamp) -> bool {
        self.0.get(&workflow).is_some_and(|attempts| {
            let ahead = attempts.next.since(now);
            !ahead.is_zero() && ahead <= attempts.wait
        })
    }

    /// It is to be tried again later. Answers whether that is news: an outage is one for all workflows.
    fn again(&mut self, workflow: WorkflowId, is_outage: bool, now: Timestamp) -> bool {
        let is_news = match is_outage {
            true => !self.is_outage(),
            false => self.0.get(&workflow).is_none_or(|before| before.is_outage),
        };
        let before = self.0.get(&workflow).map_or(LOOK_EVERY / 2, |before| before.wait);
        let wait = (before * 2).min(LONGEST_WAIT);
        self.0.insert(workflow, Attempts { wait, next: now.plus(wait), is_outage });
        is_news
    }

    /// It is done, so an outage is over and nothing waits for its end any more. Answers whether there was
    /// one.
    fn gone(&mut self, workflow: WorkflowId) -> bool {
        let was_outage = self.is_outage();
        self.0.retain(|other, attempts| *other != workflow && !attempts.is_outage);
        was_outage
    }

    fn is_outage(&self) -> bool {
        self.0.values().any(|attempts| attempts.is_outage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: WorkflowId = WorkflowId(1);
    const OTHER: WorkflowId = WorkflowId(2);

    #[test]
    fn an_engine_that_is_gone_is_told_once_and_asked_ever_less_often() {
        let mut left = Left::default();
        let mut now = Timestamp(0);
        assert!(left.again(ONE, true, now), "the outage is news");
        assert!(!left.again(OTHER, true, now), "the same outage is none");
        let mut waits = Vec::new();
        for _ in 0..8 {
            let begin = now;
            while left.waits(ONE, now) {
                now = now.plus(Duration::from_secs(1));
            }
            waits.push(now.since(begin).as_secs());
            assert!(!left.again(ONE, true, now));
        }
        let set_back = Timestamp(now.0 - 3_600_000);
        assert!(left.waits(ONE, now) && !left.waits(ONE, set_back), "a clock may be set back");
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert!(left.gone(OTHER), "the engine is back");
        assert!(!left.waits(ONE, now), "what waited for it is tried at once");
        assert!(!left.gone(ONE) && left.again(ONE, true, now), "the next outage is news again");
    }

    #[test]
    fn what_the_engine_refuses_of_one_workflow_is_told_for_each() {
        let mut left = Left::default();
        assert!(left.again(ONE, false, Timestamp(0)) && left.again(OTHER, false, Timestamp(0)));
        assert!(!left.again(ONE, false, Timestamp(5000)), "told already");
        assert!(left.again(ONE, true, Timestamp(20_000)), "an outage is another thing");
        assert!(left.gone(ONE) && !left.gone(OTHER), "nothing was out when the other went");
        assert!(left.0.is_empty());
    }
}
