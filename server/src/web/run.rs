//! `/runs/{id}`: one run with its workflows, steps, images and the ends of their logs.

use std::{collections::BTreeMap, io};

use askama::{Template, filters::Safe};
use axum::extract::{Path, State};
use mergeyard_plan::{action::Action, effect::Effect, rules::StepKind};
use mergeyard_types::{RunId, State as Word, Timestamp};

use super::{
    Answer, Page, Pages, Query, Shell, asked,
    badge::Badge,
    graph::{self, Node},
    log::{Shown, StepLog},
    named, page,
    runs::Listed,
    waits::Waits,
};
use crate::store::{EffectRow, ImageRow, RunPage, StepRow, WorkflowRow};

/// Lines of all logs on one page, and of one of them at the most: a run of a hundred steps must
/// not make a page no browser opens. Each log has a page of its own with all of it.
const ALL_LINES: u64 = 3000;
const ONE_LOG: u64 = 300;

/// Of a run with more steps than this, only the logs of those are read that have something to
/// tell: they run, or went wrong.
const MANY_STEPS: usize = 40;

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Look {
    /// `logs=none` leaves the logs out: the script, which has them, asks so.
    logs: Option<String>,
}

#[derive(Template)]
#[template(path = "run.html")]
struct Run {
    shell: Shell,
    listed: Listed,
    waits: Vec<Waits>,
    /// Of workflows that wait for one another.
    graph: Option<Safe<String>>,
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
    waits: Option<Waits>,
    graph: Option<Safe<String>>,
    /// In the order they may run in.
    steps: Vec<Step>,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
}

struct Step {
    row: StepRow,
    badge: Safe<Badge>,
    open: bool,
    waits: Option<Waits>,
    /// Names of the steps it needs, unless that is the one above it.
    needs: Vec<String>,
    outputs: BTreeMap<String, String>,
    log: Option<Excerpt>,
}

/// The end of a log.
struct Excerpt {
    lines: Vec<Shown>,
    total: u64,
    /// The last line of it, after which the script goes on reading.
    next: u64,
    live: bool,
}

impl Workflow {
    fn is_done(&self) -> bool {
        self.row.state.is_final()
    }
}

impl Excerpt {
    fn grouped_total(&self) -> String {
        super::log::grouped(self.total)
    }
}

impl Step {
    fn base(&self) -> Timestamp {
        base(&self.row)
    }

    /// What kind of step it is, where that is not plain to see.
    fn kind(&self) -> Option<&'static str> {
        match self.row.rules.kind {
            StepKind::Service if self.row.up && !self.row.state.is_final() => Some("service, up"),
            StepKind::Service => Some("service"),
            StepKind::Plugin => Some("plugin"),
            StepKind::Clone => None,
            StepKind::Commands | StepKind::Action if self.row.rules.detached => Some("detached"),
            StepKind::Commands | StepKind::Action => None,
        }
    }

    /// What it runs in.
    fn image(&self) -> Option<&str> {
        match &self.row.action {
            Action::Container(container) => Some(&container.image),
            Action::Image(_) | Action::Clone(_) => None,
        }
    }
}

/// What the lines' times count from.
pub(super) fn base(row: &StepRow) -> Timestamp {
    row.started.unwrap_or(row.not_before)
}

pub(super) async fn run(State(pages): State<Pages>, Path(id): Path<String>, look: Query<Look>) -> Page {
    let look = asked(look)?;
    let id: RunId = named(&id)?;
    let (found, effects) = tokio::try_join!(pages.store.run_page(id), pages.store.effects_of(id))?;
    let RunPage { run, workflows, images } = found.ok_or(Answer::NotFound)?;
    let count: usize = workflows.iter().map(|workflow| workflow.steps.len()).sum();
    let graph = picture_of(&workflows);
    let mut waits: Vec<Waits> = Waits::of_run(&run, &workflows).into_iter().collect();
    let mut shown: Vec<Workflow> =
        workflows.iter().map(|row| show_workflow(&run, row, &workflows, count)).collect();
    let parts = shown.iter().flat_map(|workflow| {
        workflow.waits.iter().chain(workflow.steps.iter().filter_map(|step| step.waits.as_ref()))
    });
    waits.extend(parts.filter(|waits| waits.command.is_some()).cloned());
    waits.dedup();
    if look.logs.as_deref() != Some("none") {
        let lines = ONE_LOG.min(ALL_LINES / count.max(1) as u64).max(1);
        for step in shown.iter_mut().flat_map(|workflow| &mut workflow.steps) {
            if count <= MANY_STEPS || step.open {
                step.log = Some(excerpt(&pages, &step.row, lines).await?);
            }
        }
    }
    let effects = effects.into_iter().map(|row| Told { badge: Badge::of_effect(&row.state), row }).collect();
    let shell = Shell::new(&pages, "runs");
    page(&Run { shell, listed: run.into(), waits, graph, workflows: shown, images, effects })
}

