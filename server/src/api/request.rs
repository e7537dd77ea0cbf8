//! What requests bring, read so that every refusal is a problem document.

use std::str::FromStr;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
};
use mergeyard_types::RepoName;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// Bodies here are a few words; inputs of a manual run are the longest.
const LARGEST_BODY: usize = 256 * 1024;

/// Rows of a list without `limit`.
const USUAL_PAGE: u32 = 50;

/// Rows of a list at the most.
const LARGEST_PAGE: u32 = 200;

/// What stands behind the `?`.
pub(super) struct Query<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|error| Problem::bad_request(said(&error)))
    }
}

/// The id in the path. One that cannot be an id names nothing.
pub(super) struct Id<T>(pub(super) T);

impl<S: Send + Sync, T: FromStr> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let nothing = || Problem::not_found("there is nothing with this id");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| nothing())?;
        let id = params.iter().next().and_then(|(_, text)| text.parse().ok());
        id.map(Self).ok_or_else(nothing)
    }
}

/// The repository in the path.
pub(super) struct Repo(pub(super) RepoName);

impl<S: Send + Sync> FromRequestParts<S> for Repo {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let nothing = || Problem::not_found("there is no such repository");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| nothing())?;
        let name = params.iter().map(|(_, part)| part).collect::<Vec<_>>().join("/");
        name.parse().map(Self).map_err(|_| nothing())
    }
}

/// A JSON body. No body at all, or `null`, is one that leaves everything out.
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind =
            request.headers().get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default().to_owned());
        let body = to_bytes(request.into_body(), LARGEST_BODY).await.map_err(|_| {
            let detail = format!("the body broke off or is larger than {LARGEST_BODY} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        })?;
        // A form of another site cannot send this type without asking first.
        let kind = kind.as_deref().and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !body.is_empty() && !kind.eq_ignore_ascii_case("application/json") {
            let detail = "the body must be JSON, with `Content-Type: application/json`";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let body = if matches!(body.trim_ascii(), b"" | b"null") { b"{}" } else { &body[..] };
        // A list would be taken for the values of all fields, in some order.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(Problem::bad_request("the body must be a JSON object"));
        }
        let mut json = serde_json::Deserializer::from_slice(body);
        let value = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| Problem::bad_request(format!("the body does not read: {error}")))?;
        json.end().map_err(|_| Problem::bad_request("there is more text after the JSON value"))?;
        Ok(Self(value))
    }
}

/// A part of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Only what is older: the `next` of the page before.
    before: Option<i64>,
    /// Rows at the most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
}

impl Page {
    pub(super) fn new(before: Option<i64>, limit: Option<u32>) -> Self {
        Self { before, limit }
    }

    /// Where to begin and how much to read: one row more than a page holds tells whether there is
    /// another.
    pub(super) fn ask(&self) -> Result<(Option<i64>, u32), Problem> {
        let limit = self.limit.unwrap_or(USUAL_PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            return Err(Problem::bad_request(format!("`limit` must be from 1 to {LARGEST_PAGE}")));
        }
        Ok((self.before, limit + 1))
    }
}

/// A page of a list, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Listed<T> {
    items: Vec<T>,
    /// The `before` of the next page; null on the last.
    next: Option<i64>,
}

impl<T> Listed<T> {
    /// From the rows that [`Page::ask`] asked for.
    pub(super) fn new<R>(
        mut rows: Vec<R>,
        asked: u32,
        place: impl Fn(&R) -> i64,
        show: impl Fn(&R) -> T,
    ) -> Self {
        let page = asked as usize - 1;
        let more = rows.len() > page;
        rows.truncate(page);
        Self { next: rows.last().filter(|_| more).map(place), items: rows.iter().map(show).collect() }
    }
}

/// An error with its causes, which is where extractors say what they mean.
fn said(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => said(cause),
        None => error.to_string(),
    }
}
