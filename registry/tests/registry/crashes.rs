//! What a process that dies at any stage of a push leaves behind: nothing that can be read in
//! part, and nothing that stays for ever.

use std::{fs, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};
use mergeyard_registry::{Config, OpenError, Registry, Swept};
use mergeyard_types::Timestamp;

use crate::{
    images::{self, IMAGE},
    yard::{Yard, files, sha256},
};

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_where_the_file_ends() {
    let yard = Yard::new();
    let upload = yard.start("a").await;
    yard.ask("PATCH", &upload).body("first ").send().await;
    let id = upload.rsplit('/').next().unwrap().to_owned();
    let yard = yard.restart().await;
    assert_eq!(yard.get(&upload).await.header("range"), "0-5");
    // The process died between the write and the answer: the file knows more than the client.
    let data = yard.path("uploads").join(&id).join("data");
    fs::write(&data, "first second ").unwrap();
    let yard = yard.restart().await;
    assert_eq!(yard.get(&upload).await.header("range"), "0-12");
    let digest = sha256(b"first second third");
    let put =
        yard.ask("PUT", &format!("{upload}?digest={digest}")).header("content-range", "13-17").body("third");
    assert_eq!(put.send().await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_leaves_an_upload_to_resume_and_no_blob() {
    let yard = Yard::new();
    let upload = yard.start("a").await;
    let bytes = vec![3u8; 2 << 20];
    let digest = sha256(&bytes);
    let chunks: Vec<_> = bytes[..1 << 20].chunks(64 << 10).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let broken = stream::iter(chunks).chain(stream::iter([Err(std::io::Error::other("reset"))]));
    let put = format!("{upload}?digest={digest}");
    let answer = yard.ask("PUT", &put).body(Body::from_stream(broken)).send().await;
    answer.refused(400, "BLOB_UPLOAD_INVALID");
    yard.get(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    assert_eq!(yard.get(&upload).await.header("range"), format!("0-{}", (1 << 20) - 1));

    // The client vanishes while the server waits for more: the request is simply dropped.
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let waiting = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    {
        let patch = yard.ask("PATCH", &upload).body(waiting).send();
        tokio::pin!(patch);
        for chunk in bytes[1 << 20..3 << 19].chunks(64 << 10) {
            tokio::select! {
                answer = &mut patch => panic!("{answer:?}"),
                sent = sender.send(Ok(Bytes::copy_from_slice(chunk))) => sent.unwrap(),
            }
        }
    }
    // Everything that was in whole batches is kept; the client asks how much that is.
    let status = yard.ask("PATCH", &upload).send().await;
    let received: usize = status.header("range")[2..].parse::<usize>().unwrap() + 1;
    assert!((1 << 20..=3 << 19).contains(&received), "{received}");
    let answer = yard.ask("PUT", &put).body(bytes[received..].to_vec()).send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(yard.get(&format!("/v2/a/blobs/{digest}")).await.body == bytes);
}

#[tokio::test]
async fn no_stage_of_a_push_shows_anything_before_the_last() {
    let yard = Yard::new();
    let blob = sha256(b"a whole blob");
    let json = images::blobs(&yard, "a", "1").await;
    let manifest = sha256(json.as_bytes());
    // Died after receiving everything, before the commit.
    let upload = yard.start("a").await;
    yard.ask("PATCH", &upload).body("a whole blob").send().await;
    // Died while a small file was written.
    fs::write(yard.path("incoming/31b1a2a4-6d0c-4b0e-9d5e-000000000000"), "half").unwrap();
    // Died while an upload was made.
    fs::create_dir(yard.path("uploads/31b1a2a4-6d0c-4b0e-9d5e-000000000001")).unwrap();
    fs::write(yard.path("uploads/not-an-upload"), "").unwrap();
    // Died after the manifest's content, before the repository's link.
    fs::write(yard.path("content/sha256").join(manifest.hex()), &json).unwrap();
    let yard = yard.restart().await;
    assert!(files(&yard.path("incoming")).unwrap().is_empty());
    assert_eq!(fs::read_dir(yard.path("uploads")).unwrap().count(), 1);
    yard.get(&format!("/v2/a/blobs/{blob}")).await.refused(404, "BLOB_UNKNOWN");
    yard.get(&format!("/v2/a/blobs/{manifest}")).await.refused(404, "BLOB_UNKNOWN");
    yard.get(&format!("/v2/a/manifests/{manifest}")).await.refused(404, "MANIFEST_UNKNOWN");
    yard.get("/v2/a/manifests/1").await.refused(404, "MANIFEST_UNKNOWN");

    // Died after the blob's rename, before its link; then the client pushes again.
    fs::write(yard.path("content/sha256").join(blob.hex()), "a whole blob").unwrap();
    let yard = yard.restart().await;
    yard.get(&format!("/v2/a/blobs/{blob}")).await.refused(404, "BLOB_UNKNOWN");
    assert_eq!(yard.push_blob("a", b"a whole blob").await, blob);
    assert_eq!(yard.get(&format!("/v2/a/blobs/{blob}")).await.body, b"a whole blob");
    assert_eq!(yard.put_manifest("a", "1", IMAGE, &json).await.status, 201);
    let yard = yard.restart().await;
    assert_eq!(yard.get("/v2/a/manifests/1").await.body, json.as_bytes());
}

#[tokio::test]
async fn leftovers_are_swept_while_serving_too() {
    let yard = Yard::new();
    fs::write(yard.path("incoming/left"), "half").unwrap();
    let now = Timestamp::now();
    assert_eq!(yard.registry.sweep(now).await.unwrap().temporary_files, 0);
    let later = now.plus(Config::default().limits.upload_age + Duration::from_secs(60));
    assert_eq!(yard.registry.sweep(later).await.unwrap().temporary_files, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sweep_leaves_the_uploads_that_are_just_being_made() {
    let yard = Yard::new();
    let sweeping = async {
        for _ in 0..200 {
            assert_eq!(yard.registry.sweep(Timestamp::now()).await.unwrap(), Swept::default());
        }
    };
    let starting = async {
        for _ in 0..200 {
            yard.start("a").await;
        }
    };
    tokio::join!(sweeping, starting);
}

#[tokio::test]
async fn two_processes_cannot_share_a_directory() {
    let yard = Yard::new();
    let second = Registry::open(&yard.path(""), Config::default());
    assert!(matches!(second, Err(OpenError::InUse(_))));
}
