//! `mergeyard lint`: exits with 1 when there is an error; warnings alone are good.

use std::path::PathBuf;

use mergeyard_plan::finding::Level;

use super::{Failed, Format, text::count};
use crate::lint::{self, Checker, LintError, Report};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Files, or folders to look through
    #[arg(default_value = ".")]
    paths: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) async fn lint(args: Args) -> Result<(), Failed> {
    let report = lint::lint(&args.paths).await.map_err(|error| match error {
        LintError::Unknown(_) => Failed::Usage(Box::new(error)),
        LintError::Read { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failed::Usage(Box::new(error))
        }
        error => error.into(),
    })?;
    let errors = report.found.iter().filter(|found| found.finding.level == Level::Error).count();
    match args.format {
        Format::Json => say!("{}", serde_json::to_string_pretty(&report.found)?),
        Format::Text => tell(&report, errors),
    }
    match &report.dockerfiles {
        Some(Checker::Hadolint) => eprintln!("Dockerfiles were checked by hadolint"),
        Some(Checker::BuiltIn(why)) => {
            eprintln!("Dockerfiles were checked by the built-in rules, which are fewer: {why}");
        }
        None => {}
    }
    if errors > 0 { Err(Failed::Told) } else { Ok(()) }
}

fn tell(report: &Report, errors: usize) {
    for found in &report.found {
        say!("{}", found.shown);
    }
    let warnings = report.found.len() - errors;
    let files = count(report.files as u64, "file");
    match (report.files, report.found.len()) {
        (0, _) => say!("nothing to check here"),
        (_, 0) => say!("{files} checked, nothing found"),
        _ => {
            say!("{files} checked: {}, {}", count(errors as u64, "error"), count(warnings as u64, "warning"))
        }
    }
}
