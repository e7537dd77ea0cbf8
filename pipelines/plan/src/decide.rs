//! From an event to a plan, or to the reason why not.
//!
//! Three pure steps, because the facts for each come from farther away: [`change`] needs
//! only the configuration, [`candidates`] the files at the commit, [`decide`] what the
//! registry has already published.

use mergeyard_types::{CommitSha, Digest, GitRef, ImageName, RepoName, RunId, Timestamp, TreeId, Version};

use crate::{
    action::{Action, ImageAction},
    event::{Event, Forge, PullRequest, Push, Repository},
    finding::Finding,
    pipeline::{Pipeline, Uses},
    policy::{Policies, Policy},
    rules::{StepRules, WorkflowRules},
    service::Service,
};

/// A commit can hold many folders; past this it is a mistake or an attack.
pub const MOST_IMAGES: usize = 100;

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

/// A folder that holds both files, as recorded in the commit.
#[derive(Debug, Clone)]
pub struct Folder {
    /// `""` for the root.
    pub path: String,
    pub tree: TreeId,
    pub dockerfile: File,
    pub spec: File,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    Text(Vec<u8>),
    TooLarge(u64),
    /// A symbolic link: never followed, because it may point out of the repository.
    Symlink,
    /// A submodule or anything else that is not a file.
    NotAFile,
}

/// A folder and the image it asks for.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub folder: String,
    pub tree: TreeId,
    pub service: Result<Service, Finding>,
}

