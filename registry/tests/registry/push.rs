//! Uploading blobs and manifests.

use std::{fs, time::Duration};

use mergeyard_registry::{Config, Limits};
use mergeyard_types::Timestamp;
use proptest::prelude::*;

use crate::{
    images::{self, IMAGE, INDEX},
    yard::{Yard, files, sha256, sha512},
};

#[tokio::test]
async fn the_engines_way_post_patch_put() {
    let yard = Yard::new();
    let bytes = vec![7u8; 1_000_000];
    let digest = sha256(&bytes);
    let upload = yard.start("acme/clock").await;
    let patched = yard.ask("PATCH", &upload).body(bytes.clone()).send().await;
    assert_eq!((patched.status.as_u16(), patched.header("range")), (202, "0-999999"));
    assert_eq!(patched.header("location"), upload);
    assert!(upload.ends_with(patched.header("docker-upload-uuid")));
    let put = yard.ask("PUT", &format!("{upload}?digest={digest}")).send().await;
    assert_eq!(
        (put.status.as_u16(), put.header("docker-content-digest")),
        (201, digest.to_string().as_str())
    );
    let pulled = yard.get(put.header("location")).await;
    assert!(pulled.body == bytes);
    yard.get(&upload).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert!(files(&yard.path("uploads")).unwrap().is_empty());
}

#[tokio::test]
async fn sha512_is_as_good_in_every_way_of_pushing() {
    let yard = Yard::new();
    let bytes = b"named by the longer hash".to_vec();
    let digest = sha512(&bytes);
    let post = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(yard.ask("POST", &post).body(bytes.clone()).send().await.status, 201);
    // Known before the first byte, and only with the last.
    for query in ["?digest-algorithm=sha512", ""] {
        let started = yard.ask("POST", &format!("/v2/b/blobs/uploads/{query}")).send().await;
        let upload = started.header("location").to_owned();
        assert_eq!(yard.ask("PATCH", &upload).body(bytes[..9].to_vec()).send().await.status, 202);
        let put =
            yard.ask("PUT", &format!("{upload}?digest={digest}")).body(bytes[9..].to_vec()).send().await;
        assert_eq!(put.status, 201, "{put:?}");
        assert_eq!(yard.get(&format!("/v2/b/blobs/{digest}")).await.body, bytes);
    }
}

