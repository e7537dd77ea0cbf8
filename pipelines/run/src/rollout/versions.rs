//! The containers of a service's versions in one rollout: the one that comes, and those that go.

use std::time::Duration;

use mergeyard_types::{DeploymentId, Digest, ImageRef};

use super::{
    Begun, Rollout, application, gateway_image, images, labels,
    look::{Container, Found, look},
    reach::Reached,
    session::Session,
    standing::Fit,
};
use crate::StepFault;

/// For connections to the old container, before it is asked to end.
const DRAIN: Duration = Duration::from_secs(10);

impl Rollout<'_> {
    /// The container of this version: one that is there already, or a new one.
    pub(super) async fn container(
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

    pub(super) async fn prove_container(
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

    /// Ends all versions but the one that is live, once their connections have ended.
    pub(super) async fn retire_others(
        &self,
        session: &mut Session<'_>,
        live: &Container,
    ) -> Result<(), StepFault> {
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
        // On this machine images are also what the next build stands on, and are tidied with those.
        if let Reached::Over(over) = self.reached {
            let keep: Vec<Digest> = self.begun.get().into_iter().flat_map(Begun::kept).collect();
            let host = &self.docker.registry.access().host;
            images::forget_others(&over.engine, &format!("{host}/{}", self.action.image), &keep).await?;
            gateway_image::forget_unused(&over.engine).await?;
        }
        Ok(())
    }
}

impl Begun {
    /// Of which the images stay: what is live, and what was before it.
    fn kept(&self) -> impl Iterator<Item = Digest> {
        let before = self.before.as_ref().and_then(|before| before.digest);
        std::iter::once(self.digest).chain(before)
    }
}
