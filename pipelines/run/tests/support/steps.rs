//! Steps that are containers, and what is left of them in the engine.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptions,
};
use mergeyard_plan::action::{Action, CloneAction, ContainerAction};
use mergeyard_run::{
    engine::Engine,
    executor::{ContainerLimits, Docker, Executor, Live, Play, Scripted, StepContext, StepJob, StepOutcome},
    git::{GitCache, GitLimits},
    log::{LogLine, LogSink, Stream},
    registry_client::{RegistryAccess, RegistryClient},
};
use mergeyard_types::{CommitSha, RunId, Secret, StepId, WorkflowId};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::support::{file_remote, repo_name};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const IMAGE: &str = "debian:bookworm-slim";
pub(crate) const BASE: &str = "/woodpecker";
pub(crate) const CHECKOUT: &str = "/woodpecker/src/git.example.org/acme/clock";

pub(crate) fn host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

pub(crate) fn docker() -> bollard::Docker {
    bollard::Docker::connect_with_defaults().unwrap()
}

/// Something no other test and no other run of the tests has.
pub(crate) fn fresh() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// A registry that is never asked.
pub(crate) fn no_registry() -> Arc<RegistryClient> {
    let access = RegistryAccess {
        host: "registry.example.org".parse().unwrap(),
        ca_pem: None,
        username: String::new(),
        password: Secret::new(""),
    };
    Arc::new(RegistryClient::new(access).unwrap())
}

pub(crate) fn limits() -> ContainerLimits {
    ContainerLimits { grace: Duration::from_secs(2), ..Default::default() }
}

/// One server's executor, and the folder of its repositories.
pub(crate) struct Steps {
    pub(crate) dir: TempDir,
    pub(crate) owner: String,
    pub(crate) executor: Arc<Executor>,
    workflow: WorkflowId,
    next: AtomicI64,
}

impl Steps {
    pub(crate) fn new() -> Steps {
        Self::with(|_| {})
    }

    pub(crate) fn with(configure: impl FnOnce(&mut Docker)) -> Steps {
        Self::at(&host(), configure)
    }

    /// On an engine that is reached in this way.
    pub(crate) fn at(host: &str, configure: impl FnOnce(&mut Docker)) -> Steps {
        let (dir, owner) = (tempfile::tempdir().unwrap(), format!("t{}", fresh()));
        let executor = executor(&dir, host, &owner, configure);
        Steps { dir, owner, executor, workflow: WorkflowId(1), next: AtomicI64::new(1) }
    }

    /// Without an engine.
    pub(crate) fn played(play: impl Play + 'static) -> Steps {
        let steps = Steps::new();
        let git = GitCache::new(steps.dir.path().join("played"), GitLimits::default()).unwrap();
        let scripted = Scripted { play: Arc::new(play), git, registry: no_registry() };
        Steps { executor: Arc::new(Executor::Scripted(scripted)), ..steps }
    }

    /// The server that comes after this one was killed.
    pub(crate) fn restarted(&self) -> Arc<Executor> {
        executor(&self.dir, &host(), &self.owner, |docker| docker.containers = limits())
    }

    pub(crate) fn workflow(&self) -> WorkflowId {
        self.workflow
    }

    pub(crate) fn job(&self, name: &str, action: Action) -> StepJob {
        StepJob {
            step: StepId(self.next.fetch_add(1, Ordering::Relaxed)),
            run: RunId(1),
            workflow: self.workflow,
            name: name.to_owned(),
            attempt: 1,
            repo: repo_name(),
            commit: CommitSha::new([1; 20]),
            hints: Vec::new(),
            remote: file_remote(&self.dir.path().join("up.git")),
            source_url: None,
            action,
            environment: Vec::new(),
            masked: Vec::new(),
            secrets: Vec::new(),
            detached: false,
            followed: false,
            kept_lines: 0,
            target: None,
            images: Default::default(),
            timeout: MINUTE,
        }
    }

    pub(crate) fn commands(&self, commands: &[&str]) -> StepJob {
        self.job("test", Action::Container(Box::new(container(commands))))
    }

    pub(crate) fn clone_of(
        &self,
        commit: CommitSha,
        branch: &str,
        depth: Option<u32>,
        tags: bool,
    ) -> StepJob {
        let action = CloneAction { base: BASE.to_owned(), directory: CHECKOUT.to_owned(), depth, tags };
        let mut job = self.job("clone", Action::Clone(action));
        job.commit = commit;
        job.hints = vec![format!("refs/heads/{branch}").parse().unwrap()];
        job
    }

    pub(crate) async fn run(&self, job: StepJob) -> (StepOutcome, Vec<String>) {
        run(&self.executor, job).await
    }

    /// The lines that the step's commands wrote, when it went well.
    pub(crate) async fn said(&self, commands: &[&str]) -> Vec<String> {
        self.said_by(self.commands(commands)).await
    }

    pub(crate) async fn said_by(&self, job: StepJob) -> Vec<String> {
        let (outcome, said) = self.run(job).await;
        assert!(matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}\n{}", said.join("\n"));
        said.into_iter().filter(|line| !line.starts_with("+ ")).collect()
    }

    /// Ends the workflow twice and looks that nothing of it is left.
    pub(crate) async fn end(self) {
        self.executor.end_workflow(self.workflow).await.unwrap();
        self.executor.end_workflow(self.workflow).await.unwrap();
        assert_eq!(left_of(&self.owner).await, Vec::<String>::new());
    }
}

