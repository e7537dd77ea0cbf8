//! The cases. Commands stay inside what the played shell knows.

use std::{collections::BTreeMap, time::Duration};

use mergeyard_plan::action::Action;
use mergeyard_run::executor::{StepJob, StepOutcome};
use mergeyard_types::{Secret, WorkflowId};
use tokio::time::timeout;

use crate::steps::{MINUTE, Running, Steps, exited, failure, success};

fn promising(job: StepJob, outputs: &[&str]) -> StepJob {
    let Action::Container(mut action) = job.action else { panic!("not a container") };
    action.outputs = outputs.iter().map(|key| (*key).to_owned()).collect();
    StepJob { action: Action::Container(action), ..job }
}

pub(crate) async fn a_step_says_what_it_does_and_succeeds(steps: &Steps) {
    let (outcome, said) = steps.run(steps.commands(&["echo one", "echo two words"])).await;
    assert_eq!(outcome, success());
    assert_eq!(said, ["+ echo one", "one", "+ echo two words", "two words"]);
}

pub(crate) async fn a_step_that_fails_says_its_exit_code_and_goes_no_further(steps: &Steps) {
    for code in [1, 3, 125] {
        let exit = format!("exit {code}");
        let (outcome, said) = steps.run(steps.commands(&["echo one", &exit, "echo two"])).await;
        assert_eq!(outcome, exited(code));
        assert_eq!(said, ["+ echo one", "one", &format!("+ {exit}")]);
    }
}

pub(crate) async fn what_a_step_promised_it_hands_on(steps: &Steps) {
    let commands =
        ["echo version=1.2 >> $CI_OUTPUT", "echo text=a=b c >> $CI_OUTPUT", "echo version=1.3 >> $CI_OUTPUT"];
    let (outcome, _) = steps.run(promising(steps.commands(&commands), &["version"])).await;
    let expected = [("version", "1.3"), ("text", "a=b c")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(outcome, StepOutcome::Success { outputs: BTreeMap::from(expected) });
}

pub(crate) async fn a_promise_that_is_not_kept_is_a_failure(steps: &Steps) {
    let job = promising(steps.commands(&["echo version=1.2 >> $CI_OUTPUT"]), &["version", "digest"]);
    let (outcome, _) = steps.run(job).await;
    let StepOutcome::Failure { message } = outcome else { panic!("{outcome:?}") };
    assert!(message.contains("the output `digest` is promised and was not written"), "{message}");
    // A step that fails is not asked for what it promised.
    let (outcome, _) = steps.run(promising(steps.commands(&["exit 2"]), &["digest"])).await;
    assert_eq!(outcome, exited(2));
}

pub(crate) async fn a_step_ends_at_its_timeout(steps: &Steps) {
    let job =
        StepJob { timeout: Duration::from_millis(1500), ..steps.commands(&["echo begun", "sleep 600"]) };
    let (outcome, _) = timeout(MINUTE, steps.run(job)).await.unwrap();
    assert_eq!(outcome, failure("timed out after 1500ms"));
}

pub(crate) async fn a_step_ends_when_it_is_cancelled_and_says_so(steps: &Steps) {
    let mut running = Running::start(&steps.executor, steps.commands(&["echo begun", "sleep 600"]));
    running.until("begun").await;
    running.cancel.cancel();
    let (outcome, _) = timeout(MINUTE, running.end()).await.unwrap();
    assert_eq!(outcome, StepOutcome::Cancelled);
}

pub(crate) async fn a_step_that_is_cancelled_before_it_starts_does_nothing(steps: &Steps) {
    let running = Running::start(&steps.executor, steps.commands(&["echo begun"]));
    running.cancel.cancel();
    assert_eq!(timeout(MINUTE, running.end()).await.unwrap(), (StepOutcome::Cancelled, Vec::new()));
}

pub(crate) async fn a_service_says_when_it_is_ready_and_goes_on_until_it_is_stopped(steps: &Steps) {
    let job = StepJob { detached: true, ..steps.commands(&["echo serving", "sleep 600"]) };
    let mut running = Running::start(&steps.executor, job);
    timeout(MINUTE, running.ready.notified()).await.unwrap();
    running.until("serving").await;
    assert!(!running.task.is_finished());
    running.cancel.cancel();
    let (outcome, _) = timeout(MINUTE, running.end()).await.unwrap();
    assert_eq!(outcome, StepOutcome::Cancelled);
    // One that ends by itself says how.
    let job = StepJob { detached: true, ..steps.commands(&["exit 4"]) };
    assert_eq!(steps.run(job).await.0, exited(4));
}

pub(crate) async fn output_and_errors_keep_their_order(steps: &Steps) {
    let lines: Vec<String> = (0..100).map(|i| format!("line {i}")).collect();
    let say = |(i, line): (usize, &String)| {
        if i % 2 == 0 { format!("echo {line}") } else { format!("echo {line} >&2") }
    };
    let commands = lines.iter().enumerate().map(say).collect::<Vec<_>>().join("; ");
    let (outcome, said) = steps.run(steps.commands(&[&commands])).await;
    assert_eq!(outcome, success());
    assert_eq!(said[1..], lines);
}

pub(crate) async fn a_variable_has_its_value_and_a_secret_is_masked_wherever_it_is_cut(steps: &Steps) {
    let mut job =
        steps.commands(&["echo $NAME $TOKEN", "printf %s hun; printf %s ter; echo 2-hunter2 $NAME"]);
    let set = [("NAME", "clock"), ("TOKEN", "hunter2-hunter2")];
    job.environment = set.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    job.masked = vec![Secret::new("hunter2-hunter2")];
    let (outcome, said) = steps.run(job).await;
    assert_eq!(outcome, success());
    let said: Vec<_> = said.iter().filter(|line| !line.starts_with("+ ")).collect();
    assert_eq!(said, ["clock ********", "******** clock"]);
}

pub(crate) async fn a_long_log_arrives_whole(steps: &Steps) {
    let long = "x".repeat(20_000);
    let commands: Vec<String> = (0..6).map(|i| format!("echo {i} {long}")).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    for chunk in commands.chunks(2) {
        let (outcome, said) = steps.run(steps.commands(chunk)).await;
        assert_eq!(outcome, success());
        // Each is told and said, and split only where every log splits a line.
        let told: usize = chunk.iter().map(|command| 2 + command.len() + command.len() - "echo ".len()).sum();
        assert_eq!(said.iter().map(String::len).sum::<usize>(), told);
    }
}

pub(crate) async fn a_workflow_may_end_more_than_once_and_before_it_began(steps: &Steps) {
    for _ in 0..2 {
        steps.executor.end_workflow(WorkflowId(77)).await.unwrap();
    }
    let mut job = steps.commands(&["echo one"]);
    job.workflow = WorkflowId(77);
    assert_eq!(steps.run(job.clone()).await.0, success());
    steps.executor.end_workflow(WorkflowId(77)).await.unwrap();
    // And may begin again.
    assert_eq!(steps.run(job).await.0, success());
    for _ in 0..2 {
        steps.executor.end_workflow(WorkflowId(77)).await.unwrap();
    }
}
