//! What is not kept for ever: raw bodies of old deliveries, fetched commits, older versions
//! of images in the engine (the registry keeps them all).

use tracing::warn;

use crate::{store::StoreError, yard::Yard};

/// Commits a mirror keeps for steps that are started again; older ones are fetched anew.
const COMMITS: usize = 100;

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let keep = i64::try_from(yard.settings.keep_bodies.as_millis()).unwrap_or(i64::MAX);
    let before = mergeyard_types::Timestamp(yard.clock.now().0.saturating_sub(keep));
    if yard.store.drop_bodies(before).await? > 0 {
        return Ok(true);
    }
    for repo in yard.store.active_repositories().await? {
        if let Err(error) = yard.executor.git().prune(&repo, COMMITS).await {
            warn!(%repo, error = %error, "could not let go of old commits");
        }
    }
    if let Err(error) = yard.executor.tidy().await {
        warn!(error = %error, "could not let go of older images in the engine");
    }
    Ok(false)
}
