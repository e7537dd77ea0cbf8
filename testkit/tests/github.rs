//! The GitHub client against a GitHub that remembers, loses and misbehaves.

use std::time::Duration;

use axum::{Router, extract::State, routing::post};
use mergeyard_server::{
    github::{
        CommitStatus, Github, GithubError, GithubSettings, HookOutcome, HookWanted, StatusState,
        signature::{self, SignatureError},
        tunnel::{self, TunnelError},
    },
    sample::{payload, payload::HostedRepository},
};
use mergeyard_testkit::fake_github::{FakeGithub, Fault, TOKEN};
use mergeyard_types::{CommitSha, DeliveryId, RepoName, Secret, Timestamp};
use proptest::prelude::*;
use reqwest::Url;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

const SHA: CommitSha = CommitSha::new([0xab; 20]);

fn repo() -> RepoName {
    "acme/clock".parse().unwrap()
}

async fn world() -> (FakeGithub, Github) {
    let fake = FakeGithub::start().await;
    fake.add_repo(&repo());
    let github = client(&fake, fake.api_url());
    (fake, github)
}

fn client(fake: &FakeGithub, api_url: Url) -> Github {
    Github::new(GithubSettings::new(api_url, Some(fake.token()))).unwrap()
}

fn status(description: &str) -> CommitStatus {
    CommitStatus {
        state: StatusState::Pending,
        context: "mergeyard".into(),
        description: description.into(),
        target_url: Some("https://ci.example.org/runs/1".into()),
    }
}

fn wanted(url: &str) -> HookWanted {
    HookWanted::new(url.parse().unwrap(), Secret::new("hush")).unwrap()
}

