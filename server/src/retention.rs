//! What is not kept for ever: the raw bodies of old deliveries.

use crate::{store::StoreError, yard::Yard};

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let keep = i64::try_from(yard.settings.keep_bodies.as_millis()).unwrap_or(i64::MAX);
    let before = mergeyard_types::Timestamp(yard.clock.now().0.saturating_sub(keep));
    Ok(yard.store.drop_bodies(before).await? > 0)
}
