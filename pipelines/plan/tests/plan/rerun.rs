//! Another run of the same commit: what is done again, and what is kept.

use mergeyard_plan::{
    rules::{RunsOn, StepKind, StepRules},
    run::{Report, Rerun, Run, Step, kept},
};
use mergeyard_types::{State, Timestamp};

use crate::flow::{fail, id, of, one, rules, service, step, succeed, workflow};

const NOW: Timestamp = Timestamp(1_000_000);

#[test]
fn only_what_failed_is_repeated_with_what_relied_on_it_and_what_it_works_in() {
    let mut run = ci();
    for name in ["clone", "compile", "lint"] {
        succeed(&mut run, name);
    }
    start_service(&mut run);
    fail(&mut run, "test");
    succeed(&mut run, "tell");
    assert_eq!(run.state, State::Failure);
    assert_eq!(repeated(&run, Rerun::Failed), ["clone", "db", "test", "tell", "publish"]);
    assert_eq!(repeated(&run, Rerun::All), ["clone", "db", "compile", "lint", "test", "tell", "publish"]);
    assert_eq!(
        repeated(&run, Rerun::From(id(&run, "compile"))),
        ["clone", "db", "compile", "test", "tell", "publish"]
    );
}

#[test]
fn workflows_that_succeeded_are_kept_whole_unless_they_need_a_repeated_one() {
    let mut run = of(vec![
        workflow("build", &[], vec![step("build", &[])]),
        workflow("docs", &[], vec![step("docs", &[])]),
        workflow("deploy", &["build"], vec![step("deploy", &[])]),
    ]);
    run.announce(NOW);
    succeed(&mut run, "docs");
    succeed(&mut run, "build");
    fail(&mut run, "deploy");
    assert_eq!(repeated(&run, Rerun::Failed), ["deploy"]);
    assert_eq!(repeated(&run, Rerun::From(id(&run, "build"))), ["build", "deploy"]);
}

#[test]
fn what_the_plan_decided_is_not_decided_again() {
    let left_out =
        Step { decided: true, state: State::Skipped, finished: Some(NOW), ..step("left-out", &[0]) };
    let mut run = one(vec![step("test", &[]), left_out, step("publish", &[1])]);
    run.announce(NOW);
    fail(&mut run, "test");
    assert_eq!(repeated(&run, Rerun::All), ["test", "publish"]);
}

#[test]
fn a_run_that_succeeded_has_nothing_that_failed() {
    let ignored = Step {
        rules: StepRules { failure: mergeyard_plan::spec::OnFailure::Ignore, ..rules(&[]) },
        ..step("lint", &[])
    };
    let mut run = one(vec![ignored, step("test", &[0])]);
    run.announce(NOW);
    fail(&mut run, "lint");
    succeed(&mut run, "test");
    assert!(repeated(&run, Rerun::Failed).is_empty());
    assert_eq!(repeated(&run, Rerun::From(id(&run, "test"))), ["test"]);
}

/// Clone and service, two in parallel, a test, a handler of its failure, an end.
fn ci() -> Run {
    let of_kind = |kind, step: Step| Step { rules: StepRules { kind, ..step.rules }, ..step };
    let handler = StepRules { runs_on: RunsOn { success: false, failure: true }, ..rules(&[4]) };
    let mut run = one(vec![
        of_kind(StepKind::Clone, step("clone", &[])),
        of_kind(StepKind::Service, service("db", &[0])),
        of_kind(StepKind::Commands, step("compile", &[0])),
        of_kind(StepKind::Commands, step("lint", &[0])),
        of_kind(StepKind::Commands, step("test", &[1, 2])),
        of_kind(StepKind::Commands, Step { rules: handler, ..step("tell", &[]) }),
        of_kind(StepKind::Plugin, step("publish", &[4])),
    ]);
    run.announce(NOW);
    run
}

fn start_service(run: &mut Run) {
    let db = id(run, "db");
    run.apply(Report::Started { step: db }, NOW);
    run.apply(Report::Ready { step: db }, NOW);
}

fn repeated(run: &Run, what: Rerun) -> Vec<&str> {
    let kept = kept(run, what);
    let steps = run.workflows.iter().flat_map(|workflow| &workflow.steps);
    steps.filter(|step| !kept.contains(&step.id)).map(|step| step.name.as_str()).collect()
}
