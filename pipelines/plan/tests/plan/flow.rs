//! What waits for what: graphs of steps and workflows, services, gates.

use std::collections::BTreeMap;

use mergeyard_plan::{
    effect::Effect,
    event::Forge,
    rules::{RunsOn, StepRules, WorkflowRules},
    run::{Answer, Outcome, Report, Run, Scope, Step, Workflow},
    spec::OnFailure,
};
use mergeyard_types::{CommitSha, RunId, State, StepId, Timestamp, WorkflowId};
use proptest::{collection::vec, prelude::*, sample::Index};

const NOW: Timestamp = Timestamp(1_000_000);
const AFTER_FAILURE: RunsOn = RunsOn { success: false, failure: true };
const ALWAYS: RunsOn = RunsOn { success: true, failure: true };

#[test]
fn a_step_starts_when_its_own_needs_are_met_and_waits_for_nobody_else() {
    let mut run =
        one(vec![step("clone", &[]), step("slow", &[0]), step("quick", &[0]), step("after-quick", &[2])]);
    run.announce(NOW);
    assert_eq!(ready(&run), ["clone"]);
    assert_eq!(why(&run, "after-quick"), "waits for step quick");
    succeed(&mut run, "clone");
    assert_eq!(ready(&run), ["slow", "quick"]);
    start(&mut run, "slow");
    succeed(&mut run, "quick");
    assert_eq!(ready(&run), ["after-quick"], "the slow one still runs");
    succeed(&mut run, "after-quick");
    finish(&mut run, "slow", good());
    assert_eq!(run.state, State::Success);
}

#[test]
fn what_waits_says_for_what() {
    let names = ["a", "b", "c", "d", "e"];
    let mut steps: Vec<Step> = names.iter().map(|name| step(name, &[])).collect();
    steps.push(step("last", &[0, 1, 2, 3, 4]));
    let mut run = one(steps);
    run.announce(NOW);
    assert_eq!(why(&run, "last"), "waits for steps a, b, c and 2 more");
    for name in ["a", "b", "c"] {
        succeed(&mut run, name);
    }
    assert_eq!(why(&run, "last"), "waits for steps d, e");
    succeed(&mut run, "d");
    succeed(&mut run, "e");
    assert_eq!((ready(&run), find(&run, "last").why.as_deref()), (vec!["last"], None));
}

#[test]
fn a_handler_of_failures_runs_after_one_and_only_then() {
    let steps = || {
        let handler =
            Step { rules: StepRules { runs_on: AFTER_FAILURE, ..rules(&[0]) }, ..step("tell", &[]) };
        let always = Step { rules: StepRules { runs_on: ALWAYS, ..rules(&[1]) }, ..step("sweep", &[]) };
        vec![step("test", &[]), handler, always, step("publish", &[2])]
    };
    let mut run = one(steps());
    run.announce(NOW);
    succeed(&mut run, "test");
    assert_eq!(why(&run, "tell"), "it runs after a failure only, and nothing failed before it");
    succeed(&mut run, "sweep");
    succeed(&mut run, "publish");
    assert_eq!(states(&run), "test success, tell skipped, sweep success, publish success");
    assert_eq!(run.state, State::Success);

    let mut run = one(steps());
    run.announce(NOW);
    fail(&mut run, "test");
    assert_eq!(ready(&run), ["tell"]);
    succeed(&mut run, "tell");
    succeed(&mut run, "sweep");
    assert_eq!(states(&run), "test failure, tell success, sweep success, publish skipped");
    assert_eq!(why(&run, "publish"), "step `test` did not succeed", "a handler that works mends nothing");
    assert_eq!(run.state, State::Failure);
}

#[test]
fn a_failure_can_be_ignored_or_end_the_whole_run() {
    let with = |failure| Step { rules: StepRules { failure, ..rules(&[]) }, ..step("lint", &[]) };
    let mut run = one(vec![with(OnFailure::Ignore), step("test", &[0])]);
    run.announce(NOW);
    fail(&mut run, "lint");
    succeed(&mut run, "test");
    assert_eq!((run.state, states(&run).as_str()), (State::Success, "lint failure, test success"));
    assert_eq!(run.workflows[0].summary(), "done");

    let mut run = of(vec![
        workflow("a", &[], vec![with(OnFailure::Cancel), step("test", &[0])]),
        workflow("b", &[], vec![step("works", &[]), step("waits", &[0])]),
    ]);
    run.announce(NOW);
    start(&mut run, "works");
    fail(&mut run, "lint");
    let why = "step `lint` failed, and its `failure: cancel` ends the run";
    assert_eq!(run.cancel.as_deref(), Some(why));
    assert_eq!(states(&run), "lint failure, test cancelled, works running, waits cancelled");
    finish(&mut run, "works", Outcome::Cancelled);
    assert_eq!((run.workflows[0].state, run.workflows[1].state), (State::Failure, State::Cancelled));
    assert_eq!(run.state, State::Failure);
}

