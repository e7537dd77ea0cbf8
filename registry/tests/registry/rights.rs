//! Who may see and do what.

use std::num::NonZeroU32;

use axum::body::Body;
use http::{Request, StatusCode};
use mergeyard_registry::{Act, Config, Content, Limits, Repository, Rules, router};
use serde_json::json;
use tower::ServiceExt;

use crate::{
    images,
    yard::{Answer, HOST, SECRET, Yard, basic, sha256},
};

#[tokio::test]
async fn without_a_proven_name_there_is_one_answer_and_it_asks_for_one() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    let challenge = |answer: &Answer, scope: &str| {
        let realm = format!("Bearer realm=\"https://{HOST}/token\",service=\"{HOST}\"");
        assert_eq!(answer.header("www-authenticate"), format!("{realm}{scope}"));
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
        answer.refused(401, "UNAUTHORIZED")
    };
    let mut messages = Vec::new();
    for (path, scope) in [
        ("/v2/", ""),
        ("/v2", ""),
        ("/v2/acme/clock/manifests/1", ",scope=\"repository:acme/clock:pull\""),
        ("/v2/acme/none/manifests/1", ",scope=\"repository:acme/none:pull\""),
        ("/v2/_catalog", ",scope=\"registry:catalog:*\""),
    ] {
        messages.push(challenge(&yard.ask("GET", path).by_nobody().send().await, scope));
    }
    for value in [basic("robot", "wrong"), basic("nobody", SECRET), basic("", ""), "Basic %".to_owned()] {
        let ask = yard.ask("GET", "/v2/").by_nobody().header("authorization", &value);
        messages.push(challenge(&ask.send().await, ""));
    }
    messages.dedup();
    assert_eq!(messages.len(), 1);
    assert_eq!(yard.get("/v2/").await.status, StatusCode::OK);
    assert_eq!(yard.get("/v2").await.status, StatusCode::OK);
}

