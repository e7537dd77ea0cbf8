//! What a report does to the one step it is about.

use mergeyard_types::{State, Timestamp};

use super::{MOST_CRASHES, Outcome, Step, backoff};
use crate::spec::OnFailure;

impl Step {
    pub(super) fn start(&mut self, now: Timestamp) {
        self.state = State::Running;
        self.ready = false;
        self.attempt += 1;
        self.started.get_or_insert(now);
        self.why = None;
    }

    pub(super) fn end(&mut self, state: State, why: Option<String>, now: Timestamp) {
        self.state = state;
        self.why = why;
        self.ready = false;
        self.finished = Some(now);
    }

    pub(super) fn finish(&mut self, outcome: Outcome, cancel: Option<&str>, now: Timestamp) {
        match outcome {
            Outcome::Success { outputs } => {
                self.outputs.extend(outputs);
                self.end(State::Success, None, now);
            }
            Outcome::Failure { message } if self.may_fail_again() && cancel.is_none() => {
                self.try_again(&message, now);
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
                self.try_again(&message, now);
            }
            Outcome::Error { message, .. } => self.end(State::Error, Some(message), now),
        }
    }

    pub(super) fn lose(&mut self, cancel: Option<&str>, now: Timestamp) {
        // What came up is not what brings its server down.
        self.crashes += u32::from(!self.up);
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

    pub(super) fn again(&mut self, cancel: Option<&str>, now: Timestamp) {
        if let Some(why) = cancel {
            return self.end(State::Cancelled, Some(why.to_owned()), now);
        }
        self.state = State::Queued;
        self.up = false;
        self.not_before = now;
        self.why = Some("the server stopped while running this step; it starts again".to_owned());
        // The attempt was not the step's own fault, so it does not use up a retry; and the same
        // attempt may find its container again.
        self.attempt = self.attempt.saturating_sub(1);
    }

    /// Whether it said no. What was up before that did what others needed of it.
    pub(super) fn breaks_others(&self) -> bool {
        self.failed() && self.rules.failure != OnFailure::Ignore && !self.up
    }

    pub(super) fn failed(&self) -> bool {
        matches!(self.state, State::Failure | State::Error | State::Cancelled)
    }

    /// Its state as its workflow counts it.
    pub(super) fn counted(&self) -> State {
        match (self.state, self.rules.failure) {
            (State::Failure | State::Error, OnFailure::Ignore) => State::Success,
            // A service that only waits with the others is no work that goes on.
            (State::Running, _) if self.up => State::Success,
            (state, _) => state,
        }
    }

    fn may_fail_again(&self) -> bool {
        self.rules.retry_failures && self.attempt <= self.retry && !self.up
    }

    fn try_again(&mut self, message: &str, now: Timestamp) {
        self.state = State::Queued;
        self.up = false;
        self.not_before = now.plus(backoff(self.attempt));
        self.why = Some(format!("attempt {} of {}: {message}", self.attempt, self.retry + 1));
    }
}
