//! `mergeyard registry serve` as a process of its own, and a client that pushes and pulls like an
//! engine: it asks for each blob first, and checks every digest.

use std::path::PathBuf;

use mergeyard_testkit::process::{self, Process, Said, Signal, free_port};
use mergeyard_types::Digest;
use reqwest::{Certificate, Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::process::Command;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

pub(super) struct LoneRegistry {
    pub(super) folder: TempDir,
    pub(super) host: String,
    serving: Option<Process>,
}

impl LoneRegistry {
    /// Not served yet. `rules` is what stands below `[registry]`.
    pub(super) fn new(rules: &str) -> Self {
        Self::at(&format!("127.0.0.1:{}", free_port()), rules)
    }

    pub(super) fn at(host: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // No engine: nothing runs here that a collection would have to spare.
        let config = format!(
            "data_dir = \"data\"\n[engine]\nhost = \"unix://{}/no-engine\"\n[registry]\nlisten = \"{host}\"\n{rules}",
            folder.path().display()
        );
        std::fs::write(folder.path().join("mergeyard.toml"), config).expect("the folder can be written");
        Self { folder, host: host.to_owned(), serving: None }
    }

    pub(super) async fn serve(&mut self) {
        self.serve_as(process::mergeyard()).await;
    }

    pub(super) async fn serve_as(&mut self, mut command: Command) {
        command.args(["registry", "serve", "--config"]).arg(self.path("mergeyard.toml"));
        let serving = Process::start("the registry", &mut command);
        serving.says("the registry is ready").await;
        self.serving = Some(serving);
    }

    pub(super) fn process(&self) -> &Process {
        self.serving.as_ref().expect("it is served")
    }

    /// Ends it as `kill -9` does.
    pub(super) async fn kill(&mut self) {
        self.serving.take().expect("it is served").kill().await;
    }

    pub(super) async fn stop(&mut self) {
        let mut serving = self.serving.take().expect("it is served");
        serving.signal(Signal::TERM);
        assert!(serving.ended().await.success(), "{}", serving.said());
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// `mergeyard registry …` with this registry's configuration.
    pub(super) async fn command(&self, arguments: &[&str]) -> Said {
        let mut command = process::mergeyard();
        command.arg("registry").args(arguments).arg("--config").arg(self.path("mergeyard.toml"));
        process::run(&mut command).await
    }

    pub(super) fn client(&self) -> RegistryUser {
        let ca = std::fs::read(self.path("data/ca/ca.crt")).expect("the registry made its authority");
        let password = std::fs::read_to_string(self.path("data/registry-password"));
        let trusted = [Certificate::from_pem(&ca).expect("a certificate")];
        RegistryUser {
            http: Client::builder().no_proxy().tls_certs_only(trusted).build().expect("a client"),
            address: format!("https://{}", self.host),
            name: "mergeyard".to_owned(),
            secret: password.expect("the registry made a password").trim().to_owned(),
        }
    }
}

/// Somebody with an account.
#[derive(Clone)]
pub(super) struct RegistryUser {
    pub(super) http: Client,
    pub(super) address: String,
    pub(super) name: String,
    pub(super) secret: String,
}

impl RegistryUser {
    pub(super) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.address));
        request.basic_auth(&self.name, Some(&self.secret))
    }

    /// The status of an answer, `None` when the registry goes away meanwhile.
    async fn status(&self, request: RequestBuilder) -> Option<StatusCode> {
        let answer = request.send().await.ok()?;
        let status = answer.status();
        answer.bytes().await.ok()?;
        Some(status)
    }

    pub(super) async fn push_blob(&self, repository: &str, bytes: &[u8]) -> Option<StatusCode> {
        let digest = sha256(bytes);
        let head = self.ask(Method::HEAD, &format!("/v2/{repository}/blobs/{digest}"));
        if self.status(head).await? == StatusCode::OK {
            return Some(StatusCode::OK);
        }
        let post = self.ask(Method::POST, &format!("/v2/{repository}/blobs/uploads/?digest={digest}"));
        self.status(post.body(bytes.to_vec())).await
    }

    /// Pushes an image of these layers; `None` when the registry goes away before it has all of it.
    pub(super) async fn push(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Option<StatusCode> {
        let config = json!({"os": "linux", "architecture": "amd64", "tag": tag}).to_string().into_bytes();
        for blob in layers.iter().chain([&config]) {
            let status = self.push_blob(repository, blob).await?;
            if !status.is_success() {
                return Some(status);
            }
        }
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": sha256(bytes), "size": bytes.len()});
        let layers: Vec<Value> =
            layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer)).collect();
        let config = descriptor("application/vnd.oci.image.config.v1+json", &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers});
        let put = self.ask(Method::PUT, &format!("/v2/{repository}/manifests/{tag}"));
        self.status(put.header("content-type", IMAGE).body(manifest.to_string())).await
    }

    /// Pulls an image whole, checking every digest; how many bytes it has.
    pub(super) async fn pull(&self, repository: &str, tag: &str) -> usize {
        let get = async |path: String| {
            let answer = self.ask(Method::GET, &path).send().await.expect("the registry answers");
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            answer.bytes().await.expect("all of it")
        };
        let manifest = get(format!("/v2/{repository}/manifests/{tag}")).await;
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let layers = manifest["layers"].as_array().expect("an image").iter();
        let mut sum = 0;
        for blob in layers.chain([&manifest["config"]]) {
            let digest = blob["digest"].as_str().expect("a digest");
            let bytes = get(format!("/v2/{repository}/blobs/{digest}")).await;
            assert_eq!(sha256(&bytes).to_string(), digest);
            sum += bytes.len();
        }
        sum
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256::digest(bytes).into())
}
