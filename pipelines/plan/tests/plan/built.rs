//! Facts, and plans of files.

use std::collections::BTreeMap;

use mergeyard_plan::{
    event::EventKind,
    facts::{Commit, Facts, ForgeFacts, PipelineFacts, PullRequestFacts, Repo, System},
    policy::Trust,
    spec::{At, Constraint, Limits, Spanned},
    workflows::{self, PipelineFile, Plan, Request, Source},
};
use mergeyard_types::{RunId, Timestamp};

use crate::MERGE;

/// A push to `main` of `acme/clock`.
pub(crate) fn facts() -> Facts {
    Facts {
        system: System {
            name: "mergeyard".into(),
            url: "https://ci.example.org".into(),
            host: "ci.example.org".into(),
            platform: "linux/amd64".into(),
            version: "0.1.0".into(),
            machine: "runner-1".into(),
        },
        forge: ForgeFacts { kind: "github".into(), url: "https://github.com".into() },
        repo: Repo {
            name: "acme/clock".parse().unwrap(),
            remote_id: Some(1),
            url: "https://git.example.org/acme/clock".into(),
            clone_url: "https://git.example.org/acme/clock.git".into(),
            clone_ssh_url: String::new(),
            default_branch: "main".into(),
            private: false,
            trust: Trust::default(),
        },
        pipeline: pipeline(EventKind::Push),
        commit: commit(),
        previous: None,
        local: false,
        inputs: BTreeMap::new(),
    }
}

pub(crate) fn pipeline(event: EventKind) -> PipelineFacts {
    PipelineFacts {
        number: RunId(7),
        parent: None,
        event,
        event_reason: String::new(),
        url: "https://ci.example.org/runs/7".into(),
        forge_url: String::new(),
        deploy_target: String::new(),
        deploy_task: String::new(),
        release_title: String::new(),
        release_pre: false,
        created: Timestamp(1_700_000_000_000),
        started: None,
        finished: None,
        status: String::new(),
        files: Some(vec!["src/main.rs".into()]),
        author: "ada".into(),
        avatar: String::new(),
        reruns: 0,
        cron: String::new(),
    }
}

pub(crate) fn commit() -> Commit {
    Commit {
        sha: MERGE.parse().unwrap(),
        url: String::new(),
        git_ref: "refs/heads/main".into(),
        refspec: String::new(),
        message: "Tell the time".into(),
        branch: "main".into(),
        timestamp: None,
        author: "ada".into(),
        author_email: "ada@example.org".into(),
        author_avatar: String::new(),
        tag: String::new(),
        source_branch: String::new(),
        target_branch: String::new(),
        pull_request: None,
        prerelease: false,
    }
}

pub(crate) fn on(event: EventKind) -> Facts {
    let mut facts = facts();
    facts.pipeline.event = event;
    facts
}

/// Pull request #7 of `feature` into `main`.
pub(crate) fn pull_request(from_fork: bool) -> Facts {
    let mut facts = on(EventKind::PullRequest);
    facts.commit.git_ref = "refs/pull/7/head".into();
    facts.commit.refspec = "feature:main".into();
    facts.commit.source_branch = "feature".into();
    facts.commit.target_branch = "main".into();
    facts.commit.pull_request = Some(PullRequestFacts {
        number: 7,
        labels: vec!["deploy".into(), "big".into()],
        from_fork,
        ..PullRequestFacts::default()
    });
    facts
}

pub(crate) fn at<T>(line: usize, value: T) -> Spanned<T> {
    Spanned { value, at: At { line, column: 3 } }
}

pub(crate) fn texts(values: &[&str]) -> Vec<Spanned<String>> {
    values.iter().map(|value| at(4, (*value).to_owned())).collect()
}

pub(crate) fn constraint(include: &[&str], exclude: &[&str]) -> Constraint {
    Constraint { include: texts(include), exclude: texts(exclude) }
}

/// Files as the reader of this crate reads them.
pub(crate) fn read(files: &[(&str, &str)], facts: &Facts) -> Vec<Source> {
    let file = |(path, text): &(&str, &str)| PipelineFile {
        path: (*path).to_owned(),
        content: Ok(text.as_bytes().to_vec()),
        included: vec![],
    };
    workflows::read(&files.iter().map(file).collect::<Vec<_>>(), facts, &Limits::DEFAULT)
}

pub(crate) fn planned(files: &[(&str, &str)], facts: &Facts) -> Plan {
    workflows::plan(&read(files, facts), &Request { secrets: Some(&[]), ..Request::of(facts) })
}
