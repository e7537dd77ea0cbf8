//! Steps, services and clone steps; they share one form.

use std::time::Duration;

use serde_json::Value;

use super::{
    Need, OnFailure, Probe, Ready, Spanned, Step,
    findings::Quoted,
    grammar::{self, Table},
    keys::SERVICE,
    node::{Key, Kind, Node, Place},
    read::{Reader, need, spanned},
    scalar,
};

/// Time a service has to become ready when its file does not say.
const READY_WITHIN: Duration = Duration::from_secs(60);

impl Reader<'_, '_> {
    pub(super) fn steps(&mut self, node: Option<&Node>, table: &'static Table) -> Vec<Step> {
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
        let values = |key: &str| node.get(key).map(Node::values).unwrap_or_default();
        Step {
            name,
            origin: (self.file > 0).then(|| self.findings.files[self.file].to_owned()),
            image: text("image"),
            pull: flag("pull").unwrap_or_default(),
            commands: texts("commands"),
            entrypoint: texts("entrypoint").into_iter().map(|part| part.value).collect(),
            directory: text("directory").map(|directory| directory.value),
            settings: values("settings"),
            environment: self.environment(node),
            depends_on: node.get("depends_on").map(|node| self.needs(node)),
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
            retry: node.get("retry").and_then(count).unwrap_or_default(),
            outputs: texts("outputs"),
            ready: node.get("ready").and_then(|node| self.ready(node)),
            cache: self.cache(node),
            approve: text("approve"),
        }
    }

    /// In Woodpecker a step may wait for one of another workflow, which runs elsewhere and whose steps
    /// nobody here knows.
    fn needs(&mut self, node: &Node) -> Vec<Need> {
        let is_elsewhere = |node: &Node| node.get("workflow").is_some() || node.get("step").is_some();
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            node.one_or_more().iter().partition(|node| is_elsewhere(node));
        for node in elsewhere {
            let message = "dependencies on steps of other workflows are not read";
            if node.get("optional").and_then(Node::flag) == Some(true) {
                let message = format!("{message}: this optional one is passed over");
                self.findings.warning(node.place, "pipeline-dependency", message);
            } else {
                let message = format!("{message}: let the whole workflow depend on the other one");
                self.findings.error(node.place, "pipeline-dependency", message);
            }
        }
        here.into_iter().filter_map(need).collect()
    }

    /// Old files list `NAME=value`.
    fn environment(&mut self, step: &Node) -> Vec<(Spanned<String>, Value)> {
        let Some(node) = step.get("environment") else { return Vec::new() };
        if let Kind::Map(entries) = &node.kind {
            for (key, _) in entries {
                if key.text.is_empty() {
                    let message = "a variable without a name is passed over: name it or remove it";
                    self.findings.warning(key.place, "pipeline-name", message);
                } else if key.text.contains(['=', '\0']) {
                    let message = format!(
                        "{} is not the name of a variable: what stands behind a `=` would be its value",
                        Quoted(&key.text)
                    );
                    self.findings.error(key.place, "pipeline-name", message);
                }
            }
            return node.values();
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

    fn ready(&mut self, node: &Node) -> Option<Ready> {
        let timeout = node.get("timeout").and_then(duration).unwrap_or(READY_WITHIN);
        if let Some(command) = node.get("command").filter(|command| is_blank(command)) {
            let message = "`command` runs nothing: write what exits with 0 when it is ready";
            self.findings.error(command.place, "pipeline-ready", message);
            return None;
        }
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
}

impl Node {
    /// A mapping in the order of the file.
    fn values(&self) -> Vec<(Spanned<String>, Value)> {
        self.map().iter().map(|(key, node)| (key.spanned(), node.json())).collect()
    }

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

/// A command without a first word.
fn is_blank(command: &Node) -> bool {
    command.one_or_more().first().is_none_or(|word| word.text().is_some_and(|word| word.trim().is_empty()))
}

fn count(node: &Node) -> Option<u32> {
    node.scalar().and_then(scalar::integer).and_then(|count| u32::try_from(count).ok())
}

fn duration(node: &Node) -> Option<Duration> {
    grammar::duration(&node.text()?)
}
