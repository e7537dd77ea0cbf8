//! The API for programs, and the document that describes it.
//!
//! Every operation is declared once, beside its handler; the document is collected from there, so
//! it cannot speak of what is not served. Only `Authorization: Bearer` is looked at: there are no
//! cookies, so no other site can make a browser change anything.

mod access;
mod approvals;
mod deliveries;
mod deployments;
mod documents;
mod manual;
pub(crate) mod problem;
mod request;
mod rollback;
mod runs;
mod targets;
mod tokens;

use std::{future::ready, sync::Arc};

use axum::{
    Router,
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::{any, get},
};
use bytes::Bytes;
use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use access::guard;
pub use access::{Access, new_token, token_hash};
pub(crate) use deployments::Deployment;
pub(crate) use manual::wish;
pub(crate) use targets::Targets;

use crate::{web, yard::Yard};
use problem::{Problem, ProblemDocument};

/// What every operation may answer besides its own.
const REFUSALS: [(&str, &str); 4] = [
    ("400", "a parameter or the body does not read"),
    ("401", "the token is missing, or not valid"),
    ("429", "too many tokens that are not valid came from this address"),
    ("500", "the server could not; its log says why"),
];

/// What an operation that needs a token may answer besides.
const FORBIDDEN: (&str, &str) = ("403", "the token's role does not allow this");

/// What an operation with a body may answer besides.
const BODY_REFUSALS: [(&str, &str); 2] = [("413", "the body is too large"), ("415", "the body is not JSON")];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "mergeyard",
        description = "Reading needs no token; a token that is sent must be valid. Times are milliseconds since the Unix epoch."
    ),
    components(schemas(ProblemDocument))
)]
struct Api;

pub(crate) fn router(yard: Arc<Yard>) -> Router {
    let (router, mut document) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(runs::runs))
        .routes(routes!(runs::run))
        .routes(routes!(runs::steps))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::rerun))
        .routes(routes!(approvals::approvals, approvals::answer))
        .routes(routes!(manual::start))
        .routes(routes!(rollback::rollback))
        .routes(routes!(deliveries::deliveries))
        .routes(routes!(deliveries::delivery))
        .routes(routes!(targets::targets))
        .routes(routes!(targets::target))
        .routes(routes!(deployments::deployments))
        .routes(routes!(deployments::deployment))
        .routes(routes!(tokens::tokens))
        .split_for_parts();
    document.merge(web::streams());
    let document = finish(document).to_json().expect("the document's keys are text");
    let document = Bytes::from(document);
    router
        .route("/api/v1/openapi.json", get(move || ready(describe(document.clone()))))
        .method_not_allowed_fallback(not_allowed)
        .route("/api/{*rest}", any(nothing))
        .with_state(yard)
}

fn describe(document: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document)
}

/// After a change that workers and pages should notice at once.
fn changed(yard: &Yard) {
    yard.wake.steps.notify_one();
    yard.wake.outbox.notify_one();
    yard.changes.tell();
}

async fn nothing(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}; `/api/v1/openapi.json` says what is", uri.path()))
}

pub(crate) async fn not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} is not possible at {}; `/api/v1/openapi.json` says what is", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// Adds what all operations share, so that none can forget it.
fn finish(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        operations.into_iter().filter_map(Option::as_mut).for_each(complete);
    }
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some(
        "a token of `mergeyard token create`; each role allows what those before it do: read, approve, admin"
            .to_owned(),
    );
    document.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(bearer));
    document
}

fn complete(operation: &mut Operation) {
    let mut refusals = REFUSALS.to_vec();
    if operation.security.is_some() {
        refusals.push(FORBIDDEN);
    }
    if operation.request_body.is_some() {
        refusals.extend(BODY_REFUSALS);
    }
    for (status, description) in refusals {
        let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response =
            ResponseBuilder::new().description(description).content("application/problem+json", content);
        operation.responses.responses.insert(status.to_owned(), response.build().into());
    }
}
