//! How a run goes on, and what the outside hears of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mergeyard_plan::{
    effect::{CommitStatus, Effect, StatusState},
    event::Forge,
    rules::{StepRules, WorkflowRules},
    run::{MOST_CRASHES, Outcome, Report, Run, Step, Workflow, backoff},
};
use mergeyard_types::{CommitSha, RunId, State, StepId, Timestamp, WorkflowId};
use proptest::{collection::vec, prelude::*, sample::select};

const NOW: Timestamp = Timestamp(1_000_000);
const QUIET: [&str; 0] = [];

#[test]
fn a_good_run_waits_works_and_tells_what_it_published() {
    let mut run = run(&[1]);
    assert_eq!(told(&run.announce(NOW)), ["pending image/a: waiting for a worker"]);
    assert_eq!(told(&run.apply(started(1), NOW)), QUIET);
    assert_eq!((run.state, step(&run, 1).attempt, step(&run, 1).ready), (State::Running, 1, false));

    let effects = run.apply(finished(1, success("registry.example.org/clock:1")), Timestamp(2_000_000));
    let status = CommitStatus {
        repo: "acme/clock".parse().unwrap(),
        commit: CommitSha::new([0x11; 20]),
        context: "mergeyard/pull_request_merged/image/a".to_owned(),
        state: StatusState::Success,
        description: "published registry.example.org/clock:1".to_owned(),
        run: Some(RunId(1)),
    };
    assert_eq!(effects, [Effect::CommitStatus(status)]);
    assert_eq!(run.state, State::Success);
    assert_eq!((step(&run, 1).started, step(&run, 1).finished), (Some(NOW), Some(Timestamp(2_000_000))));
}

#[test]
fn a_failure_is_the_users_and_is_not_tried_again() {
    let mut run = run(&[1]);
    run.apply(started(1), NOW);
    let failure = Outcome::Failure { message: "step 3/4 ended with exit code 2".to_owned() };
    assert_eq!(
        told(&run.apply(finished(1, failure), NOW)),
        ["failure image/a: step 3/4 ended with exit code 2"]
    );
    assert_eq!(run.state, State::Failure);
}

#[test]
fn an_infrastructure_error_is_tried_again_with_growing_pauses_and_then_told() {
    let pauses: Vec<u64> = (1..=6).map(|attempt| backoff(attempt).as_secs()).collect();
    assert_eq!(pauses, [2, 8, 32, 120, 120, 120]);
    assert_eq!(backoff(u32::MAX), Duration::from_secs(120));

    let mut run = run(&[1]);
    for attempt in 1..=3 {
        run.apply(started(1), NOW);
        assert_eq!(told(&run.apply(finished(1, error("the engine is gone", true)), NOW)), QUIET);
        let step = step(&run, 1);
        assert_eq!(
            (step.state, step.ready, step.not_before),
            (State::Queued, true, NOW.plus(backoff(attempt)))
        );
        assert_eq!(run.workflows[0].summary(), format!("attempt {attempt} of 4: the engine is gone"));
    }
    run.apply(started(1), NOW);
    let effects = run.apply(finished(1, error("the engine is gone", true)), NOW);
    assert_eq!(told(&effects), ["error image/a: the engine is gone"]);
    assert_eq!(run.state, State::Error);
}

#[test]
fn an_error_that_trying_again_cannot_help_is_told_at_once() {
    let mut run = run(&[1]);
    run.apply(started(1), NOW);
    let effects = run.apply(finished(1, error("the registry's certificate is not trusted", false)), NOW);
    assert_eq!(told(&effects), ["error image/a: the registry's certificate is not trusted"]);
}

#[test]
fn whatever_waits_is_cancelled_at_once() {
    let retried = [started(1), finished(1, error("no engine", true))];
    let handed_over = [started(1), Report::HandedOver { step: StepId(1) }];
    for before in [&[][..], &retried, &handed_over] {
        let mut run = run(&[1]);
        before.iter().for_each(|report| assert_eq!(told(&run.apply(report.clone(), NOW)), QUIET));
        assert_eq!(told(&run.apply(cancel("by ada"), NOW)), ["error image/a: by ada"], "after {before:?}");
        assert_eq!((run.state, step(&run, 1).ready), (State::Cancelled, false));
    }
}