/// What the registry holds under a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    Nothing,
    Image {
        digest: Digest,
        tree: Option<TreeId>,
    },
    /// The registry did not answer; the step will ask again.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Ignore(String),
    Run(Box<PlannedRun>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRun {
    /// The id that the plan's variables were made with; `None` when nothing in it says one.
    pub id: Option<RunId>,
    pub forge: Forge,
    pub repo: RepoName,
    pub known_as: RepoName,
    pub clone_url: Option<String>,
    pub source_url: Option<String>,
    pub event: String,
    pub branch: String,
    pub commit: CommitSha,
    pub hints: Vec<GitRef>,
    pub merged_at: Option<Timestamp>,
    pub title: String,
    pub author: String,
    pub number: Option<u64>,
    pub supersede: bool,
    /// What is known about its pipeline and commit, for the `CI_PREV_…` of the run after it.
    pub facts: serde_json::Value,
    /// Who caused it, by the forge's number.
    pub account: Option<i64>,
    /// A pull request from another repository.
    pub fork: bool,
    /// Why nothing of it starts before a person says so.
    pub hold: Option<String>,
    pub rerun_of: Option<RunId>,
    pub workflows: Vec<PlannedWorkflow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedWorkflow {
    pub name: String,
    pub axis: Option<String>,
    pub verdict: Verdict,
    pub rules: WorkflowRules,
    pub steps: Vec<PlannedStep>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Run,
    /// Nothing to do, and why.
    Skip(String),
    /// The user's files say no, and why.
    Refuse(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    pub name: String,
    /// Only `Run` and `Skip`: what the files refuse, refuses the whole workflow.
    pub verdict: Verdict,
    pub action: Action,
    pub rules: StepRules,
    pub timeout: std::time::Duration,
    pub retry: u32,
    /// Steps with the same key run one after another in merge order.
    pub serial: Option<String>,
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

/// Reads the `spec.json` of each folder.
pub fn candidates(folders: &[Folder]) -> Vec<Candidate> {
    folders
        .iter()
        .map(|folder| Candidate {
            // What cannot be printed is never built, only named.
            folder: folder.path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
            tree: folder.tree,
            service: printable(&folder.path)
                .and_then(|()| text(&folder.path, "Dockerfile", &folder.dockerfile))
                .and_then(|_| text(&folder.path, "spec.json", &folder.spec))
                .and_then(|spec| Service::parse(&path(&folder.path, "spec.json"), spec)),
        })
        .collect()
}

/// The folder's name becomes part of a status, a page and a log.
fn printable(folder: &str) -> Result<(), Finding> {
    if folder.chars().any(char::is_control) {
        let name: String = folder.escape_debug().collect();
        return Err(Finding::error(
            &name,
            "folder-name",
            "the folder's name has control characters; rename it",
        ));
    }
    Ok(())
}

/// A file's path from its folder's, where `""` is the root.
pub fn path(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

fn text<'f>(folder: &str, name: &str, file: &'f File) -> Result<&'f [u8], Finding> {
    let path = path(folder, name);
    match file {
        File::Text(bytes) => Ok(bytes),
        File::TooLarge(size) => {
            Err(Finding::error(&path, "file-too-large", format!("{size} bytes are too many for this file")))
        }
        File::Symlink => Err(Finding::error(
            &path,
            "file-symlink",
            "it is a symbolic link, which is never followed; commit the file itself",
        )),
        File::NotAFile => Err(Finding::error(&path, "file-kind", "it is not a file; commit a regular file")),
    }
}

/// The plan for a change, from what its commit holds and what is published already.
/// `published` stands beside `candidates`, one for one.
pub fn decide(
    change: &Change<'_>,
    pipeline: (&str, &Pipeline),
    candidates: &[Candidate],
    published: &[Published],
) -> Decision {
    let (name, pipeline) = pipeline;
    if !pipeline.when.event.contains(&change.event) {
        return Decision::Ignore(format!("pipeline `{name}` does not run on event `{}`", change.event));
    }
    if candidates.is_empty() {
        return Decision::Ignore(format!(
            "commit {} has no folder with both a Dockerfile and a spec.json",
            change.commit.short()
        ));
    }
    if candidates.len() > MOST_IMAGES {
        return Decision::Ignore(format!(
            "commit {} has {} folders with a Dockerfile and a spec.json, more than the {MOST_IMAGES} allowed",
            change.commit.short(),
            candidates.len()
        ));
    }
    let workflows = candidates
        .iter()
        .zip(published)
        .enumerate()
        .map(|(at, (candidate, published))| {
            let earlier = candidates[..at].iter().find(|other| same_image(other, candidate));
            workflow(name, pipeline, candidate, published, earlier)
        })
        .collect();
    Decision::Run(Box::new(PlannedRun {
        id: None,
        forge: change.forge,
        repo: change.repository.name.clone(),
        known_as: change.known_as.clone(),
        clone_url: change.repository.clone_url.clone(),
        source_url: change.repository.html_url.clone(),
        event: change.event.clone(),
        branch: change.branch.clone(),
        commit: change.commit,
        hints: change.hints.clone(),
        merged_at: change.merged_at,
        title: change.title.clone(),
        author: change.author.clone(),
        number: change.number,
        supersede: change.policy.supersede,
        facts: serde_json::json!({}),
        account: None,
        fork: false,
        hold: None,
        rerun_of: None,
        workflows,
    }))
}

fn same_image(one: &Candidate, other: &Candidate) -> bool {
    matches!((&one.service, &other.service), (Ok(one), Ok(other)) if one == other)
}

fn workflow(
    name: &str,
    pipeline: &Pipeline,
    candidate: &Candidate,
    published: &Published,
    earlier: Option<&Candidate>,
) -> PlannedWorkflow {
    let axis = Some(candidate.folder.clone()).filter(|folder| !folder.is_empty());
    let finished = |verdict| PlannedWorkflow {
        name: name.to_owned(),
        axis: axis.clone(),
        verdict,
        rules: WorkflowRules::default(),
        steps: vec![],
    };
    let service = match &candidate.service {
        Ok(service) => service,
        Err(finding) => return finished(Verdict::Refuse(finding.to_string())),
    };
    let Service { name: image, version } = service;
    if let Some(earlier) = earlier {
        return finished(Verdict::Refuse(format!(
            "{} and {} both ask for {image}:{version}; give one of them another name or version",
            path(&earlier.folder, "spec.json"),
            path(&candidate.folder, "spec.json"),
        )));
    }
    match published {
        Published::Image { digest, tree: Some(tree) } if *tree == candidate.tree => {
            return finished(Verdict::Skip(unchanged(image, version, digest)));
        }
        Published::Image { tree, .. } => {
            let spec = path(&candidate.folder, "spec.json");
            return finished(Verdict::Refuse(already_published(image, version, tree.as_ref(), &spec)));
        }
        Published::Nothing | Published::Unknown => {}
    }
    let steps = pipeline.steps.iter().enumerate().map(|(at, step)| PlannedStep {
        name: step.name.clone(),
        verdict: Verdict::Run,
        rules: StepRules { needs: at.checked_sub(1).into_iter().collect(), ..StepRules::default() },
        action: match step.uses {
            Uses::Image => Action::Image(ImageAction {
                folder: candidate.folder.clone(),
                name: image.clone(),
                version: version.clone(),
                tree: candidate.tree,
            }),
        },
        timeout: step.timeout,
        retry: step.retry,
        serial: Some(format!("image/{image}")),
    });
    PlannedWorkflow {
        name: name.to_owned(),
        axis: axis.clone(),
        verdict: Verdict::Run,
        rules: WorkflowRules::default(),
        steps: steps.collect(),
    }
}

/// Said by the planner, and by the step when it finds the same at the last moment.
pub fn unchanged(image: &ImageName, version: &Version, digest: &Digest) -> String {
    format!("unchanged: {image}:{version} is already published from the same files as {digest}")
}

/// The sentence that says what to bump.
pub fn already_published(image: &ImageName, version: &Version, tree: Option<&TreeId>, spec: &str) -> String {
    let from =
        tree.map_or_else(|| "other files".to_owned(), |tree| format!("other files (tree {})", tree.short()));
    format!("{image}:{version} is already published from {from}; raise service.version in {spec}")
}
