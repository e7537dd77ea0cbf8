//! Build secrets with the real engine: read where they are mounted, and nowhere else.

#[path = "support/builds.rs"]
mod builds;
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::time::Duration;

use builds::{MINUTE, Yard, build_spec, docker, engine, fresh, host, sink, spec, tar_with, until_gone};
use futures_util::StreamExt;
use mergeyard_run::{
    StepFault,
    engine::{BuildSecret, BuildSpec, Builder, Engine},
    executor::StepOutcome,
};
use mergeyard_types::Secret;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

fn secret(id: &str, value: &str) -> BuildSecret {
    BuildSecret { id: id.to_owned(), value: Secret::new(value) }
}

#[tokio::test]
async fn a_secret_is_read_by_the_run_that_mounts_it_and_stays_nowhere() {
    let (value, mark) = (format!("value-{}", fresh()), format!("mark-{}", fresh()));
    let dockerfile = format!(
        "FROM debian:bookworm-slim\n\
         RUN --mount=type=secret,id=token sha256sum /run/secrets/token; cat /run/secrets/token; echo {mark} >/mark\n\
         RUN ls -A /run/secrets 2>&1 || true\n"
    );
    let spec = BuildSpec {
        secrets: vec![secret("other", "of no use here"), secret("token", &value)],
        ..spec("secret", Builder::BuildKit, tar_with(&[("Dockerfile", &dockerfile)]))
    };
    let tag = spec.tag.to_string();
    let (built, log) = build_spec(spec).await;
    built.unwrap_or_else(|e| panic!("{e}\n{log}"));
    let sum: String = Sha256::digest(&value).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(log.contains(&sum), "the run did not read the value:\n{log}");
    assert!(log.contains("********") && !log.contains(&value), "{log}");

    let history = format!("{:?}", docker().image_history(&tag).await.unwrap());
    assert!(history.contains(&mark) && !history.contains(&value), "{history}");
    let inspected = format!("{:?}", docker().inspect_image(&tag).await.unwrap());
    assert!(!inspected.contains(&value), "{inspected}");
    let exported = exported(&tag).await;
    assert!(contains(&exported, &format!("{mark}\n")), "an export must show what layers hold");
    assert!(!contains(&exported, &value));
    engine().await.remove_image(&tag).await.unwrap();
}

