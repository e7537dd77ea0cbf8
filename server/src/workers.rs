//! The workers that keep a yard going.
//!
//! The stages of a delivery's way meet only in the database. A worker looks for the next
//! thing that is due, does it, and looks again; when nothing is due it waits to be woken.
//! A wake-up carries no data, and a slow tick finds what a wake-up missed, so a crash, a
//! lost wake-up and a command on another process' command line are all the same to it.

use std::{error::Error, sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    drift, ends, inbox, leases, missed, outbox, retention, schedules, services, steps, store::StoreError,
    yard::Yard,
};

/// Repositories whose deliveries are decided at the same time: a slow fetch of one must
/// not hold up the others.
const INBOX_WORKERS: usize = 4;

/// Starts all workers. They stop taking up work when `shutdown` is cancelled.
pub fn start(yard: &Arc<Yard>, shutdown: &CancellationToken) -> TaskTracker {
    let crew = [
        (Worker::Inbox, INBOX_WORKERS),
        (Worker::Steps, yard.settings.parallel_steps),
        (Worker::Services, 1),
        (Worker::Ends, 1),
        (Worker::Outbox, 1),
        (Worker::Leases, 1),
        (Worker::Missed, 1),
        (Worker::Retention, 1),
        (Worker::Schedules, 1),
        (Worker::Drift, 1),
    ];
    let tracker = TaskTracker::new();
    for (worker, count) in crew {
        for _ in 0..count {
            tracker.spawn(worker.attend(yard.clone(), shutdown.clone()));
        }
    }
    tracker
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worker {
    Inbox,
    Steps,
    /// Starts detached steps; who follows them is no worker.
    Services,
    Ends,
    Outbox,
    Leases,
    Missed,
    Retention,
    Schedules,
    Drift,
}

impl Worker {
    async fn attend(self, yard: Arc<Yard>, shutdown: CancellationToken) {
        let never = Notify::new();
        while !shutdown.is_cancelled() {
            let bell = match self {
                Worker::Inbox => &yard.wake.inbox,
                Worker::Steps | Worker::Services => &yard.wake.steps,
                Worker::Outbox => &yard.wake.outbox,
                Worker::Ends => &yard.wake.ends,
                Worker::Leases | Worker::Missed | Worker::Retention | Worker::Schedules | Worker::Drift => {
                    &never
                }
            };
            // Interest is registered before looking, so nothing falls between.
            let woken = bell.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let turned = match self {
                // Nobody waits here until a service is up: another workflow's may be quicker.
                Worker::Services => services::begin(&yard).await.map(|begun| begun.is_some()),
                other => other.turn(&yard).await,
            };
            match turned {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    warn!(worker = ?self, error = &error as &dyn Error, "the database refused a worker; it tries again")
                }
            }
            tokio::select! {
                () = &mut woken => {}
                () = tokio::time::sleep(self.tick(&yard)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Does the next thing that is due. `false` when there is none. A detached step has been dealt
    /// with when it is up.
    pub async fn turn(self, yard: &Arc<Yard>) -> Result<bool, StoreError> {
        match self {
            // On the heap, because these hold everything that any delivery or step needs.
            Worker::Inbox => Box::pin(inbox::turn(yard)).await,
            Worker::Steps => Box::pin(steps::turn(yard)).await,
            Worker::Services => match services::begin(yard).await? {
                Some(up) => {
                    // It may also have ended without a word.
                    let _ = up.await;
                    Ok(true)
                }
                None => Ok(false),
            },
            Worker::Ends => ends::turn(yard).await,
            Worker::Outbox => outbox::turn(yard).await,
            Worker::Leases => leases::turn(yard).await,
            Worker::Missed => missed::turn(yard).await,
            Worker::Retention => retention::turn(yard).await,
            Worker::Schedules => schedules::turn(yard).await,
            Worker::Drift => drift::turn(yard).await,
        }
    }

    fn tick(self, yard: &Yard) -> Duration {
        match self {
            Worker::Inbox | Worker::Steps | Worker::Services | Worker::Outbox => Duration::from_secs(1),
            Worker::Ends => ends::LOOK_EVERY,
            Worker::Leases => leases::LOOK_EVERY,
            Worker::Missed => yard.settings.reconcile_every,
            Worker::Retention => Duration::from_secs(3600),
            Worker::Schedules => schedules::LOOK_EVERY,
            Worker::Drift => drift::LOOK_EVERY,
        }
    }
}
