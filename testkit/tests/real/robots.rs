//! Robots on the command line, while the registry they are for is served by another process.

use mergeyard_testkit::process::Said;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::lone_registry::{LoneRegistry, RegistryUser};

impl LoneRegistry {
    async fn robot(&self, arguments: &[&str]) -> Said {
        self.command(&[&["robot"], arguments].concat()).await
    }
}

async fn login(user: &RegistryUser, name: &str, secret: &str) -> StatusCode {
    let user = RegistryUser { name: name.to_owned(), secret: secret.to_owned(), ..user.clone() };
    user.ask(Method::GET, "/v2/").send().await.unwrap().status()
}

#[tokio::test]
async fn a_robot_comes_changes_its_secret_and_goes_while_the_registry_serves() {
    let mut registry = LoneRegistry::new("");
    // The first one may be made before the registry ever ran.
    let early = registry.robot(&["create", "early", "--pull", "**", "--format", "json"]).await.good();
    let early: Value = serde_json::from_str(&early).unwrap();
    registry.serve().await;
    let user = registry.client();
    assert_eq!(early["registry"], registry.host);
    assert_eq!(login(&user, "early", early["secret"].as_str().unwrap()).await, 200);

    let create = ["create", "ci", "--pull", "acme/**", "--push", "acme/**", "--pull", "base/*"];
    let made = registry
        .robot(&[&create[..], &["--expires", "90d", "--description", "builds"]].concat())
        .await
        .good();
    assert!(made.contains(&format!("docker login --username ci {}", registry.host)), "{made}");
    let secret = made.lines().map(str::trim).find(|line| line.len() == 64).unwrap();
    assert_eq!(login(&user, "ci", secret).await, 200);

    let listed: Value =
        serde_json::from_str(&registry.robot(&["list", "--format", "json"]).await.good()).unwrap();
    let ci = &listed[1];
    assert_eq!(ci["expires"].as_i64().unwrap() - ci["created"].as_i64().unwrap(), 90 * 24 * 60 * 60 * 1000);
    let grants = json!([
        {"repositories": "acme/**", "rights": ["pull", "push"]},
        {"repositories": "base/*", "rights": ["pull"]},
    ]);
    assert_eq!((&ci["name"], &ci["grants"], &ci["description"]), (&json!("ci"), &grants, &json!("builds")));
    let text = registry.robot(&["list"]).await.good();
    assert!(text.contains("  pull,push         acme/**\n") && !text.contains(secret), "{text}");

    let rotated = registry.robot(&["rotate", "ci", "--format", "json"]).await.good();
    let rotated: Value = serde_json::from_str(&rotated).unwrap();
    assert_eq!(login(&user, "ci", secret).await, 401);
    assert_eq!(login(&user, "ci", rotated["secret"].as_str().unwrap()).await, 200);
    registry.robot(&["revoke", "ci"]).await.good();
    assert_eq!(login(&user, "ci", rotated["secret"].as_str().unwrap()).await, 401);
    let said = registry.process().said();
    assert!(!said.contains(secret), "{said}");
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_refused_with_what_to_do() {
    let registry = LoneRegistry::new("");
    registry.robot(&["create", "ci", "--pull", "acme/**"]).await.good();
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
        let said = registry.robot(arguments).await.failed(code);
        assert!(said.contains(error), "{arguments:?}: {said}");
    }
    let elsewhere =
        "[registry]\nembedded = false\nhost = \"r.example.org\"\nusername = \"u\"\npassword = \"p\"\n";
    std::fs::write(registry.path("mergeyard.toml"), elsewhere).unwrap();
    let said = registry.robot(&["list"]).await.failed(2);
    assert!(said.contains("`registry.embedded` is false"), "{said}");
}
