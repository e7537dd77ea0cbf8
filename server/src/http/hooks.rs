//! `POST /hooks/github` and `POST /hooks/git`: the first stage.
//!
//! bytes → signature → one durable row → answer. Nothing else happens in the request: what
//! the delivery means for whom is decided later, from the row.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use mergeyard_plan::{
    change::{self, Identity},
    event::Event,
};
use mergeyard_types::{DeliveryId, RepoName, Secret, Timestamp};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::{
    config::{Rules, WebhookSecret},
    github::signature,
    payload,
    store::{Delivery, Receipt, Source, StoreError},
    yard::Yard,
};

/// Bodies up to here are what webhooks usually are, and are taken side by side.
const USUAL: usize = 1024 * 1024;

/// Larger ones at the same time: with 25 MiB each this bounds their memory to 200 MiB.
const LARGE_AT_ONCE: usize = 8;

/// Characters of an event's name; GitHub's longest has 39.
const LONGEST_NAME: usize = 100;

/// GitHub itself gives up after ten seconds; a sender that is slower holds a place for nothing.
const PATIENCE: Duration = Duration::from_secs(30);

struct Hooks {
    yard: Arc<Yard>,
    large: Semaphore,
}

/// A body whose sender proved to know a secret. Only [`Hooks::verify`] makes one.
struct VerifiedDelivery {
    source: Source,
    body: Bytes,
    content_type: String,
    rules: Arc<Rules>,
    /// The secrets that signed it.
    signers: Vec<WebhookSecret>,
}

/// A verified delivery whose body was understood as far as it can be.
struct ReadDelivery {
    id: DeliveryId,
    name: String,
    event: Option<Event>,
    verified: VerifiedDelivery,
}

/// Why a delivery was not taken.
enum Refusal {
    TooLarge,
    TooSlow,
    BrokenOff,
    Unsigned(signature::SignatureError),
    NotReadable(String),
    /// The secret is good, but not for that repository.
    NotTheirs(RepoName),
    NotDurable,
}

pub(super) fn router(yard: Arc<Yard>) -> Router {
    let hooks = Arc::new(Hooks { yard, large: Semaphore::new(LARGE_AT_ONCE) });
    Router::new().route("/hooks/github", post(github)).route("/hooks/git", post(git)).with_state(hooks)
}

async fn github(State(hooks): State<Arc<Hooks>>, request: Request) -> Result<Response, Refusal> {
    hooks.receive(Source::Github, request).await
}

async fn git(State(hooks): State<Arc<Hooks>>, request: Request) -> Result<Response, Refusal> {
    hooks.receive(Source::Git, request).await
}

impl Hooks {
    async fn receive(&self, source: Source, request: Request) -> Result<Response, Refusal> {
        let (head, body) = request.into_parts();
        let body = tokio::time::timeout(PATIENCE, self.read(&head.headers, body))
            .await
            .map_err(|_| Refusal::TooSlow)??;
        let verified = self.verify(source, &head.headers, body)?;
        let read = verified.read(&head.headers)?;
        let identity = self.identity(&read).await?;
        let ping = read.event == Some(Event::Ping);
        let delivery = read.into_delivery(&identity, self.yard.clock.now())?;
        let (id, ignored) = (delivery.id.clone(), delivery.ignored.clone());
        let receipt = self.yard.store.receive(delivery).await.map_err(Refusal::not_durable)?;
        if receipt == Receipt::Accepted && ignored.is_none() {
            self.yard.wake.inbox.notify_one();
        }
        self.yard.changes.tell();
        Ok(match (receipt, ignored) {
            (Receipt::Duplicate, _) => {
                answer(StatusCode::OK, json!({ "delivery": id, "state": "duplicate" }))
            }
            (Receipt::Accepted, _) if ping => {
                answer(StatusCode::OK, json!({ "delivery": id, "state": "pong" }))
            }
            (Receipt::Accepted, None) => {
                answer(StatusCode::ACCEPTED, json!({ "delivery": id, "state": "queued" }))
            }
            (Receipt::Accepted, Some(reason)) => {
                answer(StatusCode::ACCEPTED, json!({ "delivery": id, "state": "ignored", "reason": reason }))
            }
        })
    }

    /// A name that is not configured may be the new name of a repository that is. Only then
    /// the database is asked, so that the usual webhook costs no look.
    async fn identity(&self, read: &ReadDelivery) -> Result<Identity, Refusal> {
        let repository = read.event.as_ref().and_then(|event| event.repository());
        match repository.filter(|repository| read.verified.rules.policies.of(&repository.name).is_none()) {
            Some(repository) => self.yard.store.identity(repository).await.map_err(Refusal::not_durable),
            None => Ok(Identity::default()),
        }
    }

    /// The whole body, within the limit whatever its headers say.
    async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<Bytes, Refusal> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > payload::LARGEST as u64) {
            return Err(Refusal::TooLarge);
        }
        let mut bytes = BytesMut::new();
        let mut _place = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::BrokenOff)?;
            let Ok(chunk) = frame.into_data() else { continue };
            if bytes.len() + chunk.len() > payload::LARGEST {
                return Err(Refusal::TooLarge);
            }
            if bytes.len() + chunk.len() > USUAL && _place.is_none() {
                _place = self.large.acquire().await.ok();
                // All of it at once: a buffer that grows by doubling is there twice each time it does.
                bytes.reserve(payload::LARGEST - bytes.len());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    fn verify(&self, source: Source, headers: &HeaderMap, body: Bytes) -> Result<VerifiedDelivery, Refusal> {
        let rules = self.yard.rules();
        let now = self.yard.clock.now();
        let known: Vec<&WebhookSecret> =
            rules.secrets_at(now).filter(|secret| secret.is_for(source)).collect();
        let values: Vec<Secret> = known.iter().map(|secret| secret.value.clone()).collect();
        let signer = signature::verify(&values, &body, headers).map_err(Refusal::Unsigned)?;
        // One value may have been configured in several places.
        let signers = known.into_iter().filter(|secret| secret.value == values[signer]).cloned().collect();
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("application/json")
            .to_owned();
        Ok(VerifiedDelivery { source, body, content_type, rules, signers })
    }
}

