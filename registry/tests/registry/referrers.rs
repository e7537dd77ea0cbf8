//! Artifacts that refer to an image: stored beside it, listed under it, gone with it.

use std::{
    fs::File,
    time::{Duration, SystemTime},
};

use mergeyard_registry::{Config, Limits};
use serde_json::{Value, json};

use crate::{
    images::{self, IMAGE, INDEX},
    yard::{Answer, Yard, sha256},
};

const SIGNATURE: &str = "application/vnd.example.signature.v1";
const INVENTORY: &str = "application/vnd.example.inventory+json";

/// An artifact about `subject`, pushed; its digest.
async fn attach(yard: &Yard, name: &str, subject: &str, artifact_type: &str, note: &str) -> Value {
    yard.push_blob(name, b"{}").await;
    let empty = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2});
    let subject = json!({"mediaType": IMAGE, "digest": subject, "size": 1});
    let artifact = json!({
        "schemaVersion": 2, "mediaType": IMAGE, "artifactType": artifact_type, "config": empty,
        "layers": [empty], "subject": subject, "annotations": {"note": note},
    })
    .to_string();
    let digest = sha256(artifact.as_bytes());
    let answer = yard.put_manifest(name, &digest.to_string(), IMAGE, &artifact).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("oci-subject"), subject["digest"]);
    json!({
        "mediaType": IMAGE, "digest": digest, "size": artifact.len(),
        "artifactType": artifact_type, "annotations": {"note": note},
    })
}

fn listed(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, INDEX), "{answer:?}");
    let index = answer.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(INDEX)));
    index["manifests"].as_array().unwrap().clone()
}

/// Puts seconds between pushes that had none.
fn pushed_in_this_order(yard: &Yard, name: &str, subject: &str, artifacts: &[Value]) {
    let entries = yard.path("repositories").join(name).join("_referrers").join(subject.replace(':', "/"));
    for (age, artifact) in artifacts.iter().rev().enumerate() {
        let entry = entries.join(artifact["digest"].as_str().unwrap().replace(':', "-"));
        let at = SystemTime::now() - Duration::from_secs(age as u64);
        File::options().write(true).open(entry).unwrap().set_modified(at).unwrap();
    }
}

#[tokio::test]
async fn what_refers_to_an_image_is_listed_and_can_be_filtered() {
    let yard = Yard::new();
    let image = images::push(&yard, "acme/clock", "1").await.to_string();
    let path = format!("/v2/acme/clock/referrers/{image}");
    assert!(listed(&yard.get(&path).await).is_empty());
    let signature = attach(&yard, "acme/clock", &image, SIGNATURE, "by the first key").await;
    let inventory = attach(&yard, "acme/clock", &image, INVENTORY, "").await;
    let both = [signature, inventory.clone()];
    pushed_in_this_order(&yard, "acme/clock", &image, &both);
    let all = yard.get(&path).await;
    assert_eq!(listed(&all), both);
    assert!(all.headers.get("oci-filters-applied").is_none());

    let encoded = "application%2Fvnd.example.inventory%2Bjson";
    let filtered = yard.get(&format!("{path}?artifactType={encoded}")).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    assert_eq!(listed(&filtered), std::slice::from_ref(&inventory));
    assert!(listed(&yard.get(&format!("{path}?artifactType=none")).await).is_empty());

    // The same artifact again is one; the same image elsewhere has its own.
    attach(&yard, "acme/clock", &image, SIGNATURE, "by the first key").await;
    assert_eq!(listed(&yard.get(&path).await).len(), 2);
    assert!(listed(&yard.get(&format!("/v2/other/referrers/{image}")).await).is_empty());

    let yard = yard.restart().await;
    assert_eq!(listed(&yard.get(&path).await), both);
    let gone = format!("/v2/acme/clock/manifests/{}", inventory["digest"].as_str().unwrap());
    assert_eq!(yard.ask("DELETE", &gone).send().await.status, 202);
    assert_eq!(listed(&yard.get(&path).await).len(), 1);
}