/// A challenge that led a client elsewhere would lead its secret there.
#[tokio::test]
async fn a_host_that_is_none_is_not_repeated_in_a_challenge() {
    let yard = Yard::new();
    for host in ["x\",realm=\"https://evil.example.org", "a b", "user@host", "host/path", "host:0", ""] {
        let mut request = Request::get("/v2/").body(Body::empty()).unwrap();
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = router(yard.registry.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(
            answer.headers()["www-authenticate"],
            "Basic realm=\"mergeyard\", charset=\"UTF-8\"",
            "{host}"
        );
    }
}

#[tokio::test]
async fn what_one_may_not_read_is_not_there_and_what_one_may_not_write_is_denied() {
    let yard = Yard::new();
    images::push(&yard, "secret/clock", "1").await;
    let blob = sha256(b"the one layer");
    for path in [
        "/v2/secret/clock/manifests/1".to_owned(),
        "/v2/secret/clock/tags/list".to_owned(),
        format!("/v2/secret/clock/blobs/{blob}"),
        "/v2/secret/none/tags/list".to_owned(),
    ] {
        for account in ["acme", "reader"] {
            yard.ask("GET", &path).by(account).send().await.refused(404, "NAME_UNKNOWN");
        }
    }
    for path in ["/v2/secret/clock/blobs/uploads/", "/v2/acme/clock/blobs/uploads/"] {
        yard.ask("POST", path).by("reader").send().await.refused(403, "DENIED");
    }
    yard.ask("PUT", "/v2/acme/clock/manifests/1").by("reader").send().await.refused(403, "DENIED");
    yard.ask("DELETE", "/v2/acme/clock/manifests/1").by("acme").send().await.refused(403, "DENIED");
}

#[tokio::test]
async fn a_blob_is_read_and_mounted_only_where_its_reader_has_rights() {
    let yard = Yard::new();
    let hidden = yard.push_blob("secret/clock", b"hidden").await;
    let open = yard.push_blob("acme/one", b"open").await;
    let read = format!("/v2/acme/two/blobs/{hidden}");
    yard.ask("GET", &read).by("acme").send().await.refused(404, "BLOB_UNKNOWN");

    let mount = |digest, from: &str| {
        let path = format!("/v2/acme/two/blobs/uploads/?mount={digest}&from={from}");
        yard.ask("POST", &path).by("acme").send()
    };
    for from in ["secret/clock", "acme/none", "../secret/clock", ""] {
        let answer = mount(hidden, from).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(answer.header("location").starts_with("/v2/acme/two/blobs/uploads/"));
    }
    yard.ask("GET", &read).by("acme").send().await.refused(404, "BLOB_UNKNOWN");

    let mut events = yard.registry.subscribe();
    let mounted = mount(open, "acme/one").await;
    let event = events.try_recv().unwrap();
    assert_eq!((event.act, event.content, event.by.as_str()), (Act::Pushed, Content::Blob(open), "acme"));
    assert_eq!(
        (mounted.status.as_u16(), mounted.header("location")),
        (201, format!("/v2/acme/two/blobs/{open}").as_str())
    );
    assert_eq!(yard.ask("GET", mounted.header("location")).by("acme").send().await.body, b"open");
    // Once it is there, nobody has to say where it came from.
    let again =
        yard.ask("POST", &format!("/v2/acme/two/blobs/uploads/?mount={open}")).by("acme").send().await;
    assert_eq!(again.status, 201);
    mount_is_checked(&yard).await;
}

async fn mount_is_checked(yard: &Yard) {
    let path = "/v2/acme/two/blobs/uploads/?mount=sha256:x&from=acme/one";
    yard.ask("POST", path).send().await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn what_is_open_to_everybody_is_read_without_a_name_and_nothing_else_is() {
    let yard = Yard::with(open_to_everybody("open/**"));
    images::push(&yard, "open/clock", "1").await;
    images::push(&yard, "secret/clock", "1").await;
    let blob = sha256(b"the one layer");
    let nobody = |method: &'static str, path: &str| yard.ask(method, path).by_nobody().send();
    for path in ["manifests/1", "tags/list", &format!("blobs/{blob}")] {
        assert_eq!(nobody("GET", &format!("/v2/open/clock/{path}")).await.status, 200, "{path}");
        nobody("GET", &format!("/v2/secret/clock/{path}")).await.refused(401, "UNAUTHORIZED");
        nobody("GET", &format!("/v2/secret/none/{path}")).await.refused(401, "UNAUTHORIZED");
        // Who has a name has no fewer rights than nobody.
        assert_eq!(yard.ask("GET", &format!("/v2/open/clock/{path}")).by("acme").send().await.status, 200);
    }
    for (method, path) in [
        ("POST", "/v2/open/clock/blobs/uploads/"),
        ("PUT", "/v2/open/clock/manifests/2"),
        ("DELETE", "/v2/open/clock/manifests/1"),
        ("GET", "/v2/"),
        ("HEAD", "/v2/"),
        ("GET", "/v2/_catalog"),
    ] {
        let answer = nobody(method, path).await;
        assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
        assert!(answer.header("www-authenticate").starts_with("Bearer "));
    }
    yard.ask("PUT", "/v2/open/clock/manifests/2").by("acme").send().await.refused(403, "DENIED");
    let listed = yard.ask("GET", "/v2/_catalog").by("acme").send().await.json();
    assert_eq!(listed, json!({"repositories": ["open/clock"]}));
}

#[tokio::test]
async fn who_tries_out_secrets_is_told_to_wait_and_who_has_the_right_one_is_let_in() {
    let yard = Yard::with(limited(|limits| limits.failed_logins_per_minute = NonZeroU32::new(2).unwrap()));
    let login = |name: &str, secret: &str| {
        yard.ask("GET", "/v2/").by_nobody().header("authorization", &basic(name, secret)).send()
    };
    // Known and unknown names look the same before the limit and behind it.
    for name in ["robot", "nobody"] {
        login(name, "wrong").await.refused(401, "UNAUTHORIZED");
    }
    for name in ["robot", "nobody"] {
        let answer = login(name, "wrong").await;
        assert!(answer.refused(429, "TOOMANYREQUESTS").starts_with("too many requests: wait "));
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=30).contains(&wait), "{wait}");
        let token = yard.ask("GET", "/token").by_nobody().header("authorization", &basic(name, "wrong"));
        token.send().await.refused(429, "TOOMANYREQUESTS");
        let form = format!("grant_type=password&username={name}&password=wrong");
        let post = yard.ask("POST", "/token").by_nobody().header("content-type", FORM).body(form);
        post.send().await.refused(429, "TOOMANYREQUESTS");
    }
    assert_eq!(login("robot", SECRET).await.status, 200);
    // Asking without a name is not trying out one.
    yard.ask("GET", "/v2/").by_nobody().send().await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn an_account_that_asks_too_much_waits_and_the_others_do_not() {
    let yard = Yard::with(limited(|limits| limits.requests_per_minute = NonZeroU32::new(2)));
    for _ in 0..2 {
        assert_eq!(yard.ask("GET", "/v2/").by("acme").send().await.status, 200);
    }
    let refused = yard.ask("GET", "/v2/").by("acme").send().await;
    refused.refused(429, "TOOMANYREQUESTS");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() <= 30);
    yard.ask("GET", "/token").by("acme").send().await.refused(429, "TOOMANYREQUESTS");
    assert_eq!(yard.ask("GET", "/v2/").by("reader").send().await.status, 200);
}

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

pub(crate) fn open_to_everybody(pattern: &str) -> Config {
    let rules = Rules { anonymous_pull: true, ..Rules::default() };
    Config { repositories: vec![Repository::new(pattern, rules).unwrap()], ..Config::default() }
}

fn limited(change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = Config::default();
    change(&mut config.limits);
    config
}