#[test]
fn what_the_plan_left_out_is_waited_through_and_hides_no_failure() {
    let left_out = || Step {
        decided: true,
        state: State::Skipped,
        why: Some("event is `push`".to_owned()),
        finished: Some(NOW),
        ..step("left-out", &[0])
    };
    let mut run = one(vec![step("test", &[]), left_out(), step("publish", &[1])]);
    run.announce(NOW);
    assert_eq!(ready(&run), ["test"], "it waits for what the one between would have waited for");
    fail(&mut run, "test");
    assert_eq!(why(&run, "publish"), "step `test` did not succeed");
    assert_eq!(find(&run, "left-out").why.as_deref(), Some("event is `push`"));
    assert_eq!(run.state, State::Failure);
}

#[test]
fn a_failure_of_the_program_is_tried_again_when_the_file_says_so() {
    let flaky = Step { rules: StepRules { retry_failures: true, ..rules(&[]) }, ..step("flaky", &[]) };
    let mut run = one(vec![Step { retry: 1, ..flaky }]);
    run.announce(NOW);
    fail(&mut run, "flaky");
    assert_eq!((ready(&run), run.state), (vec!["flaky"], State::Queued));
    assert_eq!(why(&run, "flaky"), "attempt 1 of 2: it said no");
    fail(&mut run, "flaky");
    assert_eq!((run.state, find(&run, "flaky").attempt), (State::Failure, 2));
}

#[test]
fn a_service_is_waited_for_until_it_is_ready_and_lives_as_long_as_its_workflow() {
    let mut run = one(vec![service("db", &[]), step("test", &[0]), step("report", &[1])]);
    run.announce(NOW);
    assert_eq!(ready(&run), ["db"]);
    start(&mut run, "db");
    assert_eq!(ready(&run), QUIET, "it has started, and is not ready");
    run.apply(Report::Ready { step: id(&run, "db") }, NOW);
    assert_eq!(ready(&run), ["test"]);
    succeed(&mut run, "test");
    assert_eq!(find(&run, "db").state, State::Running);
    start(&mut run, "report");
    let effects = finish(&mut run, "report", good());
    assert_eq!(states(&run), "db success, test success, report success");
    assert_eq!(why(&run, "db"), "stopped at the end of the workflow");
    assert_eq!(told(&effects), ["success ci: done"]);
    let ended = run.clone();
    finish(&mut run, "db", Outcome::Failure { message: "exit code 143".to_owned() });
    assert_eq!(run, ended, "how it is stopped is nobody's failure");
}

#[test]
fn a_service_that_never_gets_ready_breaks_what_relies_on_it() {
    let mut run = one(vec![service("db", &[]), step("lint", &[]), step("test", &[0])]);
    run.announce(NOW);
    fail(&mut run, "db");
    succeed(&mut run, "lint");
    assert_eq!(states(&run), "db failure, lint success, test skipped");
    assert_eq!((run.state, why(&run, "test")), (State::Failure, "step `db` did not succeed"));
}

#[test]
fn a_service_that_fails_later_breaks_nobody_and_is_counted_at_the_end() {
    let mut run = one(vec![service("db", &[]), step("test", &[0]), step("report", &[0, 1])]);
    run.announce(NOW);
    start(&mut run, "db");
    run.apply(Report::Ready { step: id(&run, "db") }, NOW);
    start(&mut run, "test");
    finish(&mut run, "db", Outcome::Failure { message: "exit code 137".to_owned() });
    finish(&mut run, "test", good());
    succeed(&mut run, "report");
    assert_eq!(states(&run), "db failure, test success, report success");
    assert_eq!(
        (run.state, run.workflows[0].summary().as_str()),
        (State::Failure, "step `db`: exit code 137")
    );

    let mut run = one(vec![service("once", &[]), step("test", &[0])]);
    run.announce(NOW);
    succeed(&mut run, "once");
    succeed(&mut run, "test");
    assert_eq!(run.state, State::Success, "a service may also have done its work");
}

