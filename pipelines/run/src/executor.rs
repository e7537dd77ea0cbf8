//! Who performs a step: a closed set, chosen once at start.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use mergeyard_plan::action::Action;
pub use mergeyard_plan::run::Outcome as StepOutcome;
use mergeyard_types::{
    CommitSha, Digest, GitRef, ImageName, ImageRef, RepoName, RunId, Secret, StepId, TargetName, WorkflowId,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use crate::engine::Live;
use crate::{
    StepFault, ansible, container,
    engine::{BaseCredentials, BuildLimits, BuildNetwork, BuildSecret, Builder, Engine, EngineError},
    git::{GitCache, Remote},
    image,
    keyed_lock::KeyedLock,
    ledger::{Ledger, NoLedger},
    log::{LogSink, Masker},
    look::{OutOfReach, Seen, Sought},
    mirror,
    pull::Pull,
    registry_client::RegistryClient,
    rollout,
    target::Target,
};

/// Caches kept unless configured otherwise: a few for each of some dozen branches.
const MOST_CACHES: usize = 100;

/// One step with everything it needs, every choice made.
#[derive(Debug, Clone)]
pub struct StepJob {
    pub step: StepId,
    pub run: RunId,
    pub workflow: WorkflowId,
    /// As its workflow calls it; others in the network reach a service by it.
    pub name: String,
    pub attempt: u32,
    pub repo: RepoName,
    pub commit: CommitSha,
    /// References that led to the commit.
    pub hints: Vec<GitRef>,
    pub remote: Remote,
    /// The page a person looks at, for the image's label.
    pub source_url: Option<String>,
    /// Complete: outputs of other steps are filled in. Of a container, `environment` and
    /// `settings` are to be read from the field of this job.
    pub action: Action,
    /// All variables of a container, secrets resolved.
    pub environment: Vec<(String, String)>,
    /// What is masked besides the tokens and build secrets that this job knows anyway.
    pub masked: Vec<Secret>,
    /// What its builds may mount.
    pub secrets: Vec<BuildSecret>,
    /// Lives until its workflow ends; says when it is ready.
    pub detached: bool,
    /// Whether containers of its workflow are still to come, so that it is worth preparing for them.
    pub followed: bool,
    /// Lines of this attempt's program that are kept already: a container that is found again is
    /// read on from there.
    pub kept_lines: u64,
    /// The machine that its action delivers to.
    pub target: Option<Arc<Target>>,
    /// What its run published, by name.
    pub images: BTreeMap<ImageName, Digest>,
    pub timeout: Duration,
}

impl StepJob {
    /// For the step's log: whatever this job knows and nobody may read.
    pub fn masker(&self) -> Masker {
        let build = self.secrets.iter().map(|secret| &secret.value);
        Masker::new(self.remote.token.iter().chain(build).chain(&self.masked))
    }

    /// The machine that its action delivers to.
    pub(crate) fn target(&self, name: &TargetName) -> Result<&Target, StepFault> {
        let none = || StepFault::lasting(format!("target `{name}` is not defined here any more"));
        self.target.as_deref().ok_or_else(none)
    }
}

#[derive(Clone)]
pub struct StepContext {
    pub log: LogSink,
    pub cancel: CancellationToken,
    /// Rung by a detached step when others may rely on it.
    pub ready: Arc<Notify>,
    pub ledger: Arc<dyn Ledger>,
}

impl StepContext {
    /// For a step that nobody waits for and that deploys nothing.
    pub fn new(log: LogSink, cancel: CancellationToken) -> Self {
        Self { log, cancel, ready: Arc::default(), ledger: Arc::new(NoLedger) }
    }
}

#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Executor {
    Docker(Docker),
    Scripted(Scripted),
}

/// Performs steps for real.
pub struct Docker {
    pub git: GitCache,
    pub engine: Arc<Engine>,
    pub registry: Arc<RegistryClient>,
    /// For base images of other registries than ours.
    pub base_credentials: BaseCredentials,
    /// Registries that ours has a mirror of, each under its own name: base images of these are
    /// pulled from ours first.
    pub mirrors: Vec<ImageName>,
    pub limits: BuildLimits,
    pub network: BuildNetwork,
    /// `None`: the best the engine has.
    pub builder: Option<Builder>,
    /// For the containers of steps, as `limits` and `network` are for builds.
    pub containers: ContainerLimits,
    pub step_network: StepNetwork,
    /// Whose caches are found and kept; `None`: the engine's owner's. A server that is gone after one
    /// run has no name of its own under which the next could find them.
    pub caches_of: Option<String>,
    /// Caches that are kept; the oldest beyond go.
    pub most_caches: usize,
    /// The program that gateways are made of: it understands `gateway serve`.
    pub gateway: PathBuf,
    pub(crate) places: container::Places,
    pub(crate) one_pull_per_image: KeyedLock<String>,
    one_build_per_tag: KeyedLock<String>,
}

