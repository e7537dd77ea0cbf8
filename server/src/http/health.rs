//! `/healthz`: the process lives. `/readyz`: a webhook sent now would become durable.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use serde_json::{Value, json};

use crate::yard::Yard;

/// A database that takes longer would also let GitHub wait too long.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn router(yard: Arc<Yard>) -> Router {
    Router::new().route("/healthz", get(async || "alive\n")).route("/readyz", get(ready)).with_state(yard)
}

async fn ready(State(yard): State<Arc<Yard>>) -> (StatusCode, Json<Value>) {
    let why = match tokio::time::timeout(PATIENCE, yard.store.check_writable()).await {
        Ok(Ok(())) => return (StatusCode::OK, Json(json!({ "status": "ready" }))),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
            "the database cannot be written"
        }
        Err(_) => "the database does not answer in time",
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "degraded", "why": why })))
}
