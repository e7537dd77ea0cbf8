//! What the doctor says: one finding for each thing looked at.

use std::path::PathBuf;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub message: String,
    /// The command, or the file and what to put into it, for a person.
    pub fix: Option<String>,
    /// The same for `--fix`, where the doctor may do it.
    #[serde(skip)]
    pub remedy: Option<Remedy>,
}

/// What the doctor does itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Written whole, over nothing that is somebody else's; then a program that takes it up.
    Write {
        files: Vec<(PathBuf, Vec<u8>)>,
        then: Option<&'static str>,
    },
    Run(&'static str),
    /// Taken away from everybody but the owner.
    MakePrivate(PathBuf),
    /// The embedded authority makes a new certificate.
    Renew,
}

impl Finding {
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, message)
    }

    pub(super) fn warning(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, message)
    }

    pub(super) fn error(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Level::Error, message)
    }

    fn new(check: &'static str, level: Level, message: impl Into<String>) -> Self {
        Self { check, level, message: message.into(), fix: None, remedy: None }
    }

    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    pub(super) fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }
}
