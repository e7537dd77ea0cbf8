//! `/runs/{id}`: one run with its workflows, steps, images and the ends of their logs.

use std::{collections::BTreeMap, io};

use askama::{Template, filters::Safe};
use axum::extract::{Path, State};
use mergeyard_plan::{
    action::Action,
    effect::Effect,
    finding::{Finding, Level, Quoted},
    rules::StepKind,
    workflows,
};
use mergeyard_types::{RunId, State as Word, Timestamp};

use super::{
    Answer, Page, Pages, Query, Shell, asked,
    badge::Badge,
    deployed,
    graph::{self, Node},
    log::{Shown, StepLog},
    named, page,
    runs::Listed,
    waits::Waits,
};
use crate::store::{ApprovalRow, EffectRow, ImageRow, KEPT, RunPage, RunRow, StepRow, WorkflowRow};

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
    answered: Vec<ApprovalRow>,
    /// Steps that this run took over from the one it repeats, of how many.
    kept: Option<(usize, usize)>,
    findings: Vec<Found>,
    /// Of workflows that wait for one another.
    graph: Option<Safe<String>>,
    workflows: Vec<Workflow>,
    images: Vec<ImageRow>,
    deployed: Vec<deployed::Shown>,
    effects: Vec<Told>,
}

/// A finding in the files of the run's commit.
struct Found {
    quoted: Quoted,
    /// The line at the forge.
    link: Option<String>,
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

impl Found {
    fn place(&self) -> String {
        let Finding { file, line, column, .. } = &self.quoted.finding;
        if *line > 0 { format!("{file}:{line}:{column}") } else { file.clone() }
    }

    fn is_error(&self) -> bool {
        self.quoted.finding.level == Level::Error
    }

    /// Below the line, up to the mark.
    fn gap(&self) -> String {
        " ".repeat(self.quoted.mark)
    }
}

impl Run {
    fn untold(&self) -> usize {
        self.effects.iter().filter(|told| told.row.error.is_some()).count()
    }

    fn errors(&self) -> usize {
        self.findings.iter().filter(|found| found.is_error()).count()
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
            Action::Ansible(ansible) => Some(&ansible.image),
            Action::Image(_) | Action::Clone(_) | Action::YumMirror(_) | Action::Rollout(_) => None,
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
    let store = &pages.store;
    let (found, effects, asked, deployed) = tokio::try_join!(
        store.run_page(id),
        store.effects_of(id),
        store.questions(id),
        store.deployed_by(id)
    )?;
    let RunPage { run, workflows, images } = found.ok_or(Answer::NotFound)?;
    let count: usize = workflows.iter().map(|workflow| workflow.steps.len()).sum();
    let graph = picture_of(&workflows);
    let mut waits: Vec<Waits> = Waits::of_run(&run, &workflows).into_iter().collect();
    let about_run = asked.iter().find(|row| row.workflow.is_none() && row.answer.is_none());
    if let (Some(waits), Some(asked)) = (waits.first_mut(), about_run) {
        waits.for_what.clone_from(&asked.gate);
    }
    let mut shown: Vec<Workflow> =
        workflows.iter().map(|row| show_workflow(&run, row, &workflows, count)).collect();
    // Nothing in it waits for anything while all of it does.
    if !waits.is_empty() {
        for workflow in &mut shown {
            workflow.waits = None;
            workflow.steps.iter_mut().for_each(|step| step.waits = None);
        }
    }
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
    let (kept, answered) =
        (kept(&run, &workflows), asked.into_iter().filter(|row| row.answer.is_some()).collect());
    let listed = Listed::from(run);
    let findings =
        workflows.iter().flat_map(|row| row.rules.findings.iter().map(|q| found_in(&listed, row, q)));
    let findings = findings.collect();
    let deployed = deployed.into_iter().map(deployed::Shown::from).collect();
    let workflows = shown;
    page(&Run { shell, listed, waits, answered, kept, findings, graph, workflows, images, deployed, effects })
}

fn kept(run: &RunRow, workflows: &[WorkflowRow]) -> Option<(usize, usize)> {
    run.rerun_of?;
    let steps = || workflows.iter().flat_map(|workflow| &workflow.steps);
    let is_kept = |step: &&StepRow| step.why.as_deref().is_some_and(|why| why.starts_with(KEPT));
    Some((steps().filter(is_kept).count(), steps().count()))
}

/// What a file includes is the default branch's, so only the workflow's own file is at the commit.
fn found_in(listed: &Listed, row: &WorkflowRow, quoted: &Quoted) -> Found {
    let Finding { file, line, .. } = &quoted.finding;
    let is_own = workflows::name(file) == row.name;
    let link = listed.file_url(file).filter(|_| is_own);
    let link = link.map(|link| if *line > 0 { format!("{link}#L{line}") } else { link });
    Found { quoted: quoted.clone(), link }
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

fn show_workflow(run: &RunRow, row: &WorkflowRow, all: &[WorkflowRow], count: usize) -> Workflow {
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

fn show_step(run: &RunRow, row: &StepRow, workflow: &WorkflowRow, above: Option<usize>, only: bool) -> Step {
    let needs = &row.rules.needs;
    let is_next = needs.is_empty() || above.is_some_and(|above| needs == &[above]);
    let names = needs.iter().filter_map(|at| workflow.steps.get(*at)).map(|step| step.name.clone());
    let outputs = match &row.action {
        // They are the published image, which the page shows as one.
        Action::Image(_) => BTreeMap::new(),
        _ => row.outputs.clone(),
    };
    let is_telling = match row.state {
        Word::Failure | Word::Error => true,
        Word::Running => !row.rules.detached,
        _ => false,
    };
    // Other reasons, as why it is tried again, say more than that it waits.
    let says_more = row.why.as_deref().is_some_and(|why| !why.starts_with("waits for "));
    let waits = Waits::of_step(run, row, workflow).filter(|waits| waits.command.is_some() || !says_more);
    Step {
        badge: Badge::of(row.state),
        open: only || is_telling,
        waits: waits.clone(),
        needs: if is_next { Vec::new() } else { names.collect() },
        outputs,
        log: None,
        // A question says more than its sentence, which names the command but does not hand it over.
        row: StepRow { why: row.why.clone().filter(|_| waits.is_none()), ..row.clone() },
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
