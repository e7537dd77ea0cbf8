//! Tags and manifests of a mirror: how fresh they are, and what they are when upstream is out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use mergeyard_registry::{Config, Mirror};

use crate::{
    images::{self, IMAGE},
    scripted::{ALWAYS, Asked, HOUR, PASSWORD, Scripted, manifest, mirroring, status},
    yard::{Yard, name, sha256},
};

const TAG: &str = "/v2/hub/library/clock/manifests/1";

fn image(label: &str) -> String {
    images::manifest(IMAGE, images::config(label).as_bytes(), &[b"layer"])
}

fn serves(label: &'static str) -> impl Fn(&Asked) -> axum::response::Response {
    move |asked| match asked.path.as_str() {
        "/v2/library/clock/manifests/1" => manifest(IMAGE, &image(label)),
        path if path.ends_with(&sha256(image(label).as_bytes()).to_string()) => {
            manifest(IMAGE, &image(label))
        }
        _ => status(404),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_fetched_once_and_believed_for_its_time() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(HOUR));
    for _ in 0..3 {
        let pulled = yard.get(TAG).await;
        assert_eq!((pulled.status.as_u16(), pulled.body), (200, image("first").into_bytes()));
        assert!(!pulled.headers.contains_key("warning"));
    }
    assert_eq!(upstream.story(), ["GET /v2/library/clock/manifests/1"]);
    let by_digest = format!("/v2/hub/library/clock/manifests/{}", sha256(image("first").as_bytes()));
    assert_eq!(yard.ask("HEAD", &by_digest).send().await.header("content-type"), IMAGE);
    assert!(upstream.story().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_or_goes_upstream_does_so_here_after_its_time() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(ALWAYS));
    yard.get(TAG).await;
    yard.get(TAG).await;
    let question = "HEAD /v2/library/clock/manifests/1";
    assert_eq!(upstream.story(), ["GET /v2/library/clock/manifests/1", question]);

    upstream.now(serves("second"));
    assert_eq!(yard.get(TAG).await.body, image("second").into_bytes());
    assert_eq!(upstream.story(), [question, "GET /v2/library/clock/manifests/1"]);
    let old = format!("/v2/hub/library/clock/manifests/{}", sha256(image("first").as_bytes()));
    assert_eq!(yard.get(&old).await.body, image("first").into_bytes());

    upstream.now(|_| status(404));
    yard.get(TAG).await.refused(404, "MANIFEST_UNKNOWN");
    // An outage does not bring it back.
    upstream.stop().await;
    yard.get(TAG).await.refused(502, "UNAVAILABLE");
    assert_eq!(yard.get(&old).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_believe_ends_by_itself() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(Duration::from_millis(300)));
    yard.get(TAG).await;
    upstream.now(serves("second"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while yard.get(TAG).await.body != image("second").into_bytes() {
        assert!(Instant::now() < deadline, "the tag is believed for ever");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_names_no_digest_or_knows_no_head_is_asked_for_the_manifest() {
    let bare = |asked: &Asked| match asked.method.as_str() {
        "HEAD" => status(405),
        _ => {
            let mut response = manifest(IMAGE, &image("first"));
            response.headers_mut().remove("docker-content-digest");
            response
        }
    };
    let upstream = Scripted::start(bare);
    let yard = Yard::with(upstream.config(ALWAYS));
    for _ in 0..2 {
        assert_eq!(yard.get(TAG).await.body, image("first").into_bytes());
    }
    let get = "GET /v2/library/clock/manifests/1";
    assert_eq!(upstream.story(), [get, "HEAD /v2/library/clock/manifests/1", get]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_ask_for_a_tag_and_upstream_is_asked_once() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(HOUR));
    for pulled in join_all((0..50).map(|_| yard.get(TAG))).await {
        assert_eq!(pulled.body, image("first").into_bytes());
    }
    assert_eq!(upstream.story().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_survives_every_kind_of_outage_and_says_so() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(ALWAYS));
    yard.get(TAG).await;
    for broken in [500, 502, 503] {
        upstream.now(move |_| status(broken));
        let stale = yard.get(TAG).await;
        assert_eq!((stale.status.as_u16(), &stale.body), (200, &image("first").into_bytes()), "{broken}");
        assert!(stale.header("warning").starts_with("110 "));
        let nothing = yard.get("/v2/hub/library/other/manifests/1").await.refused(502, "UNAVAILABLE");
        assert!(nothing.contains(&upstream.address.to_string()), "{nothing}");
    }
    // Something else than a manifest is no answer either.
    upstream.now(|_| manifest("text/html", "<h1>sign in to the network</h1>"));
    assert!(yard.get(TAG).await.headers.contains_key("warning"));

    let address = upstream.address;
    upstream.stop().await;
    assert!(yard.get(TAG).await.headers.contains_key("warning"));
    let why = yard.get("/v2/hub/library/other/manifests/1").await.refused(502, "UNAVAILABLE");
    assert!(why.starts_with(&format!("upstream registry {address} cannot be reached")), "{why}");

    // In another life too.
    let yard = yard.restart().await;
    assert!(yard.get(TAG).await.headers.contains_key("warning"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_asks_to_wait_is_left_alone_for_that_time() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(ALWAYS));
    yard.get(TAG).await;
    upstream.story();
    upstream.now(|_| {
        let mut response = status(429);
        response.headers_mut().insert("retry-after", "2".parse().unwrap());
        response
    });
    let began = Instant::now();
    for _ in 0..10 {
        assert!(yard.get(TAG).await.headers.contains_key("warning"));
        let refused = yard.get("/v2/hub/library/other/manifests/1").await;
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=2).contains(&wait));
        let why = refused.refused(429, "TOOMANYREQUESTS");
        assert!(why.contains("asks to wait another"), "{why}");
    }
    let asked = upstream.story().len();
    assert!(asked == 1 || began.elapsed() > Duration::from_secs(2), "{asked} questions");
    upstream.now(serves("first"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while yard.get(TAG).await.headers.contains_key("warning") {
        assert!(Instant::now() < deadline, "upstream is never asked again");
        tokio::task::yield_now().await;
    }
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_what_it_says_is_not_kept() {
    let upstream = Scripted::start(|asked| match asked.path.rsplit('/').next().unwrap() {
        "claims" => {
            let mut response = manifest(IMAGE, &image("first"));
            let other = sha256(b"other").to_string().parse().unwrap();
            response.headers_mut().insert("docker-content-digest", other);
            response
        }
        "large" => manifest(IMAGE, &" ".repeat(5 << 20)),
        _ => manifest(IMAGE, &image("first")),
    });
    let yard = Yard::with(upstream.config(ALWAYS));
    let get = async |reference: &str| yard.get(&format!("/v2/hub/clock/manifests/{reference}")).await;
    assert!(get("claims").await.refused(502, "UNAVAILABLE").contains("its digest is"));
    assert!(get("large").await.refused(502, "UNAVAILABLE").contains("larger than the 4194304 bytes"));
    let other = sha256(b"other").to_string();
    assert!(get(&other).await.refused(502, "UNAVAILABLE").contains("its digest is"));
    assert!(yard.registry.repositories().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_per_repository_with_the_login_and_renewed_when_it_is_refused() {
    let good = Arc::new(AtomicUsize::new(1));
    let current = good.clone();
    let upstream = Scripted::start(move |asked| {
        let generation = current.load(Ordering::SeqCst);
        if asked.path == "/token" {
            assert_eq!(asked.header("authorization"), Some(crate::yard::basic("builder", PASSWORD).as_str()));
            let token = format!(r#"{{"token": "t{generation}", "expires_in": 300}}"#);
            return axum::response::Response::new(token.into());
        }
        if asked.header("authorization") == Some(&format!("Bearer t{generation}")) {
            return serves("first")(asked);
        }
        let mut response = status(401);
        let realm = format!("https://{}/token", asked.host);
        let challenge = format!(r#"Bearer realm="{realm}",service="images",scope="repository:x:pull,push""#);
        response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        response
    });
    let yard = Yard::with(upstream.config(ALWAYS));
    let pulled = yard.get(TAG).await;
    assert_eq!(pulled.status, 200, "{pulled:?}");
    yard.get(TAG).await;
    let asked = upstream.asked();
    let tokens: Vec<_> = asked.iter().filter(|asked| asked.path == "/token").collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].query, "scope=repository%3Alibrary%2Fclock%3Apull&service=images");
    upstream.story();
    good.store(2, Ordering::SeqCst);
    assert!(!yard.get(TAG).await.headers.contains_key("warning"));
    let question = "HEAD /v2/library/clock/manifests/1";
    assert_eq!(upstream.story(), [question, "GET /token", question]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_may_be_anonymous_and_one_that_is_none_is_named() {
    let challenged = |asked: &Asked, realm: &str, answer: axum::response::Response| match asked.path.as_str()
    {
        "/token" => answer,
        _ if asked.header("authorization").is_some() => serves("first")(asked),
        _ => {
            let mut response = status(401);
            let challenge = format!(r#"Bearer realm="{realm}""#).parse().unwrap();
            response.headers_mut().insert("www-authenticate", challenge);
            response
        }
    };
    let token = |text: &'static str| axum::response::Response::new(axum::body::Body::from(text));
    let at = |asked: &Asked| format!("https://{}/token", asked.host);
    let upstream =
        Scripted::start(move |asked| challenged(asked, &at(asked), token(r#"{"access_token": "t"}"#)));
    let mirror = Mirror { login: None, ..upstream.mirror(ALWAYS) };
    assert_eq!(Yard::with(mirroring(mirror.clone())).get(TAG).await.status, 200);
    assert_eq!(upstream.asked()[1].header("authorization"), None);

    for (answer, sentence) in [("{}", "there is none in the answer"), ("<html>", "it is not a token's JSON")]
    {
        upstream.now(move |asked| challenged(asked, &at(asked), token(answer)));
        let why = Yard::with(mirroring(mirror.clone())).get(TAG).await.refused(502, "UNAVAILABLE");
        assert!(why.contains(sentence), "{why}");
    }
    for realm in ["http://127.0.0.1:1/token", "nowhere"] {
        upstream.now(move |asked| challenged(asked, realm, status(200)));
        let why = Yard::with(upstream.config(ALWAYS)).get(TAG).await.refused(502, "UNAVAILABLE");
        assert!(why.contains("realm"), "{why}");
    }
    upstream.now(move |asked| challenged(asked, &at(asked), status(401)));
    let why = Yard::with(upstream.config(ALWAYS)).get(TAG).await.refused(502, "UNAVAILABLE");
    assert!(why.contains("does not accept user `builder`") && !why.contains(PASSWORD), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_is_said_without_the_password_and_nothing_old_is_served() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(ALWAYS));
    yard.get(TAG).await;
    upstream.now(|_| {
        let mut response = status(401);
        response.headers_mut().insert("www-authenticate", "Basic realm=\"images\"".parse().unwrap());
        response
    });
    let why = yard.get(TAG).await.refused(502, "UNAVAILABLE");
    assert!(why.contains("does not accept user `builder`") && !why.contains(PASSWORD), "{why}");
    upstream.now(|_| status(403));
    let why = yard.get(TAG).await.refused(404, "NAME_UNKNOWN");
    assert!(why.contains("does not exist at upstream registry"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_hold_before_upstream_is_asked_and_nobody_pushes_into_a_mirror() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(ALWAYS));
    yard.ask("GET", TAG).by("reader").send().await.refused(404, "NAME_UNKNOWN");
    yard.ask("GET", TAG).by_nobody().send().await.refused(401, "UNAUTHORIZED");
    assert!(upstream.story().is_empty());
    let pushes = [
        ("PUT", "/v2/hub/library/clock/manifests/1"),
        ("POST", "/v2/hub/library/clock/blobs/uploads/"),
        ("PATCH", "/v2/hub/library/clock/blobs/uploads/3fa85f64-5717-4562-b3fc-2c963f66afa6"),
    ];
    for (method, path) in pushes {
        let why = yard.ask(method, path).body("x").send().await.refused(403, "DENIED");
        let sentence = format!("`hub/library/clock` is a mirror of {}", upstream.address);
        assert!(why.starts_with(&sentence), "{why}");
    }
    assert!(upstream.story().is_empty());
    assert_eq!(yard.registry.tags(&name("hub/library/clock")).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_asks_for_names_without_a_registry() {
    let upstream = Scripted::start(serves("first"));
    let yard = Yard::with(upstream.config(HOUR));
    let pulled = yard.get("/v2/library/clock/manifests/1?ns=hub").await;
    assert_eq!(pulled.body, image("first").into_bytes());
    assert_eq!(yard.get(TAG).await.body, image("first").into_bytes());
    assert_eq!(upstream.story().len(), 1);
    // Rights are those of the repository it means, and another namespace means nothing here.
    let path = "/v2/acme/clock/manifests/1";
    yard.ask("GET", &format!("{path}?ns=hub")).by("reader").send().await.refused(404, "NAME_UNKNOWN");
    yard.ask("GET", &format!("{path}?ns=quay.io")).by("reader").send().await.refused(404, "MANIFEST_UNKNOWN");
    assert!(upstream.story().is_empty());
}

#[tokio::test]
async fn a_mirror_that_cannot_work_is_refused_at_the_start() {
    let open = |change: fn(&mut Mirror)| {
        let mut mirror = Mirror {
            prefix: name("hub"),
            upstream: "https://127.0.0.1:1".parse().unwrap(),
            login: None,
            ca_pem: None,
            revalidate: HOUR,
        };
        change(&mut mirror);
        let folder = tempfile::tempdir().unwrap();
        let config: Config = mirroring(mirror);
        mergeyard_registry::Registry::open(folder.path(), config).map(drop).map_err(|error| error.to_string())
    };
    open(|_| {}).unwrap();
    let refused: [fn(&mut Mirror); 3] = [
        |mirror| mirror.ca_pem = Some(b"no certificate".to_vec()),
        |mirror| mirror.upstream = "http://127.0.0.1:1".parse().unwrap(),
        |mirror| mirror.upstream = "https://me:hidden@127.0.0.1:1".parse().unwrap(),
    ];
    for change in refused {
        let why = open(change).unwrap_err();
        assert!(why.starts_with("the mirror `hub` cannot be used: ") && !why.contains("hidden"), "{why}");
    }
}
