//! `uses: rollout`: one image live on a target's engine, beside the old one until it is proven.
//!
//! A service has one gateway, which owns its name and its ports, and a container for each version.
//! The new container is started beside the old and asked at its own port; then the gateway sends
//! new connections to it, and the service is asked as its clients do. Only when that is proven the
//! old container goes, after its connections have ended. What is not proven goes itself, and the old
//! one was there all the time.
//!
//! What the target has decides what is done, never what was done before: a rollout that was cut off
//! at any moment is finished, or taken back, by looking.

mod application;
mod digest;
mod gateway;
mod gateway_image;
mod images;
pub(crate) mod labels;
mod look;
mod prove;
mod published;
pub(crate) mod reach;
mod session;
mod tell;

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use mergeyard_plan::{action::RolloutAction, settings};
use mergeyard_types::{DeploymentId, Digest, ImageRef};

use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    ledger::{Intent, LedgerError, Verdict},
    target::Target,
};
use look::{Container, Found, gateway_name, look};
use prove::Proof;
use published::Published;
use reach::Reached;
use session::Session;

/// For connections to the old container, before it is asked to end.
const DRAIN: Duration = Duration::from_secs(10);

/// When a rollout that was asked to stop is no longer waited for: taking it back is a few containers.
pub(crate) const LONGEST_END: Duration = Duration::from_secs(60);

pub(crate) async fn rollout(
    docker: &Docker,
    job: &StepJob,
    action: &RolloutAction,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    let target = job.target.as_deref().ok_or_else(|| {
        StepFault::lasting(format!("target `{}` is not defined here any more", action.target))
    })?;
    let published = action.publish.iter().map(|text| Published::read(text)).collect::<Result<Vec<_>, _>>()?;
    let environment = environment(action)?;
    let reached = Reached::open(docker, target).await?;
    let rollout = Rollout {
        docker,
        job,
        action,
        cx,
        target,
        published: &published,
        environment: &environment,
        reached: &reached,
        begun: OnceLock::new(),
    };
    let done = tokio::select! {
        biased;
        done = rollout.work() => done,
        () = cx.cancel.cancelled() => Err(StepFault::Cancelled),
    };
    match done {
        Ok(outcome) => Ok(outcome),
        Err(fault) => Err(rollout.taken_back(fault).await),
    }
}

struct Rollout<'a> {
    docker: &'a Docker,
    job: &'a StepJob,
    action: &'a RolloutAction,
    cx: &'a StepContext,
    target: &'a Target,
    published: &'a [Published],
    environment: &'a BTreeMap<String, String>,
    reached: &'a Reached<'a>,
    begun: OnceLock<Begun>,
}

/// From when the target is changed.
struct Begun {
    deployment: DeploymentId,
    digest: Digest,
    /// What was live, and is gone back to.
    before: Option<Container>,
    /// Set when it is proven: then nothing is taken back any more.
    proven: OnceLock<()>,
}

/// Of a service's gateway.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    Missing,
    /// It has other ports or another network than it should.
    Other,
    Right,
}

