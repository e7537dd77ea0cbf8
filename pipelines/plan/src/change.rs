//! Whether an event is a commit to act on: the operator's filters, and who a repository is.

use mergeyard_types::{CommitSha, GitRef, RepoName, Timestamp};

use crate::{
    event::{Asked, Deployment, Event, EventKind, Forge, PullRequest, Push, Rehearsal, Release, Repository},
    policy::{Forks, Policies, Policy},
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

/// Something that happened to a commit, and that the operator cares about.
#[derive(Debug, Clone)]
pub struct Change<'a, C = CommitSha> {
    pub policy: &'a Policy,
    /// The name the policy was found by: not today's, when the repository was renamed.
    pub known_as: RepoName,
    pub forge: Forge,
    pub repository: Repository,
    pub event: EventKind,
    /// Of a pull request the one it goes to; of a tag the one it was made on, or nothing.
    pub branch: String,
    /// `refs/heads/main`, `refs/pull/7/head`, `refs/tags/v1`.
    pub git_ref: Option<GitRef>,
    pub commit: C,
    /// References that may lead to the commit where it cannot be asked for by its id.
    pub hints: Vec<GitRef>,
    /// When it was merged, by the sender's clock. `None` where nothing was.
    pub merged_at: Option<Timestamp>,
    pub title: String,
    pub author: String,
    pub number: Option<u64>,
    /// Of a pull request from another repository: whose it is.
    pub fork: Option<Fork>,
    /// Tells apart what may happen to one commit several times, in a run's key.
    pub occasion: String,
}

/// Which commit it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    Commit(CommitSha),
    /// The tip of a reference, or of the default branch, which the event does not name.
    Tip(Option<GitRef>),
}

/// Whose word a pull request from another repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// Who opened it, and to whom the repository belongs that it comes from: the one could
    /// propose what the other changes later. All of them have to be trusted.
    pub accounts: Vec<i64>,
    /// Whether one of them is not known, as of a repository that was deleted.
    pub unknown: bool,
}

impl<'a> Change<'a, At> {
    /// The change, once it is known what the reference leads to.
    pub fn at(self, commit: CommitSha, git_ref: Option<GitRef>) -> Change<'a> {
        let git_ref = git_ref.or(self.git_ref);
        let branch = match git_ref.as_ref().and_then(GitRef::branch_name) {
            Some(branch) if self.branch.is_empty() => branch.to_owned(),
            _ => self.branch,
        };
        Change {
            policy: self.policy,
            known_as: self.known_as,
            forge: self.forge,
            repository: self.repository,
            event: self.event,
            branch,
            hints: if self.hints.is_empty() { git_ref.iter().cloned().collect() } else { self.hints },
            git_ref,
            commit,
            merged_at: self.merged_at,
            title: self.title,
            author: self.author,
            number: self.number,
            fork: self.fork,
            occasion: self.occasion,
        }
    }

    /// The change, when its event names the commit.
    pub fn known(self) -> Option<Change<'a>> {
        match self.commit {
            At::Commit(commit) => Some(self.at(commit, None)),
            At::Tip(_) => None,
        }
    }
}

/// Whether this event is about a commit to act on. The error is the reason, for a person.
pub fn change<'a>(
    event: &Event,
    policies: &'a Policies,
    identity: &Identity,
) -> Result<Change<'a, At>, String> {
    let repository =
        event.repository().ok_or_else(|| format!("event `{}` names no repository", event.name()))?;
    let (policy, known_as) = policy(repository, policies, identity)?;
    let change = match event {
        Event::PullRequest(pull) => pull_request(pull, policy, known_as),
        Event::Push(push) | Event::Tag(push) => pushed(push, policy, known_as)?,
        Event::Release(release) => released(release, policy, known_as),
        Event::Deployment(deployment) => deployed(deployment, policy, known_as),
        Event::Asked { forge, repository, asked } => asked_for(asked, (*forge, repository), policy, known_as),
        Event::Rehearsed { repository, rehearsal } => rehearsed(rehearsal, repository, policy, known_as),
        Event::Other { event, action: Some(action), .. } => {
            return Err(format!("event `{event}` with action `{action}` starts nothing here"));
        }
        Event::Ping | Event::Other { .. } => {
            return Err(format!("event `{}` starts nothing here", event.name()));
        }
    };
    counts(&change)?;
    Ok(change)
}

