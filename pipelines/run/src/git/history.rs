//! What a commit says about itself, and what differs between two of them.

use mergeyard_types::{CommitSha, Timestamp};

use super::{Commit, GitError, commit::oid};

/// Differences are not listed past this: it protects memory.
const MOST_CHANGES: usize = 100_000;

/// A message is not read past this: it becomes one variable of a program's environment.
const LONGEST_MESSAGE: usize = 32 * 1024;

/// Who made a commit, as it says itself, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub author: String,
    pub email: String,
    pub message: String,
    pub time: Timestamp,
    /// Known also where the parents themselves were not fetched.
    pub parents: Vec<CommitSha>,
}

impl Commit {
    pub async fn made(&self) -> Result<Made, GitError> {
        self.read(|commit, git, _| {
            let found = commit.found(git)?;
            let author = found.author();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            Ok(Made {
                author: text(author.name_bytes()),
                email: text(author.email_bytes()),
                message: text(cut(found.message_bytes())),
                time: Timestamp(author.when().seconds().saturating_mul(1000)),
                parents: found.parent_ids().map(|id| sha(&id)).collect(),
            })
        })
        .await
    }

    /// The paths that differ between `base` and this commit, of one mirror both. `None` when
    /// they are too many to be listed.
    pub async fn changed_since(&self, base: &Commit) -> Result<Option<Vec<String>>, GitError> {
        let base = base.sha();
        self.read(move |commit, git, root| {
            let broken = |e: git2::Error| commit.mirror.corrupt(e.message());
            let base = git.find_commit(oid(base)).and_then(|base| base.tree()).map_err(broken)?;
            let mut options = git2::DiffOptions::new();
            options.ignore_submodules(true).skip_binary_check(true);
            let diff = git.diff_tree_to_tree(Some(&base), Some(root), Some(&mut options)).map_err(broken)?;
            if diff.deltas().len() > MOST_CHANGES {
                return Ok(None);
            }
            let path = |delta: git2::DiffDelta<'_>| {
                let file =
                    if delta.new_file().path_bytes().is_some() { delta.new_file() } else { delta.old_file() };
                file.path_bytes().map(|path| String::from_utf8_lossy(path).into_owned())
            };
            Ok(Some(diff.deltas().filter_map(path).collect()))
        })
        .await
    }
}

fn cut(message: &[u8]) -> &[u8] {
    &message[..message.len().min(LONGEST_MESSAGE)]
}

fn sha(id: &git2::Oid) -> CommitSha {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(&id.as_bytes()[..20]);
    CommitSha::new(bytes)
}
