//! Which steps of a finished run another run of it need not repeat.

use std::collections::BTreeSet;

use mergeyard_types::{State, StepId};

use super::{Run, Step, Workflow};
use crate::rules::StepKind;

/// What a rerun repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rerun {
    All,
    /// What did not succeed, and what relies on that.
    Failed,
    /// That step and what relies on it, and what did not succeed.
    From(StepId),
}

/// The steps that keep their end and their outputs: those that succeeded and rely on nothing that
/// is repeated. What the plan decided stays as it decided.
pub fn kept(run: &Run, what: Rerun) -> BTreeSet<StepId> {
    let mut repeated: Vec<Vec<bool>> = run.workflows.iter().map(|workflow| seeds(workflow, what)).collect();
    // Workflows that need a repeated one see another outcome, whatever theirs was.
    loop {
        let names: BTreeSet<&str> = run
            .workflows
            .iter()
            .zip(&repeated)
            .filter(|(_, steps)| steps.contains(&true))
            .map(|(workflow, _)| workflow.name.as_str())
            .collect();
        let mut grew = false;
        for (workflow, steps) in run.workflows.iter().zip(&mut repeated) {
            if workflow.rules.needs.iter().any(|need| names.contains(need.as_str())) {
                for (step, repeated) in workflow.steps.iter().zip(steps) {
                    grew |= !*repeated && can_repeat(workflow, step);
                    *repeated |= can_repeat(workflow, step);
                }
            }
        }
        if !grew {
            break;
        }
    }
    for (workflow, steps) in run.workflows.iter().zip(&mut repeated) {
        furnish(workflow, steps);
    }
    let steps = run
        .workflows
        .iter()
        .zip(repeated)
        .flat_map(|(workflow, repeated)| workflow.steps.iter().zip(repeated));
    steps.filter(|(_, repeated)| !repeated).map(|(step, _)| step.id).collect()
}

fn can_repeat(workflow: &Workflow, step: &Step) -> bool {
    !workflow.decided && !step.decided
}

fn seeds(workflow: &Workflow, what: Rerun) -> Vec<bool> {
    let succeeded = workflow.state == State::Success;
    let is_seed = |step: &Step| {
        can_repeat(workflow, step)
            && match what {
                Rerun::All => true,
                Rerun::Failed => !succeeded && step.state != State::Success,
                Rerun::From(id) => step.id == id || (!succeeded && step.state != State::Success),
            }
    };
    let mut repeated: Vec<bool> = workflow.steps.iter().map(is_seed).collect();
    loop {
        let grown: Vec<bool> = workflow
            .steps
            .iter()
            .zip(&repeated)
            .map(|(step, own)| {
                let relies = step.rules.needs.iter().any(|need| repeated.get(*need) == Some(&true));
                *own || (relies && can_repeat(workflow, step))
            })
            .collect();
        if grown == repeated {
            return repeated;
        }
        repeated = grown;
    }
}

/// Containers work in a workspace of their own run: it has to be filled again, and its services
/// have to be there. That alone repeats nothing of what succeeded with the same content.
fn furnish(workflow: &Workflow, repeated: &mut [bool]) {
    let works = |(step, repeated): (&Step, &bool)| *repeated && step.rules.kind != StepKind::Action;
    if !workflow.steps.iter().zip(repeated.iter()).any(works) {
        return;
    }
    for (step, repeated) in workflow.steps.iter().zip(repeated) {
        let furniture = step.rules.kind == StepKind::Clone || step.rules.detached;
        *repeated |= furniture && can_repeat(workflow, step);
    }
}
