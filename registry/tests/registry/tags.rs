//! Tags: immutable unless configured, listed a page at a time.

use mergeyard_registry::{Config, Limits, Rules, Tags};
use serde_json::json;

use crate::{
    images::{self, IMAGE},
    yard::{Yard, everywhere, sha256},
};

#[tokio::test]
async fn a_published_version_is_immutable_and_the_refusal_says_what_to_do() {
    let yard =
        Yard::with(everywhere(Rules { mutable_tags: Tags::new(["latest"]).unwrap(), ..Rules::default() }));
    let (one, two) = (images::blobs(&yard, "clock", "one").await, images::blobs(&yard, "clock", "two").await);
    assert_eq!(yard.put_manifest("clock", "0.1.0", IMAGE, &one).await.status, 201);
    let message = yard.put_manifest("clock", "0.1.0", IMAGE, &two).await.refused(403, "DENIED");
    let published = sha256(one.as_bytes());
    assert_eq!(
        message,
        format!(
            "`clock:0.1.0` is already published as {published}; raise the version in spec.json, or push under another tag"
        )
    );
    assert_eq!(yard.get("/v2/clock/manifests/0.1.0").await.body, one.as_bytes());
    let refused = sha256(two.as_bytes());
    yard.get(&format!("/v2/clock/manifests/{refused}")).await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(yard.put_manifest("clock", "0.1.0", IMAGE, &one).await.status, 201);
    for json in [&one, &two] {
        assert_eq!(yard.put_manifest("clock", "latest", IMAGE, json).await.status, 201);
        assert_eq!(yard.get("/v2/clock/manifests/latest").await.body, json.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_pushes_of_one_tag_at_once_one_wins_and_one_is_denied() {
    let yard = Yard::new();
    let (one, two) = (images::blobs(&yard, "clock", "one").await, images::blobs(&yard, "clock", "two").await);
    for round in 0..25 {
        let version = format!("0.{round}.0");
        let (first, second) = tokio::join!(
            yard.put_manifest("clock", &version, IMAGE, &one),
            yard.put_manifest("clock", &version, IMAGE, &two),
        );
        let winner = match (first.status.as_u16(), second.status.as_u16()) {
            (201, 403) => &one,
            (403, 201) => &two,
            _ => panic!("{first:?} {second:?}"),
        };
        assert_eq!(yard.get(&format!("/v2/clock/manifests/{version}")).await.body, winner.as_bytes());
    }
}

#[tokio::test]
async fn a_tag_that_is_attached_to_an_image_is_no_version_and_moves() {
    let yard = Yard::new();
    let signed = images::push(&yard, "clock", "1").await;
    for tag in [format!("sha256-{}.sig", signed.hex()), format!("sha256-{}", signed.hex())] {
        let first = images::push(&yard, "clock", &tag).await;
        let json = images::blobs(&yard, "clock", "one more signature").await;
        assert_eq!(yard.put_manifest("clock", &tag, IMAGE, &json).await.status, 201);
        assert_eq!(yard.get(&format!("/v2/clock/manifests/{tag}")).await.body, json.as_bytes());
        assert_eq!(yard.get(&format!("/v2/clock/manifests/{first}")).await.status, 200);
    }
    images::push(&yard, "clock", "sha256-1.0.0").await;
    let json = images::blobs(&yard, "clock", "other").await;
    yard.put_manifest("clock", "sha256-1.0.0", IMAGE, &json).await.refused(403, "DENIED");
}

#[tokio::test]
async fn tags_are_listed_in_order_and_in_pages() {
    let yard =
        Yard::with(Config { limits: Limits { page_entries: 3, ..Limits::default() }, ..Config::default() });
    yard.get("/v2/clock/tags/list").await.refused(404, "NAME_UNKNOWN");
    let json = images::blobs(&yard, "clock", "1").await;
    for version in ["b", "A", "a", "C", "0.1.0"] {
        assert_eq!(yard.put_manifest("clock", version, IMAGE, &json).await.status, 201);
    }
    let mut seen = Vec::new();
    let mut next = Some("/v2/clock/tags/list?n=2".to_owned());
    while let Some(path) = next {
        let page = yard.get(&path).await;
        assert_eq!((page.status.as_u16(), &page.json()["name"]), (200, &json!("clock")));
        seen.extend(page.json()["tags"].as_array().unwrap().clone());
        let link = page.headers.get("link").map(|link| link.to_str().unwrap().to_owned());
        next = link.map(|link| link[1..link.find('>').unwrap()].to_owned());
    }
    assert_eq!(seen, ["0.1.0", "A", "a", "b", "C"]);

    let none = yard.get("/v2/clock/tags/list?n=0").await;
    assert_eq!(none.json()["tags"], json!([]));
    assert!(none.headers.get("link").is_none());
    for n in ["2147483648", "99999999999999999999999999"] {
        let clamped = yard.get(&format!("/v2/clock/tags/list?n={n}")).await;
        assert_eq!(clamped.json()["tags"], json!(["0.1.0", "A", "a"]));
        assert_eq!(clamped.header("link"), "</v2/clock/tags/list?n=3&last=a>; rel=\"next\"");
    }
    for query in ["n=-1", "n=x", "n=", "n=1&n=2"] {
        yard.get(&format!("/v2/clock/tags/list?{query}")).await.refused(400, "UNSUPPORTED");
    }
    assert_eq!(yard.get("/v2/clock/tags/list?last=b").await.json()["tags"], json!(["C"]));
}

#[tokio::test]
async fn the_catalog_shows_what_one_may_pull() {
    let yard = Yard::new();
    for name in ["clock", "acme/clock", "acme/clock/hands", "acme-two"] {
        images::push(&yard, name, "1").await;
    }
    // A repository that only has blobs has nothing to show.
    yard.push_blob("acme/started", b"x").await;
    let all = yard.get("/v2/_catalog").await.json();
    assert_eq!(all, json!({"repositories": ["acme-two", "acme/clock", "acme/clock/hands", "clock"]}));
    let page = yard.ask("GET", "/v2/_catalog?n=1&last=").by("reader").send().await;
    assert_eq!(page.json(), json!({"repositories": ["acme/clock"]}));
    let link = page.header("link");
    let rest = yard.ask("GET", &link[1..link.find('>').unwrap()]).by("reader").send().await;
    assert_eq!(rest.json(), json!({"repositories": ["acme/clock/hands"]}));
    assert!(rest.headers.get("link").is_none());
}
