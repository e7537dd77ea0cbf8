//! What a file may hold, and everything about a file that does not fit.
//!
//! The tables themselves are in `keys`. What no table can say, such as that dependencies must not
//! go in circles, is in `check`.

use std::time::Duration;

use super::{
    findings::{Findings, Quoted},
    node::{Kind, Node, Place},
    scalar,
};
use crate::{event::EventKind, settings::FROM_SECRET};

/// What may stand as a value.
pub(super) enum Shape {
    Any,
    /// Anything that JSON can carry, because it is passed on as that.
    Json,
    /// Any single value, taken as the text it was written as.
    Text,
    /// The name of a gate.
    Gate,
    Flag,
    Number {
        least: i64,
        most: i64,
    },
    Duration,
    Glob,
    Event,
    /// A name that programs can use as a variable.
    Variable,
    Word(&'static [&'static str]),
    OneOrMore(&'static Shape),
    /// A mapping whose keys are the author's.
    Map(&'static Shape),
    Keys(&'static Table),
    /// Steps: a mapping by name, or a list.
    Steps(&'static Table),
    Either(&'static [Shape]),
}

pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) keys: &'static [Key],
    /// Other keys are fine: they speak to somebody else.
    pub(super) open: bool,
}

pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) about: &'static str,
    pub(super) standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Current,
    /// Read or passed over, with a word on what to write today.
    Old(&'static str),
    /// Read by Woodpecker and not here, which the reader says with what it means.
    Elsewhere,
    /// No longer read: a file with it would do something else than it says.
    Gone(&'static str),
}

/// Says everything about `node` that does not fit `shape`. `what` is what a message calls it.
pub(super) fn check(shape: &Shape, node: &Node, what: &str, findings: &mut Findings) {
    if !shape.accepts(node) {
        let message = format!(
            "{what} is {found}, but takes {expected}",
            found = node.kind_name(),
            expected = shape.expected()
        );
        findings.error(node.place, "pipeline-type", message);
        return;
    }
    let scalar = node.scalar();
    match shape {
        Shape::OneOrMore(item) => {
            for node in node.one_or_more() {
                check(item, node, what, findings);
            }
        }
        Shape::Map(value) => {
            for (key, node) in node.map() {
                if !node.is_null() {
                    check(value, node, &Quoted(&key.text).to_string(), findings);
                }
            }
        }
        Shape::Keys(table) => check_keys(table, node, what, findings),
        Shape::Steps(table) => check_steps(table, node, findings),
        Shape::Either(shapes) => {
            if let Some(shape) = shapes.iter().find(|shape| shape.accepts(node)) {
                check(shape, node, what, findings);
            }
        }
        Shape::Json => check_passed_on(node, findings),
        Shape::Any | Shape::Text => {}
        _ => {
            let Some(scalar) = scalar else { return };
            if let Err((code, message)) = shape.check_scalar(scalar, what) {
                findings.error(node.place, code, message);
            }
        }
    }
}

fn check_keys(table: &Table, node: &Node, what: &str, findings: &mut Findings) {
    for (key, value) in node.map() {
        match table.keys.iter().find(|known| known.name == key.text) {
            Some(known) => {
                let name = format!("`{}`", known.name);
                match known.standing {
                    Standing::Old(instead) => {
                        findings.warning(
                            key.place,
                            "pipeline-old-key",
                            format!("{name} is outdated: {instead}"),
                        );
                    }
                    Standing::Gone(instead) => {
                        findings.error(
                            key.place,
                            "pipeline-old-key",
                            format!("{name} is no longer read: {instead}"),
                        );
                    }
                    Standing::Current | Standing::Elsewhere => {}
                }
                if !value.is_null() {
                    check(&known.shape, value, &name, findings);
                }
            }
            None if table.open || is_private(&key.text) => {}
            None => unknown_key(table, &key.text, key.place, what, findings),
        }
    }
}

/// Keys for anchors and for other programs.
fn is_private(key: &str) -> bool {
    key.starts_with(['_', '.']) || key.starts_with("x-")
}

/// A warning, because Woodpecker passes such keys over too and files have them.
fn unknown_key(table: &Table, key: &str, place: Place, what: &str, findings: &mut Findings) {
    let current =
        table.keys.iter().filter(|known| known.standing == Standing::Current).map(|known| known.name);
    let names: Vec<_> = current.collect();
    let advice = match nearest(key, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.len() <= 8 => format!("it knows {}", list(&names)),
        None => "remove it".to_owned(),
    };
    findings.warning(
        place,
        "pipeline-unknown-key",
        format!("{what} has no key {key} and passes it over: {advice}", key = Quoted(key)),
    );
}

fn check_steps(table: &Table, node: &Node, findings: &mut Findings) {
    match &node.kind {
        Kind::Map(entries) => {
            for (key, step) in entries {
                check_step(table, step, Some(&key.text), findings);
            }
        }
        _ => {
            for step in node.one_or_more() {
                let name = step.get("name").and_then(Node::text);
                check_step(table, step, name.as_ref().map(|name| name.as_str()), findings);
            }
        }
    }
}

/// An empty step is one without an image, which is found later.
fn check_step(table: &Table, step: &Node, name: Option<&str>, findings: &mut Findings) {
    let what = match name {
        Some(name) => format!("the {} {}", table.name, Quoted(name)),
        None => format!("this {}", table.name),
    };
    match step.kind {
        Kind::Map(_) => check_keys(table, step, &what, findings),
        _ if step.is_null() => {}
        _ => {
            let message = format!("{what} is {}, but takes a mapping", step.kind_name());
            findings.error(step.place, "pipeline-type", message);
        }
    }
}

/// Values that are passed on as JSON, and the secrets among them.
fn check_passed_on(node: &Node, findings: &mut Findings) {
    match &node.kind {
        Kind::Scalar(scalar) if scalar::value(scalar).is_none() => {
            let message =
                format!("{} is a number nobody can be given: put it in quotes", Quoted(&scalar.text));
            findings.error(node.place, "pipeline-number", message);
        }
        Kind::Scalar(_) => {}
        Kind::List(nodes) => nodes.iter().for_each(|node| check_passed_on(node, findings)),
        Kind::Map(entries) => {
            for (key, node) in entries {
                check_passed_on(node, findings);
                // One without a name may have got it from a variable, and matters where its step runs.
                let is_name = || node.scalar().and_then(scalar::value).is_some_and(|value| value.is_string());
                if key.text == FROM_SECRET && !node.is_null() && !is_name() {
                    let message =
                        format!("`{FROM_SECRET}` is {}, but takes the name of a secret", node.kind_name());
                    findings.error(node.place, "pipeline-secret", message);
                }
            }
        }
    }
}

impl Shape {
    /// By the kind of value only; what it says is looked at by `check`.
    fn accepts(&self, node: &Node) -> bool {
        match self {
            Shape::Any | Shape::Json => true,
            Shape::OneOrMore(item) => matches!(node.kind, Kind::List(_)) || item.accepts(node),
            Shape::Map(_) | Shape::Keys(_) => matches!(node.kind, Kind::Map(_)),
            Shape::Steps(_) => !matches!(node.kind, Kind::Scalar(_)),
            Shape::Either(shapes) => shapes.iter().any(|shape| shape.accepts(node)),
            Shape::Flag => node.flag().is_some(),
            Shape::Number { .. } => node.scalar().and_then(scalar::integer).is_some(),
            Shape::Text
            | Shape::Gate
            | Shape::Duration
            | Shape::Glob
            | Shape::Event
            | Shape::Variable
            | Shape::Word(_) => node.scalar().is_some() && !node.is_null(),
        }
    }

    /// A whole clause: what it takes.
    fn expected(&self) -> String {
        match self {
            Shape::Any | Shape::Json => "anything".into(),
            Shape::Flag => "true or false".into(),
            Shape::Number { .. } => "a whole number".into(),
            Shape::Duration => "a duration such as 90s, 30m or 2h".into(),
            Shape::OneOrMore(item) => format!("{} or a list", item.expected()),
            Shape::Map(_) | Shape::Keys(_) => "a mapping".into(),
            Shape::Steps(_) => "a mapping by name or a list".into(),
            Shape::Either(shapes) => {
                let all: Vec<_> = shapes.iter().map(Shape::expected).collect();
                all.join(" or ")
            }
            Shape::Word(words) => list(words),
            Shape::Text | Shape::Gate | Shape::Glob | Shape::Event | Shape::Variable => "text".into(),
        }
    }

    fn check_scalar(&self, scalar: &scalar::Scalar, what: &str) -> Result<(), (&'static str, String)> {
        let text = scalar.text.as_str();
        let quoted = Quoted(text);
        match self {
            Shape::Number { least, most } => match scalar::integer(scalar) {
                Some(number) if (*least..=*most).contains(&number) => Ok(()),
                _ => {
                    let least = if *least < -1 { "at most".into() } else { format!("{least} to") };
                    Err(("pipeline-number", format!("{what} is {quoted}, but takes {least} {most}")))
                }
            },
            Shape::Gate if text.trim().is_empty() => {
                let message = "name the gate, such as `approve: production`";
                Err(("pipeline-approve", message.to_owned()))
            }
            Shape::Duration if duration(text).is_none() => {
                let message =
                    format!("{quoted} is not a duration: write a number and s, m or h, such as 30m");
                Err(("pipeline-duration", message))
            }
            Shape::Glob => glob(text).map_err(|error| ("pipeline-glob", error)),
            Shape::Variable if !is_variable(text) => {
                let message =
                    format!("{quoted} is not a name: use letters, digits and _, with no digit first");
                Err(("pipeline-name", message))
            }
            Shape::Word(words) if !words.contains(&text) => {
                let near =
                    nearest(text, words.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
                let message = format!(
                    "{what} does not know {quoted}: it is one of {}{}",
                    list(words),
                    near.unwrap_or_default()
                );
                Err(("pipeline-word", message))
            }
            _ => Ok(()),
        }
    }
}

/// `90s`, `30m`, `2h`; never nothing.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    if !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = count.parse().ok()?;
    count.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// Also for who asks what an event may be called.
pub(super) fn event(text: &str) -> Result<EventKind, String> {
    text.parse().map_err(|_| {
        let names = EventKind::ALL.map(EventKind::as_str);
        match nearest(text, names.into_iter()) {
            Some(near) => format!("there is no event {}: did you mean `{near}`?", Quoted(text)),
            None => format!("there is no event {}: it is one of {}", Quoted(text), list(&names)),
        }
    })
}

fn glob(text: &str) -> Result<(), String> {
    // A glob becomes a regular expression; a long one would cost more to compile than a file.
    const LONGEST: usize = 1000;
    if text.len() > LONGEST {
        return Err(format!("this glob is longer than {LONGEST} bytes"));
    }
    match crate::glob::read(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{} is not a glob: {}", Quoted(text), error.kind())),
    }
}

fn is_variable(text: &str) -> bool {
    !text.starts_with(|character: char| character.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The name that was most likely meant.
pub(super) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Beyond this it is another word, and comparing costs the square of the length.
    if wrong.len() > 40 {
        return None;
    }
    let most = wrong.chars().count().div_ceil(3);
    names
        .map(|name| (strsim::osa_distance(&wrong.to_lowercase(), name), name))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
