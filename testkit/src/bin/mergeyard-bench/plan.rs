//! Planning: from the files of a commit to what is to be run, in this process and beside nothing.
//!
//! It stands on the way of every delivery, so it is to cost nothing that anybody notices, however
//! large a repository's pipelines are.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mergeyard_plan::{
    event::EventKind,
    facts::{Commit, Facts, ForgeFacts, PipelineFacts, Repo, System},
    policy::Trust,
    spec::Limits,
    workflows::{self, Gates, PipelineFile, Request},
};
use mergeyard_types::{RunId, Timestamp};

use crate::{
    Bench, Failed,
    table::{Aims, median, millis},
};

const WORKFLOWS: usize = 50;
const STEPS: usize = 10;
const AIM: Duration = Duration::from_millis(20);

pub(crate) fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    println!("\nplan: {} steps in {WORKFLOWS} workflows, from text to plan", WORKFLOWS * STEPS);
    let (files, facts) = (files(), facts()?);
    let (runner, gates) = (BTreeMap::new(), Gates::default());
    let request = Request { facts: &facts, secrets: Some(&[]), runner: &runner, images: &[], gates: &gates };
    let mut times = Vec::new();
    for _ in 0..bench.pick(20, 200) {
        let begin = Instant::now();
        let plan = workflows::plan(&workflows::read(&files, &facts, &Limits::DEFAULT), &request);
        times.push(begin.elapsed());
        let planned: usize = plan.workflows.iter().map(|workflow| workflow.steps.len()).sum();
        // Each workflow begins with a clone.
        if planned != WORKFLOWS * (STEPS + 1) {
            return Err(format!("{planned} steps were planned:\n{}", plan.text()).into());
        }
    }
    let best = times.iter().min().copied().unwrap_or_default();
    let p50 = median(&times);
    println!("  p50 {}, best {}", millis(p50), millis(best));
    aims.add(p50 < AIM, "planning 500 steps in 50 workflows: under 20 ms p50", millis(p50));
    Ok(())
}

/// Conditions, patterns, an expression and substitution: what costs anything at all.
fn files() -> Vec<PipelineFile> {
    let mut text = String::from("when: {event: push, path: ['src/**', '*.md']}\nsteps:\n");
    for at in 0..STEPS {
        let needs = if at == 0 { String::new() } else { format!("depends_on: [s{}], ", at - 1) };
        text += &format!(
            "  - {{name: s{at}, image: 'golang:${{CI_COMMIT_BRANCH}}', commands: [make, make test], {needs}\
             when: [{{event: [push, tag], branch: [main, 'release/*'], evaluate: 'CI_REPO == \"acme/clock\"'}}]}}\n"
        );
    }
    let file = |at: usize| PipelineFile {
        path: format!(".mergeyard/w{at}.yml"),
        content: Ok(text.clone().into_bytes()),
        included: Vec::new(),
    };
    (0..WORKFLOWS).map(file).collect()
}

fn facts() -> Result<Facts, Failed> {
    let text = str::to_owned;
    Ok(Facts {
        system: System {
            name: text("mergeyard"),
            url: text("https://ci.example.org"),
            host: text("ci.example.org"),
            platform: text("linux/amd64"),
            version: text(env!("CARGO_PKG_VERSION")),
            machine: text("bench"),
        },
        forge: ForgeFacts { kind: text("github"), url: text("https://github.com") },
        repo: Repo {
            name: "acme/clock".parse()?,
            remote_id: Some(1),
            url: text("https://github.com/acme/clock"),
            clone_url: text("https://github.com/acme/clock.git"),
            clone_ssh_url: String::new(),
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
            forge_url: String::new(),
            deploy_target: String::new(),
            deploy_task: String::new(),
            release_title: String::new(),
            release_pre: false,
            created: Timestamp::now(),
            started: None,
            finished: None,
            status: String::new(),
            files: Some(vec![text("src/main.rs")]),
            author: text("ada"),
            avatar: String::new(),
            reruns: 0,
            cron: String::new(),
        },
        commit: Commit {
            sha: "6dcb09b5b57875f334f61aebed695e2e4193db5e".parse()?,
            url: String::new(),
            git_ref: text("refs/heads/main"),
            refspec: String::new(),
            message: text("Tell the time"),
            branch: text("main"),
            timestamp: None,
            author: text("ada"),
            author_email: text("ada@example.org"),
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
    })
}
