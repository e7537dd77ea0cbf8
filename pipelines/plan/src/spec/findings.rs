//! What is wrong, gathered while reading.

use std::{collections::HashSet, fmt};

use super::node::Place;
use crate::finding::{Finding, Level};

pub(super) struct Findings<'a> {
    /// The file itself, then those it includes.
    pub(super) files: Vec<&'a str>,
    most: usize,
    list: Vec<Finding>,
    seen: HashSet<(Place, &'static str, String)>,
    any_error: bool,
}

/// Names from a file in a message: short, on one line, and without control characters.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a str, most: usize) -> Self {
        Self { files: vec![file], most, list: Vec::new(), seen: HashSet::new(), any_error: false }
    }

    pub(super) fn error(&mut self, place: Place, code: &'static str, message: impl Into<String>) {
        self.any_error = true;
        self.add(place, code, Level::Error, message.into());
    }

    pub(super) fn warning(&mut self, place: Place, code: &'static str, message: impl Into<String>) {
        self.add(place, code, Level::Warning, message.into());
    }

    pub(super) fn any_error(&self) -> bool {
        self.any_error
    }

    /// In the order of the file: people repair from the top.
    pub(super) fn into_list(mut self) -> Vec<Finding> {
        let place = |finding: &Finding| {
            let file = self.files.iter().position(|file| *file == finding.file);
            (file, finding.line, finding.column)
        };
        self.list.sort_by_key(place);
        self.list
    }

    /// What is repeated by an alias is told once.
    fn add(&mut self, place: Place, code: &'static str, level: Level, message: String) {
        if self.list.len() >= self.most || !self.seen.insert((place, code, message.clone())) {
            return;
        }
        let file = self.files.get(place.file).unwrap_or(&self.files[0]).to_string();
        self.list.push(Finding { file, line: place.at.line, column: place.at.column, level, code, message });
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        f.write_str("`")?;
        for character in self.0.chars().take(LONGEST) {
            if character.is_control() { write!(f, "\u{fffd}")? } else { write!(f, "{character}")? }
        }
        f.write_str(if self.0.chars().nth(LONGEST).is_some() { "…`" } else { "`" })
    }
}
