//! What the outside will notice.
//!
//! Effects are written in the same transaction as the state they announce and performed
//! later by the outbox, at least once. The key makes a repetition harmless.

use mergeyard_types::{CommitSha, RepoName, RunId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effect {
    CommitStatus(CommitStatus),
}

/// A commit status at GitHub ("REST API endpoints for commit statuses").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitStatus {
    pub repo: RepoName,
    pub commit: CommitSha,
    pub context: String,
    pub state: StatusState,
    pub description: String,
    /// The run whose page the status links to.
    pub run: Option<RunId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusState {
    Pending,
    Success,
    Failure,
    Error,
}

impl StatusState {
    pub fn as_str(self) -> &'static str {
        match self {
            StatusState::Pending => "pending",
            StatusState::Success => "success",
            StatusState::Failure => "failure",
            StatusState::Error => "error",
        }
    }
}

impl Effect {
    /// One effect has one key, however often it is asked for.
    pub fn key(&self) -> String {
        match self {
            Effect::CommitStatus(status) => {
                let run = status.run.map_or_else(|| "none".to_owned(), |run| run.to_string());
                let key =
                    format!("status/{run}/{}/{}/{}", status.commit, status.context, status.state.as_str());
                // A workflow ends once, but it may have to wait for one thing after another.
                match status.state {
                    StatusState::Pending => format!("{key}/{}", status.description),
                    _ => key,
                }
            }
        }
    }

    /// Effects of one lane are performed in the order they were written, because the
    /// receiver keeps only the last.
    pub fn lane(&self) -> String {
        match self {
            Effect::CommitStatus(status) => {
                format!("status/{}/{}/{}", status.repo, status.commit, status.context)
            }
        }
    }
}
