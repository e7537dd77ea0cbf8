//! The life of a run, told with played containers: graphs, services, outputs, gates, reruns, and
//! servers that stop in the middle of it.

use std::time::Duration;

use mergeyard_plan::{
    action::{Action, CloneAction, ContainerAction},
    decide::{PlannedRun, PlannedStep, PlannedWorkflow, Verdict},
    event::{Forge, Repository},
    rules::{ConcurrencyRule, RunsOn, StepKind, StepRules, WorkflowRules},
    run::Rerun,
};
use mergeyard_server::store::{Answered, Created, Delivery, DeliveryState, Fuse, Repeated, Source};
use mergeyard_testkit::{script::Act, yard::TestYard};
use mergeyard_types::{CommitSha, RunId, State, StepId};
use serde_json::json;

#[tokio::test]
async fn a_service_serves_while_steps_run_and_a_gate_waits_and_ends_with_its_workflow() {
    let yard = TestYard::new().await;
    yard.script.next("compile", Act::Output(&[("version", "1.2.3")]));
    start(&yard, &pipeline(1)).await;
    yard.settle().await;
    assert_eq!(
        yard.script.serving(),
        ["db"],
        "the gate is shut, and what is behind it will need the service"
    );
    assert_eq!(
        yard.script.played(),
        ["clone clone", "container compile", "container lint", "serve db", "container test"]
    );
    let asks = "waits for approval `production`: mergeyard approve 1 production";
    let run = yard.run(1).await;
    assert_eq!((run.run.state, run.workflows[0].why.as_deref()), (State::Blocked, Some(asks)));
    let status = yard.github.latest_status(&yard.repo(), yard.first.merge, CONTEXT).unwrap();
    assert_eq!((status.state.as_str(), status.description.as_str()), ("pending", asks));

    let given = yard.script.given("test");
    assert_eq!(given.environment, [("VERSION".to_owned(), "1.2.3".to_owned())], "outputs are filled in");
    assert!(matches!(yard.answer(1, Some("production"), true).await, Answered::Taken(_)));
    assert_eq!(yard.answer(1, Some("production"), false).await, Answered::NothingAsked, "it was answered");
    yard.settle().await;
    assert_eq!(
        states(&yard, 1).await,
        "success: clone success, db success, compile success, lint success, test success, deploy success, tell skipped"
    );
    assert!(yard.script.serving().is_empty(), "it was stopped with its workflow");
    let status = yard.github.latest_status(&yard.repo(), yard.first.merge, CONTEXT).unwrap();
    assert_eq!(status.state, "success");
    yard.close().await;
}

#[tokio::test]
async fn a_service_that_collapses_later_is_counted_and_breaks_nobody() {
    let yard = TestYard::new().await;
    yard.script.next("compile", Act::Output(&[("version", "1")]));
    yard.script.next("db", Act::Collapse("exit code 137"));
    start(&yard, &pipeline(1)).await;
    yard.settle().await;
    let mut changes = yard.yard().changes.subscribe();
    yard.script.stopping.notify_one();
    while yard.run(1).await.workflows[0].steps[1].state != State::Failure {
        changes.changed().await.unwrap();
    }
    yard.answer(1, Some("production"), true).await;
    yard.settle().await;
    assert_eq!(
        states(&yard, 1).await,
        "failure: clone success, db failure, compile success, lint success, test success, deploy success, tell skipped"
    );
    assert_eq!(yard.run(1).await.workflows[0].why.as_deref(), Some("step `db`: exit code 137"));
    yard.close().await;
}

#[tokio::test]
async fn a_server_that_restarts_finds_its_containers_again() {
    for graceful in [true, false] {
        let mut yard = TestYard::new().await;
        yard.script.next("compile", Act::Output(&[("version", "1")]));
        start(&yard, &pipeline(1)).await;
        yard.settle().await;
        if graceful {
            yard.restart().await;
        } else {
            yard.kill().await;
            yard.start(Fuse::endless()).await;
        }
        assert!(yard.script.serving().is_empty(), "nobody follows it now");
        yard.settle().await;
        assert_eq!(yard.script.serving(), ["db"]);
        assert_eq!(yard.run(1).await.workflows[0].steps[1].attempt, 1, "it is the same attempt");
        yard.answer(1, Some("production"), true).await;
        yard.settle().await;
        assert_eq!(yard.run(1).await.run.state, State::Success);
        let mut played = yard.script.played();
        played.sort();
        played.dedup();
        assert_eq!(played.len(), yard.script.played().len(), "nothing was played twice: {played:?}");
        yard.close().await;
    }
}