impl Rollout<'_> {
    async fn work(&self) -> Result<StepOutcome, StepFault> {
        let (engine, service) = (self.reached.engine(), &self.action.service);
        let digest = digest::digest(self.docker, self.job, self.action, self.cx).await?;
        let found = look(engine, &self.action.target, service).await?;
        if self.action.check {
            return self.tell(digest, &found).await;
        }
        let digest = digest.ok_or_else(|| StepFault::Failure(digest::missing(self.action, self.docker)))?;
        let (found, mut session, live) = self.standing(found).await?;
        let definition = labels::application_definition(self.action, digest, self.environment);
        let fit = self.fit(&found);
        if let (Some(live), Some(session), Fit::Right) = (&live, &mut session, fit)
            && live.definition == definition
            && let Ok(said) = self.still_healthy(session).await
        {
            self.cx.log.note(&format!("`{service}` runs {digest} already, and answers {said}")).await;
            if live.step == Some(self.job.step) {
                // An earlier attempt of this step came this far.
                application::keep(engine, &live.id).await?;
                let begun = self.begin(digest, self.before(&found, Some(live.clone()))).await?;
                self.healthy(begun, said).await?;
                self.retire_others(session, live).await?;
            }
            return Ok(self.success(digest, format!("{service} unchanged: {}", digest.short())));
        }
        let begun = self.begin(digest, self.before(&found, live.clone())).await?;
        let image = self.image(digest);
        tokio::try_join!(
            self.reached.bring(self.docker, self.target, &image, self.cx),
            gateway::ensure_network(engine, &self.action.network)
        )?;
        let mut session = match (session, fit) {
            (Some(session), Fit::Right | Fit::Other) => session,
            _ => self.first_gateway().await?,
        };
        if fit == Fit::Other {
            // It asks the new container, which may be in another network than its own.
            gateway::join(engine, service, &self.action.network).await?;
        }
        let container = self.container(&found, &live, digest, &definition, &image).await?;
        self.prove_container(&mut session, &container, digest).await?;
        application::keep(engine, &container.id).await?;
        let address = container.address(self.action.port);
        if fit == Fit::Other {
            drop(session);
            session = self.replace_gateway().await?;
        }
        session.switch(&address).await?;
        self.cx.log.note(&format!("new connections go to {}", container.name)).await;
        let said = self.prove_service(&mut session).await?;
        self.healthy(begun, said).await?;
        if fit == Fit::Other {
            gateway::replaced(engine, service).await?;
        }
        self.retire_others(&mut session, &container).await?;
        let now = digest.short();
        let summary = match begun.before.as_ref().and_then(|before| before.digest) {
            Some(before) if before == digest => format!("{service} {now}, started afresh"),
            Some(before) => format!("{service} {} → {now}", before.short()),
            None => format!("{service} {now}, for the first time"),
        };
        Ok(self.success(digest, summary))
    }

    /// What there is, once what an earlier rollout left is put in order.
    async fn standing(
        &self,
        found: Found,
    ) -> Result<(Found, Option<Session<'_>>, Option<Container>), StepFault> {
        let (engine, service) = (self.reached.engine(), &self.action.service);
        let found = match gateway::recover(engine, service, &found).await? {
            true => {
                self.cx.log.note(&format!("put the gateway of `{service}` back in its place")).await;
                look(engine, &self.action.target, service).await?
            }
            false => found,
        };
        if found.gateway.is_none() {
            return Ok((found, None, None));
        }
        let mut session = Session::open(engine, &gateway_name(service)).await?;
        let live = session.live().await?.and_then(|address| found.application(&address).cloned());
        Ok((found, Some(session), live))
    }

    fn image(&self, digest: Digest) -> ImageRef {
        let registry = self.docker.registry.access().host.clone();
        ImageRef { registry, name: self.action.image.clone(), version: None, digest: Some(digest) }
    }

    fn fit(&self, found: &Found) -> Fit {
        match &found.gateway {
            None => Fit::Missing,
            Some(gateway) if gateway.definition == labels::gateway_definition(self.action) => Fit::Right,
            Some(_) => Fit::Other,
        }
    }

    /// What is gone back to. When this step was cut off after it had switched, that is not what is live
    /// now, but what was live before, and that still runs.
    fn before(&self, found: &Found, live: Option<Container>) -> Option<Container> {
        let ours = |container: &Container| container.step == Some(self.job.step);
        let other =
            || found.applications.iter().find(|container| container.running && !ours(container)).cloned();
        match live {
            Some(live) if !ours(&live) => Some(live),
            Some(live) => other().or(Some(live)),
            None => other(),
        }
    }

    async fn begin(&self, digest: Digest, before: Option<Container>) -> Result<&Begun, StepFault> {
        let intent = Intent {
            step: self.job.step,
            target: self.action.target.clone(),
            service: self.action.service.clone(),
            image: Some(self.action.image.clone()),
            digest,
            before: before.as_ref().and_then(|before| before.digest),
        };
        let deployment = self.cx.ledger.begin(intent).await?;
        Ok(self.begun.get_or_init(|| Begun { deployment, digest, before, proven: OnceLock::new() }))
    }

    async fn first_gateway(&self) -> Result<Session<'_>, StepFault> {
        let (engine, service) = (self.reached.engine(), &self.action.service);
        let image = gateway_image::ensure(engine, &self.docker.gateway, &self.cx.log).await?;
        gateway::make(engine, self.action, self.published, image).await?;
        Session::open(engine, &gateway_name(service)).await
    }

    /// The only moment in which a service cannot be reached.
    async fn replace_gateway(&self) -> Result<Session<'_>, StepFault> {
        let (engine, service) = (self.reached.engine(), &self.action.service);
        let image = gateway_image::ensure(engine, &self.docker.gateway, &self.cx.log).await?;
        self.cx
            .log
            .note(&format!(
                "the ports or the network of `{service}` change, so its gateway is made anew: connections are refused for a moment"
            ))
            .await;
        let next = gateway::replace(engine, self.action, self.published, image).await?;
        Session::open(engine, &next).await
    }

    /// The container of this version: one that is there already, or a new one.
    async fn container(
        &self,
        found: &Found,
        live: &Option<Container>,
        digest: Digest,
        definition: &str,
        image: &ImageRef,
    ) -> Result<Container, StepFault> {
        let engine = self.reached.engine();
        let before = self.begun.get().and_then(|begun| begun.before.as_ref());
        let is_gone_back_to = |container: &Container| before.is_some_and(|before| before.id == container.id);
        let mut name = format!("{}-{}-s{}", self.action.service, digest.short(), self.job.step);
        for container in found.applications.iter().filter(|c| c.step == Some(self.job.step)) {
            let right = container.running && container.definition == definition;
            if right && !is_gone_back_to(container) {
                self.cx.log.note(&format!("{} runs already", container.name)).await;
                return Ok(container.clone());
            }
            if is_gone_back_to(container) {
                if container.name == name {
                    name += "-again";
                }
            } else {
                engine.forget_container(&container.id).await?;
            }
        }
        // Only the gateway changes: then nothing has to be started.
        if let Some(live) = live.as_ref().filter(|live| live.running && live.definition == definition)
            && self.fit(found) == Fit::Other
        {
            return Ok(live.clone());
        }
        let deployment = self.begun.get().map_or(DeploymentId(0), |begun| begun.deployment);
        let labels = labels::of_application(self.action, digest, definition, deployment, self.job.step);
        let body = application::body(self.action, image.to_string(), self.environment, labels);
        let section = self.cx.log.section(format!("start {name}")).await;
        application::start(engine, &name, body).await?;
        section.finish().await;
        let now = look(engine, &self.action.target, &self.action.service).await?;
        let started = now.applications.into_iter().find(|container| container.name == name);
        started.ok_or_else(|| StepFault::Failure(format!("{name} is gone as soon as it was started")))
    }

    async fn prove_container(
        &self,
        session: &mut Session<'_>,
        container: &Container,
        digest: Digest,
    ) -> Result<(), StepFault> {
        let engine = self.reached.engine();
        match self.proof(self.action).container(session, container).await {
            Ok(said) => {
                self.cx.log.note(&format!("{} answers {said}", container.name)).await;
                Ok(())
            }
            Err(StepFault::Failure(why)) => {
                self.cx
                    .log
                    .note(&format!("{} is not healthy: {why}; the last it said:", container.name))
                    .await;
                application::last_words(engine, &container.id, &self.cx.log).await?;
                let image = &self.action.image;
                Err(StepFault::Failure(format!("`{image}` {} fails its health check: {why}", digest.short())))
            }
            Err(fault) => Err(fault),
        }
    }

    async fn prove_service(&self, session: &mut Session<'_>) -> Result<String, StepFault> {
        let proven = self.proof(self.action).service(session).await;
        proven.map_err(|fault| match fault {
            StepFault::Failure(why) => {
                let service = &self.action.service;
                StepFault::Failure(format!("`{service}` fails its health check after the switch: {why}"))
            }
            fault => fault,
        })
    }

    /// Of what is live without a rollout. One that does not answer soon is started afresh.
    async fn still_healthy(&self, session: &mut Session<'_>) -> Result<String, StepFault> {
        let mut action = self.action.clone();
        action.health.retries = action.health.retries.min(2);
        self.proof(&action).service(session).await
    }

    fn proof<'b>(&'b self, action: &'b RolloutAction) -> Proof<'b> {
        Proof { engine: self.reached.engine(), action, target: self.target, published: self.published }
    }

    async fn healthy(&self, begun: &Begun, said: String) -> Result<(), StepFault> {
        // Before it is written down: what may be written down already is not taken back.
        let _ = begun.proven.set(());
        self.cx.ledger.end(begun.deployment, Verdict::Healthy { said }).await?;
        Ok(())
    }

    /// Ends all versions but the one that is live, once their connections have ended.
    async fn retire_others(&self, session: &mut Session<'_>, live: &Container) -> Result<(), StepFault> {
        let engine = self.reached.engine();
        let found = look(engine, &self.action.target, &self.action.service).await?;
        for old in found.applications.iter().filter(|container| container.id != live.id) {
            let left = session.drain(&old.address(self.action.port), DRAIN).await?;
            if left > 0 {
                let seconds = DRAIN.as_secs();
                self.cx
                    .log
                    .note(&format!(
                        "{} is asked to end with {left} connections, open after {seconds} s",
                        old.name
                    ))
                    .await;
            }
            application::retire(engine, &old.id).await?;
            self.cx.log.note(&format!("removed {}", old.name)).await;
        }
        let keep: Vec<Digest> = self.begun.get().into_iter().flat_map(Begun::kept).collect();
        if let Reached::Over { engine, .. } = self.reached {
            let host = &self.docker.registry.access().host;
            images::forget_others(engine, &format!("{host}/{}", self.action.image), &keep).await?;
        }
        Ok(())
    }

    /// The target as it was, after what did not end well; what the step then ends with.
    async fn taken_back(&self, fault: StepFault) -> StepFault {
        let Some(begun) = self.begun.get().filter(|begun| begun.proven.get().is_none()) else { return fault };
        let why = match &fault {
            StepFault::Cancelled => "stopped before it was proven".to_owned(),
            fault => fault.to_string(),
        };
        let (verdict, fault) = match self.take_back(begun).await {
            Ok(to) => {
                let service = &self.action.service;
                let now = match to {
                    Some(to) => format!("`{service}` is {} as before", to.short()),
                    None => format!("there was no `{service}` before, and there is none now"),
                };
                self.cx.log.note(&now).await;
                (Verdict::RolledBack { why, to }, with(fault, &now))
            }
            Err(worse) => {
                let why = format!("{why}; and it could not be taken back: {worse}");
                (
                    Verdict::Failed { why: why.clone() },
                    with(fault, &format!("it could not be taken back: {worse}")),
                )
            }
        };
        match self.cx.ledger.end(begun.deployment, verdict).await {
            Ok(()) => fault,
            Err(error) => error.into(),
        }
    }

    async fn take_back(&self, begun: &Begun) -> Result<Option<Digest>, StepFault> {
        let (engine, service) = (self.reached.engine(), &self.action.service);
        let found = look(engine, &self.action.target, service).await?;
        let (found, session, live) = self.standing(found).await?;
        if let (Some(before), Some(mut session)) = (&begun.before, session)
            && live.is_none_or(|live| live.id != before.id)
        {
            session.switch(&before.address(self.action.port)).await?;
        }
        for container in &found.applications {
            let is_before = begun.before.as_ref().is_some_and(|before| before.id == container.id);
            if container.step == Some(self.job.step) && !is_before {
                engine.forget_container(&container.id).await?;
            }
        }
        match &begun.before {
            Some(before) => Ok(before.digest),
            None => gateway::remove(engine, service).await.map(|()| None),
        }
    }

    fn success(&self, digest: Digest, summary: String) -> StepOutcome {
        let url = match self.published.first() {
            Some(published) => {
                let address = prove::target_address(self.target);
                published.from_elsewhere(&address).unwrap_or_else(|| published.on_the_target())
            }
            None => format!("{}:{}", self.action.service, self.action.port),
        };
        let outputs =
            [("digest", digest.to_string()), ("url", format!("http://{url}")), ("summary", summary)];
        StepOutcome::Success { outputs: outputs.map(|(key, value)| (key.to_owned(), value)).into() }
    }
}

impl Begun {
    /// Of which the images stay: what is live, and what was before it.
    fn kept(&self) -> impl Iterator<Item = Digest> {
        let before = self.before.as_ref().and_then(|before| before.digest);
        std::iter::once(self.digest).chain(before)
    }
}

fn with(fault: StepFault, more: &str) -> StepFault {
    match fault {
        StepFault::Failure(message) => StepFault::Failure(format!("{message}; {more}")),
        StepFault::Error { message, retry } => {
            StepFault::Error { message: format!("{message}; {more}"), retry }
        }
        fault => fault,
    }
}

impl From<LedgerError> for StepFault {
    fn from(error: LedgerError) -> Self {
        StepFault::transient(error.to_string())
    }
}

/// Secrets were resolved by who gives the job.
fn environment(action: &RolloutAction) -> Result<BTreeMap<String, String>, StepFault> {
    let none = |secret: &str| Err(format!("secret `{secret}` was not given to this step"));
    let rendered = settings::render(&action.environment, false, &none).map_err(StepFault::Failure)?;
    Ok(rendered.into_iter().collect())
}
