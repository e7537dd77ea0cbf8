//! The plan of a commit's pipeline files: which workflows run, wait or are left out, and why.
//!
//! [`read`] turns files into workflows, one for each point of their matrix; [`plan`] decides about
//! them. Nothing is dropped silently: what is left out stays listed, with its reason. A workflow
//! whose files say no is refused as a whole, and what depends on it is left out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crate::{
    decide::{Candidate, PlannedWorkflow, Verdict},
    environment::{self, Variables},
    event::EventKind,
    facts::Facts,
    finding::{Finding, Level},
    labels,
    policy::TargetRights,
    rules::{ConcurrencyRule, RunsOn, WorkflowRules},
    secrets::SecretRule,
    spec::{self, At, InputKind, Limits, Point, Status, Workflow},
    steps::{self, Context, Steps},
    substitute::{Substituted, Text, substitute},
    when::{self, Answer, Circumstances},
};

/// Of one commit; five hundred steps in fifty workflows are a large one.
const MOST_WORKFLOWS: usize = 1000;
const MOST_STEPS: usize = 10_000;
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Findings that are kept with a run for its page; who mends these sees the others.
const MOST_KEPT: usize = 100;

/// What files are planned from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub facts: &'a Facts,
    /// The rules of all secrets that are there. `None` where nobody knows, as on a command line.
    pub secrets: Option<&'a [SecretRule]>,
    /// The labels of the runner; empty where everything fits.
    pub runner: &'a BTreeMap<String, String>,
    /// The folders of the commit that hold an image.
    pub images: &'a [Candidate],
    /// The gates that a pull request cannot take away.
    pub gates: &'a Gates,
    /// The machines that the repository may deliver to. `None` where nobody knows.
    pub targets: Option<&'a [TargetRights]>,
    /// The package lists in the commit's root.
    pub lists: &'a [String],
}

impl<'a> Request<'a> {
    /// One where nothing but the facts is known.
    pub fn of(facts: &'a Facts) -> Self {
        static EVERYTHING_FITS: BTreeMap<String, String> = BTreeMap::new();
        static NO_GATES: Gates = Gates { workflows: BTreeMap::new(), steps: BTreeMap::new() };
        Self {
            facts,
            secrets: None,
            runner: &EVERYTHING_FITS,
            images: &[],
            gates: &NO_GATES,
            targets: None,
            lists: &[],
        }
    }
}

/// A pipeline file as the repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineFile {
    /// `.mergeyard/build.yml`.
    pub path: String,
    /// What is in it, or why that was not read.
    pub content: Result<Vec<u8>, Finding>,
    /// What it includes and the repository has, in the order of [`spec::includes`].
    pub included: Vec<PipelineFile>,
}

/// A pipeline file, read at every point of its matrix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `.mergeyard/build.yml`.
    pub file: String,
    pub points: Vec<SourcePoint>,
    /// The texts of it and of what it includes, by their files.
    pub texts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourcePoint {
    pub point: Point,
    /// How the point is called in GitHub's status and on a page.
    pub axis: Option<String>,
    /// `None` when the findings say why there is none.
    pub workflow: Option<Workflow>,
    pub findings: Vec<Finding>,
}

/// The gates that the default branch's files have, by the names of workflows and steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    workflows: BTreeMap<String, String>,
    steps: BTreeMap<String, BTreeMap<String, String>>,
}

/// What was decided about all files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub event: EventKind,
    /// One that does not run has no steps: its plan has finished it.
    pub workflows: Vec<PlannedWorkflow>,
    /// Beside each workflow.
    pub(crate) whys: Vec<Whys>,
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Whys {
    pub(crate) workflow: String,
    /// Names and reasons, also of the steps of a workflow that does not run.
    pub(crate) steps: Vec<(String, String)>,
}

/// Reads all files. Variables of a file are those of the run, its own name and number, its inputs,
/// and the point of its matrix.
pub fn read(files: &[PipelineFile], facts: &Facts, limits: &Limits) -> Vec<Source> {
    let of_run = environment::of_run(facts);
    let mut reading = Reading { facts, limits, of_run, workflows: 0, bytes: 0, steps: 0 };
    files.iter().map(|file| reading.source(file)).collect()
}

