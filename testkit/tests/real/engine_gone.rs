//! The engine goes away in the middle of a build, as it does when it is restarted, and
//! comes back.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::{
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};

use super::{Gate, RealYard, built_from, engine, set, states};

#[tokio::test]
async fn a_build_whose_engine_goes_away_is_tried_again_until_it_is_back() {
    let gate = Gate::new();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("relay.sock");
    let relay = Relay::start(&socket);
    let files = built_from("backend", "0.1.0", &gate.dockerfile(), "");
    let host = format!("unix://{}", socket.display());
    let mut yard = RealYard::with(files, |config| set(config, "engine", "host", host)).await;
    yard.announce("e-1", &yard.first).await;
    gate.waited_at(true).await;

    relay.cut();
    let gone =
        yard.run_until(1, "the wait for another attempt", |run| why(run).starts_with("attempt 1 of")).await;
    assert_eq!(step(&gone)["state"], "queued", "{gone:#}");
    // What was built for nobody has ended, and without an engine the next attempt gets nowhere.
    gate.waited_at(false).await;
    yard.run_until(1, "the second attempt to fail", |run| {
        why(run).starts_with("attempt 2 of") && why(run).contains("no engine answers at")
    })
    .await;
    let page = yard.page("/readyz").await;
    assert!(page.contains("ready"), "webhooks are taken without an engine: {page}");

    let relay = Relay::start(&socket);
    gate.waited_at(true).await;
    gate.open(&yard).await;
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    yard.published(&run["images"][0]).await;
    yard.stop().await;
    relay.cut();
}

fn step(run: &Value) -> &Value {
    &run["workflows"][0]["steps"][0]
}

fn why(run: &Value) -> &str {
    step(run)["why"].as_str().unwrap_or_default()
}

/// A way to the engine that can be cut.
struct Relay {
    socket: PathBuf,
    ways: JoinHandle<()>,
}

impl Relay {
    fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let engine = engine().strip_prefix("unix://").expect("this test wants a local engine").to_owned();
        let ways = tokio::spawn(async move {
            // They end with this task.
            let mut ways = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                ways.spawn(relay(client, engine.clone()));
            }
        });
        Self { socket: socket.to_owned(), ways }
    }

    /// Ends what goes through it and removes the socket, as an engine does that stops.
    fn cut(self) {
        std::fs::remove_file(&self.socket).unwrap();
        self.ways.abort();
    }
}

async fn relay(mut client: UnixStream, engine: String) {
    let mut engine = UnixStream::connect(engine).await.unwrap();
    // However it ends, it is over.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
}
