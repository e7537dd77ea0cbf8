//! hadolint, the real program, when it is installed.

use std::{collections::HashMap, io::ErrorKind, path::Path, process::Stdio, time::Duration};

use mergeyard_plan::finding::{Finding, Level};
use serde::Deserialize;
use tokio::process::Command;

use super::{Found, Source};

/// A command line has room for more, and each start costs tens of milliseconds.
const FILES_AT_ONCE: usize = 100;

/// It reads a hundred files in a second.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Said {
    file: String,
    line: usize,
    column: usize,
    level: String,
    code: String,
    message: String,
}

/// What hadolint says, or why it says nothing.
pub(super) async fn check(sources: &[&Source]) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for some in sources.chunks(FILES_AT_ONCE) {
        found.extend(check_some(some).await?);
    }
    Ok(found)
}

async fn check_some(sources: &[&Source]) -> Result<Vec<Found>, String> {
    let by_name: HashMap<String, &Source> = sources
        .iter()
        .map(|source| Some((argument(&source.path)?, *source)))
        .collect::<Option<_>>()
        .ok_or("a file's name is not UTF-8, which hadolint does not take")?;
    let mut hadolint = Command::new("hadolint");
    hadolint.args(["--no-fail", "--no-color", "--format", "json", "--"]).args(by_name.keys());
    hadolint.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, hadolint.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            return Err("hadolint is not installed; scripts/setup.sh gets it".to_owned());
        }
        Ok(Err(error)) => return Err(format!("hadolint does not start: {error}")),
        Err(_) => return Err(format!("hadolint did not end within {} seconds", PATIENCE.as_secs())),
    };
    let said: Vec<Said> = serde_json::from_slice(&output.stdout).map_err(|_| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.lines().next().unwrap_or("it says nothing that reads");
        format!("hadolint failed: {}", crate::cli::text::plain(complaint))
    })?;
    Ok(said.into_iter().filter_map(|said| Some(found(by_name.get(&said.file)?, said))).collect())
}

/// A path that is never taken for an option.
fn argument(path: &Path) -> Option<String> {
    let path = path.to_str()?;
    Some(if path.starts_with(['/', '.']) { path.to_owned() } else { format!("./{path}") })
}

fn found(source: &Source, said: Said) -> Found {
    let Said { file: _, line, column, level, code, message } = said;
    // What it calls information or style is worth a look and no more.
    let level = if level == "error" { Level::Error } else { Level::Warning };
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    source.found(Finding { file: source.shown.clone(), line, column, level, code, message })
}