fn picture_of(workflows: &[WorkflowRow]) -> Option<Safe<String>> {
    let node = |row: &WorkflowRow| Node {
        name: match &row.axis {
            Some(axis) => format!("{} {axis}", row.name),
            None => row.name.clone(),
        },
        state: row.state,
        target: format!("w{}", row.id),
        needs: (0..workflows.len()).filter(|at| row.rules.needs.contains(&workflows[*at].name)).collect(),
    };
    graph::picture(&workflows.iter().map(node).collect::<Vec<_>>())
}

fn show_workflow(
    run: &crate::store::RunRow,
    row: &WorkflowRow,
    all: &[WorkflowRow],
    count: usize,
) -> Workflow {
    let waits = Waits::of_workflow(run, row, all);
    let needs: Vec<&[usize]> = row.steps.iter().map(|step| step.rules.needs.as_slice()).collect();
    let order = graph::order(&needs);
    let node = |step: &StepRow| Node {
        name: step.name.clone(),
        state: step.state,
        target: format!("s{}", step.id),
        needs: step.rules.needs.clone(),
    };
    let mut steps: Vec<Step> = Vec::with_capacity(order.len());
    for (place, at) in order.iter().enumerate() {
        let above = place.checked_sub(1).and_then(|above| order.get(above)).copied();
        let mut step = show_step(run, &row.steps[*at], row, above, count == 1);
        // What the workflow waits for is said once.
        if waits.is_some() {
            step.waits = step.waits.filter(|waits| waits.command.is_some());
        }
        steps.push(step);
    }
    let finished = row.steps.iter().filter_map(|step| step.finished).max();
    Workflow {
        badge: Badge::of(row.state),
        waits,
        graph: graph::picture(&row.steps.iter().map(node).collect::<Vec<_>>()),
        steps,
        started: row.steps.iter().filter_map(|step| step.started).min(),
        finished: finished.filter(|_| row.state.is_final()),
        row: WorkflowRow { steps: Vec::new(), ..row.clone() },
    }
}

fn show_step(
    run: &crate::store::RunRow,
    row: &StepRow,
    workflow: &WorkflowRow,
    above: Option<usize>,
    only: bool,
) -> Step {
    let needs = &row.rules.needs;
    let is_next = needs.is_empty() || above.is_some_and(|above| needs == &[above]);
    let names = needs.iter().filter_map(|at| workflow.steps.get(*at)).map(|step| step.name.clone());
    let outputs = match &row.action {
        // They are the published image, which the page shows as one.
        Action::Image(_) => BTreeMap::new(),
        Action::Clone(_) | Action::Container(_) => row.outputs.clone(),
    };
    let is_telling = match row.state {
        Word::Failure | Word::Error => true,
        Word::Running => !row.rules.detached,
        _ => false,
    };
    Step {
        badge: Badge::of(row.state),
        open: only || is_telling,
        waits: Waits::of_step(run, row, workflow).filter(|_| row.why.is_none()),
        needs: if is_next { Vec::new() } else { names.collect() },
        outputs,
        log: None,
        row: row.clone(),
    }
}

async fn excerpt(pages: &Pages, row: &StepRow, lines: u64) -> io::Result<Excerpt> {
    let log = StepLog { logs: pages.logs.clone(), run: row.run, step: row.id };
    let window = log.tail(lines).await?;
    Ok(Excerpt {
        lines: window.shown(base(row), None),
        total: window.total,
        next: window.last(),
        live: !row.state.is_final(),
    })
}
