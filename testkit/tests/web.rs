//! The pages, through their router: what they show of hostile text, how they page, and
//! that a log read over a broken connection has every line once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
};
use mergeyard_plan::{
    action::{Action, ImageAction},
    decide::{PlannedRun, PlannedStep, PlannedWorkflow, Verdict},
    event::{Forge, Repository},
    rules::{StepRules, WorkflowRules},
    run::Outcome,
};
use mergeyard_registry::{Account, Grant, Registry, Right, SecretHash};
use mergeyard_run::log::{LogLine, Stream};
use mergeyard_server::{
    changes::Changes,
    clock::Clock,
    logs::Logs,
    store::{self, Created, Delivery, Fuse, Job, Source, Store},
    web::{self, About, MOST_STREAMS, Pages},
};
use mergeyard_types::{DeliveryId, Digest, RunId, Secret, Timestamp, TreeId};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) const NOW: Timestamp = Timestamp(1_795_250_400_000);

/// Everything that text can do on a page, in one line.
pub(crate) const HOSTILE: &str = "<script>alert(1)</script> \"'><img src=x onerror=alert(1)> \u{1b}[31mred\u{1b}[0m \u{1b}]8;;javascript:alert(1)\u{7}link\u{1b}]8;;\u{7} \u{202e}gnp.exe \u{200b}";

pub(crate) struct Site {
    pub(crate) pages: Pages,
    pub(crate) router: Router,
    data: tempfile::TempDir,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(None).await
    }

    async fn with(registry: Option<Registry>) -> Self {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(&data.path().join("db"), Arc::new(Fuse::endless())).await.unwrap();
        let about = About {
            version: "1.2.3".into(),
            registry_host: "registry.example.org:5000".into(),
            engine_host: "unix:///run/engine.sock".into(),
            public_url: "https://ci.example.org/".into(),
        };
        let pages = Pages {
            store,
            logs: Logs::new(data.path().join("logs")),
            clock: Clock::manual(NOW),
            changes: Changes::default(),
            rules: Default::default(),
            about: Arc::new(about),
            registry,
            closing: CancellationToken::new(),
        };
        Self { router: web::router(pages.clone()), pages, data }
    }

    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response<Body> {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn page(&self, path: &str) -> String {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        text(response).await
    }

    async fn deliver(&self, guid: &str, event: &str) -> DeliveryId {
        let id: DeliveryId = guid.parse().unwrap();
        let delivery = Delivery {
            id: id.clone(),
            source: Source::Github,
            event: event.into(),
            content_type: "application/json".into(),
            repo: Some("acme/clock".parse().unwrap()),
            body: vec![0],
            body_size: 2048,
            received: NOW,
            ignored: None,
        };
        self.pages.store.receive(delivery).await.unwrap();
        id
    }

    pub(crate) async fn run(&self, plan: &PlannedRun) -> RunId {
        let id = self.deliver(&format!("run-{}", plan.commit), "pull_request").await;
        let repository = Repository::named(plan.repo.clone());
        match self.pages.store.create_run(&id, 0, &repository, plan, NOW).await.unwrap() {
            Created::Run(run) | Created::Already(run) => run,
            Created::Overtaken => unreachable!("the plan has no number of its own"),
        }
    }

    pub(crate) async fn claim(&self) -> Job {
        self.pages.store.claim_step(NOW, &[]).await.unwrap().expect("a step is ready")
    }

    pub(crate) async fn finish(&self, job: &Job, outcome: Outcome) {
        self.pages.store.report(&job.lease, outcome, NOW).await.unwrap();
        self.pages.changes.tell();
    }

    /// Makes the records say what workers will have written.
    pub(crate) async fn arrange(&self, statement: &str) {
        let options = SqliteConnectOptions::new().filename(self.data.path().join("db"));
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
        self.pages.changes.tell();
    }

    /// Writes a whole log.
    pub(crate) async fn log(&self, job: &Job, lines: impl IntoIterator<Item = String>) {
        let (sender, receiver) = mpsc::channel(1);
        let write = self.pages.logs.write(job.lease.run, job.lease.step, job.attempt, receiver);
        let speak = async {
            for line in lines {
                sender.send(said(&line)).await.unwrap();
            }
            drop(sender);
        };
        let (written, ()) = tokio::join!(write, speak);
        written.unwrap();
    }
}

