//! Conditions.

use std::collections::BTreeMap;

use super::{
    Constraint, PathConstraint, Spanned, Status, When, grammar,
    node::{Key, Kind, Node},
    read::{Reader, spanned},
};
use crate::event::EventKind;

impl Reader<'_, '_> {
    pub(super) fn when(&mut self, node: &Node) -> Vec<When> {
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
            evaluate_inside: node.get("evaluate").and_then(Node::inside),
            local: node.get("local").and_then(Node::flag),
        }
    }

    /// An event that does not exist never happens. Beside others that is harmless, and Woodpecker
    /// lets it pass; alone it would leave an empty list, which means every event.
    fn events(&mut self, node: &Node) -> Vec<Spanned<EventKind>> {
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

pub(super) fn statuses(node: &Node) -> Vec<Spanned<Status>> {
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

type Axes = BTreeMap<String, Spanned<String>>;

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
