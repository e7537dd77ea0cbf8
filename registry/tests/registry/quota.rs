//! Quotas: a repository takes no more than it may, and gets room back.

use std::{collections::HashSet, time::Duration};

use mergeyard_registry::{Collection, Repository, Rules};
use mergeyard_types::Timestamp;

use crate::{
    images::{self, IMAGE},
    yard::{Yard, everywhere, sha256},
};

fn limited(quota: u64) -> Yard {
    Yard::with(everywhere(Rules { quota: Some(quota), ..Rules::default() }))
}

#[tokio::test]
async fn a_push_over_the_quota_is_refused_early_and_leaves_nothing() {
    let yard = limited(1000);
    yard.push_blob("a", &[1; 600]).await;
    let bytes = vec![2; 500];
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
    let why = yard.ask("POST", &path).body(bytes.clone()).send().await.refused(403, "DENIED");
    assert!(why.starts_with("repository `a` may hold 1000 bytes and holds 600"), "{why}");
    let upload = yard.start("a").await;
    yard.ask("PATCH", &upload).body(bytes.clone()).send().await.refused(403, "DENIED");
    assert_eq!(yard.ask("DELETE", &upload).send().await.status, 204);
    yard.get(&format!("/v2/a/blobs/{}", sha256(&bytes))).await.refused(404, "BLOB_UNKNOWN");
    // Another repository has its own.
    yard.push_blob("b", &bytes).await;
    let mount = format!("/v2/a/blobs/uploads/?mount={}&from=b", sha256(&bytes));
    yard.ask("POST", &mount).send().await.refused(403, "DENIED");
    yard.push_blob("a", &[3; 400]).await;
    yard.ask("PATCH", &yard.start("a").await).body("x").send().await.refused(403, "DENIED");
}

#[tokio::test]
async fn what_was_counted_is_the_same_after_a_restart_and_deletion_gives_room() {
    let yard = limited(1000);
    let blob = yard.push_blob("a", &[1; 900]).await;
    let yard = yard.restart().await;
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&[2; 200]));
    yard.ask("POST", &path).body(vec![2; 200]).send().await.refused(403, "DENIED");
    assert_eq!(yard.ask("DELETE", &format!("/v2/a/blobs/{blob}")).send().await.status, 202);
    assert_eq!(yard.push_blob("a", &[2; 200]).await, sha256(&[2; 200]));
    assert_eq!(yard.push_blob("a", &[3; 800]).await, sha256(&[3; 800]));
    let now = Timestamp::now().plus(Duration::from_secs(2 * 24 * 60 * 60));
    let everything = Collection { in_use: Some(HashSet::new()), now, dry_run: false };
    assert_eq!(yard.registry.collect(everything, |_| {}).await.unwrap().bytes, 1900);
    yard.push_blob("a", &[4; 1000]).await;
}

#[tokio::test]
async fn manifests_count_too() {
    let yard = Yard::new();
    let json = images::blobs(&yard, "probe", "1").await;
    let room: u64 = (images::config("1").len() + b"the one layer".len() + json.len()) as u64;
    for (quota, status) in [(room, 201), (room - 1, 403)] {
        let yard = limited(quota);
        assert_eq!(images::blobs(&yard, "a", "1").await, json);
        assert_eq!(yard.put_manifest("a", "1", IMAGE, &json).await.status, status);
        assert_eq!(yard.get("/v2/a/manifests/1").await.status == 200, status == 201);
    }
}

#[tokio::test]
async fn many_pushes_at_once_take_no_more_than_there_is() {
    let yard = limited(1000);
    let pushes = (0..8u8).map(|n| {
        let (bytes, yard) = (vec![n; 200], &yard);
        let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
        async move { yard.ask("POST", &path).body(bytes).send().await.status.as_u16() }
    });
    let statuses = futures_util::future::join_all(pushes).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 5, "{statuses:?}");
    let same = (0..4).map(|_| images::blobs(&yard, "b", "1"));
    futures_util::future::join_all(same).await;
    let rest = 1000 - images::config("1").len() - b"the one layer".len();
    yard.push_blob("b", &vec![9; rest]).await;
}

#[test]
fn the_first_pattern_that_fits_holds() {
    let small = Rules { quota: Some(1), ..Rules::default() };
    let repositories =
        vec![Repository::new("acme/*", small).unwrap(), Repository::new("**", Rules::default()).unwrap()];
    let config = mergeyard_registry::Config { repositories, ..Default::default() };
    let quota = |name: &str| config.rules(&name.parse().unwrap()).quota;
    assert_eq!((quota("acme/clock"), quota("acme/clock/hands"), quota("other")), (Some(1), None, None));
}
