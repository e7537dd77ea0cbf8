//! A step that is one container: a step with commands, a plugin, or a service.
//!
//! The container's name says which attempt of which step it is, so the engine itself refuses to
//! make it twice: a container that is there already was started by a server that is gone, and is
//! followed from there. It stays until its workflow ends, even when it has ended, because only
//! then is it certain that its end was written down.

mod body;
mod clone;
mod follow;
mod netns;
mod outputs;
mod own_image;
mod place;
mod ready;
mod script;

use std::{sync::Arc, time::Duration};

use bollard::{
    body_full,
    errors::Error,
    models::{ContainerCreateBody, ContainerState},
    query_parameters::{
        CreateContainerOptionsBuilder, InspectContainerOptions, StopContainerOptionsBuilder,
        UploadToContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use mergeyard_plan::action::ContainerAction;

use crate::{
    StepFault,
    engine::Engine,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    pull::Pull,
};
pub(crate) use body::DROPPED_CAPABILITIES;
use body::Network;
pub(crate) use clone::clone;
use follow::End;
use netns::Netns;
use place::Place;
pub(crate) use place::Places;
use script::{Epilogue, Told};

/// The engine's own time to end a container, on top of what the container is given.
const ENGINE_GRACE: Duration = Duration::from_secs(10);

/// What a container said before it was stopped arrives within this.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// When a step that was asked to stop is no longer waited for.
pub(crate) fn longest_end(docker: &Docker) -> Duration {
    docker.containers.grace + 2 * ENGINE_GRACE
}

pub(crate) async fn container(
    docker: &Docker,
    job: &StepJob,
    action: &ContainerAction,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    composed(docker, job, action, Composed { part: "", files: &[] }, cx).await
}

/// What another action makes of a container, which no pipeline file can.
pub(crate) struct Composed<'a> {
    /// Ends the container's name, where a step has several one after another.
    pub(crate) part: &'a str,
    /// An archive that is unpacked at its root before it starts; empty: none.
    pub(crate) files: &'a [u8],
}

pub(crate) async fn composed(
    docker: &Docker,
    job: &StepJob,
    action: &ContainerAction,
    Composed { part, files }: Composed<'_>,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    let name = name(docker, job, part);
    let place = docker.places.of(job.workflow);
    let borrowed = netns(docker, job, action, &name, &place).await?;
    let epilogue = Epilogue::of(&name);
    let step = ContainerStep { docker, job, action, cx, files, epilogue, name, place, borrowed };
    let done = step.until_cancelled().await;
    // Only an end that was seen says that nobody is in it any more.
    if let (Some(netns), true, Ok(_) | Err(StepFault::Exited { .. })) = (step.borrowed, job.followed, &done) {
        step.place.netns.give_back(&docker.engine, netns);
    }
    done
}

/// One that another step has left, or a new one when others come after this.
async fn netns(
    docker: &Docker,
    job: &StepJob,
    action: &ContainerAction,
    name: &str,
    place: &Place,
) -> Result<Option<Netns>, StepFault> {
    if !netns::may_borrow(job, action) {
        return Ok(None);
    }
    match place.netns.borrow() {
        // A container that is there already runs in the one that it was made with.
        None if job.followed && state(&docker.engine, name).await?.is_none() => {
            place.network(docker, job.workflow).await?;
            Ok(place.netns.make(&docker.engine, job.workflow).await)
        }
        borrowed => Ok(borrowed),
    }
}

/// Of the container of one attempt.
pub(crate) fn name(docker: &Docker, job: &StepJob, part: &str) -> String {
    let workflow = docker.engine.workflow_name(job.workflow);
    format!("{workflow}-s{}-a{}{part}", job.step, job.attempt)
}

/// How the init process ends when there is no program to start, as a shell does.
pub(crate) fn is_no_program(code: i64) -> bool {
    code == 126 || code == 127
}

struct ContainerStep<'a> {
    docker: &'a Docker,
    job: &'a StepJob,
    action: &'a ContainerAction,
    cx: &'a StepContext,
    files: &'a [u8],
    name: String,
    epilogue: Epilogue,
    place: Arc<Place>,
    /// The network namespace it joins, in the place of one of its own.
    borrowed: Option<Netns>,
}

