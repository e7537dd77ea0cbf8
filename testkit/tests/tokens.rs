//! Tokens of the API: made by the real command line, used against the real server.

use std::{path::Path, time::Duration};

use futures_util::StreamExt;
use mergeyard_server::{api, store::Role, workers::Worker};
use mergeyard_testkit::{
    process::bounded,
    yard::{Answer, TestYard},
};
use mergeyard_types::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// A yard with a run that waits to be worked on.
async fn with_waiting_run() -> TestYard {
    let yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    assert!(Worker::Inbox.turn(yard.yard()).await.unwrap());
    yard
}

async fn finish(yard: TestYard) {
    yard.settle().await;
    yard.close().await;
}

#[track_caller]
fn refused(answer: &Answer, status: StatusCode) -> &str {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.body["status"], status.as_u16(), "{answer:?}");
    answer.body["detail"].as_str().expect("a sentence")
}

#[tokio::test]
async fn a_token_is_shown_once_and_kept_as_a_hash() {
    let yard = TestYard::new().await;
    let said =
        yard.command_line(&["token", "create", "ops", "--role", "admin", "--expires", "90d"], "").await;
    let said = said.good();
    let token = said.split_whitespace().find(|word| word.starts_with("my_")).expect("a token").to_owned();
    assert_eq!(token.len(), "my_".len() + 256 / 4, "256 bits in hexadecimal digits");
    let listed = yard.command_line(&["token", "list"], "").await.good();
    assert!(listed.contains("ops") && listed.contains("admin") && listed.contains("until 20"), "{listed}");
    let listed = yard.command_line(&["token", "list", "--format", "json"], "").await.good();
    assert!(!listed.contains("my_"), "{listed}");
    assert!(!holds(&yard.folder(), token.as_bytes()), "the token lies on the disk");
    assert!(!holds(&yard.folder(), &token.as_bytes()[3..]), "its secret part lies on the disk");
    let again = yard.command_line(&["token", "create", "ops", "--role", "read"], "").await.failed(1);
    assert!(again.contains("there is a token `ops` already"), "{again}");
    finish(yard).await;
}

#[tokio::test]
async fn each_role_opens_what_it_is_for() {
    let yard = with_waiting_run().await;
    let (read, approve) = (yard.token("reader", "read").await, yard.token("release", "approve").await);
    let admin = yard.token("ops", "admin").await;
    let nobody = yard.post("/api/v1/runs/1/cancel", None, &json!({})).await;
    assert!(refused(&nobody, StatusCode::UNAUTHORIZED).contains("mergeyard token create"));
    let reader = yard.post("/api/v1/runs/1/cancel", Some(&read), &json!({})).await;
    assert!(refused(&reader, StatusCode::FORBIDDEN).contains("token `reader` has the role read"));
    let approver = yard.get("/api/v1/tokens", Some(&approve)).await;
    assert!(refused(&approver, StatusCode::FORBIDDEN).contains("this needs admin"));
    assert_eq!(yard.get("/api/v1/runs/1", Some(&read)).await.status, StatusCode::OK);
    let listed = yard.get("/api/v1/tokens", Some(&admin)).await.body;
    let names: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|token| &token["name"]).collect();
    assert_eq!(names, ["ops", "release", "reader"]);
    assert!(listed["items"][0]["used"].is_i64() && listed["items"][2]["used"].is_i64(), "{listed}");
    let why = json!({ "why": "wrong branch" });
    let cancelled = yard.post("/api/v1/runs/1/cancel", Some(&approve), &why).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (StatusCode::ACCEPTED, &json!("cancelled")));
    assert_eq!(cancelled.body["cancel"], "wrong branch (token `release`)");
    let again = yard.post("/api/v1/runs/1/cancel", Some(&approve), &why).await;
    assert!(refused(&again, StatusCode::CONFLICT).contains("over already"));
    finish(yard).await;
}

