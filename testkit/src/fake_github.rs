//! A GitHub in memory, behind a real socket.
//!
//! It keeps what it was told (statuses, deployments, webhooks), sends webhooks and remembers how they were
//! answered, loses one when asked to, and misbehaves on demand. What a test then sees is not
//! a list of canned answers but a world that both sides changed. The shapes are those of the
//! REST API, version 2022-11-28, at the root and under `/api/v3` as on an enterprise server.

mod deployments;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
    serve::Listener,
};
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, StatusCode, header};
use mergeyard_types::{CommitSha, DeliveryId, RepoName, Secret, Timestamp};
use reqwest::Url;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub use deployments::{Deployment, DeploymentStatus};

/// The one token that may do everything.
pub const TOKEN: &str = "fake-github-token-7c1f";

/// GitHub waits this long for the answer to a webhook.
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(10);

/// A condition that is not met by then will never be: the test fails and tells what happened.
const TEST_PATIENCE: Duration = Duration::from_secs(30);

const LONGEST_REQUEST: usize = 1 << 20;

pub struct FakeGithub {
    address: SocketAddr,
    shared: Shared,
    server: tokio::task::JoinHandle<()>,
}

/// Everything the fake knows. Changes are seen by whoever waits for them.
#[derive(Debug, Default)]
pub struct World {
    pub repos: BTreeMap<RepoName, Repo>,
    pub requests: Vec<ApiRequest>,
    faults: VecDeque<Fault>,
    deliveries_to_lose: usize,
    clock: Option<Timestamp>,
    ids: u64,
}

#[derive(Debug, Default)]
pub struct Repo {
    pub statuses: Vec<Status>,
    pub deployments: Vec<Deployment>,
    pub hooks: Vec<Hook>,
    /// What each pull request changes, by its number.
    pub files: BTreeMap<u64, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub sha: CommitSha,
    pub state: String,
    pub context: String,
    pub description: String,
    pub target_url: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Hook {
    pub id: u64,
    pub url: String,
    pub secret: Option<Secret>,
    pub content_type: String,
    pub insecure_ssl: String,
    pub active: bool,
    pub events: Vec<String>,
    /// In the order they were made; the API lists the newest first.
    pub attempts: Vec<Attempt>,
}

/// One try to deliver a webhook.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub id: u64,
    pub guid: DeliveryId,
    pub delivered_at: Timestamp,
    pub redelivery: bool,
    /// What was answered; 502 when nothing was, as GitHub notes it.
    pub status_code: u16,
    pub event: String,
    pub payload: Value,
}

/// One request to the API, as it was answered. Status 0: it was not.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiRequest {
    pub method: String,
    pub path: String,
    pub authorized: bool,
    pub body: Value,
    pub status: u16,
}

#[derive(Debug, Clone)]
pub enum Fault {
    ServerError,
    /// GitHub does not always name the time.
    SecondaryRateLimit {
        retry_after: Option<Duration>,
    },
    PrimaryRateLimit {
        reset: Duration,
    },
    Unauthorized,
    Redirect {
        status: u16,
        to: String,
    },
    /// Whatever else may stand between us and GitHub.
    Answer {
        status: u16,
        body: String,
    },
    /// The request is read and never answered.
    Hang,
    /// The connection is closed before anything is read.
    CloseConnection,
}

