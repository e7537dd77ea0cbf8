//! The pipeline files of a commit, read out of the object database.
//!
//! A folder or a single file, mergeyard's own name before Woodpecker's: the first that is there
//! wins, and the others are not looked at. What stands there and cannot be read is a finding
//! that names it, never a pipeline that silently does not run.

use mergeyard_plan::finding::Finding;
use mergeyard_run::git::{Commit, Entry, GitError};

/// Files in one folder: past this it is a mistake, or an attack.
const MOST_FILES: usize = 100;

/// Where pipelines may stand, in the order they are looked for.
const PLACES: [Place; 6] = [
    Place::Folder(".mergeyard"),
    Place::File(".mergeyard.yaml"),
    Place::File(".mergeyard.yml"),
    Place::Folder(".woodpecker"),
    Place::File(".woodpecker.yaml"),
    Place::File(".woodpecker.yml"),
];

enum Place {
    Folder(&'static str),
    File(&'static str),
}

/// One pipeline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// From the repository's root.
    pub(super) path: String,
    /// What is in it, or why that was not read.
    pub(super) content: Result<Vec<u8>, Finding>,
}

/// The pipeline files of a commit, in the order of their names; none where it has none.
pub(super) async fn read(commit: &Commit) -> Result<Vec<Source>, GitError> {
    for place in PLACES {
        let found = match place {
            Place::Folder(folder) => in_folder(commit, folder).await?,
            Place::File(path) => {
                let entry = commit.entry(path).await?;
                entry.map(|entry| source(path.to_owned(), entry)).into_iter().collect()
            }
        };
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// One file that others include. `None` when it is not there.
pub(super) async fn file(commit: &Commit, path: &str) -> Result<Option<Source>, GitError> {
    Ok(commit.entry(path).await?.map(|entry| source(path.to_owned(), entry)))
}

async fn in_folder(commit: &Commit, folder: &str) -> Result<Vec<Source>, GitError> {
    if commit.entry(folder).await? == Some(Entry::Symlink) {
        return Ok(vec![source(folder.to_owned(), Entry::Symlink)]);
    }
    let entries = commit.entries(folder, is_yaml).await?;
    if entries.len() > MOST_FILES {
        let message = format!("{} pipeline files are more than the {MOST_FILES} allowed", entries.len());
        let content = Err(Finding::error(folder, "pipeline-files", message));
        return Ok(vec![Source { path: folder.to_owned(), content }]);
    }
    Ok(entries.into_iter().map(|(name, entry)| source(format!("{folder}/{name}"), entry)).collect())
}

fn is_yaml(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

fn source(path: String, entry: Entry) -> Source {
    // The path becomes part of a status, a page and a log.
    let path: String = path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let refuse = |code, message: String| Err(Finding::error(&path, code, message));
    let content = match entry {
        Entry::Blob(bytes) => Ok(bytes),
        Entry::TooLarge(size) => {
            refuse("file-too-large", format!("{size} bytes are too many for a pipeline file"))
        }
        Entry::Symlink => refuse(
            "file-symlink",
            "it is a symbolic link, which is never followed; commit the file itself".to_owned(),
        ),
        Entry::Other => refuse("file-kind", "it is not a file; commit a regular file".to_owned()),
    };
    Source { path, content }
}