pub(crate) fn said(text: &str) -> LogLine {
    LogLine { at: NOW, stream: Stream::Stdout, text: text.into() }
}

pub(crate) fn plan(commit: u64, title: &str) -> PlannedRun {
    let action = ImageAction {
        folder: "clock".into(),
        name: "clock".parse().unwrap(),
        version: format!("0.{commit}.0").parse().unwrap(),
        tree: TreeId::new([7; 20]),
    };
    let step = PlannedStep {
        verdict: Verdict::Run,
        rules: StepRules::default(),
        name: "image".into(),
        action: Action::Image(action),
        timeout: Duration::from_secs(60),
        retry: 0,
        serial: None,
    };
    PlannedRun {
        id: None,
        forge: Forge::Github,
        repo: "acme/clock".parse().unwrap(),
        known_as: "acme/clock".parse().unwrap(),
        clone_url: None,
        source_url: Some("https://github.com/acme/clock".into()),
        event: "pull_request_merged".into(),
        branch: "develop".into(),
        commit: format!("{commit:040x}").parse().unwrap(),
        hints: vec![],
        merged_at: None,
        title: title.into(),
        author: "octocat".into(),
        number: Some(42),
        supersede: false,
        occasion: String::new(),
        facts: serde_json::json!({}),
        account: None,
        fork: false,
        hold: None,
        rerun_of: None,
        workflows: vec![PlannedWorkflow {
            rules: WorkflowRules::default(),
            name: "image".into(),
            axis: None,
            verdict: Verdict::Run,
            steps: vec![step],
        }],
    }
}

fn published(version: &str) -> Outcome {
    let image = format!("registry.example.org:5000/clock:{version}");
    let digest = format!("sha256:{}", "5a".repeat(32));
    Outcome::Success { outputs: BTreeMap::from([("image".into(), image), ("digest".into(), digest)]) }
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An event stream over a real connection, read event by event.
pub(crate) struct Events {
    response: reqwest::Response,
    read: String,
}

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

impl Event {
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.data.as_array().into_iter().flatten().map(|line| line["text"].as_str().unwrap().to_owned())
    }
}

impl Events {
    pub(crate) async fn open(server: &str, path: &str, last: Option<&str>) -> Self {
        let mut request = reqwest::Client::new().get(format!("{server}{path}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, read: String::new() }
    }

    /// `None` when the server ends the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.read.split_once("\n\n") {
                let field = |name: &str| {
                    let value = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    value.map(|value| value.trim_start().to_owned())
                };
                let event = field("event").map(|name| Event {
                    name,
                    id: field("id"),
                    data: serde_json::from_str(&field("data").unwrap()).unwrap(),
                });
                self.read = rest.to_owned();
                if event.is_some() {
                    return event;
                }
            }
            let bytes = self.response.chunk().await.unwrap()?;
            self.read.push_str(
                std::str::from_utf8(&bytes).expect("no character is split: all of these texts are ASCII"),
            );
        }
    }

    pub(crate) async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

pub(crate) fn assert_inert(page: &str, path: &str) {
    for bad in ["<script>alert", "<img src=x", "\u{1b}", "\u{202e}", "\u{200b}", "javascript:alert", "\u{7}"]
    {
        assert!(!page.contains(bad), "{path} carries {bad:?}");
    }
    for attribute in [" onerror=\"", " onclick=\"", " style=\"", "<style", "href=\"javascript"] {
        assert!(!page.contains(attribute), "{path} carries {attribute}");
    }
}

