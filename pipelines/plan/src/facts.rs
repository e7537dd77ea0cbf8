//! What is known about a run before it is planned.
//!
//! The pipeline language offers all of this to its files, as `CI_…` variables, to `when` and to
//! expressions. Where a value is not known it is empty, and the variable is left out.

use std::collections::BTreeMap;

use mergeyard_types::{CommitSha, RepoName, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{environment, event::EventKind, policy::Trust, secrets};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub system: System,
    pub forge: ForgeFacts,
    pub repo: Repo,
    pub pipeline: PipelineFacts,
    pub commit: Commit,
    /// The run before this one in the same repository, and its commit.
    pub previous: Option<(PipelineFacts, Commit)>,
    /// Whether this is `mergeyard run` rather than a server.
    pub local: bool,
    /// What a person gave to a manual run, checked against the file's `inputs`.
    pub inputs: BTreeMap<String, String>,
}

/// What is kept of a run for the `CI_PREV_…` of the run after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub pipeline: PipelineFacts,
    pub commit: Commit,
}

impl Facts {
    /// As they are kept with the run for its steps, which are given their variables when they start:
    /// without a list of changed files that no variable would carry.
    pub fn kept(mut self) -> Self {
        self.pipeline.files = self.pipeline.files.filter(|files| files.len() <= environment::MOST_FILES);
        self
    }

    /// Of another run of the same plan.
    pub fn repeated(mut self, number: RunId, reruns: u32, created: Timestamp) -> Self {
        let pipeline = &mut self.pipeline;
        let (old, new) = (format!("/runs/{}", pipeline.number), format!("/runs/{number}"));
        pipeline.url = pipeline.url.replace(&old, &new);
        pipeline.parent = Some(pipeline.number);
        (pipeline.number, pipeline.reruns, pipeline.created) = (number, reruns, created);
        self
    }

    /// Without the changed files, which nobody asks of a previous run and which may be many.
    pub fn remembered(&self) -> Remembered {
        let pipeline = PipelineFacts { files: None, ..self.pipeline.clone() };
        Remembered { pipeline, commit: self.commit.clone() }
    }

    /// What this run's files may ask for. A repository is trusted, not whoever proposes to change it.
    pub fn trust(&self) -> Trust {
        if secrets::is_fork(self) { Trust::default() } else { self.repo.trust }
    }

    /// A push that never was, for who looks at files without a run: every variable that files are
    /// substituted with has a value that looks like one.
    pub fn imagined() -> Self {
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
                trust: Trust::default(),
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    pub name: String,
    pub url: String,
    pub host: String,
    /// `linux/amd64`.
    pub platform: String,
    pub version: String,
    pub machine: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgeFacts {
    /// `github` or `git`.
    pub kind: String,
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repo {
    pub name: RepoName,
    pub remote_id: Option<i64>,
    pub url: String,
    pub clone_url: String,
    pub clone_ssh_url: String,
    pub default_branch: String,
    pub private: bool,
    pub trust: Trust,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineFacts {
    pub number: RunId,
    /// The run this one repeats.
    pub parent: Option<RunId>,
    pub event: EventKind,
    /// GitHub's action, such as `synchronize`.
    pub event_reason: String,
    pub url: String,
    pub forge_url: String,
    pub deploy_target: String,
    pub deploy_task: String,
    pub release_title: String,
    pub release_pre: bool,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// `success`, `failure`; of the previous run only.
    pub status: String,
    /// `None` when it is not known which files changed.
    pub files: Option<Vec<String>>,
    pub author: String,
    pub avatar: String,
    /// How often this run was repeated.
    pub reruns: u32,
    /// The name of the schedule that started it.
    pub cron: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub sha: CommitSha,
    pub url: String,
    /// `refs/heads/main`, `refs/pull/7/head`, `refs/tags/v1`.
    pub git_ref: String,
    /// `source:target` of a pull request.
    pub refspec: String,
    pub message: String,
    /// Of a pull request: the one it goes to.
    pub branch: String,
    pub timestamp: Option<Timestamp>,
    pub author: String,
    pub author_email: String,
    pub author_avatar: String,
    pub tag: String,
    pub source_branch: String,
    pub target_branch: String,
    pub pull_request: Option<PullRequestFacts>,
    pub prerelease: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequestFacts {
    pub number: u64,
    pub labels: Vec<String>,
    pub milestone: String,
    pub draft: bool,
    /// From another repository than the one it goes to.
    pub from_fork: bool,
    pub merged: bool,
}
