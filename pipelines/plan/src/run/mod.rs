//! The life of a run: what its steps report, turned into states and effects.
//!
//! [`Run::apply`] is the one place where a step changes its state and where a run is
//! completed. It touches nothing outside itself; the caller stores the new states, the
//! questions it asks and the returned effects in one transaction.
//!
//! | file       | its subject                                                     |
//! | ---------- | --------------------------------------------------------------- |
//! | `flow.rs`  | what may start now, what waits and for what, what never will    |
//! | `step.rs`  | what a report does to the one step it is about                  |
//! | `rerun.rs` | which steps of a finished run another run of it need not repeat |

mod flow;
mod rerun;
mod step;

use std::{collections::BTreeMap, time::Duration};

use mergeyard_types::{CommitSha, RepoName, RunId, State, StepId, Timestamp, WorkflowId};

use crate::{
    decide,
    effect::{CommitStatus, Effect, StatusState},
    event::{self, Forge},
    rules::{StepKind, StepRules, WorkflowRules},
};

pub use flow::WAITS_FOR_A_PLACE;
pub use rerun::{Rerun, kept};

/// A step whose server died this often while running it is suspected of killing it, and
/// is not run again: one poisonous step must not keep the yard from working.
pub const MOST_CRASHES: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: RunId,
    pub forge: Forge,
    pub repo: RepoName,
    pub commit: CommitSha,
    pub event: String,
    pub state: State,
    /// Set once somebody asked for the run to stop, with their reason.
    pub cancel: Option<String>,
    /// What people were asked, and what they said. They belong to this run and so to one commit.
    pub approvals: Vec<Approval>,
    pub workflows: Vec<Workflow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workflow {
    pub id: WorkflowId,
    pub name: String,
    pub axis: Option<String>,
    pub rules: WorkflowRules,
    /// Its state is the plan's, and nothing will change it.
    pub decided: bool,
    pub state: State,
    pub why: Option<String>,
    /// In the order of the plan, which is what the steps' needs count in.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub id: StepId,
    pub name: String,
    pub rules: StepRules,
    /// Its state is the plan's, and nothing will change it.
    pub decided: bool,
    pub state: State,
    pub why: Option<String>,
    /// Whether nothing but a worker is missing.
    pub ready: bool,
    /// Detached, and others may rely on it. Stays so after its end.
    pub up: bool,
    pub not_before: Timestamp,
    /// How often it was started.
    pub attempt: u32,
    /// How often it may be tried again after an error that was not the user's.
    pub retry: u32,
    pub crashes: u32,
    /// What its program ended with, once it has; 0 also for an action that did its work.
    pub exit_code: Option<i64>,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub outputs: BTreeMap<String, String>,
}

/// A question to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub scope: Scope,
    /// The gate's name; for a whole run the reason why it waits.
    pub gate: String,
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub approved: bool,
    /// The token's name, or the command line's user.
    pub who: String,
}

/// What cannot start before somebody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of it, which is how pull requests from forks wait.
    Run,
    Workflow(WorkflowId),
    Step(StepId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Started {
        step: StepId,
    },
    /// A detached step says that others may rely on it.
    Ready {
        step: StepId,
    },
    Finished {
        step: StepId,
        outcome: Outcome,
    },
    /// Whoever ran the step is gone without a word.
    Lost {
        step: StepId,
    },
    /// Whoever ran the step has to go, and said so; somebody else starts it again.
    HandedOver {
        step: StepId,
    },
    /// Somebody answered a question that is open.
    Answer {
        scope: Scope,
        answer: Answer,
    },
    Cancel {
        why: String,
    },
}

/// How one attempt of a step ended. Messages are one line, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success {
        outputs: BTreeMap<String, String>,
    },
    /// The user's files or code said no.
    Failure {
        message: String,
    },
    /// The step's own program ended with a code that is not 0.
    Exited {
        code: i64,
        message: String,
    },
    /// We or the infrastructure could not; `retry` when trying again may help.
    Error {
        message: String,
        retry: bool,
    },
    Cancelled,
}

/// The wait before attempt `attempt + 1`: long enough for a restarted engine, short enough
/// for a person who watches.
pub fn backoff(attempt: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(2);
    const LONGEST: Duration = Duration::from_secs(120);
    FIRST.saturating_mul(4_u32.saturating_pow(attempt.saturating_sub(1))).min(LONGEST)
}

impl Run {
    /// What a new run has to tell: it waits, or it was finished by its plan.
    pub fn announce(&mut self, now: Timestamp) -> Vec<Effect> {
        self.go_on(now);
        self.workflows.iter().filter_map(|workflow| self.status(workflow)).collect()
    }