/// The files of one commit, one after another, within what a plan may have in all: each limit of
/// a single file is harmless, and all of them times each other are not.
struct Reading<'a> {
    facts: &'a Facts,
    limits: &'a Limits,
    of_run: Variables,
    workflows: usize,
    bytes: usize,
    steps: usize,
}

impl Reading<'_> {
    fn source(&mut self, file: &PipelineFile) -> Source {
        let points = self.points(file).unwrap_or_else(|findings| {
            self.workflows += 1;
            vec![SourcePoint { findings, ..SourcePoint::default() }]
        });
        let text = |file: &PipelineFile| {
            let bytes = file.content.as_ref().ok()?;
            let text = spec::text(&file.path, bytes, self.limits).ok()?;
            Some((file.path.clone(), text.to_owned()))
        };
        let texts = std::iter::once(file).chain(&file.included).filter_map(text).collect();
        Source { file: file.path.clone(), points, texts }
    }

    fn points(&mut self, file: &PipelineFile) -> Result<Vec<SourcePoint>, Vec<Finding>> {
        let bytes = file.content.as_ref().map_err(|finding| vec![finding.clone()])?;
        let text = spec::text(&file.path, bytes, self.limits).map_err(|finding| vec![finding])?;
        let unread = spec::unread_includes(&file.path, text);
        if !unread.is_empty() {
            return Err(unread);
        }
        let included = file
            .included
            .iter()
            .filter_map(|part| spec::text(&part.path, part.content.as_ref().ok()?, self.limits).ok());
        let included: Vec<&str> = included.collect();
        // What it costs is known before any of it is read: once for the matrix, and then for each point.
        let size = text.len() + included.iter().map(|text| text.len()).sum::<usize>();
        self.bytes = self.bytes.saturating_add(size);
        self.within(file)?;
        let points = spec::matrix_with(&file.path, text, &included, self.limits)?;
        self.workflows += points.len().max(1);
        self.bytes = self.bytes.saturating_add(size.saturating_mul(points.len().saturating_sub(1)));
        self.within(file)?;
        let first = self.workflows - points.len().max(1) + 1;
        let points = points.into_iter().enumerate();
        points.map(|(at, point)| self.point(file, text, point, first + at)).collect()
    }

    fn point(
        &mut self,
        file: &PipelineFile,
        text: &str,
        point: Point,
        number: usize,
    ) -> Result<SourcePoint, Vec<Finding>> {
        let variables = for_substitution(&self.of_run, self.facts, &name(&file.path), number, &point);
        let read = at_point(file, text, &variables, self.limits);
        let (workflow, findings) = match read {
            Ok(read) => (read.workflow, read.findings),
            Err(finding) => (None, vec![finding]),
        };
        self.steps += workflow.as_ref().map_or(0, |workflow| workflow.steps.len() + workflow.services.len());
        self.within(file)?;
        Ok(SourcePoint { axis: axis(&point), point, workflow, findings })
    }

    fn within(&self, file: &PipelineFile) -> Result<(), Vec<Finding>> {
        let sizes = [
            (self.workflows, MOST_WORKFLOWS, "workflows, counting each point of a matrix"),
            (self.bytes, MOST_BYTES, "bytes, counting a file once for each point of its matrix"),
            (self.steps, MOST_STEPS, "steps and services"),
        ];
        match sizes.into_iter().find(|(size, most, _)| size > most) {
            None => Ok(()),
            Some((size, most, what)) => {
                let message = format!(
                    "with this file the commit has {size} {what}, more than the {most} that are planned"
                );
                Err(vec![Finding::error(&file.path, "pipeline-size", message)])
            }
        }
    }
}

fn at_point(
    file: &PipelineFile,
    text: &str,
    variables: &Variables,
    limits: &Limits,
) -> Result<spec::Read, Finding> {
    let mut texts = Vec::with_capacity(file.included.len() + 1);
    for part in &file.included {
        let bytes = part.content.as_ref().map_err(|why| not_included(file, text, part, why))?;
        texts.push((part.path.as_str(), spec::text(&part.path, bytes, limits)?));
    }
    texts.push((&file.path, text));
    let defaults = defaults(&texts, variables, limits);
    let lookup = |name: &str| variables.get(name).or_else(|| defaults.get(name)).cloned();
    let texts = substituted(&texts, &lookup)?;
    let (included, own) = parts(&texts);
    Ok(spec::read_with(&file.path, own, &included, limits))
}

