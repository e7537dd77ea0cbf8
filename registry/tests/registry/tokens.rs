//! Tokens as clients fetch and show them.

use http::StatusCode;
use mergeyard_registry::{Account, Grant, Right, SecretHash};
use mergeyard_types::{Secret, Timestamp};
use serde_json::json;

use crate::{
    images,
    rights::{FORM, open_to_everybody},
    yard::{Answer, HOST, SECRET, Yard, accounts, basic, sha256},
};

#[tokio::test]
async fn a_client_does_what_the_challenge_says_and_gets_in() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    let path = "/v2/acme/clock/manifests/1";
    let challenge = yard.ask("GET", path).by_nobody().send().await;
    let scope = parameter(challenge.header("www-authenticate"), "scope");
    let query = format!("/token?account=reader&client_id=docker&service={HOST}&scope={scope}");
    let answer = yard.ask("GET", &query).by("reader").send().await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let told = answer.json();
    assert_eq!(told["token"], told["access_token"]);
    assert_eq!(told["expires_in"], 600);
    assert!(told.get("refresh_token").is_none());
    let issued: jiff::Timestamp = told["issued_at"].as_str().unwrap().parse().unwrap();
    assert!((Timestamp::now().0 - issued.as_millisecond()).abs() < 60_000);
    let token = told["token"].as_str().unwrap();
    assert_eq!(show(&yard, "GET", path, token).await.status, 200);
    assert_eq!(show(&yard, "GET", "/v2/", token).await.status, 200);
}

#[tokio::test]
async fn a_token_is_fetched_by_form_too_and_refused_in_oauth2s_words() {
    let yard = Yard::new();
    let post =
        |form: String| yard.ask("POST", "/token").by_nobody().header("content-type", FORM).body(form).send();
    let good =
        format!("grant_type=password&username=acme&password={SECRET}&service={HOST}&client_id=containerd");
    let scopes = "scope=repository:acme/clock:pull,push,delete%20repository:secret/clock:pull";
    let told = post(format!("{good}&{scopes}")).await.json();
    assert_eq!(told["scope"], "repository:acme/clock:pull,push");
    assert_eq!((&told["token_type"], &told["token"]), (&json!("Bearer"), &told["access_token"]));
    let token = told["access_token"].as_str().unwrap();
    assert_eq!(show(&yard, "POST", "/v2/acme/clock/blobs/uploads/", token).await.status, 202);

    for (form, error) in [
        ("grant_type=password&username=acme&password=wrong".into(), "invalid_grant"),
        (format!("grant_type=password&username=nobody&password={SECRET}"), "invalid_grant"),
        ("grant_type=password&username=acme".into(), "invalid_request"),
        ("grant_type=refresh_token&refresh_token=x".into(), "unsupported_grant_type"),
        ("".into(), "invalid_request"),
        (format!("{good}&username=robot"), "invalid_request"),
        (format!("{good}&scope=everything"), "invalid_scope"),
        (format!("{good}&scope={}", "a".repeat(20_000)), "invalid_request"),
    ] {
        let answer = post(form.clone()).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (StatusCode::BAD_REQUEST, &json!(error)),
            "{form}"
        );
    }
    let json = yard.ask("POST", "/token").by_nobody().header("content-type", "application/json").body("{}");
    assert_eq!(json.send().await.json()["error"], "invalid_request");
    yard.ask("PUT", "/token").send().await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn a_wrong_secret_is_given_no_token_and_a_token_begets_none() {
    let yard = Yard::with(open_to_everybody("open/**"));
    let good = token(&yard, "robot", &[]).await;
    for value in [basic("robot", "wrong"), basic("nobody", SECRET), format!("Bearer {good}"), "Basic".into()]
    {
        let answer = yard.ask("GET", "/token").by_nobody().header("authorization", &value).send().await;
        answer.refused(401, "UNAUTHORIZED");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"mergeyard\", charset=\"UTF-8\"");
    }
    let closed = Yard::new();
    closed.ask("GET", "/token").by_nobody().send().await.refused(401, "UNAUTHORIZED");
    let many = "scope=repository:a:pull&".repeat(33);
    yard.ask("GET", &format!("/token?{many}")).send().await.refused(400, "UNSUPPORTED");
    yard.ask("GET", "/token?scope=a%22b").send().await.refused(400, "UNSUPPORTED");
}

#[tokio::test]
async fn a_token_is_good_for_what_it_was_fetched_for_and_the_client_is_sent_for_the_rest() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    images::push(&yard, "secret/clock", "1").await;
    let pull = token(&yard, "acme", &["repository:acme/clock:pull"]).await;
    assert_eq!(show(&yard, "GET", "/v2/acme/clock/manifests/1", &pull).await.status, 200);
    for (method, path, scope) in [
        ("POST", "/v2/acme/clock/blobs/uploads/", "repository:acme/clock:pull,push"),
        ("GET", "/v2/acme/other/tags/list", "repository:acme/other:pull"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        let answer = show(&yard, method, path, &pull).await;
        answer.refused(401, "UNAUTHORIZED");
        let challenge = answer.header("www-authenticate");
        assert_eq!(parameter(challenge, "scope"), scope);
        assert_eq!(parameter(challenge, "error"), "insufficient_scope");
        // What the challenge says helps.
        let next = token(&yard, "acme", &[scope]).await;
        assert_ne!(show(&yard, method, path, &next).await.status, 401, "{path}");
    }
    // No token helps an account that never may: the answers are those to its secret.
    let all = ["repository:secret/clock:*", "repository:acme/clock:*"];
    for token in [pull, token(&yard, "acme", &all).await] {
        show(&yard, "GET", "/v2/secret/clock/manifests/1", &token).await.refused(404, "NAME_UNKNOWN");
        show(&yard, "GET", "/v2/secret/none/manifests/1", &token).await.refused(404, "NAME_UNKNOWN");
        show(&yard, "PUT", "/v2/secret/clock/manifests/2", &token).await.refused(403, "DENIED");
        show(&yard, "GET", "/v2/_catalog", &token).await.refused(401, "UNAUTHORIZED");
        show(&yard, "DELETE", "/v2/acme/clock/manifests/1", &token).await.refused(403, "DENIED");
    }
}

