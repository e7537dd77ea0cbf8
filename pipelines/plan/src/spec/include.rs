//! One pipeline file on top of others.
//!
//! Anchors of an included file can be used by the files after it. Its steps and services come
//! first, and one of the same name takes the place of the included one; the same goes for labels
//! and inputs. All else, such as when a workflow runs, is the file's own.

use std::collections::HashMap;

use super::{
    Limits, Spanned, Step, Workflow,
    findings::{Findings, Quoted},
    grammar::{self, Shape},
    keys::WORKFLOW,
    node::{Kind, Node},
    parse::{Tree, parse},
};
use crate::{
    finding::Finding,
    substitute::{Text, substitute},
};

/// A file that another one includes, after substitution.
#[derive(Debug, Clone, Copy)]
pub struct Included<'a> {
    pub file: &'a str,
    pub text: Text<'a>,
}

/// The files that `text`, which is not substituted yet, asks to have put underneath it, for the
/// caller to fetch. What cannot be the path of a file is left out, and a text that cannot be read
/// includes nothing; `read_with` says why.
pub fn includes(text: &str) -> Vec<Spanned<String>> {
    let mut files = wanted(text);
    files.truncate(Limits::DEFAULT.includes);
    files.retain(|path| is_path(path) && !path.contains(EXPRESSION));
    files
}

/// What begins an expression, which is not there yet when it is asked what a file includes.
const EXPRESSION: &str = "${";

/// What is wrong with the paths in `text`, which is not substituted yet.
pub fn unread_includes(file: &str, text: &str) -> Vec<Finding> {
    if !text.contains(EXPRESSION) {
        return Vec::new();
    }
    let early = wanted(text).into_iter().filter(|path| path.contains(EXPRESSION));
    let finding = |path: Spanned<String>| {
        let message = format!(
            "{} cannot be included: includes are read before substitution, write the path without `${{…}}`",
            Quoted(&path)
        );
        Finding::error(file, "pipeline-include", message).at(path.at.line, path.at.column)
    };
    early.map(finding).collect()
}

fn wanted(text: &str) -> Vec<Spanned<String>> {
    if !text.contains("include") {
        return Vec::new();
    }
    let root = unsubstituted(text, None).root;
    root.as_ref().and_then(|root| root.get("include")).map(Node::texts).unwrap_or_default()
}

/// The anchors of included files, for what is read before substitution.
pub(super) fn anchors(included: &[&str]) -> HashMap<String, Node> {
    let mut anchors = HashMap::new();
    for text in included {
        let tree = unsubstituted(text, Some(&anchors));
        anchors.extend(tree.anchors);
    }
    anchors
}

fn unsubstituted(text: &str, known: Option<&HashMap<String, Node>>) -> Tree {
    let limits = Limits::DEFAULT;
    let tree = |text: Text<'_>| {
        let mut findings = Findings::new("", limits.findings);
        Some(parse(0, text, known, &limits, &mut findings)).filter(|tree| tree.root.is_some())
    };
    // `[${NAME}]` is YAML only once something stands for the expression.
    let emptied = || tree((&substitute("", text, &|_| None).ok()?).into());
    tree(text.into()).or_else(emptied).unwrap_or_default()
}

/// Whether git can be asked for it.
fn is_path(path: &str) -> bool {
    !path.contains(char::is_control) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

pub(super) fn on_top(own: Workflow, underneath: Workflow) -> Workflow {
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

/// Whether what `root` includes is there.
pub(super) fn check_wanted(root: &Node, included: &[Included], limits: &Limits, findings: &mut Findings) {
    let Some(node) = root.get("include") else { return };
    let wanted = node.one_or_more();
    if wanted.len() > limits.includes {
        let message = format!("no more than {} files can be included", limits.includes);
        findings.error(node.place, "pipeline-include", message);
    }
    for node in wanted {
        let Some(path) = node.text() else { continue };
        if !is_path(&path) {
            let message = format!(
                "{} is not the path of a file: write it as seen from the repository's root, such as `ci/base.yml`",
                Quoted(&path)
            );
            findings.error(node.place, "pipeline-include", message);
        } else if !included.iter().any(|part| part.file == *path) {
            let message = format!(
                "{} is not there: included files are read at the repository's default branch",
                Quoted(&path)
            );
            findings.error(node.place, "pipeline-include", message);
        }
    }
}

/// What an included file may hold.
pub(super) fn check_fragment(root: &Node, findings: &mut Findings) {
    grammar::check(&Shape::Keys(&WORKFLOW), root, "a pipeline", findings);
    for (key, node) in root.map() {
        match key.text.as_str() {
            "steps" | "services" => {
                if let Kind::List(steps) = &node.kind {
                    for step in steps.iter().filter(|step| step.get("name").is_none()) {
                        let message = "name the steps of an included file: others replace them by name";
                        findings.error(step.place, "pipeline-include", message);
                    }
                }
            }
            "labels" | "inputs" | "variables" | "version" | "$schema" => {}
            "include" => {
                let message = "an included file cannot include others: include them from the first file";
                findings.error(key.place, "pipeline-include", message);
            }
            name => {
                let known = WORKFLOW.keys.iter().any(|key| key.name == name);
                let message = format!(
                    "{} means nothing in an included file: write it in the one that includes it",
                    Quoted(name)
                );
                if known {
                    findings.warning(key.place, "pipeline-include", message);
                }
            }
        }
    }
}
