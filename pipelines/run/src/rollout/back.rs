//! Taking back what was not proven.

use mergeyard_types::Digest;

use super::{Begun, Rollout, gateway, look::look};
use crate::{StepFault, ledger::Verdict};

impl Rollout<'_> {
    /// The target as it was, after what did not end well; what the step then ends with.
    pub(super) async fn taken_back(&self, fault: StepFault) -> StepFault {
        let Some(begun) = self.begun.get() else { return fault };
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
