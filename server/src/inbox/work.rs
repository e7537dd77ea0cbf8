//! From a change to a decision: what its commit holds, and what is to be done about it.
//!
//! What a commit brings decides what is done; what it may not decide (which files it includes,
//! and the gates it has to pass) is read from the default branch, where it has not arrived yet.

use mergeyard_plan::{
    change::Change,
    decide::{self, Decision, PlannedRun, PlannedWorkflow, planned_run},
    effect::{CommitStatus, Effect, StatusState},
    event::{Event, EventKind, Forge},
    facts::Facts,
    package_list::LISTS,
    policy::TargetRights,
    run::skipped,
    secrets::SecretRule,
    spec::{self, Limits},
    workflows::{self, Gates, PipelineFile, Plan, Request},
};
use mergeyard_run::git::{Commit, Remote};
use mergeyard_types::{GitRef, RunId, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{
    Fault, builtin,
    facts::{self, Ask},
    sources,
};
use crate::yard::Yard;

/// What is done about a change.
pub(super) enum Work {
    Nothing {
        why: String,
        /// What the outside is told all the same.
        tell: Vec<Effect>,
    },
    Run(Box<PlannedRun>),
}

impl From<Decision> for Work {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Ignore(why) => Work::Nothing { why, tell: Vec::new() },
            Decision::Run(plan) => Work::Run(plan),
        }
    }
}

/// The number is the run's, if the run comes about; its plan has it in many places.
pub(super) async fn decide(
    yard: &Yard,
    event: &Event,
    change: &Change<'_>,
    remote: &Remote,
    (number, now): (RunId, Timestamp),
) -> Result<Work, Fault> {
    let Looked { found, commit, lists, facts } =
        match look(yard, event, change, remote, (number, now)).await? {
            Ok(looked) => looked,
            Err(why) => return Ok(Decision::Ignore(why).into()),
        };
    if found.is_empty() {
        return Ok(builtin::decide(yard, change, (&commit, &lists), &facts).await?.into());
    }
    // On a command line nobody knows what the operator allows.
    let targets = (!facts.local).then_some(change.policy.targets.as_slice());
    let secrets = yard.secrets().rules_of(&change.known_as).await?;
    let allowed = Allowed { targets, secrets: Some(&secrets) };
    let planning = Planning { yard, change, remote, commit: &commit, lists: &lists, facts: &facts, allowed };
    Ok(match wanted(event, planning.plan(found).await?) {
        Ok(plan) => work(change, &facts, plan),
        Err(why) => Decision::Ignore(why).into(),
    })
}

/// The plan alone, for who wants to know it and not to have it done. What is published already is
/// not looked at. The inner error is the reason why there is none.
pub(super) async fn plan(
    yard: &Yard,
    event: &Event,
    change: &Change<'_>,
    remote: &Remote,
    (number, now): (RunId, Timestamp),
) -> Result<Result<Plan, String>, Fault> {
    let Looked { found, commit, lists, facts } =
        match look(yard, event, change, remote, (number, now)).await? {
            Ok(looked) => looked,
            Err(why) => return Ok(Err(why)),
        };
    if found.is_empty() {
        let planned = decide::built_in(change, &facts, (&builtin::candidates(&commit).await?, &lists));
        return Ok(planned.map(|mut plan| {
            plan.findings.extend(builtin::only_elsewhere(change));
            plan
        }));
    }
    let allowed = Allowed { targets: None, secrets: None };
    let planning = Planning { yard, change, remote, commit: &commit, lists: &lists, facts: &facts, allowed };
    Ok(wanted(event, planning.plan(found).await?))
}

/// A commit with what is planned from.
struct Looked {
    /// Its pipeline files; without any it is the built-in pipeline's.
    found: Vec<sources::Source>,
    commit: Commit,
    /// The package lists in its root.
    lists: Vec<String>,
    facts: Facts,
}

/// The inner error is the reason why nothing starts.
async fn look(
    yard: &Yard,
    event: &Event,
    change: &Change<'_>,
    remote: &Remote,
    (number, now): (RunId, Timestamp),
) -> Result<Result<Looked, String>, Fault> {
    let (git, repo) = (yard.executor.git(), &change.repository.name);
    let commit = git.fetch(repo, remote, change.commit, &change.hints, &CancellationToken::new()).await?;
    let found = sources::read(&commit).await?;
    let built_in = found.is_empty();
    if let Some(why) = builtin::starts_nothing(change).filter(|_| built_in) {
        return Ok(Err(why));
    }
    let lists = lists(&commit).await?;
    let ask = match built_in {
        false => Ask::All,
        true if decide::mirrors(change, &lists) => Ask::Files,
        true => Ask::Nothing,
    };
    let facts = facts::facts(yard, event, change, (remote, &commit), (number, now), ask).await?;
    Ok(Ok(Looked { found, commit, lists, facts }))
}

async fn lists(commit: &Commit) -> Result<Vec<String>, Fault> {
    let mut lists = Vec::new();
    for name in LISTS {
        if commit.entry(name).await?.is_some() {
            lists.push(name.to_owned());
        }
    }
    Ok(lists)
}