/// What the container of one step may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLimits {
    /// `None`: all the machine has.
    pub memory_bytes: Option<u64>,
    /// In thousandths of a processor; `None`: all of them.
    pub cpu_millis: Option<u32>,
    /// Processes and threads together: it protects the machine from a fork bomb.
    pub processes: u32,
    /// What it may write to its outputs, as the engine stores it: it protects the engine's disk. A
    /// log is cut long before; a step that goes on is ended here.
    pub output_bytes: u64,
    /// Between asking a program to end and ending it.
    pub grace: Duration,
}

impl Default for ContainerLimits {
    fn default() -> Self {
        Self {
            memory_bytes: Some(4 << 30),
            cpu_millis: None,
            processes: 4096,
            output_bytes: 1 << 30,
            grace: Duration::from_secs(10),
        }
    }
}

/// What the containers of a workflow reach besides each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StepNetwork {
    /// Whatever the engine's machine reaches, through its address.
    #[default]
    Default,
    /// Nothing: no internet, no neighbour, no metadata service.
    Internal,
}

/// Plays steps, so that everything around them can be tested without an engine. Commits and
/// what is published are still asked for real.
pub struct Scripted {
    pub play: Arc<dyn Play>,
    pub git: GitCache,
    pub registry: Arc<RegistryClient>,
}

pub trait Play: Send + Sync {
    fn play(&self, job: StepJob, cx: StepContext) -> BoxFuture<'static, StepOutcome>;

    /// What is seen of a target, see [`Executor::look`]. Who plays no targets sees nothing.
    fn look(&self, _: &Target, sought: &[Sought]) -> BoxFuture<'static, Vec<Result<Seen, OutOfReach>>> {
        Box::pin(std::future::ready(vec![Ok(Seen::Untold); sought.len()]))
    }
}

impl Executor {
    /// Performs one step to its end. Never panics, always ends: soon after the job's timeout at the latest.
    ///
    /// Cancelling ends what the step started. Dropping the future does not end a container that
    /// runs: whoever runs the same attempt again, in this process or another, goes on with it.
    pub async fn run(&self, job: StepJob, cx: StepContext) -> StepOutcome {
        let (timeout, cancel, log) = (job.timeout, cx.cancel.clone(), cx.log.clone());
        // Children of the step end with it, whichever way it ends.
        let ended = CancellationToken::new();
        let _ends = ended.clone().drop_guard();
        let cx = StepContext { cancel: ended.clone(), ..cx };
        let longest_end = self.longest_end(&job.action);
        let work = AssertUnwindSafe(self.perform(job, cx)).catch_unwind();
        tokio::pin!(work);
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => StepOutcome::Cancelled,
            done = &mut work => {
                log.flush().await;
                let done = done.unwrap_or_else(|panic| StepOutcome::Error { message: panicked(panic.as_ref()), retry: false });
                return masked(done, &log);
            }
            () = tokio::time::sleep(timeout) => StepOutcome::Failure { message: format!("timed out after {}", rounded(timeout)) },
        };
        ended.cancel();
        if let Some(longest_end) = longest_end {
            let _ = tokio::time::timeout(longest_end, work).await;
        }
        log.flush().await;
        outcome
    }

    /// How long a step that was asked to stop is waited for: a container has its time to end, a rollout is
    /// taken back, everything else ends by being let go of.
    fn longest_end(&self, action: &Action) -> Option<Duration> {
        match (self, action) {
            (Executor::Docker(docker), Action::Container(_) | Action::Ansible(_)) => {
                Some(container::longest_end(docker))
            }
            (Executor::Docker(_), Action::Rollout(_)) => Some(rollout::LONGEST_END),
            _ => None,
        }
    }

    async fn perform(&self, job: StepJob, cx: StepContext) -> StepOutcome {
        match self {
            Executor::Docker(docker) => {
                let done = match job.action.clone() {
                    Action::Image(action) => image::image(docker, job, action, cx).await,
                    Action::Clone(action) => container::clone(docker, &job, &action, &cx).await,
                    Action::Container(action) => container::container(docker, &job, &action, &cx).await,
                    Action::YumMirror(action) => mirror::yum_mirror(docker, &job, &action, &cx).await,
                    Action::Rollout(action) => rollout::rollout(docker, &job, &action, &cx).await,
                    Action::Ansible(action) => ansible::ansible(docker, &job, &action, &cx).await,
                };
                done.unwrap_or_else(StepOutcome::from)
            }
            Executor::Scripted(scripted) => scripted.play.play(job, cx).await,
        }
    }

    /// Brings images that steps will need, ahead of their need. What does not come now is said by
    /// the step that needs it.
    pub async fn prefetch(&self, images: &[String]) {
        let Executor::Docker(docker) = self else { return };
        let (nobody, _) = LogSink::channel(Masker::default(), 0);
        let each =
            images.iter().map(|image| docker.bring(std::slice::from_ref(image), Pull::Missing, &nobody));
        for (image, brought) in images.iter().zip(futures_util::future::join_all(each).await) {
            if let Err(fault) = brought {
                tracing::debug!(image, error = %fault, "an image did not come ahead of its need");
            }
        }
    }

    /// Removes what a workflow had for itself: its containers, its network, its workspace. Nothing to
    /// do is fine, because this is asked again after a crash.
    pub async fn end_workflow(&self, workflow: WorkflowId) -> Result<(), EngineError> {
        if let Executor::Docker(docker) = self {
            docker.places.leave(workflow).await;
            docker.engine.remove_workflow(workflow).await?;
        }
        Ok(())
    }

    /// Makes the engine agree with what is really live. Asked at start, after a crash.
    pub async fn reconcile(&self, live: &Live) -> Result<(), EngineError> {
        if let Executor::Docker(docker) = self {
            let removed = docker.engine.sweep(live).await?;
            tracing::debug!(removed, "swept what an earlier process left in the engine");
        }
        Ok(())
    }

    /// Lets go of what only older builds needed, and of the oldest caches.
    pub async fn tidy(&self) -> Result<(), EngineError> {
        if let Executor::Docker(docker) = self {
            let images = docker.engine.keep_newest(&docker.registry.access().host, 1).await?;
            let caches = docker.engine.keep_caches(docker.owner_of_caches(), docker.most_caches).await?;
            tracing::debug!(images, caches, "let go of older versions and caches in the engine");
        }
        Ok(())
    }

    /// Removes all that this owner has in the engine, and the images of its registry: nobody comes
    /// after it. Caches may be others' too, so they only stay within their limit.
    pub async fn vacate(&self) -> Result<(), EngineError> {
        if let Executor::Docker(docker) = self {
            docker.engine.sweep(&Live::default()).await?;
            docker.engine.keep_newest(&docker.registry.access().host, 0).await?;
            docker.engine.keep_caches(docker.owner_of_caches(), docker.most_caches).await?;
        }
        Ok(())
    }

    pub fn git(&self) -> &GitCache {
        match self {
            Executor::Docker(docker) => &docker.git,
            Executor::Scripted(scripted) => &scripted.git,
        }
    }

    pub fn registry(&self) -> &RegistryClient {
        match self {
            Executor::Docker(docker) => &docker.registry,
            Executor::Scripted(scripted) => &scripted.registry,
        }
    }
}

