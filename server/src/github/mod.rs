//! GitHub, as far as mergeyard speaks to it: webhooks come in signed, statuses and deployments go out, and
//! GitHub's own list of deliveries tells which ones never arrived.
//!
//! octocrab brings the authentication and the request stack. The stack is put together here
//! from its parts, without its layers for retries and redirects: the outbox retries, with
//! patience that survives a restart, and a redirect must not carry the token elsewhere.

mod deliveries;
mod deployments;
mod error;
mod files;
mod hooks;
pub mod signature;
mod status;
pub mod tunnel;

use std::{path::PathBuf, time::Duration};

use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use mergeyard_types::Secret;
use octocrab::{
    AuthState, Octocrab, OctocrabBuilder,
    service::middleware::{base_uri::BaseUriLayer, reqwest_connector::ReqwestConnector},
};
use serde::de::DeserializeOwned;
use url::Url;

pub use deliveries::HookDelivery;
pub use deployments::{DeploymentStatus, NewDeployment};
pub use error::GithubError;
use error::{BoxError, Task};
pub use hooks::{Hook, HookCheck, HookConfig, HookOutcome, HookWanted, LastResponse};
pub use status::{CommitStatus, StatusState};

/// A hundred deliveries take some 50 KiB. What is longer than this is not GitHub's answer.
const LONGEST_ANSWER: usize = 8 << 20;

/// GitHub redirects once when a repository was renamed; more than a few is a circle.
const MOST_REDIRECTS: usize = 3;

#[derive(Debug, Clone)]
pub struct GithubSettings {
    /// `https://api.github.com`, or `https://HOST/api/v3` of an enterprise server.
    pub api_url: Url,
    pub token: Option<Secret>,
    /// A PEM file with authorities to trust beside the system's.
    pub ca: Option<PathBuf>,
    pub connect_timeout: Duration,
    /// From the first byte sent to the last one received.
    pub timeout: Duration,
}

impl GithubSettings {
    pub fn new(api_url: Url, token: Option<Secret>) -> Self {
        let (connect_timeout, timeout) = (Duration::from_secs(5), Duration::from_secs(20));
        Self { api_url, token, ca: None, connect_timeout, timeout }
    }
}

#[derive(Clone)]
pub struct Github {
    octocrab: Octocrab,
    api_url: Url,
    token: Option<Secret>,
}