#[test]
fn a_service_that_lost_its_server_has_to_be_ready_again_before_more_is_started() {
    let mut run = one(vec![service("db", &[]), step("test", &[0]), step("more", &[0, 1])]);
    run.announce(NOW);
    start(&mut run, "db");
    run.apply(Report::Ready { step: id(&run, "db") }, NOW);
    start(&mut run, "test");
    for name in ["db", "test"] {
        run.apply(Report::Lost { step: id(&run, name) }, NOW);
    }
    assert_eq!(ready(&run), ["db"]);
    assert_eq!(why(&run, "test"), "the server stopped while running this step; it starts again");
    assert_eq!(find(&run, "db").crashes, 0, "what came up is not what brings its server down");
    start(&mut run, "db");
    run.apply(Report::Ready { step: id(&run, "db") }, NOW);
    assert_eq!(ready(&run), ["test"]);
    assert_eq!((find(&run, "db").attempt, find(&run, "test").attempt), (1, 0), "the same attempts go on");
}

#[test]
fn a_run_that_is_cancelled_takes_its_services_with_it() {
    let mut run = one(vec![service("db", &[]), step("test", &[0])]);
    run.announce(NOW);
    start(&mut run, "db");
    run.apply(Report::Ready { step: id(&run, "db") }, NOW);
    let effects = run.apply(Report::Cancel { why: "by ada".to_owned() }, NOW);
    assert_eq!(told(&effects), ["error ci: by ada"]);
    assert_eq!(states(&run), "db cancelled, test cancelled");
}

#[test]
fn workflows_wait_for_each_other_at_every_point_of_a_matrix() {
    let point = |axis: &str| Workflow {
        axis: Some(axis.to_owned()),
        ..workflow("build", &[], vec![step(&format!("build-{axis}"), &[])])
    };
    let mut run = of(vec![
        workflow("deploy", &["build", "lint"], vec![step("deploy", &[])]),
        point("amd64"),
        point("arm64"),
        workflow("lint", &[], vec![step("lint", &[])]),
    ]);
    assert_eq!(
        told(&run.announce(NOW))[0],
        "pending deploy: waits for workflows build, lint",
        "why it is pending is said from the beginning"
    );
    succeed(&mut run, "build-amd64");
    succeed(&mut run, "lint");
    assert_eq!(ready(&run), ["build-arm64"]);
    assert_eq!(run.workflows[0].summary(), "waits for workflow build");
    succeed(&mut run, "build-arm64");
    assert_eq!((ready(&run), run.workflows[0].summary().as_str()), (vec!["deploy"], "waiting for a worker"));
}

