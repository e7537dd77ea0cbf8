//! What a registry says is published, asked over verified TLS.
//!
//! Only reading: pushing is the engine's work. The digest is computed from the bytes that
//! came, so a registry cannot claim one thing and hand out another.

use std::{collections::BTreeMap, error::Error as StdError, io, sync::Mutex, time::Duration};

use http::{HeaderMap, StatusCode, header};
use mergeyard_types::{Digest, ImageName, RegistryHost, Secret, Version};
use reqwest::Response;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use crate::fault::root_cause;

/// A manifest or image configuration that is larger is refused: it protects memory. The
/// distribution specification recommends registries to accept manifests up to this size.
const MAX_DOCUMENT: usize = 4 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// Where images go, and as whom.
#[derive(Debug, Clone)]
pub struct RegistryAccess {
    pub host: RegistryHost,
    /// The only authority that is trusted; without one, those the system trusts.
    pub ca_pem: Option<Vec<u8>>,
    pub username: String,
    pub password: Secret,
}

/// One image as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub digest: Digest,
    pub labels: BTreeMap<String, String>,
    /// Configuration and layers, compressed as they are stored.
    pub size: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the certificate of registry {host} has expired; renew it")]
    CertificateExpired { host: RegistryHost },
    #[error("the certificate of registry {host} is not valid yet; check the clocks of both machines")]
    CertificateNotYetValid { host: RegistryHost },
    #[error(
        "the certificate of registry {host} is for another host name; use the name in the certificate, or a certificate with this name"
    )]
    CertificateForAnotherHost { host: RegistryHost },
    #[error(
        "the certificate of registry {host} is signed by an authority that is not known here; set `registry.ca` to that authority's certificate"
    )]
    UnknownAuthority { host: RegistryHost },
    #[error("the connection to registry {host} is not secure: {why}")]
    Tls { host: RegistryHost, why: String },
    #[error(
        "registry {host} does not accept user `{username}` for {what}; check `registry.username` and `registry.password`"
    )]
    Unauthorized { host: RegistryHost, username: String, what: String },
    #[error("registry {host} asks to wait{}", .retry_after.map_or(String::new(), |t| format!(" {} s", t.as_secs())))]
    TooManyRequests { host: RegistryHost, retry_after: Option<Duration> },
    #[error("registry {host} answered {status} for {what}")]
    Status { host: RegistryHost, status: StatusCode, what: String },
    #[error("registry {host} does not answer: {why}")]
    Unreachable { host: RegistryHost, why: String },
    #[error("registry {host} sent something else than it should for {what}: {why}")]
    Broken { host: RegistryHost, what: String, why: String },
    #[error("`registry.ca` holds no usable certificate: {0}")]
    Ca(String),
}

impl RegistryError {
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::TooManyRequests { .. }
            | RegistryError::Unreachable { .. }
            | RegistryError::Broken { .. } => true,
            RegistryError::Status { status, .. } => status.is_server_error(),
            _ => false,
        }
    }
}

pub struct RegistryClient {
    access: RegistryAccess,
    http: reqwest::Client,
    /// The last bearer token by scope; registries with basic authentication never need one.
    tokens: Mutex<BTreeMap<String, Secret>>,
}

