//! Whether an event is a commit to act on: the operator's filters, and who a repository is.

use mergeyard_types::{CommitSha, GitRef, RepoName, Timestamp};

use crate::{
    event::{Event, Forge, PullRequest, Push, Repository},
    policy::{Policies, Policy},
};

/// What the server remembers about names and ids, so that a renamed repository keeps its
/// policy and a new one under an old name inherits nothing.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The name under which this repository's id was first accepted.
    pub name_of_id: Option<RepoName>,
    /// The id that holds this repository's name until now.
    pub id_of_name: Option<i64>,
}

/// A commit that arrived on a branch the operator cares about.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    pub policy: &'a Policy,
    /// The name the policy was found by: not today's, when the repository was renamed.
    pub known_as: RepoName,
    pub forge: Forge,
    pub repository: Repository,
    /// The event's name in the pipeline language.
    pub event: String,
    pub branch: String,
    pub commit: CommitSha,
    /// References that may lead to the commit where it cannot be asked for by its id.
    pub hints: Vec<GitRef>,
    /// When it was merged, by the sender's clock. `None` where the sender does not say.
    pub merged_at: Option<Timestamp>,
    pub title: String,
    pub author: String,
    pub number: Option<u64>,
}

/// Whether this event is a commit to act on. The error is the reason, for a person.
pub fn change<'a>(event: &Event, policies: &'a Policies, identity: &Identity) -> Result<Change<'a>, String> {
    let repository =
        event.repository().ok_or_else(|| format!("event `{}` names no repository", event.name()))?;
    let (policy, known_as) = policy(repository, policies, identity)?;
    let change = match event {
        Event::PullRequestClosed(pull) => merged(pull, policy, known_as)?,
        Event::Push(push) => pushed(push, policy, known_as)?,
        Event::Ping | Event::Tag(_) | Event::Release { .. } => {
            return Err(format!("event `{}` starts nothing here", event.name()));
        }
        Event::Other { event, action: Some(action), .. } => {
            return Err(format!("event `{event}` with action `{action}` starts nothing here"));
        }
        Event::Other { event, action: None, .. } => {
            return Err(format!("event `{event}` starts nothing here"));
        }
    };
    if !policy.branch_counts(&change.branch) {
        return Err(format!(
            "branch `{}` is not among the branches configured for {}: {}",
            change.branch,
            repository.name,
            policy.branches()
        ));
    }
    Ok(change)
}

fn policy<'a>(
    repository: &Repository,
    policies: &'a Policies,
    identity: &Identity,
) -> Result<(&'a Policy, RepoName), String> {
    let name = &repository.name;
    let found = |name: &RepoName| policies.of(name).map(|policy| (policy, name.clone()));
    // An old name that was pinned to another repository since then leads nowhere.
    let open_to_it = |(policy, _): &(&Policy, RepoName)| policy.id.is_none() || policy.id == repository.id;
    let followed = identity.name_of_id.as_ref().and_then(found).filter(open_to_it);
    // Only who comes by the name alone could be taken for the one that had it before.
    let holder = identity.id_of_name.filter(|_| followed.is_none());
    let (policy, known_as) = followed.or_else(|| found(name)).ok_or_else(|| {
        format!(
            "repository {name} is not configured; add `[[repo]]` with `name = \"{name}\"` to mergeyard.toml"
        )
    })?;
    match (repository.id, policy.id.or(holder)) {
        (Some(id), Some(known)) if known != id => Err(format!(
            "{name} is another repository than before (id {id}, was {known}) and inherits nothing; \
             if it is yours, add `id = {id}` to its `[[repo]]`"
        )),
        _ => Ok((policy, known_as)),
    }
}

fn merged<'a>(pull: &PullRequest, policy: &'a Policy, known_as: RepoName) -> Result<Change<'a>, String> {
    let merge = pull
        .merge
        .as_ref()
        .ok_or_else(|| format!("pull request #{} was closed without being merged", pull.number))?;
    let branch = pull.base.branch_name().unwrap_or_default().to_owned();
    Ok(Change {
        policy,
        known_as,
        forge: Forge::Github,
        repository: pull.repository.clone(),
        event: "pull_request_merged".to_owned(),
        branch,
        commit: merge.commit,
        hints: vec![pull.base.clone()],
        merged_at: Some(merge.at),
        title: pull.title.clone(),
        author: pull.author.clone(),
        number: Some(pull.number),
    })
}

fn pushed<'a>(push: &Push, policy: &'a Policy, known_as: RepoName) -> Result<Change<'a>, String> {
    let branch =
        push.git_ref.branch_name().ok_or_else(|| format!("`{}` is not a branch", push.git_ref))?.to_owned();
    let commit = push.after.ok_or_else(|| format!("`{}` was deleted", push.git_ref))?;
    if push.forge == Forge::Github {
        return Err(format!(
            "a push to `{branch}` starts nothing here: GitHub says a merge with a pull request event"
        ));
    }
    Ok(Change {
        policy,
        known_as,
        forge: push.forge,
        repository: push.repository.clone(),
        event: "push".to_owned(),
        branch,
        commit,
        hints: vec![push.git_ref.clone()],
        merged_at: None,
        title: push.title.clone(),
        author: push.author.clone(),
        number: None,
    })
}
