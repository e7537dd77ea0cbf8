//! What a step or a workflow waits for and what its end means: fixed by the plan, stored beside
//! the state, and never changed by what happens.

use serde::{Deserialize, Serialize};

use crate::{finding::Quoted, spec::OnFailure};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRules {
    pub kind: StepKind,
    /// Positions, in the workflow, of the steps that have to end first. Without DAG mode it is
    /// the one before.
    pub needs: Vec<usize>,
    pub runs_on: RunsOn,
    pub failure: OnFailure,
    /// Lives until the workflow ends, and nobody waits for its end: a service, or `detach`.
    /// Whoever needs it waits until it is ready.
    pub detached: bool,
    /// The gate that a person has to open first.
    pub gate: Option<String>,
    /// Whether `retry` is also for failures of the step's own program.
    pub retry_failures: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    Clone,
    Service,
    Commands,
    Plugin,
    /// A built-in `uses:`.
    #[default]
    Action,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkflowRules {
    /// Names of the workflows that have to end first, at every point of their matrix.
    pub needs: Vec<String>,
    pub runs_on: RunsOn,
    pub gate: Option<String>,
    pub concurrency: Option<ConcurrencyRule>,
    /// What its files were found to have wrong, which is why it was refused, or to be warned of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Quoted>,
}

/// Of the workflows in one group, at most `limit` run at the same time, across runs of one
/// repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConcurrencyRule {
    pub group: String,
    pub limit: u32,
}

/// After which ends of what it needs something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsOn {
    pub success: bool,
    pub failure: bool,
}

impl Default for RunsOn {
    fn default() -> Self {
        Self { success: true, failure: false }
    }
}
