//! The watcher of leases: finds steps whose worker is gone.
//!
//! A lease is lost when its heartbeat stood still for [`LOST_AFTER`] by this process' own
//! monotonic clock. Wall clocks are not compared, so a clock that jumps expires nothing.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::{
    store::{Lease, StoreError},
    yard::Yard,
};

pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Thirty heartbeats: a worker that missed all of them does not live.
const LOST_AFTER: Duration = Duration::from_secs(30);

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let leases = yard.store.leases().await?;
    let now = Instant::now();
    let lost: Vec<(Lease, i64)> = {
        let mut seen = yard.leases.lock().expect("no holder of this lock panics");
        seen.retain(|step, _| leases.iter().any(|(lease, _)| lease.step == *step));
        leases
            .into_iter()
            .filter(|(lease, beat)| {
                let known = seen.entry(lease.step).or_insert((*lease, *beat, now));
                if (known.0, known.1) != (*lease, *beat) {
                    *known = (*lease, *beat, now);
                }
                now.duration_since(known.2) >= LOST_AFTER
            })
            .collect()
    };
    release(yard, lost).await?;
    Ok(false)
}

/// At start every lease is a dead server's, because the data directory has one owner.
pub async fn release_all(yard: &Yard) -> Result<(), StoreError> {
    let leases = yard.store.leases().await?;
    release(yard, leases).await
}

async fn release(yard: &Yard, lost: Vec<(Lease, i64)>) -> Result<(), StoreError> {
    for (lease, beat) in lost {
        if yard.store.expire(&lease, beat, yard.clock.now()).await? {
            warn!(step = %lease.step, run = %lease.run, "the worker of a step is gone; the step is queued again");
            yard.wake.steps.notify_waiters();
            yard.wake.outbox.notify_waiters();
            yard.changes.tell();
        }
    }
    Ok(())
}