impl Docker {
    pub fn new(git: GitCache, engine: Engine, registry: Arc<RegistryClient>) -> Self {
        Self {
            git,
            engine: Arc::new(engine),
            registry,
            base_credentials: BaseCredentials::new(),
            mirrors: Vec::new(),
            limits: BuildLimits::default(),
            network: BuildNetwork::default(),
            builder: None,
            containers: ContainerLimits::default(),
            step_network: StepNetwork::default(),
            caches_of: None,
            most_caches: MOST_CACHES,
            // This very program, also when its file was replaced while it runs.
            gateway: format!("/proc/{}/exe", std::process::id()).into(),
            places: container::Places::default(),
            one_pull_per_image: KeyedLock::default(),
            one_build_per_tag: KeyedLock::default(),
        }
    }

    pub(crate) fn owner_of_caches(&self) -> &str {
        self.caches_of.as_deref().unwrap_or(&self.engine.namespace)
    }

    /// Two builds of one tag wait for each other; the second then finds what the first published.
    pub(crate) async fn alone(&self, image: &ImageRef) -> impl Drop + use<> {
        self.one_build_per_tag.lock(&image.to_string()).await
    }
}

fn masked(outcome: StepOutcome, log: &LogSink) -> StepOutcome {
    match outcome {
        StepOutcome::Failure { message } => StepOutcome::Failure { message: log.mask(&message) },
        StepOutcome::Exited { code, message } => StepOutcome::Exited { code, message: log.mask(&message) },
        StepOutcome::Error { message, retry } => StepOutcome::Error { message: log.mask(&message), retry },
        other @ (StepOutcome::Success { .. } | StepOutcome::Cancelled) => other,
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text, "a step panicked");
    "a fault in mergeyard stopped this step; its log says more".to_owned()
}

/// `20m`, `90s`, `1500ms`.
fn rounded(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_they_were_configured() {
        for (time, said) in [(1_200_000, "20m"), (90_000, "90s"), (1500, "1500ms")] {
            assert_eq!(rounded(Duration::from_millis(time)), said);
        }
    }
}