#[test]
fn whether_a_workflow_runs_follows_from_how_those_before_it_ended() {
    use State::{Failure, Skipped, Success};
    for (runs_on, before, runs) in [
        (RunsOn::default(), &[Success, Success][..], true),
        (RunsOn::default(), &[Success, Failure], false),
        (RunsOn::default(), &[Success, Skipped], false),
        (RunsOn::default(), &[], true),
        (AFTER_FAILURE, &[Failure, Failure], true),
        (AFTER_FAILURE, &[Failure, Success], false),
        (AFTER_FAILURE, &[Skipped], true),
        (AFTER_FAILURE, &[Success], false),
        (AFTER_FAILURE, &[], true),
        (ALWAYS, &[Failure, Success, Skipped], true),
    ] {
        let ended = |(at, state): (usize, &State)| Workflow {
            state: *state,
            decided: *state == Failure,
            ..workflow(&format!("w{at}"), &[], vec![])
        };
        let mut workflows: Vec<Workflow> = before.iter().enumerate().map(ended).collect();
        let names: Vec<String> = workflows.iter().map(|workflow| workflow.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut last = workflow("last", &names, vec![step("work", &[])]);
        last.rules.runs_on = runs_on;
        workflows.push(last);
        let mut run = of(workflows);
        run.announce(NOW);
        assert_eq!(ready(&run) == ["work"], runs, "{runs_on:?} after {before:?}");
        let last = run.workflows.last().unwrap();
        assert_eq!(last.state, if runs { State::Queued } else { Skipped });
        assert_eq!(last.why.is_some(), !runs, "why it does not run is said");
    }
}

#[test]
fn a_workflow_that_the_plan_left_out_is_missed_by_nobody() {
    let mut left_out = workflow("docs", &[], vec![]);
    (left_out.state, left_out.decided) = (State::Skipped, true);
    let mut run = of(vec![left_out, workflow("deploy", &["docs"], vec![step("deploy", &[])])]);
    run.announce(NOW);
    assert_eq!(ready(&run), ["deploy"]);
}

#[test]
fn a_gate_in_the_middle_of_a_pipeline_is_opened_by_a_person_once() {
    let mut run = one(vec![step("build", &[]), gated("deploy", &[0]), step("check", &[1])]);
    run.announce(NOW);
    start(&mut run, "build");
    let asks = "waits for approval `production`: mergeyard approve 1 production";
    assert_eq!(told(&finish(&mut run, "build", good())), [format!("pending ci: {asks}")]);
    assert_eq!((run.state, why(&run, "deploy"), ready(&run)), (State::Blocked, asks, QUIET.to_vec()));
    let scope = Scope::Step(id(&run, "deploy"));
    assert_eq!(run.approvals.iter().map(|approval| approval.scope).collect::<Vec<_>>(), [scope]);
    answer(&mut run, scope, true);
    assert_eq!(ready(&run), ["deploy"]);
    start(&mut run, "deploy");
    finish(&mut run, "deploy", Outcome::Error { message: "no engine".to_owned(), retry: true });
    assert_eq!(ready(&run), ["deploy"], "another try is not another question");
    answer(&mut run, scope, false);
    assert_eq!(ready(&run), ["deploy"], "what was answered stays answered");
    succeed(&mut run, "deploy");
    succeed(&mut run, "check");
    assert_eq!(run.state, State::Success);
}

#[test]
fn a_refusal_says_whose_it_was() {
    let mut run = one(vec![gated("deploy", &[]), step("check", &[0])]);
    run.announce(NOW);
    let scope = Scope::Step(id(&run, "deploy"));
    let effects = answer(&mut run, scope, false);
    assert_eq!(told(&effects), ["error ci: approval `production` was rejected by ada"]);
    assert_eq!(states(&run), "deploy cancelled, check skipped");
    assert_eq!(why(&run, "check"), "step `deploy` did not succeed");
}

#[test]
fn a_workflow_waits_for_its_gate_after_everything_else() {
    let mut deploy = workflow("deploy", &["build"], vec![step("deploy", &[])]);
    deploy.rules.gate = Some("production".to_owned());
    let mut run = of(vec![workflow("build", &[], vec![step("build", &[])]), deploy]);
    run.announce(NOW);
    assert!(run.approvals.is_empty(), "nobody is asked about what may never be built");
    start(&mut run, "build");
    let effects = finish(&mut run, "build", good());
    let asks = "pending deploy: waits for approval `production`: mergeyard approve 1 production";
    assert_eq!(told(&effects), ["success build: done", asks]);
    let scope = Scope::Workflow(run.workflows[1].id);
    let (mut approved, mut refused) = (run.clone(), run.clone());
    answer(&mut approved, scope, true);
    assert_eq!((approved.state, ready(&approved)), (State::Running, vec!["deploy"]));
    answer(&mut refused, scope, false);
    assert_eq!((refused.state, refused.workflows[1].state), (State::Cancelled, State::Cancelled));
    run.apply(Report::Cancel { why: "by ada".to_owned() }, NOW);
    assert!(run.approvals.is_empty() && run.state == State::Cancelled, "nobody is asked any more");
}

#[test]
fn nothing_of_a_run_on_hold_starts_before_somebody_says_so() {
    let hold = "a pull request from a fork waits for approval";
    let mut run = of(vec![
        workflow("build", &[], vec![service("db", &[]), step("build", &[])]),
        workflow("test", &["build"], vec![step("test", &[])]),
    ]);
    run.approvals.push(mergeyard_plan::run::Approval {
        scope: Scope::Run,
        gate: hold.to_owned(),
        answer: None,
    });
    let asks = format!("{hold}: mergeyard approve 1");
    assert_eq!(told(&run.announce(NOW)), [format!("pending build: {asks}"), format!("pending test: {asks}")]);
    assert_eq!((run.state, ready(&run)), (State::Blocked, QUIET.to_vec()));
    let mut refused = run.clone();
    answer(&mut run, Scope::Run, true);
    assert_eq!((run.state, ready(&run)), (State::Queued, vec!["db", "build"]));
    let effects = answer(&mut refused, Scope::Run, false);
    assert_eq!(told(&effects), ["error build: rejected by ada", "error test: rejected by ada"]);
    assert_eq!(refused.state, State::Cancelled);
}

#[test]
fn what_waits_for_itself_ends_and_says_so() {
    let mut steps = one(vec![step("a", &[1]), step("b", &[0]), step("free", &[])]);
    steps.announce(NOW);
    succeed(&mut steps, "free");
    assert_eq!((steps.state, states(&steps).as_str()), (State::Error, "a error, b error, free success"));
    assert!(steps.workflows[0].summary().starts_with("step `a`: it waits for itself"));
    let mut workflows =
        of(vec![workflow("a", &["b"], vec![step("a", &[])]), workflow("b", &["a"], vec![step("b", &[])])]);
    workflows.announce(NOW);
    assert_eq!(workflows.state, State::Error);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    /// Graphs of any shape, with services, handlers and gates; reports in any order.
    #[test]
    fn in_whatever_order_steps_end_nothing_starts_early_or_twice_and_all_of_it_ends(
        shape in vec(vec(shape(), 1..7), 1..4),
        deeds in vec((any::<Index>(), 0..9u8), 0..120)
    ) {
        let mut run = of(shape.iter().enumerate().map(drawn).collect());
        run.announce(NOW);
        let mut deeds = deeds.into_iter();
        while !run.state.is_final() {
            // When the deeds are used up, everything that can goes well.
            let deed = deeds.next();
            let report = next_report(&run, deed.as_ref());
            let Some(report) = report else { break };
            if let Report::Started { step } = report {
                began_rightly(&run, step)?;
            }
            let before = run.clone();
            run.apply(report, NOW);
            let steps = |run: &Run| run.workflows.iter().flat_map(|w| w.steps.clone()).collect::<Vec<_>>();
            for (before, after) in steps(&before).into_iter().zip(steps(&run)) {
                prop_assert!(!before.state.is_final() || before == after, "{} had ended", before.name);
            }
            is_whole(&run)?;
        }
        prop_assert!(run.state.is_final(), "stuck: {}", states(&run));
        prop_assert!(run.workflows.iter().flat_map(|w| &w.steps).all(|step| step.state.is_final() && !step.ready));
    }
}

/// By the states alone, and without asking what is being tested.
fn began_rightly(run: &Run, id: StepId) -> Result<(), TestCaseError> {
    let workflow = run.workflow_of(id).unwrap();
    let step = run.step(id).unwrap();
    prop_assert_eq!(step.state, State::Queued);
    for need in step.rules.needs.iter().map(|need| &workflow.steps[*need]) {
        prop_assert!(
            need.state.is_final() || (need.rules.detached && need.up),
            "{} ran before {}",
            step.name,
            need.name
        );
    }
    for other in run.workflows.iter().filter(|other| workflow.rules.needs.contains(&other.name)) {
        prop_assert!(other.state.is_final(), "{} ran before {}", workflow.name, other.name);
    }
    Ok(())
}

fn is_whole(run: &Run) -> Result<(), TestCaseError> {
    prop_assert_eq!(run.state.is_final(), run.workflows.iter().all(|workflow| workflow.state.is_final()));
    for workflow in &run.workflows {
        let all_ended = workflow.steps.iter().all(|step| step.state.is_final());
        prop_assert_eq!(workflow.state.is_final(), all_ended, "{}: {}", &workflow.name, states(run));
        let ordinary = |step: &&Step| !step.rules.detached;
        let left = workflow.steps.iter().any(|step| step.rules.detached && step.up && !step.state.is_final());
        let others_ended = workflow.steps.iter().filter(ordinary).all(|step| step.state.is_final());
        let starting =
            workflow.steps.iter().any(|step| step.rules.detached && !step.up && !step.state.is_final());
        prop_assert!(!(left && others_ended) || starting, "a service outlived its workflow: {}", states(run));
        for step in &workflow.steps {
            prop_assert!(!step.ready || step.state == State::Queued);
            prop_assert_eq!(step.state.is_final(), step.finished.is_some());
            let pending = matches!(step.state, State::Queued | State::Blocked) && !step.ready;
            let waits_with_all =
                workflow.why.is_some() && workflow.steps.iter().all(|step| step.started.is_none());
            prop_assert!(!pending || step.why.is_some() || waits_with_all, "{} does not say why", step.name);
        }
    }
    Ok(())
}

fn next_report(run: &Run, deed: Option<&(Index, u8)>) -> Option<Report> {
    let steps: Vec<&Step> = run.workflows.iter().flat_map(|workflow| &workflow.steps).collect();
    let open: Vec<Scope> =
        run.approvals.iter().filter(|a| a.answer.is_none()).map(|approval| approval.scope).collect();
    let ready: Vec<StepId> = steps.iter().filter(|step| step.ready).map(|step| step.id).collect();
    let running: Vec<&&Step> = steps.iter().filter(|step| step.state == State::Running && !step.up).collect();
    let up: Vec<&&Step> = steps.iter().filter(|step| step.state == State::Running && step.up).collect();
    let Some((index, how)) = deed else {
        let finish = |step: &&&Step| match step.rules.detached {
            true => Report::Ready { step: step.id },
            false => Report::Finished { step: step.id, outcome: good() },
        };
        let start = ready.first().map(|step| Report::Started { step: *step });
        let ask = open.first().map(|scope| Report::Answer { scope: *scope, answer: by_ada(true) });
        return start.or_else(|| running.first().map(finish)).or(ask);
    };
    let any = |steps: &[&&Step]| (!steps.is_empty()).then(|| index.get(steps).id);
    let report = match how {
        0..=2 => (!ready.is_empty()).then(|| Report::Started { step: *index.get(&ready) }),
        3 if open.is_empty() => None,
        3 => Some(Report::Answer { scope: *index.get(&open), answer: by_ada(index.index(3) > 0) }),
        4 => any(&running).map(|step| Report::Ready { step }),
        5 => any(&running).or_else(|| any(&up)).map(|step| Report::Finished { step, outcome: said_no() }),
        6 => any(&running).or_else(|| any(&up)).map(|step| Report::Lost { step }),
        7 => any(&up).or_else(|| any(&running)).map(|step| Report::HandedOver { step }),
        _ => any(&running).map(|step| Report::Finished { step, outcome: good() }),
    };
    report.or_else(|| next_report(run, None))
}

/// What a step needs (bits: of those before it), and what kind of step it is.
fn shape() -> impl Strategy<Value = (u8, u8)> {
    (any::<u8>(), 0..12u8)
}

fn drawn((at, shapes): (usize, &Vec<(u8, u8)>)) -> Workflow {
    let steps = shapes.iter().enumerate().map(|(position, (bits, kind))| {
        let needs = (0..position).filter(|need| bits & (1 << need) != 0).collect();
        let mut rules = StepRules { needs, ..StepRules::default() };
        match kind {
            0 | 1 => rules.detached = true,
            2 => rules.gate = Some("production".to_owned()),
            3 => rules.runs_on = AFTER_FAILURE,
            4 => rules.runs_on = ALWAYS,
            5 => rules.failure = OnFailure::Ignore,
            6 => rules.failure = OnFailure::Cancel,
            7 => rules.retry_failures = true,
            _ => {}
        }
        let left_out = *kind == 8;
        Step {
            rules,
            decided: left_out,
            state: if left_out { State::Skipped } else { State::Queued },
            finished: left_out.then_some(NOW),
            ..step(&format!("{at}-{position}"), &[])
        }
    });
    let steps = steps.collect();
    let (bits, kind) = shapes[0];
    let needs: Vec<String> =
        (0..at).filter(|need| bits & (8 << need) != 0).map(|need| format!("w{need}")).collect();
    let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
    let mut workflow = workflow(&format!("w{at}"), &needs, steps);
    workflow.rules.runs_on = if kind == 9 { ALWAYS } else { RunsOn::default() };
    workflow.rules.gate = (kind == 10).then(|| "production".to_owned());
    workflow
}

const QUIET: [&str; 0] = [];

pub(crate) fn one(steps: Vec<Step>) -> Run {
    of(vec![workflow("ci", &[], steps)])
}

/// A run whose steps and workflows are numbered through from 1.
pub(crate) fn of(mut workflows: Vec<Workflow>) -> Run {
    for (workflow, id) in workflows.iter_mut().zip(1..) {
        workflow.id = WorkflowId(id);
    }
    for (step, id) in workflows.iter_mut().flat_map(|workflow| &mut workflow.steps).zip(1..) {
        step.id = StepId(id);
    }
    Run {
        id: RunId(1),
        forge: Forge::Github,
        repo: "acme/clock".parse().unwrap(),
        commit: CommitSha::new([0x11; 20]),
        event: "push".to_owned(),
        state: State::Queued,
        cancel: None,
        approvals: Vec::new(),
        workflows,
    }
}

pub(crate) fn workflow(name: &str, needs: &[&str], steps: Vec<Step>) -> Workflow {
    let needs = needs.iter().map(|need| (*need).to_owned()).collect();
    Workflow {
        id: WorkflowId(0),
        name: name.to_owned(),
        axis: None,
        rules: WorkflowRules { needs, ..WorkflowRules::default() },
        decided: false,
        state: State::Queued,
        why: None,
        steps,
    }
}

pub(crate) fn step(name: &str, needs: &[usize]) -> Step {
    Step {
        id: StepId(0),
        name: name.to_owned(),
        rules: rules(needs),
        decided: false,
        state: State::Queued,
        why: None,
        ready: false,
        up: false,
        not_before: NOW,
        attempt: 0,
        retry: 3,
        crashes: 0,
        exit_code: None,
        started: None,
        finished: None,
        outputs: BTreeMap::new(),
    }
}

pub(crate) fn service(name: &str, needs: &[usize]) -> Step {
    Step { rules: StepRules { detached: true, ..rules(needs) }, ..step(name, &[]) }
}

fn gated(name: &str, needs: &[usize]) -> Step {
    Step { rules: StepRules { gate: Some("production".to_owned()), ..rules(needs) }, ..step(name, &[]) }
}

pub(crate) fn rules(needs: &[usize]) -> StepRules {
    StepRules { needs: needs.to_vec(), ..StepRules::default() }
}

fn find<'r>(run: &'r Run, name: &str) -> &'r Step {
    run.workflows.iter().flat_map(|workflow| &workflow.steps).find(|step| step.name == name).unwrap()
}

