//! What is wrong in a file, and where: file, line, column, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Codes are ours, except those of other programs that look at files too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding<Code = &'static str> {
    pub file: String,
    /// From 1. Zero when the finding is about the file as a whole.
    pub line: usize,
    /// From 1, in characters. Zero when the finding is about a whole line or file.
    pub column: usize,
    pub level: Level,
    /// A stable short name, such as `spec-missing-key`.
    pub code: Code,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warning,
}

/// A finding with the line it is about, for those who do not have the file at that commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quoted {
    #[serde(flatten)]
    pub finding: Finding<String>,
    /// The line, or what of it is around the place.
    pub line_text: Option<String>,
    /// Characters of that text before the place.
    pub mark: usize,
}

impl Finding {
    /// With the line it is about, from the text of its file where that is known.
    pub fn quoted(&self, source: Option<&str>) -> Quoted {
        let Finding { file, line, column, level, code, message } = self.clone();
        let finding = Finding { file, line, column, level, code: code.to_owned(), message };
        let text = line.checked_sub(1).and_then(|before| source?.lines().nth(before));
        let (line_text, mark) = match text.map(|text| excerpt(text, column.saturating_sub(1))) {
            Some((text, mark)) => (Some(text), mark),
            None => (None, 0),
        };
        Quoted { finding, line_text, mark }
    }

    pub fn error(file: &str, code: &'static str, message: impl Into<String>) -> Self {
        let file = file.to_owned();
        Self { file, line: 0, column: 0, level: Level::Error, code, message: message.into() }
    }

    pub fn at(self, line: usize, column: usize) -> Self {
        Self { line, column, ..self }
    }
}

impl<Code: fmt::Display> Finding<Code> {
    /// For a person who has `source`, the text of the file, on their screen: the message, the place,
    /// the line and a mark below it.
    pub fn render(&self, source: &str) -> String {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let head = format!("{level}[{}]: {}\n", self.code, self.message);
        let line = self.line.checked_sub(1).and_then(|before| source.lines().nth(before));
        let Some(line) = line else {
            let place = if self.line > 0 { format!(":{}:{}", self.line, self.column) } else { String::new() };
            return format!("{head} --> {}{place}\n", self.file);
        };
        let (number, gap) = (self.line, " ".repeat(self.line.to_string().len()));
        let (excerpt, mark) = excerpt(line, self.column.saturating_sub(1));
        let caret = if self.column > 0 { format!("{}^", " ".repeat(mark)) } else { String::new() };
        let place = format!("{}:{}:{}", self.file, self.line, self.column);
        format!("{head}{gap}--> {place}\n{gap} |\n{number} | {excerpt}\n{gap} | {caret}\n")
    }
}

/// The part of a line around a column that fits a terminal, and where the column is in it. Tabs
/// become one space, so that the mark stands below its character.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 100;
    const BEFORE: usize = 60;
    let start = if line.chars().count() > WIDTH { column.saturating_sub(BEFORE) } else { 0 };
    let visible = |character: char| match character {
        '\t' => ' ',
        character if character.is_control() => '\u{fffd}',
        character => character,
    };
    let mut text: String =
        line.trim_start_matches('\u{feff}').chars().skip(start).take(WIDTH).map(visible).collect();
    let mut mark = column - start;
    if start > 0 {
        text.insert(0, '…');
        mark += 1;
    }
    if line.chars().count() > start + WIDTH {
        text.push('…');
    }
    (text.trim_end().to_owned(), mark.min(WIDTH + 2))
}

impl<Code> fmt::Display for Finding<Code> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)
    }
}
