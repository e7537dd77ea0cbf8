//! From a file's text to a `Workflow`, with everything that is wrong said at once.
//!
//! The grammar looks at every key and value first; what does not fit has then been told, and the
//! reading below takes what does. A file with an error gives no workflow, because half of what
//! somebody wrote is not what they meant.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;

use super::{
    Concurrency, Constraint, Input, InputKind, Limits, Need, OnFailure, PathConstraint, Probe, Ready,
    Spanned, Status, Step, When, Workflow, Workspace, check,
    findings::{Findings, Quoted},
    grammar::{self, CLONE, SERVICE, STEP, Shape, Table, WORKFLOW},
    node::{Key, Kind, Node, Place},
    parse::{Tree, parse},
    scalar,
};
use crate::finding::Finding;

/// Time a service has to become ready when its file does not say.
const READY_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// There unless a finding is an error.
    pub workflow: Option<Workflow>,
    pub findings: Vec<Finding>,
}

/// A file that another one includes, after substitution.
#[derive(Debug, Clone, Copy)]
pub struct Included<'a> {
    pub file: &'a str,
    pub text: &'a str,
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

/// The files that `text` asks to have put underneath it, for the caller to fetch. A text that
/// cannot be read includes nothing; `read_with` says why.
pub fn includes(text: &str) -> Vec<Spanned<String>> {
    if !text.contains("include") {
        return Vec::new();
    }
    let limits = Limits::DEFAULT;
    let mut findings = Findings::new("", limits.findings);
    let Tree { root, .. } = parse(0, text, &HashMap::new(), &limits, &mut findings);
    let mut files = root.as_ref().and_then(|root| root.get("include")).map(Node::texts).unwrap_or_default();
    files.truncate(limits.includes);
    files
}

/// Reads a file that includes no other.
pub fn read(file: &str, text: &str, limits: &Limits) -> Read {
    read_with(file, text, &[], limits)
}

/// Reads a file on top of those it includes. A file that is asked for and not in `included` is a
/// finding, so the caller leaves out what the repository does not have.
///
/// Anchors of an included file can be used by the files after it. Its steps and services come
/// first, and one of the same name takes the place of the included one; the same goes for
/// labels and inputs. All else is the file's own.
pub fn read_with(file: &str, text: &str, included: &[Included], limits: &Limits) -> Read {
    let mut findings = Findings::new(file, limits.findings);
    let mut anchors = HashMap::new();
    let mut fragments = Vec::new();
    for (number, part) in included.iter().take(limits.includes).enumerate() {
        findings.files.push(part.file);
        let tree = parse(number + 1, part.text, &anchors, limits, &mut findings);
        anchors.extend(tree.anchors);
        fragments.extend(tree.root);
    }
    let root = parse(0, text, &anchors, limits, &mut findings).root;
    let Some(root) = root.filter(|root| !root.is_null()) else {
        if !findings.any_error() {
            let message = "the file is empty: it needs `steps`";
            findings.error(Place::default(), "pipeline-empty", message);
        }
        return Read { workflow: None, findings: findings.into_list() };
    };

    let mut reader = Reader { limits, findings: &mut findings };
    grammar::check(&Shape::Keys(&WORKFLOW), &root, "a pipeline", reader.findings);
    if !matches!(root.kind, Kind::Map(_)) {
        return Read { workflow: None, findings: findings.into_list() };
    }
    reader.check_includes(&root, included);
    let mut underneath = Workflow::default();
    for fragment in &fragments {
        reader.check_fragment(fragment);
        underneath = on_top(reader.workflow(fragment), underneath);
    }
    let own = reader.workflow(&root);
    let workflow = on_top(own, underneath);
    let steps = root.get("steps");
    let place = steps.map_or(root.place, |steps| steps.place);
    if workflow.steps.is_empty() && steps.is_none_or(|steps| steps.is_empty()) {
        findings.error(place, "pipeline-no-steps", "a pipeline needs at least one step under `steps`");
    }
    check::workflow(&workflow, place, limits, &mut findings);
    let workflow = (!findings.any_error()).then_some(workflow);
    Read { workflow, findings: findings.into_list() }
}