impl RegistryClient {
    pub fn new(access: RegistryAccess) -> Result<Self, RegistryError> {
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::limited(3))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .no_proxy();
        if let Some(pem) = &access.ca_pem {
            let certs =
                reqwest::Certificate::from_pem_bundle(pem).map_err(|e| RegistryError::Ca(root_cause(&e)))?;
            if certs.is_empty() {
                return Err(RegistryError::Ca("there is no `BEGIN CERTIFICATE` in it".to_owned()));
            }
            builder = builder.tls_certs_only(certs);
        }
        let http = builder.build().map_err(|e| RegistryError::Ca(root_cause(&e)))?;
        Ok(Self { access, http, tokens: Mutex::default() })
    }

    pub fn access(&self) -> &RegistryAccess {
        &self.access
    }

    /// What stands under `name:version`, `None` when nothing does.
    pub async fn published(
        &self,
        name: &ImageName,
        version: &Version,
    ) -> Result<Option<Published>, RegistryError> {
        let Some((digest, bytes)) = self.manifest(name, version.as_str()).await? else { return Ok(None) };
        let what = format!("{name}:{version}");
        let document: Document = self.parse(&what, &bytes)?;
        let manifest = match document {
            Document { config: Some(config), layers, .. } => (config, layers),
            Document { manifests, .. } => self.platform(name, &what, manifests).await?,
        };
        let (config, layers) = manifest;
        let size = layers.iter().map(|layer| layer.size).fold(config.size, u64::saturating_add);
        let path = format!("{name}/blobs/{}", config.digest);
        let bytes = self.document(name, &path, "application/json").await?;
        let (bytes, _) = bytes.ok_or_else(|| self.broken(&what, "its configuration is missing"))?;
        self.verify(&what, &config.digest, &bytes)?;
        let image: ImageConfig = self.parse(&what, &bytes)?;
        Ok(Some(Published {
            digest,
            labels: image.config.unwrap_or_default().labels.unwrap_or_default(),
            size,
        }))
    }

    /// The manifest inside an index that this machine would run.
    async fn platform(
        &self,
        name: &ImageName,
        what: &str,
        manifests: Vec<Descriptor>,
    ) -> Result<(Descriptor, Vec<Descriptor>), RegistryError> {
        let ours = |d: &&Descriptor| {
            d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == "amd64")
        };
        let Some(one) = manifests.iter().find(ours).or(manifests.first()) else {
            return Err(self.broken(what, "it is neither a manifest nor an index"));
        };
        let found = self.manifest(name, &one.digest.to_string()).await?;
        let (_, bytes) = found.ok_or_else(|| self.broken(what, "a manifest of its index is missing"))?;
        self.verify(what, &one.digest, &bytes)?;
        let document: Document = self.parse(what, &bytes)?;
        let config = document.config.ok_or_else(|| self.broken(what, "a manifest has no configuration"))?;
        Ok((config, document.layers))
    }

    async fn manifest(
        &self,
        name: &ImageName,
        reference: &str,
    ) -> Result<Option<(Digest, Vec<u8>)>, RegistryError> {
        let what = format!("{name}:{reference}");
        let path = format!("{name}/manifests/{reference}");
        let Some((bytes, headers)) = self.document(name, &path, MANIFESTS).await? else { return Ok(None) };
        let digest = Digest::Sha256(Sha256::digest(&bytes).into());
        if let Some(claimed) = headers.get("docker-content-digest") {
            let claimed: Option<Digest> = claimed.to_str().ok().and_then(|text| text.parse().ok());
            let claimed =
                claimed.ok_or_else(|| self.broken(&what, "its Docker-Content-Digest is no digest"))?;
            self.verify(&what, &claimed, &bytes)?;
        }
        Ok(Some((digest, bytes)))
    }

    async fn document(
        &self,
        name: &ImageName,
        path: &str,
        accept: &str,
    ) -> Result<Option<(Vec<u8>, HeaderMap)>, RegistryError> {
        let response = self.get(name, path, accept).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(self.refusal(path, &response));
        }
        let headers = response.headers().clone();
        Ok(Some((self.body(path, response).await?, headers)))
    }

    /// GET, and once more with a token when the registry asks for one.
    async fn get(&self, name: &ImageName, path: &str, accept: &str) -> Result<Response, RegistryError> {
        let scope = format!("repository:{name}:pull");
        let url = format!("https://{}/v2/{path}", self.access.host);
        let known =
            self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&scope).cloned();
        let request = self.http.get(&url).header(header::ACCEPT, accept);
        let request = match &known {
            Some(token) => request.bearer_auth(token.expose()),
            None => request.basic_auth(&self.access.username, Some(self.access.password.expose())),
        };
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let Some(challenge) = bearer_challenge(&response) else { return Ok(response) };
        let token = self.token(&challenge, &scope).await?;
        self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(scope, token.clone());
        let again = self.http.get(&url).header(header::ACCEPT, accept).bearer_auth(token.expose());
        again.send().await.map_err(|e| self.unreachable(&e))
    }

    async fn token(&self, challenge: &Challenge, scope: &str) -> Result<Secret, RegistryError> {
        let mut realm = url::Url::parse(&challenge.realm)
            .map_err(|_| self.broken("its token realm", "it is no address"))?;
        realm.query_pairs_mut().append_pair("scope", scope);
        if let Some(service) = &challenge.service {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let request =
            self.http.get(realm).basic_auth(&self.access.username, Some(self.access.password.expose()));
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if !response.status().is_success() {
            return Err(self.refusal("a token", &response));
        }
        let bytes = self.body("a token", response).await?;
        let token: Token = self.parse("a token", &bytes)?;
        token
            .token
            .or(token.access_token)
            .ok_or_else(|| self.broken("a token", "there is none in the answer"))
    }

    async fn body(&self, what: &str, mut response: Response) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if body.len() + chunk.len() > MAX_DOCUMENT {
                return Err(self.broken(what, "it is larger than 4 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn verify(&self, what: &str, digest: &Digest, bytes: &[u8]) -> Result<(), RegistryError> {
        let same = match digest {
            Digest::Sha256(wanted) => Sha256::digest(bytes)[..] == wanted[..],
            Digest::Sha512(wanted) => Sha512::digest(bytes)[..] == wanted[..],
        };
        if same { Ok(()) } else { Err(self.broken(what, &format!("its content is not {digest}"))) }
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, what: &str, bytes: &[u8]) -> Result<T, RegistryError> {
        serde_json::from_slice(bytes).map_err(|e| self.broken(what, &e.to_string()))
    }

    fn refusal(&self, what: &str, response: &Response) -> RegistryError {
        let (host, what) = (self.access.host.clone(), what.to_owned());
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Unauthorized { host, username: self.access.username.clone(), what }
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let seconds =
                    response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                RegistryError::TooManyRequests { host, retry_after: seconds.map(Duration::from_secs) }
            }
            status => RegistryError::Status { host, status, what },
        }
    }

    fn broken(&self, what: &str, why: &str) -> RegistryError {
        RegistryError::Broken { host: self.access.host.clone(), what: what.to_owned(), why: why.to_owned() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> RegistryError {
        let host = self.access.host.clone();
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(why)) => certificate(host, why),
            Some(why) => RegistryError::Tls { host, why: why.to_string() },
            None => RegistryError::Unreachable { host, why: root_cause(error) },
        }
    }
}

