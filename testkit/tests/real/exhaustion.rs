//! Nothing left of what the machine gives: descriptors all taken by clients that only hold
//! on, and memory that bodies without an end would like to have.

use std::time::Duration;

use futures_util::future::join_all;
use mergeyard_server::payload;
use mergeyard_testkit::{
    process::{bounded, mergeyard_with_descriptors, until},
    yard::borrowed,
};
use reqwest::StatusCode;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Gate, RealYard, built_from, service, states};

/// Hardly more than the server needs for itself.
const DESCRIPTORS: usize = 64;

#[tokio::test]
async fn without_descriptors_nothing_breaks_and_with_them_everything_goes_on() {
    let gate = Gate::new();
    let files = built_from("backend", "0.1.0", &gate.dockerfile(), "");
    let mut yard = RealYard::stopped(files, |_| {}).await;
    yard.start_as(mergeyard_with_descriptors(DESCRIPTORS)).await;
    yard.announce("x-1", &yard.first).await;
    gate.waited_at(true).await;

    let held = hold_all_descriptors(&yard).await;
    gate.open(&yard).await;
    // The build ends, and from the engine to the registry there is no way.
    let log = yard.data().join("logs/0/1/1.log");
    until("the build to end", async || std::fs::read_to_string(&log).ok()?.contains("== push").then_some(()))
        .await;
    let newcomer = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build().unwrap();
    let refused = newcomer.get(yard.url("/readyz")).send().await.unwrap_err();
    assert!(refused.is_timeout(), "{refused:?}");
    drop(held);

    until("the server to be ready again", async || {
        let answer = yard.http.get(yard.url("/readyz")).send().await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    built(&yard, 1).await;
    let raised = service("backend", "0.2.0", "after");
    let second = yard.sample.merge_change("Raise the backend", &borrowed(&raised)).unwrap();
    yard.announce("x-2", &second).await;
    built(&yard, 2).await;
    yard.stop().await;
    assert_eq!(integrity(&yard).await, "ok");
}

async fn built(yard: &RealYard, run: u64) {
    let run = yard.finished(run).await;
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    yard.published(&run["images"][0]).await;
}

/// Twice as many connections as there are descriptors, on which nothing is ever said.
async fn hold_all_descriptors(yard: &RealYard) -> Vec<TcpStream> {
    let connect = || TcpStream::connect(("127.0.0.1", yard.port));
    let held = join_all((0..2 * DESCRIPTORS).map(|_| connect())).await;
    let open = yard.server().proc("fd");
    until("all descriptors to be taken", async || {
        // What a shell left open in its children may have a number beyond the limit.
        (0..DESCRIPTORS).all(|number| open.join(number.to_string()).is_symlink()).then_some(())
    })
    .await;
    held.into_iter().map(Result::unwrap).collect()
}

async fn integrity(yard: &RealYard) -> String {
    let file = SqliteConnectOptions::new().filename(yard.data().join("mergeyard.sqlite"));
    let mut database = SqliteConnection::connect_with(&file).await.unwrap();
    sqlx::query("PRAGMA integrity_check").fetch_one(&mut database).await.unwrap().get(0)
}

#[tokio::test]
async fn many_endless_bodies_at_once_are_refused_within_little_memory() {
    const SENDERS: usize = 64;
    /// A quarter of what the bodies of all senders are.
    const MOST_MEMORY: usize = 400 << 20;
    let mut yard = RealYard::new(service("backend", "0.1.0", "memory")).await;
    let body = vec![b' '; payload::LARGEST + 1];
    let statuses = bounded("all to be refused", join_all((0..SENDERS).map(|_| send(&yard, &body)))).await;
    assert!(statuses.iter().all(|status| status == "413" || status == "408"), "{statuses:?}");
    assert!(statuses.iter().any(|status| status == "413"), "{statuses:?}");
    let most = most_memory(&yard);
    assert!(most < MOST_MEMORY, "{} MiB for {SENDERS} senders", most >> 20);
    yard.announce("m-1", &yard.first).await;
    assert_eq!(states(&yard.finished(1).await), ["backend: success"]);
    yard.stop().await;
}

/// Sends one unannounced body, and returns the status that it is refused with.
async fn send(yard: &RealYard, body: &[u8]) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", yard.port)).await.unwrap();
    let head = format!(
        "POST /hooks/github HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    // Who is refused early cannot send the rest.
    let _ = connection.write_all(body).await;
    let mut answer = [0; "HTTP/1.1 413".len()];
    connection.read_exact(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).trim_start_matches("HTTP/1.1 ").to_owned()
}

/// The most memory that the server ever had.
fn most_memory(yard: &RealYard) -> usize {
    let status = std::fs::read_to_string(yard.server().proc("status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}
