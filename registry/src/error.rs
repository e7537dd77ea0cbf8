//! Refusals in the specification's words, and faults in the log's.
//!
//! A refusal tells the client which of the specification's error codes applies and what to do; a
//! fault (the disk, a bug) tells the client nothing but a constant and the log everything, once.

use std::{io, sync::Arc};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, StatusCode, header};
use mergeyard_types::{Digest, DigestError, ImageName, Version};
use serde_json::json;

use crate::{
    access::{Denied, ScopeError},
    mirror::UpstreamError,
    route::{Reference, RouteError},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Denied(Denied),
    /// Denied until the client proves who it is, in the way the challenge says.
    #[error("{denied}")]
    Unauthorized { denied: Denied, challenge: String },
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error("the registry does not take {0} here")]
    Method(Method),
    #[error("the query is not understood: {0}")]
    Query(String),
    #[error("repository `{0}` does not exist, or this account may not read it")]
    NameUnknown(ImageName),
    #[error("repository `{name}` has no blob {digest}")]
    BlobUnknown { name: ImageName, digest: Digest },
    #[error("repository `{name}` has no manifest `{name}{reference}`")]
    ManifestUnknown { name: ImageName, reference: Reference },
    #[error("the manifest is not valid: {0}")]
    ManifestInvalid(String),
    #[error("the manifest is larger than {0} bytes")]
    ManifestSize(usize),
    #[error("the manifest refers to {digest}, which repository `{name}` does not have: push it first")]
    ManifestBlobUnknown { name: ImageName, digest: Digest },
    #[error(
        "`{name}:{tag}` is already published as {digest}; raise the version in spec.json, or push under another tag"
    )]
    TagImmutable { name: ImageName, tag: Version, digest: Digest },
    #[error("blob {digest} is part of manifest {by}: delete that first")]
    BlobInUse { digest: Box<Digest>, by: Box<Digest> },
    #[error(
        "repository `{name}` may hold {quota} bytes and holds {used}: delete what is not needed any more, or ask for more"
    )]
    Quota { name: ImageName, quota: u64, used: u64 },
    #[error("this upload needs `digest=<algorithm>:<hex>` in the query")]
    DigestMissing,
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("the content received has the digest {actual}, not {expected}: upload it again")]
    DigestMismatch { expected: Box<Digest>, actual: Box<Digest> },
    #[error("no such upload is open: start another one")]
    UploadUnknown,
    #[error("another request is still writing to this upload: wait for it, then ask for the offset")]
    UploadBusy,
    #[error("Content-Range `{0}` is not understood: it must read `<first>-<last>`")]
    ContentRange(String),
    #[error("the chunk starts at byte {start}, the upload continues at byte {offset}")]
    OutOfOrder { start: u64, offset: u64, location: String },
    #[error("the body does not have the size its headers announce")]
    SizeInvalid,
    #[error("the blob is larger than {0} bytes")]
    BlobSize(u64),
    #[error("{0} uploads are open already: finish or cancel some, or wait until they expire")]
    TooManyUploads(usize),
    #[error("the requested range lies outside the {size} bytes of the blob")]
    Range { size: u64 },
    #[error("the connection broke before the body ended")]
    Cut(#[source] axum::Error),
    #[error(
        "`{name}` is a mirror of {upstream}, which decides what is in it: push there, or to another repository here"
    )]
    Mirrored { name: ImageName, upstream: String },
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// One failure of a download that several clients waited for.
    #[error(transparent)]
    Shared(Arc<Error>),
    #[error("the registry's storage failed")]
    Storage(#[from] io::Error),
    #[error("a task of the registry died")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    pub fn status(&self) -> StatusCode {
        self.meaning().0
    }

    /// The error code of the distribution specification, section "Error Codes".
    pub fn code(&self) -> &'static str {
        self.meaning().1
    }

    fn meaning(&self) -> (StatusCode, &'static str) {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        const NONE: StatusCode = StatusCode::NOT_FOUND;
        match self {
            Error::Route(RouteError::Name(_) | RouteError::Characters) => (BAD, "NAME_INVALID"),
            Error::Route(RouteError::Digest(_)) => (BAD, "DIGEST_INVALID"),
            Error::Route(RouteError::Tag { asked: true, .. }) => (NONE, "MANIFEST_UNKNOWN"),
            Error::Route(RouteError::Tag { asked: false, .. }) => (BAD, "MANIFEST_INVALID"),
            Error::Route(RouteError::UploadId) => (NONE, "BLOB_UPLOAD_UNKNOWN"),
            Error::Route(RouteError::Unknown) => (NONE, "UNSUPPORTED"),
            Error::Denied(Denied::Hidden { .. }) => (NONE, "NAME_UNKNOWN"),
            Error::Denied(Denied::Right { .. } | Denied::Operator { .. }) => {
                (StatusCode::FORBIDDEN, "DENIED")
            }
            Error::Denied(Denied::TooMany { .. }) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Error::Denied(_) | Error::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Error::Scope(_) => (BAD, "UNSUPPORTED"),
            Error::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Error::Query(_) => (BAD, "UNSUPPORTED"),
            Error::NameUnknown(_) => (NONE, "NAME_UNKNOWN"),
            Error::BlobUnknown { .. } => (NONE, "BLOB_UNKNOWN"),
            Error::ManifestUnknown { .. } => (NONE, "MANIFEST_UNKNOWN"),
            Error::ManifestInvalid(_) => (BAD, "MANIFEST_INVALID"),
            Error::ManifestSize(_) => (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID"),
            Error::ManifestBlobUnknown { .. } => (BAD, "MANIFEST_BLOB_UNKNOWN"),
            Error::TagImmutable { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            Error::BlobInUse { .. } => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Error::Quota { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            Error::DigestMissing | Error::Digest(_) | Error::DigestMismatch { .. } => (BAD, "DIGEST_INVALID"),
            Error::UploadUnknown => (NONE, "BLOB_UPLOAD_UNKNOWN"),
            Error::UploadBusy => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
            Error::ContentRange(_) => (BAD, "BLOB_UPLOAD_INVALID"),
            Error::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Error::SizeInvalid => (BAD, "SIZE_INVALID"),
            Error::BlobSize(_) => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
            Error::TooManyUploads(_) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            Error::Range { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
            Error::Cut(_) => (BAD, "BLOB_UPLOAD_INVALID"),
            Error::Mirrored { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            Error::Upstream(error) => error.meaning(),
            Error::Shared(error) => error.meaning(),
            Error::Storage(error) if is_full(error) => (StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN"),
            Error::Storage(_) | Error::Task(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        }
    }

    fn itself(&self) -> &Error {
        if let Error::Shared(error) = self { error } else { self }
    }

    fn message(&self) -> String {
        match self {
            Error::Storage(error) if is_full(error) => {
                "the registry's disk is full: nothing was stored, what is stored can be pulled; free space and try again"
                    .into()
            }
            Error::Storage(_) | Error::Task(_) => "the registry failed; its log says why".into(),
            Error::Shared(error) => error.message(),
            refusal => refusal.to_string(),
        }
    }

    /// Tells the log, once, what the client is not told.
    pub(crate) fn log(&self, method: &Method, path: &str) {
        // What is shared was told when it happened.
        if !self.status().is_server_error() || matches!(self, Error::Shared(_)) {
            return;
        }
        tracing::error!("{method} {path}: {}", chain(self));
    }
}

/// An error and its causes in one line, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let (mut chain, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        chain += &format!(": {error}");
        cause = error.source();
    }
    chain
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = json!({"errors": [{"code": self.code(), "message": self.message(), "detail": null}]});
        let mut response = (self.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        match self.itself() {
            Error::Unauthorized { challenge, .. } => {
                insert(headers, header::WWW_AUTHENTICATE, challenge.clone());
            }
            Error::Denied(Denied::TooMany { seconds }) => {
                headers.insert(header::RETRY_AFTER, (*seconds).into());
            }
            Error::OutOfOrder { offset, location, .. } => {
                insert(headers, header::RANGE, received(*offset));
                insert(headers, header::LOCATION, location.clone());
            }
            Error::Upstream(UpstreamError::TooManyRequests { wait, .. }) => {
                insert(headers, header::RETRY_AFTER, wait.as_secs().max(1).to_string());
            }
            Error::Range { size } => insert(headers, header::CONTENT_RANGE, format!("bytes */{size}")),
            _ => {}
        }
        response
    }
}

/// The `Range` of an upload: the bytes received, first and last inclusive. The convention for
/// none is `0-0`, which every client reads as "start at the beginning".
pub(crate) fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

/// Sets a header whose value is made of digests, names and numbers, all of them visible ASCII.
pub(crate) fn insert(headers: &mut http::HeaderMap, name: header::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
