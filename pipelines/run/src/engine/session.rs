//! Build secrets, offered to BuildKit from memory.
//!
//! What a build may read and its request must not carry is asked back: the client opens a
//! connection, gives it up (`POST /session`, upgraded to HTTP/2), and BuildKit calls the
//! client over it. Here it can ask for secrets by their ids and for nothing else. A value
//! leaves this process only when a `RUN` mounts it, into a memory file system of that `RUN`.
//!
//! Dropping the session closes the connection, and with it what BuildKit does for it.

use std::{io, pin::Pin};

use bollard::{
    health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    moby::buildkit::secrets::v1::{
        GetSecretRequest, GetSecretResponse,
        secrets_server::{Secrets, SecretsServer},
    },
};
use bytes::Bytes;
use futures_util::Stream;
use http::{StatusCode, header};
use http_body_util::Empty;
use hyper::{client::conn::http1, server::conn::http2, upgrade::Upgraded};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use mergeyard_types::Secret;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tonic::{Request, Response, Status, service::Routes};

use super::{CONNECT_TIMEOUT, EngineError, EngineVersion};
use crate::{StepFault, log::LogSink};

/// BuildKit refuses larger ones only after it was sent them.
const MAX_SECRET_BYTES: usize = 500 * 1024;

/// A value a `RUN --mount=type=secret,id=…` may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSecret {
    pub id: String,
    pub value: Secret,
}

pub(super) struct Session {
    id: String,
    connection: Upgraded,
    services: Routes,
}

impl Session {
    pub(super) async fn open(
        host: &str,
        engine: &EngineVersion,
        secrets: &[BuildSecret],
        log: &LogSink,
    ) -> Result<Session, StepFault> {
        if let Some(BuildSecret { id, value }) =
            secrets.iter().find(|secret| secret.value.expose().len() > MAX_SECRET_BYTES)
        {
            let size = value.expose().len();
            return Err(StepFault::lasting(format!(
                "build secret `{id}` has {size} bytes; BuildKit takes at most {MAX_SECRET_BYTES}"
            )));
        }
        let id = new_id();
        let connecting = connect(host, &engine.api, &id);
        let connection =
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(timed_out()));
        let connection = connection.map_err(|e| match e.kind() {
            io::ErrorKind::Unsupported => StepFault::lasting(e.to_string()),
            _ => EngineError::Unreachable { host: host.to_owned(), why: e.to_string() }.into(),
        })?;
        let offered = Offered { secrets: secrets.to_vec(), log: log.clone() };
        let services = Routes::new(SecretsServer::new(offered)).add_service(HealthServer::new(Alive));
        Ok(Session { id, connection, services })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Answers until the engine hangs up. What that means for the build, the build says.
    pub(super) async fn serve(self) {
        let services = TowerToHyperService::new(self.services);
        let served =
            http2::Builder::new(TokioExecutor::new()).serve_connection(self.connection, services).await;
        if let Err(error) = served {
            tracing::debug!(error = %error, "a build's session ended badly");
        }
    }
}

/// BuildKit takes other characters for a part of an address and then finds no session.
fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The connection over which the engine asks, from the moment it agreed to.
async fn connect(host: &str, api: &str, id: &str) -> io::Result<Upgraded> {
    let stream = if let Some(path) = host.strip_prefix("unix://") {
        Either::Left(UnixStream::connect(path).await?)
    } else if let Some(address) = host.strip_prefix("tcp://") {
        Either::Right(TcpStream::connect(address.trim_end_matches('/')).await?)
    } else {
        let why = format!(
            "build secrets cannot be offered to an engine at {host}; set `engine.host` to unix://… or tcp://…"
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    };
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends by itself: when the connection is upgraded, or when both ends of it are dropped.
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::post(format!("/v{api}/session"))
        .header(header::HOST, "docker")
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "h2c")
        .header("X-Docker-Expose-Session-Uuid", id)
        .header("X-Docker-Expose-Session-Name", "mergeyard")
        .header("X-Docker-Expose-Session-Grpc-Method", "/moby.buildkit.secrets.v1.Secrets/GetSecret")
        .header("X-Docker-Expose-Session-Grpc-Method", "/grpc.health.v1.Health/Check")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = requests.send_request(request).await.map_err(io::Error::other)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => hyper::upgrade::on(response).await.map_err(io::Error::other),
        status => Err(io::Error::other(format!("the engine answered {status} to the session of a build"))),
    }
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

struct Offered {
    secrets: Vec<BuildSecret>,
    log: LogSink,
}

#[tonic::async_trait]
impl Secrets for Offered {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match self.secrets.iter().find(|secret| secret.id == id) {
            Some(secret) => {
                Ok(Response::new(GetSecretResponse { data: secret.value.expose().as_bytes().to_vec() }))
            }
            // BuildKit only complains about a mount that says `required`.
            None => {
                self.log.note(&format!("the build asks for secret `{id}`, which it is not given")).await;
                Err(Status::not_found(format!("secret {id} is not given to this build")))
            }
        }
    }
}

/// BuildKit asks every few seconds whether the client still lives, and ends the build of one
/// that does not answer.
struct Alive;

#[tonic::async_trait]
impl Health for Alive {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Err(Status::unimplemented("only Check is answered"))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("only Check is answered"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{DEFAULT_LOG_BYTES, Masker};

    #[test]
    fn a_session_has_an_id_of_letters_and_digits_that_is_not_another_ones() {
        let ids: std::collections::HashSet<String> = std::iter::repeat_with(new_id).take(100).collect();
        assert_eq!(ids.len(), 100);
        for id in ids {
            assert!(id.len() >= 25 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_offered_is_said_without_the_value() {
        let version = EngineVersion { version: "1".to_owned(), api: "1.41".to_owned(), has_buildkit: true };
        let secret = |size: usize| BuildSecret { id: "key".to_owned(), value: Secret::new("v".repeat(size)) };
        let (log, _lines) = LogSink::channel(Masker::default(), DEFAULT_LOG_BYTES);
        for (host, size, expected) in [
            ("unix:///x", MAX_SECRET_BYTES + 1, "`key` has 512001 bytes"),
            ("https://engine.example.org", 8, "set `engine.host`"),
        ] {
            let fault = Session::open(host, &version, &[secret(size)], &log).await.map(drop).unwrap_err();
            assert!(
                matches!(&fault, StepFault::Error { message, retry: false } if message.contains(expected)),
                "{fault:?}"
            );
            assert!(!fault.to_string().contains("vvv"));
        }
        let fault = Session::open("unix:///nowhere/docker.sock", &version, &[secret(8)], &log).await;
        assert!(matches!(fault.map(drop), Err(StepFault::Error { retry: true, .. })));
    }
}
