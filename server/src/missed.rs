//! Deliveries that never arrived: GitHub is asked for its own list, and to send again what
//! is not durable here.
//!
//! GitHub does not repeat a failed delivery by itself, so what was sent while the server
//! was down is only found this way.

use std::time::Duration;

use mergeyard_types::{DeliveryId, RepoName, Timestamp};
use tracing::{info, warn};
use url::Url;

use crate::{
    config::Rules,
    github::{Github, GithubError},
    store::{Store, StoreError},
    yard::Yard,
};

/// GitHub keeps its list of deliveries for three days.
const LOOK_BACK: Duration = Duration::from_secs(3 * 24 * 3600);

/// What was found out for one repository.
#[derive(Debug)]
pub struct Reconciled {
    pub looked_at: usize,
    pub asked_again: Vec<DeliveryId>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Github(#[from] GithubError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let Some(github) = &yard.github else { return Ok(false) };
    let hook_url = yard.settings.hook_url.clone();
    let reconciler = Reconciler { store: &yard.store, github, hook_url, now: yard.clock.now() };
    for repo in reconciler.repositories(&yard.rules()).await? {
        match reconciler.reconcile(&repo).await {
            Ok(done) if done.asked_again.is_empty() => {}
            Ok(done) => {
                info!(%repo, again = done.asked_again.len(), "asked GitHub for deliveries that never arrived")
            }
            Err(error) => warn!(%repo, error = %error, "could not compare deliveries with GitHub's list"),
        }
    }
    Ok(false)
}

/// Compares GitHub's list of deliveries with what is durable here.
pub struct Reconciler<'a> {
    pub store: &'a Store,
    pub github: &'a Github,
    /// The address our webhooks send to.
    pub hook_url: Url,
    pub now: Timestamp,
}

impl Reconciler<'_> {
    /// The repositories that are configured by name, and those seen under a pattern.
    pub async fn repositories(&self, rules: &Rules) -> Result<Vec<RepoName>, StoreError> {
        let mut repos: Vec<RepoName> =
            rules.policies.0.iter().filter_map(|policy| policy.exact_name()).collect();
        for repo in self.store.repositories().await? {
            let listed = repos.iter().any(|known| known.as_str().eq_ignore_ascii_case(repo.as_str()));
            if !listed && rules.policies.of(&repo).is_some() {
                repos.push(repo);
            }
        }
        Ok(repos)
    }

    pub async fn reconcile(&self, repo: &RepoName) -> Result<Reconciled, ReconcileError> {
        let since = Timestamp(self.now.0.saturating_sub(LOOK_BACK.as_millis() as i64));
        let mut done = Reconciled { looked_at: 0, asked_again: Vec::new() };
        let hooks = self.github.hooks(repo).await?;
        for hook in hooks.iter().filter(|hook| hook.config.url.as_deref() == Some(self.hook_url.as_str())) {
            let deliveries = self.github.deliveries(repo, hook.id, since).await?;
            let ids: Vec<DeliveryId> = deliveries.iter().map(|delivery| delivery.guid.clone()).collect();
            let known = self.store.known_deliveries(&ids).await?;
            done.looked_at += deliveries.len();
            for delivery in deliveries {
                if !known.contains(delivery.guid.as_str()) && !done.asked_again.contains(&delivery.guid) {
                    self.github.redeliver(repo, hook.id, delivery.id).await?;
                    done.asked_again.push(delivery.guid);
                }
            }
        }
        Ok(done)
    }
}
