//! Who may: tokens, and what each request does with one.
//!
//! A request without a token may read. One with a token is let in by that token or not at all, so
//! a revoked token is dead with its next request; streams that it opened end within a second.
//! Whether a refused token was never one, is too old or was revoked, only the log tells.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use mergeyard_registry::FailedAttempts;
use mergeyard_types::Secret;
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::problem::Problem;
use crate::{
    clock::Clock,
    store::{Role, Store, StoreError, TokenHash, TokenRow},
    yard::Yard,
};

/// Says in a list of leaked secrets what it opens.
const PREFIX: &str = "my_";

/// As the registry's: a program that never stops trying is told to wait. Right tokens are let in
/// from such an address too, because 256 bits are not found at any rate of guessing.
const FAILURES_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).expect("not zero");

/// How soon a stream ends after its token was revoked by another process.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A new token: 256 random bits.
pub fn new_token() -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::new(format!("{PREFIX}{}", hex::encode(bytes))))
}

pub fn token_hash(token: &Secret) -> TokenHash {
    Sha256::digest(token.expose().as_bytes()).into()
}

/// Lets requests in.
pub struct Access {
    store: Store,
    clock: Clock,
    failures: FailedAttempts,
}

/// Who holds the token of a request.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    id: i64,
    pub(crate) name: String,
    role: Role,
}

/// A holder who may answer gates, and start, repeat and stop runs.
pub(crate) struct Approver(pub(crate) Holder);

/// A holder who may do everything.
pub(crate) struct Admin;

impl Access {
    pub fn new(yard: &Yard) -> Self {
        let failures = FailedAttempts::per_minute(FAILURES_PER_MINUTE);
        Self { store: yard.store.clone(), clock: yard.clock.clone(), failures }
    }

    async fn holder(&self, token: &Secret, address: Option<IpAddr>) -> Result<Holder, Problem> {
        let now = self.clock.now();
        let found = self.store.token(&token_hash(token)).await?;
        match found {
            Some(found) if found.is_good_at(now) => {
                // That somebody used it is worth a line of a list, not a refusal.
                if let Err(error) = self.store.token_used(&found, now).await {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the use of a token was not written down"
                    );
                }
                Ok(Holder { id: found.id, name: found.name, role: found.role })
            }
            refused => {
                tell(refused.as_ref(), address);
                self.failures.count(address).map_err(Problem::too_many)?;
                Err(Problem::bad_token())
            }
        }
    }

    /// Resolves once a token is no longer good. A database that does not answer ends the stream
    /// too: what cannot be checked is not let on.
    async fn ended(self: Arc<Self>, holder: Holder) {
        while let Ok(true) = self.still_good(&holder).await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn still_good(&self, holder: &Holder) -> Result<bool, StoreError> {
        self.store.is_token_good(holder.id, self.clock.now()).await
    }
}

fn tell(refused: Option<&TokenRow>, address: Option<IpAddr>) {
    let from = address.map_or_else(|| "unknown".to_owned(), |address| address.to_canonical().to_string());
    match refused {
        None => info!(target: "mergeyard::audit", from, "refused a token that was never one"),
        Some(token) if token.revoked.is_some() => {
            info!(target: "mergeyard::audit", from, token = token.name, "refused a revoked token");
        }
        Some(token) => {
            info!(target: "mergeyard::audit", from, token = token.name, "refused an expired token")
        }
    }
}

/// Looks at the token of each request to the API that has one.
pub(crate) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let token = bearer(request.headers()).filter(|_| request.uri().path().starts_with("/api/"));
    let Some(token) = token else { return next.run(request).await };
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let holder = match access.holder(&token, address).await {
        Ok(holder) => holder,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(holder.clone());
    let response = next.run(request).await;
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    match kind {
        Some(kind) if kind.starts_with("text/event-stream") => {
            response.map(|body| Body::from_stream(body.into_data_stream().take_until(access.ended(holder))))
        }
        _ => response,
    }
}

/// Other schemes are a proxy's business.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim()))
}

fn holder_as(parts: &Parts, role: Role) -> Result<Holder, Problem> {
    let holder = parts.extensions.get::<Holder>().ok_or_else(Problem::no_token)?;
    if holder.role < role {
        let detail = format!("token `{}` has the role {}, and this needs {role}", holder.name, holder.role);
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(holder.clone())
}

impl<S: Sync> FromRequestParts<S> for Approver {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        holder_as(parts, Role::Approve).map(Self)
    }
}

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        holder_as(parts, Role::Admin).map(|_| Self)
    }
}
