//! What a rollout would change, for pull requests: nothing is changed to find it out.

use mergeyard_types::Digest;

use super::{
    Fit, Rollout, Session, digest, gateway_name,
    look::{Container, Found},
};
use crate::{StepFault, executor::StepOutcome};

impl Rollout<'_> {
    pub(super) async fn tell(&self, digest: Option<Digest>, found: &Found) -> Result<StepOutcome, StepFault> {
        let service = &self.action.service;
        if digest.is_none() && self.action.version.is_some() {
            return Err(StepFault::Failure(digest::missing(self.action, self.docker)));
        }
        let live = self.live(found).await?;
        let next = digest.map_or("what this commit publishes".to_owned(), |digest| digest.short());
        let now = live.as_ref().and_then(|live| live.digest);
        let summary = match (now, digest) {
            // Its settings may change all the same: what is secret among them is not told to a check.
            (Some(now), Some(digest)) if now == digest => format!("{service} stays {}", now.short()),
            (Some(now), _) => format!("{service} {} → {next}", now.short()),
            (None, _) => format!("{service} {next}, for the first time"),
        };
        self.cx.log.note(&format!("would put live on `{}`: {summary}", self.action.target)).await;
        match self.fit(found) {
            Fit::Right => {}
            Fit::Missing => {
                self.cx.log.note(&format!("would make the gateway `{}`", gateway_name(service))).await
            }
            Fit::Other => {
                self.cx
                    .log
                    .note("would make the gateway anew, because ports or network change: connections are refused for a moment")
                    .await;
            }
        }
        let outputs = digest.map(|digest| ("digest".to_owned(), digest.to_string()));
        let outputs = outputs.into_iter().chain([("summary".to_owned(), summary)]).collect();
        Ok(StepOutcome::Success { outputs })
    }

    async fn live(&self, found: &Found) -> Result<Option<Container>, StepFault> {
        let Some(gateway) = found.gateway.as_ref().filter(|gateway| gateway.running) else { return Ok(None) };
        let mut session = Session::open(self.reached.engine(), &gateway.id).await?;
        Ok(session.live().await?.and_then(|address| found.application(&address).cloned()))
    }
}