impl FakeGithub {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(WEBHOOK_PATIENCE)
            .build()
            .expect("a plain client");
        let shared = Shared { world: Arc::new(watch::Sender::new(World::default())), client, address };
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let listener = Unreliable { listener, shared: shared.clone() };
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the fake serves until it is dropped");
        });
        Self { address, shared, server }
    }

    pub fn api_url(&self) -> Url {
        self.shared.link("")
    }

    /// As on an enterprise server, where the API lies below a path.
    pub fn enterprise_url(&self) -> Url {
        self.shared.link("/api/v3")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn token(&self) -> Secret {
        Secret::new(TOKEN)
    }

    /// Repositories that were not added answer 404.
    pub fn add_repo(&self, name: &RepoName) {
        self.shared.change(|world| {
            world.repos.entry(name.clone()).or_default();
        });
    }

    /// What pull request `number` changes.
    pub fn set_files(&self, repo: &RepoName, number: u64, files: Vec<String>) {
        self.shared.change(|world| world.repos.entry(repo.clone()).or_default().files.insert(number, files));
    }

    /// From now on it is this time, until it is set again. Before, the system's clock counts.
    pub fn set_time(&self, now: Timestamp) {
        self.shared.change(|world| world.clock = Some(now));
    }

    pub fn fail_next(&self, times: usize, fault: Fault) {
        self.shared.change(|world| world.faults.extend(std::iter::repeat_n(fault, times)));
    }

    /// The next attempt to deliver is noted as failed and never made.
    pub fn lose_next_delivery(&self) {
        self.shared.change(|world| world.deliveries_to_lose += 1);
    }

    /// Adds a webhook as a person would on the settings page.
    pub fn add_hook(&self, repo: &RepoName, hook: impl FnOnce(&mut Hook)) -> u64 {
        self.shared.change(|world| {
            let mut added = Hook::new(world.next_id());
            hook(&mut added);
            let id = added.id;
            world.repos.entry(repo.clone()).or_default().hooks.push(added);
            id
        })
    }

    /// Sends a webhook to `target_url` and waits for its answer. The repository is the one
    /// in the payload; it gets a webhook to that address when it has none.
    pub async fn deliver(
        &self,
        target_url: &str,
        secret: &Secret,
        event: &str,
        payload: &Value,
    ) -> DeliveryId {
        let repo = repository_of(payload);
        let known = self.read(|world| {
            let hooks = world.repos.get(&repo).map(|repo| &repo.hooks[..]).unwrap_or_default();
            hooks.iter().find(|hook| hook.url == target_url).map(|hook| hook.id)
        });
        let hook = known.unwrap_or_else(|| {
            self.add_hook(&repo, |hook| {
                hook.url = target_url.to_owned();
                hook.secret = Some(secret.clone());
            })
        });
        self.shared.attempt(&repo, hook, None, event, payload).await
    }

    /// Something happened in a repository: every webhook that wants to know is told, in turn.
    pub async fn happen(&self, event: &str, payload: &Value) -> Vec<DeliveryId> {
        let repo = repository_of(payload);
        let wants = |hook: &&Hook| hook.active && hook.events.iter().any(|e| e == event || e == "*");
        let hooks: Vec<u64> = self.read(|world| {
            let hooks = world.repos.get(&repo).map(|repo| &repo.hooks[..]).unwrap_or_default();
            hooks.iter().filter(wants).map(|hook| hook.id).collect()
        });
        let mut guids = Vec::new();
        for hook in hooks {
            guids.push(self.shared.attempt(&repo, hook, None, event, payload).await);
        }
        guids
    }

    pub fn read<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.shared.world.borrow())
    }

    /// All statuses ever set on a commit, in order.
    pub fn statuses(&self, repo: &RepoName, sha: CommitSha) -> Vec<Status> {
        self.read(|world| world.statuses(repo, sha).cloned().collect())
    }

    /// The one GitHub shows: a later status of the same context replaces an earlier one.
    pub fn latest_status(&self, repo: &RepoName, sha: CommitSha, context: &str) -> Option<Status> {
        self.read(|world| world.statuses(repo, sha).filter(|s| s.context == context).last().cloned())
    }

    pub fn requests(&self) -> Vec<ApiRequest> {
        self.read(|world| world.requests.clone())
    }

    /// The requests in order, a line each.
    pub fn story(&self) -> String {
        self.read(|world| world.requests.iter().map(|request| format!("{request}\n")).collect())
    }

    /// Returns as soon as the condition holds.
    pub async fn wait_until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        let mut world = self.shared.world.subscribe();
        let met = tokio::time::timeout(TEST_PATIENCE, world.wait_for(|world| condition(world))).await.is_ok();
        assert!(met, "waited {TEST_PATIENCE:?} in vain for {what}; github was asked:\n{}", self.story());
    }
}

impl Drop for FakeGithub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    pub fn hook(&self, id: u64) -> Option<&Hook> {
        self.repos.values().flat_map(|repo| &repo.hooks).find(|hook| hook.id == id)
    }

    fn statuses(&self, repo: &RepoName, sha: CommitSha) -> impl Iterator<Item = &Status> {
        let statuses = self.repos.get(repo).map(|repo| &repo.statuses[..]).unwrap_or_default();
        statuses.iter().filter(move |status| status.sha == sha)
    }

    fn hook_mut(&mut self, repo: &RepoName, id: u64) -> Option<&mut Hook> {
        self.repos.get_mut(repo)?.hooks.iter_mut().find(|hook| hook.id == id)
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        1000 + self.ids
    }

    fn now(&self) -> Timestamp {
        self.clock.unwrap_or_else(Timestamp::now)
    }
}

