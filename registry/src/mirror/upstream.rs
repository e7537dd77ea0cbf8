//! Questions to one upstream registry: over verified TLS, with its login, and no more often than it allows.
//!
//! The client for OCI registries that exists does not tell `Retry-After` from other refusals, reads
//! manifests and refusals into memory whatever their size, follows redirects to addresses without
//! TLS, and takes proxies from the environment. So this is HTTP with the four things that matter here.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use mergeyard_types::{ImageName, Secret};
use reqwest::{RequestBuilder, Response, redirect::Policy};
use tokio::time::Instant;
use url::Url;

use super::{
    fault::{UpstreamError, host_of},
    tokens::{Issued, Tokens, Turn},
};
use crate::config::{Limits, Mirror};

/// From a registry to its storage is one redirect; more are somebody's loop.
const REDIRECTS: usize = 5;

/// Protects memory: a token is some kilobytes.
const TOKEN_BYTES: usize = 1 << 20;

/// What is asked of the token server, in sentences.
const TOKEN: &str = "a token";

/// How long upstream is left alone when it says "too many" and not until when.
const DEFAULT_PAUSE: Duration = Duration::from_secs(60);

/// No known limit counts over more hours; a longer time is a slip (some write an instant there).
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

pub(super) struct Upstream {
    /// `https://host[:port][/path]`
    base: String,
    host: String,
    login: Option<(String, Secret)>,
    http: reqwest::Client,
    /// For a question whose answer is small; a blob may take as long as it keeps coming.
    small_answer: Duration,
    tokens: Tokens,
    /// Upstream wants the login itself, as it said once.
    basic: AtomicBool,
    paused: Mutex<Option<Instant>>,
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Small,
    Blob,
}

impl Upstream {
    pub(super) fn new(mirror: &Mirror, limits: &Limits) -> Result<Self, String> {
        let Mirror { upstream, login, ca_pem, .. } = mirror;
        let host = host_of(upstream).filter(|_| upstream.scheme() == "https");
        let host = host.ok_or("`upstream` is not an https address")?;
        if !upstream.username().is_empty() || upstream.password().is_some() {
            return Err("`upstream` holds a login: write it in `username` and `password`".into());
        }
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(Policy::limited(REDIRECTS))
            .referer(false)
            .connect_timeout(limits.upstream_connect_time)
            .read_timeout(limits.upstream_idle_time)
            .no_proxy();
        if let Some(pem) = ca_pem {
            let bad = || "`ca` holds no usable certificate".to_owned();
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|_| bad())?;
            if certificates.is_empty() {
                return Err(bad());
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| format!("no TLS client: {error}"))?;
        Ok(Self {
            base: format!("https://{host}{}", upstream.path().trim_end_matches('/')),
            host,
            login: login.clone(),
            http,
            small_answer: limits.upstream_idle_time,
            tokens: Tokens::default(),
            basic: AtomicBool::new(false),
            paused: Mutex::default(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Asks for `path` below a repository. `None`: upstream has no such thing.
    pub(super) async fn ask(
        &self,
        method: Method,
        name: &ImageName,
        path: &str,
        headers: HeaderMap,
        answer: Answer,
    ) -> Result<Option<Response>, UpstreamError> {
        let what = format!("{name}/{path}");
        self.not_paused()?;
        let mut request =
            self.http.request(method, format!("{}/v2/{name}/{path}", self.base)).headers(headers);
        if answer == Answer::Small {
            request = request.timeout(self.small_answer);
        }
        let response = self.send(name, request, &what).await?;
        match response.status() {
            status if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refusal(&response, what)),
        }
    }

    /// Once with what is known to open the door, and once more with what the refusal asks for.
    async fn send(
        &self,
        name: &ImageName,
        request: RequestBuilder,
        what: &str,
    ) -> Result<Response, UpstreamError> {
        let scope = format!("repository:{name}:pull");
        let token = self.tokens.known(&scope).await;
        let signed = token.is_none() && self.login.is_some() && self.basic.load(Ordering::Relaxed);
        let again = request.try_clone();
        let first = match &token {
            Some(token) => request.bearer_auth(token.expose()),
            None if signed => self.sign(request),
            None => request,
        };
        let response = first.send().await.map_err(|error| self.failed(&error, what))?;
        let (StatusCode::UNAUTHORIZED, Some(again)) = (response.status(), again) else {
            return Ok(response);
        };
        let again = match Challenge::of(&response) {
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(scope, &realm, service.as_deref(), token.as_ref()).await?;
                again.bearer_auth(token.expose())
            }
            Some(Challenge::Basic) if self.login.is_some() && !signed => {
                self.basic.store(true, Ordering::Relaxed);
                self.sign(again)
            }
            _ => return Ok(response),
        };
        again.send().await.map_err(|error| self.failed(&error, what))
    }

    fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Some((username, password)) => request.basic_auth(username, Some(password.expose())),
            None => request,
        }
    }

