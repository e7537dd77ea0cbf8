//! What a workflow had for itself in the engine, removed when it has ended.
//!
//! A worker of its own does it, so that no step waits for what is over. It is rung for when a step's
//! end ends a workflow, and looks again and again for those that end otherwise (a command on another
//! process' command line) or whose engine did not answer.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use mergeyard_plan::run::Run;
use mergeyard_run::executor::Live;
use mergeyard_types::WorkflowId;
use tracing::warn;

use crate::{store::StoreError, yard::Yard};

pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Workflows that are taken down at a time.
const AT_ONCE: usize = 4;

/// After a report: has what it ended taken down.
pub fn after(yard: &Yard, run: &Run) {
    if run.workflows.iter().any(|workflow| workflow.state.is_final()) {
        yard.wake.ends.notify_one();
    }
}

/// Looks at every workflow that this server began to work on.
pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let mut over = Vec::new();
    for workflow in begun(yard) {
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

async fn end(yard: &Yard, workflow: WorkflowId) {
    yard.followers.leave(workflow).await;
    match yard.executor.end_workflow(workflow).await {
        Ok(()) => {
            yard.begun.lock().expect("no holder of this lock panics").remove(&workflow);
        }
        Err(error) => {
            warn!(%workflow, error = %error, "could not remove what a workflow left in the engine; it is tried again")
        }
    }
}
