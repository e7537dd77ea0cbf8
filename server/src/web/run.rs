//! `/runs/{id}`: one run with its steps, images and logs.

use std::io;

use askama::{Template, filters::Safe};
use axum::extract::{Path, State};
use mergeyard_plan::effect::Effect;
use mergeyard_types::{RunId, State as Word, StepId, Timestamp};

use super::{
    Answer, Page, Pages, Query, Shell, asked,
    badge::Badge,
    log::{Excerpt, StepLog},
    named, page,
    runs::Listed,
};
use crate::store::{EffectRow, ImageRow, RunPage, StepRow, WorkflowRow};

/// What the logs of all steps may weigh on one page, and one of them at the most: a run
/// of a hundred steps must not make a page no browser opens.
const ALL_LOGS: u64 = 2 * 1024 * 1024;
const ONE_LOG: u64 = 256 * 1024;

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Look {
    /// The line that ends at `at` in the log of `step` is looked for.
    step: Option<i64>,
    at: Option<u64>,
    /// `logs=none` leaves the logs out: the script, which has them, asks so.
    logs: Option<String>,
}

#[derive(Template)]
#[template(path = "run.html")]
struct Run {
    shell: Shell,
    listed: Listed,
    workflows: Vec<Workflow>,
    images: Vec<ImageRow>,
    effects: Vec<Told>,
}

struct Told {
    row: EffectRow,
    badge: Safe<Badge>,
}

struct Workflow {
    row: WorkflowRow,
    badge: Safe<Badge>,
    steps: Vec<Step>,
}

struct Step {
    row: StepRow,
    badge: Safe<Badge>,
    open: bool,
    log: Option<Excerpt>,
    /// Whether the script may go on reading where the log on the page ends.
    live: bool,
}

impl Step {
    fn base(&self) -> Timestamp {
        base(&self.row)
    }
}

/// What the lines' times count from.
fn base(row: &StepRow) -> Timestamp {
    row.started.unwrap_or(row.not_before)
}

pub(super) async fn run(State(pages): State<Pages>, Path(id): Path<String>, look: Query<Look>) -> Page {
    let look = asked(look)?;
    let id: RunId = named(&id)?;
    let (found, effects) = tokio::try_join!(pages.store.run_page(id), pages.store.effects_of(id))?;
    let RunPage { run, workflows, images } = found.ok_or(Answer::NotFound)?;
    let count: usize = workflows.iter().map(|workflow| workflow.steps.len()).sum();
    let budget = ONE_LOG.min(ALL_LOGS / count.max(1) as u64);
    let mut shown = Vec::with_capacity(workflows.len());
    for mut row in workflows {
        let mut steps = Vec::with_capacity(row.steps.len());
        for step in std::mem::take(&mut row.steps) {
            steps.push(show_step(&pages, step, &look, budget, count == 1).await?);
        }
        shown.push(Workflow { badge: Badge::of(row.state), row, steps });
    }
    let effects = effects.into_iter().map(|row| Told { badge: Badge::of_effect(&row.state), row }).collect();
    page(&Run { shell: Shell::new(&pages, "runs"), listed: run.into(), workflows: shown, images, effects })
}

async fn show_step(pages: &Pages, row: StepRow, look: &Look, budget: u64, only: bool) -> io::Result<Step> {
    let place = look.at.filter(|_| look.step.map(StepId) == Some(row.id));
    let log = StepLog { logs: pages.logs.clone(), run: row.run, step: row.id };
    let started = base(&row);
    let excerpt = match (place, look.logs.as_deref()) {
        (_, Some("none")) => None,
        (Some(at), _) => Some(log.around(at, started).await?),
        (None, _) => Some(log.tail(budget, started).await?),
    };
    let telling = matches!(row.state, Word::Running | Word::Failure | Word::Error);
    let later = excerpt.as_ref().is_some_and(|excerpt| excerpt.later);
    Ok(Step {
        badge: Badge::of(row.state),
        open: only || telling || place.is_some(),
        live: !row.state.is_final() && (place.is_none() || !later),
        log: excerpt,
        row,
    })
}
