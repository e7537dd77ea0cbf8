//! Tokens, for who administers them. They are made and revoked on the command line.

use std::sync::Arc;

use axum::{Json, extract::State};

use super::{
    access::Admin,
    documents::Token,
    problem::Problem,
    request::{Listed, Page, Query},
};
use crate::yard::Yard;

/// Tokens, newest first, those that were revoked too
#[utoipa::path(
    get,
    path = "/api/v1/tokens",
    tag = "tokens",
    params(Page),
    security(("token" = ["admin"])),
    responses((status = 200, description = "a page of tokens", body = Listed<Token>))
)]
pub(super) async fn tokens(
    State(yard): State<Arc<Yard>>,
    _: Admin,
    Query(page): Query<Page>,
) -> Result<Json<Listed<Token>>, Problem> {
    let (before, asked) = page.ask()?;
    let rows = yard.store.tokens(before, asked).await?;
    Ok(Json(Listed::new(rows, asked, |row| row.id, Token::of)))
}