fn on_top(own: Workflow, underneath: Workflow) -> Workflow {
    let mut labels = underneath.labels;
    labels.extend(own.labels);
    let mut inputs = underneath.inputs;
    inputs.extend(own.inputs);
    Workflow {
        steps: replaced(underneath.steps, own.steps),
        services: replaced(underneath.services, own.services),
        labels,
        inputs,
        ..own
    }
}

fn replaced(mut steps: Vec<Step>, own: Vec<Step>) -> Vec<Step> {
    let before = steps.len();
    for step in own {
        // Only among the included ones: the same name twice in one file is an error, found later.
        match steps[..before].iter().position(|included| *included.name == *step.name) {
            Some(place) => steps[place] = step,
            None => steps.push(step),
        }
    }
    steps
}

struct Reader<'r, 'f> {
    limits: &'r Limits,
    findings: &'r mut Findings<'f>,
}

impl Reader<'_, '_> {
    fn check_includes(&mut self, root: &Node, included: &[Included]) {
        let Some(node) = root.get("include") else { return };
        let wanted = node.one_or_more();
        if wanted.len() > self.limits.includes {
            let message = format!("no more than {} files can be included", self.limits.includes);
            self.findings.error(node.place, "pipeline-include", message);
        }
        for node in wanted {
            let Some(path) = node.text() else { continue };
            if path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                let message =
                    format!("{} is not the path of a file, seen from the repository's root", Quoted(&path));
                self.findings.error(node.place, "pipeline-include", message);
            } else if !included.iter().any(|part| part.file == *path) {
                let message = format!(
                    "{} is not there: included files are read at the repository's default branch",
                    Quoted(&path)
                );
                self.findings.error(node.place, "pipeline-include", message);
            }
        }
    }

    fn check_fragment(&mut self, root: &Node) {
        grammar::check(&Shape::Keys(&WORKFLOW), root, "a pipeline", self.findings);
        for (key, node) in root.map() {
            match key.text.as_str() {
                "steps" | "services" => {
                    if let Kind::List(steps) = &node.kind {
                        for step in steps.iter().filter(|step| step.get("name").is_none()) {
                            let message = "name the steps of an included file: others replace them by name";
                            self.findings.error(step.place, "pipeline-include", message);
                        }
                    }
                }
                "labels" | "inputs" | "variables" | "version" | "$schema" => {}
                "include" => {
                    let message = "an included file cannot include others: include them from the first file";
                    self.findings.error(key.place, "pipeline-include", message);
                }
                name => {
                    let known = WORKFLOW.keys.iter().any(|key| key.name == name);
                    let message = format!(
                        "{} means nothing in an included file: write it in the one that includes it",
                        Quoted(name)
                    );
                    if known {
                        self.findings.warning(key.place, "pipeline-include", message);
                    }
                }
            }
        }
    }

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
            labels: pairs(root.get("labels"))
                .into_iter()
                .filter_map(|(key, value)| Some((key.value, value.text()?)))
                .collect(),
            depends_on: root.get("depends_on").map(needs).unwrap_or_default(),
            runs_on: root.get("runs_on").map(statuses).unwrap_or_default(),
            concurrency: root.get("concurrency").and_then(|node| self.concurrency(node)),
            approve: self.gate(root),
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

    fn steps(&mut self, node: Option<&Node>, table: &'static Table) -> Vec<Step> {
        // What is neither has been said, and an empty step lacks an image.
        let is_step = |node: &Node| matches!(node.kind, Kind::Map(_)) || node.is_null();
        match node.map(|node| &node.kind) {
            Some(Kind::Map(entries)) => {
                let entries = entries.iter().filter(|(_, node)| is_step(node));
                entries.map(|(key, node)| self.named_step(key, node, table)).collect()
            }
            Some(Kind::List(nodes)) => {
                let nodes = nodes.iter().enumerate().filter(|(_, node)| is_step(node));
                nodes.map(|(i, node)| self.listed_step(i, node, table)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Steps may be named again inside; a service is reached by its key, so that is its name.
    fn named_step(&mut self, key: &Key, node: &Node, table: &'static Table) -> Step {
        let inner = node.get("name").and_then(Node::text).filter(|name| !name.is_empty());
        let name = inner.filter(|_| table.name != SERVICE.name).unwrap_or_else(|| key.spanned());
        self.step(name, node)
    }

    fn listed_step(&mut self, index: usize, node: &Node, table: &'static Table) -> Step {
        let name = node.get("name").and_then(Node::text).filter(|name| !name.is_empty());
        if name.is_none() && table.name == SERVICE.name {
            let message = "a service is reached by its name: give it one";
            self.findings.warning(node.place, "pipeline-name", message);
        }
        let name = name.unwrap_or_else(|| Spanned { value: format!("step-{index}"), at: node.place.at });
        self.step(name, node)
    }

    fn step(&mut self, name: Spanned<String>, node: &Node) -> Step {
        let text = |key: &str| node.get(key).and_then(Node::text);
        let texts = |key: &str| node.get(key).map(Node::texts).unwrap_or_default();
        let flag = |key: &str| node.get(key).and_then(Node::flag);
        let values = |key: &str| -> Vec<(Spanned<String>, Value)> {
            pairs(node.get(key)).into_iter().map(|(key, value)| (key, value.json())).collect()
        };
        Step {
            name,
            origin: (node.place.file > 0).then(|| self.findings.files[node.place.file].to_owned()),
            image: text("image"),
            pull: flag("pull").unwrap_or_default(),
            commands: texts("commands"),
            entrypoint: texts("entrypoint").into_iter().map(|part| part.value).collect(),
            directory: text("directory").map(|directory| directory.value),
            settings: values("settings"),
            environment: self.environment(node),
            depends_on: node.get("depends_on").map(needs),
            when: node.get("when").map(|node| self.when(node)).unwrap_or_default(),
            failure: match text("failure").as_ref().map(|failure| failure.as_str()) {
                Some("ignore") => OnFailure::Ignore,
                Some("cancel") => OnFailure::Cancel,
                _ => OnFailure::Fail,
            },
            detach: flag("detach").unwrap_or_default(),
            volumes: texts("volumes"),
            ports: texts("ports"),
            dns: texts("dns"),
            dns_search: texts("dns_search"),
            devices: texts("devices"),
            extra_hosts: texts("extra_hosts"),
            network_mode: text("network_mode"),
            tmpfs: texts("tmpfs"),
            privileged: node.get("privileged").and_then(|node| Some(spanned(node, node.flag()?))),
            user: node.get("backend_options").and_then(|options| options.get("docker")?.get("user")?.text()),
            uses: text("uses"),
            with: values("with"),
            timeout: node.get("timeout").and_then(|node| Some(spanned(node, duration(node)?))),
            retry: self.retry(node),
            outputs: texts("outputs"),
            ready: node.get("ready").and_then(|node| self.ready(node)),
            cache: self.cache(node),
            approve: self.gate(node),
        }
    }

    /// Old files list `NAME=value`.
    fn environment(&mut self, step: &Node) -> Vec<(Spanned<String>, Value)> {
        let Some(node) = step.get("environment") else { return Vec::new() };
        if let Kind::Map(_) = node.kind {
            return pairs(Some(node)).into_iter().map(|(key, value)| (key, value.json())).collect();
        }
        let message = "a list of variables is outdated: write `NAME: value` for each";
        self.findings.warning(node.place, "pipeline-old-key", message);
        let mut variables = Vec::new();
        for item in node.texts() {
            match item.value.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    let name = Spanned { value: name.to_owned(), at: item.at };
                    variables.push((name, Value::String(value.to_owned())));
                }
                _ => {
                    let message = format!("{} is not a variable: write `NAME: value`", Quoted(&item));
                    let place = Place { file: node.place.file, at: item.at };
                    self.findings.error(place, "pipeline-type", message);
                }
            }
        }
        variables
    }

    fn retry(&mut self, step: &Node) -> u32 {
        let Some(node) = step.get("retry") else { return 0 };
        let wanted = node.scalar().and_then(scalar::integer).and_then(|count| u32::try_from(count).ok());
        if wanted.is_some_and(|count| count > self.limits.retries) {
            let message = format!("`retry` takes 0 to {}", self.limits.retries);
            self.findings.error(node.place, "pipeline-number", message);
        }
        wanted.unwrap_or_default()
    }

    fn ready(&mut self, node: &Node) -> Option<Ready> {
        let timeout = node.get("timeout").and_then(duration).unwrap_or(READY_WITHIN);
        let probe = match (node.get("command"), node.get("port")) {
            (Some(command), None) => Probe::Command(match &command.kind {
                Kind::List(_) => command.texts().into_iter().map(|part| part.value).collect(),
                _ => vec!["/bin/sh".into(), "-c".into(), command.text()?.value],
            }),
            (None, Some(port)) => Probe::Port(
                port.scalar().and_then(scalar::integer).and_then(|port| u16::try_from(port).ok())?,
            ),
            _ => {
                let message = "`ready` takes either a `command` or a `port`";
                self.findings.error(node.place, "pipeline-ready", message);
                return None;
            }
        };
        Some(Ready { probe, timeout })
    }

    fn cache(&mut self, step: &Node) -> Vec<Spanned<String>> {
        let Some(node) = step.get("cache") else { return Vec::new() };
        let directories = node.texts();
        for directory in &directories {
            if directory.is_empty() || directory.split('/').any(|part| part == "..") {
                let place = Place { file: node.place.file, at: directory.at };
                let message =
                    format!("{} is not a directory to keep: name one without `..`", Quoted(directory));
                self.findings.error(place, "pipeline-cache", message);
            }
        }
        directories
    }

    fn gate(&mut self, node: &Node) -> Option<Spanned<String>> {
        let node = node.get("approve")?;
        let gate = node.text()?;
        if gate.trim().is_empty() {
            self.findings.error(
                node.place,
                "pipeline-approve",
                "name the gate, such as `approve: production`",
            );
        }
        Some(gate)
    }

    fn concurrency(&mut self, node: &Node) -> Option<Concurrency> {
        let whole =
            |node: &Node| node.scalar().and_then(scalar::integer).and_then(|limit| u32::try_from(limit).ok());
        let limit = match node.kind {
            Kind::Map(_) => node.get("limit").and_then(whole),
            _ => whole(node),
        };
        if matches!(node.kind, Kind::Map(_)) && node.get("limit").is_none() {
            let message = "`concurrency` limits nothing without a `limit`, such as 1";
            self.findings.warning(node.place, "pipeline-concurrency", message);
        }
        let group = node.get("group").and_then(Node::text).map(|group| group.value);
        limit.filter(|limit| *limit > 0).map(|limit| Concurrency { limit, group })
    }

    fn inputs(&mut self, node: &Node) -> std::collections::BTreeMap<String, Input> {
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

    fn when(&mut self, node: &Node) -> Vec<When> {
        node.one_or_more()
            .iter()
            .filter(|node| matches!(node.kind, Kind::Map(_)))
            .map(|node| self.condition(node))
            .collect()
    }

    fn condition(&mut self, node: &Node) -> When {
        let constraint = |key: &str| node.get(key).map(constraint).unwrap_or_default();
        let (matrix, matrix_exclude) = node.get("matrix").map(matrix).unwrap_or_default();
        When {
            at: node.place.at,
            repo: constraint("repo"),
            branch: constraint("branch"),
            event: node.get("event").map(|node| self.events(node)).unwrap_or_default(),
            git_ref: constraint("ref"),
            cron: constraint("cron"),
            status: node.get("status").map(statuses).unwrap_or_default(),
            platform: constraint("platform"),
            matrix,
            matrix_exclude,
            instance: constraint("instance"),
            path: node.get("path").map(paths).unwrap_or_default(),
            evaluate: node.get("evaluate").and_then(Node::text),
            local: node.get("local").and_then(Node::flag),
        }
    }

    /// An event that does not exist never happens. Beside others that is harmless, and Woodpecker
    /// lets it pass; alone it would leave an empty list, which means every event.
    fn events(&mut self, node: &Node) -> Vec<Spanned<crate::event::EventKind>> {
        let mut events = Vec::new();
        let mut unknown = Vec::new();
        for node in node.one_or_more() {
            let Some(text) = node.text() else { continue };
            match grammar::event(&text) {
                Ok(kind) => events.push(spanned(node, kind)),
                Err(message) => unknown.push((node.place, message)),
            }
        }
        for (place, message) in unknown {
            if events.is_empty() {
                self.findings.error(place, "pipeline-event", message);
            } else {
                self.findings.warning(place, "pipeline-event", message);
            }
        }
        events
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

impl Node {
    /// As settings pass it on. Numbers that JSON has not are findings of the grammar.
    fn json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(scalar) => scalar::value(scalar).unwrap_or_default(),
            Kind::List(nodes) => nodes.iter().map(Node::json).collect(),
            Kind::Map(entries) => {
                Value::Object(entries.iter().map(|(key, node)| (key.text.clone(), node.json())).collect())
            }
        }
    }
}

/// The entries of a mapping. Of a list, `name=value` in each item.
fn pairs(node: Option<&Node>) -> Vec<(Spanned<String>, Node)> {
    let Some(node) = node else { return Vec::new() };
    if let Kind::Map(entries) = &node.kind {
        return entries.iter().map(|(key, node)| (key.spanned(), node.clone())).collect();
    }
    let mut pairs = Vec::new();
    for item in node.one_or_more() {
        if let Some((name, value)) = item.text().and_then(|text| {
            let (name, value) = text.value.split_once('=')?;
            Some((Spanned { value: name.to_owned(), at: text.at }, item.with_text(value)))
        }) {
            pairs.push((name, value));
        }
    }
    pairs
}

fn workspace(node: &Node) -> Workspace {
    let text = |key: &str| node.get(key).and_then(Node::text).map(|text| text.value);
    Workspace { base: text("base"), path: text("path") }
}

fn needs(node: &Node) -> Vec<Need> {
    node.one_or_more()
        .iter()
        .filter_map(|node| match &node.kind {
            Kind::Map(_) => {
                let optional = node.get("optional").and_then(Node::flag).unwrap_or_default();
                let name = node.get("name").and_then(Node::text);
                Some(Need { name: name.unwrap_or_else(|| spanned(node, String::new())), optional })
            }
            _ => Some(Need { name: node.text()?, optional: false }),
        })
        .collect()
}

fn statuses(node: &Node) -> Vec<Spanned<Status>> {
    let status = |node: &Node| match node.text()?.as_str() {
        "success" => Some(spanned(node, Status::Success)),
        "failure" => Some(spanned(node, Status::Failure)),
        _ => None,
    };
    node.one_or_more().iter().filter_map(status).collect()
}

fn constraint(node: &Node) -> Constraint {
    let globs = |key: &str| node.get(key).map(Node::texts).unwrap_or_default();
    match node.kind {
        Kind::Map(_) => Constraint { include: globs("include"), exclude: globs("exclude") },
        _ => Constraint { include: node.texts(), exclude: Vec::new() },
    }
}

fn paths(node: &Node) -> PathConstraint {
    let Constraint { include, exclude } = constraint(node);
    PathConstraint {
        include,
        exclude,
        ignore_message: node
            .get("ignore_message")
            .and_then(Node::text)
            .map(|text| text.value)
            .filter(|text| !text.is_empty()),
        on_empty: node.get("on_empty").and_then(Node::flag).unwrap_or(true),
    }
}

type Axes = std::collections::BTreeMap<String, Spanned<String>>;

/// An axis may be called `include`, so only a mapping under that name is the long form.
fn matrix(node: &Node) -> (Axes, Axes) {
    let axes = |entries: &[(Key, Node)]| -> Axes {
        entries.iter().filter_map(|(key, node)| Some((key.text.clone(), node.text()?))).collect()
    };
    let long = |key: &str| node.get(key).map(|node| axes(node.map())).unwrap_or_default();
    let mut include = long("include");
    include.extend(axes(node.map()));
    (include, long("exclude"))
}

fn duration(node: &Node) -> Option<Duration> {
    grammar::duration(&node.text()?)
}

fn spanned<T>(node: &Node, value: T) -> Spanned<T> {
    Spanned { value, at: node.place.at }
}