/// Everything an error could be shown as.
fn shown(error: &GithubError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(" {error} {error:?}");
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn statuses_arrive_in_order_and_the_last_of_a_context_counts() {
    let (fake, github) = world().await;
    github.set_status(&repo(), SHA, &status("queued")).await.unwrap();
    let done = CommitStatus { state: StatusState::Success, target_url: None, ..status("built") };
    github.set_status(&repo(), SHA, &done).await.unwrap();
    let told: Vec<_> = fake.statuses(&repo(), SHA).into_iter().map(|s| (s.state, s.description)).collect();
    assert_eq!(told, [("pending".into(), "queued".into()), ("success".into(), "built".to_owned())]);
    assert_eq!(fake.latest_status(&repo(), SHA, "mergeyard").unwrap().target_url, None);
    assert_eq!(fake.latest_status(&repo(), SHA, "other"), None);
    assert!(fake.requests().iter().all(|request| request.authorized));
}

#[tokio::test]
async fn a_description_longer_than_github_takes_is_cut_and_arrives() {
    let (fake, github) = world().await;
    github.set_status(&repo(), SHA, &status(&"é".repeat(200))).await.unwrap();
    let told = fake.latest_status(&repo(), SHA, "mergeyard").unwrap().description;
    assert_eq!((told.chars().count(), told.ends_with("é…")), (140, true));
}

#[tokio::test]
async fn the_files_of_a_pull_request_come_page_by_page_and_too_many_are_none() {
    let (fake, github) = world().await;
    for (count, pages) in [(0, 1), (99, 1), (100, 2), (250, 3), (2999, 30)] {
        fake.set_files(&repo(), count, (0..count).map(|n| format!("src/{n}.rs")).collect());
        let before = fake.requests().len();
        let files = github.changed_files(&repo(), count).await.unwrap().unwrap();
        assert_eq!((files.len() as u64, fake.requests().len() - before), (count, pages));
        assert_eq!(files.last().cloned(), count.checked_sub(1).map(|last| format!("src/{last}.rs")));
    }
    // GitHub stops there, and does not say whether it was all.
    fake.set_files(&repo(), 3000, vec!["a".to_owned(); 5000]);
    assert_eq!(github.changed_files(&repo(), 3000).await.unwrap(), None);
    let error = github.changed_files(&repo(), 7).await.unwrap_err().to_string();
    assert!(error.contains("#7 of acme/clock"), "{error}");
}

#[tokio::test]
async fn the_api_may_lie_below_a_path() {
    let (fake, _) = world().await;
    let github = client(&fake, fake.enterprise_url());
    github.set_status(&repo(), SHA, &status("queued")).await.unwrap();
    assert_eq!(fake.statuses(&repo(), SHA).len(), 1);
}

#[tokio::test]
async fn each_refusal_is_sorted_by_what_to_do_about_it() {
    let (fake, github) = world().await;
    let set = || async { github.set_status(&repo(), SHA, &status("queued")).await.unwrap_err() };

    fake.fail_next(1, Fault::Unauthorized);
    let error = set().await;
    assert!(matches!(error, GithubError::Unauthorized { .. }) && error.is_permanent(), "{error}");
    assert!(error.to_string().contains("repo:status"), "the permission is not named: {error}");

    fake.fail_next(
        1,
        Fault::Answer { status: 403, body: json!({ "message": "Resource not accessible" }).to_string() },
    );
    assert!(matches!(set().await, GithubError::Unauthorized { .. }));

    fake.fail_next(1, Fault::ServerError);
    let error = set().await;
    assert!(matches!(error, GithubError::Unavailable { .. }) && !error.is_permanent(), "{error}");

    let unknown = "acme/unknown".parse().unwrap();
    let error = github.set_status(&unknown, SHA, &status("queued")).await.unwrap_err();
    assert!(matches!(error, GithubError::NotFound { .. }) && error.is_permanent(), "{error}");
    assert!(error.to_string().contains("acme/unknown"), "{error}");

    let bad = CommitStatus { target_url: Some("gopher://x".into()), ..status("queued") };
    let error = github.set_status(&repo(), SHA, &bad).await.unwrap_err();
    let GithubError::Rejected { status, message, .. } = &error else { panic!("{error}") };
    assert_eq!((status.as_u16(), error.is_permanent()), (422, true));
    assert!(message.contains("http(s)"), "{message}");
    assert_eq!(fake.statuses(&repo(), SHA), []);
}

#[tokio::test]
async fn rate_limits_are_not_hidden_and_nothing_is_tried_again_behind_the_outbox() {
    let (fake, github) = world().await;
    let wait = || async {
        let error = github.set_status(&repo(), SHA, &status("queued")).await.unwrap_err();
        assert!(matches!(error, GithubError::RateLimited { .. }) && !error.is_permanent(), "{error}");
        error.retry_after().unwrap().as_secs()
    };
    fake.fail_next(1, Fault::SecondaryRateLimit { retry_after: Some(Duration::from_secs(17)) });
    assert_eq!(wait().await, 17);
    fake.fail_next(1, Fault::SecondaryRateLimit { retry_after: None });
    assert_eq!(wait().await, 60);
    fake.fail_next(1, Fault::PrimaryRateLimit { reset: Duration::from_secs(600) });
    let seconds = wait().await;
    assert!((595..=601).contains(&seconds), "{seconds} s");
    assert_eq!(fake.requests().len(), 3);
}

#[tokio::test]
async fn an_unreachable_github_is_a_passing_trouble_with_its_cause() {
    let (fake, _) = world().await;
    let mut settings = GithubSettings::new(fake.api_url(), Some(fake.token()));
    settings.timeout = Duration::from_millis(300);
    let github = Github::new(settings).unwrap();
    for fault in [Fault::Hang, Fault::CloseConnection, Fault::Answer { status: 200, body: "<html>".into() }] {
        fake.fail_next(1, fault.clone());
        let error = github.set_status(&repo(), SHA, &status("queued")).await.unwrap_err();
        let GithubError::Unavailable { source, .. } = &error else { panic!("{fault:?}: {error}") };
        assert!(source.is_some() && !error.is_permanent(), "{fault:?}: {error}");
    }
    let address = fake.api_url();
    drop(fake);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut settings = GithubSettings::new(address, Some(Secret::new("t")));
    settings.api_url.set_port(Some(closed.port())).unwrap();
    let error = Github::new(settings).unwrap().hooks(&repo()).await.unwrap_err();
    assert!(matches!(error, GithubError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let (fake, github) = world().await;
    fake.fail_next(1, Fault::Answer { status: 200, body: format!("\"{}\"", "x".repeat(9 << 20)) });
    let error = github.hooks(&repo()).await.unwrap_err();
    assert!(matches!(error, GithubError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn no_error_shows_the_token() {
    let (fake, github) = world().await;
    let echo = json!({ "message": format!("you sent Authorization: Bearer {TOKEN}") }).to_string();
    let mut faults: Vec<Fault> =
        [400, 401, 403, 404, 422, 429, 500].map(|status| Fault::Answer { status, body: echo.clone() }).into();
    faults.extend([Fault::CloseConnection, Fault::Answer { status: 200, body: echo.clone() }]);
    faults.push(Fault::Redirect { status: 302, to: "https://elsewhere.example.org/x".into() });
    for fault in faults {
        fake.fail_next(1, fault.clone());
        let error = github.hooks(&repo()).await.unwrap_err();
        assert!(!shown(&error).contains(TOKEN), "{fault:?}: {}", shown(&error));
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_is_refused_and_that_host_hears_nothing() {
    let (fake, github) = world().await;
    let other = FakeGithub::start().await;
    other.add_repo(&repo());
    for status in [301, 302, 307, 308] {
        let to = other.api_url().join("/repos/acme/clock/hooks").unwrap().to_string();
        fake.fail_next(1, Fault::Redirect { status, to });
        let error = github.hooks(&repo()).await.unwrap_err();
        assert!(error.to_string().contains("another host"), "{error}");
    }
    assert_eq!(other.requests(), []);
}

#[tokio::test]
async fn a_renamed_repository_is_found_on_the_same_host_and_no_post_becomes_a_get() {
    let (fake, github) = world().await;
    let here = |path: &str| fake.api_url().join(path).unwrap().to_string();
    fake.fail_next(1, Fault::Redirect { status: 301, to: here("/repos/acme/clock/hooks?per_page=100") });
    assert!(github.hooks(&"acme/old".parse().unwrap()).await.unwrap().is_empty());

    fake.fail_next(
        1,
        Fault::Redirect { status: 307, to: here(&format!("/repos/acme/clock/statuses/{SHA}")) },
    );
    github.set_status(&"acme/old".parse().unwrap(), SHA, &status("queued")).await.unwrap();
    assert_eq!(fake.statuses(&repo(), SHA).len(), 1);

    fake.fail_next(
        1,
        Fault::Redirect { status: 301, to: here(&format!("/repos/acme/clock/statuses/{SHA}")) },
    );
    let error = github.set_status(&"acme/old".parse().unwrap(), SHA, &status("queued")).await.unwrap_err();
    assert!(matches!(error, GithubError::Rejected { .. }), "{error}");

    fake.fail_next(9, Fault::Redirect { status: 302, to: here("/repos/acme/clock/hooks") });
    let error = github.hooks(&repo()).await.unwrap_err();
    assert!(matches!(error, GithubError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn without_a_token_nothing_is_asked() {
    let (fake, _) = world().await;
    let github = Github::new(GithubSettings::new(fake.api_url(), None)).unwrap();
    let error = github.set_status(&repo(), SHA, &status("queued")).await.unwrap_err();
    assert!(error.to_string().contains("github.token") && error.is_permanent(), "{error}");
    assert_eq!(fake.requests(), []);
}

#[tokio::test]
async fn a_missing_webhook_is_created_once_with_all_it_needs() {
    let (fake, github) = world().await;
    let wanted = wanted("https://ci.example.org/hooks/github");
    let missing = github.check_hook(&repo(), &wanted).await.unwrap();
    assert!(
        missing.hook.is_none() && missing.differences[0].contains("mergeyard hook add acme/clock"),
        "{missing:?}"
    );

    let HookOutcome::Created(id) = github.ensure_hook(&repo(), &wanted).await.unwrap() else { panic!() };
    assert_eq!(github.ensure_hook(&repo(), &wanted).await.unwrap(), HookOutcome::AlreadyRight(id));
    fake.read(|world| {
        let hook = world.hook(id).unwrap();
        assert_eq!(hook.url, "https://ci.example.org/hooks/github");
        assert_eq!(
            (hook.content_type.as_str(), hook.insecure_ssl.as_str(), hook.active),
            ("json", "0", true)
        );
        assert_eq!(hook.secret, Some(Secret::new("hush")));
        assert_eq!(hook.events, ["pull_request", "push", "release", "deployment"]);
        assert_eq!(world.repos[&repo()].hooks.len(), 1);
    });
    let right = github.check_hook(&repo(), &wanted).await.unwrap();
    assert_eq!((right.hook, right.differences), (Some(id), vec![]));
    assert!(right.notes.iter().any(|note| note.contains("cannot be compared")), "{:?}", right.notes);
}

#[tokio::test]
async fn a_wrong_webhook_is_repaired_and_every_repair_is_named() {
    let (fake, github) = world().await;
    let id = fake.add_hook(&repo(), |hook| {
        hook.url = "https://ci.example.org/hooks/github".into();
        hook.content_type = "form".into();
        hook.insecure_ssl = "1".into();
        hook.active = false;
        hook.events = vec!["push".into(), "star".into()];
    });
    let wanted = wanted("https://ci.example.org/hooks/github");
    let found = github.check_hook(&repo(), &wanted).await.unwrap();
    assert!(fake.requests().iter().all(|request| request.method == "GET"), "a check changes nothing");

    let outcome = github.ensure_hook(&repo(), &wanted).await.unwrap();
    let HookOutcome::Repaired { id: repaired, differences } = outcome else { panic!("{outcome:?}") };
    assert_eq!((repaired, &differences), (id, &found.differences));
    for part in ["switched off", "`pull_request`", "`form`", "certificate", "no secret"] {
        assert!(
            differences.iter().any(|sentence| sentence.contains(part)),
            "{part} is not in {differences:?}"
        );
    }
    assert_eq!(github.ensure_hook(&repo(), &wanted).await.unwrap(), HookOutcome::AlreadyRight(id));
    let all = ["push", "star", "pull_request", "release", "deployment"];
    fake.read(|world| assert_eq!(world.hook(id).unwrap().events, all));
}

#[tokio::test]
async fn a_webhook_at_a_tunnels_old_address_moves_and_one_of_another_server_stays() {
    let (fake, github) = world().await;
    let other = fake.add_hook(&repo(), |hook| hook.url = "https://staging.example.org/hooks/github".into());
    let old = fake.add_hook(&repo(), |hook| hook.url = "https://4f2a.ngrok-free.app/hooks/github".into());
    let new = wanted("https://91bc.ngrok-free.app/hooks/github");
    let outcome = github.ensure_hook(&repo(), &new).await.unwrap();
    assert!(matches!(outcome, HookOutcome::Repaired { id, .. } if id == old), "{outcome:?}");
    fake.read(|world| {
        assert_eq!(world.hook(old).unwrap().url, "https://91bc.ngrok-free.app/hooks/github");
        assert_eq!(world.hook(other).unwrap().url, "https://staging.example.org/hooks/github");
    });
}

#[tokio::test]
async fn a_webhook_in_the_clear_or_without_a_secret_is_not_wanted() {
    let url = |text: &str| text.parse().unwrap();
    assert!(HookWanted::new(url("http://ci.example.org/hooks/github"), Secret::new("hush")).is_err());
    assert!(HookWanted::new(url("https://ci.example.org/hooks/github"), Secret::new("")).is_err());
}

#[tokio::test]
async fn a_check_tells_of_deliveries_that_never_arrived_and_of_a_second_webhook() {
    let (fake, github) = world().await;
    let mut receiver = Receiver::start().await;
    let secret = Secret::new("hush");
    fake.deliver(&receiver.url, &secret, "push", &push()).await;
    assert_eq!(receiver.next().await.1, Ok(0));
    fake.lose_next_delivery();
    let lost = fake.deliver(&receiver.url, &secret, "push", &push()).await;
    fake.add_hook(&repo(), |hook| hook.url = receiver.url.clone());

    let check = github.check_hook(&repo(), &wanted(&receiver.url)).await.unwrap();
    let all = check.differences.join("\n");
    assert!(all.contains(lost.as_str()) && all.contains("502") && all.contains("1 of the last 2"), "{all}");
    assert!(all.contains("comes twice"), "{all}");
}

#[tokio::test]
async fn a_webhook_with_another_secret_shows_by_its_answers() {
    let (fake, github) = world().await;
    let mut receiver = Receiver::start().await;
    fake.deliver(&receiver.url, &Secret::new("another"), "push", &push()).await;
    assert_eq!(receiver.next().await.1, Err(SignatureError::Mismatch));
    let check = github.check_hook(&repo(), &wanted(&receiver.url)).await.unwrap();
    assert!(check.differences.iter().any(|sentence| sentence.contains("secret is another one")), "{check:?}");

    github.ensure_hook(&repo(), &wanted(&receiver.url)).await.unwrap();
    fake.happen("push", &push()).await;
    assert_eq!(receiver.next().await.1, Ok(0));
    let check = github.check_hook(&repo(), &wanted(&receiver.url)).await.unwrap();
    assert_eq!(check.differences, Vec::<String>::new());
    assert!(check.notes.iter().any(|note| note.contains("1 of the last 2")), "{:?}", check.notes);
}

#[tokio::test]
async fn deliveries_are_listed_over_all_pages_back_to_a_time() {
    let (fake, github) = world().await;
    let mut sent = Vec::new();
    for minute in 0..230 {
        fake.set_time(Timestamp(1_704_186_000_000 + minute * 60_000));
        fake.lose_next_delivery();
        sent.push(
            fake.deliver("https://ci.example.org/hooks/github", &Secret::new("hush"), "push", &push()).await,
        );
    }
    sent.reverse();
    let hook = github.hooks(&repo()).await.unwrap()[0].id;
    let guids = |from: i64| {
        let github = &github;
        async move {
            let listed = github.deliveries(&repo(), hook, Timestamp(from)).await.unwrap();
            assert!(listed.iter().all(|delivery| !delivery.arrived() && delivery.event == "push"));
            listed.into_iter().map(|delivery| delivery.guid).collect::<Vec<DeliveryId>>()
        }
    };
    assert_eq!(guids(0).await, sent);
    let asked = fake.requests().len();
    assert_eq!(guids(1_704_186_000_000 + 200 * 60_000).await, sent[..30]);
    assert_eq!(fake.requests().len(), asked + 1, "pages older than asked for were read");
}

#[tokio::test]
async fn a_lost_delivery_is_asked_for_again_and_comes_under_the_same_id() {
    let (fake, github) = world().await;
    let mut receiver = Receiver::start().await;
    fake.lose_next_delivery();
    let guid = fake.deliver(&receiver.url, &Secret::new("hush"), "push", &push()).await;
    let hook = github.hooks(&repo()).await.unwrap()[0].id;
    let lost = github.deliveries(&repo(), hook, Timestamp(0)).await.unwrap();
    assert_eq!((lost.len(), &lost[0].guid, lost[0].arrived()), (1, &guid, false));

    github.redeliver(&repo(), hook, lost[0].id).await.unwrap();
    assert_eq!(receiver.next().await, (guid.clone(), Ok(0)));
    fake.wait_until("the second attempt", |world| {
        world.hook(hook).is_some_and(|hook| hook.attempts.len() == 2)
    })
    .await;
    let again = github.deliveries(&repo(), hook, Timestamp(0)).await.unwrap();
    assert_eq!((&again[0].guid, again[0].redelivery, again[0].arrived()), (&guid, true, true));
    assert!(again[0].id != lost[0].id);

    let error = github.redeliver(&repo(), hook, 1).await.unwrap_err();
    assert!(
        matches!(error, GithubError::NotFound { .. }) && error.to_string().contains("admin:repo_hook"),
        "{error}"
    );
}

#[tokio::test]
async fn form_encoded_webhooks_are_signed_over_the_form() {
    let (fake, _) = world().await;
    let mut receiver = Receiver::start().await;
    fake.add_hook(&repo(), |hook| {
        hook.url = receiver.url.clone();
        hook.secret = Some(Secret::new("hush"));
        hook.content_type = "form".into();
    });
    fake.happen("push", &push()).await;
    assert_eq!(receiver.next().await.1, Ok(0));
}

#[tokio::test]
async fn the_ngrok_agent_tells_the_public_address() {
    let tunnel =
        |url: &str, addr: &str| json!({ "public_url": url, "proto": "https", "config": { "addr": addr } });
    let ours = tunnel("https://a.ngrok-free.app", "http://localhost:8088");
    let other = tunnel("https://b.ngrok-free.app", "server:9000");
    let third = tunnel("https://c.ngrok-free.app", "9001");
    let tcp = tunnel("tcp://d.ngrok.io:19", "localhost:22");
    let ask = |answer: serde_json::Value| async move {
        let agent = agent(answer).await;
        tunnel::public_address(&agent, 8088).await
    };
    let address = |text: &str| text.parse::<Url>().unwrap();

    let many = json!({ "tunnels": [other, ours, tcp] });
    assert_eq!(ask(many).await.unwrap(), address("https://a.ngrok-free.app"));
    assert_eq!(ask(json!({ "tunnels": [tcp, other] })).await.unwrap(), address("https://b.ngrok-free.app"));
    assert!(matches!(ask(json!({ "tunnels": [tcp] })).await, Err(TunnelError::NoTunnel { port: 8088, .. })));
    let error = ask(json!({ "tunnels": [other, third] })).await.unwrap_err();
    assert!(
        matches!(error, TunnelError::Ambiguous { .. }) && error.to_string().contains("https://b."),
        "{error}"
    );
    assert!(matches!(ask(json!("no")).await, Err(TunnelError::NotAnAgent { .. })));

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = tunnel::public_address(&address(&format!("http://{closed}")), 8088).await.unwrap_err();
    assert!(
        matches!(error, TunnelError::NoAgent { .. }) && error.to_string().contains("http.public_url"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn one_flipped_bit_anywhere_breaks_a_signature(
        secret in "[ -~]{1,40}",
        body in prop::collection::vec(any::<u8>(), 1..300),
        place in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let secrets = [Secret::new(secret)];
        let signature = signature::sign(&secrets[0], &body);
        let headers = |value: &[u8]| {
            let mut headers = http::HeaderMap::new();
            if let Ok(value) = http::HeaderValue::from_bytes(value) {
                headers.insert(signature::HEADER, value);
            }
            headers
        };
        prop_assert_eq!(signature::verify(&secrets, &body, &headers(signature.as_bytes())), Ok(0));

        let mut changed = body.clone();
        changed[place.index(body.len())] ^= 1 << bit;
        let answer = signature::verify(&secrets, &changed, &headers(signature.as_bytes()));
        prop_assert_eq!(answer, Err(SignatureError::Mismatch));

        let mut forged = signature.clone().into_bytes();
        forged[place.index(signature.len())] ^= 1 << bit;
        prop_assert!(signature::verify(&secrets, &body, &headers(&forged)).is_err());
    }
}

fn push() -> serde_json::Value {
    let repository = HostedRepository {
        id: 7001,
        name: repo(),
        clone_url: "https://git.example.org/acme/clock.git".into(),
        default_branch: "develop".into(),
    };
    let mut payload = payload::ping(&repository, 1, "https://ci.example.org/hooks/github");
    payload["note"] = "Grüße 🚢".into();
    payload
}

async fn agent(answer: serde_json::Value) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let router = Router::new().route("/api/tunnels", axum::routing::get(|| async { axum::Json(answer) }));
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

type Received = (DeliveryId, Result<usize, SignatureError>);

/// What a server does with a delivery: it checks the signature and answers.
struct Receiver {
    url: String,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks/github", listener.local_addr().unwrap());
        let (sender, received) = mpsc::unbounded_channel();
        let router = Router::new().route("/hooks/github", post(receive)).with_state(sender);
        tokio::spawn(async { axum::serve(listener, router).await });
        Self { url, received }
    }

    async fn next(&mut self) -> Received {
        self.received.recv().await.unwrap()
    }
}

async fn receive(
    State(sender): State<mpsc::UnboundedSender<Received>>,
    headers: http::HeaderMap,
    body: axum::body::Bytes,
) -> http::StatusCode {
    let verdict = signature::verify(&[Secret::new("hush")], &body, &headers);
    let guid = headers["x-github-delivery"].to_str().unwrap().parse().unwrap();
    sender.send((guid, verdict)).unwrap();
    if verdict.is_ok() { http::StatusCode::ACCEPTED } else { http::StatusCode::UNAUTHORIZED }
}
