//! Steps as containers on the real engine.

#[path = "support/steps.rs"]
mod steps;
mod support;

use mergeyard_run::executor::StepOutcome;
use steps::{Steps, failure};

#[tokio::test]
async fn commands_run_where_and_as_whom_the_documentation_says() {
    let steps = Steps::new();
    let said = steps
        .said(&[
            "pwd",
            "echo $HOME $SHELL $CI_WORKSPACE",
            "id -u",
            "echo [$CI_SCRIPT$CI_NETRC_MACHINE]",
            "ls -A",
        ])
        .await;
    let here = steps::CHECKOUT;
    assert_eq!(said, [here, &format!("/root /bin/sh {here}"), "0", "[]"]);
    let (outcome, said) = steps.run(steps.commands(&["echo one", "exit 3", "echo two"])).await;
    assert_eq!(outcome, failure("exit code 3"));
    assert_eq!(said, ["+ echo one", "one", "+ exit 3"]);
    steps.end().await;
}

#[tokio::test]
#[ignore = "measures"]
async fn what_a_step_costs() {
    let steps = Steps::new();
    steps.said(&["true"]).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let started = std::time::Instant::now();
        steps.said(&["true"]).await;
        times.push(started.elapsed());
    }
    times.sort();
    println!(
        "step p50 {:?} max {:?} sum {:?}",
        times[10],
        times[19],
        times.iter().sum::<std::time::Duration>()
    );
    let started = std::time::Instant::now();
    let executor = steps.executor.clone();
    executor.end_workflow(steps.workflow()).await.unwrap();
    println!("end_workflow {:?}", started.elapsed());
    let started = std::time::Instant::now();
    for _ in 0..20 {
        let ran = std::process::Command::new("docker")
            .args(["run", "--rm", steps::IMAGE, "/bin/sh", "-c", "true"])
            .status();
        assert!(ran.unwrap().success());
    }
    println!("20 x docker run --rm {:?}", started.elapsed());
    steps.end().await;
}
