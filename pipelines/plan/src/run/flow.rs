//! What may start now, what waits and for what, and what never will.
//!
//! Everything here follows from states and rules alone and may be asked at any time: it looks at
//! the whole run and moves what can be moved, until nothing moves any more.

use mergeyard_types::{RunId, State, Timestamp};

use super::{Answer, Approval, Run, Scope, Step, Workflow, worst};
use crate::{rules::RunsOn, spec::OnFailure};

/// How the sentence begins that whoever gives out work writes to a workflow whose concurrency group
/// is full.
pub const WAITS_FOR_A_PLACE: &str = "waits for a place in concurrency group";

/// Whether a workflow may begin.
enum Entry {
    Open,
    Waits(String),
    Blocked(String),
    Never(State, String),
}

/// How a gate stands.
enum Gate {
    Open,
    Shut(String),
    Refused(String),
}

/// What those who need a step see of it.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    /// They need not wait any longer.
    done: bool,
    /// It, or something it relied on, did not succeed.
    broken: bool,
}

impl Run {
    pub(super) fn go_on(&mut self, now: Timestamp) {
        self.heed_failures(now);
        loop {
            let mut ended = false;
            for at in 0..self.workflows.len() {
                ended |= self.advance(at, now);
            }
            if !ended && !self.break_circles(now) {
                break;
            }
        }
        self.withdraw_questions();
        self.state = worst(self.workflows.iter().map(|workflow| workflow.state));
    }

    /// Moves one workflow as far as it goes. `true` when that ended it.
    fn advance(&mut self, at: usize, now: Timestamp) -> bool {
        if self.workflows[at].state.is_final() {
            return false;
        }
        let entry = self.entry(at);
        let Self { id, workflows, approvals, cancel, .. } = self;
        let workflow = &mut workflows[at];
        match entry {
            Entry::Open => {
                workflow.go_on(*id, approvals, cancel.as_deref(), now);
                workflow.settle();
            }
            Entry::Waits(why) => workflow.hold(State::Queued, why),
            Entry::Blocked(why) => workflow.hold(State::Blocked, why),
            Entry::Never(state, why) => {
                for step in workflow.steps.iter_mut().filter(|step| !step.state.is_final()) {
                    step.end(state, Some(why.clone()), now);
                }
                workflow.settle();
            }
        }
        workflow.state.is_final()
    }

    fn entry(&mut self, at: usize) -> Entry {
        let workflow = &self.workflows[at];
        let is_over = workflow.steps.iter().all(|step| step.state.is_final());
        if self.cancel.is_some() || workflow.has_begun() || is_over {
            return Entry::Open;
        }
        if let Some(Approval { gate, answer: None, .. }) = self.approval(Scope::Run) {
            return Entry::Blocked(format!("{gate}: mergeyard approve {}", self.id));
        }
        let needed = self.needed_by(workflow);
        let mut unfinished: Vec<&str> =
            needed.iter().filter(|other| !other.state.is_final()).map(|other| other.name.as_str()).collect();
        unfinished.dedup();
        if !unfinished.is_empty() {
            return Entry::Waits(waits_for("workflow", &unfinished));
        }
        if let Some(why) = unwanted(workflow.rules.runs_on, &needed) {
            return Entry::Never(State::Skipped, why);
        }
        let (scope, gate) = (Scope::Workflow(workflow.id), workflow.rules.gate.clone());
        match ask(&mut self.approvals, self.id, scope, gate.as_deref()) {
            Gate::Open => Entry::Open,
            Gate::Shut(why) => Entry::Blocked(why),
            Gate::Refused(why) => Entry::Never(State::Cancelled, why),
        }
    }

    /// What the plan left out was never there, for those who could do without it.
    fn needed_by(&self, workflow: &Workflow) -> Vec<&Workflow> {
        let is_needed = |other: &&Workflow| {
            other.id != workflow.id
                && workflow.rules.needs.contains(&other.name)
                && !(other.decided && other.state == State::Skipped)
        };
        self.workflows.iter().filter(is_needed).collect()
    }

    /// Some failures end the run.
    fn heed_failures(&mut self, now: Timestamp) {
        let is_fatal = |step: &&Step| {
            matches!(step.state, State::Failure | State::Error) && step.rules.failure == OnFailure::Cancel
        };
        let fatal = self.steps().find(is_fatal).filter(|_| self.cancel.is_none());
        let why =
            fatal.map(|step| format!("step `{}` failed, and its `failure: cancel` ends the run", step.name));
        if let Some(why) = why.filter(|_| self.steps().any(|step| !step.state.is_final())) {
            self.cancel(why, now);
        }
    }