#[tokio::test]
async fn a_mount_needs_a_token_for_both_repositories_where_the_account_may_read_both() {
    let yard = Yard::new();
    yard.push_blob("acme/one", b"open").await;
    yard.push_blob("secret/one", b"open").await;
    let blob = sha256(b"open");
    let mount = |from: &str| format!("/v2/acme/two/blobs/uploads/?mount={blob}&from={from}");
    let target = token(&yard, "acme", &["repository:acme/two:pull,push"]).await;
    let answer = show(&yard, "POST", &mount("acme/one"), &target).await;
    answer.refused(401, "UNAUTHORIZED");
    let scope = parameter(answer.header("www-authenticate"), "scope");
    assert_eq!(scope, "repository:acme/two:pull,push repository:acme/one:pull");
    let both = token(&yard, "acme", &[scope]).await;
    assert_eq!(show(&yard, "POST", &mount("acme/one"), &both).await.status, 201);
    // From where it may not read, nothing is mounted, whatever the token was asked for.
    let more = token(&yard, "acme", &["repository:acme/three:push repository:secret/one:pull"]).await;
    let path = format!("/v2/acme/three/blobs/uploads/?mount={blob}&from=secret/one");
    assert_eq!(show(&yard, "POST", &path, &more).await.status, 202);
}

#[tokio::test]
async fn a_token_is_worth_nothing_once_its_account_is_changed() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    let path = "/v2/acme/clock/manifests/1";
    let mine = token(&yard, "reader", &["repository:acme/clock:pull"]).await;
    assert_eq!(show(&yard, "GET", path, &mine).await.status, 200);
    let with = |secret: &str, pattern: &str, expires| Account {
        name: "reader".into(),
        secret: SecretHash::of(&Secret::new(secret)),
        grants: vec![Grant::new(pattern, &[Right::Pull]).unwrap()],
        is_operator: false,
        expires,
    };
    let invalid = |answer: Answer| {
        answer.refused(401, "UNAUTHORIZED");
        assert_eq!(parameter(answer.header("www-authenticate"), "error"), "invalid_token");
    };
    yard.registry.set_accounts(Vec::new());
    invalid(show(&yard, "GET", path, &mine).await);
    yard.registry.set_accounts(vec![with("another", "acme/**", None)]);
    invalid(show(&yard, "GET", path, &mine).await);
    yard.registry.set_accounts(vec![with(SECRET, "acme/**", Some(Timestamp::now()))]);
    invalid(show(&yard, "GET", path, &mine).await);
    yard.registry.set_accounts(vec![with(SECRET, "other/**", None)]);
    show(&yard, "GET", path, &mine).await.refused(404, "NAME_UNKNOWN");
    yard.registry.set_accounts(accounts());
    assert_eq!(show(&yard, "GET", path, &mine).await.status, 200);
    // A token outlives a restart, but not the key it was signed with.
    let yard = yard.restart().await;
    assert_eq!(show(&yard, "GET", path, &mine).await.status, 200);
    std::fs::remove_file(yard.path("access/token-key")).unwrap();
    let yard = yard.restart().await;
    invalid(show(&yard, "GET", path, &mine).await);
    invalid(show(&yard, "GET", path, "").await);
}

#[tokio::test]
async fn nobody_in_particular_gets_a_token_for_what_is_open_to_everybody() {
    let yard = Yard::with(open_to_everybody("open/**"));
    images::push(&yard, "open/clock", "1").await;
    images::push(&yard, "secret/clock", "1").await;
    let query =
        "/token?scope=repository:open/clock:*&scope=repository:secret/clock:pull&scope=registry:catalog:*";
    let told = yard.ask("GET", query).by_nobody().send().await.json();
    let token = told["token"].as_str().unwrap();
    assert_eq!(show(&yard, "GET", "/v2/", token).await.status, 200);
    assert_eq!(show(&yard, "GET", "/v2/open/clock/manifests/1", token).await.status, 200);
    let listed = show(&yard, "GET", "/v2/_catalog", token).await.json();
    assert_eq!(listed, json!({"repositories": ["open/clock"]}));
    for (method, path) in [
        ("GET", "/v2/secret/clock/manifests/1"),
        ("GET", "/v2/secret/none/manifests/1"),
        ("PUT", "/v2/open/clock/manifests/2"),
        ("POST", "/v2/open/clock/blobs/uploads/"),
    ] {
        let answer = show(&yard, method, path, token).await;
        assert!(answer.refused(401, "UNAUTHORIZED").starts_with("authentication required"), "{path}");
    }
}

async fn show(yard: &Yard, method: &str, path: &str, token: &str) -> Answer {
    yard.ask(method, path).by_nobody().header("authorization", &format!("Bearer {token}")).send().await
}

async fn token(yard: &Yard, account: &str, scopes: &[&str]) -> String {
    let scopes: Vec<_> = scopes.iter().map(|scope| format!("scope={}", scope.replace(' ', "%20"))).collect();
    let answer = yard.ask("GET", &format!("/token?{}", scopes.join("&"))).by(account).send().await;
    answer.json()["token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn parameter<'a>(challenge: &'a str, name: &str) -> &'a str {
    let (_, rest) =
        challenge.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {challenge}"));
    rest.split('"').next().unwrap()
}
