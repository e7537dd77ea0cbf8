//! An upstream registry over TLS that answers as a test wants, and remembers what it was asked.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, StatusCode};
use mergeyard_registry::{Authority, Config, Limits, Mirror, serve_app};
use mergeyard_types::Secret;
use rustls::ServerConfig;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::yard::sha256;

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

type Script = Arc<dyn Fn(&Asked) -> Response + Send + Sync>;

pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Scripted {
    pub(crate) fn start(script: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path(), &["127.0.0.1".to_owned()]).unwrap();
        Self::with_tls(authority.server_config().unwrap(), authority.ca_pem().to_owned(), script)
    }

    pub(crate) fn with_tls(
        tls: Arc<ServerConfig>,
        ca_pem: String,
        script: impl Fn(&Asked) -> Response + Send + Sync + 'static,
    ) -> Self {
        let (script, asked): (Arc<Mutex<Script>>, Arc<Mutex<Vec<_>>>) =
            (Arc::new(Mutex::new(Arc::new(script))), Arc::default());
        let (playing, remembering) = (script.clone(), asked.clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = move |request: Request| {
            let uri = request.uri();
            let asked = Asked {
                method: request.method().clone(),
                host: address.to_string(),
                path: uri.path().to_owned(),
                query: uri.query().unwrap_or_default().to_owned(),
                headers: request.headers().clone(),
            };
            remembering.lock().unwrap().push(asked.clone());
            let script = playing.lock().unwrap().clone();
            async move { script(&asked) }
        };
        let limits = Limits { shutdown_time: Duration::from_millis(50), ..Limits::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().fallback(answer);
        let serving = tokio::spawn(serve_app(listener, router, Some(tls), limits, async {
            let _ = stopped.await;
        }));
        Self { address, ca_pem, script, asked, stop, serving }
    }

    pub(crate) fn now(&self, script: impl Fn(&Asked) -> Response + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// `GET /v2/…` of everything since the last look.
    pub(crate) fn story(&self) -> Vec<String> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap().unwrap();
    }

    /// A mirror of it under `hub`.
    pub(crate) fn mirror(&self, revalidate: Duration) -> Mirror {
        Mirror {
            prefix: "hub".parse().unwrap(),
            upstream: format!("https://{}", self.address).parse().unwrap(),
            login: Some(("builder".to_owned(), Secret::new(PASSWORD))),
            ca_pem: Some(self.ca_pem.clone().into_bytes()),
            revalidate,
        }
    }

    pub(crate) fn config(&self, revalidate: Duration) -> Config {
        mirroring(self.mirror(revalidate))
    }
}

pub(crate) const PASSWORD: &str = "upstream-password-1";
pub(crate) const ALWAYS: Duration = Duration::ZERO;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// With times that a test can wait for.
pub(crate) fn mirroring(mirror: Mirror) -> Config {
    let limits = Limits {
        upstream_backoff: Duration::from_millis(1),
        upstream_idle_time: Duration::from_secs(10),
        ..Limits::default()
    };
    Config { mirrors: vec![mirror], limits, ..Config::default() }
}

pub(crate) fn status(status: u16) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

pub(crate) fn manifest(media_type: &str, json: &str) -> Response {
    Response::builder()
        .header("content-type", media_type)
        .header("docker-content-digest", sha256(json.as_bytes()).to_string())
        .body(Body::from(json.to_owned()))
        .unwrap()
}

/// A blob as registries send it: all of it, or from where it is asked on.
pub(crate) fn blob(asked: &Asked, bytes: &'static [u8]) -> Response {
    blob_until(asked, bytes, bytes.len())
}

/// A blob whose connection breaks when `end` bytes of it were sent.
pub(crate) fn blob_until(asked: &Asked, bytes: &'static [u8], end: usize) -> Response {
    let start = asked.header("range").map_or(0, |range| {
        range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse().unwrap()
    });
    let mut response = Response::builder()
        .header("content-length", bytes.len() - start)
        .header("etag", format!("\"{}\"", sha256(bytes)));
    if start > 0 {
        let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header("content-range", range);
    }
    response.body(breaking(&bytes[start.min(end)..end], end < bytes.len())).unwrap()
}

pub(crate) fn breaking(bytes: &'static [u8], breaks: bool) -> Body {
    let pieces = stream::iter(bytes.chunks(16 << 10).map(|piece| Ok(Bytes::from_static(piece))));
    // The break comes after what was sent has had its turn on the wire.
    let end = stream::once(async move {
        for _ in 0..if breaks { 1000 } else { 0 } {
            tokio::task::yield_now().await;
        }
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    Body::from_stream(pieces.chain(end.filter(move |_| std::future::ready(breaks))))
}

/// Content that no compression and no chance makes equal to another's.
pub(crate) fn content(size: usize, seed: u64) -> &'static [u8] {
    let mut state = seed.wrapping_mul(2) + 1;
    let bytes: Vec<u8> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect();
    Box::leak(bytes.into_boxed_slice())
}
