//! Builds with the real engine: contexts, what they say, and the whole of one image step.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mergeyard_plan::action::{Action, ImageAction};
use mergeyard_run::{
    StepFault,
    engine::{BuildLimits, BuildNetwork, BuildSpec, Builder, BuiltImage, Engine},
    executor::{Docker, Executor, StepContext, StepJob, StepOutcome},
    git::{GitCache, GitLimits},
    log::{LogLine, LogSink, Masker},
};
use mergeyard_types::{CommitSha, RunId, StepId};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    registry::Registry,
    support::{FILE, bare, commit, file_remote, repo_name},
};

pub(crate) fn host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

pub(crate) async fn engine() -> Engine {
    Engine::connect(&host()).await.unwrap_or_else(|e| panic!("{e}; or run scripts/setup.sh"))
}

pub(crate) fn docker() -> bollard::Docker {
    bollard::Docker::connect_with_defaults().unwrap()
}

pub(crate) fn sink() -> (LogSink, mpsc::Receiver<LogLine>) {
    LogSink::channel(Masker::default(), 64 << 20)
}

/// Everything said until the log's speaking end is dropped; read while the work goes on.
pub(crate) fn collect(mut lines: mpsc::Receiver<LogLine>) -> tokio::task::JoinHandle<String> {
    tokio::spawn(async move {
        let mut all = String::new();
        while let Some(line) = lines.recv().await {
            all.push_str(&line.text);
            all.push('\n');
        }
        all
    })
}

pub(crate) fn tar_with(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) type Context = futures_util::stream::Iter<std::vec::IntoIter<std::io::Result<Bytes>>>;

pub(crate) fn spec(name: &str, builder: Builder, context: Vec<u8>) -> BuildSpec<Context> {
    BuildSpec {
        context: futures_util::stream::iter(vec![Ok(Bytes::from(context))]),
        tag: format!(
            "127.0.0.1:1/{name}-{}:{}",
            std::process::id(),
            if builder == Builder::Classic { "classic" } else { "buildkit" }
        )
        .parse()
        .unwrap(),
        labels: BTreeMap::from([("dev.mergeyard.tree".to_owned(), "t".to_owned())]),
        dockerfile: "Dockerfile".to_owned(),
        network: BuildNetwork::None,
        limits: BuildLimits::default(),
        secrets: Vec::new(),
        builder: Some(builder),
    }
}

pub(crate) async fn build(
    name: &str,
    builder: Builder,
    files: &[(&str, &str)],
) -> (Result<BuiltImage, StepFault>, String) {
    build_spec(spec(name, builder, tar_with(files))).await
}

/// The log knows the spec's secrets.
pub(crate) async fn build_spec(spec: BuildSpec<Context>) -> (Result<BuiltImage, StepFault>, String) {
    let masker = Masker::new(spec.secrets.iter().map(|secret| &secret.value));
    let (log, lines) = LogSink::channel(masker, 64 << 20);
    let said = collect(lines);
    let built = engine().await.build(spec, &log, &CancellationToken::new()).await;
    drop(log);
    (built, said.await.unwrap())
}

/// Something that changes with each run of the tests, so that nothing comes from a cache.
pub(crate) fn fresh() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// Waits for the engine's own word that a process of that command line is gone.
pub(crate) async fn until_gone(command: &str) {
    let wanted: Vec<u8> = command.replace(' ', "\0").into_bytes();
    let running = || {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok())
            .any(|line| line.starts_with(&wanted))
    };
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let gone = async {
        while running() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the command still runs");
}

/// A repository, a registry and an executor: the whole of one image step.
pub(crate) struct Yard {
    pub(crate) dir: TempDir,
    pub(crate) git: git2::Repository,
    pub(crate) registry: Registry,
    pub(crate) executor: Arc<Executor>,
}

impl Yard {
    pub(crate) async fn start() -> Yard {
        Self::with(Registry::start().await).await
    }

    pub(crate) async fn with(registry: Registry) -> Yard {
        let dir = tempfile::tempdir().unwrap();
        let git = bare(&dir.path().join("up.git"));
        let cache = GitCache::new(dir.path().join("cache"), GitLimits::default()).unwrap();
        let executor = Executor::Docker(Docker::new(cache, engine().await, registry.client()));
        Yard { dir, git, registry, executor: Arc::new(executor) }
    }

    pub(crate) fn job(&self, sha: CommitSha, name: &str, timeout: Duration) -> StepJob {
        let tree = self.git.revparse_single(&format!("{sha}:app")).unwrap().id().to_string();
        StepJob {
            workflow: mergeyard_types::WorkflowId(1),
            name: "image".to_owned(),
            environment: Vec::new(),
            masked: Vec::new(),
            detached: false,
            kept_lines: 0,
            target: None,
            images: Default::default(),
            step: StepId(1),
            run: RunId(1),
            attempt: 1,
            repo: repo_name(),
            commit: sha,
            hints: Vec::new(),
            remote: file_remote(&self.dir.path().join("up.git")),
            source_url: Some("https://git.example.org/acme/clock".to_owned()),
            action: Action::Image(ImageAction {
                folder: "app".to_owned(),
                name: name.parse().unwrap(),
                version: "0.1.0".parse().unwrap(),
                tree: tree.parse().unwrap(),
            }),
            secrets: Vec::new(),
            timeout,
        }
    }

    pub(crate) fn commit(&self, dockerfile: &str) -> CommitSha {
        let spec: &[u8] = br#"{"service":{"name":"clock","version":"0.1.0"}}"#;
        commit(
            &self.git,
            "develop",
            &[("app/Dockerfile", FILE, dockerfile.as_bytes()), ("app/spec.json", FILE, spec)],
        )
    }

    pub(crate) async fn run(&self, job: StepJob) -> (StepOutcome, String) {
        let (log, lines) = LogSink::channel(job.masker(), 64 << 20);
        let said = collect(lines);
        let outcome = self.executor.run(job, StepContext::new(log, CancellationToken::new())).await;
        (outcome, said.await.unwrap())
    }

    pub(crate) async fn forget(&self, name: &str) {
        engine().await.remove_image(&format!("{}/{name}:0.1.0", self.registry.host())).await.unwrap();
    }
}

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// An address of this machine that is not loopback: its own on the engine's bridge.
pub(crate) async fn address_on_the_bridge() -> String {
    let bridge = docker()
        .inspect_network("bridge", None::<bollard::query_parameters::InspectNetworkOptions>)
        .await
        .unwrap();
    let subnet = bridge.ipam.unwrap().config.unwrap()[0].subnet.clone().unwrap();
    let neighbour = subnet.split_once(".0/").expect("the bridge has an IPv4 subnet").0.to_owned() + ".2:9";
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(neighbour).unwrap();
    socket.local_addr().unwrap().ip().to_string()
}
