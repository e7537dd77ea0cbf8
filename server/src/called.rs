//! What a person means by a name in a run: a question, a step. Said on the command line and to the
//! API alike, and answered with the same sentences.

use mergeyard_types::{RunId, StepId};

use crate::store::{ApprovalRow, Repeated, Rollback, RunPage};

/// The open question called by its gate's name, its workflow's or `workflow/step`; the only one
/// without a name.
pub(crate) fn question<'q>(
    questions: &'q [ApprovalRow],
    what: Option<&str>,
) -> Result<&'q ApprovalRow, String> {
    let open: Vec<&ApprovalRow> = questions.iter().filter(|question| question.answer.is_none()).collect();
    let meant = |question: &&&ApprovalRow| {
        what.is_none_or(|what| {
            question.gate == what || question.place() == what || is_workflow(question, what)
        })
    };
    let found: Vec<&ApprovalRow> = open.iter().filter(meant).copied().collect();
    match (&found[..], what) {
        ([question], _) => Ok(question),
        ([], _) if open.is_empty() => Err("nothing in this run waits for an answer".to_owned()),
        ([], what) => Err(format!("nothing called `{}` waits: {}", what.unwrap_or_default(), listed(&open))),
        (several, _) => Err(format!("say which one: {}", listed(several))),
    }
}

fn is_workflow(question: &ApprovalRow, what: &str) -> bool {
    question.workflow.as_ref().is_some_and(|(_, name)| name == what)
}

fn listed(questions: &[&ApprovalRow]) -> String {
    let named = |question: &&ApprovalRow| format!("{} (gate `{}`)", question.place(), question.gate);
    format!("these wait: {}", questions.iter().map(named).collect::<Vec<_>>().join(", "))
}

/// The step called by its id, `workflow/step`, or its name alone.
pub(crate) fn step(page: &RunPage, what: &str) -> Result<StepId, String> {
    let all = page.workflows.iter().flat_map(|workflow| {
        let axis = workflow.axis.as_ref().map(|axis| format!("/{axis}")).unwrap_or_default();
        workflow.steps.iter().map(move |step| (format!("{}{axis}/{}", workflow.name, step.name), step))
    });
    let meant = |(place, step): &(String, &crate::store::StepRow)| {
        place == what || step.name == what || step.id.to_string() == what
    };
    let found: Vec<_> = all.filter(meant).collect();
    match &found[..] {
        [(_, step)] => Ok(step.id),
        [] => Err(format!("run {} has no step called `{}`", page.run.id, what.escape_debug())),
        several => {
            let places: Vec<_> =
                several.iter().map(|(place, step)| format!("{place} ({})", step.id)).collect();
            Err(format!("say which step, by its id: {}", places.join(", ")))
        }
    }
}

/// The new run, or why there is none.
pub(crate) fn repeated(run: RunId, repeated: Repeated) -> Result<RunId, String> {
    match repeated {
        Repeated::Run(new) => Ok(new),
        Repeated::NoSuchRun => Err(format!("there is no run {run}")),
        Repeated::NoSuchStep => Err(format!("that step is not one of run {run}")),
        Repeated::StillRuns => Err(format!("run {run} is not over yet; `mergeyard cancel {run}` ends it")),
        Repeated::Nothing => Err(format!("nothing in run {run} failed, so there is nothing to repeat")),
    }
}

/// What a rollback does, for who asked for it.
pub(crate) fn rollback(rollback: &Rollback) -> String {
    let Rollback { run, from, to } = rollback;
    let live = match from {
        Some(live) => format!("{} is live now", live.short()),
        None => "what is live now is not known".to_owned(),
    };
    format!(
        "run {run} puts {} on {} back to {}, as run {} did at commit {}; {live}",
        to.service,
        to.target,
        to.digest.short(),
        to.run,
        to.commit.short()
    )
}
