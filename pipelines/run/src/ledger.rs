//! What is written down about deployments while they happen.
//!
//! The intent is durable before anything on a target changes, and the verdict after it was
//! proven, so whoever comes after a crash knows what to look at.

use crate::StepFault;
use futures_util::future::BoxFuture;
use mergeyard_types::{DeploymentId, Digest, ImageName, StepId, TargetName};

/// The server's book, as an action sees it.
pub trait Ledger: Send + Sync {
    /// What the last proven deployment put live; `None` when nothing was.
    fn live<'a>(
        &'a self,
        target: &'a TargetName,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Option<Digest>, LedgerError>>;

    /// A deployment is about to change its target. The same step and service again is the same
    /// deployment, whose `before` stays what it was the first time.
    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<DeploymentId, LedgerError>>;

    fn end(&self, deployment: DeploymentId, verdict: Verdict) -> BoxFuture<'_, Result<(), LedgerError>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    pub step: StepId,
    pub target: TargetName,
    /// What of the target: a rollout's service, the image that a playbook was given, a mirror's list.
    pub service: String,
    /// `None`: a mirror's snapshot, whose digest is that of its `repomd.xml`.
    pub image: Option<ImageName>,
    pub digest: Digest,
    pub before: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Live and proven; what its proof said.
    Healthy { said: String },
    /// It was not proven, and this is live again. `None`: there was nothing before it.
    RolledBack { why: String, to: Option<Digest> },
    /// It was not proven, and what is live now is not known.
    Failed { why: String },
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("a deployment could not be written down: {0}")]
pub struct LedgerError(pub String);

impl From<LedgerError> for StepFault {
    fn from(error: LedgerError) -> Self {
        StepFault::transient(error.to_string())
    }
}

/// For executors whose steps deploy nothing.
#[derive(Debug, Default)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn live<'a>(
        &'a self,
        _: &'a TargetName,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<Digest>, LedgerError>> {
        Box::pin(async { Ok(None) })
    }

    fn begin(&self, _: Intent) -> BoxFuture<'_, Result<DeploymentId, LedgerError>> {
        Box::pin(async { Ok(DeploymentId(0)) })
    }

    fn end(&self, _: DeploymentId, _: Verdict) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async { Ok(()) })
    }
}
