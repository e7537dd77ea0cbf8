//! Robots on the command line, while the registry they are for is served by another process.

use std::path::PathBuf;

use mergeyard_testkit::process::{self, Process, Said, free_port};
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Alone {
    folder: TempDir,
    port: u16,
}

impl Alone {
    fn new() -> Self {
        let alone = Self { folder: tempfile::tempdir().unwrap(), port: free_port() };
        let config = format!("data_dir = \"data\"\n[registry]\nlisten = \"127.0.0.1:{}\"\n", alone.port);
        std::fs::write(alone.config(), config).unwrap();
        alone
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("mergeyard.toml")
    }

    async fn serve(&self) -> Process {
        let mut command = process::mergeyard();
        let serving =
            Process::start("registry", command.args(["registry", "serve", "--config"]).arg(self.config()));
        serving.says("the registry is ready").await;
        serving
    }

    async fn robot(&self, arguments: &[&str]) -> Said {
        let mut command = process::mergeyard();
        command.args(["registry", "robot"]).args(arguments).arg("--config").arg(self.config());
        process::run(&mut command).await
    }

    fn client(&self) -> Client {
        let ca = std::fs::read(self.folder.path().join("data/ca/ca.crt")).unwrap();
        let client = Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&ca).unwrap()]);
        client.build().unwrap()
    }

    async fn login(&self, client: &Client, name: &str, secret: &str) -> StatusCode {
        let address = format!("https://127.0.0.1:{}/v2/", self.port);
        client.get(address).basic_auth(name, Some(secret)).send().await.unwrap().status()
    }
}

#[tokio::test]
async fn a_robot_comes_changes_its_secret_and_goes_while_the_registry_serves() {
    let alone = Alone::new();
    // The first one may be made before the registry ever ran.
    let early = alone.robot(&["create", "early", "--pull", "**", "--format", "json"]).await.good();
    let early: Value = serde_json::from_str(&early).unwrap();
    let serving = alone.serve().await;
    let client = alone.client();
    assert_eq!(early["registry"], format!("127.0.0.1:{}", alone.port));
    assert_eq!(alone.login(&client, "early", early["secret"].as_str().unwrap()).await, 200);

    let create = ["create", "ci", "--pull", "acme/**", "--push", "acme/**", "--pull", "base/*"];
    let made =
        alone.robot(&[&create[..], &["--expires", "90d", "--description", "builds"]].concat()).await.good();
    assert!(made.contains(&format!("docker login --username ci 127.0.0.1:{}", alone.port)), "{made}");
    let secret = made.lines().map(str::trim).find(|line| line.len() == 64).unwrap();
    assert_eq!(alone.login(&client, "ci", secret).await, 200);

    let listed: Value =
        serde_json::from_str(&alone.robot(&["list", "--format", "json"]).await.good()).unwrap();
    let ci = &listed[1];
    assert_eq!(ci["expires"].as_i64().unwrap() - ci["created"].as_i64().unwrap(), 90 * 24 * 60 * 60 * 1000);
    let grants = json!([
        {"repositories": "acme/**", "rights": ["pull", "push"]},
        {"repositories": "base/*", "rights": ["pull"]},
    ]);
    assert_eq!((&ci["name"], &ci["grants"], &ci["description"]), (&json!("ci"), &grants, &json!("builds")));
    let text = alone.robot(&["list"]).await.good();
    assert!(text.contains("  pull,push         acme/**\n") && !text.contains(secret), "{text}");

    let rotated = alone.robot(&["rotate", "ci", "--format", "json"]).await.good();
    let rotated: Value = serde_json::from_str(&rotated).unwrap();
    assert_eq!(alone.login(&client, "ci", secret).await, 401);
    assert_eq!(alone.login(&client, "ci", rotated["secret"].as_str().unwrap()).await, 200);
    alone.robot(&["revoke", "ci"]).await.good();
    assert_eq!(alone.login(&client, "ci", rotated["secret"].as_str().unwrap()).await, 401);
    assert!(!serving.said().contains(secret), "{}", serving.said());
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_refused_with_what_to_do() {
    let alone = Alone::new();
    alone.robot(&["create", "ci", "--pull", "acme/**"]).await.good();
    for (arguments, code, error) in [
        (&["create", "ci", "--pull", "acme/**"][..], 1, "there is a robot `ci` already"),
        (&["create", "x"], 2, "at least one right"),
        (&["create", "x", "--pull", "Acme/*"], 2, "is not a pattern of repository names"),
        (&["create", "X", "--pull", "a"], 2, "lower-case letters"),
        (&["create", "mergeyard", "--pull", "a"], 2, "is the registry's own"),
        (&["create", "x", "--pull", "a", "--expires", "soon"], 2, "is not a time such as 90d or 12h"),
        (&["revoke", "none"], 1, "there is no robot `none`"),
        (&["rotate", "none"], 1, "there is no robot `none`"),
    ] {
        let said = alone.robot(arguments).await.failed(code);
        assert!(said.contains(error), "{arguments:?}: {said}");
    }
    let elsewhere =
        "[registry]\nembedded = false\nhost = \"r.example.org\"\nusername = \"u\"\npassword = \"p\"\n";
    std::fs::write(alone.config(), elsewhere).unwrap();
    let said = alone.robot(&["list"]).await.failed(2);
    assert!(said.contains("`registry.embedded` is false"), "{said}");
}
