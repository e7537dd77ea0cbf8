//! Building an image from a stream.
//!
//! BuildKit is asked over the plain build endpoint, and without a session unless there are
//! secrets to offer: nothing else of a session (files of a client, its agents) is wanted
//! here, base images are pulled before, and a connection to be kept and ended is saved.
//!
//! Dropping the future closes the request and the session, and the engine then stops what runs.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    io,
    time::Duration,
};

use bollard::{
    BollardRequest, Docker, body_try_stream,
    models::{BuildInfo, BuildInfoAux},
    query_parameters::BuildImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use mergeyard_types::ImageRef;
use tokio_util::sync::CancellationToken;

use super::{BuildSecret, Connection, Engine, EngineError, session::Session, vertex::Progress};
use crate::{
    StepFault,
    git::Cause,
    log::{self, LogSink},
};

/// The engine answers a build's request with its first output, which may come after the
/// whole context; the step's own timeout is what ends a build.
const BUILD_ANSWER_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    BuildKit,
    /// The engine's first builder: no cache mounts, no parallel stages.
    Classic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BuildNetwork {
    #[default]
    Default,
    None,
}

/// What one `RUN` may use. Only the classic builder takes limits for one build; under
/// BuildKit what runs is in the engine's own group `docker/buildkit`, and limits belong there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildLimits {
    pub memory_bytes: Option<u64>,
    /// In thousandths of a processor.
    pub cpu_millis: Option<u32>,
}

pub struct BuildSpec<C> {
    pub context: C,
    pub tag: ImageRef,
    pub labels: BTreeMap<String, String>,
    /// The Dockerfile's path inside the context.
    pub dockerfile: String,
    pub network: BuildNetwork,
    pub limits: BuildLimits,
    /// What a `RUN` may mount; only BuildKit can.
    pub secrets: Vec<BuildSecret>,
    /// `None`: the best the engine has.
    pub builder: Option<Builder>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// The engine's own id, `sha256:…`; not the digest a registry will know.
    pub id: String,
}

impl Engine {
    pub async fn build<C>(
        &self,
        spec: BuildSpec<C>,
        log: &LogSink,
        cancel: &CancellationToken,
    ) -> Result<BuiltImage, StepFault>
    where
        C: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let connection = self.connection().await?;
        let best = if connection.version.has_buildkit { Builder::BuildKit } else { Builder::Classic };
        let builder = spec.builder.unwrap_or(best);
        if builder == Builder::BuildKit && spec.limits != BuildLimits::default() {
            log.note("BuildKit takes no limits for one build: set them on the engine's group, or use the classic builder").await;
        }
        let session = self.session(&connection, builder, &spec.secrets, log).await?;
        let query = extra_query(builder, &spec.limits, session.as_ref().map(Session::id));
        let docker = with_query(connection.docker, query).with_timeout(BUILD_ANSWER_TIMEOUT);
        let tag = spec.tag.to_string();
        let options = options(&spec, &tag);
        let cause = Cause::default();
        let context = body_try_stream(cause.watch(spec.context));
        let mut events = docker.build_image(options, None, Some(context));
        let work = self.follow(&mut events, log);
        let built = tokio::select! {
            built = work => built,
            () = cancel.cancelled() => return Err(StepFault::Cancelled),
            never = answer(session) => match never {},
        };
        match built {
            Ok(Some(id)) => Ok(BuiltImage { id }),
            Ok(None) => self.image_id(&tag).await.map(|id| BuiltImage { id }),
            // The engine only saw the context end early; we know why it did.
            Err(fault) => Err(cause.take().unwrap_or(fault)),
        }
    }

    async fn session(
        &self,
        connection: &Connection,
        builder: Builder,
        secrets: &[BuildSecret],
        log: &LogSink,
    ) -> Result<Option<Session>, StepFault> {
        if secrets.is_empty() {
            return Ok(None);
        }
        if builder == Builder::BuildKit {
            return Session::open(&self.host, &connection.version, secrets, log).await.map(Some);
        }
        let why = if connection.version.has_buildkit {
            "and the classic builder is chosen"
        } else {
            "which this engine does not have"
        };
        log.note(&format!(
            "build secrets need BuildKit, {why}: a Dockerfile that mounts one with `RUN --mount` will fail"
        ))
        .await;
        Ok(None)
    }

    /// Writes the log as it comes; the image's id when the builder tells it.
    async fn follow(
        &self,
        events: &mut (impl Stream<Item = Result<BuildInfo, bollard::errors::Error>> + Unpin),
        log: &LogSink,
    ) -> Result<Option<String>, StepFault> {
        let mut progress = Progress::new(log);
        let mut id = None;
        let mut ended = Ok(());
        while let Some(event) = events.next().await {
            match event {
                Ok(BuildInfo { stream, status, aux, .. }) => {
                    if let Some(text) = stream {
                        log.raw(log::Stream::Stdout, text.as_bytes()).await;
                    }
                    if let Some(text) = status {
                        log.note(&text).await;
                    }
                    match aux {
                        Some(BuildInfoAux::BuildKit(status)) => progress.update(status).await,
                        Some(BuildInfoAux::Default(image)) => id = image.id,
                        None => {}
                    }
                }
                Err(e) => {
                    ended = Err(self.error("build", &e).await.into_build_fault());
                    break;
                }
            }
        }
        progress.finish().await;
        log.flush().await;
        ended.map(|()| id)
    }

    async fn image_id(&self, tag: &str) -> Result<String, StepFault> {
        let image = self.docker().await?.inspect_image(tag).await;
        let image = self.checked("inspect the built image", image).await?;
        image.id.ok_or_else(|| {
            StepFault::from(EngineError::Refused {
                what: "build".to_owned(),
                why: "the image has no id".to_owned(),
            })
        })
    }
}