#[tokio::test]
async fn unknown_expired_and_revoked_tokens_are_refused_alike() {
    let yard = TestYard::new().await;
    let store = &yard.yard().store;
    let now = yard.clock.now();
    let expired = api::new_token().unwrap();
    let end = Timestamp(now.0 - 1);
    assert!(store.add_token("old", &api::token_hash(&expired), Role::Admin, Some(end), now).await.unwrap());
    let revoked = yard.token("gone", "admin").await;
    yard.command_line(&["token", "revoke", "gone"], "").await.good();
    let unknown = api::new_token().unwrap();
    let mut answers = Vec::new();
    for token in [unknown.expose(), expired.expose(), &revoked, "my_", "x y"] {
        let response = yard.http().get(yard.url("/api/v1/runs")).bearer_auth(token).send().await.unwrap();
        let mut headers = response.headers().clone();
        headers.remove("date");
        answers.push((response.status(), headers, response.text().await.unwrap()));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    let (status, headers, body) = &answers[0];
    assert_eq!(*status, StatusCode::UNAUTHORIZED);
    assert_eq!(headers["www-authenticate"], "Bearer realm=\"mergeyard\", error=\"invalid_token\"");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert!(body.contains("this token is not valid, or no longer"), "{body}");
    // Its name is free again.
    let again = yard.token("gone", "read").await;
    assert_eq!(yard.get("/api/v1/runs", Some(&again)).await.status, StatusCode::OK);
    finish(yard).await;
}

#[tokio::test]
async fn a_revoked_token_is_dead_on_its_next_request_and_on_the_streams_it_opened() {
    let yard = with_waiting_run().await;
    let token = yard.token("watcher", "read").await;
    let url = yard.url("/api/v1/runs/1/events");
    let mut mine = yard.http().get(&url).bearer_auth(&token).send().await.unwrap().bytes_stream();
    let mut open = yard.http().get(&url).send().await.unwrap().bytes_stream();
    assert!(mine.next().await.unwrap().unwrap().starts_with(b"event: run"));
    assert!(open.next().await.unwrap().unwrap().starts_with(b"event: run"));
    let said = yard.command_line(&["token", "revoke", "watcher"], "").await.good();
    assert!(said.contains("its next request is refused"), "{said}");
    let next = yard.get("/api/v1/runs/1", Some(&token)).await;
    refused(&next, StatusCode::UNAUTHORIZED);
    bounded("the end of the token's stream", async { while mine.next().await.is_some() {} }).await;
    let still = futures_util::poll!(open.next());
    assert!(still.is_pending(), "a stream of nobody's token goes on: {still:?}");
    drop(open);
    let twice = yard.command_line(&["token", "revoke", "watcher"], "").await.failed(1);
    assert!(twice.contains("no token `watcher` in force"), "{twice}");
    finish(yard).await;
}

#[tokio::test]
async fn an_expiring_token_ends_by_the_server_s_clock() {
    let yard = TestYard::new().await;
    let (store, now) = (&yard.yard().store, yard.clock.now());
    let token = api::new_token().unwrap();
    let end = Some(now.plus(Duration::from_secs(60)));
    assert!(store.add_token("short", &api::token_hash(&token), Role::Read, end, now).await.unwrap());
    assert_eq!(yard.get("/api/v1/runs", Some(token.expose())).await.status, StatusCode::OK);
    yard.advance(Duration::from_secs(60));
    assert_eq!(yard.get("/api/v1/runs", Some(token.expose())).await.status, StatusCode::UNAUTHORIZED);
    finish(yard).await;
}

#[tokio::test]
async fn who_tries_tokens_is_told_to_wait_and_right_ones_still_open() {
    let yard = TestYard::new().await;
    let right = yard.token("right", "read").await;
    let mut last = None;
    for _ in 0..40 {
        let wrong = api::new_token().unwrap();
        let request = yard.http().get(yard.url("/api/v1/runs")).bearer_auth(wrong.expose());
        last = Some(request.send().await.unwrap());
    }
    let last = last.unwrap();
    assert_eq!(last.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = last.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(yard.get("/api/v1/runs", Some(&right)).await.status, StatusCode::OK);
    assert_eq!(yard.get("/runs", Some("my_wrong")).await.status, StatusCode::OK, "pages know no tokens");
    finish(yard).await;
}

#[tokio::test]
async fn names_times_and_roles_are_checked_before_anything_is_made() {
    let yard = TestYard::new().await;
    for arguments in [
        ["a b", "--role", "read", "--expires", "1d"],
        ["ok", "--role", "root", "--expires", "1d"],
        ["ok", "--role", "read", "--expires", "soon"],
    ] {
        let said = yard.command_line(&[&["token", "create"][..], &arguments].concat(), "").await;
        assert_eq!(said.status.code(), Some(2), "{said}");
    }
    assert!(yard.command_line(&["token", "list"], "").await.good().contains("there are no tokens"));
    finish(yard).await;
}

/// Whether any file below a folder holds these bytes.
pub(crate) fn holds(folder: &Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => holds(&path, wanted),
            false => {
                std::fs::read(&path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|part| part == wanted))
            }
        }
    })
}
