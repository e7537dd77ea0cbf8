//! Which files there are to check. What git ignores is left out, links are not followed.

use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

use super::{LintError, shown};

/// A tree with more is a whole disk, named by mistake.
const MOST_FILES: usize = 20_000;

/// Deeper folders are a loop or an attack.
const DEEPEST: usize = 64;

pub(super) const PIPELINE_FOLDERS: [&str; 2] = [".mergeyard", ".woodpecker"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Pipeline,
    Dockerfile,
    Spec,
    PackagesText,
    PackagesJson,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        match name {
            "Dockerfile" | "Containerfile" => return Some(Kind::Dockerfile),
            "spec.json" => return Some(Kind::Spec),
            "packages.txt" => return Some(Kind::PackagesText),
            "packages.json" => return Some(Kind::PackagesJson),
            _ => {}
        }
        let (stem, extension) = name.rsplit_once('.')?;
        match extension {
            "Dockerfile" | "dockerfile" => Some(Kind::Dockerfile),
            "yaml" | "yml" => {
                let named = PIPELINE_FOLDERS.contains(&stem);
                (named || folder.is_some_and(|folder| PIPELINE_FOLDERS.contains(&folder)))
                    .then_some(Kind::Pipeline)
            }
            _ => None,
        }
    }

    /// Of a file that was named: any YAML is then a pipeline.
    fn of_named(path: &Path) -> Option<Self> {
        let yaml = || path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        Kind::of(path).or_else(|| yaml().then_some(Kind::Pipeline))
    }
}

/// Each file once, in the order of their names. One that is named is checked even when git ignores it.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Kind)>, LintError> {
    let mut found = Vec::new();
    for path in paths {
        let kind = path.metadata().map_err(|source| LintError::Read { path: path.clone(), source })?;
        if kind.is_dir() {
            walk(path, &mut found)?;
        } else {
            found.push((path.clone(), Kind::of_named(path).ok_or_else(|| LintError::Unknown(path.clone()))?));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<(PathBuf, Kind)>) -> Result<(), LintError> {
    let walk = WalkBuilder::new(folder)
        .hidden(false)
        .ignore(false)
        .follow_links(false)
        .max_depth(Some(DEEPEST))
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    for entry in walk {
        let entry = entry.map_err(|error| LintError::Walk { path: shown(folder), why: error.to_string() })?;
        let Some(kind) = Kind::of(entry.path()) else { continue };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        if found.len() >= MOST_FILES {
            return Err(LintError::TooMany(MOST_FILES));
        }
        found.push((entry.into_path(), kind));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        for (path, kind) in [
            (".mergeyard/build.yml", Some(Kind::Pipeline)),
            ("a/.woodpecker/test.yaml", Some(Kind::Pipeline)),
            (".woodpecker.yml", Some(Kind::Pipeline)),
            ("a/.mergeyard.yaml", Some(Kind::Pipeline)),
            (".woodpecker/more/test.yml", None),
            ("compose.yml", None),
            ("Dockerfile", Some(Kind::Dockerfile)),
            ("a/dev.Dockerfile", Some(Kind::Dockerfile)),
            ("Containerfile", Some(Kind::Dockerfile)),
            ("Dockerfile.dockerignore", None),
            ("a/spec.json", Some(Kind::Spec)),
            ("packages.txt", Some(Kind::PackagesText)),
            ("packages.json", Some(Kind::PackagesJson)),
            ("package.json", None),
        ] {
            assert_eq!(Kind::of(Path::new(path)), kind, "{path}");
        }
        assert_eq!(Kind::of_named(Path::new("mine.yml")), Some(Kind::Pipeline));
        assert_eq!(Kind::of_named(Path::new("mine.txt")), None);
    }
}
