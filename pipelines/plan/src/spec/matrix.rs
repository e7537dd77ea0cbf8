//! The points of a matrix.
//!
//! A matrix is read before substitution, because its values are what the substitution puts in.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Limits, Point,
    findings::{Findings, Quoted},
    include,
    node::{Key, Kind, Node, Place},
    parse::{Tree, parse},
};
use crate::finding::Finding;

/// The points that the workflow in `text` runs at, in the order of its axes' names with the last
/// axis varying fastest. Without a matrix that is one point with nothing in it.
pub fn matrix(file: &str, text: &str, limits: &Limits) -> Result<Vec<Point>, Vec<Finding>> {
    matrix_with(file, text, &[], limits)
}

/// The same of a file that may use the anchors of those it includes, which are not substituted
/// either.
pub fn matrix_with(
    file: &str,
    text: &str,
    included: &[&str],
    limits: &Limits,
) -> Result<Vec<Point>, Vec<Finding>> {
    // Before substitution many a file is not YAML yet; without a matrix that does not matter.
    if !text.contains("matrix") {
        return Ok(vec![Point::new()]);
    }
    let mut findings = Findings::new(file, limits.findings);
    let Tree { root, .. } = parse(0, text.into(), Some(&include::anchors(included)), limits, &mut findings);
    let points = match root.as_ref().and_then(|root| root.get("matrix")) {
        Some(node) => points(node, limits, &mut findings),
        None => Vec::new(),
    };
    if findings.any_error() {
        return Err(findings.into_list());
    }
    Ok(if points.is_empty() { vec![Point::new()] } else { points })
}

fn points(node: &Node, limits: &Limits, findings: &mut Findings) -> Vec<Point> {
    if !matches!(node.kind, Kind::Map(_)) {
        let message = format!("`matrix` is {}, but takes a mapping of axes", node.kind_name());
        findings.error(node.place, "pipeline-matrix", message);
        return Vec::new();
    }
    let included = node.get("include").map(|node| included(node, limits, findings)).unwrap_or_default();
    if !included.is_empty() {
        return included;
    }
    let axes: BTreeMap<&str, Vec<String>> = node
        .map()
        .iter()
        .filter(|(key, _)| key.text != "include")
        .map(|(key, node)| (key.text.as_str(), axis(key, node, findings)))
        .collect();
    let count = axes.values().try_fold(1usize, |count, values| count.checked_mul(values.len()));
    match count {
        Some(count) if count <= limits.matrix_points => product(&axes),
        _ => {
            too_many(count, node.place, limits, findings);
            Vec::new()
        }
    }
}

/// Written-out points, in place of axes.
fn included(node: &Node, limits: &Limits, findings: &mut Findings) -> Vec<Point> {
    let points = node.one_or_more();
    if points.len() > limits.matrix_points {
        too_many(Some(points.len()), node.place, limits, findings);
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut list = Vec::new();
    for node in points {
        if !matches!(node.kind, Kind::Map(_)) {
            let message = format!("a point of the matrix is {}, but takes a mapping", node.kind_name());
            findings.error(node.place, "pipeline-matrix", message);
        }
        let value = |(key, node): &(Key, Node)| Some((key.text.clone(), value(key, node, findings)?));
        let point: Point = node.map().iter().filter_map(value).collect();
        if seen.insert(point.clone()) {
            list.push(point);
        }
    }
    list
}

/// The values of an axis. The same one twice would be the same workflow twice.
fn axis(key: &Key, node: &Node, findings: &mut Findings) -> Vec<String> {
    let nodes = match &node.kind {
        Kind::List(nodes) if !nodes.is_empty() => nodes.as_slice(),
        _ => {
            let message = format!("the axis {} needs a list of values, such as [a, b]", Quoted(&key.text));
            findings.error(if node.is_null() { key.place } else { node.place }, "pipeline-matrix", message);
            return Vec::new();
        }
    };
    let mut seen = BTreeSet::new();
    nodes
        .iter()
        .filter_map(|node| value(key, node, findings))
        .filter(|value| seen.insert(value.clone()))
        .collect()
}

fn value(key: &Key, node: &Node, findings: &mut Findings) -> Option<String> {
    if node.is_null() {
        return Some(String::new());
    }
    let value = node.text();
    if value.is_none() {
        let message =
            format!("a value of {} is {}, but takes text or a number", Quoted(&key.text), node.kind_name());
        findings.error(node.place, "pipeline-matrix", message);
    }
    value.map(|value| value.value)
}

fn product(axes: &BTreeMap<&str, Vec<String>>) -> Vec<Point> {
    let mut points = vec![Point::new()];
    for (name, values) in axes {
        points = points
            .iter()
            .flat_map(|point| {
                values.iter().map(|value| {
                    let mut point = point.clone();
                    point.insert((*name).to_owned(), value.clone());
                    point
                })
            })
            .collect();
    }
    points
}

fn too_many(count: Option<usize>, place: Place, limits: &Limits, findings: &mut Findings) {
    let count = count.map_or("far".to_owned(), |count| count.to_string());
    let message = format!(
        "the matrix has {count} points, more than {}: take values out, or write the points under `include`",
        limits.matrix_points
    );
    findings.error(place, "pipeline-matrix", message);
}
