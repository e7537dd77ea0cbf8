//! What a person sees of a run while it runs.
//!
//! On a terminal each running step has a line that moves: what it is, for how long, and the last
//! it said. Elsewhere every line of every step is printed once, with its step before it. Both end
//! with what failed and its last words.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mergeyard_run::log::{LogLine, Stream};
use mergeyard_types::{State, StepId};

use super::super::text;
use crate::store::{StepRow, WorkflowRow};

/// The last words of a failed step: enough to see why, few enough to see at all.
const LAST_WORDS: usize = 30;

/// How often a line that moves moves.
const TICK: Duration = Duration::from_millis(100);

pub(super) struct Board {
    kind: Kind,
    ended: BTreeSet<StepId>,
    said: BTreeMap<StepId, VecDeque<String>>,
}

enum Kind {
    Bars { all: MultiProgress, running: BTreeMap<StepId, ProgressBar> },
    Lines,
    Silent,
}

impl Board {
    pub(super) fn moving() -> Self {
        Self::of(Kind::Bars { all: MultiProgress::new(), running: BTreeMap::new() })
    }

    pub(super) fn plain() -> Self {
        Self::of(Kind::Lines)
    }

    pub(super) fn silent() -> Self {
        Self::of(Kind::Silent)
    }

    fn of(kind: Kind) -> Self {
        Self { kind, ended: BTreeSet::new(), said: BTreeMap::new() }
    }

    /// One more line of a step's log.
    pub(super) fn line(&mut self, workflow: &WorkflowRow, step: &StepRow, line: &LogLine) {
        let said = text::plain(&line.text);
        match &self.kind {
            Kind::Silent => return,
            Kind::Lines => say!("{} | {said}", label(workflow, step)),
            Kind::Bars { running, .. } => {
                if let Some(bar) = running.get(&step.id) {
                    bar.set_message(said.clone());
                }
            }
        }
        if line.stream != Stream::Note {
            let last = self.said.entry(step.id).or_default();
            last.push_back(said);
            if last.len() > LAST_WORDS {
                last.pop_front();
            }
        }
    }

    /// Does something while nothing moves.
    pub(super) fn pause<T>(&self, what: impl FnOnce() -> T) -> T {
        match &self.kind {
            Kind::Bars { all, .. } => all.suspend(what),
            Kind::Lines | Kind::Silent => what(),
        }
    }

    /// A sign for a state, in colour where there is some.
    pub(super) fn mark(&self, state: State) -> String {
        mark(state, matches!(self.kind, Kind::Bars { .. }))
    }

    /// Says something in its own voice, above what moves.
    pub(super) fn tell(&self, said: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Lines => text::say(said),
            // A terminal that is gone is nobody's fault.
            Kind::Bars { all, .. } => drop(all.println(said)),
        }
    }

    /// Shows a step that runs.
    pub(super) fn begin(&mut self, workflow: &WorkflowRow, step: &StepRow) {
        let Kind::Bars { all, running } = &mut self.kind else { return };
        if step.state != State::Running {
            return;
        }
        running.entry(step.id).or_insert_with(|| {
            let style =
                ProgressStyle::with_template("{spinner:.yellow} {prefix:<32} {elapsed:>5}  {wide_msg:.dim}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar =
                all.add(ProgressBar::new_spinner().with_style(style).with_prefix(label(workflow, step)));
            bar.enable_steady_tick(TICK);
            bar
        });
    }

    /// Says once how a step ended.
    pub(super) fn end(&mut self, workflow: &WorkflowRow, step: &StepRow) {
        if !step.state.is_final() || !self.ended.insert(step.id) {
            return;
        }
        let colour = matches!(self.kind, Kind::Bars { .. });
        if let Kind::Bars { running, .. } = &mut self.kind
            && let Some(bar) = running.remove(&step.id)
        {
            bar.finish_and_clear();
        }
        let took = step.started.zip(step.finished).map(|(from, to)| text::duration(to.since(from)));
        let why = step.why.as_deref().map(|why| format!("  {}", text::plain(why))).unwrap_or_default();
        let line = format!("{:<34} {:>9}{why}", label(workflow, step), took.unwrap_or_default());
        self.tell(format!("{} {line}", mark(step.state, colour)).trim_end());
        let failed = matches!(step.state, State::Failure | State::Error);
        // Where every line was printed when it came, nothing has to be said again.
        if let Some(last) = self.said.remove(&step.id).filter(|_| failed && colour) {
            for said in last {
                self.tell(&format!("    {said}"));
            }
        }
    }
}

/// `build/PYTHON=3.12 test`.
fn label(workflow: &WorkflowRow, step: &StepRow) -> String {
    let axis = workflow.axis.as_deref().map(|axis| format!("/{axis}")).unwrap_or_default();
    format!("{}{axis} {}", workflow.name, step.name)
}

fn mark(state: State, colour: bool) -> String {
    let (mark, code) = match state {
        State::Success => ("✓", 32),
        State::Failure | State::Error => ("✗", 31),
        State::Skipped => ("–", 90),
        State::Cancelled => ("■", 90),
        State::Blocked => ("?", 33),
        State::Queued | State::Running => ("·", 33),
    };
    if colour { format!("\x1b[{code}m{mark}\x1b[0m") } else { mark.to_owned() }
}
