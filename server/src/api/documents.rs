//! What the API shows of the database. Times are milliseconds since the Unix epoch.

use std::collections::BTreeMap;

use mergeyard_plan::finding::{self, Level, Quoted};
use mergeyard_types::{State, Timestamp};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, Schema, Type},
};

use crate::store::{self, ApprovalRow, DeliveryRow, RunPage, RunRow, StepRow, TokenRow, WorkflowRow};

/// What one change started.
#[derive(Serialize, ToSchema)]
pub(super) struct Run {
    id: i64,
    /// The delivery that started it.
    delivery: String,
    repository: String,
    /// In the pipeline language's words.
    event: String,
    branch: String,
    commit: String,
    title: String,
    author: String,
    /// Of the pull request.
    number: Option<u64>,
    #[schema(schema_with = state)]
    state: State,
    /// Why it was asked to stop.
    cancel: Option<String>,
    #[schema(value_type = i64)]
    created: Timestamp,
    #[schema(value_type = Option<i64>)]
    started: Option<Timestamp>,
    #[schema(value_type = Option<i64>)]
    finished: Option<Timestamp>,
}

/// A run with what it holds.
#[derive(Serialize, ToSchema)]
pub(super) struct RunDetails {
    #[serde(flatten)]
    run: Run,
    workflows: Vec<Workflow>,
    images: Vec<Image>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Workflow {
    id: i64,
    name: String,
    /// Its point of the matrix, or its folder.
    axis: Option<String>,
    #[schema(schema_with = state)]
    state: State,
    why: Option<String>,
    /// What its files were found to have wrong: the errors it was refused for, and warnings.
    findings: Vec<Finding>,
}

/// What is wrong in a file, and where.
#[derive(Serialize, ToSchema)]
pub(super) struct Finding {
    file: String,
    /// From 1; 0 when it is about the file as a whole.
    line: usize,
    /// From 1; 0 when it is about a whole line or file.
    column: usize,
    #[schema(value_type = String, pattern = "^(error|warning)$")]
    level: Level,
    code: String,
    message: String,
    /// The line it is about.
    text: Option<String>,
}

/// An image that the run published.
#[derive(Serialize, ToSchema)]
pub(super) struct Image {
    #[serde(rename = "ref")]
    reference: String,
    digest: String,
    tree: String,
    #[schema(value_type = i64)]
    published: Timestamp,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Step {
    id: i64,
    workflow: i64,
    name: String,
    /// What kind of step it is: `container`, `clone`, or a built-in action's name.
    uses: String,
    #[schema(schema_with = state)]
    state: State,
    why: Option<String>,
    attempt: u32,
    #[schema(value_type = Option<i64>)]
    started: Option<Timestamp>,
    #[schema(value_type = Option<i64>)]
    finished: Option<Timestamp>,
    outputs: BTreeMap<String, String>,
}

/// A webhook as it was received, and what became of it.
#[derive(Serialize, ToSchema)]
pub(super) struct Delivery {
    delivery: String,
    source: String,
    event: String,
    repository: Option<String>,
    #[schema(value_type = i64)]
    received: Timestamp,
    /// Bytes of its body.
    size: u64,
    state: String,
    /// What was decided, in words; null until then.
    verdict: Option<String>,
    attempts: u32,
    replays: u32,
    run: Option<i64>,
}

/// A token, never its secret.
#[derive(Serialize, ToSchema)]
pub(super) struct Token {
    name: String,
    role: store::Role,
    #[schema(value_type = i64)]
    created: Timestamp,
    #[schema(value_type = Option<i64>)]
    expires: Option<Timestamp>,
    /// To the minute.
    #[schema(value_type = Option<i64>)]
    used: Option<Timestamp>,
    #[schema(value_type = Option<i64>)]
    revoked: Option<Timestamp>,
}

/// A question that waits for a person.
#[derive(Serialize, ToSchema)]
pub(super) struct Approval {
    id: i64,
    gate: String,
    /// Null: the run as a whole.
    workflow: Option<String>,
    /// Null: the workflow as a whole.
    step: Option<String>,
    #[schema(value_type = i64)]
    asked: Timestamp,
}

/// The one set of states.
fn state() -> Schema {
    let words = State::ALL.map(State::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

impl Run {
    pub(super) fn of(row: &RunRow) -> Self {
        Self {
            id: row.id.0,
            delivery: row.delivery.to_string(),
            repository: row.repo.to_string(),
            event: row.event.clone(),
            branch: row.branch.clone(),
            commit: row.commit.to_string(),
            title: row.title.clone(),
            author: row.author.clone(),
            number: row.number,
            state: row.state,
            cancel: row.cancel.clone(),
            created: row.created,
            started: row.started,
            finished: row.finished,
        }
    }
}

impl RunDetails {
    pub(super) fn of(page: &RunPage) -> Self {
        let RunPage { run, workflows, images, .. } = page;
        let image = |image: &store::ImageRow| Image {
            reference: image.image.to_string(),
            digest: image.digest.to_string(),
            tree: image.tree.to_string(),
            published: image.published,
        };
        Self {
            run: Run::of(run),
            workflows: workflows.iter().map(Workflow::of).collect(),
            images: images.iter().map(image).collect(),
        }
    }
}

impl Workflow {
    fn of(row: &WorkflowRow) -> Self {
        let (name, axis, why) = (row.name.clone(), row.axis.clone(), row.why.clone());
        let findings = row.rules.findings.iter().map(Finding::of).collect();
        Self { id: row.id.0, name, axis, state: row.state, why, findings }
    }
}

impl Finding {
    fn of(quoted: &Quoted) -> Self {
        let Quoted { finding, line_text, mark: _ } = quoted.clone();
        let finding::Finding { file, line, column, level, code, message } = finding;
        Self { file, line, column, level, code, message, text: line_text }
    }
}

impl Step {
    pub(super) fn all_of(page: &RunPage) -> Vec<Self> {
        let of = |workflow: &WorkflowRow| {
            let id = workflow.id.0;
            workflow.steps.iter().map(move |step| Self::of(id, step)).collect::<Vec<_>>()
        };
        page.workflows.iter().flat_map(of).collect()
    }

    fn of(workflow: i64, row: &StepRow) -> Self {
        Self {
            id: row.id.0,
            workflow,
            name: row.name.clone(),
            uses: row.action.name().to_owned(),
            state: row.state,
            why: row.why.clone(),
            attempt: row.attempt,
            started: row.started,
            finished: row.finished,
            outputs: row.outputs.clone(),
        }
    }
}

impl Delivery {
    pub(super) fn of(row: &DeliveryRow) -> Self {
        Self {
            delivery: row.id.to_string(),
            source: row.source.as_str().to_owned(),
            event: row.event.clone(),
            repository: row.repo.clone(),
            received: row.received,
            size: row.body_size,
            state: row.state.as_str().to_owned(),
            verdict: row.verdict.clone(),
            attempts: row.attempts,
            replays: row.replays,
            run: row.run.map(|run| run.0),
        }
    }
}

impl Token {
    pub(super) fn of(row: &TokenRow) -> Self {
        let TokenRow { id: _, name, role, created, expires, used, revoked } = row.clone();
        Self { name, role, created, expires, used, revoked }
    }
}

impl Approval {
    pub(super) fn of(row: &ApprovalRow) -> Self {
        Self {
            id: row.id,
            gate: row.gate.clone(),
            workflow: row.workflow.as_ref().map(|(_, name)| name.clone()),
            step: row.step.as_ref().map(|(_, name)| name.clone()),
            asked: row.asked,
        }
    }
}
