//! A repository's own pipelines on the real engine, from GitHub's webhook to GitHub's statuses.

use std::time::Duration;

use mergeyard_server::sample::{SampleMerge, payload};
use mergeyard_testkit::{
    process::{self, until},
    yard::{answer, borrowed},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Files, RealYard, step, text};

const ON_PULL_REQUESTS: &str = "when: {event: [pull_request, manual]}\n";

fn files(pipelines: &[(&str, &str)]) -> Files {
    let whole = |text: &str| format!("{ON_PULL_REQUESTS}{text}").into_bytes();
    pipelines.iter().map(|(name, text)| (format!(".mergeyard/{name}.yml"), whole(text))).collect()
}

/// Sends the webhook of an opened pull request.
async fn open(yard: &RealYard, id: &str, merge: &SampleMerge) {
    let payload = payload::open_pull_request(&yard.sample.hosted(), merge, "opened");
    send(yard, id, &payload).await;
}

async fn send(yard: &RealYard, id: &str, payload: &Value) {
    let answer = answer(yard.webhook(id, payload)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
}

fn is_blocked(run: &Value) -> bool {
    run["run"]["state"] == "blocked"
}

fn whys(run: &Value) -> String {
    format!("{run:#}")
}

/// Everything of the language that only an engine can prove, in one pull request.
#[tokio::test]
async fn a_pull_request_runs_with_services_matrix_outputs_and_handlers_and_has_a_status_for_each() {
    let meeting = r#"
matrix: {SIDE: [left, right]}
steps:
  - name: meet
    image: debian:bookworm-slim
    timeout: 1m
    cache: [/meeting]
    commands:
      - touch /meeting/$SIDE
      - until [ -e /meeting/left ] && [ -e /meeting/right ]; do sleep 0.05; done
      - echo met as $SIDE
"#;
    let served = r#"
services:
  - name: echo
    image: debian:bookworm-slim
    commands:
      - sleep 0.3
      - exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 5, LocalPort => 7007) or die; while ($c = $s->accept) { print $c "served\n"; close $c }'
    ready: {port: 7007}
steps:
  - {name: ask, image: 'debian:bookworm-slim', commands: ["bash -c 'cat < /dev/tcp/echo/7007'"]}
"#;
    let handed = r#"
steps:
  - name: say
    image: debian:bookworm-slim
    commands:
      - |
        cat >> "$CI_OUTPUT" <<'END'
        evil=$(touch /x) `touch /x` "; touch /x; " ' && touch /x
        END
    outputs: [evil]
  - name: hear
    image: debian:bookworm-slim
    commands:
      - printf '[%s]\n' "${{ steps.say.outputs.evil }}"
      - printf '[%s]\n' ${{ steps.say.outputs.evil }}
      - printf 'from the environment [%s]\n' "$EVIL"
      - test ! -e /x
    environment: {EVIL: '${{ steps.say.outputs.evil }}'}
"#;
    let handled = r#"
steps:
  - {name: shrug, image: 'debian:bookworm-slim', commands: [exit 4], failure: ignore}
  - name: flaky
    image: debian:bookworm-slim
    retry: 1
    commands: ["if [ ! -e ../tried ]; then touch ../tried; echo not yet; exit 1; fi; echo now"]
  - {name: break, image: 'debian:bookworm-slim', commands: [exit 5]}
  - {name: never, image: 'debian:bookworm-slim', commands: [echo never]}
  - name: handle
    image: debian:bookworm-slim
    when: {status: failure}
    commands: ['echo handled, the pipeline is a $CI_PIPELINE_STATUS']
"#;
    let lines = r#"
steps:
  - name: say
    image: debian:bookworm-slim
    commands: ["printf 'a=1\\nnot an output\\n' >> $CI_OUTPUT"]
"#;
    let pipelines = [
        ("meeting", meeting),
        ("served", served),
        ("handed", handed),
        ("handled", handled),
        ("lines", lines),
    ];
    let mut yard = RealYard::new(files(&pipelines)).await;
    open(&yard, "p-1", &yard.first).await;
    let run = yard.finished(1).await;
    assert_eq!(run["run"]["state"], "failure", "{}", whys(&run));

    let log = async |workflow: &str, name: &str| yard.log_of(step(&run, workflow, name)).await;
    let state = |workflow: &str, name: &str| text(&step(&run, workflow, name)["state"]).to_owned();
    assert_eq!(
        (state("meeting", "meet"), state("served", "ask")),
        ("success".into(), "success".into()),
        "{}",
        whys(&run)
    );
    assert!(log("served", "ask").await.contains("served\n"));

    let heard = log("handed", "hear").await;
    let evil = r#"[$(touch /x) `touch /x` "; touch /x; " ' && touch /x]"#;
    assert_eq!(state("handed", "hear"), "success", "{heard}");
    assert!(heard.contains(&format!("\n{evil}\n")), "{heard}");
    assert!(heard.contains(&format!("from the environment {evil}\n")), "{heard}");
    assert_eq!(state("lines", "say"), "failure");
    assert!(text(&step(&run, "lines", "say")["why"]).contains("line 2 of $CI_OUTPUT"), "{}", whys(&run));

    let states = ["shrug", "flaky", "break", "never", "handle"].map(|name| state("handled", name));
    assert_eq!(states, ["failure", "success", "failure", "skipped", "success"], "{}", whys(&run));
    assert_eq!(step(&run, "handled", "flaky")["attempt"], 2);
    let flaky = log("handled", "flaky").await;
    assert!(flaky.contains("not yet\n") && flaky.contains("now\n"), "{flaky}");
    assert!(log("handled", "handle").await.contains("handled, the pipeline is a failure\n"));

    let expected = [
        ("handed", "success"),
        ("handled", "failure"),
        ("lines", "failure"),
        ("meeting/SIDE=left", "success"),
        ("meeting/SIDE=right", "success"),
        ("served", "success"),
    ];
    let expected = expected.map(|(name, state)| (format!("mergeyard/pull_request/{name}"), state.to_owned()));
    let mut told = Vec::new();
    until("GitHub to be told", async || {
        let states = yard.statuses().into_iter();
        told = states
            .map(|(context, said)| (context, said.split(' ').next().unwrap_or("").to_owned()))
            .collect();
        told.iter().all(|(_, state)| state != "pending").then_some(())
    })
    .await;
    assert_eq!(told, expected);
    yard.engine_is_clean().await;
    yard.stop().await;
}

