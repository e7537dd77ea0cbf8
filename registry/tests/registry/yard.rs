//! A registry in a directory of its own, and requests to it without a network.

use std::{
    io,
    path::{Path, PathBuf},
};

use axum::{Router, body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use mergeyard_registry::{
    Account, Config, Grant, OpenError, Registry, Repository, Right, Rules, SecretHash, router,
};
use mergeyard_types::{Digest, ImageName, Secret, Version};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};
use tempfile::TempDir;
use tower::ServiceExt;

pub(crate) const SECRET: &str = "Zk3vN8qT1xW6yB0cR5mJ9pL2";

/// What clients call it.
pub(crate) const HOST: &str = "registry.example.org:5000";

pub(crate) struct Yard {
    pub(crate) directory: TempDir,
    pub(crate) registry: Registry,
    config: Config,
    router: Router,
}

impl Yard {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open(&directory.path().join("registry"), config.clone()).unwrap();
        registry.set_accounts(accounts());
        Self { router: router(registry.clone()), registry, directory, config }
    }

    /// Ends this process's use of the directory, as a crash would, and lets another begin.
    pub(crate) async fn restart(self) -> Self {
        let config = self.config.clone();
        self.restart_with(config).await
    }

    pub(crate) async fn restart_with(self, config: Config) -> Self {
        let Self { directory, registry, router: old, .. } = self;
        drop((registry, old));
        let registry = loop {
            match Registry::open(&directory.path().join("registry"), config.clone()) {
                // Blocking tasks of the last request may hold the directory for another moment.
                Err(OpenError::InUse(_)) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        registry.set_accounts(accounts());
        Self { router: router(registry.clone()), registry, directory, config }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("registry").join(path)
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let request = Request::builder().method(method).uri(path).header(header::HOST, HOST);
        Ask { yard: self, request, account: Some("robot".into()), body: Body::empty() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).send().await
    }

    /// Starts an upload and returns its address.
    pub(crate) async fn start(&self, name: &str) -> String {
        let answer = self.ask("POST", &format!("/v2/{name}/blobs/uploads/")).send().await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.header("location").to_owned()
    }

    pub(crate) async fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let answer = self.ask("POST", &path).body(bytes.to_vec()).send().await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        digest
    }

    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        media_type: &str,
        json: &str,
    ) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        self.ask("PUT", &path).header("content-type", media_type).body(json.to_owned()).send().await
    }
}

pub(crate) struct Ask<'a> {
    yard: &'a Yard,
    request: http::request::Builder,
    account: Option<String>,
    body: Body,
}

impl Ask<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// As another account, with the secret all of them have in tests.
    pub(crate) fn by(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    pub(crate) fn by_nobody(mut self) -> Self {
        self.account = None;
        self
    }

    pub(crate) async fn open(self) -> Response {
        let mut request = self.request;
        if let Some(account) = self.account {
            request = request.header(header::AUTHORIZATION, basic(&account, SECRET));
        }
        self.yard.router.clone().oneshot(request.body(self.body).unwrap()).await.unwrap()
    }

    pub(crate) async fn send(self) -> Answer {
        let (parts, body) = self.open().await.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {self:?}"));
        value.to_str().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Status, code and message of a refusal in the specification's form.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        let json = self.json();
        assert_eq!(json["errors"][0]["code"], code, "{self:?}");
        json["errors"][0]["message"].as_str().unwrap().to_owned()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.body);
        write!(f, "{} {:?} {:.400}", self.status, self.headers, text)
    }
}

pub(crate) fn basic(account: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{account}:{secret}")))
}

/// `robot` may everything everywhere, `acme` only in `acme/`, `reader` only read there.
pub(crate) fn accounts() -> Vec<Account> {
    let account = |name: &str, pattern: &str, rights: &[Right]| Account {
        name: name.to_owned(),
        secret: SecretHash::of(&Secret::new(SECRET)),
        grants: vec![Grant::new(pattern, rights).unwrap()],
        is_operator: name == "robot",
        expires: None,
    };
    vec![
        account("robot", "**", &[Right::Pull, Right::Push, Right::Delete]),
        account("acme", "acme/**", &[Right::Pull, Right::Push]),
        account("reader", "acme/**", &[Right::Pull]),
    ]
}

/// Rules for every repository.
pub(crate) fn everywhere(rules: Rules) -> Config {
    Config { repositories: vec![Repository::new("**", rules).unwrap()], ..Config::default() }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256::digest(bytes).into())
}

pub(crate) fn sha512(bytes: &[u8]) -> Digest {
    Digest::Sha512(Sha512::digest(bytes).into())
}

pub(crate) fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

pub(crate) fn tag(text: &str) -> Version {
    text.parse().unwrap()
}

/// Every file below a directory, relative to it.
pub(crate) fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path)
            } else {
                found.push(path.strip_prefix(root).unwrap().to_owned())
            }
        }
    }
    found.sort();
    Ok(found)
}
