//! From an event to a plan, or to the reason why not.
//!
//! Three pure steps, because the facts for each come from farther away: [`change`] needs
//! only the configuration, [`candidates`] the files at the commit, [`decide`] all that is known
//! about the run, and for the built-in pipeline what the registry has already published.

use mergeyard_types::{CommitSha, Digest, GitRef, ImageName, RepoName, RunId, Timestamp, TreeId, Version};

pub use crate::change::{Change, Identity, change};
use crate::{
    action::Action,
    builtin,
    event::{EventKind, Forge},
    facts::Facts,
    finding::Finding,
    policy::TargetRights,
    rules::{StepRules, WorkflowRules},
    service::Service,
    workflows::{self, Plan, Request},
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

impl PlannedWorkflow {
    /// How its status is called at the forge.
    pub fn context(&self, event: &str) -> String {
        status_context(event, &self.name, self.axis.as_deref())
    }
}

/// How a workflow's status is called at the forge.
pub(crate) fn status_context(event: &str, name: &str, axis: Option<&str>) -> String {
    let axis = axis.map(|axis| format!("/{axis}")).unwrap_or_default();
    format!("mergeyard/{event}/{name}{axis}")
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

/// The plan for a change whose commit has no pipeline files: the built-in pipeline, from the
/// folders that hold an image. `published` stands beside `images`, one for one.
pub fn decide(
    change: &Change<'_>,
    facts: &Facts,
    (images, lists): (&[Candidate], &[String]),
    published: &[Published],
) -> Decision {
    let plan = match built_in(change, facts, (images, lists)) {
        Ok(plan) => plan,
        Err(why) => return Decision::Ignore(why),
    };
    if let Some(why) = plan.nothing_to_do() {
        return Decision::Ignore(why);
    }
    let mut workflows = plan.workflows;
    for (at, (workflow, published)) in workflows.iter_mut().zip(published).enumerate() {
        foresee(workflow, &images[..=at], published);
    }
    let facts = serde_json::to_value(facts.remembered()).unwrap_or_default();
    Decision::Run(Box::new(PlannedRun { facts, ..planned_run(change, workflows) }))
}

/// The built-in pipeline's plan for the folders that hold an image and for package lists; the error
/// is the reason why there is none.
pub fn built_in(
    change: &Change<'_>,
    facts: &Facts,
    (images, lists): (&[Candidate], &[String]),
) -> Result<Plan, String> {
    let mirrors = mirrors(change, lists);
    if let Some(why) = no_images(change, images).filter(|_| !mirrors || images.len() > MOST_IMAGES) {
        return Err(why);
    }
    let targets = Some(change.policy.targets.as_slice());
    let request = Request { images, targets, lists, ..Request::of(facts) };
    let sources = [Some(builtin::image(images)), mirrors.then(builtin::mirror)];
    Ok(workflows::plan(&sources.into_iter().flatten().collect::<Vec<_>>(), &request))
}

/// Whether a package list of the commit is for a mirror that the repository may use. Then it has to
/// be known which files changed.
pub fn mirrors(change: &Change<'_>, lists: &[String]) -> bool {
    let check = change.event.is_pull_request() && change.event != EventKind::PullRequestMerged;
    let is_open =
        |right: &TargetRights| right.mirror && right.refusal(&change.branch, change.event, check).is_none();
    !lists.is_empty() && change.policy.targets.iter().any(is_open)
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

fn no_images(change: &Change<'_>, images: &[Candidate]) -> Option<String> {
    let commit = change.commit.short();
    match images.len() {
        0 => Some(format!("commit {commit} has no folder with both a Dockerfile and a spec.json")),
        count if count > MOST_IMAGES => Some(format!(
            "commit {commit} has {count} folders with a Dockerfile and a spec.json, more than the {MOST_IMAGES} allowed"
        )),
        _ => None,
    }
}

fn same_image(one: &Candidate, other: &Candidate) -> bool {
    matches!((&one.service, &other.service), (Ok(one), Ok(other)) if one == other)
}

/// Ends a workflow of the built-in pipeline whose outcome is plain already. `images` ends with its
/// own.
fn foresee(workflow: &mut PlannedWorkflow, images: &[Candidate], published: &Published) {
    let Some((Candidate { folder, tree, service: Ok(service) }, earlier)) = images.split_last() else {
        return;
    };
    let Service { name, version } = service;
    let spec = path(folder, "spec.json");
    let own = &images[images.len() - 1];
    let verdict = match (earlier.iter().find(|other| same_image(other, own)), published) {
        _ if workflow.verdict != Verdict::Run => return,
        (Some(earlier), _) => Verdict::Refuse(format!(
            "{} and {spec} both ask for {name}:{version}; give one of them another name or version",
            path(&earlier.folder, "spec.json"),
        )),
        (None, Published::Image { digest, tree: Some(there) }) if there == tree => {
            Verdict::Skip(unchanged(name, version, digest))
        }
        (None, Published::Image { tree, .. }) => {
            Verdict::Refuse(already_published(name, version, tree.as_ref(), &spec))
        }
        (None, Published::Nothing | Published::Unknown) => return,
    };
    workflow.verdict = verdict;
    workflow.steps = vec![];
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
