//! Gates: what waits for a person, and the answer.

use std::sync::Arc;

use axum::{Json, extract::State};
use mergeyard_plan::run::Answer;
use mergeyard_types::RunId;
use serde::Deserialize;
use tracing::info;
use utoipa::ToSchema;

use super::{
    access::Approver,
    documents::{Approval, RunDetails},
    problem::Problem,
    request::{Body, Id},
    runs::{no_run, page},
};
use crate::{called, store::Answered, yard::Yard};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GateAnswer {
    answer: Word,
    /// Which question: the gate's name, the workflow's, or `workflow/step`. Needed where several wait.
    gate: Option<String>,
    /// With `approve`: pull requests from forks of this account start without a question from now on,
    /// in this repository.
    #[serde(default)]
    trust_account: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Word {
    Approve,
    Reject,
}

/// What of a run waits for an answer
#[utoipa::path(
    get,
    path = "/api/v1/runs/{id}/approvals",
    tag = "approvals",
    params(("id" = i64, Path, description = "the run")),
    responses(
        (status = 200, description = "the open questions", body = Vec<Approval>),
        (status = 404, description = "there is no such run", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn approvals(
    State(yard): State<Arc<Yard>>,
    Id(run): Id<RunId>,
) -> Result<Json<Vec<Approval>>, Problem> {
    page(&yard, run).await?;
    let questions = yard.store.questions(run).await?;
    Ok(Json(questions.iter().filter(|question| question.answer.is_none()).map(Approval::of).collect()))
}

/// Open or refuse what waits
#[utoipa::path(
    post,
    path = "/api/v1/runs/{id}/approvals",
    tag = "approvals",
    params(("id" = i64, Path, description = "the run")),
    request_body = GateAnswer,
    security(("token" = ["approve"])),
    responses(
        (status = 200, description = "the run as it is now", body = RunDetails),
        (status = 404, description = "there is no such run", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "nothing of that name waits, or several do", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn answer(
    State(yard): State<Arc<Yard>>,
    Approver(holder): Approver,
    Id(run): Id<RunId>,
    Body(given): Body<GateAnswer>,
) -> Result<Json<RunDetails>, Problem> {
    let GateAnswer { answer, gate, trust_account } = given;
    let approved = answer == Word::Approve;
    if trust_account && !approved {
        return Err(Problem::bad_request("`trust_account` goes with `approve` only"));
    }
    page(&yard, run).await?;
    let questions = yard.store.questions(run).await?;
    let question = called::question(&questions, gate.as_deref()).map_err(Problem::conflict)?;
    let now = yard.clock.now();
    if trust_account && yard.store.trust_account(run, &holder.name, now).await? != Some(true) {
        return Err(Problem::conflict(format!("run {run} does not say which account caused it")));
    }
    let answer = Answer { approved, who: holder.name.clone() };
    match yard.store.answer(run, question.scope(), answer, now).await? {
        Answered::Taken(_) => {}
        Answered::NothingAsked => return Err(Problem::conflict("somebody else has answered already")),
        Answered::NoSuchRun => return Err(no_run(run)),
    }
    info!(target: "mergeyard::audit", token = holder.name, %run, gate = question.gate, approved, "answered a gate");
    super::changed(&yard);
    Ok(Json(RunDetails::of(&page(&yard, run).await?)))
}