/// All of the plan, or the one workflow that is wanted of it.
fn wanted(event: &Event, plan: Plan) -> Result<Plan, String> {
    let Event::Rehearsed { rehearsal, .. } = event else { return Ok(plan) };
    let Some(only) = &rehearsal.only else { return Ok(plan) };
    let mut names: Vec<String> = plan.workflows.iter().map(|workflow| workflow.name.clone()).collect();
    names.dedup();
    plan.only(only).ok_or_else(|| format!("there is no workflow `{only}`; there is {}", names.join(", ")))
}

/// What the operator lets the repository have; `None` where nobody knows that.
#[derive(Clone, Copy)]
struct Allowed<'a> {
    targets: Option<&'a [TargetRights]>,
    secrets: Option<&'a [SecretRule]>,
}

struct Planning<'a> {
    yard: &'a Yard,
    change: &'a Change<'a>,
    remote: &'a Remote,
    commit: &'a Commit,
    lists: &'a [String],
    facts: &'a Facts,
    allowed: Allowed<'a>,
}

impl Planning<'_> {
    async fn plan(&self, found: Vec<sources::Source>) -> Result<Plan, Fault> {
        let rules = self.yard.rules();
        let limits = Limits { matrix_points: rules.pipelines.matrix_limit, ..Limits::DEFAULT };
        let unmerged =
            self.change.event.is_pull_request() && self.change.event != EventKind::PullRequestMerged;
        let trunk = match unmerged || found.iter().any(|source| !includes(source).is_empty()) {
            true => self.trunk().await?,
            false => None,
        };
        let trunk = trunk.as_ref();
        let files = with_includes(found, trunk).await?;
        let gates = match trunk.filter(|_| unmerged) {
            Some(trunk) => {
                let protected = with_includes(sources::read(trunk).await?, Some(trunk)).await?;
                Gates::of(&workflows::read(&protected, self.facts, &limits))
            }
            None => Gates::default(),
        };
        let images = builtin::candidates(self.commit).await?;
        let request = Request {
            facts: self.facts,
            secrets: self.allowed.secrets,
            runner: &rules.pipelines.labels,
            images: &images,
            gates: &gates,
            targets: self.allowed.targets,
            lists: self.lists,
        };
        Ok(workflows::plan(&workflows::read(&files, self.facts, &limits), &request))
    }

    /// The tip of the default branch; the change itself, when that is where it arrived.
    async fn trunk(&self) -> Result<Option<Commit>, Fault> {
        let branch = &self.facts.repo.default_branch;
        let arrived = matches!(self.change.event, EventKind::Push | EventKind::PullRequestMerged);
        if arrived && self.change.branch == *branch {
            return Ok(Some(self.commit.clone()));
        }
        let Ok(git_ref) = GitRef::branch(branch) else { return Ok(None) };
        let (git, repo, never) =
            (self.yard.executor.git(), &self.change.repository.name, CancellationToken::new());
        let Some(tip) = git.tip(repo, self.remote, Some(&git_ref), &never).await? else { return Ok(None) };
        Ok(Some(git.fetch(repo, self.remote, tip.commit, &[git_ref], &never).await?))
    }
}

/// The files that a file asks for.
fn includes(source: &sources::Source) -> Vec<String> {
    let text = source.content.as_ref().ok().and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.map(spec::includes).unwrap_or_default().into_iter().map(|name| name.value).collect()
}

async fn with_includes(
    found: Vec<sources::Source>,
    trunk: Option<&Commit>,
) -> Result<Vec<PipelineFile>, Fault> {
    let mut files = Vec::with_capacity(found.len());
    for source in found {
        let mut included = Vec::new();
        if let Some(trunk) = trunk {
            for name in includes(&source) {
                included
                    .extend(sources::file(trunk, &name).await?.map(|part| pipeline_file(part, Vec::new())));
            }
        }
        files.push(pipeline_file(source, included));
    }
    Ok(files)
}

fn pipeline_file(source: sources::Source, included: Vec<PipelineFile>) -> PipelineFile {
    let sources::Source { path, content } = source;
    PipelineFile { path, content, included }
}

/// A run, when there is anything to do or to say no to.
fn work(change: &Change<'_>, facts: &Facts, plan: Plan) -> Work {
    if let Some(why) = plan.nothing_to_do() {
        return Work::Nothing { why, tell: skipped_statuses(change, facts, &plan) };
    }
    let mut run = planned_run(change, plan.workflows);
    run.id = Some(facts.pipeline.number);
    run.facts = serde_json::to_value(facts.clone().kept()).unwrap_or_default();
    Work::Run(Box::new(run))
}

/// A branch may be protected by the statuses of workflows, and a pull request none of them is for
/// must not wait for ever. Words in a message leave everything out too, and what a branch is
/// protected by must not be had for words; other events protect nothing. A fork says by its own
/// files what is for it, which nobody has looked at yet.
fn skipped_statuses(change: &Change<'_>, facts: &Facts, plan: &Plan) -> Vec<Effect> {
    let is_waited_for = change.forge == Forge::Github && change.event == EventKind::PullRequest;
    if !is_waited_for || change.fork.is_some() || workflows::skip_ci(facts).is_some() {
        return Vec::new();
    }
    let status = |(workflow, why): (&PlannedWorkflow, &str)| {
        Effect::CommitStatus(CommitStatus {
            repo: change.repository.name.clone(),
            commit: change.commit,
            context: workflow.context(&change.event.to_string()),
            state: StatusState::Success,
            description: skipped(why),
            run: None,
        })
    };
    plan.all_skipped().unwrap_or_default().into_iter().map(status).collect()
}