impl VerifiedDelivery {
    fn read(self, headers: &HeaderMap) -> Result<ReadDelivery, Refusal> {
        let readable = |error: payload::PayloadError| Refusal::NotReadable(error.to_string());
        let json = payload::json(&self.content_type, &self.body).map_err(readable)?;
        payload::check_shape(&json).map_err(readable)?;
        let (id, name) = names(self.source, headers, &self.body)?;
        let event = match self.source {
            Source::Github => Event::from_github(&name, &json),
            Source::Git => Event::from_git(&json),
            Source::Mergeyard => Event::from_mergeyard(&json),
        };
        // An event that was read was JSON to its end; a ping is not read.
        if event.is_err() || matches!(event, Ok(Event::Ping)) {
            payload::check_syntax(&json).map_err(readable)?;
        }
        // A known event in an unknown shape is kept too; deciding it will say what is wrong.
        Ok(ReadDelivery { id, name, event: event.ok(), verified: self })
    }
}

impl ReadDelivery {
    fn into_delivery(self, identity: &Identity, now: Timestamp) -> Result<Delivery, Refusal> {
        let Self { id, name, event, verified } = self;
        let VerifiedDelivery { source, body, content_type, rules, signers } = verified;
        let repo =
            event.as_ref().and_then(|event| event.repository()).map(|repository| repository.name.clone());
        if let Some(repo) = &repo {
            let known_as = identity.name_of_id.as_ref().unwrap_or(repo);
            if !signers.iter().any(|secret| rules.speaks_for(secret, known_as)) {
                return Err(Refusal::NotTheirs(repo.clone()));
            }
        }
        let ignored = match &event {
            Some(Event::Ping) => Some("a ping: the webhook works".to_owned()),
            Some(event) => change::change(event, &rules.policies, identity).err(),
            None => None,
        };
        Ok(Delivery {
            id,
            source,
            event: name,
            content_type,
            repo,
            body_size: body.len(),
            body: payload::compress(&body),
            received: now,
            ignored,
        })
    }
}

/// The delivery's id and its event's name.
fn names(source: Source, headers: &HeaderMap, body: &[u8]) -> Result<(DeliveryId, String), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let missing = |name: &str| Refusal::NotReadable(format!("the header {name} is missing or not readable"));
    let id = |name: &str| {
        text(name).map(|id| {
            id.parse::<DeliveryId>().map_err(|error| Refusal::NotReadable(format!("{name}: {error}")))
        })
    };
    match source {
        Source::Github => {
            const EVENT: &str = "X-GitHub-Event";
            const ID: &str = "X-GitHub-Delivery";
            // A name that is not known yet is kept and shown, so it has to be a word.
            let word = |event: &str| {
                let letters = event.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
                letters && (1..=LONGEST_NAME).contains(&event.len())
            };
            let event = text(EVENT).ok_or_else(|| missing(EVENT))?;
            if !word(event) {
                let why =
                    format!("{EVENT} must be letters, digits, `_`, `-` and `.`, at most {LONGEST_NAME}");
                return Err(Refusal::NotReadable(why));
            }
            Ok((id(ID).ok_or_else(|| missing(ID))??, event.to_owned()))
        }
        // A hook of a plain git server need not number its deliveries: what it says (which
        // reference moved from where to where) happens once.
        Source::Git => {
            let id = id("X-Mergeyard-Delivery").unwrap_or_else(|| {
                let digest = hex::encode(&Sha256::digest(body)[..16]);
                format!("git-{digest}").parse().map_err(|_| missing("X-Mergeyard-Delivery"))
            })?;
            Ok((id, "push".to_owned()))
        }
        Source::Mergeyard => Err(missing("X-GitHub-Event")),
    }
}

fn answer(status: StatusCode, body: serde_json::Value) -> Response {
    (status, Json(body)).into_response()
}

impl Refusal {
    fn not_durable(error: StoreError) -> Self {
        warn!(
            error = &error as &dyn std::error::Error,
            "could not make a delivery durable; the sender was told so"
        );
        Refusal::NotDurable
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Refusal::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {} bytes", payload::LARGEST))
            }
            Refusal::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned()),
            Refusal::BrokenOff => (StatusCode::BAD_REQUEST, "the body broke off".to_owned()),
            Refusal::Unsigned(why) => (StatusCode::UNAUTHORIZED, why.to_string()),
            Refusal::NotReadable(why) => (StatusCode::BAD_REQUEST, why),
            Refusal::NotTheirs(repo) => {
                (StatusCode::FORBIDDEN, format!("this secret does not speak for repository {repo}"))
            }
            Refusal::NotDurable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the delivery could not be stored, so it was not taken; send it again".to_owned(),
            ),
        };
        answer(status, json!({ "error": why }))
    }
}
