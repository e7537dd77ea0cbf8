//! Pipelines, read and planned as the server does it, for a push that does not exist: with every
//! right, because which ones a repository has is not in its files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use mergeyard_plan::{
    event::EventKind,
    facts::{Commit, Facts, ForgeFacts, PipelineFacts, Repo, System},
    finding::Finding,
    policy::Trust,
    spec::{self, Limits},
    workflows::{self, Gates, PipelineFile, Request},
};
use mergeyard_types::{CommitSha, RunId, Timestamp};

use super::{Found, Source, files::PIPELINE_FOLDERS, shown};

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
    let facts = facts();
    let request = Request {
        facts: &facts,
        secrets: None,
        runner: &BTreeMap::new(),
        images: &[],
        gates: &Gates::default(),
    };
    let plan = workflows::plan(&workflows::read(&files, &facts, &limits), &request);
    let found = |finding: Finding| match sources.iter().find(|source| source.shown == finding.file) {
        Some(source) => source.found(finding),
        None => included(root, finding, &limits),
    };
    plan.findings.into_iter().map(found).collect()
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

/// Every variable that files are substituted with has a value that looks like one.
fn facts() -> Facts {
    let text = |text: &str| text.to_owned();
    let name = "owner/name".parse().expect("a constant");
    let sha: CommitSha = "0123456789abcdef0123456789abcdef01234567".parse().expect("a constant");
    let url = "https://example.org/owner/name";
    let at = Timestamp(0);
    Facts {
        system: System {
            name: text("mergeyard"),
            url: text("https://ci.example.org"),
            host: text("ci.example.org"),
            platform: text("linux/amd64"),
            version: text(env!("CARGO_PKG_VERSION")),
            machine: text("ci.example.org"),
        },
        forge: ForgeFacts { kind: text("github"), url: text("https://example.org") },
        repo: Repo {
            name,
            remote_id: Some(1),
            url: text(url),
            clone_url: format!("{url}.git"),
            clone_ssh_url: text("git@example.org:owner/name.git"),
            default_branch: text("main"),
            private: false,
            trust: Trust { security: true, network: true, volumes: true },
        },
        pipeline: PipelineFacts {
            number: RunId(1),
            parent: None,
            event: EventKind::Push,
            event_reason: String::new(),
            url: text("https://ci.example.org/runs/1"),
            forge_url: text(url),
            deploy_target: String::new(),
            deploy_task: String::new(),
            release_title: String::new(),
            release_pre: false,
            created: at,
            started: Some(at),
            finished: None,
            status: String::new(),
            files: None,
            author: text("author"),
            avatar: String::new(),
            reruns: 0,
            cron: String::new(),
        },
        commit: Commit {
            sha,
            url: format!("{url}/commit/{sha}"),
            git_ref: text("refs/heads/main"),
            refspec: String::new(),
            message: text("message"),
            branch: text("main"),
            timestamp: Some(at),
            author: text("author"),
            author_email: text("author@example.org"),
            author_avatar: String::new(),
            tag: String::new(),
            source_branch: String::new(),
            target_branch: String::new(),
            pull_request: None,
            prerelease: false,
        },
        previous: None,
        local: false,
        inputs: BTreeMap::new(),
    }
}
