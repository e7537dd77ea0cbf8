//! What is wrong in a file, and where: file, line, column, and what to do.

use std::fmt;

use serde::Serialize;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: String,
    /// From 1. Zero when the finding is about the file as a whole.
    pub line: usize,
    /// From 1, in characters. Zero when the finding is about a whole line or file.
    pub column: usize,
    pub level: Level,
    /// A stable short name, such as `spec-missing-key`.
    pub code: &'static str,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warning,
}

impl Finding {
    pub fn error(file: &str, code: &'static str, message: impl Into<String>) -> Self {
        let file = file.to_owned();
        Self { file, line: 0, column: 0, level: Level::Error, code, message: message.into() }
    }

    pub fn at(self, line: usize, column: usize) -> Self {
        Self { line, column, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)
    }
}
