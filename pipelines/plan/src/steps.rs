//! The steps of one workflow: which of them run, in what order, and what each does.
//!
//! Positions are those of the plan: the clone steps, then the services, then the steps of the
//! file. Everything waits for the clone, and every step for every service to be ready. Without
//! `depends_on` steps follow each other; with one anywhere among those that run, each starts as
//! soon as what it names has ended. What depends on a step that is left out depends on whatever
//! that step depended on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use serde_json::Value;

use crate::{
    action::{Action, Cache, CloneAction, ContainerAction},
    decide::{PlannedStep, Verdict},
    environment::Variables,
    event::EventKind,
    finding::Finding,
    outputs,
    rules::{RunsOn, StepKind, StepRules},
    secrets, settings,
    spec::{At, Point, Spanned, Step, Workflow},
    trust, uses,
    when::{self, Answer, Circumstances},
    workflows::{self, Request},
};

/// Where the workspace's volume is mounted unless the file says otherwise, and always for plugins.
const BASE: &str = "/woodpecker";

const TIMEOUT: Duration = Duration::from_secs(3600);

/// What runs beside the steps lives as long as they do; this is only there so that it ends one day.
const DETACHED_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A clone that the network broke is worth another try.
const CLONE_RETRIES: u32 = 2;

/// The plugin whose settings the built-in clone understands.
const CLONE_PLUGIN: &str = "woodpeckerci/plugin-git";

/// A workflow at one point of its matrix, with what its steps are planned from.
pub(crate) struct Context<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) file: &'a str,
    pub(crate) name: &'a str,
    pub(crate) workflow: &'a Workflow,
    pub(crate) point: &'a Point,
    /// The workflow's own variables.
    pub(crate) variables: &'a Variables,
}

#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<PlannedStep>,
    /// One for each step.
    pub(crate) whys: Vec<String>,
    pub(crate) findings: Vec<Finding>,
}

impl Steps {
    /// Whether anything of the file's own steps runs.
    pub(crate) fn any_work(&self) -> bool {
        self.own().any(|(step, _)| step.verdict == Verdict::Run)
    }

    /// The names of the file's own steps that do not run, and why.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = (&str, &str)> {
        self.own().filter(|(step, _)| step.verdict != Verdict::Run).map(|(step, why)| (&*step.name, why))
    }

    fn own(&self) -> impl Iterator<Item = (&PlannedStep, &str)> {
        let both = self.steps.iter().zip(self.whys.iter().map(String::as_str));
        both.filter(|(step, _)| !matches!(step.rules.kind, StepKind::Clone | StepKind::Service))
    }
}

/// One entry of the file, before it has its place in the order.
struct Entry<'a> {
    /// `None`: the clone that nobody wrote.
    step: Option<&'a Step>,
    name: &'a str,
    part: Part,
    runs: bool,
    on: RunsOn,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Clone,
    Service,
    Step,
}

pub(crate) fn plan(context: &Context<'_>) -> Steps {
    let mut done = Steps::default();
    let entries = entries(context, &mut done.findings);
    let needs = Order::new(&entries).needs();
    for (entry, needs) in entries.iter().zip(needs) {
        let planned = context.planned(entry, needs, &mut done.findings);
        done.steps.push(planned);
        done.whys.push(entry.why.clone());
    }
    check_outputs(context, &entries, &done.steps, &mut done.findings);
    done
}

fn entries<'a>(context: &Context<'a>, findings: &mut Vec<Finding>) -> Vec<Entry<'a>> {
    let workflow = context.workflow;
    let mut entries = Vec::new();
    if workflow.clone.is_empty() && !workflow.skip_clone {
        let why = "each workflow begins with a clone".to_owned();
        entries.push(Entry {
            step: None,
            name: "clone",
            part: Part::Clone,
            runs: true,
            on: RunsOn::default(),
            why,
        });
    }
    let clones = workflow.clone.iter().filter(|_| !workflow.skip_clone).map(|step| (Part::Clone, step));
    let services = workflow.services.iter().map(|step| (Part::Service, step));
    let steps = workflow.steps.iter().map(|step| (Part::Step, step));
    for (part, step) in clones.chain(services).chain(steps) {
        let name = step.name.as_str();
        let file = step.origin.as_deref().unwrap_or(context.file);
        findings.extend(trust::check(step, context.request.facts.trust(), file));
        let answer =
            when::answer(&step.when, &context.circumstances(file)).unwrap_or_else(|(spanned, why)| {
                findings.push(expression(file, spanned.at, &why));
                Answer::Not { why }
            });
        let answer = match answer {
            Answer::Runs { .. } if step.uses.is_some() && secrets::is_fork(context.request.facts) => {
                // It would act with this server's rights: publish under a name, deploy.
                Answer::Not {
                    why: "built-in actions are not performed for pull requests from forks".to_owned(),
                }
            }
            answer => answer,
        };
        entries.push(match answer {
            Answer::Runs { on, why } => Entry { step: Some(step), name, part, runs: true, on, why },
            Answer::Not { why } => {
                Entry { step: Some(step), name, part, runs: false, on: RunsOn::default(), why }
            }
        });
    }
    entries
}

