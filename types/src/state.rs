//! The one set of states that runs, workflows and steps share.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Queued,
    Running,
    Success,
    /// The user's code said no.
    Failure,
    /// We or the infrastructure could not.
    Error,
    Cancelled,
    Skipped,
    /// Waits for a person.
    Blocked,
}

impl State {
    pub const ALL: [State; 8] = [
        State::Queued,
        State::Running,
        State::Success,
        State::Failure,
        State::Error,
        State::Cancelled,
        State::Skipped,
        State::Blocked,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Success => "success",
            State::Failure => "failure",
            State::Error => "error",
            State::Cancelled => "cancelled",
            State::Skipped => "skipped",
            State::Blocked => "blocked",
        }
    }

    /// Nothing will change any more.
    pub fn is_final(self) -> bool {
        !matches!(self, State::Queued | State::Running | State::Blocked)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a state")]
pub struct StateError(String);

impl FromStr for State {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        State::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| StateError(text.to_owned()))
    }
}
