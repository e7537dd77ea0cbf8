//! Real git repositories and a real smart-HTTP server for them, on loopback.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, Response, StatusCode, Uri},
};
use git2::{IndexEntry, IndexTime, Oid, Repository, Signature, Time};
use mergeyard_run::git::Remote;
use mergeyard_types::{CommitSha, RepoName, Secret};
use tokio::{io::AsyncWriteExt, process::Command};

pub(crate) const FILE: u32 = 0o100644;
pub(crate) const PROGRAM: u32 = 0o100755;
pub(crate) const SYMLINK: u32 = 0o120000;
pub(crate) const SUBMODULE: u32 = 0o160000;

pub(crate) fn repo_name() -> RepoName {
    "acme/clock".parse().unwrap()
}

pub(crate) fn bare(path: &Path) -> Repository {
    Repository::init_bare(path).unwrap()
}

/// Puts a commit with exactly `files` on top of a branch.
pub(crate) fn commit(git: &Repository, branch: &str, files: &[(&str, u32, &[u8])]) -> CommitSha {
    let mut index = git2::Index::new().unwrap();
    for (path, mode, content) in files {
        let id = match *mode {
            SUBMODULE => Oid::from_str("0123456789abcdef0123456789abcdef01234567").unwrap(),
            _ => git.blob(content).unwrap(),
        };
        index.add(&entry(path, *mode, id)).unwrap();
    }
    let tree = git.find_tree(index.write_tree_to(git).unwrap()).unwrap();
    let name = format!("refs/heads/{branch}");
    let parent = git.find_reference(&name).ok().map(|r| r.peel_to_commit().unwrap());
    let count = parent.as_ref().map_or(0, |p| p.time().seconds() - 1_700_000_000);
    let who = Signature::new("A Person", "a@example.org", &Time::new(1_700_000_001 + count, 0)).unwrap();
    let parents: Vec<_> = parent.iter().collect();
    let id = git.commit(Some(&name), &who, &who, "a commit", &tree, &parents).unwrap();
    sha(id)
}

pub(crate) fn sha(id: Oid) -> CommitSha {
    id.to_string().parse().unwrap()
}

fn entry(path: &str, mode: u32, id: Oid) -> IndexEntry {
    let zero = IndexTime::new(0, 0);
    IndexEntry {
        ctime: zero,
        mtime: zero,
        dev: 0,
        ino: 0,
        mode,
        uid: 0,
        gid: 0,
        file_size: 0,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.into(),
    }
}

pub(crate) fn remote(url: &str, token: Option<&str>) -> Remote {
    Remote { url: url.parse().unwrap(), token: token.map(Secret::new), allow_file: true }
}

pub(crate) fn file_remote(path: &Path) -> Remote {
    remote(&format!("file://{}", path.display()), None)
}

/// What one request carried.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// `git http-backend` behind HTTP. With a password it wants basic authentication.
pub(crate) struct GitServer {
    pub(crate) url: String,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
}

struct Backend {
    root: std::path::PathBuf,
    authorization: Option<String>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl GitServer {
    pub(crate) async fn start(root: &Path, authorization: Option<&str>) -> GitServer {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let backend = Backend {
            root: root.to_owned(),
            authorization: authorization.map(str::to_owned),
            seen: Arc::clone(&seen),
        };
        let app = Router::new().fallback(cgi).with_state(Arc::new(backend));
        GitServer { url: serve(app).await, seen }
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Serves on a free loopback port until the runtime ends.
pub(crate) async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

async fn cgi(
    State(backend): State<Arc<Backend>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let authorization = header("authorization");
    backend.seen.lock().unwrap().push(Seen {
        method: method.to_string(),
        path: uri.path().to_owned(),
        authorization: authorization.clone(),
    });
    if backend.authorization.is_some() && authorization != backend.authorization {
        return Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header("www-authenticate", "Basic")
            .body(Body::empty())
            .unwrap();
    }
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &backend.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method.as_str())
        .env("PATH_INFO", uri.path())
        .env("QUERY_STRING", uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(encoding) = header("content-encoding") {
        command.env("HTTP_CONTENT_ENCODING", encoding);
    }
    if let Some(protocol) = header("git-protocol") {
        command.env("GIT_PROTOCOL", protocol);
    }
    let mut child = command.spawn().expect("git is missing: run scripts/setup.sh");
    let mut stdin = child.stdin.take().unwrap();
    let feed = tokio::spawn(async move {
        // The backend may answer without reading everything.
        let _ = stdin.write_all(&body).await;
    });
    let output = child.wait_with_output().await.unwrap();
    feed.await.unwrap();
    response(&output.stdout)
}

fn response(output: &[u8]) -> Response<Body> {
    let end = output.windows(4).position(|w| w == b"\r\n\r\n").expect("http-backend ends its headers");
    let mut response = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().split("\r\n") {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value[..3].parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(Body::from(output[end + 4..].to_vec())).unwrap()
}