pub(crate) fn id(run: &Run, name: &str) -> StepId {
    find(run, name).id
}

fn why<'r>(run: &'r Run, name: &str) -> &'r str {
    find(run, name).why.as_deref().unwrap_or_default()
}

fn ready(run: &Run) -> Vec<&str> {
    let steps = run.workflows.iter().flat_map(|workflow| &workflow.steps);
    steps.filter(|step| step.ready).map(|step| step.name.as_str()).collect()
}

pub(crate) fn states(run: &Run) -> String {
    let steps = run.workflows.iter().flat_map(|workflow| &workflow.steps);
    steps.map(|step| format!("{} {}", step.name, step.state)).collect::<Vec<_>>().join(", ")
}

fn start(run: &mut Run, name: &str) {
    let step = id(run, name);
    assert!(find(run, name).ready, "{name} is not ready");
    run.apply(Report::Started { step }, NOW);
}

fn finish(run: &mut Run, name: &str, outcome: Outcome) -> Vec<Effect> {
    let step = id(run, name);
    run.apply(Report::Finished { step, outcome }, NOW)
}

pub(crate) fn succeed(run: &mut Run, name: &str) {
    start(run, name);
    finish(run, name, good());
}

pub(crate) fn fail(run: &mut Run, name: &str) {
    start(run, name);
    finish(run, name, said_no());
}

fn answer(run: &mut Run, scope: Scope, approved: bool) -> Vec<Effect> {
    run.apply(Report::Answer { scope, answer: by_ada(approved) }, NOW)
}

fn by_ada(approved: bool) -> Answer {
    Answer { approved, who: "ada".to_owned() }
}

fn good() -> Outcome {
    Outcome::Success { outputs: BTreeMap::new() }
}

fn said_no() -> Outcome {
    Outcome::Failure { message: "it said no".to_owned() }
}

fn told(effects: &[Effect]) -> Vec<String> {
    let line = |effect: &Effect| {
        let Effect::CommitStatus(status) = effect else { panic!("a run tells of its workflows alone") };
        let context = status.context.strip_prefix("mergeyard/push/").unwrap();
        format!("{} {context}: {}", status.state.as_str(), status.description)
    };
    effects.iter().map(line).collect()
}