#[tokio::test]
async fn hostile_text_is_inert_on_every_page() {
    let site = Site::new().await;
    let mut plan = plan(1, HOSTILE);
    plan.branch = HOSTILE.into();
    plan.author = HOSTILE.into();
    plan.event = HOSTILE.into();
    plan.source_url = Some("javascript:alert(1)//".into());
    plan.workflows[0].name = HOSTILE.into();
    plan.workflows[0].axis = Some(HOSTILE.into());
    plan.workflows[0].steps[0].name = HOSTILE.into();
    let run = site.run(&plan).await;
    let job = site.claim().await;
    site.log(&job, [HOSTILE.to_owned()]).await;
    site.finish(&job, Outcome::Failure { message: HOSTILE.into() }).await;
    let poisonous = site.deliver("poisonous", HOSTILE).await;
    let verdict = store::Verdict::Dead(HOSTILE.into());
    site.pages.store.settle_delivery(&poisonous, verdict, &[], NOW).await.unwrap();
    while let Some(effect) = site.pages.store.next_effect(NOW).await.unwrap() {
        site.pages.store.effect_dead(effect.id, HOSTILE, NOW).await.unwrap();
    }

    let step = job.lease.step;
    let paths = [
        "/".to_owned(),
        "/runs".into(),
        format!("/runs/{run}"),
        format!("/runs/{run}/steps/{step}"),
        format!("/runs/{run}/steps/{step}?q=%3Cscript%3E&case=exact"),
        "/repos/acme/clock".into(),
        "/deliveries".into(),
        "/deliveries/poisonous".into(),
    ];
    for path in paths {
        let page = site.page(&path).await;
        assert_inert(&page, &path);
        assert!(page.contains("⟨U+202E⟩gnp.exe"), "{path} does not show what it hides");
        assert!(page.contains("red"), "{path} lost text");
    }
    for path in [format!("/api/v1/runs/{run}/events"), format!("/api/v1/steps/{step}/log")] {
        let told = text(site.get(&path).await).await;
        for bad in ["\u{1b}", "\\u001b", "\u{202e}", "javascript:alert"] {
            assert!(!told.contains(bad), "{path} carries {bad:?}");
        }
        assert!(told.contains("⟨U+202E⟩gnp.exe"), "{path}");
    }
    let whole = text(site.get(&format!("/api/v1/steps/{step}/log?format=text")).await).await;
    assert!(whole.starts_with("<script>") && whole.contains(" red link ⟨U+202E⟩"), "{whole}");
}