#[test]
fn what_runs_is_asked_to_stop_and_ends_as_it_ends() {
    for (report, expected) in [
        (finished(1, Outcome::Cancelled), "error image/a: by ada"),
        (finished(1, error("the build was torn off", true)), "error image/a: by ada"),
        (Report::Lost { step: StepId(1) }, "error image/a: by ada"),
        (Report::HandedOver { step: StepId(1) }, "error image/a: by ada"),
        // It was done before it heard.
        (finished(1, success("clock:1")), "success image/a: published clock:1"),
        (finished(1, Outcome::Failure { message: "no".to_owned() }), "failure image/a: no"),
    ] {
        let mut run = run(&[1]);
        run.apply(started(1), NOW);
        assert_eq!(told(&run.apply(cancel("by ada"), NOW)), QUIET);
        assert_eq!(told(&run.apply(cancel("by grace, later"), NOW)), QUIET);
        assert_eq!((run.state, run.cancel.as_deref()), (State::Running, Some("by ada")));
        assert_eq!(told(&run.apply(report.clone(), NOW)), [expected], "{report:?}");
        assert!(run.state.is_final());
    }
}

#[test]
fn a_step_that_keeps_killing_its_server_is_not_run_again() {
    let mut run = run(&[1]);
    for _ in 1..MOST_CRASHES {
        run.apply(started(1), NOW);
        assert_eq!(told(&run.apply(Report::Lost { step: StepId(1) }, NOW)), QUIET);
        assert_eq!(
            (step(&run, 1).state, step(&run, 1).ready, step(&run, 1).not_before),
            (State::Queued, true, NOW)
        );
    }
    run.apply(started(1), NOW);
    let effects = run.apply(Report::Lost { step: StepId(1) }, NOW);
    assert_eq!(
        told(&effects),
        ["error image/a: the server died 3 times while running this step, so it is not run again"]
    );
}

#[test]
fn a_restart_of_the_server_uses_up_neither_retries_nor_crashes() {
    let mut run = run(&[1]);
    for _ in 0..2 * MOST_CRASHES {
        run.apply(started(1), NOW);
        assert_eq!(told(&run.apply(Report::HandedOver { step: StepId(1) }, NOW)), QUIET);
        assert_eq!((step(&run, 1).state, step(&run, 1).ready), (State::Queued, true));
        assert_eq!(run.workflows[0].summary(), "the server stopped while running this step; it starts again");
    }
    assert_eq!((step(&run, 1).attempt, step(&run, 1).crashes), (0, 0));
    run.apply(started(1), NOW);
    run.apply(Report::Lost { step: StepId(1) }, NOW);
    run.apply(started(1), NOW);
    run.apply(finished(1, error("no engine", true)), NOW);
    assert_eq!(run.workflows[0].summary(), "attempt 1 of 4: no engine");
}

#[test]
fn steps_follow_one_another() {
    let mut run = run(&[3]);
    let ready = |run: &Run| run.workflows[0].steps.iter().map(|step| step.ready).collect::<Vec<_>>();
    assert_eq!(ready(&run), [true, false, false]);
    run.apply(started(1), NOW);
    assert_eq!(ready(&run), [false, false, false]);
    assert_eq!(told(&run.apply(finished(1, success("clock:1")), NOW)), QUIET);
    assert_eq!((ready(&run), run.state), (vec![false, true, false], State::Running));

    run.apply(started(2), NOW);
    let failure = Outcome::Failure { message: "two tests failed".to_owned() };
    assert_eq!(
        told(&run.apply(finished(2, failure), NOW)),
        ["failure image/a: step `step 2`: two tests failed"]
    );
    let third = step(&run, 3);
    assert_eq!((third.state, third.why.as_deref()), (State::Skipped, Some("step `step 2` did not succeed")));
    assert_eq!((third.finished, ready(&run)), (Some(NOW), vec![false, false, false]));
}

#[test]
fn each_workflow_tells_its_own_end_and_the_run_ends_with_the_last() {
    let mut run = run(&[1, 1]);
    run.workflows[1].axis = None;
    assert_eq!(
        told(&run.announce(NOW)),
        ["pending image/a: waiting for a worker", "pending image: waiting for a worker"]
    );
    run.apply(started(1), NOW);
    run.apply(started(2), NOW);
    let failure = Outcome::Failure { message: "no".to_owned() };
    assert_eq!(told(&run.apply(finished(2, failure), NOW)), ["failure image: no"]);
    assert_eq!(run.state, State::Running);
    assert_eq!(
        told(&run.apply(finished(1, success("clock:1")), NOW)),
        ["success image/a: published clock:1"]
    );
    assert_eq!(run.state, State::Failure);
    // A report that comes twice, or after the end, changes and tells nothing.
    let ended = run.clone();
    for report in
        [finished(1, success("clock:2")), started(2), Report::Lost { step: StepId(2) }, cancel("late")]
    {
        assert_eq!(told(&run.apply(report, NOW)), QUIET);
    }
    assert_eq!(run, ended);
}