    /// Ends steps that wait for each other in a circle, which no good plan has. `true` when there
    /// were such.
    fn break_circles(&mut self, now: Timestamp) -> bool {
        let can_go_on = |step: &Step| step.ready || matches!(step.state, State::Running | State::Blocked);
        let stuck = !self.workflows.iter().any(|workflow| workflow.state == State::Blocked)
            && !self.steps().any(can_go_on)
            && self.steps().any(|step| !step.state.is_final());
        if stuck {
            let why = "it waits for itself: what it needs goes round in a circle".to_owned();
            for workflow in self.workflows.iter_mut().filter(|workflow| !workflow.state.is_final()) {
                for step in workflow.steps.iter_mut().filter(|step| !step.state.is_final()) {
                    step.end(State::Error, Some(why.clone()), now);
                }
                workflow.settle();
            }
        }
        stuck
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.workflows.iter().flat_map(|workflow| &workflow.steps)
    }

    /// A question whose subject has ended needs no answer. That a run as a whole was never allowed
    /// is remembered, because another run of the same commit must not start without it.
    fn withdraw_questions(&mut self) {
        let Self { workflows, approvals, cancel, .. } = self;
        let lives = |scope: Scope| {
            workflows.iter().any(|workflow| match scope {
                Scope::Run => !workflow.state.is_final(),
                Scope::Workflow(id) => workflow.id == id && !workflow.state.is_final(),
                Scope::Step(id) => workflow.steps.iter().any(|step| step.id == id && !step.state.is_final()),
            })
        };
        approvals.retain_mut(|approval| {
            let ended = approval.answer.is_none() && !lives(approval.scope);
            if ended && approval.scope == Scope::Run {
                let who = cancel.clone().unwrap_or_else(|| "nobody, and the run is over".to_owned());
                approval.answer = Some(Answer { approved: false, who });
            }
            !ended || approval.scope == Scope::Run
        });
    }
}

impl Workflow {
    fn has_begun(&self) -> bool {
        self.steps.iter().any(|step| step.started.is_some())
    }

    fn hold(&mut self, state: State, why: String) {
        for step in self.steps.iter_mut().filter(|step| !step.state.is_final()) {
            step.ready = false;
        }
        self.state = state;
        self.why = Some(why);
    }

    /// Makes ready what has all it needs, and ends what nobody waits for any more.
    fn go_on(&mut self, run: RunId, approvals: &mut Vec<Approval>, cancel: Option<&str>, now: Timestamp) {
        loop {
            let mut standings = standings(&self.steps);
            let mut ended = false;
            for at in 0..self.steps.len() {
                if matches!(self.steps[at].state, State::Queued | State::Blocked) {
                    self.consider(at, &standings, (run, approvals), now);
                    ended |= self.steps[at].state.is_final();
                }
                // Steps mostly come after what they need, so that one pass ends a whole chain.
                standings[at] = standing(&self.steps[at], &standings);
            }
            if !ended {
                break;
            }
        }
        self.end_detached(cancel, now);
    }

    /// Decides about one step that has not been started.
    fn consider(
        &mut self,
        at: usize,
        standings: &[Standing],
        (run, approvals): (RunId, &mut Vec<Approval>),
        now: Timestamp,
    ) {
        let needs = &self.steps[at].rules.needs;
        let undone: Vec<&str> = needs
            .iter()
            .filter(|need| standings.get(**need).is_some_and(|standing| !standing.done))
            .map(|need| self.steps[*need].name.as_str())
            .collect();
        if !undone.is_empty() {
            let why = waits_for("step", &undone);
            let step = &mut self.steps[at];
            (step.state, step.ready) = (State::Queued, false);
            // What was begun and has to wait for a service once more says why it starts again.
            if step.started.is_none() {
                step.why = Some(why);
            }
            return;
        }
        let broken = needs.iter().any(|need| standings.get(*need).is_some_and(|standing| standing.broken));
        let runs_on = self.steps[at].rules.runs_on;
        if !(if broken { runs_on.failure } else { runs_on.success }) {
            let why = match self.culprit(at, standings) {
                Some(culprit) => format!("step `{culprit}` did not succeed"),
                None => "it runs after a failure only, and nothing failed before it".to_owned(),
            };
            return self.steps[at].end(State::Skipped, Some(why), now);
        }
        let step = &mut self.steps[at];
        match ask(approvals, run, Scope::Step(step.id), step.rules.gate.as_deref()) {
            Gate::Open => {
                // What is ready already may say which other step of its kind it waits for.
                if step.started.is_none() && !step.ready {
                    step.why = None;
                }
                (step.state, step.ready) = (State::Queued, true);
            }
            Gate::Shut(why) => (step.state, step.ready, step.why) = (State::Blocked, false, Some(why)),
            Gate::Refused(why) => step.end(State::Cancelled, Some(why), now),
        }
    }

    /// The step that broke what `at` relies on.
    fn culprit(&self, at: usize, standings: &[Standing]) -> Option<&str> {
        let mut at = at;
        // As many turns as there are steps, because a chain is not longer.
        for _ in &self.steps {
            let is_broken = |need: &&usize| standings.get(**need).is_some_and(|standing| standing.broken);
            at = *self.steps[at].rules.needs.iter().find(is_broken)?;
            if self.steps[at].breaks_others() {
                return Some(&self.steps[at].name);
            }
        }
        None
    }

