//! The Docker engine, which takes a registry on a loopback address without an authority.

use std::fs;

use mergeyard_registry::Config;
use serde_json::Value;
use tokio::process::Command;

use super::{Desk, done, refused, told};
use crate::yard::{SECRET, name};

impl Desk {
    fn docker(&self, arguments: &[&str]) -> Command {
        let mut docker = self.command("docker");
        // The classic builder needs no frontend from a registry.
        docker.args(arguments).env("DOCKER_BUILDKIT", "0");
        docker
    }
}

/// An image in the engine, which outlives this test otherwise.
struct Kept(String);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["image", "rm", "--force", &self.0]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_logs_in_pushes_layers_and_pulls_them_again_by_digest() {
    let desk = Desk::new(Config::default());
    let address = desk.served.address.to_string();
    let context = desk.home.join("context");
    fs::create_dir(&context).unwrap();
    // The address is in the content: no other run's layers are in the engine already.
    for file in ["one", "two", "three"] {
        fs::write(context.join(file), format!("{file} of {address}\n").repeat(50_000)).unwrap();
    }
    let dockerfile = "FROM scratch\nCOPY one /one\nCOPY two /two\nCOPY three /three\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let image = Kept(desk.image("acme/clock:0.1.0"));
    let built = done(desk.docker(&["build", "--quiet", "--tag", &image.0, "context"])).await;

    let error = refused(desk.docker(&["push", &image.0])).await;
    assert!(
        error.contains("no basic auth credentials") || error.contains("authentication required"),
        "{error}"
    );
    let login = desk.docker(&["login", "--username", "robot", "--password-stdin", &address]);
    assert!(told(login, SECRET).await.contains("Login Succeeded"));
    done(desk.docker(&["push", &image.0])).await;
    let digest = desk.stored("acme/clock", "0.1.0").await.expect("it was pushed");
    let manifest = desk.served.yard.get(&format!("/v2/acme/clock/manifests/{digest}")).await.json();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);

    done(desk.docker(&["image", "rm", &image.0])).await;
    refused(desk.docker(&["image", "inspect", &image.0])).await;
    let by_digest = Kept(desk.image(&format!("acme/clock@{digest}")));
    done(desk.docker(&["pull", &by_digest.0])).await;
    let inspected: Value =
        serde_json::from_str(&done(desk.docker(&["image", "inspect", &by_digest.0])).await).unwrap();
    assert_eq!(inspected[0]["Id"], built.trim());
    assert_eq!(inspected[0]["RepoDigests"], serde_json::json!([by_digest.0]));

    done(desk.docker(&["logout", &address])).await;
    refused(desk.docker(&["pull", &image.0])).await;
    assert_eq!(desk.served.yard.registry.repositories().await.unwrap(), [name("acme/clock")]);
}
