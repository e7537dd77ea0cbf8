//! The variables a step finds in its environment, and that files are substituted with.
//!
//! They are derived from the facts of the run each time they are needed and never stored with a
//! step: a run's number is given to it after it was planned, and a rerun has its own.

use std::collections::BTreeMap;

use mergeyard_types::Timestamp;

use crate::{
    event::EventKind,
    facts::{Commit, Facts, PipelineFacts},
    rules::StepKind,
};

/// Past this many, the list of changed files is left out: it would outgrow what a process may be given.
pub const MOST_FILES: usize = 500;

pub type Variables = BTreeMap<String, String>;

/// Whether a variable is mergeyard's own word about a run, which nothing that a person gives replaces:
/// conditions rely on it.
pub fn is_reserved(name: &str) -> bool {
    name == "CI" || name.starts_with("CI_")
}

/// What is said of an input that is called so.
pub const RESERVED: &str = "is named like a variable of mergeyard's own, which no input replaces: take a name that does not begin with `CI_`";

/// Where a step stands. Numbers count from 1.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub workflow: &'a str,
    pub workflow_number: usize,
    pub step: &'a str,
    pub step_number: usize,
    pub kind: StepKind,
    /// The checkout as this step sees it, `CloneAction::directory`.
    pub workspace: &'a str,
    /// The step's page.
    pub url: &'a str,
}

/// What is known only when a step starts.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    pub at: Timestamp,
    pub run_started: Option<Timestamp>,
    /// Whether a step of the workflow has failed so far.
    pub failed: bool,
    /// The file for `key=value` lines, inside the container.
    pub output: Option<&'a str>,
    /// The script that `entrypoint` is to run, when there are commands.
    pub script: Option<&'a str>,
}

/// The variables of every step of a run: what substitution and `evaluate` know.
pub fn of_run(facts: &Facts) -> Variables {
    let mut all = Variables::new();
    let system = &facts.system;
    put(&mut all, "CI", &system.name);
    put(&mut all, "CI_SYSTEM_NAME", &system.name);
    put(&mut all, "CI_SYSTEM_URL", &system.url);
    put(&mut all, "CI_SYSTEM_HOST", &system.host);
    put(&mut all, "CI_SYSTEM_PLATFORM", &system.platform);
    put(&mut all, "CI_SYSTEM_VERSION", &system.version);
    put(&mut all, "CI_MACHINE", &system.machine);
    put(&mut all, "CI_FORGE_TYPE", &facts.forge.kind);
    put(&mut all, "CI_FORGE_URL", &facts.forge.url);
    repository(facts, &mut all);
    pipeline(&facts.pipeline, "CI_PIPELINE_", &mut all);
    this_pipeline(&facts.pipeline, &mut all);
    commit(&facts.commit, "CI_COMMIT_", &mut all);
    this_commit(facts, &mut all);
    if let Some((previous, before)) = &facts.previous {
        pipeline(previous, "CI_PREV_PIPELINE_", &mut all);
        put(&mut all, "CI_PREV_PIPELINE_STATUS", &previous.status);
        put(&mut all, "CI_PREV_PIPELINE_FINISHED", &seconds(previous.finished));
        put(&mut all, "CI_PREV_COMMIT_URL", &before.url);
        commit(before, "CI_PREV_COMMIT_", &mut all);
    }
    all
}

/// Everything that mergeyard itself gives to a step; the step's own environment comes on top.
pub fn at_start(facts: &Facts, place: &Place<'_>, start: &Start<'_>) -> Variables {
    let mut all = of_run(facts);
    put(&mut all, "CI_WORKSPACE", place.workspace);
    put(&mut all, "CI_WORKFLOW_NAME", place.workflow);
    put(&mut all, "CI_WORKFLOW_NUMBER", &place.workflow_number.to_string());
    put(&mut all, "CI_STEP_NAME", place.step);
    put(&mut all, "CI_STEP_NUMBER", &place.step_number.to_string());
    put(&mut all, "CI_STEP_TYPE", kind(place.kind));
    put(&mut all, "CI_STEP_URL", place.url);
    put(&mut all, "CI_STEP_STARTED", &seconds(Some(start.at)));
    put(&mut all, "CI_PIPELINE_STARTED", &seconds(start.run_started.or(facts.pipeline.started)));
    put(&mut all, "CI_PIPELINE_STATUS", if start.failed { "failure" } else { "success" });
    put(&mut all, "CI_OUTPUT", start.output.unwrap_or_default());
    put(&mut all, "CI_SCRIPT", start.script.unwrap_or_default());
    all
}

fn put(all: &mut Variables, name: &str, value: &str) {
    if !value.is_empty() {
        all.insert(name.to_owned(), value.to_owned());
    }
}