    /// Services and other detached steps live until everything else has ended.
    fn end_detached(&mut self, cancel: Option<&str>, now: Timestamp) {
        let lasting = |step: &Step| step.state.is_final() || (step.rules.detached && step.up);
        if !self.steps.iter().all(lasting) {
            return;
        }
        for step in self.steps.iter_mut().filter(|step| !step.state.is_final()) {
            match cancel {
                Some(why) => step.end(State::Cancelled, Some(why.to_owned()), now),
                None => {
                    step.end(State::Success, Some("stopped at the end of the workflow".to_owned()), now);
                }
            }
        }
    }

    /// Its state from those of its steps. A workflow without steps was finished by its plan and
    /// keeps that state.
    fn settle(&mut self) {
        if self.steps.is_empty() || self.state.is_final() {
            return;
        }
        let before = (self.state, self.why.take());
        self.state = match worst(self.steps.iter().map(Step::counted)) {
            // What was kept from another run is nothing that happened here.
            State::Running if !self.has_begun() => State::Queued,
            state => state,
        };
        let telling = self.steps.iter().find(|step| match self.state {
            State::Success => false,
            State::Queued => step.ready && step.why.is_some(),
            state => step.counted() == state && step.why.is_some(),
        });
        self.why = telling.and_then(|step| self.told_by(step));
        // Whoever gives out work said what the workflow waits for, and says so again when that changes.
        if self.why.is_none() && before.0 == State::Queued && self.state == State::Queued {
            self.why = before.1.filter(|why| why.starts_with(WAITS_FOR_A_PLACE));
        }
    }

    /// Where there are several steps, a failure is that of one of them.
    fn told_by(&self, step: &Step) -> Option<String> {
        let why = step.why.clone()?;
        let names_it = step.failed() && self.steps.len() > 1 && step.state != State::Cancelled;
        Some(if names_it { format!("step `{}`: {why}", step.name) } else { why })
    }
}

/// Woodpecker's table for workflows, where only a success counts as one: a workflow for failures
/// alone runs when none of what it needs succeeded.
fn unwanted(runs_on: RunsOn, needed: &[&Workflow]) -> Option<String> {
    let succeeded = |other: &&&Workflow| other.state == State::Success;
    match runs_on {
        RunsOn { success: true, failure: true } => None,
        RunsOn { success: true, failure: false } => {
            let other = needed.iter().find(|other| !succeeded(other))?;
            Some(format!("workflow `{}` did not succeed", other.name))
        }
        RunsOn { success: false, failure: true } => {
            let other = needed.iter().find(succeeded)?;
            Some(format!("it runs after a failure only, and workflow `{}` succeeded", other.name))
        }
        RunsOn { success: false, failure: false } => {
            Some("it runs neither after success nor failure".to_owned())
        }
    }
}

fn ask(approvals: &mut Vec<Approval>, run: RunId, scope: Scope, gate: Option<&str>) -> Gate {
    let Some(gate) = gate else { return Gate::Open };
    let known = approvals.iter().find(|approval| approval.scope == scope);
    match known.map(|approval| approval.answer.as_ref()) {
        Some(Some(Answer { approved: true, .. })) => Gate::Open,
        Some(Some(Answer { approved: false, who })) => {
            Gate::Refused(format!("approval `{gate}` was rejected by {who}"))
        }
        known => {
            if known.is_none() {
                approvals.push(Approval { scope, gate: gate.to_owned(), answer: None });
            }
            Gate::Shut(format!("waits for approval `{gate}`: mergeyard approve {run} {gate}"))
        }
    }
}

/// `waits for step a`, `waits for steps a, b and 3 more`.
fn waits_for(what: &str, names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let plural = if names.len() > 1 { "s" } else { "" };
    let more = names.len().saturating_sub(SHOWN);
    let shown = names[..names.len() - more].join(", ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("waits for {what}{plural} {shown}{more}")
}

fn standings(steps: &[Step]) -> Vec<Standing> {
    let (mut standings, mut seen) = (vec![Standing::default(); steps.len()], vec![false; steps.len()]);
    for at in 0..steps.len() {
        stand(steps, at, &mut standings, &mut seen);
    }
    standings
}

fn stand(steps: &[Step], at: usize, standings: &mut [Standing], seen: &mut [bool]) {
    // Seen before its needs are looked at: in a circle nothing is ever done.
    if std::mem::replace(&mut seen[at], true) {
        return;
    }
    for need in steps[at].rules.needs.iter().filter(|need| **need < steps.len()) {
        stand(steps, *need, standings, seen);
    }
    standings[at] = standing(&steps[at], standings);
}

/// A step that was skipped is only as done, and as good, as what it would have waited for.
fn standing(step: &Step, others: &[Standing]) -> Standing {
    let mut needs = step.rules.needs.iter().filter_map(|need| others.get(*need));
    let ended = step.state.is_final() || (step.rules.detached && step.up);
    let through = step.state != State::Skipped || needs.clone().all(|need| need.done);
    Standing { done: ended && through, broken: step.breaks_others() || needs.any(|need| need.broken) }
}
