//! Somebody else's registry: Debian's, with TLS and a login of certificates and passwords
//! that mergeyard made.

use std::path::{Path, PathBuf};

use mergeyard_testkit::process::{self, Process, Signal, free_port, tool, until};
use serde_json::Value;

use super::{RealYard, inspect, remove_images, service, states, text};

pub(super) struct DebianRegistry {
    folder: tempfile::TempDir,
    port: u16,
    serving: Option<Process>,
}

impl DebianRegistry {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut made = process::mergeyard();
        made.args(["registry", "certificate", "--name", "127.0.0.1", "--out"]).arg(folder.path());
        process::run(&mut made).await.good();
        let mut registry = Self { folder, port: free_port(), serving: None };
        let (port, path) = (registry.port, registry.folder.path().display());
        let text = format!(
            r#"{{"version": "0.1",
                "storage": {{"filesystem": {{"rootdirectory": "{path}/images"}}}},
                "http": {{"addr": "127.0.0.1:{port}",
                    "tls": {{"certificate": "{path}/cert.pem", "key": "{path}/key.pem"}}}},
                "auth": {{"htpasswd": {{"realm": "images", "path": "{path}/htpasswd"}}}}}}"#
        );
        std::fs::write(registry.path("config.yml"), text).unwrap();
        registry.start().await;
        registry
    }

    async fn start(&mut self) {
        let mut program = tool("docker-registry");
        let serving = Process::start("docker-registry", program.arg("serve").arg(self.path("config.yml")));
        serving.says("listening on").await;
        self.serving = Some(serving);
    }

    pub(super) async fn stop(&mut self) {
        let mut serving = self.serving.take().unwrap();
        serving.signal(Signal::TERM);
        serving.ended().await;
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn login(&self) -> String {
        format!("mergeyard:{}", std::fs::read_to_string(self.path("password")).unwrap().trim())
    }

    pub(super) fn trusted(&self) -> PathBuf {
        let folder = self.path("trusted");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(self.path("ca.pem"), folder.join("ca.crt")).unwrap();
        folder
    }

    /// A server that pushes here, with the password in `password`.
    async fn yard(&self, content: &str, password: &Path) -> RealYard {
        RealYard::with(service("backend", "0.1.0", content), |config| {
            let text = format!(
                r#"
                embedded = false
                host = "{}"
                ca = "{}"
                username = "mergeyard"
                password = {{ file = "{}" }}
                "#,
                self.host(),
                self.path("ca.pem").display(),
                password.display()
            );
            config.insert("registry".to_owned(), text.parse::<toml::Table>().unwrap().into());
        })
        .await
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        remove_images(&format!("{}/*", self.host()));
    }
}

#[tokio::test]
async fn an_image_goes_to_a_registry_with_tls_and_a_login() {
    let registry = DebianRegistry::new().await;
    let mut yard = registry.yard("external", &registry.path("password")).await;
    yard.announce("x-1", &yard.first).await;
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    let image = &run["images"][0];
    assert_eq!(image["ref"], format!("{}/clock-backend:0.1.0", registry.host()));
    let there = inspect(&registry.trusted(), &registry.login(), text(&image["ref"])).await;
    assert_eq!(there["Digest"], image["digest"]);
    assert_eq!(there["Labels"]["org.opencontainers.image.revision"], yard.first.merge.to_string());
    yard.stop().await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_tried_again() {
    let registry = DebianRegistry::new().await;
    std::fs::write(registry.path("wrong"), "not-the-password").unwrap();
    let mut yard = registry.yard("refused", &registry.path("wrong")).await;
    yard.announce("w-1", &yard.first).await;
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: error"], "{run:#}");
    let why = text(&run["workflows"][0]["why"]);
    let sentence = format!("registry {} does not accept user `mergeyard`", registry.host());
    assert!(why.starts_with(&sentence) && why.contains("`registry.password`"), "{why}");
    assert_eq!(run["workflows"][0]["steps"][0]["attempt"], 1);
    assert!(!format!("{run}{}", yard.server().said()).contains("not-the-password"));
    yard.stop().await;
}

#[tokio::test]
async fn a_registry_that_is_down_is_waited_for_where_everybody_sees_it() {
    let mut registry = DebianRegistry::new().await;
    let mut yard = registry.yard("down", &registry.path("password")).await;
    registry.stop().await;
    yard.announce("d-1", &yard.first).await;
    let step = |run: &Value| run["workflows"][0]["steps"][0].clone();
    let waits = |run: &Value| text(&step(run)["why"]).starts_with("attempt 1 of 4: ");
    let run = yard.run_until(1, "the first attempt to fail", waits).await;
    let why = text(&run["workflows"][0]["steps"][0]["why"]).to_owned();
    assert!(why.contains(&format!("registry {} does not answer", registry.host())), "{why}");
    until("the page to say it", async || {
        yard.page("/runs/1").await.contains("does not answer").then_some(())
    })
    .await;
    registry.start().await;
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    assert!(step(&run)["attempt"].as_u64() >= Some(2), "{run:#}");
    yard.stop().await;
}