    /// Takes in what happened. Reports that cannot be about this run as it is, because they come
    /// twice or too late, change nothing.
    pub fn apply(&mut self, report: Report, now: Timestamp) -> Vec<Effect> {
        let before: Vec<State> = self.workflows.iter().map(|workflow| workflow.state).collect();
        self.take_in(report, now);
        self.go_on(now);
        let is_news = |(workflow, before): &(&Workflow, State)| {
            workflow.state != *before && (workflow.state.is_final() || workflow.state == State::Blocked)
        };
        self.workflows
            .iter()
            .zip(before)
            .filter(is_news)
            .filter_map(|(workflow, _)| self.status(workflow))
            .collect()
    }

    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.workflows.iter().flat_map(|workflow| &workflow.steps).find(|step| step.id == id)
    }

    pub fn approval(&self, scope: Scope) -> Option<&Approval> {
        self.approvals.iter().find(|approval| approval.scope == scope)
    }

    /// The workflow a step belongs to.
    pub fn workflow_of(&self, id: StepId) -> Option<&Workflow> {
        self.workflows.iter().find(|workflow| workflow.steps.iter().any(|step| step.id == id))
    }

    fn take_in(&mut self, report: Report, now: Timestamp) {
        let cancel = self.cancel.clone();
        let cancel = cancel.as_deref();
        match report {
            Report::Cancel { why } => self.cancel(why, now),
            Report::Answer { scope, answer } => self.answer(scope, answer, now),
            Report::Started { step } => {
                if let Some(step) = self.step_mut(step).filter(|step| step.ready) {
                    step.start(now);
                }
            }
            Report::Ready { step } => {
                if let Some(step) = self.running(step) {
                    step.up |= step.rules.detached;
                }
            }
            Report::Finished { step, outcome } => {
                if let Some(step) = self.running(step) {
                    step.finish(outcome, cancel, now);
                }
            }
            Report::Lost { step } => {
                if let Some(step) = self.running(step) {
                    step.lose(cancel, now);
                }
            }
            Report::HandedOver { step } => {
                if let Some(step) = self.running(step) {
                    step.again(cancel, now);
                }
            }
        }
    }

    fn step_mut(&mut self, id: StepId) -> Option<&mut Step> {
        self.workflows.iter_mut().flat_map(|workflow| &mut workflow.steps).find(|step| step.id == id)
    }

    fn running(&mut self, id: StepId) -> Option<&mut Step> {
        self.step_mut(id).filter(|step| step.state == State::Running)
    }

    fn cancel(&mut self, why: String, now: Timestamp) {
        if self.state.is_final() {
            return;
        }
        for step in self.workflows.iter_mut().flat_map(|workflow| &mut workflow.steps) {
            if matches!(step.state, State::Queued | State::Blocked) {
                step.end(State::Cancelled, Some(why.clone()), now);
            }
        }
        self.cancel.get_or_insert(why);
    }

    fn answer(&mut self, scope: Scope, answer: Answer, now: Timestamp) {
        let open = |approval: &&mut Approval| approval.scope == scope && approval.answer.is_none();
        let Some(approval) = self.approvals.iter_mut().find(open) else { return };
        approval.answer = Some(answer.clone());
        if scope == Scope::Run && !answer.approved {
            self.cancel(format!("rejected by {}", answer.who), now);
        }
    }

    fn status(&self, workflow: &Workflow) -> Option<Effect> {
        if self.forge != Forge::Github {
            return None;
        }
        let state = match workflow.state {
            State::Queued | State::Running | State::Blocked => StatusState::Pending,
            State::Success | State::Skipped => StatusState::Success,
            State::Failure => StatusState::Failure,
            State::Error | State::Cancelled => StatusState::Error,
        };
        Some(Effect::CommitStatus(CommitStatus {
            repo: self.repo.clone(),
            commit: self.commit,
            context: decide::status_context(&self.event, &workflow.name, workflow.axis.as_deref()),
            state,
            description: workflow.summary(),
            run: Some(self.id),
        }))
    }
}

impl Workflow {
    /// One line about where it stands.
    pub fn summary(&self) -> String {
        if let Some(why) = &self.why {
            return if self.state == State::Skipped { skipped(why) } else { why.clone() };
        }
        match self.state {
            State::Queued => "waiting for a worker".to_owned(),
            State::Success => {
                let action = |step: &&Step| step.rules.kind == StepKind::Action;
                let said =
                    self.steps.iter().filter(action).rev().find_map(|step| step.outputs.get("summary"));
                let image = || self.steps.iter().find_map(|step| step.outputs.get("image"));
                match said.map(|said| event::one_line(said)).filter(|said| !said.is_empty()) {
                    Some(said) => said,
                    None => image().map_or_else(|| "done".to_owned(), |image| format!("published {image}")),
                }
            }
            other => other.as_str().to_owned(),
        }
    }
}

/// Beside a mark that says success, a reason alone would read as if something had been done.
pub fn skipped(why: &str) -> String {
    if why.starts_with("unchanged") { why.to_owned() } else { format!("skipped: {why}") }
}

/// The state of a whole from the states of its parts.
fn worst(parts: impl Iterator<Item = State> + Clone) -> State {
    let any = |state| parts.clone().any(|part| part == state);
    let all = |state| parts.clone().all(|part| part == state);
    let unfinished = parts.clone().any(|part| !part.is_final());
    match () {
        () if all(State::Skipped) => State::Skipped,
        () if unfinished && any(State::Blocked) && !any(State::Running) => State::Blocked,
        () if unfinished && parts.clone().all(|p| p == State::Queued || p == State::Skipped) => State::Queued,
        () if unfinished => State::Running,
        () if any(State::Error) => State::Error,
        () if any(State::Failure) => State::Failure,
        () if any(State::Cancelled) => State::Cancelled,
        () => State::Success,
    }
}
