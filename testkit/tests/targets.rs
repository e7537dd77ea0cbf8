//! Targets as programs and people at a terminal see them, and drift: what a target runs that nobody
//! deployed there.

use std::time::Duration;

use mergeyard_server::workers::Worker;
use mergeyard_testkit::yard::TestYard;
use mergeyard_types::Digest;
use serde_json::{Value, json};

use crate::deployments::{merge, raise, rollouts, yard_with};

const PLACE: &str = "clock-vm/clock-backend";
const MINUTE: Duration = Duration::from_secs(60);

async fn look(yard: &TestYard) {
    assert!(!Worker::Drift.turn(yard.yard()).await.unwrap());
}

/// The target's one service, and the count of all.
async fn service(yard: &TestYard) -> (Value, Value) {
    let body = yard.get("/api/v1/targets", None).await.body;
    (body["items"][0]["services"][0].clone(), body["drift"].clone())
}

async fn page(yard: &TestYard, path: &str) -> String {
    yard.http().get(yard.url(path)).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn drift_is_noticed_counted_and_over_when_it_is() {
    let mut yard = rollouts().await;
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    let (one, count) = service(&yard).await;
    assert_eq!((&one["condition"], &count["unlooked"]), (&json!("unlooked"), &json!(1)), "{one}");
    // What was just deployed is looked at soon, then every ten minutes.
    look(&yard).await;
    let (one, count) = service(&yard).await;
    assert_eq!((&one["condition"], &count["same"]), (&json!("live"), &json!(1)), "{one}");
    let proven: Digest = one["live"]["digest"].as_str().unwrap().parse().unwrap();
    let other = Digest::Sha256([9; 32]);
    yard.script.meddle(PLACE, Some(other));
    yard.advance(9 * MINUTE);
    look(&yard).await;
    assert_eq!(service(&yard).await.0["condition"], "live", "nobody has looked again");
    yard.advance(MINUTE);
    look(&yard).await;
    let (one, count) = service(&yard).await;
    assert_eq!((&one["condition"], &one["drift"]["seen"]), (&json!("drifted"), &json!("differs")), "{one}");
    assert_eq!((&one["drift"]["found"], &count["drifted"]), (&json!(other.to_string()), &json!(1)));
    let since = one["drift"]["since"].as_i64().unwrap();
    assert!(page(&yard, "/").await.contains("Something else runs than was deployed."));
    yard.advance(10 * MINUTE);
    look(&yard).await;
    let (one, _) = service(&yard).await;
    assert_eq!(one["drift"]["since"], since, "it is the same drift as before");
    assert_eq!(one["drift"]["looked"], since + 600_000);
    yard.script.meddle(PLACE, None);
    yard.advance(10 * MINUTE);
    look(&yard).await;
    assert_eq!(service(&yard).await.0["drift"]["seen"], "gone");
    yard.script.meddle(PLACE, Some(proven));
    yard.advance(10 * MINUTE);
    look(&yard).await;
    assert_eq!(service(&yard).await.0["condition"], "live");
    assert!(page(&yard, "/").await.contains("no target runs what nobody deployed"));
    // A new deployment is another question, whose answer does not wait for the next ten minutes.
    yard.script.meddle(PLACE, Some(other));
    let second = raise(&mut yard, "0.2.0");
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    assert_eq!(service(&yard).await.0["condition"], "unlooked");
    look(&yard).await;
    assert_eq!(service(&yard).await.0["condition"], "live");
    yard.close().await;
}

#[tokio::test]
async fn a_target_that_does_not_answer_has_not_drifted() {
    let yard = rollouts().await;
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    yard.script.cut_off("clock-vm", Some("no route to host"));
    look(&yard).await;
    let (one, count) = service(&yard).await;
    assert_eq!(
        (&one["condition"], &one["drift"]["why"]),
        (&json!("unreachable"), &json!("no route to host"))
    );
    assert_eq!((&count["unreachable"], &count["drifted"]), (&json!(1), &json!(0)));
    let since = one["drift"]["since"].clone();
    yard.script.cut_off("clock-vm", Some("connection timed out"));
    yard.advance(10 * MINUTE);
    look(&yard).await;
    let (one, _) = service(&yard).await;
    assert_eq!((&one["drift"]["why"], &one["drift"]["since"]), (&json!("connection timed out"), &since));
    assert!(page(&yard, "/targets").await.contains("Out of reach"));
    yard.script.cut_off("clock-vm", None);
    yard.advance(10 * MINUTE);
    look(&yard).await;
    assert_eq!(service(&yard).await.0["condition"], "live");
    yard.close().await;
}

#[tokio::test]
async fn nobody_looks_where_the_operator_does_not_want_it() {
    let yard = yard_with(crate::deployments::rollout_files(), "drift_minutes = 0").await;
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    yard.advance(1000 * MINUTE);
    look(&yard).await;
    let (one, count) = service(&yard).await;
    assert_eq!((&one["drift"], &count["unlooked"]), (&Value::Null, &json!(1)));
    yard.close().await;
}

#[tokio::test]
async fn the_command_line_and_the_api_tell_the_same_of_targets() {
    let mut yard = rollouts().await;
    let none = yard.command_line(&["target", "list"], "").await.good();
    assert_eq!(none, "clock-vm  the machine of the engine\n");
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    let second = raise(&mut yard, "0.2.0");
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    look(&yard).await;
    let listed = yard.get("/api/v1/deployments?target=clock-vm", None).await.body;
    let [newest, oldest] = &listed["items"].as_array().unwrap()[..] else { panic!("{listed:#}") };
    assert_eq!((&newest["version"], &newest["before"]), (&json!("0.2.0"), &oldest["digest"]));
    let first = yard.get("/api/v1/deployments?limit=1", None).await.body;
    assert_eq!((&first["items"][0], &first["next"]), (newest, &newest["id"]));
    let older = format!("/api/v1/deployments?limit=1&before={}", first["next"]);
    assert_eq!(yard.get(&older, None).await.body["items"], json!([oldest]));
    assert_eq!(yard.get("/api/v1/deployments/1", None).await.body, *oldest);
    let other = yard.get("/api/v1/deployments?target=clock-vm&service=other", None).await.body;
    assert_eq!(other["items"], json!([]));

    let said = async |arguments: &[&str]| yard.command_line(arguments, "").await.good();
    let json = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    assert_eq!(json(said(&["deployments", "--format", "json"]).await), listed["items"]);
    let targets = yard.get("/api/v1/targets", None).await.body;
    assert_eq!(json(said(&["target", "list", "--format", "json"]).await), targets);
    assert_eq!(yard.get("/api/v1/targets/clock-vm", None).await.body, targets["items"][0]);
    let short = |digest: &Value| digest.as_str().unwrap()[7..19].to_owned();
    let (now, before) = (short(&newest["digest"]), short(&oldest["digest"]));
    let text = said(&["target", "list"]).await;
    assert_eq!(
        text,
        format!("clock-vm  the machine of the engine\n  live         clock-backend         0.2.0 {now}\n")
    );
    let text = said(&["deployments", "clock-vm", "--limit", "1"]).await;
    let line = format!("Z  success      clock-vm  clock-backend  {before} -> 0.2.0 {now}  run 2  200 OK\n");
    assert!(text.ends_with(&line) && text.lines().count() == 1, "{text}");
    assert_eq!(said(&["deployments", "attic"]).await, "nothing was deployed to attic\n");
    assert!(yard.command_line(&["deployments", "At tic"], "").await.failed(2).contains("target name"));
    yard.close().await;
}
