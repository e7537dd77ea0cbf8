//! The server is killed while containers work for it, after they ended and before anybody waits for
//! them any more: the next server goes on with the very same containers, and nothing happens twice.

use mergeyard_testkit::process::{self, tool, until};
use serde_json::Value;

use super::{Files, RealYard, step, text};

/// A service, a step that says lines and hands on how many until it is let go, and one that
/// wants both.
const COUNT: &str = r#"
when: {event: pull_request_merged}
services:
  - name: echo
    image: debian:bookworm-slim
    commands:
      - exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 5, LocalPort => 7007) or die; while ($c = $s->accept) { print $c "served\n"; close $c }'
    ready: {port: 7007}
steps:
  - name: count
    image: debian:bookworm-slim
    commands:
      - |
        i=0
        until [ -e /go ]; do i=$((i+1)); echo "line $i"; sleep 0.02; done
        echo "counted=$i" >> "$CI_OUTPUT"
        echo once >> /woodpecker/counts
    outputs: [counted]
  - name: ask
    image: debian:bookworm-slim
    commands:
      - bash -c 'cat < /dev/tcp/echo/7007'
      - echo "counted ${{ steps.count.outputs.counted }} in $(wc -l < /woodpecker/counts) go"
"#;

const GATED: &str = r#"
when: {event: pull_request_merged}
steps:
  - name: before
    image: debian:bookworm-slim
    commands: [echo first]
  - name: after
    image: debian:bookworm-slim
    approve: production
    commands: [echo second]
"#;

fn file(text: &str) -> Files {
    vec![(".mergeyard/work.yml".to_owned(), text.as_bytes().to_vec())]
}

/// The ids of all containers of one step, ended ones too.
async fn containers(yard: &RealYard, step: &Value) -> Vec<String> {
    let (owner, step) =
        (format!("label=mergeyard.owner={}", yard.owner()), format!("label=mergeyard.step={}", step["id"]));
    let mut listed = tool("docker");
    listed.args(["ps", "-aq", "--no-trunc", "--filter", &owner, "--filter", &step]);
    process::run(&mut listed).await.good().lines().map(str::to_owned).collect()
}

/// Until the step has said its first lines, and they are kept.
async fn counting(yard: &RealYard) -> (Value, String) {
    let run = yard.run_until(1, "the count", has_begun).await;
    let count = step(&run, "work", "count").clone();
    until("some lines", async || yard.log_of(&count).await.contains("line 5\n").then_some(())).await;
    let [container] = containers(yard, &count).await.try_into().expect("one container");
    (count, container)
}

fn has_begun(run: &Value) -> bool {
    run["workflows"][0]["steps"]
        .as_array()
        .is_some_and(|steps| steps.iter().any(|step| step["name"] == "count" && step["state"] == "running"))
}

async fn let_go(container: &str) {
    process::run(tool("docker").args(["exec", container, "touch", "/go"])).await.good();
}

/// Each line is there once and in order, the output arrived, the service served, and the engine is
/// as it was.
async fn counted_once(yard: &RealYard) {
    let run = yard.finished(1).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}");
    let log = yard.log_of(step(&run, "work", "count")).await;
    let said: Vec<&str> = log.lines().filter(|line| line.starts_with("line ")).collect();
    let expected: Vec<String> = (1..=said.len()).map(|number| format!("line {number}")).collect();
    assert_eq!(said, expected);
    assert_eq!(text(&step(&run, "work", "count")["state"]), "success");
    assert_eq!(step(&run, "work", "count")["attempt"], 1, "{run:#}");
    let asked = yard.log_of(step(&run, "work", "ask")).await;
    assert!(asked.contains("served\n"), "{asked}");
    assert!(asked.contains(&format!("counted {} in 1 go\n", said.len())), "{asked}");
    yard.engine_is_clean().await;
}

#[tokio::test]
async fn a_step_goes_on_under_the_next_server_as_if_nothing_had_happened() {
    let mut yard = RealYard::new(file(COUNT)).await;
    yard.announce("r-1", &yard.first).await;
    let (count, container) = counting(&yard).await;
    yard.kill().await;
    yard.start().await;
    let kept = yard.log_of(&count).await.lines().count();
    until("more lines", async || (yard.log_of(&count).await.lines().count() > kept + 5).then_some(())).await;
    assert_eq!(containers(&yard, &count).await, std::slice::from_ref(&container), "it is the same container");
    let_go(&container).await;
    counted_once(&yard).await;
    yard.stop().await;
}

#[tokio::test]
async fn a_step_that_ended_while_no_server_looked_is_not_done_again() {
    let mut yard = RealYard::new(file(COUNT)).await;
    yard.announce("r-1", &yard.first).await;
    let (_, container) = counting(&yard).await;
    yard.kill().await;
    let_go(&container).await;
    let code = process::run(tool("docker").args(["wait", &container])).await.good();
    assert_eq!(code.trim(), "0");
    yard.start().await;
    counted_once(&yard).await;
    yard.stop().await;
}

#[tokio::test]
async fn a_gate_waits_on_under_the_next_server_and_what_was_done_stays_done() {
    let mut yard = RealYard::new(file(GATED)).await;
    yard.announce("r-1", &yard.first).await;
    let waits = |run: &Value| run["workflows"][0]["state"] == "blocked" || is_blocked(run);
    let before = yard.run_until(1, "the gate", waits).await;
    yard.kill().await;
    yard.start().await;
    let still = yard.run_until(1, "the gate", waits).await;
    assert_eq!(step(&still, "work", "before"), step(&before, "work", "before"));
    yard.mergeyard(&["approve", "1", "production"]).await.good();
    let run = yard.finished(1).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}");
    assert_eq!(step(&run, "work", "before"), step(&before, "work", "before"));
    let log = yard.log_of(step(&run, "work", "after")).await;
    assert!(log.contains("second\n"), "{log}");
    yard.engine_is_clean().await;
    yard.stop().await;
}

fn is_blocked(run: &Value) -> bool {
    run["workflows"][0]["steps"]
        .as_array()
        .is_some_and(|steps| steps.iter().any(|step| step["name"] == "after" && step["state"] == "blocked"))
}
