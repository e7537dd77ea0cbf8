//! Planning: from the files of a commit to what is to be run, in this process and beside nothing.
//!
//! It stands on the way of every delivery, so it is to cost nothing that anybody notices, however
//! large a repository's pipelines are.

use std::time::{Duration, Instant};

use mergeyard_plan::{
    facts::Facts,
    spec::Limits,
    workflows::{self, PipelineFile, Request},
};

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
    let request = Request { secrets: Some(&[]), ..Request::of(&facts) };
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
    let mut facts = Facts::imagined();
    facts.repo.name = "acme/clock".parse()?;
    facts.pipeline.files = Some(vec!["src/main.rs".to_owned()]);
    Ok(facts)
}
