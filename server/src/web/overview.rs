//! `/`: what runs, and what waits for a person.

use askama::Template;
use axum::extract::State;
use mergeyard_plan::effect::Effect;

use super::{Page, Pages, Shell, page, runs::Listed};
use crate::store::{DeliveryRow, EffectRow};

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
}

impl Overview {
    fn calm(&self) -> bool {
        self.blocked.is_empty() && self.deliveries.is_empty() && self.effects.is_empty()
    }
}

pub(super) async fn overview(State(pages): State<Pages>) -> Page {
    let store = &pages.store;
    let (runs, blocked, deliveries, effects) = tokio::try_join!(
        store.runs(None, None, RUNS),
        store.blocked_runs(TROUBLES),
        store.dead_deliveries(TROUBLES),
        store.dead_effects(TROUBLES)
    )?;
    let runs = runs.into_iter().map(Listed::from).collect();
    let blocked = blocked.into_iter().map(Listed::from).collect();
    page(&Overview { shell: Shell::new(&pages, ""), runs, blocked, deliveries, effects })
}
