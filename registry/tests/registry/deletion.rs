//! Taking away tags, manifests and blobs, by those who may.

use mergeyard_registry::{Act, Content, Event};
use serde_json::json;

use crate::{
    images::{self, IMAGE},
    yard::{Yard, name, sha256, tag},
};

#[tokio::test]
async fn a_tag_goes_alone_and_a_manifest_with_its_tags() {
    let yard = Yard::new();
    let digest = images::push(&yard, "acme/clock", "1").await;
    let json = images::blobs(&yard, "acme/clock", "1").await;
    assert_eq!(yard.put_manifest("acme/clock", "1.0", IMAGE, &json).await.status, 201);
    let mut events = yard.registry.subscribe();

    assert_eq!(yard.ask("DELETE", "/v2/acme/clock/manifests/1").send().await.status, 202);
    yard.get("/v2/acme/clock/manifests/1").await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(yard.get("/v2/acme/clock/manifests/1.0").await.body, json.as_bytes());
    yard.ask("DELETE", "/v2/acme/clock/manifests/1").send().await.refused(404, "MANIFEST_UNKNOWN");

    let by_digest = format!("/v2/acme/clock/manifests/{digest}");
    assert_eq!(yard.ask("DELETE", &by_digest).send().await.status, 202);
    yard.get("/v2/acme/clock/manifests/1.0").await.refused(404, "MANIFEST_UNKNOWN");
    yard.get(&by_digest).await.refused(404, "MANIFEST_UNKNOWN");
    yard.ask("DELETE", &by_digest).send().await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(yard.get("/v2/acme/clock/tags/list").await.json(), json!({"name": "acme/clock", "tags": []}));
    assert!(yard.registry.repositories().await.unwrap().is_empty());

    let deleted =
        |content| Event { act: Act::Deleted, name: name("acme/clock"), content, by: "robot".into() };
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.extend((event.act == Act::Deleted).then_some(event));
    }
    let first = Content::Manifest { tag: Some(tag("1")), digest };
    assert_eq!(told, [deleted(first), deleted(Content::Manifest { tag: None, digest })]);

    let yard = yard.restart().await;
    yard.get(&by_digest).await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(images::push(&yard, "acme/clock", "1").await, digest);
}

#[tokio::test]
async fn a_blob_goes_only_when_no_manifest_needs_it() {
    let yard = Yard::new();
    let manifest = images::push(&yard, "a", "1").await;
    let layer = sha256(b"the one layer");
    let path = format!("/v2/a/blobs/{layer}");
    let why = yard.ask("DELETE", &path).send().await.refused(405, "UNSUPPORTED");
    assert_eq!(why, format!("blob {layer} is part of manifest {manifest}: delete that first"));
    assert_eq!(yard.get(&path).await.status, 200);

    yard.push_blob("b", b"the one layer").await;
    assert_eq!(yard.ask("DELETE", &format!("/v2/a/manifests/{manifest}")).send().await.status, 202);
    assert_eq!(yard.ask("DELETE", &path).send().await.status, 202);
    yard.get(&path).await.refused(404, "BLOB_UNKNOWN");
    yard.ask("DELETE", &path).send().await.refused(404, "BLOB_UNKNOWN");
    // What another repository has is its own.
    assert_eq!(yard.get(&format!("/v2/b/blobs/{layer}")).await.body, b"the one layer");
}

#[tokio::test]
async fn only_those_with_the_right_delete() {
    let yard = Yard::new();
    let digest = images::push(&yard, "acme/clock", "1").await;
    for path in ["/v2/acme/clock/manifests/1".to_owned(), format!("/v2/acme/clock/manifests/{digest}")] {
        for account in ["acme", "reader"] {
            yard.ask("DELETE", &path).by(account).send().await.refused(403, "DENIED");
        }
        yard.ask("DELETE", &path).by_nobody().send().await.refused(401, "UNAUTHORIZED");
    }
    assert_eq!(yard.get("/v2/acme/clock/manifests/1").await.status, 200);
}
