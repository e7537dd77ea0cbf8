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
mod back;
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
mod standing;
mod tell;
mod versions;

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use mergeyard_plan::{action::RolloutAction, settings};
use mergeyard_types::{DeploymentId, Digest, ImageRef};

use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    ledger::{Intent, Verdict},
    target::Target,
};
use look::{Container, Found, gateway_name, look};
use prove::Proof;
use published::Published;
use reach::Reached;
use session::Session;
use standing::Fit;

/// When a rollout that was asked to stop is no longer waited for: taking it back is a few containers.
pub(crate) const LONGEST_END: Duration = Duration::from_secs(60);

pub(crate) async fn rollout(
    docker: &Docker,
    job: &StepJob,
    action: &RolloutAction,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    let target = job.target(&action.target)?;
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
        Ok(Done::Already(outcome)) => Ok(outcome),
        // Nobody takes back what is proven, so nobody stops it here either: it ends with one version.
        Ok(Done::Proven(proven)) => rollout.finish(*proven).await,
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
}

enum Done<'a> {
    Already(StepOutcome),
    Proven(Box<Proven<'a>>),
}

/// Live, and seen to work.
struct Proven<'a> {
    session: Session<'a>,
    container: Container,
    fit: Fit,
    /// What its proof said.
    said: String,
    summary: String,
}

impl Rollout<'_> {
    async fn work(&self) -> Result<Done<'_>, StepFault> {
        let (engine, service) = (self.reached.engine(), &self.action.service);
        let digest = digest::digest(self.docker, self.job, self.action, self.cx).await?;
        let found = look(engine, &self.action.target, service).await?;
        if self.action.check {
            return self.tell(digest, &found).await.map(Done::Already);
        }
        let digest = digest.ok_or_else(|| StepFault::Failure(digest::missing(self.action, self.docker)))?;
        let (found, session, live) = self.standing(found).await?;
        let definition = labels::application_definition(self.action, digest, self.environment);
        let fit = self.fit(&found);
        let (session, live) = match (session, live) {
            (Some(mut session), Some(live)) if fit == Fit::Right && live.definition == definition => {
                match self.still_healthy(&mut session).await {
                    Ok(said) => return self.already(digest, &found, session, live, said).await,
                    // It is started afresh.
                    Err(_) => (Some(session), Some(live)),
                }
            }
            other => other,
        };
        self.begin(digest, self.before(&found, live.clone())).await?;
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
        let summary = self.summary(digest, &container);
        Ok(Done::Proven(Box::new(Proven { session, container, fit, said, summary })))
    }

    /// Nothing has to be changed, or nothing more: an attempt of this step may have come this far.
    async fn already<'s>(
        &self,
        digest: Digest,
        found: &Found,
        session: Session<'s>,
        live: Container,
        said: String,
    ) -> Result<Done<'s>, StepFault> {
        let service = &self.action.service;
        self.cx.log.note(&format!("`{service}` runs {digest} already, and answers {said}")).await;
        let summary = format!("{service} unchanged: {}", digest.short());
        if live.step != Some(self.job.step) {
            return Ok(Done::Already(self.success(digest, summary)));
        }
        application::keep(self.reached.engine(), &live.id).await?;
        self.begin(digest, self.before(found, Some(live.clone()))).await?;
        Ok(Done::Proven(Box::new(Proven { session, container: live, fit: Fit::Right, said, summary })))
    }

    /// Writes down what is live, and then removes what was.
    async fn finish(&self, proven: Proven<'_>) -> Result<StepOutcome, StepFault> {
        let Proven { mut session, container, fit, said, summary } = proven;
        let Some(begun) = self.begun.get() else { return Ok(StepOutcome::Cancelled) };
        self.cx.ledger.end(begun.deployment, Verdict::Healthy { said }).await?;
        if fit == Fit::Other {
            gateway::replaced(self.reached.engine(), &self.action.service).await?;
        }
        self.retire_others(&mut session, &container).await?;
        Ok(self.success(begun.digest, summary))
    }

    fn summary(&self, digest: Digest, container: &Container) -> String {
        let (service, now) = (&self.action.service, digest.short());
        match self.begun.get().and_then(|begun| begun.before.as_ref()) {
            None => format!("{service} {now}, for the first time"),
            Some(before) if before.id == container.id => format!("{service} {now}, offered elsewhere"),
            Some(before) => match before.digest {
                Some(before) if before != digest => format!("{service} {} → {now}", before.short()),
                _ => format!("{service} {now}, started afresh"),
            },
        }
    }

    fn image(&self, digest: Digest) -> ImageRef {
        let registry = self.docker.registry.access().host.clone();
        ImageRef { registry, name: self.action.image.clone(), version: None, digest: Some(digest) }
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
        Ok(self.begun.get_or_init(|| Begun { deployment, digest, before }))
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

    fn success(&self, digest: Digest, summary: String) -> StepOutcome {
        let url = match self.published.first() {
            Some(published) => {
                let address = prove::target_address(self.target);
                published.for_others(&address).unwrap_or_else(|| published.on_the_target())
            }
            None => format!("{}:{}", self.action.service, self.action.port),
        };
        let outputs =
            [("digest", digest.to_string()), ("url", format!("http://{url}")), ("summary", summary)];
        StepOutcome::Success { outputs: outputs.map(|(key, value)| (key.to_owned(), value)).into() }
    }
}

/// Secrets were resolved by who gives the job.
fn environment(action: &RolloutAction) -> Result<BTreeMap<String, String>, StepFault> {
    let none = |secret: &str| Err(format!("secret `{secret}` was not given to this step"));
    let rendered = settings::render(&action.environment, false, &none).map_err(StepFault::Failure)?;
    Ok(rendered.into_iter().collect())
}