#[test]
fn what_its_plan_finished_is_told_when_the_run_begins() {
    let mut run = run(&[0, 0, 1]);
    for (at, state, why) in
        [(0, State::Skipped, "unchanged: clock:1"), (1, State::Failure, "raise service.version")]
    {
        run.workflows[at].state = state;
        run.workflows[at].why = Some(why.to_owned());
    }
    assert_eq!(
        told(&run.announce(NOW)),
        [
            "success image/a: unchanged: clock:1",
            "failure image/b: raise service.version",
            "pending image/c: waiting for a worker"
        ]
    );
    run.apply(started(1), NOW);
    let effects = run.apply(finished(1, success("clock:1")), NOW);
    assert_eq!(told(&effects), ["success image/c: published clock:1"]);
    assert_eq!(run.state, State::Failure);
}

#[test]
fn a_git_server_without_statuses_is_told_nothing() {
    let mut run = run(&[1]);
    run.forge = Forge::Git;
    assert!(run.announce(NOW).is_empty());
    assert!(run.apply(cancel("by ada"), NOW).is_empty());
    assert_eq!(run.state, State::Cancelled);
}

#[test]
fn the_state_of_a_run_is_that_of_its_parts() {
    use State::*;
    for (parts, whole) in [
        (&[][..], Skipped),
        (&[Skipped, Skipped], Skipped),
        (&[Success, Skipped], Success),
        (&[Success, Cancelled], Cancelled),
        (&[Cancelled, Failure], Failure),
        (&[Failure, Error, Cancelled], Error),
        (&[Queued, Queued], Queued),
        (&[Queued, Skipped], Queued),
        (&[Queued, Success], Running),
        (&[Queued, Error], Running),
        (&[Running, Error], Running),
        (&[Blocked, Running], Running),
        (&[Blocked, Success], Blocked),
        (&[Blocked, Queued], Blocked),
    ] {
        let mut run = run(&vec![0; parts.len()]);
        for (workflow, state) in run.workflows.iter_mut().zip(parts) {
            workflow.state = *state;
        }
        run.announce(NOW);
        assert_eq!(run.state, whole, "{parts:?}");
    }
}

