//! The page of a run of pipelines: what waits, for what, and what a person can do about it.

use std::time::Duration;

use mergeyard_plan::{
    action::{Action, CloneAction, ContainerAction},
    decide::{PlannedRun, PlannedStep, PlannedWorkflow, Verdict},
    rules::{ConcurrencyRule, RunsOn, StepKind, StepRules, WorkflowRules},
    run::Outcome,
    spec::OnFailure,
};
use serde_json::json;

use crate::web::{NOW, Site, plan};

fn container(image: &str) -> Action {
    Action::Container(Box::new(ContainerAction {
        image: image.into(),
        commands: vec!["make".into()],
        base: "/woodpecker".into(),
        directory: "/woodpecker/src".into(),
        ..ContainerAction::default()
    }))
}

fn rules(kind: StepKind, needs: &[usize]) -> StepRules {
    StepRules {
        kind,
        needs: needs.to_vec(),
        runs_on: RunsOn::default(),
        failure: OnFailure::Fail,
        detached: kind == StepKind::Service,
        gate: None,
        retry_failures: false,
    }
}

fn step(name: &str, action: Action, rules: StepRules) -> PlannedStep {
    PlannedStep {
        verdict: Verdict::Run,
        rules,
        name: name.into(),
        action,
        timeout: Duration::from_secs(60),
        retry: 0,
        serial: None,
    }
}

fn workflow(
    name: &str,
    axis: Option<&str>,
    rules: WorkflowRules,
    steps: Vec<PlannedStep>,
) -> PlannedWorkflow {
    PlannedWorkflow { rules, name: name.into(), axis: axis.map(str::to_owned), verdict: Verdict::Run, steps }
}

/// A pipeline with a diamond, a service, a matrix and a gate before it is deployed.
pub(crate) fn pipeline() -> PlannedRun {
    let clone = || {
        let action = CloneAction {
            base: "/woodpecker".into(),
            directory: "/woodpecker/src".into(),
            depth: Some(1),
            tags: false,
        };
        step("clone", Action::Clone(action), rules(StepKind::Clone, &[]))
    };
    let test = |axis: &str| {
        let steps = vec![
            clone(),
            step("postgres", container("postgres:17"), rules(StepKind::Service, &[])),
            step("compile", container("golang:1.25"), rules(StepKind::Commands, &[0])),
            step("lint", container("golangci/golangci-lint:2"), rules(StepKind::Commands, &[0])),
            step("unit", container("golang:1.25"), rules(StepKind::Commands, &[2])),
            step("integration", container("golang:1.25"), rules(StepKind::Commands, &[1, 2])),
            step("report", container("plugins/coverage"), rules(StepKind::Plugin, &[3, 4, 5])),
        ];
        workflow("test", Some(axis), WorkflowRules::default(), steps)
    };
    let deploy = WorkflowRules { needs: vec!["test".into()], ..WorkflowRules::default() };
    let gate = StepRules { gate: Some("production".into()), ..rules(StepKind::Commands, &[0]) };
    let group = ConcurrencyRule { group: "docs".into(), limit: 1 };
    let docs = WorkflowRules { concurrency: Some(group), ..WorkflowRules::default() };
    PlannedRun {
        workflows: vec![
            test("linux/amd64"),
            test("linux/arm64"),
            workflow("deploy", None, deploy, vec![clone(), step("rollout", container("alpine:3"), gate)]),
            workflow(
                "docs",
                None,
                docs,
                vec![clone(), step("book", container("alpine:3"), rules(StepKind::Commands, &[0]))],
            ),
        ],
        ..plan(7, "Serve users and coins")
    }
}