impl Hook {
    fn new(id: u64) -> Self {
        Self {
            id,
            url: String::new(),
            secret: None,
            content_type: "json".into(),
            insecure_ssl: "0".into(),
            active: true,
            events: ["pull_request", "push", "release", "deployment"].map(str::to_owned).to_vec(),
            attempts: vec![],
        }
    }

    fn configure(&mut self, body: &Value) -> Result<(), Refusal> {
        if let Some(config) = body.get("config").filter(|config| config.is_object()) {
            let text = |name: &str| config[name].as_str().map(str::to_owned);
            self.url = text("url")
                .filter(|url| Url::parse(url).is_ok())
                .ok_or_else(|| invalid("config.url is invalid"))?;
            self.secret = text("secret").map(Secret::new);
            self.content_type = text("content_type").unwrap_or_else(|| "form".into());
            self.insecure_ssl = text("insecure_ssl").unwrap_or_else(|| "0".into());
        }
        let names = |field: &str| -> Option<Vec<String>> {
            Some(
                body.get(field)?
                    .as_array()?
                    .iter()
                    .filter_map(|name| Some(name.as_str()?.to_owned()))
                    .collect(),
            )
        };
        if let Some(events) = names("events") {
            self.events = events;
        }
        for event in names("add_events").unwrap_or_default() {
            if !self.events.contains(&event) {
                self.events.push(event);
            }
        }
        if let Some(active) = body["active"].as_bool() {
            self.active = active;
        }
        Ok(())
    }

    fn json(&self, link: &str) -> Value {
        let last = match self.attempts.last() {
            None => json!({ "code": null, "status": "unused", "message": null }),
            Some(last) if last.arrived() => {
                json!({ "code": last.status_code, "status": "active", "message": "OK" })
            }
            Some(last) => {
                json!({ "code": last.status_code, "status": "invalid_http_response", "message": "Invalid HTTP Response" })
            }
        };
        let mut config =
            json!({ "url": self.url, "content_type": self.content_type, "insecure_ssl": self.insecure_ssl });
        if self.secret.is_some() {
            config["secret"] = "********".into();
        }
        json!({
            "type": "Repository",
            "id": self.id,
            "name": "web",
            "active": self.active,
            "events": self.events,
            "config": config,
            "created_at": "2024-01-02T09:00:00Z",
            "updated_at": "2024-01-02T09:00:00Z",
            "url": link,
            "test_url": format!("{link}/test"),
            "ping_url": format!("{link}/pings"),
            "deliveries_url": format!("{link}/deliveries"),
            "last_response": last,
        })
    }
}

impl Attempt {
    fn arrived(&self) -> bool {
        (200..300).contains(&self.status_code)
    }

    fn json(&self) -> Value {
        let at =
            jiff::Timestamp::from_millisecond(self.delivered_at.0).expect("a time this fake can be set to");
        json!({
            "id": self.id,
            "guid": self.guid,
            "delivered_at": at.to_string(),
            "redelivery": self.redelivery,
            "duration": 0.03,
            "status": if self.arrived() { "OK" } else { "failed to connect to host" },
            "status_code": self.status_code,
            "event": self.event,
            "action": self.payload.get("action"),
            "installation_id": null,
            "repository_id": self.payload["repository"]["id"],
            "throttled_at": null,
        })
    }
}

impl fmt::Display for ApiRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.method, self.path, self.status)
    }
}

fn repository_of(payload: &Value) -> RepoName {
    let name = payload["repository"]["full_name"].as_str().expect("a payload names its repository");
    name.parse().expect("a payload's repository has a valid name")
}

