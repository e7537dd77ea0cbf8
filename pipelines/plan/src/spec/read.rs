//! From a file's text to a `Workflow`, with everything that is wrong said at once.
//!
//! The grammar looks at every key and value first; what does not fit has then been told, and the
//! reading below takes what does. A file with an error gives no workflow, because half of what
//! somebody wrote is not what they meant.

use std::collections::{BTreeMap, HashMap};

use super::{
    Concurrency, Included, Input, InputKind, Limits, Need, Spanned, Workflow, Workspace, check,
    findings::{Findings, Quoted},
    grammar::{self, Shape},
    include,
    keys::{CLONE, SERVICE, STEP, WORKFLOW},
    node::{Key, Kind, Node, Place},
    parse::parse,
    scalar,
    when::statuses,
};
use crate::{environment, finding::Finding, substitute::Text};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// There unless a finding is an error.
    pub workflow: Option<Workflow>,
    pub findings: Vec<Finding>,
}

/// The bytes of a pipeline file as text, or why they are none.
pub fn text<'a>(file: &str, bytes: &'a [u8], limits: &Limits) -> Result<&'a str, Finding> {
    if bytes.len() > limits.file_bytes {
        let message = format!(
            "the file has {} bytes, more than the {} that are read: move scripts into files of the repository",
            bytes.len(),
            limits.file_bytes
        );
        return Err(Finding::error(file, "yaml-size", message));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Finding::error(file, "yaml-encoding", "this is not UTF-8: save the file in that encoding")
            .at(line, column)
    })
}

/// Reads a file that includes no other.
pub fn read(file: &str, text: &str, limits: &Limits) -> Read {
    read_with(file, text, &[], limits)
}

/// Reads a file on top of those it includes. A file that is asked for and not in `included` is a
/// finding, so the caller leaves out what the repository does not have.
pub fn read_with<'a>(file: &str, text: impl Into<Text<'a>>, included: &[Included], limits: &Limits) -> Read {
    let mut findings = Findings::new(file, limits.findings);
    let workflow = workflow(text.into(), included, limits, &mut findings).filter(|_| !findings.any_error());
    Read { workflow, findings: findings.into_list() }
}

/// What the inputs of a file are when nothing is given, read ahead of the file itself because its
/// `${…}` may name them. `None` when it is not YAML.
pub fn defaults<'a>(
    text: impl Into<Text<'a>>,
    included: &[Included],
    limits: &Limits,
) -> Option<BTreeMap<String, String>> {
    let mut findings = Findings::new("", limits.findings);
    let mut anchors = HashMap::new();
    let mut defaults = BTreeMap::new();
    for text in included.iter().take(limits.includes).map(|part| part.text).chain([text.into()]) {
        let tree = parse(0, text, Some(&anchors), limits, &mut findings);
        anchors.extend(tree.anchors);
        for (key, node) in tree.root.iter().filter_map(|root| root.get("inputs")).flat_map(Node::map) {
            // One of the same name takes the included one's place, with a default or without.
            defaults.insert(key.text.clone(), node.get("default").and_then(Node::text));
        }
    }
    let written = defaults.into_iter().filter_map(|(name, default)| Some((name, default?.value)));
    (!findings.any_error()).then(|| written.collect())
}

fn workflow<'a>(
    text: Text<'_>,
    included: &[Included<'a>],
    limits: &Limits,
    findings: &mut Findings<'a>,
) -> Option<Workflow> {
    let mut anchors = HashMap::new();
    let mut underneath = Workflow::default();
    for (number, part) in (1..).zip(included.iter().take(limits.includes)) {
        findings.files.push(part.file);
        let tree = parse(number, part.text, Some(&anchors), limits, findings);
        anchors.extend(tree.anchors);
        if let Some(root) = tree.root {
            include::check_fragment(&root, findings);
            let part = Reader { findings, file: number }.workflow(&root);
            underneath = include::on_top(part, underneath);
        }
    }
    let root = parse(0, text, Some(&anchors), limits, findings).root;
    let Some(root) = root.filter(|root| !root.is_null()) else {
        if !findings.any_error() {
            findings.error(Place::default(), "pipeline-empty", "the file is empty: it needs `steps`");
        }
        return None;
    };
    grammar::check(&Shape::Keys(&WORKFLOW), &root, "a pipeline", findings);
    if !matches!(root.kind, Kind::Map(_)) {
        return None;
    }
    include::check_wanted(&root, included, limits, findings);
    let own = Reader { findings, file: 0 }.workflow(&root);
    let workflow = include::on_top(own, underneath);
    let steps = root.get("steps");
    let place = steps.map_or(root.place, |steps| steps.place);
    if workflow.steps.is_empty() && steps.is_none_or(|steps| steps.is_empty()) {
        findings.error(place, "pipeline-no-steps", "a pipeline needs at least one step under `steps`");
    }
    let services = root.get("services").map_or(place, |services| services.place);
    check::workflow(&workflow, (place, services), limits, findings);
    Some(workflow)
}

pub(super) struct Reader<'r, 'f> {
    pub(super) findings: &'r mut Findings<'f>,
    /// The one of `findings.files` that is being read.
    pub(super) file: usize,
}

