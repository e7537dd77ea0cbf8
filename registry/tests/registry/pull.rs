//! Reading blobs and manifests.

use mergeyard_registry::{Act, Content, Event};
use serde_json::json;

use crate::{
    images::{self, DOCKER_IMAGE, DOCKER_LIST, IMAGE, INDEX},
    yard::{Yard, name, sha256, sha512, tag},
};

#[tokio::test]
async fn a_blob_is_read_whole_in_parts_or_not_again() {
    let yard = Yard::new();
    let bytes: Vec<u8> = (0..700_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let digest = yard.push_blob("acme/clock", &bytes).await;
    let path = format!("/v2/acme/clock/blobs/{digest}");

    let whole = yard.get(&path).await;
    assert_eq!((whole.status.as_u16(), whole.body.len()), (200, bytes.len()));
    assert!(whole.body == bytes);
    assert_eq!(whole.header("docker-content-digest"), digest.to_string());
    assert_eq!(whole.header("content-length"), bytes.len().to_string());
    let head = yard.ask("HEAD", &path).send().await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (200, bytes.len().to_string().as_str())
    );
    assert!(head.body.is_empty());

    let part = yard.ask("GET", &path).header("range", "bytes=1000-600999").send().await;
    assert_eq!(part.status, 206);
    assert!(part.body == bytes[1000..601_000]);
    assert_eq!(part.header("content-range"), format!("bytes 1000-600999/{}", bytes.len()));
    let other = yard.ask("GET", &path).header("range", "bytes=0-1").header("if-range", "\"x\"").send().await;
    assert_eq!(other.status, 200);
    let outside = yard.ask("GET", &path).header("range", "bytes=2800000-").send().await;
    outside.refused(416, "SIZE_INVALID");
    assert_eq!(outside.header("content-range"), "bytes */2800000");

    let known = yard.ask("GET", &path).header("if-none-match", whole.header("etag")).send().await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    yard.get(&format!("/v2/acme/clock/blobs/{}", sha256(b"?"))).await.refused(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn each_kind_of_manifest_comes_back_byte_for_byte_by_tag_and_by_digest() {
    let yard = Yard::new();
    let (config, layer) = (images::config("1"), b"layer".as_slice());
    yard.push_blob("acme/clock", config.as_bytes()).await;
    yard.push_blob("acme/clock", layer).await;
    // Blanks that a parser would not keep: the bytes are the content.
    let image = format!("  {}\n", images::manifest(IMAGE, config.as_bytes(), &[layer]));
    let docker = images::manifest(DOCKER_IMAGE, config.as_bytes(), &[layer]);
    let index = images::index(INDEX, &[("linux", &image)]);
    let list = images::index(DOCKER_LIST, &[("linux", &docker)]);
    for (reference, media_type, json) in [
        ("oci", IMAGE, &image),
        ("docker", DOCKER_IMAGE, &docker),
        ("index", INDEX, &index),
        ("list", DOCKER_LIST, &list),
    ] {
        let digest = sha256(json.as_bytes()).to_string();
        let pushed = yard.put_manifest("acme/clock", reference, media_type, json).await;
        assert_eq!(pushed.status, 201, "{pushed:?}");
        assert_eq!(pushed.header("docker-content-digest"), digest);
        assert_eq!(pushed.header("location"), format!("/v2/acme/clock/manifests/{digest}"));
        for by in [reference, digest.as_str()] {
            let path = format!("/v2/acme/clock/manifests/{by}");
            let pulled = yard.ask("GET", &path).header("accept", "text/html").send().await;
            assert_eq!((pulled.status.as_u16(), pulled.header("content-type")), (200, media_type));
            assert_eq!(pulled.body, json.as_bytes());
            let head = yard.ask("HEAD", &path).send().await;
            assert_eq!(head.header("docker-content-digest"), digest);
            assert_eq!(head.header("content-length"), json.len().to_string());
            let known = yard.ask("GET", &path).header("if-none-match", &format!("\"{digest}\"")).send().await;
            assert_eq!(known.status, 304);
        }
    }
    yard.get("/v2/acme/clock/manifests/none").await.refused(404, "MANIFEST_UNKNOWN");
    yard.get("/v2/acme/clock/manifests/.hidden").await.refused(404, "MANIFEST_UNKNOWN");
    yard.get("/v2/acme/none/manifests/1").await.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_manifest_can_be_named_by_sha512() {
    let yard = Yard::new();
    let json = images::blobs(&yard, "acme/clock", "1").await;
    let digest = sha512(json.as_bytes()).to_string();
    assert_eq!(yard.put_manifest("acme/clock", &digest, IMAGE, &json).await.status, 201);
    let pulled = yard.get(&format!("/v2/acme/clock/manifests/{digest}")).await;
    assert_eq!(pulled.body, json.as_bytes());
}

#[tokio::test]
async fn paths_that_leave_the_root_or_are_no_names_are_refused() {
    let yard = Yard::new();
    let long = format!("/v2/{}/tags/list", "a".repeat(300));
    for path in [
        "/v2/../../etc/passwd",
        "/v2/a/../../../etc/manifests/1",
        "/v2/%2e%2e/%2e%2e/manifests/1",
        "/v2/..%2f..%2fetc/manifests/1",
        "/v2/a%00b/manifests/1",
        "/v2/A/manifests/1",
        "/v2/a/manifests/..%2f..%2fx",
        "/v2/%ff%fe/manifests/1",
        &long,
    ] {
        yard.get(path).await.refused(400, "NAME_INVALID");
    }
    yard.get("/v2/a/blobs/sha256:abc").await.refused(400, "DIGEST_INVALID");
    yard.get("/v2/a/blobs/md5:00").await.refused(400, "DIGEST_INVALID");
    yard.get("/v2/a/referrers/x").await.refused(400, "DIGEST_INVALID");
    yard.ask("TRACE", "/v2/a/manifests/1").send().await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn the_server_reads_without_http_and_hears_of_pushes_and_pulls() {
    let yard = Yard::new();
    let mut events = yard.registry.subscribe();
    let digest = images::push(&yard, "acme/clock", "0.1.0").await;
    yard.get("/v2/acme/clock/manifests/0.1.0").await;
    let (repository, version, by) = (name("acme/clock"), tag("0.1.0"), "robot".to_owned());
    let tagged = Some(version.clone());
    let told = |act, content| Event { act, name: repository.clone(), content, by: by.clone() };
    for _ in ["configuration", "layer"] {
        let event = events.recv().await.unwrap();
        assert!(matches!(event, Event { act: Act::Pushed, content: Content::Blob(_), .. }), "{event:?}");
    }
    let manifest = Content::Manifest { tag: tagged, digest };
    assert_eq!(events.recv().await.unwrap(), told(Act::Pushed, manifest.clone()));
    assert_eq!(events.recv().await.unwrap(), told(Act::Pulled, manifest));

    assert_eq!(yard.registry.repositories().await.unwrap(), std::slice::from_ref(&repository));
    assert_eq!(yard.registry.tags(&repository).await.unwrap(), std::slice::from_ref(&version));
    let manifest = yard.registry.manifest(&repository, &version).await.unwrap().unwrap();
    assert_eq!((manifest.digest, manifest.media_type.as_str()), (digest, IMAGE));
    let (labelled, labels) = yard.registry.labels(&repository, &version).await.unwrap().unwrap();
    assert_eq!(labelled, digest);
    assert_eq!(labels["org.opencontainers.image.version"], "0.1.0");
    assert!(yard.registry.labels(&repository, &tag("none")).await.unwrap().is_none());
}

#[tokio::test]
async fn the_labels_of_an_index_are_those_of_its_first_platform() {
    let yard = Yard::new();
    let attestation = images::blobs(&yard, "acme/clock", "attestation").await;
    let image = images::blobs(&yard, "acme/clock", "0.2.0").await;
    for json in [&attestation, &image] {
        let digest = sha256(json.as_bytes()).to_string();
        assert_eq!(yard.put_manifest("acme/clock", &digest, IMAGE, json).await.status, 201);
    }
    let index = images::index(INDEX, &[("unknown", &attestation), ("linux", &image)]);
    assert_eq!(yard.put_manifest("acme/clock", "0.2.0", INDEX, &index).await.status, 201);
    let (digest, labels) = yard.registry.labels(&name("acme/clock"), &tag("0.2.0")).await.unwrap().unwrap();
    assert_eq!(digest, sha256(index.as_bytes()));
    assert_eq!(json!(labels), json!({"org.opencontainers.image.version": "0.2.0"}));
}
