//! What is wrong in the files mergeyard reads, found before a commit is.
//!
//! Each kind of file is checked by whoever reads it later: pipelines and `spec.json` by the planner,
//! package lists too. Dockerfiles are checked by hadolint where it is installed, and by a smaller
//! set of rules of our own where it is not.

mod dockerfile;
mod files;
mod hadolint;
mod pipeline;

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use mergeyard_plan::{
    finding::Finding,
    package_list::{LARGEST_LIST, PackageList},
    service::{LARGEST_SPEC, Service},
};
use serde::Serialize;

use files::{Kind, find};

/// Dockerfiles and pipelines are written by hand.
const LARGEST_FILE: usize = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum LintError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot look through {path}: {why}")]
    Walk { path: String, why: String },
    #[error(
        "{} is no kind of file that is checked: pipelines, Dockerfiles, spec.json, packages.txt and packages.json are",
        .0.display()
    )]
    Unknown(PathBuf),
    #[error("there are more than {0} files to check; name fewer folders")]
    TooMany(usize),
}

/// What was looked at and what was found.
#[derive(Debug)]
pub struct Report {
    /// By file, line and column.
    pub found: Vec<Found>,
    pub files: usize,
    /// Who looked at the Dockerfiles, where there were any.
    pub dockerfiles: Option<Checker>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checker {
    Hadolint,
    /// And why hadolint was not it.
    BuiltIn(String),
}

/// A finding of whoever checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    #[serde(flatten)]
    pub finding: Finding<Cow<'static, str>>,
    /// The finding with its line, for a person.
    #[serde(skip)]
    pub shown: String,
}

/// A file that is checked, with its text when it could be read.
struct Source {
    path: PathBuf,
    /// As a person names it.
    shown: String,
    bytes: Vec<u8>,
}

/// Checks everything under these paths.
pub async fn lint(paths: &[PathBuf]) -> Result<Report, LintError> {
    let mut found = Vec::new();
    let (mut dockerfiles, mut pipelines) = (Vec::new(), Vec::new());
    let sources = find(paths)?;
    let files = sources.len();
    for (path, kind) in sources {
        let source = Source::read(path, largest(kind))?;
        let findings: Vec<Finding> = match kind {
            Kind::Dockerfile => {
                dockerfiles.push(source);
                continue;
            }
            Kind::Pipeline => {
                pipelines.push(source);
                continue;
            }
            Kind::Spec => Service::parse(&source.shown, &source.bytes).err().into_iter().collect(),
            Kind::PackagesText => packages(PackageList::from_text(&source.shown, &source.bytes)),
            Kind::PackagesJson => packages(PackageList::from_json(&source.shown, &source.bytes)),
        };
        found.extend(findings.into_iter().map(|finding| source.found(finding)));
    }
    found.extend(pipeline::check(&pipelines));
    let checker = match dockerfiles.is_empty() {
        true => None,
        false => Some(check_dockerfiles(&dockerfiles, &mut found).await),
    };
    found.sort_by(|one, other| place(&one.finding).cmp(&place(&other.finding)));
    found.dedup();
    Ok(Report { found, files, dockerfiles: checker })
}

async fn check_dockerfiles(sources: &[Source], found: &mut Vec<Found>) -> Checker {
    // Those that cannot be read as text would only be an error of hadolint's about all of them.
    let (texts, rest): (Vec<&Source>, Vec<&Source>) =
        sources.iter().partition(|source| source.text().is_ok());
    found.extend(rest.into_iter().filter_map(|source| source.text().err().map(|why| source.found(why))));
    let own = |source: &Source, rules: fn(&str, &str) -> Vec<Finding>| {
        let findings = source.text().map_or_else(|_| Vec::new(), |text| rules(&source.shown, text));
        findings.into_iter().map(|finding| source.found(finding)).collect::<Vec<_>>()
    };
    match hadolint::check(&texts).await {
        Ok(findings) => {
            found.extend(findings);
            found.extend(texts.iter().flat_map(|source| own(source, dockerfile::secrets)));
            Checker::Hadolint
        }
        Err(why) => {
            found.extend(texts.iter().flat_map(|source| own(source, dockerfile::check)));
            Checker::BuiltIn(why)
        }
    }
}

fn place<'f>(finding: &'f Finding<Cow<'static, str>>) -> (&'f str, usize, usize, &'f str) {
    (&finding.file, finding.line, finding.column, &finding.code)
}

fn packages(read: Result<PackageList, Vec<Finding>>) -> Vec<Finding> {
    read.map_or_else(|errors| errors, |list| list.warnings)
}

fn largest(kind: Kind) -> usize {
    match kind {
        Kind::Dockerfile | Kind::Pipeline => LARGEST_FILE,
        Kind::Spec => LARGEST_SPEC,
        Kind::PackagesText | Kind::PackagesJson => LARGEST_LIST,
    }
}

impl Source {
    /// A byte more than `largest` is enough for whoever checks to refuse the rest.
    fn read(path: PathBuf, largest: usize) -> Result<Self, LintError> {
        let failed = |source| LintError::Read { path: path.clone(), source };
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(largest as u64 + 1).read_to_end(&mut bytes))
            .map_err(failed)?;
        Ok(Self { shown: shown(&path), path, bytes })
    }

    fn text(&self) -> Result<&str, Finding> {
        if self.bytes.len() > LARGEST_FILE {
            let message = format!("the file has more than {LARGEST_FILE} bytes");
            return Err(Finding::error(&self.shown, "file-too-large", message));
        }
        std::str::from_utf8(&self.bytes).map_err(|error| {
            let message = format!("byte {} is not UTF-8; save the file as UTF-8", error.valid_up_to());
            Finding::error(&self.shown, "file-encoding", message)
        })
    }

    fn found<Code: Into<Cow<'static, str>>>(&self, finding: Finding<Code>) -> Found {
        let Finding { file, line, column, level, code, message } = finding;
        let finding = Finding { file, line, column, level, code: code.into(), message };
        Found { shown: finding.render(&String::from_utf8_lossy(&self.bytes)), finding }
    }
}

/// Without the `./` that walking the current folder puts before it.
fn shown(path: &Path) -> String {
    let path = path.strip_prefix("./").unwrap_or(path).to_string_lossy();
    path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
