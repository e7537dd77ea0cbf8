//! What a rollout begins with: what is live, what that runs behind, and what an earlier rollout left.

use super::{
    Rollout, gateway, labels,
    look::{Container, Found, gateway_name, look},
    session::Session,
};
use crate::StepFault;

/// Of a service's gateway.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Missing,
    /// It has other ports or another network than it should.
    Other,
    Right,
}

impl Rollout<'_> {
    /// What there is, once what an earlier rollout left is put in order.
    pub(super) async fn standing(
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

    pub(super) fn fit(&self, found: &Found) -> Fit {
        match &found.gateway {
            None => Fit::Missing,
            Some(gateway) if gateway.definition == labels::gateway_definition(self.action) => Fit::Right,
            Some(_) => Fit::Other,
        }
    }

    /// What is gone back to. When this step was cut off after it had switched, that is not what is live
    /// now, but what was live before, and that still runs.
    pub(super) fn before(&self, found: &Found, live: Option<Container>) -> Option<Container> {
        let ours = |container: &Container| container.step == Some(self.job.step);
        let other =
            || found.applications.iter().find(|container| container.running && !ours(container)).cloned();
        match live {
            Some(live) if !ours(&live) => Some(live),
            Some(live) => other().or(Some(live)),
            None => other(),
        }
    }
}
