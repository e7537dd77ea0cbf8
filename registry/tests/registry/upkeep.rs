//! Collecting and verifying while it serves, for the one who operates it, and by itself.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use mergeyard_registry::{AskInUse, Care, Retention, Rules};
use serde_json::{Value, json};

use crate::{
    images,
    yard::{SECRET, Yard, basic, everywhere, sha256},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const COLLECT: &str = "/v2/_mergeyard/upkeep/collect";
const VERIFY: &str = "/v2/_mergeyard/upkeep/verify";

async fn lines(yard: &Yard, path: &str) -> Vec<Value> {
    let answer = yard.ask("POST", path).send().await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/x-ndjson"));
    let text = String::from_utf8(answer.body).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn age(yard: &Yard, path: &str) {
    let file = File::options().write(true).open(yard.path(path)).unwrap();
    file.set_modified(SystemTime::now() - 40 * DAY).unwrap();
}

#[tokio::test]
async fn an_operator_hears_line_by_line_what_goes_and_what_it_came_to() {
    let yard = Yard::new();
    images::push(&yard, "a", "1").await;
    let lonely = yard.push_blob("a", b"lonely").await;
    age(&yard, &format!("repositories/a/_blobs/sha256/{}", lonely.hex()));
    let expected = json!([
        {"removed": "blob", "name": "a", "digest": lonely},
        {"removed": "content", "digest": lonely, "size": 6},
        {"collected": {"tags": 0, "manifests": 0, "blobs": 1, "contents": 1, "bytes": 6}, "knows_what_runs": true},
    ]);
    for path in [&format!("{COLLECT}?dry_run=true"), COLLECT] {
        assert_eq!(json!(lines(&yard, path).await), expected);
    }
    assert_eq!(lines(&yard, COLLECT).await.len(), 1);

    fs::write(yard.path("content/sha256").join(sha256(b"the one layer").hex()), "").unwrap();
    let lines = lines(&yard, VERIFY).await;
    let kinds: Vec<_> = lines.iter().filter_map(|line| line["fault"]["fault"].as_str()).collect();
    assert_eq!(kinds, ["damaged", "missing"]);
    assert_eq!(lines.last().unwrap()["verified"]["faults"], 2);
    assert!(lines.iter().any(|line| line["progress"]["of_contents"] == 3), "{lines:?}");
}

#[tokio::test]
async fn nobody_else_may() {
    let yard = Yard::new();
    for path in [COLLECT, VERIFY] {
        yard.ask("POST", path).by("acme").send().await.refused(403, "DENIED");
        yard.ask("POST", path).by_nobody().send().await.refused(401, "UNAUTHORIZED");
        yard.ask("GET", path).send().await.refused(405, "UNSUPPORTED");
        // A token is fetched for repositories, so the operator's is not good for this either.
        let basic = basic("robot", SECRET);
        let token = yard.ask("GET", "/token?service=x").by_nobody().header("authorization", &basic);
        let bearer = format!("Bearer {}", token.send().await.json()["token"].as_str().unwrap());
        let asked = yard.ask("POST", path).by_nobody().header("authorization", &bearer);
        asked.send().await.refused(403, "DENIED");
    }
}

#[tokio::test]
async fn where_nobody_can_say_what_runs_no_rule_removes_anything() {
    let retention = Retention { keep_last: Some(1), ..Retention::default() };
    let yard = Yard::with(everywhere(Rules { retention, ..Rules::default() }));
    for version in ["1", "2"] {
        images::push(&yard, "a", version).await;
    }
    age(&yard, "repositories/a/_tags/1");
    let unknown: AskInUse = std::sync::Arc::new(|| Box::pin(async { Err("the engine is away".to_owned()) }));
    yard.registry.set_in_use(unknown);
    let told = lines(&yard, COLLECT).await;
    assert_eq!((told.len(), &told[0]["knows_what_runs"]), (1, &json!(false)));
    let known: AskInUse = std::sync::Arc::new(|| Box::pin(async { Ok(Default::default()) }));
    yard.registry.set_in_use(known);
    let told = lines(&yard, COLLECT).await;
    assert_eq!(told[0], json!({"removed": "tag", "name": "a", "tag": "1", "digest": told[0]["digest"]}));
}

/// Looks after the registry until something has happened.
async fn care_until(yard: &Yard, happened: impl Fn() -> bool) {
    let care = Care { collect_every: Some(DAY), verify_every: Some(30 * DAY) };
    let watch = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        never = yard.registry.care(care) => match never {},
        () = watch => {}
    }
}

#[tokio::test]
async fn what_is_due_is_done_by_itself_also_after_a_restart() {
    let yard = Yard::new();
    let lonely = yard.push_blob("a", b"lonely").await;
    age(&yard, &format!("repositories/a/_blobs/sha256/{}", lonely.hex()));
    let content = yard.path("content/sha256").join(lonely.hex());
    // The first period begins now.
    let (collected, verified) = (yard.path("collected"), yard.path("verified"));
    care_until(&yard, || collected.exists() && verified.exists()).await;
    assert!(content.exists());
    let yard = yard.restart().await;
    for stamp in ["collected", "verified"] {
        age(&yard, stamp);
    }
    let is_fresh = |stamp: &Path| fs::metadata(stamp).unwrap().modified().unwrap().elapsed().unwrap() < DAY;
    care_until(&yard, || is_fresh(&collected) && is_fresh(&verified)).await;
    assert!(!content.exists());
}
