//! The book of deployments, as the step that deploys sees it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use mergeyard_run::ledger::{Intent, Ledger, LedgerError, Verdict};
use mergeyard_types::{DeploymentId, Digest, TargetName};
use tokio::sync::Notify;

use crate::{
    changes::Changes,
    clock::Clock,
    store::{Lease, Store},
    yard::Yard,
};

/// Writes under the lease of one step, so that nobody writes who lost it.
pub(crate) struct StepLedger {
    lease: Lease,
    store: Store,
    clock: Clock,
    outbox: Arc<Notify>,
    changes: Changes,
}

impl StepLedger {
    pub(crate) fn new(yard: &Yard, lease: Lease) -> Self {
        Self {
            lease,
            store: yard.store.clone(),
            clock: yard.clock.clone(),
            outbox: yard.wake.outbox.clone(),
            changes: yard.changes.clone(),
        }
    }

    fn tell(&self) {
        self.outbox.notify_waiters();
        self.changes.tell();
    }
}

impl Ledger for StepLedger {
    fn live<'a>(
        &'a self,
        target: &'a TargetName,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Option<Digest>, LedgerError>> {
        Box::pin(async move { self.store.live_digest(target, service).await.map_err(refused) })
    }

    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<DeploymentId, LedgerError>> {
        Box::pin(async move {
            let begun = self.store.begin_deployment(&self.lease, &intent, self.clock.now()).await;
            self.tell();
            begun.map_err(refused)
        })
    }

    fn end(&self, deployment: DeploymentId, verdict: Verdict) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            let now = self.clock.now();
            let ended = self.store.end_deployment(&self.lease, deployment, &verdict, now).await;
            self.tell();
            ended.map_err(refused)
        })
    }
}

fn refused(error: impl std::error::Error) -> LedgerError {
    match error.source() {
        Some(cause) => LedgerError(format!("{error}: {cause}")),
        None => LedgerError(error.to_string()),
    }
}
