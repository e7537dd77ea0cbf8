//! The container engine, behind the few verbs a step needs.
//!
//! The connection is made when it is first needed and made again when it is lost, so that
//! a server starts without an engine and steps end as infrastructure errors until one is there.

mod build;
mod containers;
mod fault;
mod images;
mod registries;
mod session;
mod vertex;
mod workflows;

use std::{collections::BTreeMap, path::Path, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use bollard::{BollardRequest, Docker, auth::DockerCredentials, errors::Error};
use http::HeaderValue;
use mergeyard_types::Secret;
use tokio::sync::Mutex;

pub use build::{BuildLimits, BuildNetwork, BuildSpec, Builder, BuiltImage};
pub use containers::Service;
pub use fault::EngineError;
pub(crate) use images::{OWNER_LABEL, STEP_LABEL, TREE_LABEL};
pub use registries::Reach;
pub use session::BuildSecret;
pub use workflows::Live;
pub(crate) use workflows::{ATTEMPT_LABEL, CACHE_LABEL, cache_name};

use crate::engine_trust::CertsDir;

/// An engine that lives answers this fast; a hung one is an infrastructure fault.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Waiting for the first byte of an answer to a request that is not a build.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

pub struct Engine {
    host: String,
    certs: CertsDir,
    owner: Option<String>,
    /// What tells our networks, volumes and containers from those of others on this engine.
    pub(crate) namespace: String,
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    docker: Docker,
    version: EngineVersion,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersion {
    pub version: String,
    pub api: String,
    pub has_buildkit: bool,
}

/// How to be let in by one registry.
#[derive(Debug, Clone)]
pub struct RegistryCredentials {
    pub username: String,
    pub password: Secret,
}

/// Credentials by registry host, Docker Hub as `docker.io`.
pub type BaseCredentials = BTreeMap<String, RegistryCredentials>;

impl Engine {
    /// Knows the engine's address and does not call it yet. `unix:///path` or `tcp://host:port`.
    pub fn at(host: &str) -> Engine {
        Engine {
            host: host.to_owned(),
            certs: CertsDir::default(),
            owner: None,
            namespace: uuid::Uuid::new_v4().simple().to_string(),
            connection: Mutex::new(None),
        }
    }

    /// As [`Engine::at`], and calls it.
    pub async fn connect(host: &str) -> Result<Engine, EngineError> {
        let engine = Engine::at(host);
        engine.version().await?;
        Ok(engine)
    }

    /// Where this engine looks for registries' authorities, when not in Docker's usual place.
    pub fn with_certs_dir(self, certs: CertsDir) -> Engine {
        Engine { certs, ..self }
    }

    /// Marks what is made here as `owner`'s, so that several servers can share one engine: each
    /// sweeps only its own, and who is nobody sweeps no containers.
    pub fn owned_by(self, owner: impl Into<String>) -> Engine {
        let owner = owner.into();
        Engine { namespace: owner.clone(), owner: Some(owner), ..self }
    }

    pub fn certs(&self) -> &CertsDir {
        &self.certs
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether files of this machine are the engine's files.
    pub fn is_local(&self) -> bool {
        self.socket().is_some()
    }

    /// The file through which a local engine is reached.
    pub fn socket(&self) -> Option<&Path> {
        self.host.strip_prefix("unix://").map(Path::new)
    }

    /// Asks the engine itself, so it is also the question whether there is one.
    pub async fn version(&self) -> Result<EngineVersion, EngineError> {
        let connection = self.connection().await?;
        self.checked("ping", connection.docker.ping().await).await?;
        Ok(connection.version)
    }

    pub async fn has_buildkit(&self) -> Result<bool, EngineError> {
        Ok(self.connection().await?.version.has_buildkit)
    }

    pub(crate) async fn docker(&self) -> Result<Docker, EngineError> {
        Ok(self.connection().await?.docker)
    }

    async fn connection(&self) -> Result<Connection, EngineError> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let fresh = tokio::time::timeout(CONNECT_TIMEOUT, connect(&self.host)).await;
        let fresh = fresh.unwrap_or(Err(Error::RequestTimeoutError));
        let fresh = fresh.map_err(|e| EngineError::unreachable(&self.host, &e))?;
        Ok(connection.insert(fresh).clone())
    }

    /// Sorts an error, and forgets the connection when the engine is not there any more: the
    /// next one may be another version.
    pub(crate) async fn checked<T>(&self, what: &str, result: Result<T, Error>) -> Result<T, EngineError> {
        match result {
            Ok(value) => Ok(value),
            Err(e) => Err(self.error(what, &e).await),
        }
    }

    pub(crate) async fn error(&self, what: &str, error: &Error) -> EngineError {
        let error = EngineError::from_bollard(&self.host, what, error);
        if matches!(error, EngineError::Unreachable { .. }) {
            *self.connection.lock().await = None;
        }
        error
    }
}

async fn connect(host: &str) -> Result<Connection, Error> {
    let docker = Docker::connect_with_host(host)?
        .with_timeout(ANSWER_TIMEOUT)
        .with_request_modifier(url_safe_credentials)
        .negotiate_version()
        .await?;
    let said = docker.version().await?;
    let api = docker.client_version();
    let is_docker = said.components.iter().flatten().any(|part| part.name == "Engine");
    // API 1.39 is Docker 18.09, the first whose BuildKit needs no experimental switch.
    let has_buildkit =
        is_docker && said.os.as_deref() == Some("linux") && (api.major_version, api.minor_version) >= (1, 39);
    let api = format!("{}.{}", api.major_version, api.minor_version);
    let version = EngineVersion { version: said.version.unwrap_or_default(), api, has_buildkit };
    Ok(Connection { docker, version })
}

/// The engine reads `X-Registry-Auth` as URL-safe base64 and the client library writes the
/// standard alphabet, which loses every credential that needs `+` or `/`.
fn url_safe_credentials(mut request: BollardRequest) -> BollardRequest {
    for name in ["X-Registry-Auth", "X-Registry-Config"] {
        let Some(value) = request.headers().get(name) else { continue };
        let decoded = STANDARD.decode(value.as_bytes()).map(|json| URL_SAFE.encode(json));
        if let Ok(value) = decoded.map_err(drop).and_then(|text| HeaderValue::try_from(text).map_err(drop)) {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

fn docker_credentials(credentials: &RegistryCredentials, registry: &str) -> DockerCredentials {
    let server = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
    DockerCredentials {
        username: Some(credentials.username.clone()),
        password: Some(credentials.password.expose().to_owned()),
        serveraddress: Some(server.to_owned()),
        ..DockerCredentials::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_survive_the_header_whatever_is_in_them() {
        let json = r#"{"password":"~~~???>>>é"}"#;
        let standard = STANDARD.encode(json);
        assert!(standard.contains(['+', '/']), "the example must need the alphabet: {standard}");
        let request = http::Request::builder().header("X-Registry-Auth", standard);
        let request = url_safe_credentials(request.body(bollard::body_full(bytes::Bytes::new())).unwrap());
        assert_eq!(URL_SAFE.decode(&request.headers()["X-Registry-Auth"]).unwrap(), json.as_bytes());
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named_with_what_to_do() {
        let error = Engine::connect("unix:///nowhere/docker.sock").await.map(drop).unwrap_err().to_string();
        assert_eq!(
            error,
            "no engine answers at unix:///nowhere/docker.sock: start it with `systemctl start docker`, or set `engine.host`"
        );
    }
}
