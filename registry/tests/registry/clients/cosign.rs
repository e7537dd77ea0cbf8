//! Signatures with keys of one's own, and without the public log of them.

use mergeyard_registry::Config;
use mergeyard_types::Digest;
use serde_json::Value;
use tokio::process::Command;

use super::{Desk, done, refused};
use crate::{
    images,
    yard::{SECRET, name},
};

const ACCESS: [&str; 4] = ["--registry-username", "robot", "--registry-password", SECRET];

impl Desk {
    fn cosign(&self, arguments: &[&str]) -> Command {
        let mut cosign = self.newer("cosign");
        // The second variable opens what that version calls an experiment: the specification's 1.1.
        cosign.args(arguments).env("COSIGN_PASSWORD", "of the key").env("COSIGN_EXPERIMENTAL", "1");
        cosign
    }

    async fn key(&self, name: &str) {
        done(self.cosign(&["generate-key-pair", "--output-key-prefix", name])).await;
    }

    fn sign(&self, key: &str, mode: &str, image: &str) -> Command {
        let (key, mode) = (format!("{key}.key"), format!("--registry-referrers-mode={mode}"));
        let options = ["sign", "--yes", "--tlog-upload=false", "--key", &key, &mode];
        self.cosign(&[&options[..], &ACCESS, &[image]].concat())
    }

    fn verify(&self, key: &str, options: &[&str], image: &str) -> Command {
        let key = format!("{key}.pub");
        let own = ["verify", "--insecure-ignore-tlog=true", "--key", &key];
        self.cosign(&[&own[..], options, &ACCESS, &[image]].concat())
    }
}

/// That it vouches for exactly this manifest.
async fn vouches(verify: Command, digest: &Digest) {
    let claims: Value = serde_json::from_str(&done(verify).await).unwrap();
    let claimed = &claims[0]["critical"]["image"]["docker-manifest-digest"];
    assert_eq!(claimed, &Value::from(digest.to_string()), "{claims}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_signs_as_a_referrer_as_often_as_there_are_keys() {
    let desk = Desk::new(Config::default());
    let digest = images::push(&desk.served.yard, "acme/clock", "0.1.0").await;
    let image = desk.image(&format!("acme/clock@{digest}"));
    let as_referrer = ["--experimental-oci11"];
    desk.key("mine").await;
    desk.key("yours").await;
    done(desk.sign("mine", "oci-1-1", &image)).await;
    vouches(desk.verify("mine", &as_referrer, &image), &digest).await;
    let error = refused(desk.verify("yours", &as_referrer, &image)).await;
    assert!(error.contains("no signatures found"), "{error}");

    // This version verifies only the last of several, which is the newest; all of them are there.
    done(desk.sign("yours", "oci-1-1", &image)).await;
    vouches(desk.verify("yours", &as_referrer, &image), &digest).await;
    let listed = desk.served.yard.get(&format!("/v2/acme/clock/referrers/{digest}")).await.json();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(listed["manifests"][0]["artifactType"], "application/vnd.dev.cosign.artifact.sig.v1+json");
    assert_eq!(desk.served.yard.registry.tags(&name("acme/clock")).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cosign_keeps_signatures_under_a_tag_that_moves_with_each() {
    let desk = Desk::new(Config::default());
    let digest = images::push(&desk.served.yard, "acme/clock", "0.1.0").await;
    let image = desk.image(&format!("acme/clock@{digest}"));
    for key in ["mine", "yours"] {
        desk.key(key).await;
        done(desk.sign(key, "legacy", &image)).await;
        assert!(desk.stored("acme/clock", &format!("sha256-{}.sig", digest.hex())).await.is_some());
    }
    for key in ["mine", "yours"] {
        vouches(desk.verify(key, &[], &image), &digest).await;
    }
}
