//! The yard: everything that works together in one server, and the workers that keep it going.
//!
//! The stages of a delivery's way meet only in the database. A worker looks for the next
//! thing that is due, does it, and looks again; when nothing is due it waits to be woken.
//! A wake-up carries no data, and a slow tick finds what a wake-up missed, so a crash, a
//! lost wake-up and a command on another process' command line are all the same to it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use mergeyard_run::executor::Executor;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;
use url::Url;

use crate::{
    changes::Changes,
    clock::Clock,
    config::Rules,
    github::Github,
    inbox, leases,
    logs::Logs,
    missed, outbox, retention, steps,
    store::{Store, StoreError},
};

pub struct Yard {
    pub store: Store,
    pub logs: Logs,
    pub clock: Clock,
    pub rules: RwLock<Arc<Rules>>,
    pub executor: Executor,
    /// `None` without a token: then nothing is told to GitHub.
    pub github: Option<Github>,
    pub settings: Settings,
    pub wake: Wake,
    pub changes: Changes,
    /// Repositories whose deliveries are being decided.
    pub busy: Mutex<HashSet<String>>,
    pub leases: Mutex<leases::Seen>,
    /// Stops the steps that run, when the server has to go before they are done.
    pub hand_over: CancellationToken,
}

/// What workers need to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    pub public_url: Url,
    /// Where GitHub sends webhooks to.
    pub hook_url: Url,
    /// The token that fetches from the forge, and the host it may be sent to.
    pub forge_token: Option<(String, mergeyard_types::Secret)>,
    pub keep_bodies: Duration,
    pub reconcile_every: Duration,
    pub parallel_steps: usize,
}

/// One bell for each kind of worker.
#[derive(Debug, Default)]
pub struct Wake {
    pub inbox: Notify,
    pub steps: Notify,
    pub outbox: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worker {
    Inbox,
    Steps,
    Outbox,
    Leases,
    Missed,
    Retention,
}

/// Repositories whose deliveries are decided at the same time: a slow fetch of one must
/// not hold up the others.
const INBOX_WORKERS: usize = 4;

impl Yard {
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().expect("no holder of this lock panics").clone()
    }

    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().expect("no holder of this lock panics") = Arc::new(rules);
    }

    /// Starts the workers. They stop taking up work when `shutdown` is cancelled.
    pub fn start(self: &Arc<Self>, shutdown: &CancellationToken) -> TaskTracker {
        let crew = [
            (Worker::Inbox, INBOX_WORKERS),
            (Worker::Steps, self.settings.parallel_steps),
            (Worker::Outbox, 1),
            (Worker::Leases, 1),
            (Worker::Missed, 1),
            (Worker::Retention, 1),
        ];
        let tracker = TaskTracker::new();
        for (worker, count) in crew {
            for _ in 0..count {
                tracker.spawn(worker.attend(self.clone(), shutdown.clone()));
            }
        }
        tracker.close();
        tracker
    }
}

impl Worker {
    async fn attend(self, yard: Arc<Yard>, shutdown: CancellationToken) {
        let never = Notify::new();
        while !shutdown.is_cancelled() {
            let bell = match self {
                Worker::Inbox => &yard.wake.inbox,
                Worker::Steps => &yard.wake.steps,
                Worker::Outbox => &yard.wake.outbox,
                Worker::Leases | Worker::Missed | Worker::Retention => &never,
            };
            // Interest is registered before looking, so nothing falls between.
            let woken = bell.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            match self.turn(&yard).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    warn!(worker = ?self, error = &error as &dyn std::error::Error, "the database refused a worker; it tries again")
                }
            }
            tokio::select! {
                () = &mut woken => {}
                () = tokio::time::sleep(self.tick(&yard)) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Does the next thing that is due. `false` when there is none.
    pub async fn turn(self, yard: &Yard) -> Result<bool, StoreError> {
        match self {
            Worker::Inbox => inbox::turn(yard).await,
            Worker::Steps => steps::turn(yard).await,
            Worker::Outbox => outbox::turn(yard).await,
            Worker::Leases => leases::turn(yard).await,
            Worker::Missed => missed::turn(yard).await,
            Worker::Retention => retention::turn(yard).await,
        }
    }

    fn tick(self, yard: &Yard) -> Duration {
        match self {
            Worker::Inbox | Worker::Steps | Worker::Outbox => Duration::from_secs(1),
            Worker::Leases => leases::LOOK_EVERY,
            Worker::Missed => yard.settings.reconcile_every,
            Worker::Retention => Duration::from_secs(3600),
        }
    }
}