#[tokio::test]
async fn a_cache_is_found_again_by_the_next_run_and_a_rerun_repeats_only_what_failed() {
    let build = r#"
steps:
  - name: prepare
    image: debian:bookworm-slim
    commands: ['echo "made=$(hostname)" >> $CI_OUTPUT']
    outputs: [made]
  - name: build
    image: debian:bookworm-slim
    cache: [/kept]
    commands:
      - echo "prepared by ${{ steps.prepare.outputs.made }}"
      - if [ ! -e /kept/there ]; then echo cold; touch /kept/there; exit 1; fi
      - echo warm
"#;
    let mut yard = RealYard::new(files(&[("build", build)])).await;
    open(&yard, "c-1", &yard.first).await;
    let first = yard.finished(1).await;
    assert_eq!(first["run"]["state"], "failure", "{}", whys(&first));
    let cold = yard.log_of(step(&first, "build", "build")).await;
    assert!(cold.contains("cold\n"), "{cold}");

    let said = yard.mergeyard(&["rerun", "1", "--failed"]).await.good();
    assert!(said.contains("run 2 repeats run 1"), "{said}");
    let second = yard.finished(2).await;
    assert_eq!(second["run"]["state"], "success", "{}", whys(&second));
    assert_eq!(step(&second, "build", "prepare")["why"], "kept from run 1");
    let warm = yard.log_of(step(&second, "build", "build")).await;
    assert!(warm.contains("warm\n"), "{warm}");
    let prepared = |log: &str| log.lines().find(|line| line.starts_with("prepared by ")).map(str::to_owned);
    assert!(prepared(&cold).is_some_and(|line| line.len() > "prepared by ".len()), "{cold}");
    assert_eq!(prepared(&warm), prepared(&cold), "what succeeded handed on what it had");
    let nothing = yard.mergeyard(&["rerun", "2", "--failed"]).await.failed(1);
    assert!(nothing.contains("nothing in run 2 failed"), "{nothing}");
    yard.stop().await;
}

