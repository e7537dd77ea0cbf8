//! What is said to a program that cannot have what it asked for: `application/problem+json`, RFC 9457.

use std::{error::Error, sync::Arc, time::Duration};

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{secrets::SecretError, store::StoreError, web::Cause};

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(axum::http::HeaderName, HeaderValue)>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// A refusal as it is sent.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument {
    /// Always `about:blank`: the status says what kind it is.
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    /// What is wrong here, and what to do.
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None, cause: None }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// No token: how to come with one.
    pub(super) fn no_token() -> Self {
        let problem = Self::new(
            StatusCode::UNAUTHORIZED,
            "this needs a token: send `Authorization: Bearer my_…`; `mergeyard token create` makes one",
        );
        problem.with(WWW_AUTHENTICATE, "Bearer realm=\"mergeyard\"")
    }

    /// Whether a token is unknown, expired or revoked is not told apart here.
    pub(super) fn bad_token() -> Self {
        let problem = Self::new(StatusCode::UNAUTHORIZED, "this token is not valid, or no longer");
        problem.with(WWW_AUTHENTICATE, "Bearer realm=\"mergeyard\", error=\"invalid_token\"")
    }

    pub(super) fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let detail =
            format!("too many tokens that are not valid came from this address: wait {seconds} seconds");
        let mut problem = Self::new(StatusCode::TOO_MANY_REQUESTS, detail);
        problem.header = Some((RETRY_AFTER, seconds.into()));
        problem
    }

    /// A fault of ours: the body is constant and the cause goes to the log.
    pub(crate) fn fault(cause: impl Error + Send + Sync + 'static) -> Self {
        let detail = "mergeyard could not do this; the server's log says why";
        let cause = Some(Arc::new(cause) as Arc<dyn Error + Send + Sync>);
        Self { cause, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail) }
    }

    fn with(mut self, name: axum::http::HeaderName, value: &'static str) -> Self {
        self.header = Some((name, HeaderValue::from_static(value)));
        self
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::fault(error)
    }
}

impl From<SecretError> for Problem {
    fn from(error: SecretError) -> Self {
        Self::fault(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail, header, cause } = self;
        let title = status.canonical_reason().unwrap_or("Problem");
        let document = ProblemDocument { kind: "about:blank", title, status: status.as_u16(), detail };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(header);
        if let Some(cause) = cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}