#[tokio::test]
async fn wrong_content_is_refused_and_nothing_becomes_visible() {
    let yard = Yard::new();
    let digest = sha256(b"what was announced");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    yard.ask("POST", &path).body("what came").send().await.refused(400, "DIGEST_INVALID");
    let upload = yard.start("a").await;
    yard.ask("PUT", &format!("{upload}?digest={digest}"))
        .body("what came")
        .send()
        .await
        .refused(400, "DIGEST_INVALID");
    yard.get(&upload).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    let upload = yard.start("a").await;
    yard.ask("PUT", &upload).body("what came").send().await.refused(400, "DIGEST_INVALID");
    yard.ask("PUT", &format!("{upload}?digest=sha256:xyz")).send().await.refused(400, "DIGEST_INVALID");
    yard.get(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    assert!(files(&yard.path("content")).unwrap().is_empty());
    assert!(files(&yard.path("repositories")).unwrap().is_empty());
}

#[tokio::test]
async fn chunks_come_in_order_or_not_at_all() {
    let yard = Yard::new();
    let upload = yard.start("a").await;
    let chunk = |range: &'static str, bytes: &'static str| {
        yard.ask("PATCH", &upload).header("content-range", range).body(bytes).send()
    };
    assert_eq!(chunk("0-4", "first").await.status, 202);
    for range in ["6-11", "4-9", "0-5"] {
        let answer = chunk(range, "second").await;
        answer.refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!((answer.header("range"), answer.header("location")), ("0-4", upload.as_str()));
    }
    for range in ["x", "5", "5-", "9-5", "-5"] {
        chunk(range, "second").await.refused(400, "BLOB_UPLOAD_INVALID");
    }
    // A body longer or shorter than its own Content-Range leaves the upload as it was.
    for range in ["5-8", "5-20"] {
        chunk(range, "second").await.refused(400, "SIZE_INVALID");
        let status = yard.get(&upload).await;
        assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-4"));
    }
    assert_eq!(chunk("bytes 5-10/*", "second").await.status, 202);
    let digest = sha256(b"firstsecond!");
    let put = yard
        .ask("PUT", &format!("{upload}?digest={digest}"))
        .header("content-range", "11-11")
        .body("!")
        .send();
    assert_eq!(put.await.status, 201);
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository_and_can_be_cancelled() {
    let yard = Yard::new();
    let upload = yard.start("a").await;
    let elsewhere = upload.replace("/v2/a/", "/v2/b/");
    for method in ["GET", "PATCH", "DELETE"] {
        yard.ask(method, &elsewhere).send().await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    assert_eq!(yard.ask("DELETE", &upload).send().await.status, 204);
    yard.ask("PATCH", &upload).body("x").send().await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    yard.ask("DELETE", &upload).send().await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    yard.get("/v2/a/blobs/uploads/7").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn uploads_are_bounded_in_number_size_and_age() {
    let limits =
        Limits { open_uploads: 2, blob_bytes: 10, upload_age: Duration::from_secs(60), ..Limits::default() };
    let yard = Yard::with(Config { limits, ..Config::default() });
    let (old, _) = (yard.start("a").await, yard.start("a").await);
    yard.ask("POST", "/v2/a/blobs/uploads/").send().await.refused(429, "TOOMANYREQUESTS");
    yard.ask("PATCH", &old).body("eleven bytes").send().await.refused(413, "SIZE_INVALID");
    assert_eq!(yard.ask("PATCH", &old).body("ten bytes!").send().await.status, 202);

    let now = Timestamp::now();
    assert_eq!(yard.registry.sweep(now).await.unwrap().uploads, 0);
    let swept = yard.registry.sweep(now.plus(Duration::from_secs(61))).await.unwrap();
    assert_eq!((swept.uploads, swept.temporary_files), (2, 0));
    yard.get(&old).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    yard.start("a").await;
}

#[tokio::test]
async fn a_full_disk_is_said_and_pulls_go_on() {
    let yard = Yard::new();
    let stored = yard.push_blob("a", b"stored before").await;
    let upload = yard.start("a").await;
    let data = yard.path("uploads").join(upload.rsplit('/').next().unwrap()).join("data");
    fs::remove_file(&data).unwrap();
    std::os::unix::fs::symlink("/dev/full", &data).unwrap();
    let message = yard.ask("PATCH", &upload).body("more").send().await.refused(507, "UNKNOWN");
    assert!(message.contains("disk is full"), "{message}");
    assert_eq!(yard.get(&format!("/v2/a/blobs/{stored}")).await.body, b"stored before");

    fs::remove_file(&data).unwrap();
    fs::write(&data, "").unwrap();
    let put = format!("{upload}?digest={}", sha256(b"more"));
    assert_eq!(yard.ask("PUT", &put).body("more").send().await.status, 201);
}

#[tokio::test]
async fn a_manifest_must_be_one_and_must_have_all_it_refers_to() {
    let yard = Yard::new();
    let (config, layer) = (images::config("1"), b"layer".as_slice());
    let image = images::manifest(IMAGE, config.as_bytes(), &[layer]);
    yard.push_blob("a", config.as_bytes()).await;
    let message = yard.put_manifest("a", "1", IMAGE, &image).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    assert!(message.contains(&sha256(layer).to_string()), "{message}");
    // That another repository has it helps nobody who pulls from this one.
    yard.push_blob("b", layer).await;
    yard.put_manifest("a", "1", IMAGE, &image).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let index = images::index(INDEX, &[("linux", &image)]);
    yard.put_manifest("a", "1", INDEX, &index).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    yard.push_blob("a", layer).await;

    let wrong_size = image.replace(&format!("\"size\":{}", layer.len()), "\"size\":4");
    assert_ne!(wrong_size, image);
    yard.put_manifest("a", "1", IMAGE, &wrong_size).await.refused(400, "MANIFEST_INVALID");
    yard.put_manifest("a", "1", INDEX, &image).await.refused(400, "MANIFEST_INVALID");
    yard.put_manifest("a", "1", "application/json", &image).await.refused(400, "MANIFEST_INVALID");
    yard.put_manifest("a", "1", IMAGE, "{").await.refused(400, "MANIFEST_INVALID");
    yard.put_manifest("a", ".1", IMAGE, &image).await.refused(400, "MANIFEST_INVALID");
    yard.put_manifest("a", &sha256(b"x").to_string(), IMAGE, &image).await.refused(400, "DIGEST_INVALID");
    let large = format!("{image}{}", " ".repeat(4 << 20));
    yard.put_manifest("a", "1", IMAGE, &large).await.refused(413, "MANIFEST_INVALID");
    assert_eq!(yard.get("/v2/a/tags/list").await.json()["tags"], serde_json::json!([]));
    let foreign = image.replace(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    );
    let elsewhere = foreign.replace(&sha256(layer).to_string(), &sha256(b"not here").to_string());
    assert_eq!(yard.put_manifest("a", "1", IMAGE, &elsewhere).await.status, 201);
    assert_eq!(yard.put_manifest("a", "2", IMAGE, &image).await.status, 201);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// However a blob is cut, whichever chunks name their place, and whether or not the server
    /// restarts in between: what is stored is what was sent.
    #[test]
    fn chunks_make_the_blob_they_were_cut_from(
        bytes in proptest::collection::vec(any::<u8>(), 0..600_000),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<bool>()), 0..5),
        last_in_put in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut yard = Yard::new();
            let upload = yard.start("a").await;
            let mut ends: Vec<_> = cuts.iter().map(|(at, range, restart)| (at.index(bytes.len() + 1), *range, *restart)).collect();
            ends.sort_unstable();
            ends.push((bytes.len(), true, false));
            let (mut offset, mut rest) = (0, Vec::new());
            for (n, (end, with_range, restart)) in ends.iter().copied().enumerate() {
                let chunk = bytes[offset..end].to_vec();
                if n + 1 == ends.len() && last_in_put {
                    rest = chunk;
                    break;
                }
                let mut patch = yard.ask("PATCH", &upload);
                if with_range && !chunk.is_empty() {
                    patch = patch.header("content-range", &format!("{offset}-{}", end - 1));
                }
                let answer = patch.body(chunk).send().await;
                assert_eq!(answer.status, 202, "{answer:?}");
                assert_eq!(answer.header("range"), format!("0-{}", end.saturating_sub(1)));
                if restart {
                    yard = yard.restart().await;
                }
                offset = end;
            }
            let digest = sha256(&bytes);
            let put = yard.ask("PUT", &format!("{upload}?digest={digest}")).body(rest).send().await;
            assert_eq!(put.status, 201, "{put:?}");
            assert!(yard.get(&format!("/v2/a/blobs/{digest}")).await.body == bytes);
        });
    }
}