pub(crate) fn expression(file: &str, at: At, why: &str) -> Finding {
    Finding::error(file, "when-evaluate", format!("`evaluate`: {why}")).at(at.line, at.column)
}

/// Who waits for whom. The reader has refused names that are not there and steps that wait for
/// each other.
struct Order<'e, 'a> {
    entries: &'e [Entry<'a>],
    /// What each entry names in `depends_on`; only in DAG mode.
    depends: Vec<Vec<usize>>,
    is_dag: bool,
}

impl<'e, 'a> Order<'e, 'a> {
    fn new(entries: &'e [Entry<'a>]) -> Self {
        let steps = || entries.iter().enumerate().filter(|(_, entry)| entry.part == Part::Step);
        let position: HashMap<&str, usize> = steps().map(|(at, entry)| (entry.name, at)).collect();
        let named = |entry: &Entry<'a>| entry.step.filter(|_| entry.part == Part::Step)?.depends_on.as_ref();
        let is_dag = steps().any(|(_, entry)| entry.runs && named(entry).is_some());
        let depends = |entry: &Entry<'a>| {
            let needs = named(entry).into_iter().flatten();
            needs.filter_map(|need| position.get(need.name.as_str()).copied()).collect()
        };
        Self { entries, depends: entries.iter().map(depends).collect(), is_dag }
    }

    /// For each entry the positions that have to end first.
    fn needs(&self) -> Vec<Vec<usize>> {
        let running = |part| {
            (0..self.entries.len()).filter(move |at| self.entries[*at].part == part && self.entries[*at].runs)
        };
        let services: Vec<usize> = running(Part::Service).collect();
        let last_clone = running(Part::Clone).next_back();
        let resolved = self.resolved();
        let mut previous: Option<usize> = None;
        let mut previous_clone: Option<usize> = None;
        let mut all = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let mut needs: BTreeSet<usize> = BTreeSet::new();
            match entry.part {
                Part::Clone => needs.extend(previous_clone),
                Part::Service => needs.extend(last_clone),
                Part::Step => {
                    needs.extend(&services);
                    if self.is_dag {
                        needs.extend(&resolved[at]);
                    } else {
                        needs.extend(previous);
                    }
                    // The services have waited for the clone, and whoever came before has.
                    if needs.is_empty() {
                        needs.extend(last_clone);
                    }
                }
            }
            if entry.runs {
                match entry.part {
                    Part::Clone => previous_clone = Some(at),
                    Part::Step => previous = Some(at),
                    Part::Service => {}
                }
            }
            all.push(needs.into_iter().collect());
        }
        all
    }

    /// `depends` without those that do not run: in their place stands what they depend on. Walked
    /// without recursion, because a file may chain as many steps as its limits allow.
    fn resolved(&self) -> Vec<BTreeSet<usize>> {
        let resolve = |at: usize| {
            let mut needs = BTreeSet::new();
            let mut seen = BTreeSet::new();
            let mut open: Vec<usize> = self.depends[at].clone();
            while let Some(need) = open.pop().filter(|_| self.is_dag) {
                if self.entries[need].runs {
                    needs.insert(need);
                } else if seen.insert(need) {
                    open.extend(&self.depends[need]);
                }
            }
            needs
        };
        (0..self.entries.len()).map(resolve).collect()
    }
}