#[tokio::test]
async fn a_subject_may_come_after_what_refers_to_it() {
    let yard = Yard::new();
    let image = images::blobs(&yard, "acme/clock", "1").await;
    let digest = sha256(image.as_bytes()).to_string();
    let early = attach(&yard, "acme/clock", &digest, SIGNATURE, "").await;
    let path = format!("/v2/acme/clock/referrers/{digest}");
    assert_eq!(listed(&yard.get(&path).await), std::slice::from_ref(&early));
    assert_eq!(yard.put_manifest("acme/clock", "1", IMAGE, &image).await.status, 201);
    assert_eq!(listed(&yard.get(&path).await), [early]);
    assert_eq!(yard.ask("GET", &path).by("reader").send().await.status, 200);
    let elsewhere = path.replace("acme/clock", "other");
    yard.ask("GET", &elsewhere).by("reader").send().await.refused(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn an_image_without_a_type_is_of_its_configurations() {
    let yard = Yard::new();
    let image = images::push(&yard, "a", "1").await;
    let mut about: Value = serde_json::from_str(&images::blobs(&yard, "a", "2").await).unwrap();
    about["subject"] = json!({"mediaType": IMAGE, "digest": image, "size": 1});
    assert_eq!(yard.put_manifest("a", "2", IMAGE, &about.to_string()).await.status, 201);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "subject": about["subject"]});
    assert_eq!(yard.put_manifest("a", "3", INDEX, &index.to_string()).await.status, 201);
    let listed = listed(&yard.get(&format!("/v2/a/referrers/{image}")).await);
    let types = |kind| listed.iter().find(|d| d["mediaType"] == kind).unwrap().get("artifactType").cloned();
    assert_eq!(types(IMAGE), Some(json!("application/vnd.oci.image.config.v1+json")));
    assert_eq!(types(INDEX), None);
}

#[tokio::test]
async fn many_referrers_come_a_page_at_a_time() {
    let limits = Limits { page_entries: 2, ..Limits::default() };
    let yard = Yard::with(Config { limits, ..Config::default() });
    let image = images::push(&yard, "a", "1").await.to_string();
    let mut expected = Vec::new();
    for note in ["one", "two", "three", "four", "five"] {
        expected.push(attach(&yard, "a", &image, SIGNATURE, note).await);
        attach(&yard, "a", &image, INVENTORY, note).await;
    }
    pushed_in_this_order(&yard, "a", &image, &expected);
    let mut seen = Vec::new();
    let mut next = Some(format!("/v2/a/referrers/{image}?artifactType={SIGNATURE}"));
    while let Some(path) = next {
        let page = yard.get(&path).await;
        assert!(listed(&page).len() <= 2);
        seen.extend(listed(&page));
        let link = page.headers.get("link").map(|link| link.to_str().unwrap().to_owned());
        next = link.map(|link| link[1..link.find('>').unwrap()].to_owned());
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn an_artifact_that_is_none_is_refused_whole() {
    let yard = Yard::new();
    let image = images::push(&yard, "a", "1").await.to_string();
    for (key, value) in [
        ("subject", json!({"mediaType": IMAGE, "digest": "sha256:short", "size": 1})),
        ("subject", json!({"mediaType": IMAGE, "digest": image})),
        ("annotations", json!({"n": 1})),
        ("artifactType", json!(["x"])),
    ] {
        let mut artifact: Value = serde_json::from_str(&images::blobs(&yard, "a", "2").await).unwrap();
        artifact[key] = value;
        yard.put_manifest("a", "2", IMAGE, &artifact.to_string()).await.refused(400, "MANIFEST_INVALID");
    }
    assert!(listed(&yard.get(&format!("/v2/a/referrers/{image}")).await).is_empty());
}