impl ContainerStep<'_> {
    async fn until_cancelled(&self) -> Result<StepOutcome, StepFault> {
        let work = self.work();
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => done,
            () = self.cx.cancel.cancelled() => {
                // What it says while it is stopped is kept as well.
                let stopped = async {
                    self.stop().await;
                    tokio::time::sleep(LAST_WORDS).await;
                };
                tokio::select! {
                    _ = &mut work => {}
                    () = stopped => {}
                }
                self.remove().await;
                Err(StepFault::Cancelled)
            }
        }
    }

    async fn work(&self) -> Result<StepOutcome, StepFault> {
        let limit = self.docker.containers.output_bytes;
        let (engine, log) = (&self.docker.engine, &self.cx.log);
        let heard = if self.make().await? {
            self.upload().await?;
            let heard = follow::listen(engine, &self.name).await?;
            self.start().await?;
            Some(heard)
        } else {
            log.skip(self.job.kept_lines);
            None
        };
        let followed = follow::follow(engine, &self.name, heard, &self.epilogue, limit, log);
        let end = if self.job.detached { self.until_ready(followed).await? } else { followed.await? };
        self.cx.log.flush().await;
        self.outcome(end).await
    }

    /// Makes the container and all it stands on; false when it is there and was started already.
    async fn make(&self) -> Result<bool, StepFault> {
        let (docker, engine) = (self.docker, &self.docker.engine);
        let network = match &self.borrowed {
            Some(netns) => Network::Joined(netns),
            None => Network::Own,
        };
        let body = body::body(docker, self.job, self.action, &self.epilogue, network)?;
        if self.job.attempt > 1 {
            engine.remove_attempts(self.job.step, self.job.attempt).await?;
        }
        if self.action.pull && self.state().await?.is_none() {
            self.bring(Pull::Always).await?;
        }
        if self.action.network_mode.is_none() {
            self.place.network(docker, self.job.workflow).await?;
        }
        let made = match self.create(&body).await? {
            Made::NoImage => {
                self.bring(Pull::Missing).await?;
                self.create(&body).await?
            }
            made => made,
        };
        match made {
            Made::New => {}
            Made::There => match self.state().await? {
                Some(state) if was_started(&state) => return Ok(false),
                _ => {}
            },
            Made::NoImage => {
                return Err(StepFault::transient(format!("the image `{}` went away", self.action.image)));
            }
        }
        self.place.volume(docker, &self.name, &self.action.base).await?;
        Ok(true)
    }

    async fn upload(&self) -> Result<(), StepFault> {
        if self.files.is_empty() {
            return Ok(());
        }
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let archive = body_full(Bytes::copy_from_slice(self.files));
        let engine = &self.docker.engine;
        let uploaded = engine.docker().await?.upload_to_container(&self.name, Some(options), archive).await;
        Ok(engine.checked("put files into the container", uploaded).await?)
    }

    async fn bring(&self, pull: Pull) -> Result<(), StepFault> {
        let section = self.cx.log.section(format!("image {}", self.action.image)).await;
        self.docker.bring(std::slice::from_ref(&self.action.image), pull, &self.cx.log).await?;
        section.finish().await;
        Ok(())
    }

    async fn create(&self, body: &ContainerCreateBody) -> Result<Made, StepFault> {
        create(&self.docker.engine, &self.name, body).await
    }

    async fn start(&self) -> Result<(), StepFault> {
        if self.cx.cancel.is_cancelled() {
            return Err(StepFault::Cancelled);
        }
        let engine = &self.docker.engine;
        let started = engine.docker().await?.start_container(&self.name, None).await;
        match started {
            Ok(()) => Ok(()),
            Err(Error::DockerResponseServerError { status_code, message })
                if is_the_steps(status_code, &message) =>
            {
                let why = message.split_whitespace().collect::<Vec<_>>().join(" ");
                Err(StepFault::Failure(format!("the container cannot be started: {why}")))
            }
            Err(e) => {
                // Perhaps what it stands on was removed behind our back.
                self.docker.places.doubt(self.job.workflow);
                Err(engine.error("start the container", &e).await.into())
            }
        }
    }

    /// Rings when the service may be relied on, and goes on following it.
    async fn until_ready(
        &self,
        followed: impl Future<Output = Result<End, StepFault>>,
    ) -> Result<End, StepFault> {
        let network = body::network_of(&self.docker.engine, self.job, self.action);
        let service = ready::Service {
            engine: &self.docker.engine,
            container: &self.name,
            name: &self.job.name,
            network: &network,
        };
        tokio::pin!(followed);
        tokio::select! {
            biased;
            end = &mut followed => return end,
            ready = service.ready(self.action.ready.as_ref()) => if let Err(fault) = ready {
                self.remove().await;
                return Err(fault);
            },
        }
        self.cx.ready.notify_one();
        followed.await
    }

    async fn outcome(&self, end: End) -> Result<StepOutcome, StepFault> {
        match end {
            End::Exited { code, .. }
                if self.job.detached && (code == 0 || self.is_being_removed().await?) =>
            {
                Ok(StepOutcome::Success { outputs: Default::default() })
            }
            End::Exited { code: 0, told: Some(Told { has_outputs: false }), .. }
                if self.action.outputs.is_empty() =>
            {
                Ok(StepOutcome::Success { outputs: Default::default() })
            }
            End::Exited { code: 0, .. } => {
                let path = body::output_path(self.job, self.action);
                let (engine, promised) = (&self.docker.engine, &self.action.outputs);
                let outputs = outputs::read_back(engine, &self.name, &path, promised, &self.cx.log).await?;
                Ok(StepOutcome::Success { outputs })
            }
            End::Exited { code, no_program: true, .. } => {
                Err(StepFault::Exited { code, message: self.no_program(code) })
            }
            End::Exited { code, .. } => Err(StepFault::Exited { code, message: self.why_exited(code).await }),
            End::TooMuch => {
                self.remove().await;
                let mib = self.docker.containers.output_bytes as f64 / f64::from(1 << 20);
                Err(StepFault::Failure(format!("stopped: it wrote more than {mib} MiB of output")))
            }
            End::Removed if self.job.detached => Ok(StepOutcome::Success { outputs: Default::default() }),
            End::Removed => Err(StepFault::transient("the container was removed while it ran")),
        }
    }

    /// Its workflow has ended, which is what a service waits for.
    async fn is_being_removed(&self) -> Result<bool, StepFault> {
        use bollard::models::ContainerStateStatusEnum::{DEAD, REMOVING};
        Ok(self.state().await?.is_none_or(|state| matches!(state.status, Some(REMOVING | DEAD))))
    }

    async fn why_exited(&self, code: i64) -> String {
        let state = self.state().await.ok().flatten();
        if state.is_some_and(|state| state.oom_killed == Some(true)) {
            let limit = self.docker.containers.memory_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
            let limit = limit.map_or("the machine's".to_owned(), |mib| format!("{mib} MiB"));
            return format!("killed: out of memory, the limit is {limit}; exit code {code}");
        }
        format!("exit code {code}")
    }

    fn no_program(&self, code: i64) -> String {
        let image = &self.action.image;
        match self.action.entrypoint.first() {
            Some(program) => format!("the image `{image}` has no program `{program}`; exit code {code}"),
            None if self.action.commands.is_empty() => {
                format!("the image `{image}` does not have the program it wants to start; exit code {code}")
            }
            None => format!(
                "the image `{image}` has no /bin/sh, which `commands` need: use an image with a shell, or `entrypoint`; exit code {code}"
            ),
        }
    }

    async fn state(&self) -> Result<Option<ContainerState>, StepFault> {
        state(&self.docker.engine, &self.name).await
    }

    /// Asks the program to end, and ends it with all it started when it does not.
    async fn stop(&self) {
        let seconds = i32::try_from(self.docker.containers.grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        if let Ok(docker) = self.docker.engine.docker().await {
            // One that is not there or has ended is stopped; one that cannot be is removed by force.
            let _ = docker.stop_container(&self.name, Some(options)).await;
        }
    }

    async fn remove(&self) {
        if let Err(error) = self.docker.engine.forget_container(&self.name).await {
            tracing::warn!(container = self.name, error = %error, "could not remove a container; it is removed with its workflow");
        }
    }
}