    async fn token(
        &self,
        scope: String,
        realm: &str,
        service: Option<&str>,
        refused: Option<&Secret>,
    ) -> Result<Secret, UpstreamError> {
        let fetch = match self.tokens.turn(&scope, refused).await {
            Turn::Newer(token) => return Ok(token),
            Turn::Fetch(fetch) => fetch,
        };
        let what = TOKEN;
        let mut realm = Url::parse(realm).map_err(|_| self.broken(what, "its realm is no address"))?;
        if realm.scheme() != "https" {
            return Err(self.broken(what, "its realm is not an https address"));
        }
        realm.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let request = self.sign(self.http.get(realm)).timeout(self.small_answer);
        let response = request.send().await.map_err(|error| self.failed(&error, what))?;
        if !response.status().is_success() {
            return Err(self.refusal(&response, what.to_owned()));
        }
        let body = self.body(response, TOKEN_BYTES, what).await?;
        let issued: Issued =
            serde_json::from_slice(&body).map_err(|_| self.broken(what, "it is not a token's JSON"))?;
        let token = issued.token().ok_or_else(|| self.broken(what, "there is none in the answer"))?;
        Ok(fetch.keep(scope, token))
    }

    /// The whole of a small answer.
    pub(super) async fn body(
        &self,
        mut response: Response,
        limit: usize,
        what: &str,
    ) -> Result<Bytes, UpstreamError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(&error, what))? {
            if body.len() + chunk.len() > limit {
                return Err(self.too_large(what, limit as u64));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    fn refusal(&self, response: &Response, what: String) -> UpstreamError {
        let host = self.host.clone();
        match (response.status(), &self.login) {
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                let wait = retry_after(response.headers(), SystemTime::now()).unwrap_or(DEFAULT_PAUSE);
                let wait = wait.min(LONGEST_PAUSE);
                *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
                tracing::warn!(upstream = host, seconds = wait.as_secs(), "mirror: upstream asks to wait");
                UpstreamError::TooManyRequests { host, wait }
            }
            (StatusCode::UNAUTHORIZED, Some((username, _)))
                if what == TOKEN || self.basic.load(Ordering::Relaxed) =>
            {
                UpstreamError::LoginRefused { host, username: username.clone() }
            }
            // With a token that was given, or without any login, it is this repository that is closed.
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => UpstreamError::Hidden { host, what },
            (status, _) => UpstreamError::Status { host, status, what },
        }
    }

    fn not_paused(&self) -> Result<(), UpstreamError> {
        let until = *self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(wait) if !wait.is_zero() => {
                Err(UpstreamError::TooManyRequests { host: self.host.clone(), wait })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn failed(&self, error: &reqwest::Error, what: &str) -> UpstreamError {
        UpstreamError::of(error, &self.host, what)
    }

    pub(super) fn broken(&self, what: &str, why: &str) -> UpstreamError {
        UpstreamError::Broken { host: self.host.clone(), what: what.to_owned(), why: why.to_owned() }
    }

    pub(super) fn too_large(&self, what: &str, limit: u64) -> UpstreamError {
        UpstreamError::TooLarge { host: self.host.clone(), what: what.to_owned(), limit }
    }
}

/// What a refusal asks for (RFC 9110, section 11.6.1).
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    fn of(response: &Response) -> Option<Self> {
        let values = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> =
            texts.filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let of_scheme =
            |scheme: &str| challenges.iter().find(|found| found.scheme.eq_ignore_ascii_case(scheme));
        if let Some(bearer) = of_scheme("bearer") {
            let parameter = |name: &str| {
                let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            return Some(Challenge::Bearer { realm: parameter("realm")?, service: parameter("service") });
        }
        of_scheme("basic").map(|_| Challenge::Basic)
    }
}

/// `Retry-After` as seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_read_in_both_forms() {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 10:00:00 GMT").unwrap();
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(read("17"), Some(Duration::from_secs(17)));
        assert_eq!(read("Sat, 21 Nov 2026 10:02:00 GMT"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sat, 21 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        for text in ["", "soon", "-1", "1.5"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
