//! Deployments: what went live where, and what became of it.

use std::sync::Arc;

use axum::{Json, extract::State};
use mergeyard_types::{DeploymentId, TargetName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, ToSchema,
    openapi::schema::{ObjectBuilder, Schema, Type},
};

use super::{
    problem::Problem,
    request::{Id, Listed, Page, Query},
};
use crate::{
    store::{Deployed, DeploymentState},
    yard::Yard,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeploymentsQuery {
    /// Only to this target.
    #[param(max_length = 63, pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    target: Option<String>,
    /// Only of this service.
    service: Option<String>,
    /// Only what is older: the `next` of the page before.
    before: Option<i64>,
    /// Rows at the most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
}

/// One thing made live on one target, or tried to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deployment {
    id: i64,
    target: String,
    /// What of the target: a rollout's service, the image that a playbook was given, a mirror's list.
    service: String,
    /// Null: a mirror's snapshot.
    image: Option<String>,
    /// Of the image, where a run published it.
    version: Option<String>,
    digest: String,
    /// What was live when it began.
    before: Option<String>,
    /// What is live since its end; null: nothing, or it is not known.
    live: Option<String>,
    repository: String,
    commit: String,
    /// Of the pull request.
    number: Option<u64>,
    run: i64,
    step: i64,
    who: String,
    /// The deployment that it takes back.
    rollback_of: Option<i64>,
    #[schema(schema_with = state)]
    state: &'static str,
    /// What its proof said, or why there is none.
    health: Option<String>,
    #[schema(value_type = i64)]
    started: Timestamp,
    #[schema(value_type = Option<i64>)]
    finished: Option<Timestamp>,
}

fn state() -> Schema {
    let words = DeploymentState::ALL.map(DeploymentState::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

impl Deployment {
    pub(crate) fn of(one: &Deployed) -> Self {
        let Deployed { row, version, .. } = one;
        Self {
            id: row.id.0,
            target: row.target.to_string(),
            service: row.service.clone(),
            image: row.image.as_ref().map(ToString::to_string),
            version: version.as_ref().map(ToString::to_string),
            digest: row.digest.to_string(),
            before: row.before.map(|digest| digest.to_string()),
            live: row.live.map(|digest| digest.to_string()),
            repository: row.repo.to_string(),
            commit: row.commit.to_string(),
            number: row.number,
            run: row.run.0,
            step: row.step.0,
            who: row.who.clone(),
            rollback_of: row.rollback_of.map(|id| id.0),
            state: row.state.as_str(),
            health: row.health.clone(),
            started: row.started,
            finished: row.finished,
        }
    }
}

/// Deployments, newest first
#[utoipa::path(
    get,
    path = "/api/v1/deployments",
    tag = "targets",
    params(DeploymentsQuery),
    responses((status = 200, description = "a page of deployments", body = Listed<Deployment>))
)]
pub(super) async fn deployments(
    State(yard): State<Arc<Yard>>,
    Query(query): Query<DeploymentsQuery>,
) -> Result<Json<Listed<Deployment>>, Problem> {
    let (before, asked) = Page::new(query.before, query.limit).ask()?;
    let target: Option<TargetName> = match query.target.as_deref().map(str::parse) {
        None => None,
        Some(target) => Some(target.map_err(|error| Problem::bad_request(format!("`target`: {error}")))?),
    };
    let service = query.service.as_deref();
    let rows = yard.store.deployed(target.as_ref(), service, before.map(DeploymentId), asked).await?;
    Ok(Json(Listed::new(rows, asked, |one| one.row.id.0, Deployment::of)))
}

/// One deployment
#[utoipa::path(
    get,
    path = "/api/v1/deployments/{id}",
    tag = "targets",
    params(("id" = i64, Path, description = "the deployment")),
    responses(
        (status = 200, description = "the deployment", body = Deployment),
        (status = 404, description = "there is no such deployment", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn deployment(
    State(yard): State<Arc<Yard>>,
    Id(id): Id<DeploymentId>,
) -> Result<Json<Deployment>, Problem> {
    let found = yard.store.deployed_as(id).await?;
    found
        .map(|one| Json(Deployment::of(&one)))
        .ok_or_else(|| Problem::not_found(format!("there is no deployment {id}")))
}