impl Github {
    /// Must be called inside a tokio runtime: octocrab starts a task that queues requests.
    pub fn new(settings: GithubSettings) -> Result<Self, GithubError> {
        let GithubSettings { api_url, token, ca, connect_timeout, timeout } = settings;
        check_address(&api_url)?;
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("mergeyard/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect_timeout)
            .timeout(timeout);
        if is_loopback(&api_url) {
            client = client.no_proxy();
        }
        if let Some(path) = &ca {
            client = client.tls_certs_merge(authorities(path)?);
        }
        let client = client.build().map_err(|error| {
            GithubError::Settings(format!(
                "the client for {api_url} cannot be set up: {}",
                error.without_url()
            ))
        })?;
        let base: http::Uri = api_url.as_str().parse().map_err(|error| {
            GithubError::Settings(format!("github.api_url `{api_url}` is no address: {error}"))
        })?;
        let Ok(octocrab) = OctocrabBuilder::new_empty()
            .with_service(ReqwestConnector::new(client))
            .with_layer(&BaseUriLayer::new(base))
            .with_auth(auth(token.as_ref())?)
            .build();
        Ok(Self { octocrab, api_url, token })
    }

    /// One request and its whole answer, which is a success. Redirects are followed on the
    /// same host only, and only where the request would be repeated as it is.
    async fn call(
        &self,
        task: &Task,
        method: Method,
        route: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, GithubError> {
        if self.token.is_none() {
            let Task { what, permission } = task;
            return Err(GithubError::Settings(format!("no github.token is set to {what}: {permission}")));
        }
        let mut route = route.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.exchange(task, &method, &route, body).await?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            let Some(location) = answer.headers.get(header::LOCATION) else {
                return Err(task.refused(answer.status, &answer.headers, &answer.body, self.token.as_ref()));
            };
            let repeatable = method == Method::GET || matches!(answer.status.as_u16(), 307 | 308);
            route = self.redirected(location, repeatable).map_err(|message| GithubError::Rejected {
                what: task.what.clone(),
                status: answer.status,
                message,
            })?;
        }
        Err(task.failed(&format!("it redirects more than {MOST_REDIRECTS} times"), None))
    }

    async fn exchange(
        &self,
        task: &Task,
        method: &Method,
        route: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, GithubError> {
        let no_answer = |error| task.failed("the request was not answered", Some(cause(error)));
        let request = http::Request::builder()
            .method(method)
            .uri(route)
            .header(header::ACCEPT, "application/vnd.github+json");
        let request = self.octocrab.build_request(request, body).map_err(no_answer)?;
        let (head, body) = self.octocrab.execute(request).await.map_err(no_answer)?.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(|error| {
            let error = match error.downcast::<octocrab::Error>() {
                Ok(error) => cause(*error),
                Err(error) => error,
            };
            task.failed("the answer broke off", Some(error))
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    fn redirected(&self, location: &header::HeaderValue, repeatable: bool) -> Result<String, String> {
        let target = location.to_str().ok().and_then(|location| self.api_url.join(location).ok());
        let target = target.ok_or("it redirects to what is no address")?;
        if target.origin() != self.api_url.origin() {
            let host = target.host_str().unwrap_or_default();
            return Err(format!("it redirects to {host}, which is another host and gets no token"));
        }
        if !repeatable {
            return Err(format!("it has moved to {}: use its new name", target.path()));
        }
        Ok(target[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: bytes::Bytes,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self, task: &Task) -> Result<T, GithubError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| task.failed("its answer does not read as GitHub's", Some(error.into())))
    }
}

fn check_address(api_url: &Url) -> Result<(), GithubError> {
    let refuse = |why: &str| {
        let (scheme, host) = (api_url.scheme(), api_url.host_str().unwrap_or_default());
        Err(GithubError::Settings(format!("github.api_url `{scheme}://{host}` {why}")))
    };
    if !api_url.username().is_empty() || api_url.password().is_some() {
        return refuse("must not hold a user name or password: set github.token");
    }
    if api_url.query().is_some() || api_url.fragment().is_some() {
        return refuse("must end after its path");
    }
    match api_url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(api_url) => Ok(()),
        _ => refuse("must begin with https://, because the token travels there"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn authorities(path: &PathBuf) -> Result<Vec<reqwest::Certificate>, GithubError> {
    let refuse = |why: String| GithubError::Settings(format!("github.ca `{}` {why}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(refuse("holds no certificate in PEM form".into())),
        Err(error) => Err(refuse(format!("does not read as certificates in PEM form: {error}"))),
    }
}

fn auth(token: Option<&Secret>) -> Result<AuthState, GithubError> {
    let Some(token) = token else { return Ok(AuthState::None) };
    if token.expose().is_empty() || !token.expose().bytes().all(|b| b.is_ascii_graphic()) {
        return Err(GithubError::Settings(
            "github.token is empty or holds a blank, a line break or another character no token has".into(),
        ));
    }
    Ok(AuthState::AccessToken { token: token.expose().to_owned().into() })
}

/// What lies under octocrab's wrappers, which repeat each other and print backtraces.
fn cause(error: octocrab::Error) -> BoxError {
    match error {
        octocrab::Error::Service { source, .. } => match source.downcast::<octocrab::Error>() {
            Ok(inner) => cause(*inner),
            Err(other) => other,
        },
        octocrab::Error::Reqwest { source, .. } => source.without_url().into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(api_url: &str, token: &str) -> Result<Github, GithubError> {
        Github::new(GithubSettings::new(api_url.parse().unwrap(), Some(Secret::new(token))))
    }

    #[tokio::test]
    async fn the_token_only_goes_where_it_is_safe() {
        assert!(settings("https://api.github.com", "t").is_ok());
        assert!(settings("http://127.0.0.1:1/api/v3", "t").is_ok());
        for bad in [
            "http://github.example.org",
            "ftp://127.0.0.1",
            "https://me:t0ken@github.example.org",
            "https://x.example.org/?a",
        ] {
            let error = settings(bad, "t").err().expect(bad).to_string();
            assert!(error.contains("github.api_url") && !error.contains("t0ken"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_token_that_no_header_can_hold_is_refused_unseen() {
        for bad in ["", "t0ken\n", "t0 ken", "t0kén"] {
            let error = settings("https://api.github.com", bad).err().expect(bad).to_string();
            assert!(error.contains("github.token") && !error.contains("t0"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_authority_that_is_no_certificate_is_named() {
        let mut settings = GithubSettings::new("https://api.github.com".parse().unwrap(), None);
        for path in ["/nonexistent/ca.pem", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")] {
            settings.ca = Some(path.into());
            let error = Github::new(settings.clone()).err().expect(path).to_string();
            assert!(error.contains(path), "{error}");
        }
    }
}
