//! `mergeyard registry gc`: removes what nothing keeps.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use mergeyard_registry::{Collected, Removal};
use serde::Deserialize;
use serde_json::json;

use super::reach::Reached;
use crate::cli::{Failed, Format, text};

#[derive(Args)]
pub(in crate::cli) struct Gc {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Removal(Removal),
    Sum { collected: Collected, knows_what_runs: bool },
    Failed { error: String },
}

pub(super) async fn gc(file: Option<PathBuf>, asked: Gc) -> Result<(), Failed> {
    let Gc { dry_run, format } = asked;
    let removed = Arc::new(Mutex::new(Vec::new()));
    let all = removed.clone();
    let show = move |removal: &Removal| match format {
        Format::Text => say!("{}", sentence(removal)),
        Format::Json => all.lock().unwrap_or_else(PoisonError::into_inner).push(removal.clone()),
    };
    let (sum, knows_what_runs) = match Reached::open(file)? {
        Reached::Running(running) => {
            let mut sum = None;
            let path = format!("/v2/_mergeyard/upkeep/collect?dry_run={dry_run}");
            let each = |line| match line {
                Line::Removal(removal) => {
                    show(&removal);
                    Ok(())
                }
                Line::Sum { collected, knows_what_runs } => {
                    sum = Some((collected, knows_what_runs));
                    Ok(())
                }
                Line::Failed { error } => Err(Failed::work(error)),
            };
            running.lines(&path, each).await?;
            sum.ok_or_else(|| {
                Failed::work("the registry stopped before the collection ended; run this again")
            })?
        }
        Reached::Directory(registry) => {
            let asked = registry.collection(dry_run).await;
            let knows_what_runs = asked.in_use.is_some();
            (registry.collect(asked, show).await?, knows_what_runs)
        }
    };
    if !knows_what_runs {
        eprintln!(
            "note: the engine did not say what runs, so every tag was kept; start it and run this again"
        );
    }
    match format {
        Format::Json => {
            let removed = &*removed.lock().unwrap_or_else(PoisonError::into_inner);
            let document = json!({"collected": sum, "knows_what_runs": knows_what_runs, "removed": removed});
            say!("{}", serde_json::to_string_pretty(&document)?);
        }
        Format::Text => say!("{}", summary(&sum, dry_run)),
    }
    Ok(())
}

fn sentence(removal: &Removal) -> String {
    match removal {
        Removal::Tag { name, tag, digest } => format!("tag       {name}:{tag}  ({})", digest.short()),
        Removal::Manifest { name, digest } => format!("manifest  {name}@{digest}"),
        Removal::Blob { name, digest } => format!("blob      {name}@{digest}"),
        Removal::Content { digest, size } => format!("content   {digest}  {}", text::size(*size)),
    }
}

fn summary(sum: &Collected, dry_run: bool) -> String {
    let Collected { tags, manifests, blobs, contents, bytes } = sum;
    let done = if dry_run { "would remove" } else { "removed" };
    let [tags, manifests, blobs, contents] =
        [(tags, "tag"), (manifests, "manifest"), (blobs, "blob"), (contents, "content")]
            .map(|(number, what)| text::count(*number, what));
    format!("{done} {tags}, {manifests}, {blobs} of repositories and {contents}: {}", text::size(*bytes))
}