/// Stores the pipeline, and its rules where the store has not.
pub(crate) async fn stored(site: &Site) -> mergeyard_types::RunId {
    let plan = pipeline();
    let run = site.run(&plan).await;
    let mut id = 0;
    for (at, workflow) in plan.workflows.iter().enumerate() {
        let rules = json!(workflow.rules);
        site.arrange(&format!("UPDATE workflows SET rules = '{rules}' WHERE id = {}", at + 1)).await;
        for step in &workflow.steps {
            id += 1;
            let rules = json!(step.rules);
            site.arrange(&format!("UPDATE steps SET rules = '{rules}', ready = 0 WHERE id = {id}")).await;
        }
    }
    run
}

async fn state(site: &Site, step: i64, state: &str, more: &str) {
    let started = NOW.0 - 83_000;
    let times = match state {
        "queued" | "blocked" => String::new(),
        "running" => format!(", started = {started}"),
        _ => format!(", started = {started}, finished = {}", NOW.0 - 12_000),
    };
    site.arrange(&format!("UPDATE steps SET state = '{state}'{times}{more} WHERE id = {step}")).await;
}

async fn workflow_state(site: &Site, workflow: i64, state: &str) {
    site.arrange(&format!("UPDATE workflows SET state = '{state}' WHERE id = {workflow}")).await;
}

/// The page as it reads: code in a sentence stands between backticks.
async fn page_of(site: &Site, run: mergeyard_types::RunId) -> String {
    site.page(&format!("/runs/{run}")).await.replace("<code>", "`").replace("</code>", "`")
}

/// The part of the page that is one element with this id.
fn part<'a>(page: &'a str, id: &str) -> &'a str {
    let begin = page.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("there is no {id}"));
    let rest = &page[begin..];
    &rest[..rest.find("</summary>").or_else(|| rest.find("</div>")).unwrap()]
}

#[tokio::test]
async fn each_part_says_what_it_waits_for() {
    let site = Site::new().await;
    let run = stored(&site).await;
    for (step, now) in [(1, "success"), (2, "running"), (3, "running"), (4, "success")] {
        state(&site, step, now, "").await;
    }
    workflow_state(&site, 1, "running").await;
    let page = page_of(&site, run).await;
    assert!(part(&page, "s6").contains("waits for `postgres` and `compile`"), "{}", part(&page, "s6"));
    assert!(part(&page, "s7").contains("waits for `unit` and `integration`"));
    assert!(part(&page, "s2").contains(">service<"));
    assert!(part(&page, "w3").contains("waits for the workflow `test`"));
    assert!(part(&page, "w4").contains("waits for its turn in the group `docs`, of which 1 may run"));
    assert!(part(&page, "w1").contains("linux/amd64") && part(&page, "w2").contains("linux/arm64"));
    state(&site, 2, "running", ", up = 1").await;
    let page = page_of(&site, run).await;
    assert!(part(&page, "s2").contains("service, up"));
    assert!(part(&page, "s6").contains("waits for `compile`"), "a service that is up is not waited for");
}

#[tokio::test]
async fn a_gate_is_shown_with_the_command_that_opens_it() {
    let site = Site::new().await;
    let run = stored(&site).await;
    site.arrange("UPDATE steps SET state = 'success', started = 1, finished = 2 WHERE workflow IN (1, 2)")
        .await;
    site.arrange("UPDATE workflows SET state = 'success' WHERE id IN (1, 2)").await;
    state(&site, 15, "success", "").await;
    state(&site, 16, "blocked", "").await;
    workflow_state(&site, 3, "blocked").await;
    site.arrange("UPDATE runs SET state = 'blocked'").await;
    let page = page_of(&site, run).await;
    let summary = &page[page.find("id=\"summary\"").unwrap()..page.find("id=\"images\"").unwrap()];
    assert!(summary.contains("waits for approval `production`"), "{summary}");
    assert!(summary.contains(&format!("mergeyard approve {run} production")));
    assert_eq!(summary.matches("mergeyard approve").count(), 1);
    assert!(part(&page, "s16").contains("waits for approval `production`"));
}

