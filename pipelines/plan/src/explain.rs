//! A plan, told: what would run, wait or be skipped, and why.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    decide::{PlannedStep, PlannedWorkflow, Verdict},
    workflows::{Plan, Whys},
};

impl Plan {
    /// The form of `mergeyard plan --format json`.
    pub fn explain(&self) -> Value {
        let workflows = self.workflows.iter().zip(&self.whys).map(|(workflow, whys)| {
            let steps = whys.steps.iter().enumerate().map(|(at, (name, why))| {
                let told = Told::step(workflow.steps.get(at), why);
                let needs = names_of_needs(workflow, at);
                json!({"name": name, "verdict": told.verdict, "why": told.why, "depends_on": needs})
            });
            let told = Told::workflow(workflow, whys);
            let mut entry = json!({
                "name": workflow.name,
                "verdict": told.verdict,
                "why": told.why,
                "steps": steps.collect::<Vec<_>>(),
            });
            if let Some(axis) = &workflow.axis {
                entry["axis"] = json!(axis);
            }
            entry
        });
        json!({"event": self.event.as_str(), "workflows": workflows.collect::<Vec<_>>()})
    }

    /// The same for people: a line for each workflow and step. What was found in the files is not in it.
    pub fn text(&self) -> String {
        let mut text = format!("event {}\n", self.event);
        for (workflow, whys) in self.workflows.iter().zip(&self.whys) {
            let told = Told::workflow(workflow, whys);
            let axis = workflow.axis.as_deref().map(|axis| format!(" [{axis}]")).unwrap_or_default();
            let _ = writeln!(text, "\n{:<4} {}{axis}: {}", told.verdict, workflow.name, told.why);
            for (at, (name, why)) in whys.steps.iter().enumerate() {
                let told = Told::step(workflow.steps.get(at), why);
                let needs = names_of_needs(workflow, at);
                let after =
                    if needs.is_empty() { String::new() } else { format!(" (after {})", needs.join(", ")) };
                let _ = writeln!(text, "  {:<4} {name}{after}: {}", told.verdict, told.why);
            }
        }
        text
    }
}

fn names_of_needs(workflow: &PlannedWorkflow, at: usize) -> Vec<&str> {
    let needs = workflow.steps.get(at).map(|step| step.rules.needs.as_slice()).unwrap_or_default();
    needs.iter().filter_map(|need| Some(workflow.steps.get(*need)?.name.as_str())).collect()
}

struct Told {
    verdict: &'static str,
    why: String,
}

impl Told {
    fn workflow(workflow: &PlannedWorkflow, whys: &Whys) -> Self {
        let mut why = whys.workflow.clone();
        match &workflow.verdict {
            Verdict::Run => {}
            Verdict::Skip(_) => return Self { verdict: "skip", why },
            Verdict::Refuse(_) => return Self { verdict: "skip", why: format!("refused: {why}") },
        }
        if let Some(gate) = &workflow.rules.gate {
            return Self { verdict: "wait", why: format!("a person has to approve `{gate}` first; {why}") };
        }
        if !workflow.rules.needs.is_empty() {
            let _ = write!(why, "; it starts after {}", workflow.rules.needs.join(", "));
        }
        if let (false, true) = (workflow.rules.runs_on.success, workflow.rules.runs_on.failure) {
            why.push_str(", and only if something failed there");
        }
        if let Some(rule) = &workflow.rules.concurrency {
            let _ = write!(why, "; at most {} of `{}` at a time", rule.limit, rule.group);
        }
        Self { verdict: "run", why }
    }

    /// A workflow that does not run has no steps, only their names.
    fn step(step: Option<&PlannedStep>, why: &str) -> Self {
        let Some(step) = step else { return Self { verdict: "skip", why: why.to_owned() } };
        let mut why = why.to_owned();
        match (&step.verdict, &step.rules.gate) {
            (Verdict::Run, Some(gate)) => {
                return Self {
                    verdict: "wait",
                    why: format!("a person has to approve `{gate}` first; {why}"),
                };
            }
            (Verdict::Run, None) => {}
            _ => return Self { verdict: "skip", why },
        }
        match step.action.target() {
            Some(target) if step.action.is_check() => {
                let _ = write!(why, "; it only says what would change on `{target}`");
            }
            Some(target) => {
                let _ = write!(why, "; it deploys to `{target}`, in its turn");
            }
            None => {}
        }
        match (step.rules.runs_on.success, step.rules.runs_on.failure) {
            (false, true) => why.push_str(", and only if something failed before it"),
            (true, true) => why.push_str(", even if something failed before it"),
            (false, false) => why.push_str(", and no status is left for it"),
            (true, false) => {}
        }
        Self { verdict: "run", why }
    }
}