/// Answers the engine's questions for as long as the build goes on. It is the build that ends:
/// a session that is gone is no reason to stop one that needs it no more.
async fn answer(session: Option<Session>) -> Infallible {
    if let Some(session) = session {
        session.serve().await;
    }
    std::future::pending().await
}

fn options<C>(spec: &BuildSpec<C>, tag: &str) -> bollard::query_parameters::BuildImageOptions {
    let labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
    let network = match spec.network {
        BuildNetwork::Default => "default",
        BuildNetwork::None => "none",
    };
    BuildImageOptionsBuilder::new()
        .dockerfile(&spec.dockerfile)
        .t(tag)
        .labels(&labels)
        .networkmode(network)
        .rm(true)
        .forcerm(true)
        .build()
}

/// Parameters of the build endpoint that the client library cannot say or says too small.
fn extra_query(builder: Builder, limits: &BuildLimits, session: Option<&str>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if builder == Builder::BuildKit {
        query.append_pair("version", "2");
    } else {
        if let Some(bytes) = limits.memory_bytes {
            // The same for both: no swap on top.
            query.append_pair("memory", &bytes.to_string()).append_pair("memswap", &bytes.to_string());
        }
        if let Some(millis) = limits.cpu_millis {
            query
                .append_pair("cpuperiod", "100000")
                .append_pair("cpuquota", &(u64::from(millis) * 100).to_string());
        }
    }
    if let Some(id) = session {
        query.append_pair("session", id);
    }
    query.finish()
}

/// A client whose build requests carry `extra` in place of what the library says about the same.
fn with_query(docker: Docker, extra: String) -> Docker {
    docker.with_request_modifier(move |mut request: BollardRequest| {
        let uri = request.uri().clone();
        let said = uri.query().unwrap_or_default();
        let kept: Vec<&str> = said.split('&').filter(|pair| !pair.starts_with("version=")).collect();
        let path = format!("{}?{}&{extra}", uri.path(), kept.join("&"));
        let mut parts = uri.into_parts();
        parts.path_and_query = path.parse().ok().or(parts.path_and_query);
        if let Ok(uri) = http::Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        request
    })
}