/// The defaults of the file's inputs, which `${…}` and expressions know as they know what is given.
fn defaults(texts: &[(&str, &str)], variables: &Variables, limits: &Limits) -> Variables {
    if !texts.iter().any(|(_, text)| text.contains("inputs")) {
        return Variables::new();
    }
    let read = |unknown: Option<&str>| {
        let lookup = |name: &str| variables.get(name).cloned().or_else(|| unknown.map(str::to_owned));
        let texts = substituted(texts, &lookup).ok()?;
        let (included, own) = parts(&texts);
        spec::defaults(own, &included, limits)
    };
    // `[${NAME}, x]` is YAML only once something stands for the expression. What is none even then
    // is said when the file itself is read.
    let mut defaults = read(None).or_else(|| read(Some("0"))).unwrap_or_default();
    defaults.retain(|name, _| !environment::is_reserved(name));
    defaults
}

fn substituted<'t>(
    texts: &[(&'t str, &str)],
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(&'t str, Substituted)>, Finding> {
    texts.iter().map(|(file, text)| Ok((*file, substitute(file, text, lookup)?))).collect()
}

/// The included files, and the text of the one that includes them, which is the last.
fn parts<'t>(texts: &'t [(&str, Substituted)]) -> (Vec<spec::Included<'t>>, Text<'t>) {
    let Some(((_, own), included)) = texts.split_last() else { return (Vec::new(), "".into()) };
    (included.iter().map(|(file, text)| spec::Included { file, text: text.into() }).collect(), own.into())
}

/// What is wrong with an included file as a whole stands where it is asked for.
fn not_included(file: &PipelineFile, text: &str, part: &PipelineFile, why: &Finding) -> Finding {
    let asked = spec::includes(text).into_iter().find(|path| path.value == part.path);
    let At { line, column } = asked.map(|path| path.at).unwrap_or_default();
    let message = format!("`{}` cannot be included: {}", part.path, why.message);
    Finding::error(&file.path, why.code, message).at(line, column)
}

/// The workflow of a file: its name without folder, leading dot and extension.
pub fn name(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    let base = base.strip_suffix(".yml").or_else(|| base.strip_suffix(".yaml")).unwrap_or(base);
    base.strip_prefix('.').unwrap_or(base).to_owned()
}

/// `OS=linux,PYTHON=3.12`: the point of the matrix as GitHub's status and a page name it.
pub fn axis(point: &Point) -> Option<String> {
    let axes: Vec<String> = point.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Some(crate::event::one_line(&axes.join(","))).filter(|axis| !axis.is_empty())
}

pub fn plan(sources: &[Source], request: &Request<'_>) -> Plan {
    let of_run = environment::of_run(request.facts);
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for source in sources {
        for point in &source.points {
            let number = drafts.len() + 1;
            drafts.push(Draft::new(source, point, request, &of_run, number));
        }
    }
    connect(&mut drafts);
    warn_of_namesakes(&mut drafts);
    let mut plan =
        Plan { event: request.facts.pipeline.event, workflows: vec![], whys: vec![], findings: vec![] };
    let mut told = HashSet::new();
    for draft in drafts {
        let mut kept = Vec::new();
        for finding in &draft.findings {
            // Each point of a matrix finds the same.
            if told.insert((finding.file.clone(), finding.line, finding.column, finding.message.clone())) {
                if plan.findings.len() < MOST_KEPT {
                    kept.push(finding.quoted(draft.source.texts.get(&finding.file).map(String::as_str)));
                }
                plan.findings.push(finding.clone());
            }
        }
        let (mut workflow, whys) = draft.finished(request);
        workflow.rules.findings = kept;
        plan.workflows.push(workflow);
        plan.whys.push(whys);
    }
    plan
}

impl Plan {
    /// Only the workflows of this name and those they depend on, however far. `None` when there is
    /// no such workflow.
    pub fn only(self, name: &str) -> Option<Self> {
        self.workflows.iter().find(|workflow| workflow.name == name)?;
        let mut wanted = BTreeSet::from([name.to_owned()]);
        loop {
            let before = wanted.len();
            let named = self.workflows.iter().filter(|workflow| wanted.contains(&workflow.name));
            let needs: Vec<String> = named.flat_map(|workflow| workflow.rules.needs.clone()).collect();
            wanted.extend(needs);
            if wanted.len() == before {
                break;
            }
        }
        let both = self.workflows.into_iter().zip(self.whys);
        let (workflows, whys) = both.filter(|(workflow, _)| wanted.contains(&workflow.name)).unzip();
        Some(Self { workflows, whys, ..self })
    }

    /// Every workflow and why it is left out, when that is all of them.
    pub fn all_skipped(&self) -> Option<Vec<(&PlannedWorkflow, &str)>> {
        fn skipped(workflow: &PlannedWorkflow) -> Option<(&PlannedWorkflow, &str)> {
            match &workflow.verdict {
                Verdict::Skip(why) => Some((workflow, why)),
                Verdict::Run | Verdict::Refuse(_) => None,
            }
        }
        self.workflows.iter().map(skipped).collect()
    }

    /// Why there is nothing to run and nothing to complain about, if so.
    pub fn nothing_to_do(&self) -> Option<String> {
        const MOST_TOLD: usize = 3;
        let skipped = self.all_skipped()?;
        let mut whys: Vec<String> =
            skipped.into_iter().map(|(workflow, why)| format!("`{}`: {why}", workflow.name)).collect();
        whys.dedup();
        let more = whys.len().saturating_sub(MOST_TOLD);
        whys.truncate(MOST_TOLD);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        Some(format!("no workflow runs on this `{}`: {}{more}", self.event, whys.join("; ")))
    }
}

impl Gates {
    /// The gates of the default branch's files.
    pub fn of(sources: &[Source]) -> Self {
        let mut gates = Gates::default();
        for source in sources {
            let name = name(&source.file);
            for workflow in source.points.iter().filter_map(|point| point.workflow.as_ref()) {
                if let Some(gate) = &workflow.approve {
                    gates.workflows.insert(name.clone(), gate.value.clone());
                }
                for (step, gate) in
                    workflow.steps.iter().filter_map(|step| Some((step, step.approve.as_ref()?)))
                {
                    let of_workflow = gates.steps.entry(name.clone()).or_default();
                    of_workflow.insert(step.name.value.clone(), gate.value.clone());
                }
            }
        }
        gates
    }

    pub(crate) fn of_step(&self, workflow: &str, step: &str) -> Option<String> {
        self.steps.get(workflow)?.get(step).cloned()
    }

    /// The workflow's own, or that of a step which the commit renamed or took out: then nobody
    /// knows where its work went, and all of the workflow waits.
    fn of_workflow(&self, name: &str, workflow: &Workflow) -> Option<String> {
        let gone = |step: &&String| !workflow.steps.iter().any(|there| there.name.value == **step);
        let of_gone = || {
            let steps = self.steps.get(name)?;
            steps.keys().find(gone).and_then(|step| steps.get(step)).cloned()
        };
        self.workflows.get(name).cloned().or_else(of_gone)
    }
}

/// A workflow on its way to a verdict.
struct Draft<'a> {
    name: String,
    source: &'a Source,
    point: &'a SourcePoint,
    verdict: Verdict,
    why: String,
    /// Left out although its clone or a service would run, because none of its steps does. In
    /// Woodpecker it runs, so for what depends on it that is fine.
    idle: bool,
    on: RunsOn,
    needs: Vec<String>,
    steps: Steps,
    findings: Vec<Finding>,
}