enum Made {
    New,
    There,
    NoImage,
}

async fn state(engine: &Engine, name: &str) -> Result<Option<ContainerState>, StepFault> {
    match engine.docker().await?.inspect_container(name, None::<InspectContainerOptions>).await {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        found => Ok(engine.checked("inspect the container", found).await?.state),
    }
}

async fn create(engine: &Engine, name: &str, body: &ContainerCreateBody) -> Result<Made, StepFault> {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let created = engine.docker().await?.create_container(Some(options), body.clone()).await;
    match created {
        Ok(_) => Ok(Made::New),
        Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(Made::There),
        Err(Error::DockerResponseServerError { status_code: 404, message })
            if message.contains("No such image") =>
        {
            Ok(Made::NoImage)
        }
        Err(Error::DockerResponseServerError { status_code, message })
            if is_the_steps(status_code, &message) =>
        {
            let why = message.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(StepFault::Failure(format!("the engine refuses this container: {why}")))
        }
        Err(e) => Err(engine.error("create the container", &e).await.into()),
    }
}

fn was_started(state: &ContainerState) -> bool {
    state.status != Some(bollard::models::ContainerStateStatusEnum::CREATED)
}

/// Whether the engine's refusal is about what the file asks for.
fn is_the_steps(status: u16, message: &str) -> bool {
    let asked_for = [
        "no such file or directory",
        "executable file not found",
        "permission denied",
        "unable to find user",
        "argument list too long",
        "error gathering device information",
        "invalid",
    ];
    let made_up = ["OCI runtime create failed", "unable to find user", "error gathering device information"];
    status == 400
        || made_up.iter().any(|word| message.contains(word))
            && asked_for.iter().any(|word| message.contains(word))
}
