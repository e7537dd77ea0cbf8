//! The endpoints of the OCI distribution specification over a [`Registry`].
//!
//! Each request takes one way: its path becomes a [`Route`], its headers an [`Identity`] that may
//! do this, and one function per endpoint answers. Every refusal leaves through [`Error`]. Beside
//! them is the endpoint at which clients fetch tokens, see `token.rs`.

mod blobs;
mod lists;
mod manifests;
mod referrers;
mod token;
mod upkeep;
mod uploads;

use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use mergeyard_types::{Digest, ImageName, Timestamp};
use serde::de::DeserializeOwned;

use crate::{
    Registry,
    access::Identity,
    error::{Error, insert},
    event::{Act, Content, Event},
    route::{Route, Task},
};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

pub fn router(registry: Registry) -> Router {
    Router::new()
        .route("/v2", any(answer))
        .route("/v2/", any(answer))
        .route("/v2/{*rest}", any(answer))
        .route("/token", any(token::answer))
        .with_state(registry)
}

async fn answer(State(registry): State<Registry>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let mut response = dispatch(&registry, parts, body).await.unwrap_or_else(|error| {
        error.log(&method, uri.path());
        error.into_response()
    });
    // Old engines decide by this header whether the other side speaks the second version.
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

async fn dispatch(registry: &Registry, parts: Parts, body: Body) -> Result<Response, Error> {
    let method = parts.method.clone();
    let route = registry.mirrors.resolve(Route::parse(&method, parts.uri.path())?, &parts.uri);
    let identity = registry.access.authorize(&parts, &route, Timestamp::now())?;
    registry.mirrors.allow(&method, &route)?;
    let call = Call { registry, parts, identity };
    match (&method, route) {
        (&Method::GET | &Method::HEAD, Route::Base) => Ok(StatusCode::OK.into_response()),
        (&Method::GET, Route::Catalog) => call.catalog().await,
        (&Method::POST, Route::Upkeep(Task::Collect)) => call.collect().await,
        (&Method::POST, Route::Upkeep(Task::Verify)) => call.verify().await,
        (&Method::GET, Route::Tags { name }) => call.tags(name).await,
        (&Method::GET | &Method::HEAD, Route::Manifest { name, reference }) => {
            call.get_manifest(name, reference).await
        }
        (&Method::PUT, Route::Manifest { name, reference }) => call.put_manifest(name, reference, body).await,
        (&Method::GET | &Method::HEAD, Route::Blob { name, digest }) => call.get_blob(name, digest).await,
        (&Method::DELETE, Route::Manifest { name, reference }) => call.delete_manifest(name, reference).await,
        (&Method::DELETE, Route::Blob { name, digest }) => call.delete_blob(name, digest).await,
        (&Method::GET, Route::Referrers { name, subject }) => call.referrers(name, subject).await,
        (&Method::POST, Route::Uploads { name }) => call.start_upload(name, body).await,
        (&Method::GET, Route::Upload { name, id }) => call.upload_status(name, id),
        (&Method::PATCH, Route::Upload { name, id }) => call.append_chunk(name, id, body).await,
        (&Method::PUT, Route::Upload { name, id }) => call.finish_upload(name, id, body).await,
        (&Method::DELETE, Route::Upload { name, id }) => call.cancel_upload(name, id).await,
        _ => Err(Error::Method(method)),
    }
}

/// One request that was let in.
struct Call<'a> {
    registry: &'a Registry,
    parts: Parts,
    identity: Identity,
}

impl Call<'_> {
    fn query<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let query = Query::try_from_uri(&self.parts.uri).map_err(|error| Error::Query(error.body_text()))?;
        Ok(query.0)
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    fn tell(&self, act: Act, name: ImageName, content: Content) {
        self.registry.tell(Event { act, name, content, by: self.identity.name.clone() });
    }

    /// Does the client have exactly this content already?
    fn has(&self, digest: &Digest) -> bool {
        let known = |tag: &str| tag.trim().trim_start_matches("W/") == etag(digest) || tag.trim() == "*";
        self.header(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(known))
    }
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Headers that name content: the same for blobs and manifests, for all of it or a part.
fn identify(response: &mut Response, digest: &Digest) {
    let headers = response.headers_mut();
    insert(headers, CONTENT_DIGEST, digest.to_string());
    insert(headers, header::ETAG, etag(digest));
}