fn executor(dir: &TempDir, host: &str, owner: &str, configure: impl FnOnce(&mut Docker)) -> Arc<Executor> {
    let cache = GitCache::new(dir.path().join("cache"), GitLimits::default()).unwrap();
    let mut docker = Docker::new(cache, Engine::at(host).owned_by(owner), no_registry());
    docker.containers = limits();
    configure(&mut docker);
    Arc::new(Executor::Docker(docker))
}

pub(crate) fn container(commands: &[&str]) -> ContainerAction {
    ContainerAction {
        image: IMAGE.to_owned(),
        commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        base: BASE.to_owned(),
        directory: CHECKOUT.to_owned(),
        ..ContainerAction::default()
    }
}

pub(crate) fn success() -> StepOutcome {
    StepOutcome::Success { outputs: BTreeMap::new() }
}

pub(crate) fn failure(message: &str) -> StepOutcome {
    StepOutcome::Failure { message: message.to_owned() }
}

/// As [`failure`], of a program that ended with this code.
pub(crate) fn exited(code: i64) -> StepOutcome {
    killed(code, &format!("exit code {code}"))
}

pub(crate) fn killed(code: i64, message: &str) -> StepOutcome {
    StepOutcome::Exited { code, message: message.to_owned() }
}

/// To its end; what its program and mergeyard said.
pub(crate) async fn run(executor: &Executor, job: StepJob) -> (StepOutcome, Vec<String>) {
    let (outcome, lines) = run_for_lines(executor, job).await;
    (outcome, lines.into_iter().map(|line| line.text).collect())
}

pub(crate) async fn run_for_lines(executor: &Executor, job: StepJob) -> (StepOutcome, Vec<LogLine>) {
    let (log, mut lines) = LogSink::channel(job.masker(), 64 << 20);
    let cx = StepContext::new(log, CancellationToken::new());
    let keep = async {
        let mut all = Vec::new();
        while let Some(line) = lines.recv().await {
            all.push(line);
        }
        all
    };
    tokio::join!(executor.run(job, cx), keep)
}

/// A step that goes on while the test does something else.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<StepOutcome>,
    pub(crate) cancel: CancellationToken,
    pub(crate) ready: Arc<Notify>,
    lines: tokio::sync::mpsc::Receiver<LogLine>,
}

impl Running {
    pub(crate) fn start(executor: &Arc<Executor>, job: StepJob) -> Running {
        let (log, lines) = LogSink::channel(job.masker(), 64 << 20);
        let (cancel, ready) = (CancellationToken::new(), Arc::new(Notify::new()));
        let cx = StepContext { ready: Arc::clone(&ready), ..StepContext::new(log, cancel.clone()) };
        let executor = Arc::clone(executor);
        Running { task: tokio::spawn(async move { executor.run(job, cx).await }), cancel, ready, lines }
    }

    /// The program's lines up to and with the first that has `mark` in it.
    pub(crate) async fn until(&mut self, mark: &str) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(line) = self.next_line().await {
            let found = line.contains(mark) && !line.starts_with("+ ");
            said.push(line);
            if found {
                return said;
            }
        }
        panic!("`{mark}` was never said: {said:?}");
    }

    async fn next_line(&mut self) -> Option<String> {
        loop {
            let line = tokio::time::timeout(MINUTE, self.lines.recv()).await.unwrap()?;
            if line.stream != Stream::Note {
                return Some(line.text);
            }
        }
    }

    /// How it ends, and the lines of the program until then.
    pub(crate) async fn end(mut self) -> (StepOutcome, Vec<String>) {
        let mut said = Vec::new();
        while let Some(line) = self.next_line().await {
            said.push(line);
        }
        (self.task.await.unwrap(), said)
    }
}

/// The names of all that an owner has in the engine but its caches.
pub(crate) async fn left_of(owner: &str) -> Vec<String> {
    let owned = HashMap::from([("label", vec![format!("mergeyard.owner={owner}")])]);
    let docker = docker();
    let options = ListContainersOptionsBuilder::new().all(true).filters(&owned).build();
    let containers = docker.list_containers(Some(options)).await.unwrap();
    let mut left: Vec<String> = containers.into_iter().flat_map(|c| c.names.unwrap_or_default()).collect();
    let options = ListNetworksOptionsBuilder::new().filters(&owned).build();
    left.extend(docker.list_networks(Some(options)).await.unwrap().into_iter().filter_map(|n| n.name));
    let options = ListVolumesOptionsBuilder::new().filters(&owned).build();
    let volumes = docker.list_volumes(Some(options)).await.unwrap().volumes.unwrap_or_default();
    left.extend(volumes.into_iter().map(|v| v.name).filter(|name| !name.contains("-cache-")));
    left.sort();
    left
}

pub(crate) async fn caches_of(owner: &str) -> Vec<String> {
    let owned =
        HashMap::from([("label", vec![format!("mergeyard.owner={owner}"), "mergeyard.cache".to_owned()])]);
    let options = ListVolumesOptionsBuilder::new().filters(&owned).build();
    let volumes = docker().list_volumes(Some(options)).await.unwrap().volumes.unwrap_or_default();
    volumes.into_iter().map(|volume| volume.name).collect()
}

pub(crate) async fn remove_caches(owner: &str) {
    for name in caches_of(owner).await {
        docker().remove_volume(&name, None::<RemoveVolumeOptions>).await.unwrap();
    }
}

pub(crate) fn live(steps: &[StepId], workflows: &[WorkflowId]) -> Live {
    Live { steps: steps.iter().copied().collect(), workflows: workflows.iter().copied().collect() }
}
