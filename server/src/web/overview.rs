//! `/`: what runs, and what waits for a person.

use askama::Template;
use axum::extract::State;
use mergeyard_plan::effect::Effect;
use mergeyard_types::TargetName;

use super::{Page, Pages, Shell, page, runs::Listed};
use crate::{
    store::{DeliveryRow, EffectRow},
    targets::{self, Condition, Service},
};

const RUNS: u32 = 12;

/// Of each kind; the point is that there are some, and where to begin.
const TROUBLES: u32 = 5;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    shell: Shell,
    runs: Vec<Listed>,
    /// Those that wait for a person.
    blocked: Vec<Listed>,
    deliveries: Vec<DeliveryRow>,
    effects: Vec<EffectRow>,
    /// Services that something is wrong with, on which target.
    services: Vec<(TargetName, Service)>,
}

impl Overview {
    fn calm(&self) -> bool {
        self.blocked.is_empty()
            && self.deliveries.is_empty()
            && self.effects.is_empty()
            && self.services.is_empty()
    }
}

pub(super) async fn overview(State(pages): State<Pages>) -> Page {
    let store = &pages.store;
    let shell = Shell::new(&pages, "");
    let rules = pages.rules();
    let (runs, blocked, deliveries, effects, targets) = tokio::try_join!(
        store.runs(None, None, RUNS),
        store.blocked_runs(TROUBLES),
        store.dead_deliveries(TROUBLES),
        store.dead_effects(TROUBLES),
        targets::all(store, &rules, shell.now)
    )?;
    let runs = runs.into_iter().map(Listed::from).collect();
    let blocked = blocked.into_iter().map(Listed::from).collect();
    let services = targets
        .into_iter()
        .flat_map(|one| one.services.into_iter().map(move |service| (one.name.clone(), service)));
    let services = services.filter(|(_, service)| service.condition() >= Condition::Unreachable);
    let services = services.take(TROUBLES as usize).collect();
    page(&Overview { shell, runs, blocked, deliveries, effects, services })
}