#[tokio::test]
async fn a_run_of_a_stranger_says_how_it_is_let_in() {
    let site = Site::new().await;
    let run = stored(&site).await;
    for table in ["runs", "workflows", "steps"] {
        site.arrange(&format!("UPDATE {table} SET state = 'blocked'")).await;
    }
    site.arrange("UPDATE runs SET fork = 1").await;
    site.arrange("UPDATE workflows SET rules = '{}'").await;
    site.arrange("UPDATE steps SET rules = '{}'").await;
    let page = page_of(&site, run).await;
    assert!(page.contains("because it comes from a fork"), "{page}");
    assert!(page.contains(&format!(">mergeyard approve {run}<")));
}

#[tokio::test]
async fn a_failed_step_is_open_at_the_end_of_its_log_and_others_are_not() {
    let site = Site::new().await;
    let run = stored(&site).await;
    site.arrange("UPDATE steps SET ready = 1 WHERE id = 3").await;
    let job = site.claim().await;
    site.log(&job, (1..=1000).map(|n| format!("line {n}."))).await;
    site.finish(&job, Outcome::Failure { message: "exit code 2".into() }).await;
    state(&site, 1, "success", ", outputs = '{\"version\": \"1.4.2\", \"token\": \"********\"}'").await;
    let page = page_of(&site, run).await;
    assert!(page.contains("<details class=\"step\" id=\"s3\" open>"));
    assert!(!page.contains("<details class=\"step\" id=\"s1\" open>"));
    assert!(page.contains("line 1000.") && !page.contains("line 10."), "the end is what counts");
    assert!(part(&page, "s3").contains("exit code 2"));
}

#[tokio::test]
async fn outputs_reruns_and_reasons_to_skip_are_told() {
    let site = Site::new().await;
    let run = stored(&site).await;
    site.run(&plan(8, "the first try")).await;
    site.arrange("UPDATE runs SET rerun_of = 2 WHERE id = 1").await;
    state(&site, 1, "success", ", why = 'kept from run 2'").await;
    state(&site, 3, "success", ", outputs = '{\"version\": \"1.4.2\", \"token\": \"********\"}'").await;
    state(&site, 4, "skipped", ", why = 'no file under `docs/**` changed'").await;
    let page = page_of(&site, run).await;
    assert!(page.contains("Rerun of") && page.contains("<a href=\"/runs/2\">run 2</a>"));
    assert!(part(&page, "s1").contains("kept from run 2"));
    assert!(page.contains("1 of 18 steps were kept with their outputs"), "{page}");
    assert!(part(&page, "s4").contains("no file under `docs/**` changed"));
    let outputs = &page[page.find("id=\"facts-3\"").unwrap()..];
    let outputs = &outputs[..outputs.find("</div></div>").unwrap_or(outputs.len())];
    assert!(outputs.contains("Output version") && outputs.contains("1.4.2") && outputs.contains("********"));
}

#[tokio::test]
async fn what_waits_for_what_is_a_picture_that_stays_the_same() {
    let site = Site::new().await;
    let run = stored(&site).await;
    let page = page_of(&site, run).await;
    let picture = |page: &str, id: &str| {
        let begin = page.find(&format!("id=\"{id}\"")).unwrap();
        let rest = &page[begin..];
        rest[rest.find("<svg class=\"graph\"").unwrap()..rest.find("</svg></div>").unwrap()].to_owned()
    };
    let steps = picture(&page, "graph-1");
    assert_eq!(steps.matches("<rect").count(), 7);
    assert_eq!(steps.matches("<path d=\"M").count(), 8 + steps.matches("class=\"body\" d=\"M").count());
    assert!(steps.contains("href=\"#s6\"") && steps.contains("integration: queued"));
    let workflows = picture(&page, "overview");
    assert!(workflows.contains("href=\"#w3\"") && workflows.contains("deploy"));
    assert_eq!(steps, picture(&page_of(&site, run).await, "graph-1"));
    assert!(!page.contains("id=\"graph-3\" data-current><div"), "a chain needs no picture");
}