impl Context<'_> {
    fn circumstances<'c>(&'c self, file: &'c str) -> Circumstances<'c> {
        Circumstances { facts: self.request.facts, variables: self.variables, point: Some(self.point), file }
    }

    /// Where a step's places are places of: an included file has its own.
    fn file_of<'s>(&'s self, step: &'s Step) -> &'s str {
        step.origin.as_deref().unwrap_or(self.file)
    }

    /// `src/<host>/<owner>/<repo>` below the base, or what the file says.
    fn directory(&self, base: &str) -> String {
        let repo = &self.request.facts.repo;
        let host =
            repo.url.split_once("://").map_or("", |(_, rest)| rest).split(['/', ':']).next().unwrap_or("");
        let path = match &self.workflow.workspace.path {
            Some(path) => path.clone(),
            None => format!("src/{host}/{}", repo.name),
        };
        join(base, &path)
    }

    fn base(&self) -> String {
        match &self.workflow.workspace.base {
            Some(base) => join("/", base),
            None => BASE.to_owned(),
        }
    }

    fn planned(&self, entry: &Entry<'_>, needs: Vec<usize>, findings: &mut Vec<Finding>) -> PlannedStep {
        let verdict = if entry.runs { Verdict::Run } else { Verdict::Skip(entry.why.clone()) };
        let Some(step) = entry.step else {
            let action = self.clone_action(None, findings);
            return self.clone_step("clone", verdict, entry, needs, action);
        };
        if entry.part == Part::Clone && configures_clone(step) {
            let action = self.clone_action(Some(step), findings);
            return self.clone_step(entry.name, verdict, entry, needs, action);
        }
        let (kind, action) = match (&step.uses, entry.part) {
            (Some(name), Part::Step) => {
                let base = self.base();
                let asked = uses::Asked {
                    request: self.request,
                    file: self.file_of(step),
                    step,
                    uses: name,
                    directory: self.directory(&base),
                    base,
                };
                let action = uses::action(&asked, entry.runs, findings);
                // What is left out is never performed; its action only has to be something.
                (StepKind::Action, action.unwrap_or_else(|| self.container(step, false)))
            }
            (None, Part::Step) if is_plugin(step) => (StepKind::Plugin, self.container(step, true)),
            (_, Part::Step) => (StepKind::Commands, self.container(step, false)),
            (_, Part::Service) => (StepKind::Service, self.container(step, is_plugin(step))),
            (_, Part::Clone) => (StepKind::Clone, self.container(step, is_plugin(step))),
        };
        if entry.runs {
            self.check_secrets(step, &action, findings);
        }
        let detached = step.detach || entry.part == Part::Service;
        let timeout = step.timeout.as_ref().map(|timeout| timeout.value);
        let serial = action.serial();
        PlannedStep {
            name: entry.name.to_owned(),
            verdict,
            rules: StepRules {
                kind,
                needs,
                runs_on: entry.on,
                failure: step.failure,
                detached,
                gate: self.gate(step),
                retry_failures: step.retry > 0 && matches!(kind, StepKind::Commands | StepKind::Plugin),
            },
            action,
            timeout: timeout.unwrap_or(if detached { DETACHED_TIMEOUT } else { TIMEOUT }),
            retry: step.retry,
            serial,
        }
    }

    fn clone_step(
        &self,
        name: &str,
        verdict: Verdict,
        entry: &Entry<'_>,
        needs: Vec<usize>,
        action: CloneAction,
    ) -> PlannedStep {
        let written = entry.step.and_then(|step| step.timeout.as_ref());
        PlannedStep {
            name: name.to_owned(),
            verdict,
            action: Action::Clone(action),
            rules: StepRules { kind: StepKind::Clone, needs, runs_on: entry.on, ..StepRules::default() },
            timeout: written.map_or(TIMEOUT, |timeout| timeout.value),
            retry: entry.step.map_or(0, |step| step.retry).max(CLONE_RETRIES),
            serial: None,
        }
    }

    /// Whether a clone step names the repository itself.
    fn is_own(&self, remote: &Value) -> bool {
        let repo = &self.request.facts.repo;
        remote.as_str().is_none_or(|remote| {
            ["", &repo.clone_url, &repo.clone_ssh_url, &repo.url].contains(&remote.trim_end_matches('/'))
        })
    }

    /// The commit alone, unless tags are wanted: then all of the history, so that `git describe` works.
    fn clone_action(&self, step: Option<&Step>, findings: &mut Vec<Finding>) -> CloneAction {
        let base = self.base();
        let mut tags = self.request.facts.pipeline.event == EventKind::Tag;
        let mut depth: Option<Option<u32>> = None;
        for (key, value) in step.map(|step| step.settings.as_slice()).unwrap_or_default() {
            match key.as_str() {
                "depth" => match number(value) {
                    Some(commits) => depth = Some(Some(commits).filter(|commits| *commits > 0)),
                    None => findings.push(clone_finding(
                        self.file,
                        key,
                        "is a number of commits, or 0 for all of them",
                    )),
                },
                "tags" | "partial" => match truth(value) {
                    Some(wanted) if key.as_str() == "tags" => tags = wanted,
                    Some(false) => {
                        depth.get_or_insert(None);
                    }
                    Some(true) => {}
                    None => findings.push(clone_finding(self.file, key, "is true or false")),
                },
                "remote" if !self.is_own(value) => findings.push(clone_finding(
                    self.file,
                    key,
                    "names another repository, and the built-in clone brings this one only: give the step another image, and `commands` that clone",
                )),
                _ => findings.push(Finding {
                    level: crate::finding::Level::Warning,
                    ..clone_finding(
                        self.file,
                        key,
                        "means nothing to the built-in clone; it knows `depth`, `tags` and `partial`",
                    )
                }),
            }
        }
        let depth = depth.unwrap_or(if tags { None } else { Some(1) });
        CloneAction { directory: self.directory(&base), base, depth, tags }
    }

    fn container(&self, step: &Step, plugin: bool) -> Action {
        let texts =
            |values: &[Spanned<String>]| values.iter().map(|value| value.value.clone()).collect::<Vec<_>>();
        let base = if plugin { BASE.to_owned() } else { self.base() };
        let checkout = self.directory(&base);
        let directory = join(&checkout, step.directory.as_deref().unwrap_or_default());
        let caches = step.cache.iter().map(|path| self.cache(&join(&directory, path))).collect();
        Action::Container(Box::new(ContainerAction {
            image: step.image.as_ref().map(|image| image.value.clone()).unwrap_or_default(),
            pull: step.pull,
            plugin,
            commands: texts(&step.commands),
            entrypoint: step.entrypoint.clone(),
            environment: self.environment(step, plugin),
            settings: keyed(&step.settings),
            base,
            directory,
            volumes: texts(&step.volumes),
            devices: texts(&step.devices),
            tmpfs: texts(&step.tmpfs),
            ports: texts(&step.ports),
            dns: texts(&step.dns),
            dns_search: texts(&step.dns_search),
            extra_hosts: texts(&step.extra_hosts),
            network_mode: step.network_mode.as_ref().map(|mode| mode.value.clone()),
            privileged: step.privileged.as_ref().is_some_and(|privileged| privileged.value),
            user: step.user.as_ref().map(|user| user.value.clone()),
            ready: step.ready.clone(),
            caches,
            outputs: texts(&step.outputs),
        }))
    }

    /// The step's own, over the matrix and the inputs, which plugins are not told: their names are
    /// the file's, and a plugin takes every variable for a setting of its own.
    fn environment(&self, step: &Step, plugin: bool) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        if !plugin {
            let inputs = workflows::inputs(self.workflow, self.request.facts);
            all.extend(inputs.into_iter().map(|(name, value)| (name, Value::from(value))));
            all.extend(self.point.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
        }
        all.extend(keyed(&step.environment));
        all
    }

    /// What an unmerged branch leaves behind never reaches the branch it wants to go to, and a
    /// fork's reaches nobody but itself.
    fn cache(&self, path: &str) -> Cache {
        let facts = self.request.facts;
        let commit = &facts.commit;
        let is_open =
            facts.pipeline.event.is_pull_request() && facts.pipeline.event != EventKind::PullRequestMerged;
        let shared = match &commit.pull_request {
            Some(pull) if secrets::is_fork(facts) => format!("fork/{}", pull.number),
            Some(pull) if is_open && commit.source_branch.is_empty() => format!("pull/{}", pull.number),
            _ if is_open => format!("branch/{}", commit.source_branch),
            _ => format!("branch/{}", commit.branch),
        };
        let repo = facts.repo.name.as_str().to_ascii_lowercase();
        Cache { path: path.to_owned(), key: format!("{repo}/{shared}:{path}") }
    }

    fn gate(&self, step: &Step) -> Option<String> {
        let kept = self.request.gates.of_step(self.name, &step.name);
        kept.or_else(|| step.approve.as_ref().map(|gate| gate.value.clone()))
    }

    fn check_secrets(&self, step: &Step, action: &Action, findings: &mut Vec<Finding>) {
        let image = step.image.as_ref().map_or("", |image| image.value.as_str());
        // What a rollout is only checked for, it is not given.
        let checked = action.is_check() && matches!(action, Action::Rollout(_));
        let with = step.with.iter().filter(|_| !checked);
        for (key, value) in step.environment.iter().chain(&step.settings).chain(with) {
            for name in settings::secrets(value) {
                if let Err(why) = self.secret(&name, image, is_plugin(step)) {
                    let message = format!("step `{}`: {why}", step.name.value);
                    let finding = Finding::error(self.file_of(step), "secret", message);
                    findings.push(finding.at(key.at.line, key.at.column));
                }
            }
        }
    }

    fn secret(&self, name: &str, image: &str, plugin: bool) -> Result<(), String> {
        let facts = self.request.facts;
        if name.trim().is_empty() {
            return Err("`from_secret` has no name of a secret; write it there".to_owned());
        }
        if secrets::is_fork(facts) {
            return Err(format!(
                "secret `{name}` is not given to pull requests from forks; restrict the step with `when`, or build after the merge"
            ));
        }
        let Some(rules) = self.request.secrets else { return Ok(()) };
        match secrets::nearest(rules, name) {
            Some(rule) => secrets::available(rule, facts.pipeline.event, image, plugin),
            None => Err(format!(
                "there is no secret `{name}`; add it with `mergeyard secret set --repo {} {name}`",
                facts.repo.name
            )),
        }
    }
}

