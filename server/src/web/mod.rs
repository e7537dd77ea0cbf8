//! The pages: what is, for people.
//!
//! They only read, are rendered here and work without a script; the script only keeps a
//! run's page current. Whatever they show was written by others, so it passes through
//! [`inert`], and a strict Content-Security-Policy stands behind that.

mod assets;
mod audience;
mod badge;
mod deliveries;
mod deployed;
mod graph;
mod images;
pub(crate) mod inert;
mod live;
mod live_targets;
mod log;
mod overview;
mod run;
mod runs;
mod source;
mod step;
mod targets;
mod waits;
mod when;

use std::{error::Error, sync::Arc};

use askama::{Template, filters::Safe};
use axum::{
    Router,
    extract::FromRef,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::{Html, IntoResponse, Response},
    routing::get,
};
use mergeyard_registry::Registry;
use mergeyard_types::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::{
    api::{self, problem::Problem},
    changes::Changes,
    clock::Clock,
    config::Rules,
    logs::Logs,
    store::{Store, StoreError},
    yard::RulesInForce,
};
use audience::Audiences;
use when::{Took, When};

#[derive(Clone)]
pub struct Pages {
    pub store: Store,
    pub logs: Logs,
    pub clock: Clock,
    pub changes: Changes,
    /// Targets are what the configuration of now says they are.
    pub rules: RulesInForce,
    pub about: Arc<About>,
    /// The registry inside this program, where there is one.
    pub registry: Option<Registry>,
    /// Ends the streams, which would keep the listener from closing.
    pub closing: CancellationToken,
}

impl Pages {
    fn rules(&self) -> Arc<Rules> {
        self.rules.read().expect("no holder of this lock panics").clone()
    }
}

/// What the pages say about the server itself.
#[derive(Debug, Clone)]
pub struct About {
    pub version: String,
    pub registry_host: String,
    pub engine_host: String,
    pub public_url: String,
}

/// Why a request failed, on its way to whoever logs it. The body does not say it.
#[derive(Clone)]
pub struct Cause(pub Arc<dyn Error + Send + Sync>);

/// Viewers that are kept current at the same time. Each costs a connection and one piece
/// of a log in memory; more than this are asked to come back.
pub const MOST_STREAMS: usize = 500;

/// Searches at the same time; others wait for their turn. Each keeps a processor busy.
const MOST_SEARCHES: usize = 4;

/// Scripts and styles are files of this server and nothing else runs, loads or frames, and forms
/// ask nobody else, whatever gets past the escaping.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub fn router(pages: Pages) -> Router {
    let parts = Router::new()
        .route("/api/v1/deployments/events", get(live_targets::deployment_events))
        .route("/api/v1/runs/{id}/events", get(live::run_events))
        .route("/api/v1/steps/{id}/log", get(live::step_log))
        .route("/api/v1/steps/{id}/lines", get(step::lines))
        .route("/api/v1/steps/{id}/search", get(step::search))
        .method_not_allowed_fallback(api::not_allowed);
    Router::new()
        .route("/", get(overview::overview))
        .route("/runs", get(runs::runs))
        .route("/runs/{id}", get(run::run))
        .route("/runs/{id}/steps/{step}", get(step::step))
        .route("/repos/{*name}", get(runs::repo))
        .route("/deliveries", get(deliveries::deliveries))
        .route("/deliveries/{guid}", get(deliveries::delivery))
        .route("/images", get(images::images))
        .route("/targets", get(targets::targets))
        .route("/targets/{name}", get(targets::target))
        .route("/assets/{file}", get(assets::asset))
        .merge(parts)
        .fallback(async || Answer::NotFound)
        .layer(header(CONTENT_SECURITY_POLICY, POLICY))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(REFERRER_POLICY, "same-origin"))
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .with_state(Site {
            pages,
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
            searches: Arc::new(Semaphore::new(MOST_SEARCHES)),
            audiences: Audiences::default(),
        })
}

/// What the API's document says of the streams.
pub(crate) fn streams() -> utoipa::openapi::OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(paths(live::run_events, live::step_log, live_targets::deployment_events))]
    struct Streams;
    <Streams as utoipa::OpenApi>::openapi()
}

fn header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