impl<'a> Draft<'a> {
    fn new(
        source: &'a Source,
        point: &'a SourcePoint,
        request: &Request<'_>,
        of_run: &Variables,
        number: usize,
    ) -> Self {
        let mut draft = Self {
            name: name(&source.file),
            source,
            point,
            verdict: Verdict::Run,
            why: String::new(),
            idle: false,
            on: RunsOn::default(),
            needs: Vec::new(),
            steps: Steps::default(),
            findings: point.findings.clone(),
        };
        match (&point.workflow, skip_ci(request.facts)) {
            (Some(_), Some(why)) => draft.skip(why),
            (Some(workflow), None) if !draft.any_error() => {
                let own = of_workflow(of_run, &draft.name, number);
                let variables = for_expressions(own, request.facts, workflow, &point.point);
                draft.decide(workflow, request, &variables);
            }
            _ => {}
        }
        if let Some(first) = draft.findings.iter().find(|finding| finding.level == Level::Error) {
            let more = draft.findings.iter().filter(|finding| finding.level == Level::Error).count() - 1;
            let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            draft.verdict = Verdict::Refuse(format!("{first}{more}"));
        }
        draft
    }

    fn any_error(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Error)
    }

    fn skip(&mut self, why: String) {
        self.verdict = Verdict::Skip(why);
    }

    fn decide(&mut self, workflow: &'a Workflow, request: &Request<'_>, variables: &Variables) {
        let file = &*self.source.file;
        let about = Circumstances { facts: request.facts, variables, point: None, file };
        match when::answer(&workflow.when, &about) {
            Ok(Answer::Not { why }) => return self.skip(why),
            Ok(Answer::Runs { on, why }) => {
                self.on = runs_on(workflow, on);
                self.why = why;
            }
            Err((at, why)) => return self.findings.push(steps::expression(file, at.at, &why)),
        }
        self.findings.extend(wrong_inputs(workflow, request.facts, file));
        self.needs = workflow.depends_on.iter().map(|need| need.name.value.clone()).collect();
        let name = &self.name;
        let context = Context { request, file, name, workflow, point: &self.point.point, variables };
        self.steps = steps::plan(&context);
        self.findings.append(&mut self.steps.findings);
        let wanted: BTreeMap<String, String> =
            workflow.labels.iter().map(|(key, label)| (key.clone(), label.value.clone())).collect();
        if let Some(Err(why)) = (!request.runner.is_empty()).then(|| labels::fits(&wanted, request.runner)) {
            let at = workflow.labels.values().next().map(|label| label.at).unwrap_or_default();
            self.findings.push(Finding::error(file, "labels", why).at(at.line, at.column));
        }
        if !self.any_error() && !self.steps.any_work() {
            self.idle = self.steps.steps.iter().any(|step| step.verdict == Verdict::Run);
            let reasons: BTreeSet<&str> = self.steps.left_out().map(|(_, why)| why).collect();
            let why = match reasons.first() {
                Some(why) if reasons.len() == 1 => format!("none of its steps runs: {why}"),
                _ => "none of its steps runs".to_owned(),
            };
            self.skip(why);
        }
    }

    fn finished(self, request: &Request<'_>) -> (PlannedWorkflow, Whys) {
        let workflow = self.point.workflow.as_ref();
        let kept = workflow.and_then(|workflow| request.gates.of_workflow(&self.name, workflow));
        let written = workflow.and_then(|workflow| workflow.approve.as_ref());
        let concurrency = workflow.and_then(|workflow| workflow.concurrency.as_ref());
        let rules = WorkflowRules {
            needs: self.needs,
            runs_on: self.on,
            gate: kept.or_else(|| written.map(|gate| gate.value.clone())),
            concurrency: concurrency.map(|concurrency| ConcurrencyRule {
                group: concurrency.group.clone().unwrap_or_else(|| self.name.clone()),
                limit: concurrency.limit,
            }),
            findings: Vec::new(),
        };
        let whys = match self.verdict {
            Verdict::Run => {
                let names = self.steps.steps.iter().map(|step| step.name.clone());
                names.zip(self.steps.whys.iter().cloned()).collect()
            }
            Verdict::Skip(_) | Verdict::Refuse(_) => {
                let own: HashMap<&str, &str> = self.steps.left_out().collect();
                let why = |name: &str| own.get(name).copied().unwrap_or("its workflow does not run");
                let names = workflow.into_iter().flat_map(|workflow| &workflow.steps).map(|step| &*step.name);
                names.map(|name| (name.clone(), why(name).to_owned())).collect()
            }
        };
        let (why, steps) = match &self.verdict {
            Verdict::Run => (self.why, self.steps.steps),
            Verdict::Skip(why) | Verdict::Refuse(why) => (why.clone(), Vec::new()),
        };
        let axis = self.point.axis.clone();
        let planned = PlannedWorkflow { name: self.name, axis, verdict: self.verdict, rules, steps };
        (planned, Whys { workflow: why, steps: whys })
    }
}