fn repository(facts: &Facts, all: &mut Variables) {
    let repo = &facts.repo;
    let trust = facts.trust();
    put(all, "CI_REPO", repo.name.as_str());
    put(all, "CI_REPO_NAME", repo.name.name());
    put(all, "CI_REPO_OWNER", repo.name.owner());
    put(all, "CI_REPO_REMOTE_ID", &repo.remote_id.map(|id| id.to_string()).unwrap_or_default());
    put(all, "CI_REPO_URL", &repo.url);
    put(all, "CI_REPO_CLONE_URL", &repo.clone_url);
    put(all, "CI_REPO_CLONE_SSH_URL", &repo.clone_ssh_url);
    put(all, "CI_REPO_DEFAULT_BRANCH", &repo.default_branch);
    put(all, "CI_REPO_PRIVATE", truth(repo.private));
    put(all, "CI_REPO_TRUSTED", truth(trust.network && trust.volumes && trust.security));
    put(all, "CI_REPO_TRUSTED_NETWORK", truth(trust.network));
    put(all, "CI_REPO_TRUSTED_VOLUMES", truth(trust.volumes));
    put(all, "CI_REPO_TRUSTED_SECURITY", truth(trust.security));
}

/// What is said alike about this run and the one before it.
fn pipeline(facts: &PipelineFacts, prefix: &str, all: &mut Variables) {
    let mut set = |name: &str, value: &str| put(all, &format!("{prefix}{name}"), value);
    set("NUMBER", &facts.number.to_string());
    set("PARENT", &facts.parent.map_or_else(|| "0".to_owned(), |parent| parent.to_string()));
    set("EVENT", facts.event.as_str());
    set("EVENT_REASON", &facts.event_reason);
    set("URL", &facts.url);
    set("FORGE_URL", &facts.forge_url);
    set("DEPLOY_TARGET", &facts.deploy_target);
    set("DEPLOY_TASK", &facts.deploy_task);
    set("CREATED", &seconds(Some(facts.created)));
    set("STARTED", &seconds(facts.started));
    set("AUTHOR", &facts.author);
    set("AVATAR", &facts.avatar);
}

fn this_pipeline(facts: &PipelineFacts, all: &mut Variables) {
    put(all, "CI_PIPELINE_RELEASE_TITLE", &facts.release_title);
    if facts.event == EventKind::Release {
        put(all, "CI_PIPELINE_RELEASE_PRE", truth(facts.release_pre));
    }
    put(all, "CI_PIPELINE_RERUNS", &facts.reruns.to_string());
    let files = facts.files.as_deref().unwrap_or_default();
    if files.len() <= MOST_FILES {
        put(all, "CI_PIPELINE_FILES", &serde_json::Value::from(files).to_string());
    }
}

fn commit(facts: &Commit, prefix: &str, all: &mut Variables) {
    let mut set = |name: &str, value: &str| put(all, &format!("{prefix}{name}"), value);
    set("SHA", &facts.sha.to_string());
    set("REF", &facts.git_ref);
    set("REFSPEC", &facts.refspec);
    set("MESSAGE", &facts.message);
    set("BRANCH", &facts.branch);
    set("TIMESTAMP", &seconds(facts.timestamp));
    set("AUTHOR", &facts.author);
    set("AUTHOR_EMAIL", &facts.author_email);
    set("AUTHOR_AVATAR", &facts.author_avatar);
    set("SOURCE_BRANCH", &facts.source_branch);
    set("TARGET_BRANCH", &facts.target_branch);
}

fn this_commit(facts: &Facts, all: &mut Variables) {
    let commit = &facts.commit;
    put(all, "CI_COMMIT_TAG", &commit.tag);
    if facts.pipeline.event == EventKind::Release {
        put(all, "CI_COMMIT_PRERELEASE", truth(commit.prerelease));
    }
    let Some(pull) = &commit.pull_request else { return };
    put(all, "CI_COMMIT_PULL_REQUEST", &pull.number.to_string());
    put(all, "CI_COMMIT_PULL_REQUEST_LABELS", &pull.labels.join(","));
    put(all, "CI_COMMIT_PULL_REQUEST_MILESTONE", &pull.milestone);
    put(all, "CI_COMMIT_PULL_REQUEST_DRAFT", truth(pull.draft));
    put(all, "CI_COMMIT_PULL_REQUEST_MERGED", truth(pull.merged));
}

fn kind(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Clone => "clone",
        StepKind::Service => "service",
        StepKind::Commands => "commands",
        StepKind::Plugin => "plugin",
        StepKind::Action => "action",
    }
}

fn truth(truth: bool) -> &'static str {
    if truth { "true" } else { "false" }
}

fn seconds(time: Option<Timestamp>) -> String {
    time.map(|time| (time.0 / 1000).to_string()).unwrap_or_default()
}