#[derive(Clone)]
struct Site {
    pages: Pages,
    streams: Arc<Semaphore>,
    searches: Arc<Semaphore>,
    audiences: Audiences,
}

impl FromRef<Site> for Pages {
    fn from_ref(site: &Site) -> Self {
        site.pages.clone()
    }
}

/// What every page has around its content. Times are digits and words of [`when`], so
/// they pass the escaper as they are.
struct Shell {
    about: Arc<About>,
    now: Timestamp,
    /// The first part of the path, which the navigation marks.
    here: &'static str,
}

impl Shell {
    fn new(pages: &Pages, here: &'static str) -> Self {
        Self { about: pages.about.clone(), now: pages.clock.now(), here }
    }

    fn when(&self, at: &Timestamp) -> Safe<When> {
        Safe(When { at: *at, now: self.now })
    }

    fn took(&self, since: &Timestamp, until: &Option<Timestamp>) -> Safe<Took> {
        Safe(Took { since: *since, until: *until, now: self.now })
    }
}

type Page = Result<Html<String>, Answer>;

fn page(template: &impl Template) -> Page {
    Ok(Html(template.render()?))
}

/// Every answer that is not the page that was asked for.
#[derive(Debug, thiserror::Error)]
enum Answer {
    #[error("there is nothing at this address")]
    NotFound,
    #[error("{0}")]
    BadRequest(String),
    #[error("too many pages are being kept current; try again in a moment")]
    Busy,
    #[error("mergeyard could not read its records; the server's log says why")]
    Store(#[from] StoreError),
    #[error("mergeyard could not read the log's file; the server's log says why")]
    Log(#[from] std::io::Error),
    #[error("mergeyard could not read its registry; the server's log says why")]
    Registry(#[from] mergeyard_registry::Error),
    #[error("mergeyard could not write the page; the server's log says why")]
    Template(#[from] askama::Error),
}

impl Answer {
    fn status(&self) -> StatusCode {
        match self {
            Answer::NotFound => StatusCode::NOT_FOUND,
            Answer::BadRequest(_) => StatusCode::BAD_REQUEST,
            Answer::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Answer::Store(_) | Answer::Log(_) | Answer::Registry(_) | Answer::Template(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    fn with_cause(self, mut response: Response) -> Response {
        *response.status_mut() = self.status();
        if response.status().is_server_error() {
            response.extensions_mut().insert(Cause(Arc::new(self)));
        }
        response
    }
}

#[derive(Template)]
#[template(path = "refusal.html")]
struct Refusal {
    status: StatusCode,
    message: String,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let refusal = Refusal { status: self.status(), message: self.to_string() };
        let body = refusal.render().map(Html).map_err(|_| refusal.message);
        self.with_cause(body.into_response())
    }
}

/// The same for programs.
struct ApiAnswer(Answer);

impl<E: Into<Answer>> From<E> for ApiAnswer {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ApiAnswer {
    fn into_response(self) -> Response {
        let problem = Problem::new(self.0.status(), self.0.to_string());
        self.0.with_cause(problem.into_response())
    }
}

/// A number or word in an address that cannot be one of ours names nothing.
fn named<T: std::str::FromStr>(text: &str) -> Result<T, Answer> {
    text.parse().map_err(|_| Answer::NotFound)
}

/// What may stand behind the `?` of a list.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Filter {
    before: Option<i64>,
    repo: Option<String>,
    name: Option<String>,
}

type Query<T> = Result<axum::extract::Query<T>, axum::extract::rejection::QueryRejection>;

fn asked<T>(query: Query<T>) -> Result<T, Answer> {
    let bad = |_| {
        Answer::BadRequest("this address has a parameter that does not read as mergeyard writes it".into())
    };
    query.map(|query| query.0).map_err(bad)
}

/// Rows of a list and where the next page begins.
struct Rows<T> {
    rows: Vec<T>,
    next: Option<i64>,
}

impl<T> Rows<T> {
    /// From one row more than a page holds, which tells whether there is a next page.
    fn new(mut rows: Vec<T>, page: u32, place: impl Fn(&T) -> i64) -> Self {
        let more = rows.len() > page as usize;
        rows.truncate(page as usize);
        Self { next: rows.last().filter(|_| more).map(place), rows }
    }
}
