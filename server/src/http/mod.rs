//! The public HTTP of the server: webhooks in, pages out, health.

mod health;
mod hooks;

use std::{io, path::Path, sync::Arc, time::Duration};

use axum::{Router, middleware::from_fn_with_state, response::Response};
use axum_server::tls_rustls::RustlsConfig;
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};
use tracing::{Span, error, info_span};

use crate::{
    api::{self, Access},
    web::{self, Cause, Pages},
    yard::Yard,
};

pub fn router(yard: Arc<Yard>, pages: Pages) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(|request: &axum::extract::Request| {
            info_span!("request", method = %request.method(), path = request.uri().path())
        })
        .on_request(())
        .on_failure(())
        .on_response(|response: &Response, latency: Duration, _: &Span| log_fault(response, latency));
    let access = Arc::new(Access::new(&yard));
    hooks::router(yard.clone())
        .merge(health::router(yard.clone()))
        .merge(api::router(yard))
        .merge(web::router(pages))
        .layer(from_fn_with_state(access, api::guard))
        .layer(CatchPanicLayer::new())
        .layer(trace)
}

/// The server's own certificate, when no proxy in front of it speaks TLS.
pub async fn tls(cert: &Path, key: &Path) -> io::Result<Arc<rustls::ServerConfig>> {
    Ok(RustlsConfig::from_pem_file(cert, key).await?.get_inner())
}

/// The body of a 500 says nothing; its cause rides along to here.
fn log_fault(response: &Response, latency: Duration) {
    if response.status().is_server_error() {
        let cause = response.extensions().get::<Cause>().map(|cause| &*cause.0 as &dyn std::error::Error);
        error!(status = response.status().as_u16(), ?latency, cause, "a request failed");
    }
}