impl Reader<'_, '_> {
    fn workflow(&mut self, root: &Node) -> Workflow {
        let when = root.get("when");
        if let Some(node) = when {
            self.warn_of_matrix(node);
        }
        Workflow {
            when: when.map(|node| self.when(node)).unwrap_or_default(),
            workspace: root.get("workspace").map(workspace).unwrap_or_default(),
            skip_clone: root.get("skip_clone").and_then(Node::flag).unwrap_or_default(),
            clone: self.steps(root.get("clone"), &CLONE),
            steps: self.steps(root.get("steps"), &STEP),
            services: self.steps(root.get("services"), &SERVICE),
            labels: root.get("labels").map(labels).unwrap_or_default(),
            depends_on: root.get("depends_on").map(needs).unwrap_or_default(),
            runs_on: root.get("runs_on").map(statuses).unwrap_or_default(),
            concurrency: root.get("concurrency").and_then(|node| self.concurrency(node)),
            approve: root.get("approve").and_then(Node::text),
            inputs: root.get("inputs").map(|node| self.inputs(node)).unwrap_or_default(),
        }
    }

    fn warn_of_matrix(&mut self, when: &Node) {
        for (key, _) in when.one_or_more().iter().flat_map(Node::map).filter(|(key, _)| key.text == "matrix")
        {
            let message = "`matrix` is passed over here: a workflow is made for every point; use it under a step's `when`";
            self.findings.warning(key.place, "pipeline-when", message);
        }
    }

    fn concurrency(&mut self, node: &Node) -> Option<Concurrency> {
        let whole = |node: &Node| node.scalar().and_then(scalar::integer);
        let limit = match node.kind {
            Kind::Map(_) => node.get("limit").and_then(whole),
            _ => whole(node),
        };
        if matches!(node.kind, Kind::Map(_)) && node.get("limit").is_none() {
            let message = "`concurrency` limits nothing without a `limit`, such as 1";
            self.findings.warning(node.place, "pipeline-concurrency", message);
        }
        // What stands for a variable that is not set is no name either.
        let group = node.get("group").and_then(Node::text).map(|group| group.value);
        let group = group.filter(|group| !group.is_empty());
        let limit = u32::try_from(limit?).ok().filter(|limit| *limit > 0)?;
        Some(Concurrency { limit, group })
    }

    fn inputs(&mut self, node: &Node) -> BTreeMap<String, Input> {
        node.map().iter().map(|(key, node)| (key.text.clone(), self.input(key, node))).collect()
    }

    fn input(&mut self, key: &Key, node: &Node) -> Input {
        let text = |name: &str| node.get(name).and_then(Node::text).map(|text| text.value);
        let kind = match text("type").as_deref() {
            Some("number") => InputKind::Number,
            Some("boolean") => InputKind::Boolean,
            Some("choice") => {
                let options = node.get("options").map(Node::texts).unwrap_or_default();
                InputKind::Choice(options.into_iter().map(|option| option.value).collect())
            }
            _ => InputKind::Text,
        };
        let quoted = Quoted(&key.text).to_string();
        if environment::is_reserved(&key.text) {
            let message = format!("the input {quoted} {}", environment::RESERVED);
            self.findings.error(key.place, "pipeline-input", message);
        }
        if matches!(&kind, InputKind::Choice(options) if options.is_empty()) {
            let message = format!("the input {quoted} is a choice of nothing: list its `options`");
            self.findings.error(key.place, "pipeline-input", message);
        }
        let default = text("default");
        if let (Some(default), Some(node)) = (&default, node.get("default"))
            && !kind.takes(default)
        {
            let message = format!("the input {quoted} does not take its own default {}", Quoted(default));
            self.findings.error(node.place, "pipeline-input", message);
        }
        let required = node.get("required").and_then(Node::flag).unwrap_or_default();
        Input { at: key.place.at, kind, description: text("description"), default, required }
    }
}

impl InputKind {
    /// Whether `value` is one of this kind; also for what a person gives when starting a run.
    pub fn takes(&self, value: &str) -> bool {
        match self {
            InputKind::Text => true,
            InputKind::Number => value.parse::<f64>().is_ok_and(f64::is_finite),
            InputKind::Boolean => matches!(value, "true" | "false"),
            InputKind::Choice(options) => options.iter().any(|option| option == value),
        }
    }
}

fn labels(node: &Node) -> BTreeMap<String, Spanned<String>> {
    node.map().iter().filter_map(|(key, node)| Some((key.text.clone(), node.text()?))).collect()
}

fn workspace(node: &Node) -> Workspace {
    let text = |key: &str| node.get(key).and_then(Node::text).map(|text| text.value);
    Workspace { base: text("base"), path: text("path") }
}

fn needs(node: &Node) -> Vec<Need> {
    node.one_or_more().iter().filter_map(need).collect()
}

pub(super) fn need(node: &Node) -> Option<Need> {
    match &node.kind {
        Kind::Map(_) => {
            let optional = node.get("optional").and_then(Node::flag).unwrap_or_default();
            let name = node.get("name").and_then(Node::text);
            Some(Need { name: name.unwrap_or_else(|| spanned(node, String::new())), optional })
        }
        _ => Some(Need { name: node.text()?, optional: false }),
    }
}

pub(super) fn spanned<T>(node: &Node, value: T) -> Spanned<T> {
    Spanned { value, at: node.place.at }
}