/// References to outputs must lead to a step that has ended by then.
fn check_outputs(
    context: &Context<'_>,
    entries: &[Entry<'_>],
    steps: &[PlannedStep],
    findings: &mut Vec<Finding>,
) {
    for (at, entry) in entries.iter().enumerate() {
        let (Some(step), true) = (entry.step, entry.runs) else { continue };
        let mut texts: Vec<(At, &str, bool)> = Vec::new();
        texts.extend(step.commands.iter().map(|command| (command.at, command.as_str(), true)));
        texts.extend(step.image.iter().map(|image| (image.at, image.as_str(), false)));
        for (key, value) in step.environment.iter().chain(&step.settings).chain(&step.with) {
            outputs::strings(value, &mut |text| texts.push((key.at, text, false)));
        }
        let before = std::iter::once("").chain(step.entrypoint.iter().map(String::as_str));
        for (before, word) in before.zip(&step.entrypoint) {
            match outputs::check_word(before, word) {
                Ok(()) => texts.push((step.name.at, word, false)),
                Err(why) => {
                    let message = format!("step `{}`: {why}", entry.name);
                    findings.push(
                        Finding::error(context.file_of(step), "output", message)
                            .at(step.name.at.line, step.name.at.column),
                    );
                }
            }
        }
        for (place, text, is_command) in texts.into_iter().filter(|(_, text, _)| text.contains("${{")) {
            let checked = if is_command { outputs::check_command(text) } else { Ok(()) };
            let problem = match checked.and_then(|()| outputs::references(text)) {
                Ok(references) => references.iter().find_map(|r| unreachable(entries, steps, at, r)),
                Err(why) => Some(why),
            };
            if let Some(why) = problem {
                let message = format!("step `{}`: {why}", entry.name);
                findings.push(
                    Finding::error(context.file_of(step), "output", message).at(place.line, place.column),
                );
            }
        }
    }
}

fn unreachable(
    entries: &[Entry<'_>],
    steps: &[PlannedStep],
    at: usize,
    reference: &outputs::Reference,
) -> Option<String> {
    let outputs::Reference { step: name, key, .. } = reference;
    let Some(source) = entries.iter().position(|entry| entry.name == name) else {
        return Some(format!("the output `{key}` is asked of step `{name}`, and there is no such step"));
    };
    if !entries[source].runs {
        return Some(format!(
            "the output `{key}` is asked of step `{name}`, which does not run: {}",
            entries[source].why
        ));
    }
    let mut open = vec![at];
    let mut seen = BTreeSet::new();
    while let Some(next) = open.pop() {
        open.extend(steps[next].rules.needs.iter().copied().filter(|need| seen.insert(*need)));
    }
    let waits = seen.contains(&source) && !steps[source].rules.detached;
    (!waits).then(|| format!("the output `{key}` is asked of step `{name}`, which has not ended by then; add `{name}` to `depends_on`"))
}

fn is_plugin(step: &Step) -> bool {
    step.uses.is_none()
        && step.commands.is_empty()
        && step.entrypoint.is_empty()
        && step.environment.is_empty()
}

fn configures_clone(step: &Step) -> bool {
    let image = step.image.as_ref().map_or("", |image| image.value.as_str());
    let plain = step.commands.is_empty() && step.entrypoint.is_empty();
    let (name, _) = image.rsplit_once(':').unwrap_or((image, ""));
    plain && (image.is_empty() || name == CLONE_PLUGIN || name.ends_with(&format!("/{CLONE_PLUGIN}")))
}

fn clone_finding(file: &str, key: &Spanned<String>, what: &str) -> Finding {
    Finding::error(file, "clone-settings", format!("`{}` {what}", key.value)).at(key.at.line, key.at.column)
}

fn number(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn keyed(values: &[(Spanned<String>, Value)]) -> BTreeMap<String, Value> {
    values.iter().map(|(key, value)| (key.value.clone(), value.clone())).collect()
}

/// A path below another unless it is absolute, without `.`, `..` and doubled slashes.
fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
