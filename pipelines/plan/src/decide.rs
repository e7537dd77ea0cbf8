//! From an event to a plan, or to the reason why not.
//!
//! Three pure steps, because the facts for each come from farther away: [`change`] needs
//! only the configuration, [`candidates`] the files at the commit, [`decide`] what the
//! registry has already published.

use mergeyard_types::{CommitSha, Digest, GitRef, ImageName, RepoName, RunId, Timestamp, TreeId, Version};

pub use crate::change::{Change, Identity, change};
use crate::{
    action::{Action, ImageAction},
    event::Forge,
    finding::Finding,
    pipeline::{Pipeline, Uses},
    rules::{StepRules, WorkflowRules},
    service::Service,
};

/// A commit can hold many folders; past this it is a mistake or an attack.
pub const MOST_IMAGES: usize = 100;

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
    /// Tells apart what may happen to one commit several times; part of the run's key.
    pub occasion: String,
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
    if !pipeline.when.event.iter().any(|event| event == change.event.as_str()) {
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
    Decision::Run(Box::new(planned_run(change, workflows)))
}

/// The run of a change, with what its plan says is to be done.
pub fn planned_run(change: &Change<'_>, workflows: Vec<PlannedWorkflow>) -> PlannedRun {
    PlannedRun {
        id: None,
        forge: change.forge,
        repo: change.repository.name.clone(),
        known_as: change.known_as.clone(),
        clone_url: change.repository.clone_url.clone(),
        source_url: change.repository.html_url.clone(),
        event: change.event.to_string(),
        branch: change.branch.clone(),
        commit: change.commit,
        hints: change.hints.clone(),
        merged_at: change.merged_at,
        title: change.title.clone(),
        author: change.author.clone(),
        number: change.number,
        supersede: change.policy.supersede,
        occasion: change.occasion.clone(),
        facts: serde_json::json!({}),
        account: change.fork.as_ref().and_then(|fork| fork.accounts.first().copied()),
        fork: change.fork.is_some(),
        hold: None,
        rerun_of: None,
        workflows,
    }
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