fn certificate(host: RegistryHost, why: &rustls::CertificateError) -> RegistryError {
    use rustls::CertificateError as C;
    match why {
        C::Expired | C::ExpiredContext { .. } => RegistryError::CertificateExpired { host },
        C::NotValidYet | C::NotValidYetContext { .. } => RegistryError::CertificateNotYetValid { host },
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            RegistryError::CertificateForAnotherHost { host }
        }
        C::UnknownIssuer | C::BadSignature => RegistryError::UnknownAuthority { host },
        other => RegistryError::Tls { host, why: other.to_string() },
    }
}

/// The TLS library's own error, wherever it hides in the chain: an I/O error skips the
/// error it wraps when it is asked for its source.
fn tls_error<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

struct Challenge {
    realm: String,
    service: Option<String>,
}

/// `WWW-Authenticate: Bearer realm="…",service="…"` of an answer 401.
fn bearer_challenge(response: &Response) -> Option<Challenge> {
    if response.status() != StatusCode::UNAUTHORIZED {
        return None;
    }
    let all = response.headers().get_all(header::WWW_AUTHENTICATE);
    all.iter().find_map(|value| parse_challenge(value.to_str().ok()?))
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let challenges = http_auth::parse_challenges(text).ok()?;
    let bearer = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let value = |name: &str| {
        let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    Some(Challenge { realm: value("realm")?, service: value("service") })
}

#[derive(Deserialize)]
struct Token {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

/// A manifest or an index: whichever fields it has tell which.
#[derive(Deserialize)]
struct Document {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct ImageConfig {
    config: Option<RunConfig>,
}

#[derive(Deserialize, Default)]
struct RunConfig {
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_challenge_is_read_and_others_are_left() {
        let challenge =
            parse_challenge(r#"Basic realm="a,b", Bearer realm="https://auth.example.org/token",service="r",scope="x:pull,push""#)
                .unwrap();
        assert_eq!(
            (challenge.realm.as_str(), challenge.service.as_deref()),
            ("https://auth.example.org/token", Some("r"))
        );
        assert!(parse_challenge(r#"Basic realm="x""#).is_none());
        assert!(parse_challenge("Bearer").is_none());
    }
}
