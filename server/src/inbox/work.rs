//! From a change to a decision: what its commit holds, and what is to be done about it.

use mergeyard_plan::{change::Change, decide::Decision, event::Event};
use mergeyard_run::git::Remote;
use mergeyard_types::{RunId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{Fault, builtin, facts, sources};
use crate::yard::Yard;

pub(super) async fn decide(
    yard: &Yard,
    event: &Event,
    change: &Change<'_>,
    remote: &Remote,
    now: Timestamp,
) -> Result<Decision, Fault> {
    let git = yard.executor.git();
    let repo = &change.repository.name;
    let commit = git.fetch(repo, remote, change.commit, &change.hints, &CancellationToken::new()).await?;
    let files = sources::read(&commit).await?;
    if files.is_empty() {
        return builtin::decide(yard, change, &commit).await;
    }
    let facts = facts::facts(yard, event, change, (remote, &commit), (RunId(0), now)).await?;
    Ok(Decision::Ignore(format!("{} files, {}", files.len(), facts.repo.name)))
}
