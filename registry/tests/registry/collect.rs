//! Garbage collection: what stays, what goes, and that nothing a client relies on is ever taken.

use std::{
    collections::HashSet,
    fs::{self, File},
    sync::Arc,
    time::{Duration, SystemTime},
};

use mergeyard_registry::{
    Act, Collected, Collection, Config, Limits, Removal, Retention, Rules, Tags, Verified,
};
use mergeyard_types::{Digest, Timestamp};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};
use tokio::{sync::RwLock, task::JoinSet};

use crate::{
    images::{self, IMAGE, INDEX},
    yard::{Yard, everywhere, files, name, sha256},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn later(age: Duration) -> Collection {
    Collection { in_use: Some(HashSet::new()), now: Timestamp::now().plus(age), dry_run: false }
}

async fn collect(yard: &Yard, asked: Collection) -> (Collected, Vec<Removal>) {
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let sum =
        yard.registry.collect(asked, move |removal| sender.send(removal.clone()).unwrap()).await.unwrap();
    let mut removals = Vec::new();
    while let Ok(removal) = told.try_recv() {
        removals.push(removal);
    }
    (sum, removals)
}

/// Sets when a tag was pushed, as long ago as `age`.
fn pushed_ago(yard: &Yard, repository: &str, tag: &str, age: Duration) {
    let path = yard.path("repositories").join(repository).join("_tags").join(tag);
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

async fn tags(yard: &Yard, repository: &str) -> Vec<String> {
    yard.registry.tags(&name(repository)).await.unwrap().iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn by_default_everything_that_has_a_name_stays() {
    let yard = Yard::new();
    for version in ["1", "2", "3"] {
        images::push(&yard, "acme/clock", version).await;
    }
    let untagged = images::blobs(&yard, "acme/clock", "4").await;
    let digest = sha256(untagged.as_bytes()).to_string();
    assert_eq!(yard.put_manifest("acme/clock", &digest, IMAGE, &untagged).await.status, 201);
    let before = files(&yard.path("")).unwrap();
    let (sum, _) = collect(&yard, later(10_000 * DAY)).await;
    assert_eq!(sum, Collected::default());
    let stamp = std::path::PathBuf::from("collected");
    assert_eq!(
        files(&yard.path("")).unwrap().into_iter().filter(|path| *path != stamp).collect::<Vec<_>>(),
        before
    );
}

#[tokio::test]
async fn a_blob_that_no_manifest_needs_goes_when_its_push_must_have_ended() {
    let yard = Yard::new();
    images::push(&yard, "a", "1").await;
    let lonely = yard.push_blob("a", b"never became part of anything").await;
    let path = format!("/v2/a/blobs/{lonely}");
    let almost = Config::default().limits.upload_age - Duration::from_secs(60);
    assert_eq!(collect(&yard, later(almost)).await.0, Collected::default());

    // Told at first, then done: the same in both.
    let (told, removals) = collect(&yard, Collection { dry_run: true, ..later(2 * DAY) }).await;
    assert_eq!(yard.get(&path).await.status, 200);
    let mut events = yard.registry.subscribe();
    assert_eq!(collect(&yard, later(2 * DAY)).await, (told, removals.clone()));
    assert_eq!(told, Collected { blobs: 1, contents: 1, bytes: 29, ..Collected::default() });
    assert_eq!(removals[0], Removal::Blob { name: name("a"), digest: lonely });
    let event = events.try_recv().unwrap();
    assert_eq!((event.act, event.by.as_str()), (Act::Deleted, "retention"));
    yard.get(&path).await.refused(404, "BLOB_UNKNOWN");
    assert_eq!(yard.get("/v2/a/manifests/1").await.status, 200);
    assert_eq!(yard.push_blob("a", b"never became part of anything").await, lonely);
}

#[tokio::test]
async fn asking_for_a_blob_is_as_good_as_pushing_it() {
    let yard = Yard::new();
    let blob = yard.push_blob("a", b"pushed long ago").await;
    let link = yard.path("repositories/a/_blobs/sha256").join(blob.hex());
    let age = || File::options().write(true).open(&link).unwrap();
    age().set_modified(SystemTime::now() - 3 * DAY).unwrap();
    // A client that begins a push now asks, hears that it is there, and leaves it out.
    assert_eq!(yard.ask("HEAD", &format!("/v2/a/blobs/{blob}")).send().await.status, 200);
    assert_eq!(collect(&yard, later(Duration::ZERO)).await.0, Collected::default());
    age().set_modified(SystemTime::now() - 3 * DAY).unwrap();
    let mount = format!("/v2/b/blobs/uploads/?mount={blob}&from=a");
    assert_eq!(yard.ask("POST", &mount).send().await.status, 201);
    assert_eq!(collect(&yard, later(Duration::ZERO)).await.0, Collected::default());
    age().set_modified(SystemTime::now() - 3 * DAY).unwrap();
    let (sum, _) = collect(&yard, later(Duration::ZERO)).await;
    // The other repository has it still, so its content stays.
    assert_eq!(sum, Collected { blobs: 1, ..Collected::default() });
    assert_eq!(yard.get(&format!("/v2/b/blobs/{blob}")).await.body, b"pushed long ago");
}

#[tokio::test]
async fn rules_keep_the_newest_the_young_the_named_and_what_runs() {
    let retention = Retention {
        keep_last: Some(2),
        keep_for: Some(10 * DAY),
        keep_tags: Tags::new(["v*"]).unwrap(),
        untagged_for: None,
    };
    let yard = Yard::with(everywhere(Rules { retention, ..Rules::default() }));
    for (version, age) in [("1", 100), ("2", 90), ("v3", 80), ("4", 70), ("5", 60), ("6", 5)] {
        images::push(&yard, "acme/clock", version).await;
        pushed_ago(&yard, "acme/clock", version, age * DAY);
    }
    let runs = sha256(images::blobs(&yard, "acme/clock", "2").await.as_bytes());
    let unknown = Collection { in_use: None, ..later(2 * DAY) };
    assert_eq!(collect(&yard, unknown).await.0, Collected::default());
    let asked = Collection { in_use: Some(HashSet::from([runs])), ..later(2 * DAY) };
    let (sum, removals) = collect(&yard, asked).await;
    assert_eq!(tags(&yard, "acme/clock").await, ["2", "5", "6", "v3"]);
    let gone: Vec<String> = removals
        .iter()
        .filter_map(|removal| match removal {
            Removal::Tag { tag, .. } => Some(tag.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(gone, ["4", "1"]);
    // With the tags go their manifests and configurations; the layer is everybody's.
    let sizes = sum.bytes;
    assert_eq!(sum, Collected { tags: 2, manifests: 2, blobs: 2, contents: 4, bytes: sizes });
    for kept in ["2", "5", "6", "v3"] {
        pull(&yard, "acme/clock", kept).await;
    }
}

#[tokio::test]
async fn what_a_kept_tag_leads_to_stays_and_what_refers_to_it_too() {
    let retention = Retention { untagged_for: Some(DAY), ..Retention::default() };
    let yard = Yard::with(everywhere(Rules { retention, ..Rules::default() }));
    let image = |label: &'static str| {
        let yard = &yard;
        async move {
            let json = images::blobs(yard, "a", label).await;
            let digest = sha256(json.as_bytes());
            assert_eq!(yard.put_manifest("a", &digest.to_string(), IMAGE, &json).await.status, 201);
            (json, digest)
        }
    };
    let (child, child_digest) = image("of an index").await;
    let (_, lonely) = image("of nobody").await;
    let index = images::index(INDEX, &[("linux", &child)]);
    assert_eq!(yard.put_manifest("a", "1", INDEX, &index).await.status, 201);
    let signature = refer(&yard, "a", sha256(index.as_bytes())).await;
    let signed_twice = refer(&yard, "a", signature).await;
    let of_nobody = refer(&yard, "a", lonely).await;

    let (sum, _) = collect(&yard, later(2 * DAY)).await;
    assert_eq!(sum.manifests, 2);
    for digest in [child_digest, signature, signed_twice] {
        assert_eq!(yard.get(&format!("/v2/a/manifests/{digest}")).await.status, 200);
    }
    for digest in [lonely, of_nobody] {
        yard.get(&format!("/v2/a/manifests/{digest}")).await.refused(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(yard.ask("DELETE", "/v2/a/manifests/1").send().await.status, 202);
    let (sum, _) = collect(&yard, later(2 * DAY)).await;
    assert_eq!(sum.manifests, 4);
    assert!(files(&yard.path("content")).unwrap().is_empty());
    assert!(files(&yard.path("repositories")).unwrap().is_empty());
}

/// A small artifact about `subject`, pushed by digest.
async fn refer(yard: &Yard, repository: &str, subject: Digest) -> Digest {
    let mut artifact: Value = serde_json::from_str(&images::blobs(yard, repository, "about").await).unwrap();
    artifact["subject"] = json!({"mediaType": IMAGE, "digest": subject, "size": 1});
    let (artifact, digest) = (artifact.to_string(), sha256(artifact.to_string().as_bytes()));
    assert_eq!(yard.put_manifest(repository, &digest.to_string(), IMAGE, &artifact).await.status, 201);
    digest
}

#[tokio::test]
async fn a_signature_under_a_tag_stays_as_long_as_what_it_signs() {
    let retention = Retention { keep_last: Some(1), ..Retention::default() };
    let yard = Yard::with(everywhere(Rules { retention, ..Rules::default() }));
    let old = images::push(&yard, "a", "1").await;
    let new = images::push(&yard, "a", "2").await;
    pushed_ago(&yard, "a", "1", DAY);
    for signed in [old, new] {
        images::push(&yard, "a", &format!("sha256-{}.sig", signed.hex())).await;
    }
    collect(&yard, later(2 * DAY)).await;
    assert_eq!(tags(&yard, "a").await, ["2".to_owned(), format!("sha256-{}.sig", new.hex())]);
}

#[tokio::test]
async fn while_a_manifest_cannot_be_read_nothing_it_may_need_goes() {
    let yard = Yard::new();
    let digest = images::push(&yard, "a", "1").await;
    fs::remove_file(yard.path("content/sha256").join(digest.hex())).unwrap();
    assert_eq!(collect(&yard, later(2 * DAY)).await.0, Collected::default());
    let json = images::blobs(&yard, "a", "1").await;
    assert_eq!(yard.put_manifest("a", "1", IMAGE, &json).await.status, 201);
    pull(&yard, "a", "1").await;
}

/// Pulls an image whole, checking every digest.
async fn pull(yard: &Yard, repository: &str, reference: &str) {
    let manifest = yard.get(&format!("/v2/{repository}/manifests/{reference}")).await;
    assert_eq!(manifest.status, 200, "{manifest:?}");
    let manifest = manifest.json();
    for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let digest = blob["digest"].as_str().unwrap();
        let answer = yard.get(&format!("/v2/{repository}/blobs/{digest}")).await;
        assert_eq!((answer.status.as_u16(), sha256(&answer.body).to_string().as_str()), (200, digest));
    }
}

/// What one client does, one after the other.
#[derive(Debug, Clone)]
enum Deed {
    /// Pushes an image the way engines do: what is there already is left out.
    Push {
        repository: usize,
        image: usize,
        by_mount: bool,
    },
    Delete {
        repository: usize,
        image: usize,
    },
    Untag {
        repository: usize,
        image: usize,
    },
}

fn deeds() -> impl Strategy<Value = Vec<Vec<Deed>>> {
    let deed =
        (0..2usize, 0..4usize, 0..6u8, any::<bool>()).prop_map(|(repository, image, kind, by_mount)| {
            match kind {
                0 => Deed::Delete { repository, image },
                1 => Deed::Untag { repository, image },
                _ => Deed::Push { repository, image, by_mount },
            }
        });
    prop::collection::vec(prop::collection::vec(deed, 4..14), 3..5)
}

const REPOSITORIES: [&str; 2] = ["acme/one", "acme/two"];

impl Deed {
    async fn run(&self, yard: &Yard, mercy: &RwLock<()>, who: usize, turn: usize) {
        match self {
            Deed::Push { repository, image, by_mount } => {
                let version = format!("{image}-{who}-{turn}");
                let from = by_mount.then_some(REPOSITORIES[1 - repository]);
                let push = || push(yard, REPOSITORIES[*repository], from, *image, &version);
                // A push that is too slow for the merciless collection begins again, as clients do, and
                // in the end keeps it from beginning.
                for _ in 0..3 {
                    if push().await {
                        return;
                    }
                }
                let _mercy = mercy.read().await;
                push().await;
            }
            Deed::Delete { repository, image } => {
                let path = format!(
                    "/v2/{}/manifests/{}",
                    REPOSITORIES[*repository],
                    sha256(json_of(*image).as_bytes())
                );
                let status = yard.ask("DELETE", &path).send().await.status.as_u16();
                assert!([202, 404].contains(&status), "{status}");
            }
            Deed::Untag { repository, image } => {
                for tag in tags(yard, REPOSITORIES[*repository]).await {
                    if tag.starts_with(&image.to_string()) {
                        let path = format!("/v2/{}/manifests/{tag}", REPOSITORIES[*repository]);
                        yard.ask("DELETE", &path).send().await;
                    }
                }
            }
        }
    }
}

/// Images share layers, so that what one needs is garbage of another.
fn blobs_of(image: usize) -> [Vec<u8>; 3] {
    let layer = |n: usize| format!("layer {}", n % 4).into_bytes();
    [images::config(&image.to_string()).into_bytes(), layer(image), layer(image + 1)]
}

fn json_of(image: usize) -> String {
    let [config, one, two] = blobs_of(image);
    images::manifest(IMAGE, &config, &[&one, &two])
}

async fn push(yard: &Yard, repository: &str, from: Option<&str>, image: usize, version: &str) -> bool {
    for blob in blobs_of(image) {
        let digest = sha256(&blob);
        if yard.ask("HEAD", &format!("/v2/{repository}/blobs/{digest}")).send().await.status == 200 {
            continue;
        }
        let Some(from) = from else {
            yard.push_blob(repository, &blob).await;
            continue;
        };
        let mount = format!("/v2/{repository}/blobs/uploads/?mount={digest}&from={from}");
        let answer = yard.ask("POST", &mount).send().await;
        if answer.status == 202 {
            let upload = format!("{}?digest={digest}", answer.header("location"));
            assert_eq!(yard.ask("PUT", &upload).body(blob).send().await.status, 201);
        }
    }
    let answer = yard.put_manifest(repository, version, IMAGE, &json_of(image)).await;
    if answer.status != 201 {
        answer.refused(400, "MANIFEST_BLOB_UNKNOWN");
        return false;
    }
    // The image is the client's now, until somebody deletes it.
    let path = format!("/v2/{repository}/manifests/{version}");
    for blob in blobs_of(image) {
        let there = yard.get(&format!("/v2/{repository}/blobs/{}", sha256(&blob))).await;
        assert!(
            there.body == blob || yard.get(&path).await.status == 404,
            "{version} lost a blob: {there:?}"
        );
    }
    true
}

/// Clients push, mount and delete at random while one collection follows the other, with no mercy for
/// what is not part of a manifest yet: whoever was told "201" has the whole image.
#[test]
fn no_live_manifest_ever_loses_a_blob() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 12, max_shrink_iters: 0, ..Default::default() });
    let outcome = runner.run(&deeds(), |clients| {
        runtime.block_on(async {
            let retention = Retention { untagged_for: Some(Duration::ZERO), ..Retention::default() };
            let config = Config {
                limits: Limits { upload_age: Duration::ZERO, ..Limits::default() },
                ..everywhere(Rules { retention, ..Rules::default() })
            };
            let (yard, mercy) = (Arc::new(Yard::with(config)), Arc::new(RwLock::new(())));
            let mut running = JoinSet::new();
            for (who, deeds) in clients.into_iter().enumerate() {
                let (yard, mercy) = (yard.clone(), mercy.clone());
                running.spawn(async move {
                    for (turn, deed) in deeds.iter().enumerate() {
                        deed.run(&yard, &mercy, who, turn).await;
                    }
                });
            }
            let mut collections = 0;
            while !running.is_empty() {
                let _none = mercy.write().await;
                collect(&yard, later(Duration::from_secs(1))).await;
                collections += 1;
                while let Some(ended) = running.try_join_next() {
                    ended.unwrap();
                }
            }
            assert!(collections > 1);
            let Verified { faults, .. } = yard.registry.verify(|_| {}).await.unwrap();
            assert_eq!(faults, 0);
            for repository in REPOSITORIES {
                for tag in tags(&yard, repository).await {
                    pull(&yard, repository, &tag).await;
                }
            }
        });
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test]
async fn two_collections_at_once_are_one_after_the_other() {
    let yard = Yard::new();
    for blob in [b"one", b"two"] {
        yard.push_blob("a", blob).await;
    }
    let (first, second) = tokio::join!(collect(&yard, later(2 * DAY)), collect(&yard, later(2 * DAY)));
    assert_eq!(first.0.contents + second.0.contents, 2);
}
