//! Webhooks as they come: from GitHub, from people who would like to be GitHub, too many,
//! too large, too slow. What was not proven leaves no trace; what was answered with 2xx is there.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream};
use mergeyard_server::{
    config::{Config, ConfigError},
    github::signature,
    payload::LARGEST,
    sample::payload,
};
use mergeyard_testkit::{
    script::Act,
    yard::{Answer, SECRET, TestYard, answer, two_services},
};
use mergeyard_types::{RunId, Secret, State};
use reqwest::StatusCode;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use crate::store::beside;

// The example of GitHub's "Validating webhook deliveries".
const DOCUMENTED_SECRET: &str = "It's a Secret to Everybody";
const DOCUMENTED_BODY: &[u8] = b"Hello, World!";
const DOCUMENTED_SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

/// The longest a webhook may wait for its answer, whatever else goes on.
const PROMPT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_documented_example_is_believed_and_nothing_one_bit_away_from_it_is() {
    let yard = TestYard::with(two_services("0.1.0"), |config| {
        config["github"]["webhook_secret"] = DOCUMENTED_SECRET.into();
    })
    .await;
    let believed = post(&yard, "/hooks/github", &github("d-1", DOCUMENTED_SIGNATURE), DOCUMENTED_BODY).await;
    assert_eq!(believed.status, StatusCode::BAD_REQUEST, "believed, and then found not to be JSON");
    assert!(believed.body["error"].as_str().unwrap().contains("not JSON"), "{believed:?}");
    let digits: [u8; 32] = signature_bytes(DOCUMENTED_SIGNATURE);
    let bodies = (0..DOCUMENTED_BODY.len() * 8)
        .map(|bit| (DOCUMENTED_SIGNATURE.to_owned(), flipped(DOCUMENTED_BODY, bit)));
    let signatures = (0..256)
        .map(|bit| (format!("sha256={}", hex::encode(flipped(&digits, bit))), DOCUMENTED_BODY.to_vec()));
    let forged = bodies.chain(signatures).map(|(signature, body)| {
        let yard = &yard;
        async move { post(yard, "/hooks/github", &github("d-2", &signature), body).await }
    });
    let answers: Vec<Answer> = stream::iter(forged).buffer_unordered(16).collect().await;
    assert_eq!(answers.len(), 13 * 8 + 256);
    assert!(answers.iter().all(|answer| answer.status == StatusCode::UNAUTHORIZED));
    assert_eq!(kept(&yard).await, [""; 0]);
    let answer = yard.send_signed(DOCUMENTED_SECRET, "d-3", "watch", &json!({})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(kept(&yard).await, ["d-3"]);
    yard.close().await;
}

#[tokio::test]
async fn a_signature_in_any_other_form_is_refused_before_the_body_is_read() {
    let yard = TestYard::new().await;
    let body = "[".repeat(100_000);
    let good = sign(SECRET, body.as_bytes());
    let sha1 = "sha1=01dc10d0c83e72ed246219cdd91669667fe2ca59";
    let (short, long) = (&good[..good.len() - 1], format!("{good}0"));
    let (upper, letters) = (good.to_uppercase(), format!("sha256={}", "z".repeat(64)));
    let forms: [&[(&str, &str)]; 11] = [
        &[],
        &[("X-Hub-Signature-256", "")],
        &[("X-Hub-Signature", sha1)],
        &[("X-Hub-Signature-256", sha1)],
        &[("X-Hub-Signature-256", short)],
        &[("X-Hub-Signature-256", &long)],
        &[("X-Hub-Signature-256", &letters)],
        &[("X-Hub-Signature-256", &upper)],
        &[("X-Hub-Signature-256", &good[7..])],
        &[("X-Hub-Signature-256", &good), ("X-Hub-Signature-256", &good)],
        &[("X-Hub-Signature-256", "sha256=\u{e9}")],
    ];
    for form in forms {
        let names = [("X-GitHub-Event", "pull_request"), ("X-GitHub-Delivery", "d-1")];
        let answer = post(&yard, "/hooks/github", &[&names, form].concat(), body.clone()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{form:?}");
        let said = answer.body["error"].as_str().unwrap().to_lowercase();
        assert!(said.contains("signature"), "{form:?}: {said}");
        assert!(!answer.body.to_string().contains(&good[7..]), "the right signature is never said");
    }
    assert_eq!(kept(&yard).await, [""; 0]);
    yard.close().await;
}

#[tokio::test]
async fn without_a_secret_there_is_no_server_and_a_guessable_one_is_none() {
    let refused = |table: &str| Config::from_table(table.parse().unwrap()).unwrap_err();
    assert!(matches!(refused("[github]\ntoken = 't'"), ConfigError::NoSecret));
    for empty in ["[github]\nwebhook_secret = ''", "[git]\nwebhook_secret = 'too short'"] {
        let error = refused(empty).to_string();
        assert!(error.contains("webhook_secret"), "{error}");
    }
}

#[tokio::test]
async fn a_body_written_anew_is_another_body() {
    let yard = TestYard::new().await;
    let sent = br#"{"b": 1, "a": 2}"#;
    let again = serde_json::to_vec(&serde_json::from_slice::<Value>(sent).unwrap()).unwrap();
    let headers = sign(SECRET, sent);
    let refused = post(&yard, "/hooks/github", &github("d-1", &headers), again).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let accepted = post(&yard, "/hooks/github", &github("d-1", &headers), &sent[..]).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    yard.close().await;
}

#[tokio::test]
async fn every_script_and_both_content_types_are_verified_as_they_were_sent() {
    let yard = TestYard::new().await;
    let mut merged = yard.merged(&yard.first);
    merged["pull_request"]["title"] = "Zeit 🕰️ für 時計 \u{202e}".into();
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", &merged.to_string())
        .finish();
    let mut headers = github_event("d-form", "pull_request", sign(SECRET, form.as_bytes()));
    headers.push(("Content-Type".into(), "application/x-www-form-urlencoded".into()));
    assert_eq!(post(&yard, "/hooks/github", &headers, form).await.status, StatusCode::ACCEPTED);
    yard.settle().await;
    let run = yard.run(1).await;
    assert_eq!((run.run.state, run.run.title.chars().nth(5)), (State::Success, Some('🕰')));
    assert_eq!(yard.send("d-json", "pull_request", &merged).await.status, StatusCode::ACCEPTED);
    yard.settle().await;
    assert_eq!(yard.verdict("d-json").await, "done: run 1 was already started for this commit");
    yard.close().await;
}

#[tokio::test]
async fn twenty_five_mebibytes_are_taken_and_not_a_byte_more() {
    let yard = TestYard::new().await;
    let largest = padded(&yard.merged(&yard.first), LARGEST);
    let headers = github_event("d-large", "pull_request", sign(SECRET, &largest));
    assert_eq!(post(&yard, "/hooks/github", &headers, largest.clone()).await.status, StatusCode::ACCEPTED);
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success);
    let row = yard.yard().store.delivery(&"d-large".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.body_size, LARGEST as u64);

    // Announced: refused by its head alone. Not announced: refused by its last byte.
    let mut larger = largest;
    larger.push(b' ');
    let signature = sign(SECRET, &larger);
    let head = raw_head("d-larger", &signature, &format!("Content-Length: {}", larger.len()));
    assert_eq!(say(yard.address(), &[head.as_bytes()]).await, Some(413));
    let head = raw_head("d-chunked", &signature, "Transfer-Encoding: chunked");
    let chunk = format!("{:x}\r\n", larger.len());
    assert_eq!(say(yard.address(), &[head.as_bytes(), chunk.as_bytes(), &larger]).await, Some(413));
    assert_eq!(kept(&yard).await, ["d-large"]);
    yard.close().await;
}

#[tokio::test]
async fn a_length_that_lies_leaves_nothing_behind() {
    let yard = TestYard::new().await;
    let body = br#"{"action":"started"}"#;
    let signature = sign(SECRET, body);
    for (id, length) in [("d-most", "18446744073709551615"), ("d-gigabyte", "1073741824")] {
        let head = raw_head(id, &signature, &format!("Content-Length: {length}"));
        let status = say(yard.address(), &[head.as_bytes(), body]).await;
        assert!(matches!(status, Some(413 | 431)), "{length}: {status:?}");
    }
    for length in ["-1", "+20", "0x14", "20, 20", "twenty", "99999999999999999999999"] {
        let head = raw_head("d-odd", &signature, &format!("Content-Length: {length}"));
        assert_eq!(say(yard.address(), &[head.as_bytes(), body]).await, Some(400), "{length}");
    }
    let short = raw_head("d-short", &signature, &format!("Content-Length: {}", body.len() - 1));
    assert_eq!(say(yard.address(), &[short.as_bytes(), body]).await, Some(401), "signed is the whole body");
    let long = raw_head("d-long", &signature, &format!("Content-Length: {}", body.len() + 1));
    let status = hang_up_after(yard.address(), &[long.as_bytes(), body]).await;
    assert!(matches!(status, None | Some(400)), "the body broke off: {status:?}");
    assert_eq!(kept(&yard).await, [""; 0]);
    yard.close().await;
}

#[tokio::test]
async fn framing_that_two_servers_could_read_differently_smuggles_nothing_in() {
    let yard = TestYard::new().await;
    let body = br#"{"action":"started"}"#;
    let behind = [
        raw_head("d-smuggled", &sign(SECRET, body), &format!("Content-Length: {}", body.len())).as_bytes(),
        body,
    ]
    .concat();
    let lengths = ["4", "5", &behind.len().to_string()].map(|length| format!("Content-Length: {length}"));
    let [four, five, all] = &lengths;
    let framings = [
        format!("{all}\r\nTransfer-Encoding: chunked"),
        format!("Transfer-Encoding: chunked\r\n{all}"),
        format!("{four}\r\n{five}"),
        format!("{five}\r\n{four}"),
        "Transfer-Encoding: xchunked".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        format!("Transfer-Encoding : chunked\r\n{five}"),
        format!(" Transfer-Encoding: chunked\r\n{five}"),
        format!("{five}\r\nX-Folded: a\r\n b"),
    ];
    for framing in framings {
        let head = raw_head("d-front", "sha256=00", &framing);
        let said = listen(yard.address(), &[head.as_bytes(), b"0\r\n\r\n", &behind]).await;
        let answers = said.matches("HTTP/1.1 ").count();
        assert_eq!(answers, 1, "{framing:?} was answered more than once, or never: {said}");
        assert!(said.starts_with("HTTP/1.1 400") || said.starts_with("HTTP/1.1 401"), "{framing:?}: {said}");
        assert_eq!(kept(&yard).await, [""; 0], "{framing:?}");
    }
    let head = raw_head("d-front", &sign(SECRET, body), "Transfer-Encoding: chunked");
    for chunk in ["14\n", "0x14\r\n", "14 14\r\n", "-14\r\n", "ffffffffffffffffff\r\n"] {
        let parts: [&[u8]; 4] = [head.as_bytes(), chunk.as_bytes(), body, b"\r\n0\r\n\r\n"];
        assert_eq!(say(yard.address(), &parts).await, Some(400), "chunk size {chunk:?}");
    }
    assert_eq!(kept(&yard).await, [""; 0]);
    assert_eq!(say(yard.address(), &[&behind]).await, Some(202), "by itself the same bytes are a delivery");
    yard.close().await;
}

#[tokio::test]
async fn what_is_no_json_is_refused_and_not_kept() {
    let yard = TestYard::new().await;
    let deep_lists = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let deep_objects = [br#"{"a":"#.repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat();
    let bodies = [
        b"".to_vec(),
        b"{".to_vec(),
        b"{} {}".to_vec(),
        b"\xff\xfe{}".to_vec(),
        b"{\"a\":\"\xff\"}".to_vec(),
    ];
    for body in bodies.into_iter().chain([b"NaN".to_vec(), b"\0".to_vec(), deep_lists, deep_objects]) {
        let headers = github_event("d-1", "pull_request", sign(SECRET, &body));
        let shown = String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned();
        let answer = post(&yard, "/hooks/github", &headers, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{shown:?}: {answer:?}");
        assert!(answer.body["error"].as_str().is_some_and(|said| !said.is_empty()), "{shown:?}: {answer:?}");
    }
    assert_eq!(kept(&yard).await, [""; 0]);
    yard.close().await;
}

#[tokio::test]
async fn what_a_delivery_is_called_must_be_said_in_githubs_words() {
    let yard = TestYard::new().await;
    let signature = sign(SECRET, b"{}");
    let signed = ("X-Hub-Signature-256", signature.as_str());
    let named = ("X-GitHub-Event", "watch");
    let numbered = ("X-GitHub-Delivery", "d-1");
    let long = "a".repeat(101);
    let refused: [(&str, &[(&str, &str)]); 9] = [
        ("X-GitHub-Event", &[signed, numbered]),
        ("X-GitHub-Event", &[signed, numbered, ("X-GitHub-Event", "<script>")]),
        ("X-GitHub-Event", &[signed, numbered, ("X-GitHub-Event", "w\u{e4}tch")]),
        ("X-GitHub-Event", &[signed, numbered, ("X-GitHub-Event", "a\tb")]),
        ("X-GitHub-Event", &[signed, numbered, ("X-GitHub-Event", &long)]),
        ("X-GitHub-Delivery", &[signed, named]),
        ("X-GitHub-Delivery", &[signed, named, ("X-GitHub-Delivery", "../../etc")]),
        ("X-GitHub-Delivery", &[signed, named, ("X-GitHub-Delivery", "'; DROP TABLE runs")]),
        ("content type", &[signed, named, numbered, ("Content-Type", "text/html; charset=utf-8")]),
    ];
    for (what, headers) in refused {
        let answer = post(&yard, "/hooks/github", headers, "{}").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{headers:?}");
        assert!(answer.body["error"].as_str().unwrap().contains(what), "{headers:?}: {answer:?}");
    }
    assert_eq!(kept(&yard).await, [""; 0]);
    assert_eq!(yard.http().get(url(&yard, "/hooks/github")).send().await.unwrap().status(), 405);
    let plain = post(&yard, "/hooks/github", &[signed, named, numbered], "{}").await;
    assert_eq!(plain.status, StatusCode::ACCEPTED, "no content type means JSON");
    yard.close().await;
}

#[tokio::test]
async fn what_could_not_be_stored_is_not_taken_and_is_taken_afterwards() {
    let yard = TestYard::new().await;
    let mut database = beside(&yard.folder().join("data/mergeyard.sqlite")).await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON deliveries \
         BEGIN SELECT raise(ABORT, 'no space left on the disk'); END";
    sqlx::raw_sql(refuse).execute(&mut database).await.unwrap();
    let merged = yard.merged(&yard.first);
    let refused = yard.send("d-1", "pull_request", &merged).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.body["error"].as_str().unwrap().ends_with("send it again"), "{refused:?}");
    assert!(!refused.body.to_string().contains("disk"), "the inside is not shown: {refused:?}");
    assert_eq!(kept(&yard).await, [""; 0]);
    sqlx::raw_sql("DROP TRIGGER refuse").execute(&mut database).await.unwrap();
    assert_eq!(yard.send("d-1", "pull_request", &merged).await.status, StatusCode::ACCEPTED);
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success);
    yard.close().await;
}

#[tokio::test]
async fn what_starts_nothing_is_kept_with_its_reason() {
    let yard = TestYard::new().await;
    let mut deleted = payload::push(&yard.sample.hosted(), &yard.first);
    deleted["ref"] = "refs/tags/v1".into();
    deleted["after"] = "0".repeat(40).into();
    deleted["deleted"] = true.into();
    let mut labeled = yard.merged(&yard.first);
    labeled["action"] = "haunted".into();
    let unheard = json!({ "action": "invented", "repository": { "id": 7001, "full_name": "acme/clock" } });
    let events = [
        ("n-tag", "push", deleted),
        ("n-label", "pull_request", labeled),
        ("n-unheard", "quantum_leap", unheard.clone()),
        ("n-dashed", "Quantum-Leap.2", unheard),
        ("n-nobody", "organization", json!({ "action": "member_added" })),
    ];
    for (id, event, payload) in &events {
        let answer = yard.send(id, event, payload).await;
        assert_eq!((answer.status, &answer.body["state"]), (StatusCode::ACCEPTED, &"ignored".into()), "{id}");
        let reason = answer.body["reason"].as_str().unwrap();
        assert_eq!(yard.verdict(id).await, format!("ignored: {reason}"));
    }
    let mut orphan = yard.merged(&yard.first);
    orphan["pull_request"]["head"]["repo"] = Value::Null;
    assert_eq!(yard.send("d-orphan", "pull_request", &orphan).await.body["state"], "queued");
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success, "a fork that is gone was merged all the same");
    assert_eq!(kept(&yard).await.len(), 6);
    yard.close().await;
}