/// The image with all its layers, which the engine exports uncompressed.
async fn exported(tag: &str) -> Vec<u8> {
    let docker = docker();
    let chunks = docker.export_image(tag);
    chunks
        .fold(Vec::new(), |mut all, chunk| async move {
            all.extend(chunk.unwrap());
            all
        })
        .await
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

#[tokio::test]
async fn a_secret_that_is_not_given_fails_the_mount_that_requires_it() {
    let dockerfile = |required: &str| {
        let mark = fresh();
        format!(
            "FROM debian:bookworm-slim\nRUN --mount=type=secret,id=absent{required} : {mark}; ls /run/secrets\n"
        )
    };
    for (required, why) in [(",required=true", "secret absent not found"), ("", "exit code: 2")] {
        let spec = BuildSpec {
            secrets: vec![secret("token", "hunter22")],
            ..spec("absent", Builder::BuildKit, tar_with(&[("Dockerfile", &dockerfile(required))]))
        };
        let (built, log) = build_spec(spec).await;
        let fault = built.unwrap_err();
        assert!(matches!(&fault, StepFault::Failure(message) if message.contains(why)), "{fault:?}");
        assert!(log.contains("the build asks for secret `absent`, which it is not given"), "{log}");
    }
}

#[tokio::test]
async fn the_classic_builder_says_that_it_takes_no_secrets() {
    let mounting = "FROM debian:bookworm-slim\nRUN --mount=type=secret,id=token true\n";
    for (dockerfile, fails) in [("FROM debian:bookworm-slim\n", false), (mounting, true)] {
        let spec = BuildSpec {
            secrets: vec![secret("token", "hunter22")],
            ..spec("classic-secret", Builder::Classic, tar_with(&[("Dockerfile", dockerfile)]))
        };
        let tag = spec.tag.to_string();
        let (built, log) = build_spec(spec).await;
        assert_eq!(matches!(built, Err(StepFault::Failure(_))), fails, "{built:?}");
        assert!(log.contains("build secrets need BuildKit, and the classic builder is chosen"), "{log}");
        engine().await.remove_image(&tag).await.unwrap();
    }
}

#[tokio::test]
async fn cancelling_a_build_ends_what_runs_and_its_session() {
    let relay = Relay::start().await;
    let engine = Engine::connect(&relay.host).await.unwrap();
    // Only this build sleeps for exactly so long.
    let seconds = 300_000 + std::process::id();
    let dockerfile =
        format!("FROM debian:bookworm-slim\nRUN --mount=type=secret,id=token echo begun; sleep {seconds}\n");
    let spec = BuildSpec {
        secrets: vec![secret("token", "hunter22")],
        ..spec("cancel-secret", Builder::BuildKit, tar_with(&[("Dockerfile", &dockerfile)]))
    };
    let (log, mut lines) = sink();
    let cancel = CancellationToken::new();
    let watch = async {
        while let Some(line) = lines.recv().await {
            if line.text.ends_with("begun") {
                assert_eq!(*relay.sessions.borrow(), Sessions { opened: 1, closed: 0 });
                cancel.cancel();
            }
        }
    };
    let ended = async {
        let log = log;
        engine.build(spec, &log, &cancel).await
    };
    let (ended, ()) = tokio::join!(ended, watch);
    assert_eq!(ended, Err(StepFault::Cancelled));
    until_gone(&format!("sleep {seconds}")).await;
    relay.until(Sessions { opened: 1, closed: 1 }).await;
}

#[tokio::test]
async fn only_a_build_with_secrets_opens_a_session_and_it_ends_with_the_build() {
    let relay = Relay::start().await;
    let engine = Engine::connect(&relay.host).await.unwrap();
    let (log, _lines) = sink();
    for (secrets, sessions) in [(Vec::new(), 0), (vec![secret("token", "hunter22")], 1)] {
        let plain = tar_with(&[("Dockerfile", "FROM debian:bookworm-slim\n")]);
        let spec = BuildSpec { secrets, ..spec("session", Builder::BuildKit, plain) };
        let tag = spec.tag.to_string();
        engine.build(spec, &log, &CancellationToken::new()).await.unwrap();
        relay.until(Sessions { opened: sessions, closed: sessions }).await;
        engine.remove_image(&tag).await.unwrap();
    }
}

#[tokio::test]
async fn a_step_gives_its_secrets_to_the_build_and_warns_of_one_that_is_given_away() {
    let yard = Yard::start().await;
    let value = format!("value-{}", fresh());
    let sha = yard.commit(&format!(
        "FROM debian:bookworm-slim\nARG NPM_TOKEN=x\n\
         RUN --mount=type=secret,id=npm_token,required=true : {}; base64 -w0 /run/secrets/npm_token\n",
        fresh()
    ));
    let mut job = yard.job(sha, "secret", MINUTE);
    job.secrets = vec![secret("npm_token", &value)];
    let (outcome, log) = yard.run(job).await;
    yard.forget("secret").await;
    assert!(matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}\n{log}");
    assert!(log.contains("warning: app/Dockerfile:2: `ARG NPM_TOKEN` is called like build secret"), "{log}");
    assert!(log.contains("********") && !log.contains(&value), "{log}");
}

/// A way to the engine that counts the sessions that go through it.
struct Relay {
    host: String,
    sessions: watch::Receiver<Sessions>,
    _dir: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sessions {
    opened: usize,
    closed: usize,
}

impl Relay {
    async fn start() -> Relay {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let engine = host().strip_prefix("unix://").expect("these tests want a local engine").to_owned();
        let (count, sessions) = watch::channel(Sessions::default());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, engine.clone(), count.clone()));
            }
        });
        Relay { host: format!("unix://{}", path.display()), sessions, _dir: dir }
    }

    async fn until(&self, wanted: Sessions) {
        let mut sessions = self.sessions.clone();
        let reached = sessions.wait_for(|sessions| *sessions == wanted);
        let reached = tokio::time::timeout(Duration::from_secs(10), reached).await.map(|seen| seen.map(drop));
        assert!(matches!(reached, Ok(Ok(()))), "{:?} instead of {wanted:?}", self.sessions.borrow());
    }
}

async fn relay(mut client: UnixStream, engine: String, count: watch::Sender<Sessions>) {
    let mut engine = UnixStream::connect(engine).await.unwrap();
    let mut first = vec![0; 4096];
    let read = client.read(&mut first).await.unwrap();
    first.truncate(read);
    let is_session =
        first.split(|byte| *byte == b'\n').next().is_some_and(|line| contains(line, "/session HTTP"));
    count.send_modify(|sessions| sessions.opened += usize::from(is_session));
    if engine.write_all(&first).await.is_ok() {
        // However it ends, it is over.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
    }
    count.send_modify(|sessions| sessions.closed += usize::from(is_session));
}