/// What `${…}` stands for in a file, but for the defaults of its inputs. An axis of the matrix
/// stands for itself whatever it is called, as in Woodpecker.
fn for_substitution(
    of_run: &Variables,
    facts: &Facts,
    name: &str,
    number: usize,
    point: &Point,
) -> Variables {
    let mut all = given(facts);
    all.extend(of_workflow(of_run, name, number));
    all.extend(point.clone());
    all
}

/// What expressions know: over mergeyard's own variables goes nothing.
fn for_expressions(of_workflow: Variables, facts: &Facts, workflow: &Workflow, point: &Point) -> Variables {
    let mut all = inputs(workflow, facts);
    all.extend(point.clone());
    all.extend(of_workflow);
    all
}

fn of_workflow(of_run: &Variables, name: &str, number: usize) -> Variables {
    let mut all = of_run.clone();
    all.insert("CI_WORKFLOW_NAME".to_owned(), name.to_owned());
    all.insert("CI_WORKFLOW_NUMBER".to_owned(), number.to_string());
    all
}

/// The inputs of a workflow: what was given, or else the default.
pub(crate) fn inputs(workflow: &Workflow, facts: &Facts) -> Variables {
    let defaults = workflow.inputs.iter().filter_map(|(name, input)| Some((name, input.default.as_ref()?)));
    let mut all: Variables = defaults.map(|(name, value)| (name.clone(), value.clone())).collect();
    all.extend(given(facts));
    all
}