#[tokio::test]
async fn a_run_cancelled_at_its_gate_takes_its_service_with_it() {
    let yard = TestYard::new().await;
    yard.script.next("compile", Act::Output(&[("version", "1")]));
    start(&yard, &pipeline(1)).await;
    yard.settle().await;
    let store = &yard.yard().store;
    assert_eq!(store.cancel_run(RunId(1), "by ada", yard.clock.now()).await.unwrap(), Some(true));
    assert_eq!(yard.run(1).await.run.state, State::Cancelled, "nothing is left that could go on");
    yard.settle().await;
    assert!(yard.script.serving().is_empty());
    assert_eq!(yard.answer(1, None, true).await, Answered::NothingAsked);
    yard.close().await;
}

#[tokio::test]
async fn only_what_failed_is_done_again_with_the_outputs_of_what_did_not() {
    let yard = TestYard::new().await;
    yard.script.next("compile", Act::Output(&[("version", "1.2.3")]));
    yard.script.next("test", Act::Fail("one test failed"));
    start(&yard, &pipeline(1)).await;
    yard.settle().await;
    assert_eq!(
        states(&yard, 1).await,
        "failure: clone success, db success, compile success, lint success, test failure, deploy skipped, tell success"
    );
    let before = yard.script.played().len();
    let store = &yard.yard().store;
    let now = yard.clock.now();
    assert_eq!(store.rerun(RunId(9), Rerun::All, now).await.unwrap(), Repeated::NoSuchRun);
    assert_eq!(store.rerun(RunId(1), Rerun::From(StepId(999)), now).await.unwrap(), Repeated::NoSuchStep);
    assert_eq!(store.rerun(RunId(1), Rerun::Failed, now).await.unwrap(), Repeated::Run(RunId(2)));
    assert_eq!(store.rerun(RunId(2), Rerun::Failed, now).await.unwrap(), Repeated::StillRuns);
    yard.settle().await;
    assert_eq!(yard.script.played()[before..], ["clone clone", "serve db", "container test"]);
    assert_eq!(yard.script.given("test").environment, [("VERSION".to_owned(), "1.2.3".to_owned())]);
    let run = yard.run(2).await;
    assert_eq!(run.workflows[0].steps[2].why.as_deref(), Some("kept from run 1"));
    yard.answer(2, Some("production"), true).await;
    yard.settle().await;
    assert_eq!(yard.run(2).await.run.state, State::Success);
    assert_eq!(store.rerun(RunId(2), Rerun::Failed, now).await.unwrap(), Repeated::Nothing);
    let lint = yard.run(2).await.workflows[0].steps[3].id;
    assert_eq!(store.rerun(RunId(2), Rerun::From(lint), now).await.unwrap(), Repeated::Run(RunId(3)));
    yard.settle().await;
    yard.answer(3, Some("production"), true).await;
    yard.settle().await;
    let run = yard.run(3).await;
    assert_eq!(run.workflows[0].steps[2].why.as_deref(), Some("kept from run 1"), "where it was really done");
    assert_eq!(run.run.state, State::Success);
    yard.close().await;
}

