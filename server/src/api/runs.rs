//! Runs: read by anybody, stopped by who may.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use mergeyard_plan::run::Rerun;
use mergeyard_types::{RepoName, RunId};
use serde::Deserialize;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::{
    access::Approver,
    documents::{Run, RunDetails, Step},
    problem::Problem,
    request::{Body, Id, Listed, Page, Query},
};
use crate::{
    called,
    store::{Repeated, RunPage},
    yard::Yard,
};

/// A reason is a line on a page.
const LONGEST_REASON: usize = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// Only of this repository, `owner/name`.
    #[param(max_length = 200, pattern = r"^[A-Za-z0-9_.][A-Za-z0-9_.-]*/[A-Za-z0-9_.][A-Za-z0-9_.-]*$")]
    repository: Option<String>,
    /// Only what is older: the `next` of the page before.
    before: Option<i64>,
    /// Rows at the most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cancel {
    /// Shown on the run's page.
    #[schema(max_length = 200)]
    why: Option<String>,
}

/// What to repeat; nothing said is everything.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Repeat {
    /// Only what failed and what relies on it.
    failed: bool,
    /// From this step on: its id, `workflow/step`, or its name where only one has it.
    from: Option<String>,
}

/// Runs, newest first
#[utoipa::path(
    get,
    path = "/api/v1/runs",
    tag = "runs",
    params(RunsQuery),
    responses((status = 200, description = "a page of runs", body = Listed<Run>))
)]
pub(super) async fn runs(
    State(yard): State<Arc<Yard>>,
    Query(query): Query<RunsQuery>,
) -> Result<Json<Listed<Run>>, Problem> {
    let (before, asked) = Page::new(query.before, query.limit).ask()?;
    let repo: Option<RepoName> = match query.repository.as_deref().map(str::parse) {
        None => None,
        Some(repo) => Some(repo.map_err(|error| Problem::bad_request(format!("`repository`: {error}")))?),
    };
    let rows = yard.store.runs(repo.as_ref(), before.map(RunId), asked).await?;
    Ok(Json(Listed::new(rows, asked, |row| row.id.0, Run::of)))
}

/// One run with its workflows and images
#[utoipa::path(
    get,
    path = "/api/v1/runs/{id}",
    tag = "runs",
    params(("id" = i64, Path, description = "the run")),
    responses(
        (status = 200, description = "the run", body = RunDetails),
        (status = 404, description = "there is no such run", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn run(
    State(yard): State<Arc<Yard>>,
    Id(run): Id<RunId>,
) -> Result<Json<RunDetails>, Problem> {
    Ok(Json(RunDetails::of(&page(&yard, run).await?)))
}

/// The steps of a run, workflow by workflow
#[utoipa::path(
    get,
    path = "/api/v1/runs/{id}/steps",
    tag = "runs",
    params(("id" = i64, Path, description = "the run")),
    responses(
        (status = 200, description = "its steps", body = Vec<Step>),
        (status = 404, description = "there is no such run", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn steps(
    State(yard): State<Arc<Yard>>,
    Id(run): Id<RunId>,
) -> Result<Json<Vec<Step>>, Problem> {
    Ok(Json(Step::all_of(&page(&yard, run).await?)))
}

/// Stop a run: what waits is cancelled, what runs is ended
#[utoipa::path(
    post,
    path = "/api/v1/runs/{id}/cancel",
    tag = "runs",
    params(("id" = i64, Path, description = "the run")),
    request_body = Option<Cancel>,
    security(("token" = ["approve"])),
    responses(
        (status = 202, description = "the run stops; this is how it is now", body = RunDetails),
        (status = 404, description = "there is no such run", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "the run is over already", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(yard): State<Arc<Yard>>,
    Approver(holder): Approver,
    Id(run): Id<RunId>,
    Body(cancel): Body<Cancel>,
) -> Result<(StatusCode, Json<RunDetails>), Problem> {
    let why = cancel.why.unwrap_or_else(|| "cancelled by the API".to_owned());
    if why.chars().count() > LONGEST_REASON || why.chars().any(char::is_control) {
        let detail = format!("`why` must be one line of up to {LONGEST_REASON} characters");
        return Err(Problem::bad_request(detail));
    }
    let why = format!("{why} (token `{}`)", holder.name);
    match yard.store.cancel_run(run, &why, yard.clock.now()).await? {
        None => Err(no_run(run)),
        Some(false) => Err(Problem::conflict(format!("run {run} is over already"))),
        Some(true) => {
            super::changed(&yard);
            Ok((StatusCode::ACCEPTED, Json(RunDetails::of(&page(&yard, run).await?))))
        }
    }
}

/// Run the same plan at the same commit again
#[utoipa::path(
    post,
    path = "/api/v1/runs/{id}/rerun",
    tag = "runs",
    params(("id" = i64, Path, description = "a run that is over")),
    request_body = Option<Repeat>,
    security(("token" = ["approve"])),
    responses(
        (status = 201, description = "the new run", body = RunDetails),
        (status = 404, description = "there is no such run or step", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "there is nothing to repeat, or not yet", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn rerun(
    State(yard): State<Arc<Yard>>,
    Approver(holder): Approver,
    Id(run): Id<RunId>,
    Body(repeat): Body<Repeat>,
) -> Result<(StatusCode, Json<RunDetails>), Problem> {
    let what = match repeat {
        Repeat { failed: true, from: Some(_) } => {
            return Err(Problem::bad_request("say `failed` or `from`, not both"));
        }
        Repeat { failed: true, from: None } => Rerun::Failed,
        Repeat { failed: false, from: None } => Rerun::All,
        Repeat { failed: false, from: Some(step) } => {
            Rerun::From(called::step(&page(&yard, run).await?, &step).map_err(Problem::not_found)?)
        }
    };
    let repeated = yard.store.rerun(run, what, yard.clock.now()).await?;
    let new = match called::repeated(run, repeated) {
        Ok(new) => new,
        Err(why) if matches!(repeated, Repeated::NoSuchRun | Repeated::NoSuchStep) => {
            return Err(Problem::not_found(why));
        }
        Err(why) => return Err(Problem::conflict(why)),
    };
    info!(target: "mergeyard::audit", token = holder.name, %run, %new, "repeated a run");
    super::changed(&yard);
    Ok((StatusCode::CREATED, Json(RunDetails::of(&page(&yard, new).await?))))
}

pub(super) async fn page(yard: &Yard, run: RunId) -> Result<RunPage, Problem> {
    yard.store.run_page(run).await?.ok_or_else(|| no_run(run))
}

pub(super) fn no_run(run: RunId) -> Problem {
    Problem::not_found(format!("there is no run {run}"))
}