fn given(facts: &Facts) -> Variables {
    let mut given = facts.inputs.clone();
    given.retain(|name, _| !environment::is_reserved(name));
    given
}

/// What the commit's message says, if it says that nothing is to run.
pub fn skip_ci(facts: &Facts) -> Option<String> {
    let event = facts.pipeline.event;
    let message = facts.commit.message.to_lowercase();
    let said = ["[skip ci]", "[ci skip]"].into_iter().find(|words| message.contains(words))?;
    let concerned = event == EventKind::Push || event.is_pull_request();
    concerned.then(|| format!("the commit's message says `{said}`"))
}

/// `runs_on` is the older way to say it, and adds to what `when` says.
fn runs_on(workflow: &Workflow, on: RunsOn) -> RunsOn {
    let lists = |status| workflow.runs_on.iter().any(|listed| listed.value == status);
    if workflow.runs_on.is_empty() {
        return on;
    }
    RunsOn { success: lists(Status::Success), failure: lists(Status::Failure) || on.failure }
}

fn wrong_inputs(workflow: &Workflow, facts: &Facts, file: &str) -> Vec<Finding> {
    if facts.pipeline.event != EventKind::Manual {
        return Vec::new();
    }
    let wrong = |(name, input): (&String, &spec::Input)| {
        let given = facts.inputs.get(name).or(input.default.as_ref());
        let says = match (given, &input.kind) {
            (None, _) if input.required => "it is required; give it when you start the run".to_owned(),
            (Some(value), kind) if kind.takes(value) => return None,
            (Some(value), InputKind::Number) => format!("`{value}` is not a number"),
            (Some(value), InputKind::Boolean) => format!("`{value}` is neither true nor false"),
            (Some(value), InputKind::Choice(choices)) => {
                format!("`{value}` is none of {}", choices.join(", "))
            }
            (Some(_), InputKind::Text) | (None, _) => return None,
        };
        let At { line, column } = input.at;
        Some(Finding::error(file, "input", format!("input `{name}`: {says}")).at(line, column))
    };
    workflow.inputs.iter().filter_map(wrong).collect()
}

