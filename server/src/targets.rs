//! Targets as they stand: what is live on each, what goes on, what waits, and whether what runs
//! there is what was deployed. Pages, the API and the command line all tell it from here.

use std::collections::BTreeMap;

use mergeyard_run::target::{Reach, Ssh, Target};
use mergeyard_types::{TargetName, Timestamp};

use crate::{
    config::{ConfiguredTarget, Rules},
    store::{Deployed, DeploymentState, DriftRow, Seen, Sight, Store, StoreError, WaitingRow},
};

/// One target.
#[derive(Debug, Clone)]
pub struct Standing {
    pub name: TargetName,
    /// As the operator defined it; `None` when it is no longer defined and only its history is left.
    pub defined: Option<ConfiguredTarget>,
    pub services: Vec<Service>,
    /// In the order in which they will be deployed.
    pub waiting: Vec<WaitingRow>,
    /// The end of the freeze window in force.
    pub frozen_until: Option<Timestamp>,
}

/// What was deployed to a target under one name.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    /// The last deployment that was proven: what ought to be live.
    pub live: Option<Deployed>,
    /// The newest one, where that is another.
    pub newest: Option<Deployed>,
    /// The last look at what is live.
    pub drift: Option<DriftRow>,
}

/// How a service is, in one word: the worst that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// What runs is what was deployed, or nobody can see what runs.
    Live,
    /// Nobody has looked since it was deployed.
    Unlooked,
    /// A deployment goes on.
    Deploying,
    /// Nothing was ever proven there.
    Nothing,
    Unreachable,
    /// Something else runs than was deployed.
    Drifted,
    /// The last deployment left nobody knows what.
    Unknown,
}

/// How many services of the targets that are defined are how, for whoever counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub services: usize,
    pub same: usize,
    pub drifted: usize,
    pub untold: usize,
    pub unreachable: usize,
    /// Nobody has looked since they were deployed.
    pub unlooked: usize,
}

impl Condition {
    pub const ALL: [Condition; 7] = [
        Condition::Live,
        Condition::Unlooked,
        Condition::Deploying,
        Condition::Nothing,
        Condition::Unreachable,
        Condition::Drifted,
        Condition::Unknown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Live => "live",
            Condition::Unlooked => "unlooked",
            Condition::Deploying => "deploying",
            Condition::Nothing => "nothing",
            Condition::Unreachable => "unreachable",
            Condition::Drifted => "drifted",
            Condition::Unknown => "unknown",
        }
    }
}

impl Service {
    pub fn condition(&self) -> Condition {
        match self.newest.as_ref().map(|newest| newest.row.state) {
            Some(DeploymentState::InProgress) => return Condition::Deploying,
            Some(DeploymentState::Failure | DeploymentState::Error) => return Condition::Unknown,
            Some(DeploymentState::Success | DeploymentState::RolledBack) | None => {}
        }
        if self.live.is_none() {
            return Condition::Nothing;
        }
        match self.drift.as_ref().map(|drift| drift.seen.word()) {
            None => Condition::Unlooked,
            Some(Sight::Same | Sight::Untold) => Condition::Live,
            Some(Sight::Differs | Sight::Gone) => Condition::Drifted,
            Some(Sight::Unreachable) => Condition::Unreachable,
        }
    }

    /// The deployment that goes on.
    pub fn deploying(&self) -> Option<&Deployed> {
        self.newest.as_ref().filter(|newest| newest.row.state == DeploymentState::InProgress)
    }
}

impl Standing {
    /// The worst of its services.
    pub fn condition(&self) -> Option<Condition> {
        self.services.iter().map(Service::condition).max()
    }

    pub fn deploying(&self) -> impl Iterator<Item = &Deployed> {
        self.services.iter().filter_map(Service::deploying)
    }

