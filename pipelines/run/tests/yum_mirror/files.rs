//! A file server that can be told to fail: the upstream's, and the mirror's own.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, Response, StatusCode, Uri, header},
};
use axum_server::tls_rustls::RustlsConfig;
use futures_util::stream;
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    folder: Mutex<PathBuf>,
    fault: Mutex<Fault>,
    /// How many transfers were stopped half way.
    held: watch::Sender<usize>,
    /// Whether they may go on.
    open: watch::Sender<bool>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    /// Of all that has this in its path.
    Status(&'static str, StatusCode),
    /// Half of all that has this in its path comes, the rest only after `release`.
    Hold(&'static str),
}

impl Files {
    pub(crate) async fn serve(folder: PathBuf) -> Files {
        let (app, shared) = app(folder);
        Files { url: crate::support::serve(app).await, shared }
    }

    /// The same over TLS, with `server.crt` and `server.key` of a folder.
    pub(crate) async fn serve_tls(folder: PathBuf, certificate: &Path) -> Files {
        // The client's choice too; whoever comes first makes it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (app, shared) = app(folder);
        let at = |name| certificate.join(name);
        let tls = RustlsConfig::from_pem_file(at("server.crt"), at("server.key")).await.unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
        tokio::spawn(server.serve(app.into_make_service()));
        Files { url, shared }
    }

    pub(crate) fn fail(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    pub(crate) fn serve_instead(&self, folder: PathBuf) {
        *self.shared.folder.lock().unwrap() = folder;
    }

    /// Waits until a transfer stands still.
    pub(crate) async fn holds(&self) {
        let mut held = self.shared.held.subscribe();
        tokio::time::timeout(crate::steps::MINUTE, held.wait_for(|held| *held > 0)).await.unwrap().unwrap();
    }

    pub(crate) fn release(&self) {
        self.fail(Fault::Nothing);
        self.shared.held.send_replace(0);
        self.shared.open.send_replace(true);
    }
}

fn app(folder: PathBuf) -> (Router, Arc<Shared>) {
    let shared = Arc::new(Shared {
        folder: Mutex::new(folder),
        fault: Mutex::new(Fault::Nothing),
        held: watch::channel(0).0,
        open: watch::channel(false).0,
    });
    (Router::new().fallback(answer).with_state(Arc::clone(&shared)), shared)
}

async fn answer(State(shared): State<Arc<Shared>>, method: Method, uri: Uri) -> Response<Body> {
    let path = uri.path().replace("%5E", "^");
    let fault = shared.fault.lock().unwrap().clone();
    let status = |status| Response::builder().status(status).body(Body::empty()).unwrap();
    if let Fault::Status(part, code) = fault
        && path.contains(part)
    {
        return status(code);
    }
    let file = shared.folder.lock().unwrap().join(path.trim_start_matches('/'));
    let Ok(bytes) = tokio::fs::read(file).await else { return status(StatusCode::NOT_FOUND) };
    let bytes = Bytes::from(bytes);
    let answer = Response::builder().header(header::CONTENT_LENGTH, bytes.len());
    let body = match fault {
        _ if method == Method::HEAD => Body::empty(),
        Fault::Hold(part) if path.contains(part) => halves(shared, bytes),
        _ => Body::from(bytes),
    };
    answer.body(body).unwrap()
}

fn halves(shared: Arc<Shared>, bytes: Bytes) -> Body {
    let (first, second) = (bytes.slice(..bytes.len() / 2), bytes.slice(bytes.len() / 2..));
    shared.open.send_replace(false);
    let parts = stream::unfold(Some((shared, false)), move |state| {
        let (first, second) = (first.clone(), second.clone());
        async move {
            let (shared, was_sent) = state?;
            if !was_sent {
                return Some((Ok::<_, std::io::Error>(first), Some((shared, true))));
            }
            shared.held.send_modify(|held| *held += 1);
            let mut open = shared.open.subscribe();
            let _ = open.wait_for(|open| *open).await;
            Some((Ok(second), None))
        }
    });
    Body::from_stream(parts)
}