/// Row 46's other half: neither secrets nor caches of the repository reach a fork's pull request.
#[tokio::test]
async fn a_fork_waits_for_a_token_that_may_approve_and_gets_no_secret_and_no_cache() {
    let build = r#"
steps:
  - name: build
    image: debian:bookworm-slim
    cache: [/kept]
    commands: ["ls /kept", "touch /kept/of-the-repository"]
"#;
    let ship = r#"
steps:
  - name: ship
    image: debian:bookworm-slim
    environment: {TOKEN: {from_secret: ship_token}}
    commands: ['echo "the token is $TOKEN"', 'echo "$TOKEN" | base64', 'test -n "$TOKEN"']
"#;
    let mut yard = RealYard::new(files(&[("build", build), ("ship", ship)])).await;
    let repo = yard.sample.name().to_string();
    let mut set = process::mergeyard();
    set.args(["secret", "set", "ship_token", "--repo", &repo, "--event", "pull_request", "--config"]);
    process::run_with(set.arg(yard.config_file()), "hunter2-hunter2\n").await.good();

    open(&yard, "f-1", &yard.first).await;
    let run = yard.finished(1).await;
    assert_eq!(run["run"]["state"], "success", "{}", whys(&run));
    let log = yard.log_of(step(&run, "ship", "ship")).await;
    assert!(log.contains("the token is ") && !log.contains("hunter2"), "{log}");
    assert!(!log.contains("aHVudGVyMi1odW50ZXIy"), "{log}");

    let created =
        yard.mergeyard(&["token", "create", "robin", "--role", "approve", "--format", "json"]).await;
    let created: Value = serde_json::from_str(&created.good()).unwrap();
    let reader = yard.mergeyard(&["token", "create", "look", "--role", "read", "--format", "json"]).await;
    let reader: Value = serde_json::from_str(&reader.good()).unwrap();
    let second =
        yard.sample.branch_change("From outside", &borrowed(&files(&[("build", build), ("ship", ship)])));
    let second = second.unwrap();
    let approve = async |token: &Value, run: u64| {
        let request = yard.http.post(yard.url(&format!("/api/v1/runs/{run}/approvals")));
        let body = json!({ "answer": "approve", "trust_account": true });
        answer(request.bearer_auth(text(&token["token"])).json(&body)).await.status
    };
    let outside = payload::open_pull_request(&yard.sample.hosted(), &second, "opened");
    let outside = payload::from_fork(outside, "mallory");
    send(&yard, "f-2", &outside).await;
    yard.run_until(2, "the hold", is_blocked).await;
    assert_eq!(approve(&reader, 2).await, StatusCode::FORBIDDEN);
    assert_eq!(approve(&created, 2).await, StatusCode::OK);
    let run = yard.finished(2).await;
    let listed = yard.log_of(step(&run, "build", "build")).await;
    assert_eq!(step(&run, "build", "build")["state"], "success", "{}", whys(&run));
    assert!(!listed.contains("\nof-the-repository"), "{listed}");
    let ship =
        run["workflows"].as_array().unwrap().iter().find(|workflow| workflow["name"] == "ship").unwrap();
    assert_ne!(ship["state"], "success", "{}", whys(&run));
    assert!(text(&ship["why"]).contains("ship_token"), "{}", whys(&run));

    // The account is trusted now, and still has no secrets.
    let third = yard.sample.branch_change("Again", &[("more", b"more")]).unwrap();
    let outside = payload::open_pull_request(&yard.sample.hosted(), &third, "opened");
    send(&yard, "f-3", &payload::from_fork(outside, "mallory")).await;
    let run = yard.finished(3).await;
    assert_eq!(step(&run, "build", "build")["state"], "success", "{}", whys(&run));
    yard.stop().await;
}