#[test]
fn statuses_of_one_context_share_a_lane_and_never_a_key() {
    let mut run = run(&[1]);
    let mut effects = run.announce(NOW);
    effects.extend(run.apply(cancel("by ada"), NOW));
    run.id = RunId(2);
    effects.extend(run.announce(NOW));
    assert_eq!(effects.iter().map(Effect::key).collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(effects.iter().map(Effect::lane).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(
        effects[0].lane(),
        format!("status/acme/clock/{}/mergeyard/pull_request_merged/image/a", run.commit)
    );
}

proptest! {
    /// Whatever is reported, in whatever order, also about steps that do not exist.
    #[test]
    fn no_reports_can_change_an_end_or_tell_it_twice(shape in vec(0..4usize, 0..4), reports in vec(report(), 0..60)) {
        let mut run = run(&shape);
        for workflow in run.workflows.iter_mut().filter(|workflow| workflow.steps.is_empty()) {
            workflow.state = State::Skipped;
        }
        let mut effects = run.announce(NOW);
        for (tick, report) in reports.into_iter().enumerate() {
            let before = run.clone();
            effects.extend(run.apply(report, Timestamp(tick as i64)));
            ends_hold(&before, &run)?;
            is_whole(&run)?;
        }
        effects.extend(run.apply(cancel("the end"), NOW));
        for id in (1..).map(StepId).take(shape.iter().sum()) {
            effects.extend(run.apply(Report::Finished { step: id, outcome: Outcome::Cancelled }, NOW));
        }
        prop_assert!(run.state.is_final());
        let ends: Vec<_> = effects.iter().map(status).filter(|status| status.state != StatusState::Pending).collect();
        prop_assert_eq!(ends.len(), run.workflows.len());
        for workflow in &run.workflows {
            let context = format!("/image/{}", workflow.axis.as_deref().unwrap());
            let own: Vec<_> = ends.iter().filter(|status| status.context.ends_with(&context)).collect();
            prop_assert_eq!(own.len(), 1);
            let good = matches!(workflow.state, State::Success | State::Skipped);
            prop_assert_eq!(own[0].state == StatusState::Success, good);
            prop_assert_eq!(&own[0].description, &workflow.summary());
        }
    }
}

fn ends_hold(before: &Run, after: &Run) -> Result<(), TestCaseError> {
    prop_assert!(!before.state.is_final() || before == after);
    for (before, after) in before.workflows.iter().zip(&after.workflows) {
        prop_assert!(!before.state.is_final() || before == after);
        for (before, after) in before.steps.iter().zip(&after.steps) {
            prop_assert!(!before.state.is_final() || before == after);
        }
    }
    Ok(())
}

fn is_whole(run: &Run) -> Result<(), TestCaseError> {
    prop_assert_eq!(run.state.is_final(), run.workflows.iter().all(|workflow| workflow.state.is_final()));
    for Workflow { state, steps, .. } in &run.workflows {
        prop_assert_eq!(state.is_final(), steps.iter().all(|step| step.state.is_final()));
        let next = steps.iter().find(|step| step.state != State::Success);
        for step in steps.iter().filter(|step| step.ready) {
            prop_assert_eq!(step.state, State::Queued);
            prop_assert_eq!(next.map(|next| next.id), Some(step.id), "ready before its turn");
        }
        prop_assert!(steps.iter().all(|step| step.crashes <= MOST_CRASHES));
        prop_assert!(steps.iter().all(|step| step.state.is_final() == step.finished.is_some()));
    }
    Ok(())
}

fn report() -> impl Strategy<Value = Report> {
    let outcomes = [
        success("clock:1"),
        Outcome::Failure { message: "no".to_owned() },
        error("no engine", true),
        error("no engine", false),
        Outcome::Cancelled,
    ];
    let finish = (1..12i64, select(outcomes.to_vec())).prop_map(|(step, outcome)| finished(step, outcome));
    let other = (1..12i64)
        .prop_map(StepId)
        .prop_flat_map(|step| prop_oneof![Just(Report::Lost { step }), Just(Report::HandedOver { step })]);
    prop_oneof![
        8 => (1..12i64).prop_map(started),
        8 => finish,
        4 => other,
        1 => Just(cancel("by ada")),
    ]
}

/// A run with one workflow per number, which is how many steps it has; the workflows'
/// axes are `a`, `b`, …, the steps are numbered through from 1.
fn run(shape: &[usize]) -> Run {
    let mut ids = (1..).map(StepId);
    let workflows = shape.iter().zip('a'..).zip(1..).map(|((steps, axis), id)| Workflow {
        id: WorkflowId(id),
        name: "image".to_owned(),
        axis: Some(axis.to_string()),
        rules: WorkflowRules::default(),
        decided: false,
        state: State::Queued,
        why: None,
        steps: ids.by_ref().take(*steps).enumerate().map(|(at, id)| waiting(id, at)).collect(),
    });
    Run {
        id: RunId(1),
        forge: Forge::Github,
        repo: "acme/clock".parse().unwrap(),
        commit: CommitSha::new([0x11; 20]),
        event: "pull_request_merged".to_owned(),
        state: State::Queued,
        cancel: None,
        approvals: Vec::new(),
        workflows: workflows.collect(),
    }
}

fn waiting(id: StepId, at: usize) -> Step {
    Step {
        id,
        name: format!("step {id}"),
        rules: StepRules { needs: at.checked_sub(1).into_iter().collect(), ..StepRules::default() },
        decided: false,
        state: State::Queued,
        why: None,
        ready: at == 0,
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

fn step(run: &Run, id: i64) -> &Step {
    run.step(StepId(id)).unwrap()
}

fn started(step: i64) -> Report {
    Report::Started { step: StepId(step) }
}

fn finished(step: i64, outcome: Outcome) -> Report {
    Report::Finished { step: StepId(step), outcome }
}

fn cancel(why: &str) -> Report {
    Report::Cancel { why: why.to_owned() }
}

fn success(image: &str) -> Outcome {
    Outcome::Success { outputs: BTreeMap::from([("image".to_owned(), image.to_owned())]) }
}

fn error(message: &str, retry: bool) -> Outcome {
    Outcome::Error { message: message.to_owned(), retry }
}

/// Statuses as `state context: description`, without what all contexts begin with.
fn told(effects: &[Effect]) -> Vec<String> {
    let line = |CommitStatus { context, state, description, .. }: &CommitStatus| {
        let context = context.strip_prefix("mergeyard/pull_request_merged/").unwrap();
        format!("{} {context}: {description}", state.as_str())
    };
    effects.iter().map(status).map(line).collect()
}

fn status(effect: &Effect) -> &CommitStatus {
    let Effect::CommitStatus(status) = effect else { panic!("a run tells of its workflows alone") };
    status
}