/// What the server and the test share.
#[derive(Clone)]
struct Shared {
    world: Arc<watch::Sender<World>>,
    client: reqwest::Client,
    address: SocketAddr,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut result = None;
        self.world.send_modify(|world| result = Some(change(world)));
        result.expect("the change was made")
    }

    fn link(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().expect("an address and a path make a URL")
    }

    /// Sends one webhook and notes how it was answered. Without a `guid` it is a new one.
    async fn attempt(
        &self,
        repo: &RepoName,
        hook: u64,
        guid: Option<DeliveryId>,
        event: &str,
        payload: &Value,
    ) -> DeliveryId {
        let redelivery = guid.is_some();
        let (id, delivered_at, lost, hook_now) = self.change(|world| {
            let lost = world.deliveries_to_lose > 0;
            world.deliveries_to_lose -= usize::from(lost);
            let hook_now = world.hook(hook).expect("the webhook is still there").clone();
            (world.next_id(), world.now(), lost, hook_now)
        });
        let guid = guid.unwrap_or_else(|| {
            format!("{id:08x}-0000-4000-8000-{id:012x}")
                .parse()
                .expect("digits and dashes make a delivery id")
        });
        let status_code = if lost { 502 } else { self.post(&hook_now, &guid, event, payload).await };
        let (event, payload) = (event.to_owned(), payload.clone());
        let attempt =
            Attempt { id, guid: guid.clone(), delivered_at, redelivery, status_code, event, payload };
        self.change(|world| {
            world.hook_mut(repo, hook).expect("webhooks are not deleted").attempts.push(attempt)
        });
        guid
    }

    async fn post(&self, hook: &Hook, guid: &DeliveryId, event: &str, payload: &Value) -> u16 {
        let text = payload.to_string();
        let (content_type, body) = match hook.content_type.as_str() {
            "json" => ("application/json", text),
            _ => {
                let form = Url::parse_with_params("form:/", [("payload", text)])
                    .expect("any text can be a parameter");
                ("application/x-www-form-urlencoded", form.query().unwrap_or_default().to_owned())
            }
        };
        let mut request = self
            .client
            .post(&hook.url)
            .header(header::USER_AGENT, "GitHub-Hookshot/fake")
            .header(header::CONTENT_TYPE, content_type)
            .header("X-GitHub-Delivery", guid.as_str())
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Hook-ID", hook.id)
            .header("X-GitHub-Hook-Installation-Target-Type", "repository");
        if let Some(secret) = &hook.secret {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("any key will do");
            mac.update(body.as_bytes());
            let signature = hex::encode(mac.finalize().into_bytes());
            request = request.header("X-Hub-Signature-256", format!("sha256={signature}"));
        }
        match request.body(body).send().await {
            Ok(answer) => answer.status().as_u16(),
            Err(_) => 502,
        }
    }
}

/// Closes a connection where it was asked to. Every answer closes its own, so that one
/// request is one connection and a fault hits the request it was meant for.
struct Unreliable {
    listener: TcpListener,
    shared: Shared,
}

impl Listener for Unreliable {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = Listener::accept(&mut self.listener).await;
            let close = self.shared.change(|world| {
                let close = matches!(world.faults.front(), Some(Fault::CloseConnection));
                close.then(|| world.faults.pop_front()).is_some()
            });
            if !close {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Listener::local_addr(&self.listener)
    }
}

type Refusal = (u16, Value);

fn invalid(why: &str) -> Refusal {
    (422, json!({ "message": "Validation Failed", "errors": [{ "code": "custom", "message": why }] }))
}

