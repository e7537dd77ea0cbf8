//! The yard: everything that works together in one server.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use mergeyard_run::executor::Executor;
use mergeyard_types::{RunId, Secret, StepId, WorkflowId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{
    changes::Changes,
    clock::Clock,
    config::Rules,
    ends::Left,
    github::Github,
    logs::Logs,
    secrets::{KeySource, Secrets},
    services::Followers,
    store::{Lease, Store},
};

/// What `SIGHUP` exchanges.
pub type RulesInForce = Arc<RwLock<Arc<Rules>>>;

pub struct Yard {
    pub store: Store,
    pub logs: Logs,
    pub clock: Clock,
    pub rules: RulesInForce,
    /// The key of secrets.
    pub keys: KeySource,
    pub executor: Executor,
    /// `None` without a token: then nothing is told to GitHub.
    pub github: Option<Github>,
    pub settings: Settings,
    pub wake: Wake,
    pub changes: Changes,
    /// Repositories whose deliveries are being decided.
    pub busy: Mutex<HashSet<String>>,
    /// What the watcher of leases saw of each, and since when it has looked so.
    pub leases: Mutex<HashMap<StepId, (Lease, i64, Instant)>>,
    /// Stops the steps that run, when the server has to go before they are done.
    pub hand_over: CancellationToken,
    /// Who follows services and other detached steps.
    pub followers: Followers,
    /// Workflows that this server began to work on, and that may have something in the engine.
    pub begun: Mutex<BTreeSet<WorkflowId>>,
    /// Those that ended and whose rest the engine would not let go yet.
    pub left: Mutex<Left>,
}

/// What workers need to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    pub public_url: Url,
    /// Where GitHub sends webhooks to.
    pub hook_url: Url,
    /// The token that fetches from the forge, and the host it may be sent to.
    pub forge_token: Option<(String, Secret)>,
    /// GitHub, as it is looked at with a browser; without a slash at its end.
    pub forge_url: String,
    /// This machine's name.
    pub machine: String,
    pub keep_bodies: Duration,
    pub reconcile_every: Duration,
    pub parallel_steps: usize,
    /// What one step may say in all.
    pub log_bytes: u64,
}

/// One bell for each kind of worker.
#[derive(Debug, Default)]
pub struct Wake {
    pub inbox: Notify,
    pub steps: Notify,
    pub outbox: Arc<Notify>,
    pub ends: Notify,
}

impl Settings {
    /// The page of a run.
    pub fn run_url(&self, run: RunId) -> String {
        let page = self.public_url.join(&format!("runs/{run}"));
        page.map(String::from).unwrap_or_default()
    }
}

impl Yard {
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().expect("no holder of this lock panics").clone()
    }

    /// What pipelines may be given, by the rules of now.
    pub fn secrets(&self) -> Secrets {
        Secrets { store: self.store.clone(), keys: self.keys.clone(), rules: self.rules() }
    }

    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().expect("no holder of this lock panics") = Arc::new(rules);
    }
}
