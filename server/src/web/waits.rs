//! Why a step or a workflow is not running: the question people ask most often of a page
//! that does not answer it.

use mergeyard_types::{RunId, State};

use crate::store::{RunRow, StepRow, WorkflowRow};

/// What something waits for, and the command that ends the wait when a person has to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) for_what: String,
    pub(super) command: Option<String>,
}

impl Waits {
    fn for_(what: String) -> Self {
        Self { for_what: what, command: None }
    }

    fn for_approval(run: RunId, gate: &str) -> Self {
        let what = format!("waits for approval `{gate}`");
        Self { for_what: what, command: Some(format!("mergeyard approve {run} {}", word(gate))) }
    }

    /// Of the run as a whole, which waits for a person when a stranger caused it.
    pub(super) fn of_run(run: &RunRow, workflows: &[WorkflowRow]) -> Option<Self> {
        let has_gate = |workflow: &WorkflowRow| {
            workflow.rules.gate.is_some() || workflow.steps.iter().any(|step| step.rules.gate.is_some())
        };
        let blocked = |workflow: &&WorkflowRow| workflow.state == State::Blocked;
        let other = workflows.iter().filter(blocked).any(has_gate);
        (run.state == State::Blocked && !other).then(|| Self {
            for_what: match run.fork {
                true => "waits for approval, because it comes from a fork".to_owned(),
                false => "waits for approval".to_owned(),
            },
            command: Some(format!("mergeyard approve {}", run.id)),
        })
    }

    pub(super) fn of_workflow(run: &RunRow, workflow: &WorkflowRow, all: &[WorkflowRow]) -> Option<Self> {
        let begun = |step: &StepRow| step.started.is_some();
        if workflow.state.is_final() || workflow.steps.iter().any(begun) {
            return None;
        }
        let is_open = |name: &&String| {
            all.iter()
                .any(|other| other.name == **name && other.name != workflow.name && !other.state.is_final())
        };
        let needs: Vec<&String> = workflow.rules.needs.iter().filter(is_open).collect();
        if !needs.is_empty() {
            let kind = if needs.len() == 1 { "workflow" } else { "workflows" };
            return Some(Self::for_(format!("waits for the {kind} {}", list(needs))));
        }
        match (&workflow.rules.gate, &workflow.rules.concurrency) {
            (Some(gate), _) if workflow.state == State::Blocked => Some(Self::for_approval(run.id, gate)),
            (_, Some(rule)) if workflow.state == State::Queued => {
                let (group, limit) = (&rule.group, rule.limit);
                Some(Self::for_(format!(
                    "waits for its turn in the group `{group}`, of which {limit} may run"
                )))
            }
            _ => None,
        }
    }

    /// Of a step whose workflow waits for nothing itself.
    pub(super) fn of_step(run: &RunRow, step: &StepRow, workflow: &WorkflowRow) -> Option<Self> {
        match (step.state, &step.rules.gate) {
            (State::Blocked, Some(gate)) => Some(Self::for_approval(run.id, gate)),
            (State::Queued | State::Blocked, _) => {
                let is_open = |step: &&StepRow| match step.rules.detached {
                    true => !step.up && !step.state.is_final(),
                    false => !step.state.is_final(),
                };
                let needs = step.rules.needs.iter().filter_map(|at| workflow.steps.get(*at));
                let open: Vec<&String> = needs.filter(is_open).map(|step| &step.name).collect();
                match open.is_empty() {
                    false => Some(Self::for_(format!("waits for {}", list(open)))),
                    true if step.state == State::Queued => Some(Self::for_("waits for a worker".to_owned())),
                    true => None,
                }
            }
            _ => None,
        }
    }
}

/// `a`, `a and b`, `a, b and c`; long lists end in a number.
fn list(names: Vec<&String>) -> String {
    const MOST: usize = 4;
    let more = names.len().saturating_sub(MOST);
    let mut words: Vec<String> = names.into_iter().take(MOST).map(|name| format!("`{name}`")).collect();
    if more > 0 {
        words.push(format!("{more} more"));
    }
    match words.pop() {
        Some(last) if !words.is_empty() => format!("{} and {last}", words.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// As a shell takes it. Gates are named by whoever writes the pipeline, and the command is
/// there to be copied.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_with_a_hostile_name_is_one_word_of_the_command() {
        assert_eq!(word("production"), "production");
        assert_eq!(word("x; rm -rf ~"), "'x; rm -rf ~'");
        assert_eq!(word("a'b"), r"'a'\''b'");
        assert_eq!(word("--all"), "'--all'");
        assert_eq!(word(""), "''");
    }

    #[test]
    fn names_are_listed_as_a_sentence() {
        let names: Vec<String> = (1..=6).map(|n| format!("s{n}")).collect();
        assert_eq!(list(names.iter().take(1).collect()), "`s1`");
        assert_eq!(list(names.iter().take(3).collect()), "`s1`, `s2` and `s3`");
        assert_eq!(list(names.iter().collect()), "`s1`, `s2`, `s3`, `s4` and 2 more");
    }
}
