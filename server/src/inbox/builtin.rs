//! The built-in pipeline: what a repository gets without writing any.

use mergeyard_plan::{
    change::Change,
    decide::{self, Candidate, Decision, File, Folder, Published},
    event::{EventKind, Forge},
    facts::Facts,
    finding::{Finding, Level},
};
use mergeyard_run::git::{Commit, Entry};
use tracing::warn;

use super::Fault;
use crate::yard::Yard;

/// The label an image carries with the git tree it was built from.
const TREE_LABEL: &str = "dev.mergeyard.tree";

/// GitHub says a merge twice, as a pull request and as a push; the first says more.
pub(super) fn starts_nothing(change: &Change<'_>) -> Option<String> {
    let said_twice = change.event == EventKind::Push && change.forge == Forge::Github;
    said_twice.then(|| {
        format!(
            "commit {} has no pipeline files, and without any a push starts nothing: GitHub says a merge with \
             a pull request event",
            change.commit.short()
        )
    })
}

/// Who plays a push does not say of which server it is.
pub(super) fn only_elsewhere(change: &Change<'_>) -> Option<Finding> {
    let played = change.event == EventKind::Push && change.forge != Forge::Github;
    let why = "without pipeline files this is what a push to a plain git server starts; at GitHub the merge of \
               a pull request does, and a push starts nothing: `--event pull_request_merged` plays that";
    played.then(|| Finding { level: Level::Warning, ..Finding::error(".mergeyard", "built-in-push", why) })
}

pub(super) async fn decide(
    yard: &Yard,
    change: &Change<'_>,
    (commit, lists): (&Commit, &[String]),
    facts: &Facts,
) -> Result<Decision, Fault> {
    let candidates = candidates(commit).await?;
    let published = published(yard, &candidates).await;
    Ok(decide::decide(change, facts, (&candidates, lists), &published))
}

/// The folders of the commit that ask for an image.
pub(super) async fn candidates(commit: &Commit) -> Result<Vec<Candidate>, Fault> {
    let folders: Vec<Folder> = commit
        .image_folders()
        .await?
        .into_iter()
        .map(|folder| Folder {
            path: folder.path,
            tree: folder.tree,
            dockerfile: file(folder.dockerfile),
            spec: file(folder.spec),
        })
        .collect();
    Ok(decide::candidates(&folders))
}

fn file(entry: Entry) -> File {
    match entry {
        Entry::Blob(bytes) => File::Text(bytes),
        Entry::TooLarge(size) => File::TooLarge(size),
        Entry::Symlink => File::Symlink,
        Entry::Other => File::NotAFile,
    }
}

/// What the registry holds under each candidate's version.
async fn published(yard: &Yard, candidates: &[Candidate]) -> Vec<Published> {
    let mut published = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let Ok(service) = &candidate.service else {
            published.push(Published::Nothing);
            continue;
        };
        published.push(match yard.executor.registry().published(&service.name, &service.version).await {
            Ok(None) => Published::Nothing,
            Ok(Some(image)) => {
                let tree = image.labels.get(TREE_LABEL).and_then(|tree| tree.parse().ok());
                Published::Image { digest: image.digest, tree }
            }
            Err(error) => {
                warn!(image = %service.name, error = %error, "the registry did not say what it has; the step asks again");
                Published::Unknown
            }
        });
    }
    published
}
