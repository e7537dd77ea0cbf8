//! Rollbacks: asked for by who may approve.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use mergeyard_types::TargetName;
use serde::Deserialize;
use tracing::info;
use utoipa::ToSchema;

use super::{
    access::Approver,
    documents::RunDetails,
    problem::Problem,
    request::{Body, Id},
    runs,
};
use crate::{called, store::Wanted, yard::Yard};

/// What to go back to; nothing said is what was live before.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Back {
    /// A digest that was proven there, or how its digits begin.
    to: Option<String>,
    /// What of the target, where there are several.
    service: Option<String>,
}

/// Make live again on a target what was live before
#[utoipa::path(
    post,
    path = "/api/v1/targets/{name}/rollback",
    tag = "targets",
    params(("name" = String, Path, description = "the target")),
    request_body = Option<Back>,
    security(("token" = ["approve"])),
    responses(
        (status = 201, description = "the run that does it", body = RunDetails),
        (status = 404, description = "there is no such target", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "there is nothing to go back to, or it is not clear what", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn rollback(
    State(yard): State<Arc<Yard>>,
    Approver(holder): Approver,
    Id(target): Id<TargetName>,
    Body(Back { to, service }): Body<Back>,
) -> Result<(StatusCode, Json<RunDetails>), Problem> {
    if yard.rules().target(&target).is_none() {
        return Err(Problem::not_found(format!("there is no target `{target}`")));
    }
    let who = format!("token `{}`", holder.name);
    let wanted = Wanted { service, to };
    let begun = yard.store.rollback(&target, &wanted, &who, yard.clock.now()).await?;
    let rollback = begun.map_err(|why| Problem::conflict(why.to_string()))?;
    let about = called::rollback(&rollback);
    info!(target: "mergeyard::audit", token = holder.name, run = %rollback.run, about, "began a rollback");
    super::changed(&yard);
    Ok((StatusCode::CREATED, Json(RunDetails::of(&runs::page(&yard, rollback.run).await?))))
}