fn not_found() -> Refusal {
    (404, json!({ "message": "Not Found" }))
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let path = path.strip_prefix("/api/v3").unwrap_or(path).to_owned();
    let authorized =
        head.headers.get(header::AUTHORIZATION).is_some_and(|value| *value == format!("Bearer {TOKEN}"));
    let body = to_bytes(Body::new(body), LONGEST_REQUEST).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let fault = shared.change(|world| world.faults.pop_front());
    let (status, headers, answered) = match fault {
        Some(fault) => fault.answer(),
        None if !authorized => Fault::Unauthorized.answer(),
        None => {
            let call = Call {
                shared: &shared,
                path: &path,
                query: head.uri.query().unwrap_or_default(),
                body: &body,
            };
            let mut headers = vec![("x-ratelimit-remaining", "4999".to_owned())];
            match call.perform(&head.method, &mut headers).await {
                Ok((status, answered)) | Err((status, answered)) => (status, headers, answered.to_string()),
            }
        }
    };
    let method = head.method.to_string();
    shared.change(|world| world.requests.push(ApiRequest { method, path, authorized, body, status }));
    if status == 0 {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(status).header(header::CONNECTION, "close");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(answered.into()).expect("a status and plain headers make a response")
}

type Headers = Vec<(&'static str, String)>;

impl Fault {
    /// Status 0 stands for no answer at all.
    fn answer(self) -> (u16, Headers, String) {
        let message = |text: &str| json!({ "message": text }).to_string();
        match self {
            Fault::ServerError => (502, vec![], message("Server Error")),
            Fault::SecondaryRateLimit { retry_after } => {
                let wait = retry_after.map(|wait| ("retry-after", wait.as_secs().to_string()));
                (403, wait.into_iter().collect(), message("You have exceeded a secondary rate limit"))
            }
            Fault::PrimaryRateLimit { reset } => {
                let reset = Timestamp::now().plus(reset).0 / 1000;
                let headers =
                    vec![("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", reset.to_string())];
                (403, headers, message("API rate limit exceeded"))
            }
            Fault::Unauthorized => (401, vec![], message("Bad credentials")),
            Fault::Redirect { status, to } => (status, vec![("location", to)], message("Moved Permanently")),
            Fault::Answer { status, body } => (status, vec![], body),
            Fault::Hang | Fault::CloseConnection => (0, vec![], String::new()),
        }
    }
}

struct Call<'a> {
    shared: &'a Shared,
    path: &'a str,
    query: &'a str,
    body: &'a Value,
}

impl Call<'_> {
    async fn perform(&self, method: &Method, headers: &mut Headers) -> Result<(u16, Value), Refusal> {
        let parts: Vec<&str> = self.path.trim_start_matches('/').split('/').collect();
        let (["repos", owner, name], rest) = parts.split_at_checked(3).ok_or_else(not_found)? else {
            return Err(not_found());
        };
        let repo: RepoName = format!("{owner}/{name}").parse().map_err(|_| not_found())?;
        if !self.shared.world.borrow().repos.contains_key(&repo) {
            return Err(not_found());
        }
        match (method.as_str(), rest) {
            ("POST", ["statuses", sha]) => self.add_status(&repo, sha),
            ("GET", ["deployments"]) => self.list_deployments(&repo),
            ("POST", ["deployments"]) => self.add_deployment(&repo),
            ("POST", ["deployments", id, "statuses"]) => self.add_deployment_status(&repo, id),
            ("GET", ["commits", sha, "statuses"]) => self.list_statuses(&repo, sha),
            ("GET", ["pulls", number, "files"]) => self.list_files(&repo, number),
            ("GET", ["hooks"]) => self.list_hooks(&repo),
            ("POST", ["hooks"]) => self.add_hook(&repo),
            ("PATCH", ["hooks", id]) => self.change_hook(&repo, id),
            ("GET", ["hooks", id, "deliveries"]) => self.list_deliveries(&repo, id, headers),
            ("POST", ["hooks", id, "deliveries", delivery, "attempts"]) => {
                self.redeliver(&repo, id, delivery).await
            }
            _ => Err(not_found()),
        }
    }

    fn add_status(&self, repo: &RepoName, sha: &str) -> Result<(u16, Value), Refusal> {
        let text = |name: &str| self.body[name].as_str().map(str::to_owned);
        let sha: CommitSha = sha.parse().map_err(|_| invalid("No commit found for SHA"))?;
        let state =
            text("state").filter(|s| ["pending", "success", "failure", "error"].contains(&s.as_str()));
        let status = Status {
            sha,
            state: state.ok_or_else(|| invalid("State is not included in the list"))?,
            context: text("context").unwrap_or_else(|| "default".into()),
            description: text("description").unwrap_or_default(),
            target_url: text("target_url"),
        };
        if status.description.chars().count() > 140 {
            return Err(invalid("Description is too long (maximum is 140 characters)"));
        }
        if status.target_url.as_ref().is_some_and(|url| !url.starts_with("http")) {
            return Err(invalid("Target url must use http(s) scheme"));
        }
        let answer = status.json();
        self.shared.change(|world| world.repos.entry(repo.clone()).or_default().statuses.push(status));
        Ok((201, answer))
    }

    fn list_statuses(&self, repo: &RepoName, sha: &str) -> Result<(u16, Value), Refusal> {
        let sha = sha.parse().map_err(|_| not_found())?;
        let world = self.shared.world.borrow();
        let mut statuses: Vec<Value> = world.statuses(repo, sha).map(Status::json).collect();
        statuses.reverse();
        Ok((200, statuses.into()))
    }

    /// Page by page, and never more than three thousand, as the real one.
    fn list_files(&self, repo: &RepoName, number: &str) -> Result<(u16, Value), Refusal> {
        const MOST_FILES: usize = 3000;
        let number: u64 = number.parse().map_err(|_| not_found())?;
        let world = self.shared.world.borrow();
        let repo = world.repos.get(repo).ok_or_else(not_found)?;
        let files = repo.files.get(&number).ok_or_else(not_found)?;
        let length =
            self.parameter("per_page").and_then(|text| text.parse().ok()).unwrap_or(30).clamp(1, 100);
        let page: usize = self.parameter("page").and_then(|text| text.parse().ok()).unwrap_or(1);
        let listed = files.iter().take(MOST_FILES).skip(page.saturating_sub(1) * length).take(length);
        Ok((
            200,
            listed.map(|name| json!({ "filename": name, "status": "modified", "changes": 1 })).collect(),
        ))
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let query = self.shared.link(&format!("/?{}", self.query));
        query.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    fn list_hooks(&self, repo: &RepoName) -> Result<(u16, Value), Refusal> {
        let world = self.shared.world.borrow();
        let hooks = world.repos.get(repo).map(|repo| &repo.hooks[..]).unwrap_or_default();
        Ok((200, hooks.iter().map(|hook| hook.json(&self.hook_link(repo, hook.id))).collect()))
    }

    fn add_hook(&self, repo: &RepoName) -> Result<(u16, Value), Refusal> {
        if !self.body["config"].is_object() {
            return Err(invalid("config is missing"));
        }
        self.shared.change(|world| {
            let mut hook = Hook::new(world.next_id());
            hook.events = vec!["push".into()];
            hook.configure(self.body)?;
            let hooks = &mut world.repos.entry(repo.clone()).or_default().hooks;
            if hooks.iter().any(|other| other.url == hook.url && other.events == hook.events) {
                return Err(invalid("Hook already exists on this repository"));
            }
            let answer = hook.json(&self.hook_link(repo, hook.id));
            hooks.push(hook);
            Ok((201, answer))
        })
    }

    fn change_hook(&self, repo: &RepoName, id: &str) -> Result<(u16, Value), Refusal> {
        let id = id.parse().map_err(|_| not_found())?;
        self.shared.change(|world| {
            let hook = world.hook_mut(repo, id).ok_or_else(not_found)?;
            hook.configure(self.body)?;
            Ok((200, hook.json(&self.hook_link(repo, id))))
        })
    }

    fn list_deliveries(
        &self,
        repo: &RepoName,
        id: &str,
        headers: &mut Headers,
    ) -> Result<(u16, Value), Refusal> {
        let length =
            self.parameter("per_page").and_then(|length| length.parse().ok()).unwrap_or(30).clamp(1, 100);
        let from = self
            .parameter("cursor")
            .and_then(|cursor| cursor.strip_prefix("v1_")?.parse().ok())
            .unwrap_or(u64::MAX);

        let id = id.parse().map_err(|_| not_found())?;
        let world = self.shared.world.borrow();
        let hook = world.hook(id).ok_or_else(not_found)?;
        let mut newest_first = hook.attempts.iter().rev().skip_while(|attempt| attempt.id > from);
        let page: Vec<Value> = newest_first.by_ref().take(length).map(Attempt::json).collect();
        if let Some(next) = newest_first.next() {
            let link =
                format!("{}/deliveries?per_page={length}&cursor=v1_{}", self.hook_link(repo, id), next.id);
            headers.push(("link", format!("<{link}>; rel=\"next\"")));
        }
        Ok((200, page.into()))
    }

    /// The real one answers first and sends later. Here the delivery has arrived when the
    /// answer does, so that a test need not wait for what it asked for.
    async fn redeliver(&self, repo: &RepoName, id: &str, delivery: &str) -> Result<(u16, Value), Refusal> {
        let id = id.parse().map_err(|_| not_found())?;
        let delivery: u64 = delivery.parse().map_err(|_| not_found())?;
        let original = {
            let world = self.shared.world.borrow();
            let hook = world.hook(id).ok_or_else(not_found)?;
            hook.attempts.iter().find(|attempt| attempt.id == delivery).cloned().ok_or_else(not_found)?
        };
        self.shared.attempt(repo, id, Some(original.guid), &original.event, &original.payload).await;
        Ok((StatusCode::ACCEPTED.as_u16(), json!({})))
    }

    fn hook_link(&self, repo: &RepoName, id: u64) -> String {
        self.shared.link(&format!("/repos/{repo}/hooks/{id}")).to_string()
    }
}

impl Status {
    fn json(&self) -> Value {
        json!({
            "state": self.state,
            "context": self.context,
            "description": self.description,
            "target_url": self.target_url,
            "created_at": "2024-01-02T09:00:00Z",
            "updated_at": "2024-01-02T09:00:00Z",
        })
    }
}