#[tokio::test]
async fn nothing_of_a_run_on_hold_is_done_before_somebody_approves_it() {
    let yard = TestYard::new().await;
    let held = |commit| PlannedRun {
        hold: Some("a pull request from a fork waits".to_owned()),
        fork: true,
        workflows: vec![workflow("docs", vec![step("docs", &[])])],
        ..pipeline(commit)
    };
    start(&yard, &held(1)).await;
    start(&yard, &held(2)).await;
    yard.settle().await;
    assert_eq!((yard.script.played().len(), yard.run(1).await.run.state), (0, State::Blocked));
    assert_eq!(
        yard.run(1).await.workflows[0].why.as_deref(),
        Some("a pull request from a fork waits: mergeyard approve 1")
    );
    yard.answer(1, None, true).await;
    yard.answer(2, None, false).await;
    yard.settle().await;
    assert_eq!(yard.script.played(), ["container docs"]);
    assert_eq!(
        (yard.run(1).await.run.state, yard.run(2).await.run.state),
        (State::Success, State::Cancelled)
    );
    let again = yard.yard().store.rerun(RunId(2), Rerun::All, yard.clock.now()).await.unwrap();
    assert_eq!(again, Repeated::Run(RunId(3)));
    yard.settle().await;
    assert_eq!(yard.run(3).await.run.state, State::Blocked, "what was refused is asked again");
    assert_eq!(
        yard.yard().store.rerun(RunId(1), Rerun::All, yard.clock.now()).await.unwrap(),
        Repeated::Run(RunId(4))
    );
    yard.settle().await;
    assert_eq!(yard.run(4).await.run.state, State::Success, "its commit was approved");
    yard.close().await;
}

#[tokio::test]
async fn a_concurrency_group_holds_later_runs_back_and_they_say_for_whom() {
    let yard = TestYard::new().await;
    let grouped = |commit| {
        let rule = ConcurrencyRule { group: "deploy".to_owned(), limit: 1 };
        let mut deploy = workflow("deploy", vec![step("check", &[]), gated(step("deploy", &[0]))]);
        deploy.rules.concurrency = Some(rule);
        PlannedRun { workflows: vec![deploy, workflow("docs", vec![step("docs", &[])])], ..pipeline(commit) }
    };
    for commit in 1..=3 {
        start(&yard, &grouped(commit)).await;
        yard.advance(Duration::from_secs(1));
    }
    yard.settle().await;
    assert_eq!(states(&yard, 1).await, "blocked: check success, deploy blocked, docs success");
    for (run, before) in [(2, "1"), (3, "1, 2")] {
        assert_eq!(states(&yard, run).await, "running: check queued, deploy queued, docs success");
        let why = format!("waits for a place in concurrency group `deploy`, behind run {before}");
        assert_eq!(yard.run(run).await.workflows[0].why.as_deref(), Some(why.as_str()));
    }
    for run in 1..=3 {
        assert_eq!(yard.run(run).await.run.state, State::Blocked, "its turn came in order");
        yard.answer(run, Some("production"), true).await;
        yard.settle().await;
        assert_eq!(yard.run(run).await.run.state, State::Success);
    }
    yard.close().await;
}

#[tokio::test]
async fn a_plan_whose_number_was_taken_writes_nothing() {
    let yard = TestYard::new().await;
    let store = &yard.yard().store;
    let number = store.next_run().await.unwrap();
    let plan = |commit| PlannedRun { id: Some(number), workflows: Vec::new(), ..pipeline(commit) };
    assert_eq!(create(&yard, &plan(1)).await, Created::Run(number));
    assert_eq!(create(&yard, &plan(2)).await, Created::Overtaken);
    assert_eq!(create(&yard, &plan(1)).await, Created::Already(number));
    assert_eq!(store.runs(None, None, 10).await.unwrap().len(), 1);
    yard.close().await;
}

const CONTEXT: &str = "mergeyard/push/ci";

/// Clone, service, two in parallel, outputs, a gate, a handler of failures.
pub(crate) fn pipeline(commit: u64) -> PlannedRun {
    let clone = PlannedStep {
        action: Action::Clone(CloneAction {
            base: "/woodpecker".into(),
            directory: "/woodpecker/src".into(),
            depth: None,
            tags: false,
        }),
        rules: StepRules { kind: StepKind::Clone, ..StepRules::default() },
        ..step("clone", &[])
    };
    let service = |step: PlannedStep| PlannedStep {
        rules: StepRules { kind: StepKind::Service, detached: true, ..step.rules },
        ..step
    };
    let handler = |step: PlannedStep| PlannedStep {
        rules: StepRules { runs_on: RunsOn { success: false, failure: true }, ..step.rules },
        ..step
    };
    let steps = vec![
        clone,
        service(step("db", &[0])),
        step("compile", &[0]),
        step("lint", &[0]),
        with(step("test", &[1, 2]), "VERSION", "${{ steps.compile.outputs.version }}"),
        gated(step("deploy", &[3, 4])),
        handler(step("tell", &[5])),
    ];
    let repo: mergeyard_types::RepoName = "acme/clock".parse().unwrap();
    PlannedRun {
        id: None,
        forge: Forge::Github,
        repo: repo.clone(),
        known_as: repo,
        clone_url: None,
        source_url: None,
        event: "push".into(),
        branch: "develop".into(),
        commit: self::commit(commit),
        hints: vec![],
        merged_at: None,
        title: String::new(),
        author: String::new(),
        number: None,
        supersede: false,
        occasion: String::new(),
        facts: json!({}),
        account: None,
        fork: false,
        hold: None,
        rerun_of: None,
        workflows: vec![workflow("ci", steps)],
    }
}

