//! Verification: every byte is read again, and what is damaged can be put right by a push.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mergeyard_registry::{Fault, Progress, Verified, Verifying};

use crate::{
    images::{self, IMAGE},
    yard::{Yard, name, sha256, tag},
};

async fn verify(yard: &Yard) -> (Verified, Vec<Fault>, Vec<Progress>) {
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let tell = move |what: Verifying<'_>| {
        let what = match what {
            Verifying::Progress(progress) => Err(progress),
            Verifying::Fault(fault) => Ok(fault.clone()),
        };
        sender.send(what).unwrap();
    };
    let sum = yard.registry.verify(tell).await.unwrap();
    let (mut faults, mut progress) = (Vec::new(), Vec::new());
    while let Ok(what) = told.try_recv() {
        match what {
            Ok(fault) => faults.push(fault),
            Err(step) => progress.push(step),
        }
    }
    (sum, faults, progress)
}

#[tokio::test]
async fn a_sound_registry_is_found_sound_and_the_way_there_is_told() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    images::push(&yard, "acme/clock", "2").await;
    let (sum, faults, progress) = verify(&yard).await;
    assert_eq!((sum.contents, sum.faults, faults), (5, 0, vec![]));
    let last = progress.last().unwrap();
    assert_eq!((last.contents, last.bytes), (last.of_contents, last.of_bytes));
    assert_eq!((last.contents, last.bytes), (sum.contents, sum.bytes));
    assert!(progress.windows(2).all(|pair| pair[0].bytes <= pair[1].bytes));
}

#[tokio::test]
async fn damaged_content_is_taken_out_of_sight_and_comes_back_with_the_next_push() {
    let yard = Yard::new();
    let manifest = images::push(&yard, "a", "1").await;
    let layer = sha256(b"the one layer");
    let file = yard.path("content/sha256").join(layer.hex());
    fs::write(&file, b"the own layer").unwrap();
    let (_, faults, _) = verify(&yard).await;
    let missing = Fault::Missing { name: name("a"), digest: layer };
    assert_eq!(faults, [Fault::Damaged { digest: layer }, missing.clone()]);
    assert!(faults[0].to_string().contains("push an image that has it again"), "{}", faults[0]);
    yard.get(&format!("/v2/a/blobs/{layer}")).await.refused(404, "BLOB_UNKNOWN");
    let kept = yard.path("quarantine").join(format!("sha256-{}", layer.hex()));
    assert_eq!(fs::read(kept).unwrap(), b"the own layer");
    assert_eq!(verify(&yard).await.1, [missing]);

    // A client that pushes the image asks for the layer, hears that it is not there, and sends it.
    assert_eq!(images::push(&yard, "a", "1").await, manifest);
    assert_eq!(yard.get(&format!("/v2/a/blobs/{layer}")).await.body, b"the one layer");
    assert_eq!(verify(&yard).await.1, []);
}

#[tokio::test]
async fn a_damaged_manifest_comes_back_with_the_next_push_too() {
    let yard = Yard::new();
    let digest = images::push(&yard, "a", "1").await;
    fs::write(yard.path("content/sha256").join(digest.hex()), b"{}").unwrap();
    let (_, faults, _) = verify(&yard).await;
    assert_eq!(faults, [Fault::Damaged { digest }, Fault::Missing { name: name("a"), digest }]);
    yard.get("/v2/a/manifests/1").await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(images::push(&yard, "a", "1").await, digest);
    assert_eq!(verify(&yard).await.1, []);
    assert_eq!(yard.get("/v2/a/manifests/1").await.status, 200);
}

#[tokio::test]
async fn names_that_lead_nowhere_are_found() {
    let yard = Yard::new();
    let digest = images::push(&yard, "a", "1").await;
    let json = images::blobs(&yard, "a", "2").await;
    assert_eq!(yard.put_manifest("a", "2", IMAGE, &json).await.status, 201);
    let other = sha256(json.as_bytes());
    let layer = sha256(b"the one layer");
    fs::remove_file(yard.path("repositories/a/_blobs/sha256").join(layer.hex())).unwrap();
    fs::remove_file(yard.path("repositories/a/_manifests/sha256").join(other.hex())).unwrap();
    let (sum, faults, _) = verify(&yard).await;
    assert_eq!(sum.faults, 2);
    assert_eq!(
        faults,
        [
            Fault::Incomplete { name: name("a"), manifest: digest, needs: layer },
            Fault::Dangling { name: name("a"), tag: tag("2"), digest: other },
        ]
    );
}

/// A server that stops gives up reading a large registry; the process would wait for it otherwise.
#[test]
fn it_ends_when_nobody_waits_for_it_any_more_and_takes_nothing_for_damaged() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let yard = Yard::new();
    runtime.block_on(async {
        for n in 0..20u8 {
            yard.push_blob("a", &[n; 100]).await;
        }
    });
    let (first, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let (gate, closed) = std::sync::mpsc::channel::<()>();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let verifying = yard.registry.verify(move |what| {
        assert!(matches!(what, Verifying::Progress(_)), "{what:?}");
        count.fetch_add(1, Ordering::SeqCst);
        let _ = first.send(());
        let _ = closed.recv();
    });
    runtime.block_on(async {
        tokio::select! {
            ended = verifying => panic!("{ended:?}"),
            begun = begun.recv() => begun.unwrap(),
        }
    });
    // The reader has not begun its second piece, and now nobody waits.
    drop(gate);
    drop(runtime);
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert!(fs::read_dir(yard.path("quarantine")).unwrap().next().is_none());
}