/// Leaves out what depends on something that is not there, until nothing changes any more.
fn connect(drafts: &mut [Draft<'_>]) {
    refuse_cycles(drafts);
    loop {
        let mut there: HashMap<String, Option<String>> = HashMap::new();
        for draft in drafts.iter() {
            let reason = match &draft.verdict {
                Verdict::Run => None,
                Verdict::Skip(_) if draft.idle => None,
                Verdict::Skip(why) => Some(format!("which is left out: {why}")),
                Verdict::Refuse(_) => Some("which is refused".to_owned()),
            };
            // One point of the matrix that runs is enough.
            let known = there.entry(draft.name.clone()).or_insert_with(|| reason.clone());
            if reason.is_none() {
                *known = None;
            }
        }
        let mut changed = false;
        for draft in drafts.iter_mut().filter(|draft| draft.verdict == Verdict::Run) {
            let Some(workflow) = &draft.point.workflow else { continue };
            let missing = workflow.depends_on.iter().filter(|need| !need.optional).find_map(|need| {
                let name = &need.name.value;
                match there.get(name) {
                    Some(None) => None,
                    Some(Some(why)) => Some(format!("it needs workflow `{name}`, {why}")),
                    None => Some(format!("it needs workflow `{name}`, and no file is called so")),
                }
            });
            if let Some(why) = missing {
                draft.verdict = Verdict::Skip(why);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    // Nobody waits for what has nothing to do or, being optional, is not there.
    let running: BTreeSet<String> =
        drafts.iter().filter(|draft| draft.verdict == Verdict::Run).map(|draft| draft.name.clone()).collect();
    for draft in drafts {
        draft.needs.retain(|need| running.contains(need));
    }
}

/// `build.yml` and `build.yaml` of one folder are one name to all who go by names.
fn warn_of_namesakes(drafts: &mut [Draft<'_>]) {
    let mut first: HashMap<(&str, String), &str> = HashMap::new();
    for draft in drafts {
        let file = draft.source.file.as_str();
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        let known = *first.entry((folder, draft.name.clone())).or_insert(file);
        if known != file {
            let message = format!(
                "`{known}` is a workflow `{}` too: neither `depends_on` nor statuses tell them apart, rename one",
                draft.name
            );
            let error = Finding::error(file, "pipeline-name", message);
            draft.findings.push(Finding { level: Level::Warning, ..error });
        }
    }
}

fn refuse_cycles(drafts: &mut [Draft<'_>]) {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for draft in drafts.iter() {
        needs.entry(draft.name.clone()).or_default().extend(draft.needs.iter().cloned());
    }
    // What is left after everything was taken away, again and again, that waits for nothing left.
    loop {
        let known: BTreeSet<String> = needs.keys().cloned().collect();
        let before = needs.len();
        needs.retain(|_, needs| needs.iter().any(|need| known.contains(need)));
        if needs.len() == before {
            break;
        }
    }
    for draft in drafts.iter_mut().filter(|draft| needs.contains_key(&draft.name)) {
        let Some(cycle) = cycle(&draft.name, &needs) else { continue };
        let at = draft.point.workflow.as_ref().and_then(|workflow| workflow.depends_on.first());
        let at = at.map(|need| need.name.at).unwrap_or_default();
        let message =
            format!("the workflows wait for each other: {}; remove one `depends_on`", cycle.join(" → "));
        let finding = Finding::error(&draft.source.file, "workflow-cycle", message).at(at.line, at.column);
        draft.verdict = Verdict::Refuse(finding.to_string());
        draft.findings.push(finding);
    }
}

/// From a name back to itself, if a way leads there.
fn cycle(name: &str, needs: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut open = VecDeque::from([name]);
    while let Some(at) = open.pop_front() {
        for need in needs.get(at).into_iter().flatten() {
            if need == name {
                // Read backwards: from the end of the way to its beginning, which is the name itself.
                let mut way = vec![name.to_owned()];
                let mut back = at;
                while back != name {
                    way.push(back.to_owned());
                    back = came_from.get(back)?;
                }
                way.push(name.to_owned());
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(need.as_str()) {
                came_from.insert(need, at);
                open.push_back(need);
            }
        }
    }
    None
}