fn commit(number: u64) -> CommitSha {
    format!("{number:040x}").parse().unwrap()
}

fn workflow(name: &str, steps: Vec<PlannedStep>) -> PlannedWorkflow {
    PlannedWorkflow {
        name: name.into(),
        axis: None,
        verdict: Verdict::Run,
        rules: WorkflowRules::default(),
        steps,
    }
}

fn step(name: &str, needs: &[usize]) -> PlannedStep {
    let action: ContainerAction = serde_json::from_value(json!({
        "image": "debian", "pull": false, "plugin": false, "commands": ["make"], "entrypoint": [],
        "environment": {}, "settings": {}, "base": "/woodpecker", "directory": "/woodpecker/src",
        "volumes": [], "devices": [], "tmpfs": [], "ports": [], "dns": [], "dns_search": [], "extra_hosts": [],
        "network_mode": null, "privileged": false, "user": null, "ready": null, "caches": [], "outputs": [],
    }))
    .unwrap();
    PlannedStep {
        name: name.into(),
        verdict: Verdict::Run,
        action: Action::Container(Box::new(action)),
        rules: StepRules { kind: StepKind::Commands, needs: needs.to_vec(), ..StepRules::default() },
        timeout: Duration::from_secs(60),
        retry: 0,
        serial: None,
    }
}

fn with(mut step: PlannedStep, name: &str, value: &str) -> PlannedStep {
    if let Action::Container(container) = &mut step.action {
        container.environment.insert(name.to_owned(), value.into());
    }
    step
}

fn gated(step: PlannedStep) -> PlannedStep {
    PlannedStep { rules: StepRules { gate: Some("production".to_owned()), ..step.rules }, ..step }
}

/// Starts a run of the plan, unless it was started.
pub(crate) async fn start(yard: &TestYard, plan: &PlannedRun) {
    let known =
        yard.yard().store.delivery(&format!("d-{}", yard.first.merge).parse().unwrap()).await.unwrap();
    if plan.commit == commit(1) && known.is_some_and(|row| row.state == DeliveryState::Done) {
        return;
    }
    // Of the first, the test looks at what GitHub was told about a commit that is there.
    let commit = if plan.commit == commit(1) { yard.first.merge } else { plan.commit };
    create(yard, &PlannedRun { commit, ..plan.clone() }).await;
}

async fn create(yard: &TestYard, plan: &PlannedRun) -> Created {
    let store = &yard.yard().store;
    let id = format!("d-{}", plan.commit);
    let delivery = Delivery {
        id: id.parse().unwrap(),
        source: Source::Github,
        event: "push".into(),
        content_type: "application/json".into(),
        repo: None,
        body: mergeyard_server::payload::compress(b"{}"),
        body_size: 2,
        received: yard.clock.now(),
        ignored: Some("its plan is the test's".into()),
    };
    store.receive(delivery).await.unwrap();
    let repository = Repository::named(plan.repo.clone());
    store.create_run(&id.parse().unwrap(), 0, &repository, plan, yard.clock.now()).await.unwrap()
}

pub(crate) async fn states(yard: &TestYard, run: i64) -> String {
    let run = yard.run(run).await;
    let steps = run.workflows.iter().flat_map(|workflow| &workflow.steps);
    let steps: Vec<String> = steps.map(|step| format!("{} {}", step.name, step.state)).collect();
    format!("{}: {}", run.run.state, steps.join(", "))
}