/// The operator's filters. What was asked for here needs no leave: who asked has it.
fn counts(change: &Change<'_, At>) -> Result<(), String> {
    let Change { policy, event, branch, repository, .. } = change;
    if change.fork.is_some() && policy.forks == Forks::Ignore {
        return Err(format!("it comes from a fork, and `forks` of {} says to ignore those", repository.name));
    }
    if matches!(event, EventKind::Cron | EventKind::Manual) {
        return Ok(());
    }
    if !policy.event_counts(*event) {
        return Err(format!(
            "event `{event}` is not among the events configured for {}: {}",
            repository.name,
            policy.events()
        ));
    }
    if !matches!(event, EventKind::Tag | EventKind::Release) && !policy.branch_counts(branch) {
        return Err(format!(
            "branch `{branch}` is not among the branches configured for {}: {}",
            repository.name,
            policy.branches()
        ));
    }
    Ok(())
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

fn pull_request<'a>(pull: &PullRequest, policy: &'a Policy, known_as: RepoName) -> Change<'a, At> {
    let head = format!("refs/pull/{}/head", pull.number).parse::<GitRef>().ok();
    let (commit, git_ref, hints) = match &pull.merge {
        Some(merge) => (merge.commit, Some(pull.base.clone()), vec![pull.base.clone()]),
        None => (pull.head.commit, head.clone(), head.into_iter().collect()),
    };
    // One merge is one occasion, by whatever webhook it is told.
    let occasion = match pull.merge {
        Some(_) => String::new(),
        None => format!("#{}/{}/{}", pull.number, pull.action, pull.updated),
    };
    Change {
        policy,
        known_as,
        forge: Forge::Github,
        repository: pull.repository.clone(),
        event: pull.kind,
        branch: pull.base.branch_name().unwrap_or_default().to_owned(),
        git_ref,
        commit: At::Commit(commit),
        hints,
        merged_at: pull.merge.as_ref().map(|merge| merge.at),
        title: pull.title.clone(),
        author: pull.author.login.clone(),
        number: Some(pull.number),
        fork: fork(pull),
        occasion,
    }
}

/// A merged pull request is the repository's own: who could merge it took it over.
fn fork(pull: &PullRequest) -> Option<Fork> {
    let home = pull.repository.id;
    if pull.merge.is_some() || pull.head.repository.is_some_and(|(id, _)| Some(id) == home) {
        return None;
    }
    let owner = pull.head.repository.and_then(|(_, owner)| owner);
    let known: Vec<Option<i64>> = vec![pull.author.id, owner];
    let mut accounts: Vec<i64> = known.iter().copied().flatten().collect();
    accounts.dedup();
    Some(Fork { accounts, unknown: known.contains(&None) })
}

fn pushed<'a>(push: &Push, policy: &'a Policy, known_as: RepoName) -> Result<Change<'a, At>, String> {
    let tag = push.git_ref.tag_name();
    let branch = match (push.git_ref.branch_name(), tag) {
        (Some(branch), _) => branch.to_owned(),
        (None, Some(_)) => push.base_branch.clone().unwrap_or_default(),
        (None, None) => return Err(format!("`{}` is neither a branch nor a tag", push.git_ref)),
    };
    let commit = push.after.ok_or_else(|| format!("`{}` was deleted", push.git_ref))?;
    // A plain git server names the tag's own object where the tag is annotated.
    let tip = push.forge == Forge::Git && tag.is_some();
    Ok(Change {
        policy,
        known_as,
        forge: push.forge,
        repository: push.repository.clone(),
        event: if tag.is_some() { EventKind::Tag } else { EventKind::Push },
        branch,
        git_ref: Some(push.git_ref.clone()),
        commit: if tip { At::Tip(Some(push.git_ref.clone())) } else { At::Commit(commit) },
        hints: vec![push.git_ref.clone()],
        merged_at: None,
        title: push.title.clone(),
        author: push.author.login.clone(),
        number: None,
        fork: None,
        occasion: moved(push),
    })
}

