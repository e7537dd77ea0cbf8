//! Collecting and verifying a registry that serves, when its operator asks for it.
//!
//! The answer is lines of JSON that come as the work goes on, the last of them the result. Who stops
//! listening does not stop the work.

use std::time::{Duration, Instant};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Call;
use crate::{Removal, Verifying, error::Error};

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// Bounds what is kept for a listener that is slow.
const BACKLOG: usize = 1024;

/// People need no more of it, and each is a line.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    dry_run: bool,
}

impl Call<'_> {
    pub(super) async fn collect(&self) -> Result<Response, Error> {
        let asked: Asked = self.query()?;
        let asked = self.registry.collection(asked.dry_run).await;
        let knows_what_runs = asked.in_use.is_some();
        let (sender, lines) = mpsc::channel(BACKLOG);
        let registry = self.registry.clone();
        tokio::spawn(async move {
            let each = sender.clone();
            let told = registry.collect(asked, move |removal: &Removal| tell(&each, removal)).await;
            let result = told.map(|sum| json!({"collected": sum, "knows_what_runs": knows_what_runs}));
            let _ = sender.send(line(&result.unwrap_or_else(failed))).await;
        });
        Ok(streamed(lines))
    }

    pub(super) async fn verify(&self) -> Result<Response, Error> {
        let (sender, lines) = mpsc::channel(BACKLOG);
        let registry = self.registry.clone();
        tokio::spawn(async move {
            let each = sender.clone();
            let mut last = None::<Instant>;
            let told = registry.verify(move |what| match what {
                Verifying::Fault(fault) => tell(&each, &json!({"fault": fault})),
                Verifying::Progress(progress) if last.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) => {
                    last = Some(Instant::now());
                    tell(&each, &json!({"progress": progress}));
                }
                Verifying::Progress(_) => {}
            });
            let result = told.await.map(|sum| json!({"verified": sum}));
            let _ = sender.send(line(&result.unwrap_or_else(failed))).await;
        });
        Ok(streamed(lines))
    }
}

fn failed(error: Error) -> Value {
    error.log(&http::Method::POST, "upkeep");
    json!({"error": error.to_string()})
}

/// From the thread that does the work. A listener that is slow slows it down, one that has gone does not.
fn tell(lines: &mpsc::Sender<Bytes>, what: &impl Serialize) {
    let _ = lines.blocking_send(line(what));
}

fn line(what: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(what).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

fn streamed(lines: mpsc::Receiver<Bytes>) -> Response {
    let mut response = Response::new(Body::from_stream(drain(lines)));
    response.headers_mut().insert(header::CONTENT_TYPE, LINES);
    response
}

fn drain(lines: mpsc::Receiver<Bytes>) -> impl Stream<Item = Result<Bytes, Error>> {
    stream::unfold(lines, |mut lines| async move { lines.recv().await.map(|line| (Ok(line), lines)) })
}