/// A plain git server's hook numbers what it says, or what says the same is the same.
#[tokio::test]
async fn a_git_server_says_each_push_once_by_its_number_or_by_its_words() {
    let yard = TestYard::with(two_services("0.1.0"), |config| {
        config.insert("git".to_owned(), toml::toml! { webhook_secret = "the-secret-of-plain-git" }.into());
    })
    .await;
    let (repository, commit) = (yard.repo(), yard.first.merge.to_string());
    let push = json!({
        "repository": repository, "ref": "refs/heads/develop", "before": "0".repeat(40), "after": commit,
    });
    let body = push.to_string();
    let signature = signature::sign(&Secret::new("the-secret-of-plain-git"), body.as_bytes());
    let signed = ("X-Hub-Signature-256", signature.as_str());
    let tell = async |headers: &[(&str, &str)]| {
        let answer = post(&yard, "/hooks/git", headers, body.clone()).await;
        yard.settle().await;
        answer.body["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(tell(&[signed, ("X-Mergeyard-Delivery", "p-1")]).await, "queued");
    assert_eq!(tell(&[signed, ("X-Mergeyard-Delivery", "p-1")]).await, "duplicate");
    assert_eq!(tell(&[signed, ("X-Mergeyard-Delivery", "p-2")]).await, "queued");
    assert_eq!(yard.verdict("p-2").await, "done: started run 2");
    assert_eq!((tell(&[signed]).await.as_str(), tell(&[signed]).await.as_str()), ("queued", "duplicate"));
    yard.close().await;
}

#[tokio::test]
async fn a_repositorys_own_secret_speaks_for_it_and_for_nobody_else() {
    const CLOCKS: &str = "the-secret-of-acme-clock";
    const OTHERS: &str = "the-secret-of-acme-other";
    let yard = TestYard::with(two_services("0.1.0"), |config| {
        let repos = config["repo"].as_array_mut().unwrap();
        repos[0].as_table_mut().unwrap().insert("webhook_secret".into(), CLOCKS.into());
        let other = toml::toml! {
            name = "acme/other"
            webhook_secret = "the-secret-of-acme-other"
        };
        repos.push(other.into());
    })
    .await;
    let merged = yard.merged(&yard.first);
    let mut shouted = merged.clone();
    shouted["repository"]["full_name"] = "ACME/Clock".into();
    let mut push = payload::push(&yard.sample.hosted(), &yard.first);
    push["ref"] = "refs/heads/feature".into();
    for (secret, whose) in [(OTHERS, "another repository's"), (SECRET, "everybody's")] {
        for (event, payload) in [("pull_request", &merged), ("pull_request", &shouted), ("push", &push)] {
            let answer = yard.send_signed(secret, "d-1", event, payload).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{whose} secret");
            assert!(!answer.body.to_string().contains(secret));
        }
    }
    yard.settle().await;
    assert_eq!(kept(&yard).await, [""; 0]);
    assert!(yard.script.played().is_empty() && yard.github.requests().is_empty());
    assert_eq!(yard.send_signed(CLOCKS, "d-1", "pull_request", &merged).await.status, StatusCode::ACCEPTED);
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success);
    yard.close().await;
}

#[tokio::test]
async fn what_a_stranger_says_about_where_it_comes_from_changes_nothing() {
    let yard = TestYard::new().await;
    let forged = [
        ("X-Forwarded-For", "127.0.0.1, 140.82.112.1"),
        ("X-Forwarded-Host", "evil.example.org"),
        ("X-Forwarded-Proto", "gopher"),
        ("Forwarded", "for=127.0.0.1;host=evil.example.org"),
        ("X-Real-IP", "::1"),
        ("X-HTTP-Method-Override", "GET"),
    ];
    let unsigned = [("X-GitHub-Event", "pull_request"), ("X-GitHub-Delivery", "d-1")];
    let body = yard.merged(&yard.first).to_string();
    let refused = post(&yard, "/hooks/github", &[&unsigned[..], &forged].concat(), body.clone()).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let signature = sign(SECRET, body.as_bytes());
    let signed = [&unsigned[..], &forged, &[("X-Hub-Signature-256", &signature)]].concat();
    assert_eq!(post(&yard, "/hooks/github", &signed, body).await.status, StatusCode::ACCEPTED);
    yard.settle().await;
    let statuses = yard.github.statuses(&yard.repo(), yard.first.merge);
    assert!(!statuses.is_empty());
    for status in statuses {
        let address = status.target_url.unwrap_or_default();
        assert!(address.starts_with("https://ci.example.org/"), "{address}");
    }
    yard.close().await;
}

#[tokio::test]
async fn while_a_secret_is_changed_both_are_good_and_then_only_the_new_one() {
    const OLD: &str = "the-secret-that-leaked";
    let yard = TestYard::with(two_services("0.1.0"), |config| {
        let previous = toml::toml! {
            secret = "the-secret-that-leaked"
            until = "2030-01-01T01:00:00Z"
        };
        config["github"].as_table_mut().unwrap().insert("webhook_secret_previous".into(), previous.into());
    })
    .await;
    let event = json!({ "action": "started" });
    yard.advance(Duration::from_secs(3600) - Duration::from_millis(1));
    assert_eq!(yard.send_signed(OLD, "d-1", "watch", &event).await.status, StatusCode::ACCEPTED);
    assert_eq!(yard.send_signed(SECRET, "d-2", "watch", &event).await.status, StatusCode::ACCEPTED);
    yard.advance(Duration::from_millis(1));
    assert_eq!(yard.send_signed(OLD, "d-3", "watch", &event).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(yard.send_signed(SECRET, "d-4", "watch", &event).await.status, StatusCode::ACCEPTED);
    assert_eq!(kept(&yard).await, ["d-1", "d-2", "d-4"]);
    yard.close().await;
}

#[tokio::test]
async fn a_ping_is_answered_and_kept() {
    let yard = TestYard::new().await;
    let ping = payload::ping(&yard.sample.hosted(), 1, "https://ci.example.org/hooks/github");
    let answer = yard.send("d-ping", "ping", &ping).await;
    assert_eq!((answer.status, &answer.body["state"]), (StatusCode::OK, &"pong".into()));
    assert_eq!(yard.verdict("d-ping").await, "ignored: a ping: the webhook works");
    let again = yard.send("d-ping", "ping", &ping).await;
    assert_eq!((again.status, &again.body["state"]), (StatusCode::OK, &"duplicate".into()));
    yard.close().await;
}

#[tokio::test]
async fn any_git_server_may_send_pushes_signed_with_the_secret_for_git() {
    let yard = TestYard::new().await;
    let git = format!("{SECRET}-of-git");
    let push = json!({
        "repository": "acme/clock", "ref": "refs/heads/develop", "message": "Add the clock",
        "before": yard.first.base, "after": yard.first.merge,
    });
    let body = push.to_string();
    let sent = |secret: &str, path: &'static str| {
        let signature = sign(secret, body.as_bytes());
        let (yard, body) = (&yard, body.clone());
        async move {
            let names = github("d-1", &signature);
            let names = if path == "/hooks/git" { &names[..1] } else { &names[..] };
            post(yard, path, names, body).await
        }
    };
    assert_eq!(sent(SECRET, "/hooks/git").await.status, StatusCode::UNAUTHORIZED, "GitHub's secret");
    assert_eq!(
        sent(&git, "/hooks/github").await.status,
        StatusCode::UNAUTHORIZED,
        "git's secret at GitHub's door"
    );
    assert_eq!(kept(&yard).await, [""; 0]);
    let accepted = sent(&git, "/hooks/git").await;
    assert_eq!((accepted.status, &accepted.body["state"]), (StatusCode::ACCEPTED, &"queued".into()));
    let id = accepted.body["delivery"].as_str().unwrap().to_owned();
    assert!(id.starts_with("git-") && id.len() == 36, "{id}");
    let again = sent(&git, "/hooks/git").await;
    assert_eq!(
        (again.status, again.body["delivery"].as_str()),
        (StatusCode::OK, Some(&*id)),
        "the same push"
    );
    yard.settle().await;
    let run = yard.run(1).await.run;
    assert_eq!((run.event.as_str(), run.state), ("push", State::Success));
    assert!(yard.github.requests().is_empty(), "GitHub hears nothing of a push elsewhere");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_engine_keeps_no_webhook_waiting() {
    let yard = TestYard::new().await;
    yard.script.next("clock-backend", Act::Hang);
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    let storm = async {
        yard.script.hanging.notified().await;
        let mut took: Vec<Duration> = stream::iter(0..400)
            .map(|n| timed(&yard, yard.http(), format!("d-storm-{n}")))
            .buffer_unordered(8)
            .collect()
            .await;
        took.sort();
        yard.yard().store.cancel_run(RunId(1), "the engine hangs", yard.clock.now()).await.unwrap();
        took
    };
    let ((), took) = tokio::join!(yard.settle(), storm);
    assert!(took[395] < PROMPT, "one in a hundred took {:?}", took[395]);
    assert_eq!(kept(&yard).await.len(), 401);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_that_only_hold_on_keep_no_webhook_waiting() {
    const MANY: u64 = 5_000;
    raise_descriptors(2 * MANY);
    let yard = TestYard::new().await;
    let body = "{}";
    let head = raw_head("d-slow", &sign(SECRET, body.as_bytes()), "Content-Length: 2");
    let mut held = Vec::new();
    for n in 0..MANY {
        let half = if n % 2 == 0 { &head[..head.len() / 2] } else { &head };
        held.push(hold(yard.address(), half).await);
    }
    for n in 0..50 {
        let fresh = reqwest::Client::builder().no_proxy().build().unwrap();
        let took = timed(&yard, &fresh, format!("d-{n}")).await;
        assert!(took < PROMPT, "webhook {n} took {took:?}");
    }
    assert_eq!(kept(&yard).await.len(), 50);
    drop(held);
    // The places come back as soon as the server has noticed.
    let back = async {
        while say_from([127, 0, 0, 2], yard.address(), &[head.as_bytes(), b"{}"]).await != Some(202) {}
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("the address is let in again");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_webhooks_at_once_are_durable_or_were_refused() {
    const MANY: usize = 10_000;
    let yard = TestYard::new().await;
    let began = Instant::now();
    let answers: Vec<(String, StatusCode)> = stream::iter(0..MANY)
        .map(|n| {
            let yard = &yard;
            async move {
                let id = format!("d-{n}");
                let answer = yard.send(&id, "watch", &json!({ "action": "started", "n": n })).await;
                (id, answer.status)
            }
        })
        .buffer_unordered(64)
        .collect()
        .await;
    println!("{MANY} webhooks took {:?}", began.elapsed());
    let (accepted, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(_, status)| *status == StatusCode::ACCEPTED);
    assert!(refused.iter().all(|(_, status)| *status == StatusCode::SERVICE_UNAVAILABLE), "{refused:?}");
    let mut accepted: Vec<_> = accepted.into_iter().map(|(id, _)| id).collect();
    let mut kept = kept(&yard).await;
    accepted.sort();
    kept.sort();
    assert!(accepted == kept, "{} were accepted and {} are there", accepted.len(), kept.len());
    yard.close().await;
}

fn url(yard: &TestYard, path: &str) -> String {
    format!("http://{}{path}", yard.address())
}

async fn post<N: AsRef<str>, V: AsRef<str>>(
    yard: &TestYard,
    path: &str,
    headers: &[(N, V)],
    body: impl Into<reqwest::Body>,
) -> Answer {
    let request = yard.http().post(url(yard, path)).body(body);
    answer(
        headers.iter().fold(request, |request, (name, value)| request.header(name.as_ref(), value.as_ref())),
    )
    .await
}

fn sign(secret: &str, body: &[u8]) -> String {
    signature::sign(&Secret::new(secret), body)
}

/// The headers of a delivery that starts nothing.
fn github(id: &str, signature: &str) -> Vec<(String, String)> {
    github_event(id, "watch", signature.to_owned())
}

fn github_event(id: &str, event: &str, signature: String) -> Vec<(String, String)> {
    let headers =
        [("X-Hub-Signature-256", &*signature), ("X-GitHub-Event", event), ("X-GitHub-Delivery", id)];
    headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn signature_bytes(signature: &str) -> [u8; 32] {
    hex::decode(&signature["sha256=".len()..]).unwrap().try_into().unwrap()
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// The payload with a field nobody reads, so that it has exactly that many bytes.
fn padded(payload: &Value, bytes: usize) -> Vec<u8> {
    let mut payload = payload.clone();
    payload["padding"] = "".into();
    let missing = bytes - payload.to_string().len();
    payload["padding"] = "x".repeat(missing).into();
    let padded = payload.to_string().into_bytes();
    assert_eq!(padded.len(), bytes);
    padded
}

/// The ids of everything that is in the database, oldest first.
async fn kept(yard: &TestYard) -> Vec<String> {
    let mut rows = yard.yard().store.deliveries(None, 100_000).await.unwrap();
    rows.reverse();
    rows.into_iter().map(|row| row.id.to_string()).collect()
}

/// Sends a webhook that starts nothing, and says how long its answer took.
async fn timed(yard: &TestYard, http: &reqwest::Client, id: String) -> Duration {
    let signature = sign(SECRET, b"{}");
    let began = Instant::now();
    let request = http.post(url(yard, "/hooks/github")).body("{}");
    let headers = github(&id, &signature);
    let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    assert_eq!(answer(request).await.status, StatusCode::ACCEPTED, "{id}");
    began.elapsed()
}

/// The head of a delivery that starts nothing, up to its empty line.
fn raw_head(id: &str, signature: &str, framing: &str) -> String {
    format!(
        "POST /hooks/github HTTP/1.1\r\nHost: ci.example.org\r\nX-GitHub-Event: watch\r\nX-GitHub-Delivery: {id}\r\n\
         X-Hub-Signature-256: {signature}\r\n{framing}\r\n\r\n"
    )
}

/// Sends bytes as they are and returns the status of the first answer.
async fn say(address: SocketAddr, parts: &[&[u8]]) -> Option<u16> {
    say_from([127, 0, 0, 1], address, parts).await
}

async fn say_from(from: [u8; 4], address: SocketAddr, parts: &[&[u8]]) -> Option<u16> {
    let mut stream = connect(from, address).await;
    send(&mut stream, parts).await;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.ok()?;
    std::str::from_utf8(&start).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

/// Sends all there is, hangs up on that side, and returns the status of the answer if there is one.
async fn hang_up_after(address: SocketAddr, parts: &[&[u8]]) -> Option<u16> {
    let mut stream = connect([127, 0, 0, 1], address).await;
    send(&mut stream, parts).await;
    stream.shutdown().await.unwrap();
    let said = everything(stream).await;
    said.get(9..12)?.parse().ok()
}

/// Sends bytes as they are and returns all that is said until the server closes.
async fn listen(address: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = connect([127, 0, 0, 1], address).await;
    send(&mut stream, parts).await;
    let closed = tokio::time::timeout(Duration::from_secs(10), everything(stream)).await;
    closed.expect("the server closes the connection")
}

/// A server that closes early may cut us off in the middle of a word; what it said counts.
async fn send(stream: &mut TcpStream, parts: &[&[u8]]) {
    let _ = stream.write_all(&parts.concat()).await;
}

async fn everything(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        said.extend_from_slice(&piece[..read]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

async fn connect(from: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// A connection from another address that says half of something and waits.
async fn hold(address: SocketAddr, half: &str) -> TcpStream {
    let mut stream = connect([127, 0, 0, 2], address).await;
    send(&mut stream, &[half.as_bytes()]).await;
    stream
}

fn raise_descriptors(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        most >= wanted,
        "this test needs {wanted} file descriptors and may have {most}: raise `ulimit -Hn`"
    );
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(most);
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}