/// A reference may come back to a commit, and then is pushed there once more.
fn moved(push: &Push) -> String {
    let Push { git_ref, before, pushed, .. } = push;
    let before = before.map(|before| before.to_string());
    let known = [Some(git_ref.to_string()), before, pushed.map(|at| at.to_string())];
    known.into_iter().flatten().collect::<Vec<_>>().join("/")
}

fn released<'a>(release: &Release, policy: &'a Policy, known_as: RepoName) -> Change<'a, At> {
    // GitHub names the commit where the tag was made by its release, and else a branch.
    let branch = match release.target.parse::<CommitSha>() {
        Ok(_) => release.repository.default_branch.clone().unwrap_or_default(),
        Err(_) => release.target.clone(),
    };
    Change {
        policy,
        known_as,
        forge: Forge::Github,
        repository: release.repository.clone(),
        event: EventKind::Release,
        branch,
        git_ref: Some(release.tag.clone()),
        commit: At::Tip(Some(release.tag.clone())),
        hints: vec![release.tag.clone()],
        merged_at: None,
        title: release.title.clone(),
        author: release.author.login.clone(),
        number: None,
        fork: None,
        occasion: release.tag.to_string(),
    }
}

fn deployed<'a>(deployment: &Deployment, policy: &'a Policy, known_as: RepoName) -> Change<'a, At> {
    let by_commit = deployment.commit.to_string().starts_with(&deployment.wanted);
    let git_ref = match deployment.wanted.parse::<GitRef>() {
        Ok(git_ref) => Some(git_ref),
        Err(_) if by_commit => {
            deployment.repository.default_branch.as_deref().and_then(|b| GitRef::branch(b).ok())
        }
        Err(_) => GitRef::branch(&deployment.wanted).ok(),
    };
    Change {
        policy,
        known_as,
        forge: Forge::Github,
        repository: deployment.repository.clone(),
        event: EventKind::Deployment,
        branch: git_ref.as_ref().and_then(GitRef::branch_name).unwrap_or_default().to_owned(),
        hints: git_ref.iter().cloned().collect(),
        git_ref,
        commit: At::Commit(deployment.commit),
        merged_at: None,
        title: deployment.description.clone(),
        author: deployment.author.login.clone(),
        number: None,
        fork: None,
        occasion: deployment.id.to_string(),
    }
}

fn asked_for<'a>(
    asked: &Asked,
    (forge, repository): (Forge, &Repository),
    policy: &'a Policy,
    known_as: RepoName,
) -> Change<'a, At> {
    let kind = asked.kind.event();
    Change {
        policy,
        known_as,
        forge,
        repository: repository.clone(),
        event: kind,
        branch: String::new(),
        git_ref: asked.git_ref.clone(),
        commit: At::Tip(asked.git_ref.clone()),
        hints: asked.git_ref.iter().cloned().collect(),
        merged_at: None,
        title: match kind {
            EventKind::Cron => format!("schedule `{}`", asked.name),
            _ => "started by hand".to_owned(),
        },
        author: asked.who.clone(),
        number: None,
        fork: None,
        occasion: format!("{}/{}", asked.name, asked.occasion),
    }
}

fn rehearsed<'a>(
    rehearsal: &Rehearsal,
    repository: &Repository,
    policy: &'a Policy,
    known_as: RepoName,
) -> Change<'a, At> {
    let pull = rehearsal.kind.is_pull_request();
    let number = pull.then_some(Rehearsal::PULL_REQUEST);
    let head = number.and_then(|number| format!("refs/pull/{number}/head").parse().ok());
    let merged = rehearsal.kind == EventKind::PullRequestMerged;
    Change {
        policy,
        known_as,
        forge: Forge::Git,
        repository: repository.clone(),
        event: rehearsal.kind,
        branch: rehearsal.branch.clone(),
        git_ref: head.filter(|_| !merged).or_else(|| Some(rehearsal.git_ref.clone())),
        commit: At::Commit(rehearsal.commit),
        hints: GitRef::branch(&rehearsal.branch).into_iter().collect(),
        merged_at: None,
        title: rehearsal.title.clone(),
        author: rehearsal.author.clone(),
        number,
        fork: None,
        occasion: String::new(),
    }
}
