//! What can go wrong between a commit's name and its files, sorted by what to do about it.

use std::time::Duration;

use mergeyard_types::{CommitSha, RepoName};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    #[error("commit {commit} is gone from {repo}: no reference of the repository leads to it any more")]
    CommitGone { repo: RepoName, commit: CommitSha },
    #[error("{repo} does not let us in: {why}; check its clone address and the token for it")]
    Auth { repo: RepoName, why: String },
    /// Not allowed by us, however often it is tried.
    #[error("{0}")]
    Refused(String),
    #[error("{what} is over the limit of {limit}")]
    Limit { what: String, limit: String },
    #[error("fetching {repo} took longer than {}s and was stopped", .after.as_secs())]
    Timeout { repo: RepoName, after: Duration },
    #[error("could not fetch {repo}: {why}")]
    Network { repo: RepoName, why: String },
    /// The mirror is broken; it is thrown away before the next fetch.
    #[error("the mirror of {repo} is damaged: {why}")]
    Corrupt { repo: RepoName, why: String },
    /// Something on this machine: no `git` program, no space, no permission.
    #[error("{0}")]
    Local(String),
    #[error("cancelled")]
    Cancelled,
}

impl GitError {
    /// May the same fetch succeed a little later?
    ///
    /// A commit that is gone counts: a hosting service may announce a merge before all of
    /// its replicas have it.
    pub fn is_transient(&self) -> bool {
        match self {
            GitError::CommitGone { .. }
            | GitError::Timeout { .. }
            | GitError::Network { .. }
            | GitError::Corrupt { .. }
            | GitError::Local(_) => true,
            GitError::Auth { .. } | GitError::Refused(_) | GitError::Limit { .. } | GitError::Cancelled => {
                false
            }
        }
    }
}
