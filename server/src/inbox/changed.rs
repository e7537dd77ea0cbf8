//! Which files a change touched.
//!
//! A payload that lists them is believed first, then the forge, then the trees of two commits.
//! Where none of these says it, nobody knows: a plan that depends on paths then goes the safe
//! way, and a delivery is never given up for it.

use mergeyard_plan::{
    change::Change,
    event::{Event, EventKind, Forge, Merge, PullRequest},
};
use mergeyard_run::git::{Commit, GitError, Made, Remote};
use mergeyard_types::CommitSha;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::yard::Yard;

pub(super) struct Changed<'a> {
    pub(super) yard: &'a Yard,
    pub(super) change: &'a Change<'a>,
    pub(super) remote: &'a Remote,
    pub(super) commit: &'a Commit,
    pub(super) made: &'a Made,
}

impl Changed<'_> {
    pub(super) async fn files(&self, event: &Event) -> Option<Vec<String>> {
        match event {
            Event::Push(push) if push.files.is_some() => push.files.clone(),
            Event::Push(push) => self.since(push.before?).await,
            Event::PullRequest(pull) => self.of_pull_request(pull).await,
            Event::Rehearsed { rehearsal, .. }
                if rehearsal.kind == EventKind::Push || rehearsal.kind.is_pull_request() =>
            {
                self.since(rehearsal.before?).await
            }
            _ => None,
        }
    }

    async fn of_pull_request(&self, pull: &PullRequest) -> Option<Vec<String>> {
        match pull.merge {
            // With two parents the first is the branch without the pull request.
            Some(Merge { .. }) if self.made.parents.len() > 1 => self.since(self.made.parents[0]).await,
            // Squashed or rebased: a single parent is all of it, or only the last of its commits.
            Some(Merge { .. }) => match self.at_github(pull.number).await {
                Some(files) => Some(files),
                None => self.since(*self.made.parents.first()?).await,
            },
            None => match self.at_github(pull.number).await {
                Some(files) => Some(files),
                None => self.since(pull.base_commit).await,
            },
        }
    }

    async fn at_github(&self, number: u64) -> Option<Vec<String>> {
        let github = self.yard.github.as_ref().filter(|_| self.change.forge == Forge::Github)?;
        match github.changed_files(&self.change.repository.name, number).await {
            Ok(files) => files,
            Err(error) => {
                warn!(repo = %self.change.repository.name, number, error = %error,
                    "GitHub did not say which files a pull request changes; the commits are compared");
                None
            }
        }
    }

    async fn since(&self, base: CommitSha) -> Option<Vec<String>> {
        match self.compare(base).await {
            Ok(files) => files,
            Err(error) => {
                warn!(repo = %self.change.repository.name, %base, error = %error,
                    "what changed since a commit is not known");
                None
            }
        }
    }

    async fn compare(&self, base: CommitSha) -> Result<Option<Vec<String>>, GitError> {
        let repo = &self.change.repository.name;
        let git = self.yard.executor.git();
        let base = git.fetch(repo, self.remote, base, &[], &CancellationToken::new()).await?;
        self.commit.changed_since(&base).await
    }
}
