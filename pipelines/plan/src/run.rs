//! The life of a run: what its steps report, turned into states and effects.
//!
//! [`Run::apply`] is the one place where a step changes its state and where a run is
//! completed. It touches nothing outside itself; the caller stores the new states and the
//! returned effects in one transaction.

use std::{collections::BTreeMap, time::Duration};

use mergeyard_types::{CommitSha, RepoName, RunId, State, StepId, Timestamp, WorkflowId};

use crate::{
    effect::{CommitStatus, Effect, StatusState},
    event::Forge,
};

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
    pub workflows: Vec<Workflow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workflow {
    pub id: WorkflowId,
    pub name: String,
    pub axis: Option<String>,
    pub state: State,
    pub why: Option<String>,
    /// In order: a step starts when the one before it succeeded.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub id: StepId,
    pub name: String,
    pub state: State,
    pub why: Option<String>,
    /// Whether nothing but a worker is missing.
    pub ready: bool,
    pub not_before: Timestamp,
    /// How often it was started.
    pub attempt: u32,
    /// How often it may be tried again after an error that was not the user's.
    pub retry: u32,
    pub crashes: u32,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub outputs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Started {
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
    pub fn announce(&mut self) -> Vec<Effect> {
        for workflow in &mut self.workflows {
            workflow.settle();
        }
        self.settle();
        self.workflows.iter().filter_map(|workflow| self.status(workflow)).collect()
    }

    pub fn apply(&mut self, report: Report, now: Timestamp) -> Vec<Effect> {
        let before: Vec<State> = self.workflows.iter().map(|workflow| workflow.state).collect();
        match report {
            Report::Cancel { why } => self.cancel(why, now),
            Report::Started { step } => self.change(step, |step, _| {
                step.state = State::Running;
                step.ready = false;
                step.attempt += 1;
                step.started.get_or_insert(now);
                step.why = None;
            }),
            Report::Finished { step, outcome } => {
                self.change(step, |step, cancel| step.finish(outcome, cancel, now));
            }
            Report::Lost { step } => self.change(step, |step, cancel| step.lose(cancel, now)),
            Report::HandedOver { step } => self.change(step, |step, cancel| step.again(cancel, now)),
        }
        for workflow in &mut self.workflows {
            workflow.go_on(now);
            workflow.settle();
        }
        self.settle();
        let finished =
            |(workflow, before): &(&Workflow, State)| workflow.state.is_final() && !before.is_final();
        self.workflows
            .iter()
            .zip(before)
            .filter(finished)
            .filter_map(|(workflow, _)| self.status(workflow))
            .collect()
    }

    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.workflows.iter().flat_map(|workflow| &workflow.steps).find(|step| step.id == id)
    }

    fn change(&mut self, id: StepId, change: impl FnOnce(&mut Step, Option<&str>)) {
        let cancel = self.cancel.as_deref();
        let step = self.workflows.iter_mut().flat_map(|w| &mut w.steps).find(|step| step.id == id);
        if let Some(step) = step.filter(|step| !step.state.is_final()) {
            change(step, cancel);
        }
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

    fn settle(&mut self) {
        self.state = worst(self.workflows.iter().map(|workflow| workflow.state));
    }

    fn status(&self, workflow: &Workflow) -> Option<Effect> {
        if self.forge != Forge::Github {
            return None;
        }
        let axis = workflow.axis.as_deref().map(|axis| format!("/{axis}")).unwrap_or_default();
        let state = match workflow.state {
            State::Queued | State::Running | State::Blocked => StatusState::Pending,
            State::Success | State::Skipped => StatusState::Success,
            State::Failure => StatusState::Failure,
            State::Error | State::Cancelled => StatusState::Error,
        };
        Some(Effect::CommitStatus(CommitStatus {
            repo: self.repo.clone(),
            commit: self.commit,
            context: format!("mergeyard/{}/{}{axis}", self.event, workflow.name),
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
            return why.clone();
        }
        match self.state {
            State::Queued => "waiting for a worker".to_owned(),
            State::Success => {
                let image = self.steps.iter().find_map(|step| step.outputs.get("image"));
                let published = image.map(|image| format!("published {image}"));
                published.unwrap_or_else(|| "done".to_owned())
            }
            other => other.as_str().to_owned(),
        }
    }

    /// Makes the next step ready, or skips the rest when a step did not succeed.
    fn go_on(&mut self, now: Timestamp) {
        let mut open = true;
        let mut broken = false;
        for step in &mut self.steps {
            if broken && !step.state.is_final() {
                step.end(State::Skipped, Some("an earlier step did not succeed".to_owned()), now);
            }
            step.ready = open && step.state == State::Queued;
            open &= step.state == State::Success;
            broken |= step.state.is_final() && step.state != State::Success;
        }
    }

    /// A workflow without steps was finished by its plan and keeps that state.
    fn settle(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        self.state = worst(self.steps.iter().map(|step| step.state));
        let telling = self.steps.iter().find(|step| step.state == self.state && step.why.is_some());
        self.why = telling.and_then(|step| step.why.clone());
    }
}

impl Step {
    fn end(&mut self, state: State, why: Option<String>, now: Timestamp) {
        self.state = state;
        self.why = why;
        self.ready = false;
        self.finished = Some(now);
    }

    fn finish(&mut self, outcome: Outcome, cancel: Option<&str>, now: Timestamp) {
        match outcome {
            Outcome::Success { outputs } => {
                self.outputs = outputs;
                self.end(State::Success, None, now);
            }
            Outcome::Failure { message } => self.end(State::Failure, Some(message), now),
            Outcome::Cancelled => {
                let why = cancel.unwrap_or("cancelled").to_owned();
                self.end(State::Cancelled, Some(why), now);
            }
            Outcome::Error { .. } if cancel.is_some() => {
                self.end(State::Cancelled, cancel.map(str::to_owned), now);
            }
            Outcome::Error { message, retry } if retry && self.attempt <= self.retry => {
                self.state = State::Queued;
                self.not_before = now.plus(backoff(self.attempt));
                self.why = Some(format!("attempt {} of {}: {message}", self.attempt, self.retry + 1));
            }
            Outcome::Error { message, .. } => self.end(State::Error, Some(message), now),
        }
    }

    fn lose(&mut self, cancel: Option<&str>, now: Timestamp) {
        self.crashes += 1;
        if cancel.is_none() && self.crashes >= MOST_CRASHES {
            let why = format!(
                "the server died {} times while running this step, so it is not run again",
                self.crashes
            );
            self.end(State::Error, Some(why), now);
        } else {
            self.again(cancel, now);
        }
    }

    fn again(&mut self, cancel: Option<&str>, now: Timestamp) {
        if let Some(why) = cancel {
            return self.end(State::Cancelled, Some(why.to_owned()), now);
        }
        self.state = State::Queued;
        self.not_before = now;
        self.why = Some("the server stopped while running this step; it starts again".to_owned());
        // The attempt was not the step's own fault, so it does not use up a retry.
        self.attempt = self.attempt.saturating_sub(1);
    }
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
