//! What the outside will notice.
//!
//! Effects are written in the same transaction as the state they announce and performed
//! later by the outbox, at least once. The key makes a repetition harmless.

use mergeyard_types::{CommitSha, DeploymentId, RepoName, RunId, TargetName};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effect {
    CommitStatus(CommitStatus),
    Deployment(Deployment),
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

/// A deployment at GitHub and its newest status ("REST API endpoints for deployments").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    pub id: DeploymentId,
    /// What GitHub keeps with it, so that one whose making was not confirmed is found again.
    pub mark: String,
    /// Grows when it is begun again after an end.
    pub turn: u32,
    pub repo: RepoName,
    pub commit: CommitSha,
    /// GitHub's environment.
    pub target: TargetName,
    pub service: String,
    pub state: DeploymentState,
    pub description: String,
    /// The run whose page it links to.
    pub run: RunId,
}

/// By GitHub's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    InProgress,
    Success,
    Failure,
    Error,
    /// Another took its place.
    Inactive,
}

impl DeploymentState {
    pub fn as_str(self) -> &'static str {
        match self {
            DeploymentState::InProgress => "in_progress",
            DeploymentState::Success => "success",
            DeploymentState::Failure => "failure",
            DeploymentState::Error => "error",
            DeploymentState::Inactive => "inactive",
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
            Effect::Deployment(Deployment { id, turn, run, state, .. }) => {
                format!("deployment/{run}/{id}/{turn}/{}", state.as_str())
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
            Effect::Deployment(deployment) => format!("deployment/{}/{}", deployment.repo, deployment.target),
        }
    }
}
