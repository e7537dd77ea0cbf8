//! Server-sent events: a page that stays current, a log that grows while it is read.
//!
//! Both streams are level-triggered. They subscribe, then look, then tell what is new;
//! what woke them carries nothing, so nothing is lost by missing it, and a slow tick finds
//! what nobody woke them for.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use mergeyard_run::log::{LogLine, Stream as Origin};
use mergeyard_types::{RunId, State as Word, StepId, Timestamp};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Answer, ApiAnswer, Pages, Query, Site, asked,
    audience::Audience,
    inert::{self, Span},
    live_targets::DeploymentNow,
    log::{self, StepLog},
    named,
};
use crate::{
    api::problem::ProblemDocument,
    logs::{Needle, Piece},
    store::{Deployed, RunPage, StepRow, WorkflowRow},
};

/// A step begins before its log does, and nobody says when it does.
const TICK: Duration = Duration::from_secs(2);

/// What is said within this time is told as one event: often enough that a reader sees lines
/// run, seldom enough that a browser keeps up.
const PACE: Duration = Duration::from_millis(30);

/// Proxies hang up on a connection that says nothing for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long a browser waits before it asks again.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// The states of a run whenever they change, until they are final
///
/// Events `run` carry the run with its workflows and steps, and an id; whoever comes back with it as
/// `Last-Event-ID` is told again only what has changed since. One event `end` is the last.
#[utoipa::path(
    get,
    path = "/api/v1/runs/{id}/events",
    tag = "runs",
    params(("id" = i64, Path, description = "the run")),
    responses(
        (status = 200, description = "server-sent events", body = String, content_type = "text/event-stream"),
        (status = 404, description = "there is no such run", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "too many are looking; try again in a moment", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn run_events(
    State(site): State<Site>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiAnswer> {
    let run: RunId = named(&id)?;
    site.pages.store.run_page(run).await?.ok_or(Answer::NotFound)?;
    let closing = site.pages.closing.clone();
    let watch = RunWatch {
        _permit: permit(&site)?,
        changes: site.pages.changes.subscribe(),
        pages: site.pages,
        run,
        told: last_event(&headers).unwrap_or_default().to_owned(),
        ended: End::NotYet,
    };
    Ok(events(
        closing,
        stream::unfold(watch, |mut watch| async { watch.next().await.map(|event| (event, watch)) }),
    ))
}

#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// `text` for plain text, as `Accept: text/plain` says it.
    format: Option<String>,
    /// The line to begin after; `Last-Event-ID` says it better.
    from: Option<u64>,
}

/// A step's log, while it is written and afterwards; as plain text up to its end of now
///
/// Events `lines` carry lines and end with an id that `Last-Event-ID` resumes from; one event `end`
/// is the last.
#[utoipa::path(
    get,
    path = "/api/v1/steps/{id}/log",
    tag = "steps",
    params(("id" = i64, Path, description = "the step"), LogQuery),
    responses(
        (status = 200, description = "server-sent events, or text", content((String = "text/event-stream"), (String = "text/plain"))),
        (status = 404, description = "there is no such step", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "too many are looking; try again in a moment", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn step_log(
    State(site): State<Site>,
    Path(id): Path<String>,
    query: Query<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiAnswer> {
    let query = asked(query)?;
    let step: StepId = named(&id)?;
    let row = site.pages.store.step(step).await?.ok_or(Answer::NotFound)?;
    let log = StepLog { logs: site.pages.logs.clone(), run: row.run, step };
    let next = resume(&headers).or(query.from).unwrap_or(0).min(i64::MAX as u64);
    if query.format.as_deref() == Some("text") || wants_text(&headers) {
        return Ok(whole_text(log, next));
    }
    let closing = site.pages.closing.clone();
    let watch = LogWatch {
        _permit: permit(&site)?,
        audience: site.audiences.of(step),
        pages: site.pages,
        log,
        next,
        due: Instant::now(),
        ended: End::NotYet,
    };
    Ok(events(
        closing,
        stream::unfold(watch, |mut watch| async { watch.next().await.map(|event| (event, watch)) }),
    ))
}

pub(super) fn permit(site: &Site) -> Result<OwnedSemaphorePermit, Answer> {
    Arc::clone(&site.streams).try_acquire_owned().map_err(|_| Answer::Busy)
}

pub(super) fn events(
    closing: CancellationToken,
    stream: impl Stream<Item = Event> + Send + 'static,
) -> Response {
    use futures_util::StreamExt;
    let stream = stream.take_until(closing.cancelled_owned()).map(Ok::<_, Infallible>);
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies that collect answers before they pass them on would stop the clock.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn last_event(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok().map(str::trim)
}

fn resume(headers: &HeaderMap) -> Option<u64> {
    last_event(headers)?.parse().ok()
}

fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.split([',', ';']).any(|kind| kind.trim() == "text/plain")
}

fn whole_text(log: StepLog, from: u64) -> Response {
    let text = stream::unfold(Some((log, from)), |place| async {
        let (log, from) = place?;
        match log.logs.read(log.run, log.step, from, usize::MAX).await {
            Ok(piece) if piece.next == from => None,
            Ok(piece) => {
                let mut text = String::new();
                for (_, line) in &piece.lines {
                    text.push_str(&inert::log_text(&line.text));
                    text.push('\n');
                }
                Some((Ok(Bytes::from(text)), Some((log, piece.next))))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(text)).into_response()
}

/// How far the end of a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// Everything is told; one event says so, because a browser would ask again otherwise.
    Due,
    Told,
}

impl End {
    /// The last event, once.
    fn event(&mut self) -> Option<Event> {
        let due = *self == End::Due;
        *self = End::Told;
        due.then(|| Event::default().event("end").data("{}"))
    }
}

struct RunWatch {
    _permit: OwnedSemaphorePermit,
    pages: Pages,
    changes: watch::Receiver<()>,
    run: RunId,
    /// The id of what was told last.
    told: String,
    ended: End,
}

impl RunWatch {
    async fn next(&mut self) -> Option<Event> {
        while self.ended == End::NotYet {
            self.changes.borrow_and_update();
            let store = &self.pages.store;
            let (page, deployed) =
                match tokio::try_join!(store.run_page(self.run), store.deployed_by(self.run)) {
                    Ok((page, deployed)) => (page?, deployed),
                    Err(error) => return lost(&error),
                };
            if page.run.state.is_final() {
                self.ended = End::Due;
            }
            let document = serde_json::to_string(&Document::of(&page, &deployed)).unwrap_or_default();
            let id = hex::encode(&Sha256::digest(&document)[..8]);
            if id != self.told {
                self.told.clone_from(&id);
                return Some(Event::default().event("run").id(id).retry(RETRY).data(document));
            }
            if self.ended == End::NotYet {
                let _ = timeout(TICK, self.changes.changed()).await;
            }
        }
        self.ended.event()
    }
}

struct LogWatch {
    _permit: OwnedSemaphorePermit,
    audience: Audience,
    pages: Pages,
    log: StepLog,
    /// The last line that was told.
    next: u64,
    /// When the next event may go out.
    due: Instant,
    ended: End,
}

impl LogWatch {
    async fn next(&mut self) -> Option<Event> {
        while self.ended == End::NotYet {
            let mut changes = self.pages.changes.subscribe();
            let growing = self.log.logs.follow(self.log.step);
            let over = match &growing {
                Some(_) => false,
                None => match self.pages.store.step(self.log.step).await {
                    Ok(step) => step.is_none_or(|step| step.state.is_final()),
                    Err(error) => return lost(&error),
                },
            };
            sleep_until(self.due).await;
            let told = match self.audience.piece(&self.log, self.next, lines).await {
                Ok(told) => told,
                Err(error) => return lost(&error),
            };
            if told.next > self.next {
                self.next = told.next;
                if told.is_end {
                    self.due = Instant::now() + PACE;
                }
                return Some(told.event.clone());
            }
            match growing {
                _ if over => self.ended = End::Due,
                // An error is the writer's end, after which there is one more look.
                Some(mut growing) => drop(growing.changed().await),
                None => drop(timeout(TICK, changes.changed()).await),
            }
        }
        self.ended.event()
    }
}

/// The connection ends, and whoever was on it asks again from where it was.
pub(super) fn lost(error: &(dyn std::error::Error + 'static)) -> Option<Event> {
    warn!(error, "a live page could not go on reading");
    None
}

fn lines(piece: &Piece) -> Event {
    let lines: Vec<Line> = piece.lines.iter().map(|(number, line)| Line::of(*number, line, None)).collect();
    let data = serde_json::to_string(&lines).unwrap_or_default();
    Event::default().event("lines").id(piece.next.to_string()).retry(RETRY).data(data)
}

#[derive(Serialize)]
pub(super) struct Line {
    /// Its number, from 1.
    line: u64,
    at: Timestamp,
    stream: Origin,
    text: String,
    /// Whether it announces a part of the step.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    section: bool,
    /// The text once more in pieces, where any of it has a style.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Span>,
}

impl Line {
    pub(super) fn of(number: u64, line: &LogLine, needle: Option<&Needle>) -> Self {
        let spans = log::spans(line, needle);
        let text = spans.iter().map(|span| span.text.as_str()).collect();
        let styled = spans.iter().any(|span| !span.style.is_empty());
        let spans = if styled { spans } else { Vec::new() };
        Self {
            line: number,
            at: line.at,
            stream: line.stream,
            text,
            section: log::kind(line) == "note section",
            spans,
        }
    }
}

/// What a run's page shows of states. Texts pass [`inert::plain`] here as they pass the
/// escaper on a page.
#[derive(Serialize)]
struct Document {
    run: RunDocument,
    workflows: Vec<WorkflowDocument>,
    images: Vec<ImageDocument>,
    deployments: Vec<DeploymentNow>,
}

#[derive(Serialize)]
struct RunDocument {
    id: RunId,
    state: Word,
    cancel: Option<String>,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
}

#[derive(Serialize)]
struct WorkflowDocument {
    name: String,
    axis: Option<String>,
    state: Word,
    why: Option<String>,
    steps: Vec<StepDocument>,
}

#[derive(Serialize)]
struct StepDocument {
    id: StepId,
    name: String,
    state: Word,
    why: Option<String>,
    attempt: u32,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
}

#[derive(Serialize)]
struct ImageDocument {
    #[serde(rename = "ref")]
    reference: String,
    digest: String,
}

impl Document {
    fn of(page: &RunPage, deployed: &[Deployed]) -> Self {
        let RunPage { run, workflows, images } = page;
        let image = |image: &crate::store::ImageRow| ImageDocument {
            reference: image.image.to_string(),
            digest: image.digest.to_string(),
        };
        Self {
            run: RunDocument {
                id: run.id,
                state: run.state,
                cancel: shown(&run.cancel),
                started: run.started,
                finished: run.finished,
            },
            workflows: workflows.iter().map(workflow).collect(),
            images: images.iter().map(image).collect(),
            deployments: deployed.iter().map(DeploymentNow::of).collect(),
        }
    }
}

fn workflow(row: &WorkflowRow) -> WorkflowDocument {
    WorkflowDocument {
        name: inert::plain(&row.name).into_owned(),
        axis: shown(&row.axis),
        state: row.state,
        why: shown(&row.why),
        steps: row.steps.iter().map(step).collect(),
    }
}

fn step(row: &StepRow) -> StepDocument {
    StepDocument {
        id: row.id,
        name: inert::plain(&row.name).into_owned(),
        state: row.state,
        why: shown(&row.why),
        attempt: row.attempt,
        started: row.started,
        finished: row.finished,
    }
}

fn shown(text: &Option<String>) -> Option<String> {
    text.as_deref().map(|text| inert::plain(text).into_owned())
}
