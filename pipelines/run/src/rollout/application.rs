//! The containers of a service's versions: made beside each other, and removed when nobody needs them.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, ContainerUpdateBody, HostConfig, HostConfigLogConfig, RestartPolicy,
        RestartPolicyNameEnum,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, LogsOptionsBuilder, StopContainerOptionsBuilder,
        WaitContainerOptionsBuilder,
    },
};
use futures_util::StreamExt;
use mergeyard_plan::action::RolloutAction;

use crate::{StepFault, container::DROPPED_CAPABILITIES, engine::Engine, log::LogSink};

/// A service that forks without end is ended before its machine is.
const MOST_PROCESSES: i64 = 4096;

/// Between asking a program to end and ending it.
const GRACE: Duration = Duration::from_secs(10);

/// What a server that is gone asked of the engine is done by then.
const OTHERS_REQUESTS: Duration = Duration::from_secs(30);

/// Between two looks whether it is.
const PAUSE: Duration = Duration::from_millis(50);

/// Lines of a program that does not work, for the step's log.
const LAST_LINES: &str = "50";

/// All that a container is made from. It does not start again by itself before it was proven: a
/// program that ends at once is to be seen ending.
pub(super) fn body(
    action: &RolloutAction,
    image: String,
    environment: &BTreeMap<String, String>,
    labels: HashMap<String, String>,
) -> ContainerCreateBody {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    ContainerCreateBody {
        image: Some(image),
        env: Some(environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: (!action.command.is_empty()).then(|| action.command.clone()),
        user: action.user.clone(),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: Some(action.network.clone()),
            binds: (!action.volumes.is_empty()).then(|| action.volumes.clone()),
            security_opt: words(&["no-new-privileges"]),
            cap_drop: words(&DROPPED_CAPABILITIES),
            pids_limit: Some(MOST_PROCESSES),
            // Hands the program the signal that asks it to end.
            init: Some(true),
            log_config: Some(log_config()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A service runs for months: what it says must not fill the disk.
pub(super) fn log_config() -> HostConfigLogConfig {
    let config = [("max-size", "10m"), ("max-file", "3")];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(config.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
    }
}

/// Makes and starts a container; its id. Who calls has looked, and no container of this name is there
/// that anybody needs.
pub(super) async fn start(
    engine: &Engine,
    name: &str,
    body: ContainerCreateBody,
) -> Result<String, StepFault> {
    let docker = engine.docker().await?;
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let begin = Instant::now();
    let created = loop {
        match docker.create_container(Some(options.clone()), body.clone()).await {
            // The engine goes on with what it was asked by a server that was killed. It may be at
            // it still, and then there is nothing to remove yet.
            Err(Error::DockerResponseServerError { status_code: 409, .. })
                if begin.elapsed() < OTHERS_REQUESTS =>
            {
                engine.forget_container(name).await?;
                tokio::time::sleep(PAUSE).await;
            }
            created => break created,
        }
    };
    let id = sorted(engine, "create", name, created).await?.id;
    let started = docker.start_container(&id, None).await;
    if let Err(fault) = sorted(engine, "start", name, started).await {
        engine.forget_container(&id).await?;
        return Err(fault);
    }
    Ok(id)
}

/// What an engine refuses is mostly what was asked for: a port that is taken, a folder, a user or a
/// program that is not there.
async fn sorted<T>(engine: &Engine, what: &str, name: &str, done: Result<T, Error>) -> Result<T, StepFault> {
    match done {
        Err(Error::DockerResponseServerError { status_code, message }) => {
            let why = message.split_whitespace().collect::<Vec<_>>().join(" ");
            let why = format!("the target's engine does not {what} the container {name}: {why}");
            // 404: an image or a network went away behind our back.
            Err(if status_code == 404 { StepFault::transient(why) } else { StepFault::Failure(why) })
        }
        done => Ok(engine.checked(&format!("{what} the container {name}"), done).await?),
    }
}

/// From now on the engine starts it again when it ends, and when the machine starts.
pub(super) async fn keep(engine: &Engine, id: &str) -> Result<(), StepFault> {
    let restart_policy = Some(unless_stopped());
    let update = ContainerUpdateBody { restart_policy, ..Default::default() };
    let updated = engine.docker().await?.update_container(id, update).await;
    Ok(engine.checked("keep the container", updated).await?)
}

pub(super) fn unless_stopped() -> RestartPolicy {
    RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), maximum_retry_count: None }
}

/// Returns when the container has ended, with its code.
pub(super) async fn ended(engine: &Engine, id: &str) -> Result<i64, StepFault> {
    let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
    let docker = engine.docker().await?;
    let mut waiting = std::pin::pin!(docker.wait_container(id, Some(options)));
    match waiting.next().await {
        Some(Ok(exit)) => Ok(exit.status_code),
        Some(Err(Error::DockerContainerWaitError { code, .. })) => Ok(code),
        Some(Err(error)) => Err(engine.error("wait for the container", &error).await.into()),
        None => Err(StepFault::transient("the engine stopped while the container was proven")),
    }
}

/// The last that a program said.
pub(super) async fn last_words(engine: &Engine, id: &str, log: &LogSink) -> Result<(), StepFault> {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(LAST_LINES).build();
    let docker = engine.docker().await?;
    let mut frames = std::pin::pin!(docker.logs(id, Some(options)));
    while let Some(frame) = frames.next().await {
        use bollard::container::LogOutput::StdErr;
        let frame = engine.checked("read the container's log", frame).await?;
        let stream = match frame {
            StdErr { .. } => crate::log::Stream::Stderr,
            _ => crate::log::Stream::Stdout,
        };
        log.raw(stream, &frame.into_bytes()).await;
    }
    log.flush().await;
    Ok(())
}

/// Asks the program to end, ends it when it does not, and removes its container.
pub(super) async fn retire(engine: &Engine, id: &str) -> Result<(), StepFault> {
    let seconds = i32::try_from(GRACE.as_secs()).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::new().t(seconds).build();
    // One that is gone or has ended is stopped; one that cannot be is removed by force.
    let _ = engine.docker().await?.stop_container(id, Some(options)).await;
    Ok(engine.forget_container(id).await?)
}
