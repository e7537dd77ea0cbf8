//! The values of `with:`. Each is read with the rule for what it becomes, because it ends in a
//! path, a name or a command line on a machine that others rely on.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Asked;
use crate::{
    event::{EventKind, one_line},
    finding::Finding,
    spec::Spanned,
};

/// Words, ports and volumes of one step: past this it is a mistake, or an attack.
const MOST: usize = 100;

/// A step's `with`, with what was found wrong in it so far.
pub(super) struct With<'a> {
    pub(super) asked: &'a Asked<'a>,
    pub(super) findings: Vec<Finding>,
}

impl<'a> With<'a> {
    pub(super) fn new(asked: &'a Asked<'a>) -> Self {
        Self { asked, findings: Vec::new() }
    }

    pub(super) fn say(&mut self, code: &'static str, at: &Spanned<String>, message: String) {
        self.findings.push(Finding::error(self.asked.file, code, message).at(at.at.line, at.at.column));
    }

    /// What has no place of its own is said of `uses`.
    pub(super) fn miss(&mut self, key: &str, what: &str) {
        let uses = self.asked.uses;
        self.say("uses-with", uses, format!("`{}` needs `with: {{{key}: …}}`: {what}", uses.value));
    }

    /// Nothing is as good as absent.
    pub(super) fn get(&self, key: &str) -> Option<(&'a Spanned<String>, &'a Value)> {
        let found = self.asked.step.with.iter().find(|(found, _)| found.value == key);
        found.filter(|(_, value)| !value.is_null()).map(|(at, value)| (at, value))
    }

    /// The text of a key, with its place.
    pub(super) fn text(&mut self, key: &str) -> Option<(&'a Spanned<String>, String)> {
        let (at, value) = self.get(key)?;
        match scalar(value) {
            Some(text) => Some((at, text)),
            None => {
                self.say("uses-with", at, format!("`{key}` is a text"));
                None
            }
        }
    }

    /// A text that has to be something.
    pub(super) fn read<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (at, text) = self.text(key)?;
        match parse(&text) {
            Ok(read) => Some(read),
            Err(why) => {
                self.say("uses-with", at, format!("`{key}`: {why}"));
                None
            }
        }
    }

    /// One text or a list of them, each of which has to be something.
    pub(super) fn list<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((at, value)) = self.get(key) else { return Vec::new() };
        let items = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        if items.len() > MOST {
            self.say("uses-with", at, format!("`{key}` has {} entries, more than {MOST}", items.len()));
            return Vec::new();
        }
        let mut read = Vec::with_capacity(items.len());
        for item in items {
            match scalar(item).ok_or("an entry is no text".to_owned()).and_then(|text| parse(&text)) {
                Ok(item) => read.push(item),
                Err(why) => self.say("uses-with", at, format!("`{key}`: {why}")),
            }
        }
        read
    }

    /// A map whose names are those of variables, with any values.
    pub(super) fn variables(&mut self, key: &str) -> BTreeMap<String, Value> {
        let Some((at, value)) = self.get(key) else { return BTreeMap::new() };
        let Value::Object(map) = value else {
            self.say("uses-with", at, format!("`{key}` is a map of names and values"));
            return BTreeMap::new();
        };
        for name in map.keys().filter(|name| !is_variable(name)) {
            let message = format!(
                "`{key}`: `{}` is no name; use letters, digits and `_`, with no digit first",
                one_line(name)
            );
            self.say("uses-with", at, message);
        }
        map.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// What is not merged is never made live: it is only said what would change.
    pub(super) fn is_check(&self) -> bool {
        let event = self.asked.request.facts.pipeline.event;
        event.is_pull_request() && event != EventKind::PullRequestMerged
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty()
        && name.len() <= 100
        && name.bytes().all(plain)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// A file or folder of the commit: nowhere else, and nothing that a program takes for an option.
pub(super) fn path(text: &str) -> Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    let trimmed = trimmed.strip_prefix("./").unwrap_or(trimmed);
    if matches!(trimmed, "" | ".") && !text.starts_with('/') {
        return Ok(String::new());
    }
    let refuse = |why: &str| Err(format!("`{}` {why}", one_line(text)));
    if trimmed.len() > 500 || trimmed.chars().any(char::is_control) {
        return refuse("is no path");
    }
    if trimmed.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse(
            "leads out of the commit, or nowhere; write it from the repository's root, such as `deploy`",
        );
    }
    if trimmed.starts_with('-') {
        return refuse("begins as an option does; rename it");
    }
    Ok(trimmed.to_owned())
}

/// A name of lower-case letters, digits and `-`, as it may stand in host names.
pub(super) fn label(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = !text.is_empty() && text.len() <= 63 && text.bytes().all(plain);
    if good && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(text.to_owned());
    }
    Err(format!("`{}` is no name; use up to 63 lower-case letters, digits and `-`", one_line(text)))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse::<u16>().ok().filter(|port| digits && *port > 0);
    port.ok_or_else(|| format!("`{}` is no port; write a number from 1 to 65535", one_line(text)))
}