    /// Since when the target could not be reached.
    pub fn unreachable(&self) -> Option<&DriftRow> {
        let drifts = self.services.iter().filter_map(|service| service.drift.as_ref());
        drifts.filter(|drift| drift.seen.word() == Sight::Unreachable).min_by_key(|drift| drift.since)
    }

    /// When it was looked at last.
    pub fn looked(&self) -> Option<Timestamp> {
        self.services.iter().filter_map(|service| Some(service.drift.as_ref()?.looked)).max()
    }
}

impl Tally {
    pub fn of(all: &[Standing]) -> Self {
        let mut tally = Tally::default();
        let defined = all.iter().filter(|standing| standing.defined.is_some());
        for service in defined.flat_map(|standing| &standing.services).filter(|one| one.live.is_some()) {
            tally.services += 1;
            *match service.drift.as_ref().map(|drift| &drift.seen) {
                None => &mut tally.unlooked,
                Some(Seen::Same) => &mut tally.same,
                Some(Seen::Differs(_) | Seen::Gone) => &mut tally.drifted,
                Some(Seen::Untold) => &mut tally.untold,
                Some(Seen::Unreachable { .. }) => &mut tally.unreachable,
            } += 1;
        }
        tally
    }
}

/// How a target is reached, and never with what.
pub fn reach(target: &Target) -> String {
    match &target.reach {
        Reach::Local => "the machine of the engine".to_owned(),
        Reach::Ssh(Ssh { address, port: 22, user, .. }) => format!("{user}@{address} over SSH"),
        Reach::Ssh(Ssh { address, port, user, .. }) => format!("{user}@{address}, port {port}, over SSH"),
    }
}

/// All that are defined or were ever deployed to, by name.
pub async fn all(store: &Store, rules: &Rules, now: Timestamp) -> Result<Vec<Standing>, StoreError> {
    let (deployed, drift, waiting) =
        tokio::try_join!(store.standing(), store.drift(), store.waiting_deployments())?;
    let mut all: BTreeMap<TargetName, Standing> = BTreeMap::new();
    for defined in &rules.targets {
        let name = defined.target.name.clone();
        let frozen_until = defined.freeze.until(now);
        let standing =
            Standing { defined: Some(defined.clone()), frozen_until, ..Standing::undefined(name.clone()) };
        all.insert(name, standing);
    }
    for one in deployed {
        let name = one.row.target.clone();
        all.entry(name).or_insert_with_key(|name| Standing::undefined(name.clone())).take_in(one);
    }
    for row in drift {
        let service = all.get_mut(&row.target).and_then(|standing| standing.service(&row.service));
        if let Some(service) =
            service.filter(|one| one.live.as_ref().is_some_and(|live| live.row.id == row.deployment))
        {
            service.drift = Some(row);
        }
    }
    for row in waiting {
        let name = row.target.clone();
        all.entry(name).or_insert_with_key(|name| Standing::undefined(name.clone())).waiting.push(row);
    }
    Ok(all.into_values().collect())
}

pub async fn one(
    store: &Store,
    rules: &Rules,
    name: &TargetName,
    now: Timestamp,
) -> Result<Option<Standing>, StoreError> {
    Ok(all(store, rules, now).await?.into_iter().find(|standing| standing.name == *name))
}

impl Standing {
    fn undefined(name: TargetName) -> Self {
        Self { name, defined: None, services: Vec::new(), waiting: Vec::new(), frozen_until: None }
    }

    fn service(&mut self, name: &str) -> Option<&mut Service> {
        self.services.iter_mut().find(|service| service.name == name)
    }

    /// Rows come in their order, so a later one is newer.
    fn take_in(&mut self, one: Deployed) {
        if self.service(&one.row.service).is_none() {
            let name = one.row.service.clone();
            self.services.push(Service { name, live: None, newest: None, drift: None });
        }
        let Some(service) = self.service(&one.row.service.clone()) else { return };
        match one.row.state {
            DeploymentState::Success => (service.live, service.newest) = (Some(one), None),
            _ => service.newest = Some(one),
        }
    }
}
