//! Killed with SIGKILL, as the kernel does it when memory is out: the next server on the
//! same data ends in the same world.
//!
//! `crash.rs` kills at every moment there is, with played steps. Here the moments are those
//! that time finds, and what is killed is the real process with real builds.

use std::{cell::RefCell, collections::HashSet, time::Instant};

use futures_util::future::join_all;
use mergeyard_server::sample::payload;
use mergeyard_testkit::process::{Signal, bounded, until};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Gate, RealYard, built_from, service, states, text};

/// Kills, spread evenly over the time that the whole way takes, and past its end.
const KILLS: u32 = 8;

#[tokio::test]
async fn the_world_is_the_same_whenever_the_server_was_killed() {
    let files = [service("backend", "0.1.0", "killed"), service("frontend", "0.1.0", "killed")];
    let mut yard = RealYard::new(files.concat()).await;
    let begun = Instant::now();
    yard.announce("k-1", &yard.first).await;
    settled(&yard).await;
    let whole = begun.elapsed();
    let world = yard.world().await;
    yard.stop().await;

    for kill in 0..=KILLS {
        let delay = whole * kill / (KILLS - 1);
        yard.forget().await;
        yard.start().await;
        yard.announce("k-1", &yard.first).await;
        // The moment of the kill is what is tried here.
        tokio::time::sleep(delay).await;
        yard.kill().await;
        yard.start().await;
        settled(&yard).await;
        assert_eq!(yard.world().await, world, "killed {delay:?} after the answer");
        yard.stop().await;
    }
}

/// Everything is decided, done and told.
async fn settled(yard: &RealYard) {
    yard.finished(1).await;
    until("GitHub to be told", async || {
        let told = yard.statuses();
        (told.len() == 2 && told.values().all(|status| status.starts_with("success"))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_build_whose_server_is_killed_stops_and_the_next_server_runs_it_again() {
    let gate = Gate::new();
    let mut yard = RealYard::new(built_from("backend", "0.1.0", &gate.dockerfile(), "")).await;
    yard.announce("b-1", &yard.first).await;
    gate.waited_at(true).await;
    yard.kill().await;
    gate.waited_at(false).await;
    yard.start().await;
    gate.waited_at(true).await;
    gate.open(&yard).await;
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    yard.stop().await;
}

#[tokio::test]
async fn what_was_not_answered_before_the_kill_is_taken_when_it_is_sent_again() {
    let mut yard = RealYard::new(service("backend", "0.1.0", "unanswered")).await;
    let payload = yard.merged(&yard.first);
    let request = yard.webhook("u-1", &payload).build().unwrap();
    let mut head = format!("POST /hooks/github HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", yard.port);
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    let body = request.body().unwrap().as_bytes().unwrap();
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    let mut connection = TcpStream::connect(("127.0.0.1", yard.port)).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&body[..body.len() / 2]).await.unwrap();
    connection.flush().await.unwrap();
    yard.kill().await;
    yard.start().await;
    let unknown = yard.mergeyard(&["deliveries", "show", "u-1"]).await.failed(1);
    assert!(unknown.contains("there is no delivery u-1"), "{unknown}");
    yard.announce("u-1", &yard.first).await;
    assert_eq!(yard.finished(1).await["run"]["state"], "success");
    yard.stop().await;
}

#[tokio::test]
async fn every_webhook_that_was_answered_before_the_kill_is_there_after_it() {
    const SENDERS: usize = 64;
    const ENOUGH: usize = 200;
    let mut yard = RealYard::new(service("backend", "0.1.0", "storm")).await;
    let payload = payload::closed_pull_request(&yard.sample.hosted(), &yard.first);
    let taken = RefCell::new(HashSet::new());
    let storm =
        join_all((0..SENDERS).map(|sender| send_until_nobody_answers(&yard, sender, &payload, &taken)));
    let kill = async {
        until("many to be taken", async || (taken.borrow().len() >= ENOUGH).then_some(())).await;
        yard.server().signal(Signal::KILL);
    };
    bounded("all senders to see the end", async { tokio::join!(storm, kill) }).await;
    yard.kill().await;
    yard.start().await;
    let list = yard.mergeyard(&["deliveries", "list", "--limit", "1000", "--format", "json"]).await.good();
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let kept: HashSet<String> = list.iter().map(|row| text(&row["delivery"]).to_owned()).collect();
    let taken = taken.into_inner();
    let lost: Vec<_> = taken.difference(&kept).collect();
    assert!(lost.is_empty(), "answered with 2xx and then lost: {lost:?}");
    // Of each sender, the last one, which nobody answered, may be there or not.
    assert!(kept.len() <= taken.len() + SENDERS, "{} taken, {} kept", taken.len(), kept.len());
    yard.stop().await;
}

async fn send_until_nobody_answers(
    yard: &RealYard,
    sender: usize,
    payload: &Value,
    taken: &RefCell<HashSet<String>>,
) {
    for number in 0.. {
        let id = format!("storm-{sender}-{number}");
        let Ok(answer) = yard.webhook(&id, payload).send().await else { return };
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{id}");
        taken.borrow_mut().insert(id);
    }
}