/// Row 40, and row 42's sentence: a time-out and a cancel are told apart, and neither leaves anything.
#[tokio::test]
async fn a_timeout_and_a_cancel_end_the_container_with_all_it_started() {
    let slow = |name: &str, timeout: &str| {
        format!(
            "steps:\n  - name: {name}\n    image: debian:bookworm-slim\n    timeout: {timeout}\n    \
             commands: ['sleep 600 & sleep 601']\n"
        )
    };
    let pipelines = [("late", slow("late", "1s")), ("endless", slow("endless", "10m"))];
    let pipelines = pipelines.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut yard = RealYard::new(files(&pipelines)).await;
    open(&yard, "t-1", &yard.first).await;
    let is_late = |run: &Value| {
        text(&step(run, "late", "late")["state"]) == "failure"
            && text(&step(run, "endless", "endless")["state"]) == "running"
    };
    let run = yard.run_until(1, "the time-out", is_late).await;
    assert!(text(&step(&run, "late", "late")["why"]).contains("1s"), "{}", whys(&run));
    let asked = std::time::Instant::now();
    yard.mergeyard(&["cancel", "1"]).await.good();
    let run = yard.finished(1).await;
    assert_eq!(step(&run, "endless", "endless")["state"], "cancelled", "{}", whys(&run));
    yard.engine_is_clean().await;
    assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?}", asked.elapsed());
    yard.stop().await;
}

/// Row 45 for steps: what the server listens on is loopback's, and a container has its own loopback.
/// What the machine itself reaches, a step reaches: there only the machine's firewall helps.
#[tokio::test]
async fn a_step_reaches_neither_the_servers_pages_nor_its_registry() {
    let reach = r#"
steps:
  - name: reach
    image: debian:bookworm-slim
    commands:
      - gateway=$(sed -n 's/^[^\t]*\t00000000\t\(..\)\(..\)\(..\)\(..\)\t.*/0x\4 0x\3 0x\2 0x\1/p' /proc/net/route)
      - gateway=$(printf '%d.%d.%d.%d' $gateway)
      - |
        for address in 127.0.0.1 $gateway; do
          for port in HTTP REGISTRY; do
            if timeout 2 bash -c ": < /dev/tcp/$address/$port"; then echo "reached $address $port"; else echo "did not reach $address"; fi
          done
        done
"#;
    let mut yard = RealYard::stopped(
        files(&[("nothing", "steps: [{name: a, image: 'debian:bookworm-slim'}]\n")]),
        |_| {},
    )
    .await;
    let reach = reach.replace("HTTP", &yard.port.to_string()).replace("REGISTRY", &yard.registry.to_string());
    let change = yard.sample.branch_change("Reach out", &borrowed(&files(&[("nothing", &reach)]))).unwrap();
    yard.start().await;
    open(&yard, "n-1", &change).await;
    let run = yard.finished(1).await;
    let log = yard.log_of(step(&run, "nothing", "reach")).await;
    assert_eq!(run["run"]["state"], "success", "{log}\n{}", whys(&run));
    assert_eq!(log.lines().filter(|line| line.starts_with("did not reach ")).count(), 4, "{log}");
    assert!(!log.lines().any(|line| line.starts_with("reached ")), "{log}");
    yard.stop().await;
}
