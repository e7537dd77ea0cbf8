//! `/targets` and `/targets/{name}`: what is live on each machine, what goes on, and what was.

use askama::{Template, filters::Safe};
use axum::extract::{Path, State};
use mergeyard_run::target::Reach;
use mergeyard_types::{DeploymentId, RunId, State as Word, TargetName, Timestamp};

use super::{Answer, Page, Pages, Query, Rows, Shell, asked, badge::Badge, deployed::Shown, named, page};
use crate::{
    cli::text,
    store::{Deployed, Seen, WaitingRow},
    targets::{self, Standing, Tally},
};

const PAGE: u32 = 50;

/// What a page shows of a target at the most of what waits; the rest is counted.
const WAITING: usize = 10;

/// What may stand behind the `?` of a target's page.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Look {
    before: Option<i64>,
    service: Option<String>,
}

#[derive(Template)]
#[template(path = "targets.html")]
struct Targets {
    shell: Shell,
    targets: Vec<Target>,
    tally: Tally,
}

#[derive(Template)]
#[template(path = "target.html")]
struct OneTarget {
    shell: Shell,
    target: Target,
    history: Rows<Shown>,
    /// Whose history it is, when not of all.
    service: Option<String>,
    first: bool,
}

/// A target with what a page adds to it.
pub(super) struct Target {
    pub(super) standing: Standing,
    badge: Option<Safe<Badge>>,
    services: Vec<Service>,
    /// Of what waits.
    queued: Safe<Badge>,
    waiting: Vec<WaitingRow>,
    /// Those that are only counted.
    more_waiting: usize,
}

pub(super) struct Service {
    name: String,
    badge: Safe<Badge>,
    live: Option<Shown>,
    newest: Option<Shown>,
    amiss: Option<Amiss>,
    looked: Option<Timestamp>,
    /// Nobody can see it from outside.
    is_untold: bool,
}

/// What is wrong with what is live.
struct Amiss {
    seen: Seen,
    since: Timestamp,
    /// It made live what ought to be.
    run: RunId,
}

impl From<Standing> for Target {
    fn from(mut standing: Standing) -> Self {
        let badge = standing.condition().filter(|_| standing.defined.is_some()).map(Badge::of);
        let services = std::mem::take(&mut standing.services);
        let mut waiting = standing.waiting.clone();
        let more_waiting = waiting.len().saturating_sub(WAITING);
        waiting.truncate(WAITING);
        let services = services.into_iter().map(Service::of).collect();
        let queued = Badge::of(Word::Queued);
        Self { badge, services, queued, waiting, more_waiting, standing }
    }
}

impl Target {
    /// How it is reached, and never with what.
    fn reach(&self) -> Option<String> {
        let defined = self.standing.defined.as_ref()?;
        Some(targets::reach(&defined.target))
    }

    fn is_pinned(&self) -> Option<bool> {
        match &self.standing.defined.as_ref()?.target.reach {
            Reach::Local => None,
            Reach::Ssh(ssh) => Some(ssh.host_key.is_some()),
        }
    }

    /// Where its packages are served.
    fn mirror(&self) -> Option<String> {
        Some(self.standing.defined.as_ref()?.target.mirror.as_ref()?.url.to_string())
    }

    fn looks_every(&self) -> Option<u64> {
        Some(self.standing.defined.as_ref()?.drift_every?.as_secs() / 60)
    }

    /// The history of one of its services.
    fn path_of(&self, service: &str) -> String {
        let service: String = url::form_urlencoded::byte_serialize(service.as_bytes()).collect();
        format!("/targets/{}?service={service}", self.standing.name)
    }
}

impl Targets {
    /// All of it in one sentence.
    fn sentence(&self) -> String {
        let Tally { services, same, drifted, unreachable, .. } = self.tally;
        let defined = self.targets.iter().filter(|target| target.standing.defined.is_some()).count();
        let targets = text::count(defined as u64, "target");
        let many = |number: usize| text::count(number as u64, "service");
        let mut said = format!("{targets}, {} live on them.", many(services));
        if drifted > 0 {
            said += &format!(" Of {} something else runs than was deployed.", many(drifted));
        }
        if unreachable > 0 {
            said += &format!(" {} could not be looked at.", many(unreachable));
        }
        if services > 0 && same == services {
            said += " All of it runs as it was deployed.";
        }
        said
    }
}

impl Service {
    fn of(one: targets::Service) -> Self {
        let badge = Badge::of(one.condition());
        let looked = one.drift.as_ref().map(|drift| drift.looked);
        let is_untold = one.drift.as_ref().is_some_and(|drift| drift.seen == Seen::Untold);
        let run = one.live.as_ref().map(|live| live.row.run);
        let amiss =
            one.drift.zip(run).map(|(drift, run)| Amiss { seen: drift.seen, since: drift.since, run });
        Self {
            name: one.name,
            badge,
            live: one.live.map(Shown::from),
            newest: one.newest.map(Shown::from),
            amiss: amiss.filter(|amiss| !matches!(amiss.seen, Seen::Same | Seen::Untold)),
            looked,
            is_untold,
        }
    }
}

pub(super) async fn targets(State(pages): State<Pages>) -> Page {
    let shell = Shell::new(&pages, "targets");
    let all = targets::all(&pages.store, &pages.rules(), shell.now).await?;
    let tally = Tally::of(&all);
    page(&Targets { targets: all.into_iter().map(Target::from).collect(), tally, shell })
}

pub(super) async fn target(State(pages): State<Pages>, Path(name): Path<String>, look: Query<Look>) -> Page {
    let name: TargetName = named(&name)?;
    let Look { before, service } = asked(look)?;
    let shell = Shell::new(&pages, "targets");
    let standing = targets::one(&pages.store, &pages.rules(), &name, shell.now).await?;
    let standing = standing.ok_or(Answer::NotFound)?;
    let live: Vec<DeploymentId> =
        standing.services.iter().filter_map(|one| Some(one.live.as_ref()?.row.id)).collect();
    let service = service.filter(|service| !service.is_empty());
    let rows =
        pages.store.deployed(Some(&name), service.as_deref(), before.map(DeploymentId), PAGE + 1).await?;
    let show = |one: Deployed| {
        let is_live = live.contains(&one.row.id);
        Shown::from(one).live(is_live)
    };
    let history = Rows::new(rows.into_iter().map(show).collect(), PAGE, |shown| shown.one.row.id.0);
    page(&OneTarget { shell, target: standing.into(), history, service, first: before.is_none() })
}

impl OneTarget {
    fn is_of(&self, service: &str) -> bool {
        self.service.as_deref() == Some(service)
    }

    /// The newest page of this list.
    fn path(&self) -> String {
        match &self.service {
            Some(service) => self.target.path_of(service),
            None => format!("/targets/{}", self.target.standing.name),
        }
    }

    fn older(&self, before: &i64) -> String {
        let path = self.path();
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("{path}{sign}before={before}")
    }

    /// Whether something was live before what is live now.
    fn can_go_back(&self) -> bool {
        let live = self.target.services.iter().filter_map(|service| service.live.as_ref());
        self.target.standing.defined.is_some() && live.into_iter().any(|live| live.one.row.before.is_some())
    }
}
