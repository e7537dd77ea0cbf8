//! Why a step ends badly, in the two kinds that matter to whoever reads it: the user's
//! code said no, or we and the infrastructure could not.

use std::error::Error as StdError;

use crate::{executor::StepOutcome, git::GitError, registry_client::RegistryError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepFault {
    /// The user's to repair; trying again changes nothing.
    #[error("{0}")]
    Failure(String),
    /// The step's own program said so, by the code it ended with.
    #[error("{message}")]
    Exited { code: i64, message: String },
    /// Ours to repair; `retry` says whether time may do it.
    #[error("{message}")]
    Error { message: String, retry: bool },
    #[error("cancelled")]
    Cancelled,
}

impl StepFault {
    pub(crate) fn transient(message: impl Into<String>) -> Self {
        StepFault::Error { message: message.into(), retry: true }
    }

    pub(crate) fn lasting(message: impl Into<String>) -> Self {
        StepFault::Error { message: message.into(), retry: false }
    }
}

impl From<StepFault> for StepOutcome {
    fn from(fault: StepFault) -> Self {
        match fault {
            StepFault::Failure(message) => StepOutcome::Failure { message },
            StepFault::Exited { code, message } => StepOutcome::Exited { code, message },
            StepFault::Error { message, retry } => StepOutcome::Error { message, retry },
            StepFault::Cancelled => StepOutcome::Cancelled,
        }
    }
}

impl From<GitError> for StepFault {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Cancelled => StepFault::Cancelled,
            GitError::Limit { .. } => StepFault::Failure(error.to_string()),
            _ => StepFault::Error { message: error.to_string(), retry: error.is_transient() },
        }
    }
}

impl From<RegistryError> for StepFault {
    fn from(error: RegistryError) -> Self {
        StepFault::Error { message: error.to_string(), retry: error.is_transient() }
    }
}

/// What is at the bottom of it, without what it was wrapped in on its way.
pub(crate) fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
