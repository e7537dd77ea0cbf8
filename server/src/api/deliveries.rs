//! Deliveries: what was received and what became of it. Bodies stay on the command line, because a
//! payload of a private repository is more than its run shows.

use std::sync::Arc;

use axum::{Json, extract::State};
use mergeyard_types::DeliveryId;

use super::{
    documents::Delivery,
    problem::Problem,
    request::{Id, Listed, Page, Query},
};
use crate::yard::Yard;

/// Deliveries, newest first
#[utoipa::path(
    get,
    path = "/api/v1/deliveries",
    tag = "deliveries",
    params(Page),
    responses((status = 200, description = "a page of deliveries", body = Listed<Delivery>))
)]
pub(super) async fn deliveries(
    State(yard): State<Arc<Yard>>,
    Query(page): Query<Page>,
) -> Result<Json<Listed<Delivery>>, Problem> {
    let (before, asked) = page.ask()?;
    let rows = yard.store.deliveries(before, asked).await?;
    Ok(Json(Listed::new(rows, asked, |row| row.row, Delivery::of)))
}

/// One delivery
#[utoipa::path(
    get,
    path = "/api/v1/deliveries/{id}",
    tag = "deliveries",
    params(("id" = String, Path, description = "what its sender called it: GitHub's `X-GitHub-Delivery`")),
    responses(
        (status = 200, description = "the delivery", body = Delivery),
        (status = 404, description = "there is no such delivery", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delivery(
    State(yard): State<Arc<Yard>>,
    Id(id): Id<DeliveryId>,
) -> Result<Json<Delivery>, Problem> {
    let row = yard.store.delivery(&id).await?;
    row.map(|row| Json(Delivery::of(&row)))
        .ok_or_else(|| Problem::not_found(format!("there is no delivery {id}")))
}
