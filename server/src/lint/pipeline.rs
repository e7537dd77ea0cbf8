//! Pipelines, read and planned as the server does it, for a push that does not exist: with every
//! right, because which ones a repository has is not in its files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mergeyard_plan::{
    decide::{self, Candidate, File, Folder},
    facts::Facts,
    finding::Finding,
    policy::Trust,
    service::LARGEST_SPEC,
    spec::{self, Limits},
    workflows::{self, PipelineFile, Request},
};

use mergeyard_types::TreeId;

use super::{
    Found, Source,
    files::{Kind, PIPELINE_FOLDERS, find},
    shown,
};

/// All pipelines of one repository, because they may depend on one another.
pub(super) fn check(sources: &[Source]) -> Vec<Found> {
    let mut repositories = BTreeMap::<PathBuf, Vec<&Source>>::new();
    for source in sources {
        repositories.entry(root(&source.path)).or_default().push(source);
    }
    repositories.iter().flat_map(|(root, sources)| check_repository(root, sources)).collect()
}

fn check_repository(root: &Path, sources: &[&Source]) -> Vec<Found> {
    let limits = Limits::default();
    let files: Vec<PipelineFile> = sources.iter().map(|source| file(root, source, &limits)).collect();
    let mut facts = Facts::imagined();
    facts.repo.trust = Trust { security: true, network: true, volumes: true };
    let images = images(root, sources);
    let request = Request { images: &images, ..Request::of(&facts) };
    let plan = workflows::plan(&workflows::read(&files, &facts, &limits), &request);
    let found = |finding: Finding| match sources.iter().find(|source| source.shown == finding.file) {
        Some(source) => source.found(finding),
        None => included(root, finding, &limits),
    };
    plan.findings.into_iter().map(found).collect()
}

/// The folders that hold an image, as a commit of this tree would have them. They are looked for
/// only where a pipeline may ask for one.
fn images(root: &Path, sources: &[&Source]) -> Vec<Candidate> {
    let asks = |source: &&Source| source.bytes.windows(4).any(|word| word == b"uses");
    let here = if root.as_os_str().is_empty() { Path::new(".") } else { root };
    let found = match sources.iter().any(asks) {
        true => find(&[here.to_owned()]).unwrap_or_default(),
        false => Vec::new(),
    };
    let specs = found.into_iter().filter(|(_, kind)| *kind == Kind::Spec);
    let folders: Vec<Folder> = specs.filter_map(|(spec, _)| folder(here, &spec)).collect();
    decide::candidates(&folders)
}

fn folder(root: &Path, spec: &Path) -> Option<Folder> {
    let folder = spec.parent()?;
    let dockerfile = folder.join("Dockerfile").is_file().then(|| File::Text(Vec::new()))?;
    let path = folder.strip_prefix(root).ok()?.to_str()?.to_owned();
    let spec = Source::read(spec.to_owned(), LARGEST_SPEC).ok()?;
    // Which tree it is only a commit knows, and nothing here is built.
    Some(Folder { path, tree: TreeId::new([0; 20]), dockerfile, spec: File::Text(spec.bytes) })
}

fn file(root: &Path, source: &Source, limits: &Limits) -> PipelineFile {
    let asked = spec::text(&source.shown, &source.bytes, limits).map(spec::includes).unwrap_or_default();
    let included = asked.iter().filter_map(|path| {
        let content = read_included(root, path, limits)?;
        Some(PipelineFile { path: path.value.clone(), content: Ok(content), included: Vec::new() })
    });
    PipelineFile {
        path: source.shown.clone(),
        content: Ok(source.bytes.clone()),
        included: included.collect(),
    }
}

/// A finding about an included file, which is named as the pipeline names it.
fn included(root: &Path, finding: Finding, limits: &Limits) -> Found {
    let path = root.join(&finding.file);
    let bytes = read_included(root, &finding.file, limits).unwrap_or_default();
    let source = Source { shown: shown(&path), path, bytes };
    source.found(Finding { file: source.shown.clone(), ..finding })
}

/// Only regular files below the root, by no link: what lies elsewhere is not in the commit.
fn read_included(root: &Path, path: &str, limits: &Limits) -> Option<Vec<u8>> {
    let mut file = root.to_owned();
    for part in path.split('/') {
        if matches!(part, "" | "." | "..") {
            return None;
        }
        file.push(part);
        if file.symlink_metadata().ok()?.is_symlink() {
            return None;
        }
    }
    file.is_file().then(|| Source::read(file, limits.file_bytes).ok()).flatten().map(|source| source.bytes)
}

/// The repository's folder.
fn root(pipeline: &Path) -> PathBuf {
    let folder = pipeline.parent().unwrap_or(Path::new(""));
    let named = folder.file_name().and_then(|name| name.to_str());
    match named.is_some_and(|name| PIPELINE_FOLDERS.contains(&name)) {
        true => folder.parent().unwrap_or(Path::new("")).to_owned(),
        false => folder.to_owned(),
    }
}
