//! Lists: repositories, their tags, and what they link to.

use std::{
    cmp::Reverse,
    fs, io,
    path::{Path, PathBuf},
};

use mergeyard_types::{Digest, ImageName, Timestamp, Version};

use super::{Link, Store, entries, found};

/// Nested repositories can be no deeper: a name has 255 characters, every second of them a `/`.
const DEEPEST: usize = 128;

/// A tag, what it means, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    pub tag: Version,
    pub digest: Digest,
    pub pushed: Timestamp,
}

impl Store {
    /// A repository exists as long as it has a manifest.
    pub(crate) fn exists(&self, name: &ImageName) -> io::Result<bool> {
        holds_any(&self.paths.manifests(name))
    }

    /// A repository is found as long as anything is in it: one whose last manifest was just deleted
    /// has no tags, which is another answer than that there is no such repository.
    pub(crate) fn is_found(&self, name: &ImageName) -> io::Result<bool> {
        Ok(self.exists(name)? || holds_any(&self.paths.blob_links(name))?)
    }

    pub(crate) fn manifest_links(&self, name: &ImageName) -> io::Result<Vec<Link>> {
        links(&self.paths.manifests(name))
    }

    pub(crate) fn blob_links(&self, name: &ImageName) -> io::Result<Vec<Link>> {
        links(&self.paths.blob_links(name))
    }

    /// In the specification's order: by letters whatever their case.
    pub(crate) fn tags(&self, name: &ImageName) -> io::Result<Vec<Version>> {
        let mut tags: Vec<Version> =
            entries(&self.paths.tags(name))?.iter().filter_map(|entry| entry.parse().ok()).collect();
        tags.sort_by_cached_key(tag_order);
        Ok(tags)
    }

    /// Tags with what they mean, the newest first. Of those that came in one moment, the last of the
    /// list counts as the newest. What is taken away meanwhile is not among them.
    pub(crate) fn newest_tags(&self, name: &ImageName) -> io::Result<Vec<Tagged>> {
        let mut newest = Vec::new();
        for tag in self.tags(name)? {
            let modified = fs::metadata(self.paths.tag(name, &tag)).and_then(|metadata| metadata.modified());
            let (Some(digest), Some(modified)) = (self.tag(name, &tag)?, found(modified)?) else { continue };
            newest.push(Tagged { tag, digest, pushed: modified.into() });
        }
        newest.sort_by_cached_key(|tagged| Reverse((tagged.pushed, tag_order(&tagged.tag))));
        Ok(newest)
    }

    /// The repositories that exist, by name.
    pub(crate) fn repositories(&self) -> io::Result<Vec<ImageName>> {
        let mut names = self.names()?;
        let mut failed = Ok(());
        names.retain(|name| {
            self.exists(name).unwrap_or_else(|error| {
                failed = Err(error);
                false
            })
        });
        failed.map(|()| names)
    }

    /// Every repository that anything was ever pushed to, by name.
    pub(crate) fn names(&self) -> io::Result<Vec<ImageName>> {
        let mut names = Vec::new();
        self.collect_names(String::new(), 0, &mut names)?;
        names.sort();
        Ok(names)
    }

    fn collect_names(&self, above: String, depth: usize, names: &mut Vec<ImageName>) -> io::Result<()> {
        if depth == DEEPEST {
            return Ok(());
        }
        let directory: PathBuf = self.paths.repositories().join(&above);
        let (own, nested): (Vec<_>, Vec<_>) =
            entries(&directory)?.into_iter().partition(|part| part.starts_with('_'));
        if !own.is_empty() {
            names.extend(above.parse::<ImageName>().ok());
        }
        for part in nested {
            let path = if above.is_empty() { part } else { format!("{above}/{part}") };
            self.collect_names(path, depth + 1, names)?;
        }
        Ok(())
    }
}

/// The order of the specification's tag lists, "case-insensitive alphanumeric", made total.
pub(crate) fn tag_order(tag: &Version) -> (String, String) {
    (tag.as_str().to_ascii_lowercase(), tag.as_str().to_owned())
}

fn holds_any(directory: &Path) -> io::Result<bool> {
    Ok(!entries(&directory.join("sha256"))?.is_empty() || !entries(&directory.join("sha512"))?.is_empty())
}

fn links(directory: &Path) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        let directory = directory.join(algorithm);
        for hex in entries(&directory)? {
            let Ok(digest) = format!("{algorithm}:{hex}").parse() else { continue };
            let modified = fs::metadata(directory.join(&hex)).and_then(|metadata| metadata.modified());
            let Some(modified) = found(modified)? else { continue };
            links.push(Link { digest, touched: modified.into() });
        }
    }
    Ok(links)
}