#[tokio::test]
async fn every_answer_has_the_strict_policy() {
    let site = Site::new().await;
    let run = site.run(&plan(1, "title")).await;
    let style = site.page("/").await;
    let style = style.split('"').find(|part| part.contains("/assets/style")).unwrap().to_owned();
    let cases = [
        ("/".to_owned(), 200),
        (format!("/runs/{run}"), 200),
        (style, 200),
        ("/api/v1/steps/1/log?format=text".into(), 200),
        ("/nothing".into(), 404),
        ("/runs/999".into(), 404),
        ("/runs/x".into(), 404),
        ("/targets".into(), 200),
        ("/targets/none".into(), 404),
        ("/targets/%3Cscript%3E".into(), 404),
        ("/api/v1/deployments/events?target=none".into(), 404),
        ("/repos/clock".into(), 404),
        ("/deliveries/no%20such".into(), 404),
        ("/assets/style-0.css".into(), 404),
        ("/api/v1/runs/999/events".into(), 404),
        ("/runs?before=x".into(), 400),
        ("/runs?repo=%3Cscript%3E".into(), 400),
    ];
    for (path, status) in cases {
        let response = site.get(&path).await;
        assert_eq!(response.status(), status, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self';"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(response.headers()["referrer-policy"], "same-origin", "{path}");
        assert!(!text(response).await.contains("<script>"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let request = Request::builder().method(method).uri("/runs").body(Body::empty()).unwrap();
        let response = site.ask(request).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(response.headers().contains_key("content-security-policy"));
    }
    let head = Request::head("/runs").body(Body::empty()).unwrap();
    assert_eq!(site.ask(head).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_failing_store_says_nothing_outside_and_everything_inside() {
    let site = Site::new().await;
    site.pages.store.close().await;
    let response = site.get("/runs").await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let cause = response.extensions().get::<web::Cause>().expect("the cause rides along").0.clone();
    let chain = std::iter::successors(std::error::Error::source(&*cause), |error| error.source());
    assert!(chain.count() > 0);
    let body = text(response).await;
    assert!(body.contains("could not read its records") && !body.contains("pool"), "{body}");
}

#[tokio::test]
async fn lists_page_through_every_run_once() {
    let site = Site::new().await;
    for commit in 1..=120 {
        site.run(&plan(commit, &format!("change number {commit}."))).await;
    }
    for start in ["/runs", "/repos/acme/clock", "/runs?repo=acme/clock", "/deliveries"] {
        let mut path = start.to_owned();
        let mut seen = Vec::new();
        loop {
            let page = site.page(&path).await;
            let titles = page.split("class=\"title\" href=\"").skip(1);
            seen.extend(titles.map(|rest| rest.split('"').next().unwrap().to_owned()));
            match page.split("rel=\"next\" href=\"").nth(1) {
                Some(next) => path = next.split('"').next().unwrap().replace("&#38;", "&"),
                None => break,
            }
        }
        assert_eq!(seen.len(), 120, "{start}");
        let unique: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(unique.len(), 120, "{start}");
        assert!(seen[0].ends_with("120") || start == "/deliveries", "{start} is not newest first");
    }
    let other = site.page("/repos/acme/other").await;
    assert!(other.contains("mergeyard hook add acme/other"));
}

#[tokio::test]
async fn a_run_shows_its_image_source_and_log_without_a_script() {
    let site = Site::new().await;
    let run = site.run(&plan(3, "serve the time")).await;
    let job = site.claim().await;
    site.log(&job, (0..3000).map(|n| format!("line {n}."))).await;
    site.finish(&job, published("0.3.0")).await;

    let page = site.page(&format!("/runs/{run}")).await;
    let commit = format!("{:040x}", 3);
    let digest = format!("sha256:{}", "5a".repeat(32));
    assert!(page.contains(&format!("href=\"https://github.com/acme/clock/commit/{commit}\"")));
    assert!(page.contains("href=\"https://github.com/acme/clock/pull/42\""));
    assert!(page.contains(&format!("docker pull registry.example.org:5000/clock@{digest}")));
    assert!(page.contains("line 2999.") && !page.contains("line 0."), "the end of the log is what counts");
    assert_eq!(page.matches("class=\"stdout\"").count(), 300);
    assert!(page.contains("The last 300 of 3,000 lines"));
    assert!(page.contains(&format!("/api/v1/steps/{}/log?format=text", job.lease.step)));

    let whole = text(site.get(&format!("/api/v1/steps/{}/log?format=text", job.lease.step)).await).await;
    assert!(whole.lines().eq((0..3000).map(|n| format!("line {n}."))));

    // A line far from the end has an address of its own.
    let log = format!("/runs/{run}/steps/{}", job.lease.step);
    assert!(page.contains(&format!("href=\"{log}?line=2999#L2999\"")));
    let deep = site.page(&format!("{log}?line=7")).await;
    assert!(deep.contains("id=\"L7\"") && deep.contains("line 6.") && deep.contains("Later lines"));

    let images = site.page("/images").await;
    assert!(images.contains("0.3.0") && images.contains(&digest) && images.contains(&format!("/runs/{run}")));
}

/// Pushes an image without layers, as a program with an account does.
async fn push(registry: &Registry, name: &str, tag: &str) -> Digest {
    let ask = async |method: &str, path: String, media_type: &str, body: String| {
        let request = Request::builder().method(method).uri(path);
        // yard:secret
        let request =
            request.header("authorization", "Basic eWFyZDpzZWNyZXQ=").header("content-type", media_type);
        let answer =
            mergeyard_registry::router(registry.clone()).oneshot(request.body(Body::from(body)).unwrap());
        assert_eq!(answer.await.unwrap().status(), StatusCode::CREATED);
    };
    let sha256 = |text: &str| Digest::Sha256(Sha256::digest(text).into());
    let config = format!("{{\"tag\":\"{tag}\"}}");
    let upload = format!("/v2/{name}/blobs/uploads/?digest={}", sha256(&config));
    ask("POST", upload, "application/octet-stream", config.clone()).await;
    let image = "application/vnd.oci.image.manifest.v1+json";
    let descriptor = serde_json::json!({"mediaType": "x/y", "digest": sha256(&config), "size": config.len()});
    let manifest = serde_json::json!({"schemaVersion": 2, "config": descriptor, "layers": []}).to_string();
    ask("PUT", format!("/v2/{name}/manifests/{tag}"), image, manifest.clone()).await;
    sha256(&manifest)
}

#[tokio::test]
async fn what_others_pushed_to_the_registry_is_shown_beside_what_runs_published() {
    let data = tempfile::tempdir().unwrap();
    let registry = Registry::open(&data.path().join("registry"), Default::default()).unwrap();
    registry.set_accounts(vec![Account {
        name: "yard".into(),
        secret: SecretHash::of(&Secret::new("secret")),
        grants: vec![Grant::new("**", &[Right::Pull, Right::Push]).unwrap()],
        is_operator: false,
        expires: None,
    }]);
    let site = Site::with(Some(registry.clone())).await;
    assert!(site.page("/images").await.contains("No images yet"));
    push(&registry, "tools/lint", "1").await;
    let newest = push(&registry, "tools/lint", "2").await;
    push(&registry, "other", "latest").await;
    let overview = site.page("/images").await;
    assert!(overview.contains(r#"<a href="/images?name=tools/lint">tools/lint</a>"#), "{overview}");
    assert!(overview.contains("<strong>2</strong>") && overview.contains(&newest.to_string()), "{overview}");
    assert!(!overview.contains("No images yet"));
    let one = site.page("/images?name=tools/lint").await;
    let (second, first) = (one.find("<strong>2</strong>").unwrap(), one.find("<strong>1</strong>").unwrap());
    assert!(second < first && !one.contains("latest"), "{one}");
    assert!(site.page("/images?name=none").await.contains("No images here"));
}

#[tokio::test]
async fn the_end_of_a_log_of_any_size_is_found() {
    let site = Site::new().await;
    let run = site.run(&plan(1, "much to say")).await;
    let job = site.claim().await;
    let filler = "x".repeat(9_000);
    let lines = (0..700).map(|n| if n == 650 { "y".repeat(200_000) } else { format!("{n} {filler}") });
    site.log(&job, lines.chain(["the last word".to_owned()])).await;
    site.finish(&job, Outcome::Failure { message: "no".into() }).await;
    let page = site.page(&format!("/runs/{run}")).await;
    assert!(page.contains("the last word") && page.contains("of 701 lines"));
    assert!(page.len() < 2 * 1024 * 1024, "{} bytes", page.len());
    let whole = text(site.get(&format!("/api/v1/steps/{}/log?format=text", job.lease.step)).await).await;
    assert_eq!(whole.lines().count(), 701, "a line longer than what is read at once was lost");
}

#[tokio::test]
async fn a_resumed_log_has_every_line_exactly_once() {
    let site = Site::new().await;
    site.run(&plan(1, "title")).await;
    let job = site.claim().await;
    let server = serve(&site).await;
    let path = format!("/api/v1/steps/{}/log", job.lease.step);

    let (sender, receiver) = mpsc::channel(8);
    let (logs, lease) = (site.pages.logs.clone(), job.lease);
    let writer = tokio::spawn(async move { logs.write(lease.run, lease.step, 1, receiver).await.unwrap() });

    // Each reader takes a few events, loses its connection, and another goes on where the
    // last one was, while the step goes on speaking.
    const LINES: usize = 20_000;
    let speak = tokio::spawn(async move {
        for n in 0..LINES {
            sender.send(said(&format!("line {n}"))).await.unwrap();
        }
    });
    let mut seen: Vec<String> = Vec::new();
    let mut last: Option<String> = None;
    while seen.len() < LINES {
        let mut events = Events::open(&server, &path, last.as_deref()).await;
        for _ in 0..3 {
            if seen.len() == LINES {
                break;
            }
            let event = events.next().await.expect("the step is not over");
            assert_eq!(event.name, "lines");
            seen.extend(event.texts());
            last = event.id;
        }
    }
    speak.await.unwrap();
    writer.await.unwrap();
    assert!(seen.iter().eq((0..LINES).map(|n| format!("line {n}")).collect::<Vec<_>>().iter()));

    let waiting = Events::open(&server, &path, last.as_deref()).await;
    site.finish(&job, published("0.1.0")).await;
    let rest = waiting.rest().await;
    assert_eq!(rest.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["end"]);

    let again = Events::open(&server, &path, None).await.rest().await;
    assert_eq!(again.iter().flat_map(Event::texts).count(), LINES, "from the start after the end");
}

#[tokio::test]
async fn a_viewer_who_comes_before_the_first_word_hears_all_of_it() {
    let site = Site::new().await;
    site.run(&plan(1, "title")).await;
    let server = serve(&site).await;
    let step = 1;
    let events = Events::open(&server, &format!("/api/v1/steps/{step}/log"), None).await;
    let job = site.claim().await;
    site.pages.changes.tell();
    site.log(&job, ["first".to_owned(), "\u{1b}[32msecond\u{1b}[0m".into()]).await;
    site.finish(&job, published("0.1.0")).await;
    let events = events.rest().await;
    assert_eq!(events.iter().flat_map(Event::texts).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(events.last().unwrap().name, "end");
    let lines: Vec<&Value> = events.iter().filter_map(|event| event.data.as_array()).flatten().collect();
    assert_eq!(lines[1]["spans"][0]["style"], "green");
}

#[tokio::test]
async fn a_run_tells_each_state_and_then_ends() {
    let site = Site::new().await;
    let run = site.run(&plan(1, "title")).await;
    let server = serve(&site).await;
    let mut events = Events::open(&server, &format!("/api/v1/runs/{run}/events"), None).await;
    let state = |event: Option<Event>| event.unwrap().data["run"]["state"].as_str().unwrap().to_owned();
    assert_eq!(state(events.next().await), "queued");
    let job = site.claim().await;
    site.pages.changes.tell();
    assert_eq!(state(events.next().await), "running");
    // A word about something else is no event of this run.
    site.pages.changes.tell();
    site.finish(&job, published("0.1.0")).await;
    let last = events.next().await.unwrap();
    assert_eq!(last.data["run"]["state"], "success");
    assert_eq!(last.data["workflows"][0]["steps"][0]["state"], "success");
    assert_eq!(last.data["images"][0]["ref"], "registry.example.org:5000/clock:0.1.0");
    assert_eq!(events.next().await.unwrap().name, "end");
    assert!(events.next().await.is_none());

    // Who was cut off and comes back is told what is new, and no more.
    let path = format!("/api/v1/runs/{run}/events");
    let mut resumed = Events::open(&server, &path, last.id.as_deref()).await;
    assert_eq!(resumed.next().await.unwrap().name, "end");
    let mut behind = Events::open(&server, &path, Some("of-another-time")).await;
    assert_eq!(behind.next().await.unwrap().id, last.id);
}

#[tokio::test]
async fn viewers_beyond_the_limit_are_asked_to_come_back() {
    let site = Site::new().await;
    let run = site.run(&plan(1, "title")).await;
    let path = format!("/api/v1/runs/{run}/events");
    let mut viewers = Vec::new();
    for _ in 0..MOST_STREAMS {
        viewers.push(site.get(&path).await);
    }
    assert!(viewers.iter().all(|viewer| viewer.status() == StatusCode::OK));
    assert_eq!(site.get(&path).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    viewers.pop();
    assert_eq!(site.get(&path).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn empty_pages_say_what_to_do_next() {
    let site = Site::new().await;
    for (path, advice) in [
        ("/", "mergeyard demo"),
        ("/runs", "mergeyard hook add OWNER/REPO"),
        ("/images", "mergeyard demo"),
        ("/targets", "mergeyard target check"),
        ("/deliveries", "https://ci.example.org/hooks/github"),
    ] {
        assert!(site.page(path).await.contains(advice), "{path}");
    }
    assert!(text(site.get("/nothing").await).await.contains("<a href=\"/runs\">"));
}

pub(crate) async fn serve(site: &Site) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let router = site.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    server
}
