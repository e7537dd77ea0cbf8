//! The real program at the edges: the server as a process, the real engine, git, sshd and
//! registries, and stock clients. Only GitHub is played.

mod ansible;
mod bridge;
mod demo;
mod engine_gone;
mod exhaustion;
mod external_registry;
mod git_hook;
mod lab;
mod lone_registry;
mod main_job;
mod mirrored_base;
mod pipelines;
mod reattach;
mod registry_alone;
mod registry_upkeep;
mod robots;
mod rollout;
mod run_command;
mod sigkill;
mod ssh;
mod target_check;
mod tocos;
mod up;
mod vm;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use futures_util::StreamExt;
use mergeyard_server::{
    github::signature,
    sample::{SampleMerge, SampleRepository, payload},
};
use mergeyard_testkit::{
    fake_github::FakeGithub,
    process::{self, PATIENCE, Process, Said, Signal, free_port, seen, tool, until},
    yard::{answer, borrowed},
};
use mergeyard_types::{RepoName, Secret};
use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

const SECRET: &str = "the-secret-of-the-real-yard";

/// Files of a repository, by their paths.
type Files = Vec<(String, Vec<u8>)>;

/// Everything around one server process. The ports stay the same over restarts, so that
/// images keep their names.
struct RealYard {
    github: FakeGithub,
    sample: SampleRepository,
    first: SampleMerge,
    folder: TempDir,
    config: toml::Table,
    port: u16,
    registry: u16,
    server: Option<Process>,
    http: reqwest::Client,
}

/// A service of one file: quick to build, and another image for each `content`.
fn service(folder: &str, version: &str, content: &str) -> Files {
    built_from(folder, version, "FROM scratch\nCOPY content /content\n", content)
}

fn built_from(folder: &str, version: &str, dockerfile: &str, content: &str) -> Files {
    let spec = format!(r#"{{"service":{{"name":"clock-{folder}","version":"{version}"}}}}"#);
    let files = [("Dockerfile", dockerfile), ("spec.json", &spec), ("content", content)];
    files.map(|(file, text)| (format!("{folder}/{file}"), text.as_bytes().to_vec())).into()
}

impl RealYard {
    async fn new(files: Files) -> Self {
        Self::with(files, |_| {}).await
    }

    /// A server that is ready, with a repository that holds `files`.
    async fn with(files: Files, configure: impl FnOnce(&mut toml::Table)) -> Self {
        let mut yard = Self::stopped(files, configure).await;
        yard.start().await;
        yard
    }

    async fn stopped(files: Files, configure: impl FnOnce(&mut toml::Table)) -> Self {
        let said = process::run(tool("docker").args(["version", "--format", "{{.Server.Version}}"])).await;
        assert!(said.status.success(), "no Docker engine answers; run scripts/setup.sh: {said}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name: RepoName = "acme/clock".parse().expect("a name");
        let path = folder.path().join("clock.git");
        let (sample, first) = SampleRepository::create(&path, name, &borrowed(&files)).expect("a repository");
        let github = FakeGithub::start().await;
        github.add_repo(sample.name());
        let (port, registry) = (free_port(), free_port());
        let mut config = configuration(&folder, &sample, &github, port, registry);
        configure(&mut config);
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { github, sample, first, folder, config, port, registry, server: None, http }
    }

    /// Starts the server on what there is, and waits until it is ready.
    async fn start(&mut self) {
        self.start_as(process::mergeyard()).await;
    }

    async fn start_as(&mut self, mut command: Command) {
        std::fs::write(self.config_file(), self.config.to_string()).expect("the folder can be written");
        command.arg("serve").arg("--config").arg(self.config_file());
        let server = Process::start("mergeyard", &mut command);
        server.says("mergeyard is ready").await;
        self.server = Some(server);
    }

    fn server(&self) -> &Process {
        self.server.as_ref().expect("the server runs")
    }

    /// Ends it as `kill -9` does.
    async fn kill(&mut self) {
        self.server.take().expect("the server runs").kill().await;
    }

    /// Ends it as a service manager does.
    async fn stop(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        server.signal(Signal::TERM);
        let status = server.ended().await;
        assert!(status.success(), "{status}\n{}", server.said());
    }

    /// Forgets everything but the repository, as if nothing had ever been received.
    async fn forget(&mut self) {
        std::fs::remove_dir_all(self.data()).expect("the data directory is there");
        self.github = FakeGithub::start().await;
        self.github.add_repo(self.sample.name());
        set(&mut self.config, "github", "api_url", self.github.api_url().as_str());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config_file(&self) -> PathBuf {
        self.path("mergeyard.toml")
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// One command on the command line, with this server's configuration.
    async fn mergeyard(&self, arguments: &[&str]) -> Said {
        process::run(process::mergeyard().args(arguments).arg("--config").arg(self.config_file())).await
    }

    fn merged(&self, merge: &SampleMerge) -> Value {
        payload::merged_pull_request(&self.sample.hosted(), merge)
    }

    /// Sends the webhook of a merge, and waits until it was taken.
    async fn announce(&self, id: &str, merge: &SampleMerge) {
        let answer = answer(self.webhook(id, &self.merged(merge))).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    }

    fn webhook(&self, id: &str, payload: &Value) -> reqwest::RequestBuilder {
        self.webhook_of("pull_request", id, payload)
    }

    fn webhook_of(&self, event: &str, id: &str, payload: &Value) -> reqwest::RequestBuilder {
        let body = payload.to_string();
        self.http
            .post(self.url("/hooks/github"))
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Delivery", id)
            .header("Content-Type", "application/json")
            .header("X-Hub-Signature-256", signature::sign(&Secret::new(SECRET), body.as_bytes()))
            .body(body)
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.http.get(self.url(path)).send().await.expect("the server answers");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.expect("a page")
    }

    /// What the server tells the page of a run, as soon as the condition holds.
    async fn run_until(&self, run: u64, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let watch = seen(async || self.watch(run, &holds, &mut last).await);
        let seen = tokio::time::timeout(PATIENCE, watch).await;
        seen.unwrap_or_else(|_| {
            let said = self.server.as_ref().map(Process::said).unwrap_or_default();
            panic!("waited in vain for run {run}: {what}; it is {last:#}\n{said}")
        })
    }

    /// Follows a run until the condition holds; `None` when there is nothing to follow.
    async fn watch(&self, run: u64, holds: &impl Fn(&Value) -> bool, last: &mut Value) -> Option<Value> {
        let request = self.http.get(self.url(&format!("/api/v1/runs/{run}/events")));
        let mut chunks = request.send().await.ok()?.error_for_status().ok()?.bytes_stream();
        let mut text = Vec::new();
        while let Some(Ok(chunk)) = chunks.next().await {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let data = event.lines().find_map(|line| line.strip_prefix("data:"));
                let Some(document) = data.and_then(|data| serde_json::from_str::<Value>(data).ok()) else {
                    continue;
                };
                if document["run"].is_object() {
                    *last = document;
                    if holds(last) {
                        return Some(last.clone());
                    }
                }
            }
        }
        None
    }

    /// A run once it is over.
    async fn finished(&self, run: u64) -> Value {
        self.run_until(run, "its end", is_final).await
    }

    /// The text of the first step's log.
    async fn log(&self, document: &Value) -> String {
        self.log_of(&document["workflows"][0]["steps"][0]).await
    }

    /// The text of the log of one step of a run.
    async fn log_of(&self, step: &Value) -> String {
        let step = &step["id"];
        self.page(&format!("/api/v1/steps/{step}/log?format=text")).await
    }

    /// A folder with the authority of the registry, as stock clients want it.
    fn trusted(&self) -> PathBuf {
        let folder = self.path("trusted");
        std::fs::create_dir_all(&folder).expect("the folder can be written");
        std::fs::copy(self.data().join("tls/ca.pem"), folder.join("ca.crt")).expect("the authority is there");
        folder
    }

    fn password(&self) -> String {
        let text = std::fs::read_to_string(self.data().join("registry-password"));
        text.expect("the server made a password").trim().to_owned()
    }

    /// Whose all is that this server makes in the engine.
    fn owner(&self) -> String {
        let id = std::fs::read_to_string(self.data().join("id"));
        id.expect("the server made itself a name").trim().to_owned()
    }

    /// Returns when the engine has nothing more of this server's pipelines, caches aside.
    async fn engine_is_clean(&self) {
        let owner = self.owner();
        let look = async || {
            let left = left_in_engine(&owner).await;
            left.lines().all(|line| line.starts_with("volume ") && line.contains("-cache-")).then_some(())
        };
        until("the engine to be clean", look).await;
    }

    /// `skopeo` with the authority and the login.
    async fn inspect(&self, reference: &str) -> Value {
        inspect(&self.trusted(), &format!("mergeyard:{}", self.password()), reference).await
    }

    /// Everything a person could find out afterwards, without times and numbers of attempts.
    async fn world(&self) -> String {
        let mut world = String::new();
        let list = self.mergeyard(&["deliveries", "list", "--format", "json"]).await.good();
        let list: Vec<Value> = serde_json::from_str(&list).expect("JSON");
        for delivery in list.iter().rev() {
            let [id, state, verdict] = ["delivery", "state", "verdict"].map(|key| &delivery[key]);
            let _ = writeln!(world, "delivery {id} {state} {verdict}");
            let Some(run) = delivery["run"].as_u64() else { continue };
            let document = self.finished(run).await;
            let _ = writeln!(world, "run {run} {}", document["run"]["state"]);
            for workflow in list_of(&document["workflows"]) {
                let [axis, state, why] = ["axis", "state", "why"].map(|key| &workflow[key]);
                let _ = writeln!(world, "  {axis} {state} {why}");
            }
            let mut images = Vec::new();
            for image in list_of(&document["images"]) {
                images.push(format!("  {}\n", self.published(image).await));
            }
            // Two builds run at a time, and either may be published first.
            images.sort();
            world.extend(images);
        }
        for (context, status) in self.statuses() {
            let _ = writeln!(world, "github {context} {status}");
        }
        world
    }

    /// One image of a run as the registry has it. The digest names when it was built too, so
    /// what two worlds have in common is the tree and the content.
    async fn published(&self, image: &Value) -> String {
        let (reference, digest) = (text(&image["ref"]), text(&image["digest"]));
        let found = self.inspect(reference).await;
        assert_eq!(text(&found["Digest"]), digest, "what the registry has is what the run says");
        format!("{reference} {} {}", found["Labels"]["dev.mergeyard.tree"], found["Layers"])
    }

    /// The last status of each context.
    fn statuses(&self) -> std::collections::BTreeMap<String, String> {
        let repo = self.sample.name();
        self.github.read(|world| {
            let all = world.repos.get(repo).map(|repo| &repo.statuses[..]).unwrap_or_default();
            all.iter().map(|s| (s.context.clone(), format!("{} {}", s.state, s.description))).collect()
        })
    }
}

/// The engine keeps what was built in it; a test's part goes with the test.
impl Drop for RealYard {
    fn drop(&mut self) {
        drop(self.server.take());
        remove_images(&format!("127.0.0.1:{}/*", self.registry));
        remove_caches(&self.data());
    }
}

fn docker(arguments: &[&str]) -> String {
    let output = std::process::Command::new("docker").args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Caches outlive their server, in the hope of a next one.
fn remove_caches(data: &Path) {
    let Ok(owner) = std::fs::read_to_string(data.join("id")) else { return };
    let label = format!("label=mergeyard.owner={}", owner.trim());
    for volume in docker(&["volume", "ls", "-q", "--filter", &label]).lines() {
        docker(&["volume", "rm", volume]);
    }
}

fn remove_images(pattern: &str) {
    let images = docker(&["images", "-q", "--filter", &format!("reference={pattern}")]);
    for image in images.lines() {
        docker(&["rmi", "-f", image]);
    }
}

fn configuration(
    folder: &TempDir,
    sample: &SampleRepository,
    github: &FakeGithub,
    port: u16,
    registry: u16,
) -> toml::Table {
    let text = format!(
        r#"
        data_dir = "data"
        [http]
        listen = "127.0.0.1:{port}"
        public_url = "http://127.0.0.1:{port}"
        [github]
        api_url = "{api}"
        webhook_secret = "{SECRET}"
        token = {{ file = "token" }}
        [git]
        webhook_secret = {{ file = "git-secret" }}
        [engine]
        host = "{engine}"
        [registry]
        listen = "127.0.0.1:{registry}"
        [[repo]]
        name = "{name}"
        branches = ["develop"]
        clone_url = "{clone_url}"
        "#,
        api = github.api_url(),
        engine = engine(),
        name = sample.name(),
        clone_url = sample.hosted().clone_url,
    );
    std::fs::write(folder.path().join("token"), github.token().expose()).expect("the folder can be written");
    std::fs::write(folder.path().join("git-secret"), GIT_SECRET).expect("the folder can be written");
    text.parse().expect("TOML")
}

/// Longer than a block of the hash, and not only of letters.
const GIT_SECRET: &str =
    "the $secret of 'git' is \"long\" \\ 0123456789abcdef0123456789abcdef0123456789abcdef";

fn engine() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

fn set(config: &mut toml::Table, section: &str, key: &str, value: impl Into<toml::Value>) {
    let section = config.entry(section).or_insert_with(|| toml::Table::new().into());
    section.as_table_mut().expect("a section").insert(key.to_owned(), value.into());
}

fn is_final(document: &Value) -> bool {
    ["success", "failure", "error", "cancelled", "skipped"].contains(&text(&document["run"]["state"]))
}

/// `axis: state` of each workflow.
fn states(document: &Value) -> Vec<String> {
    let workflows = list_of(&document["workflows"]).iter();
    workflows.map(|w| format!("{}: {}", text(&w["axis"]), text(&w["state"]))).collect()
}

/// The step of a run's document.
fn step<'a>(run: &'a Value, workflow: &str, step: &str) -> &'a Value {
    let find = |list: &'a Value, name: &str| list_of(list).iter().find(|item| item["name"] == name);
    let found = find(&run["workflows"], workflow).and_then(|workflow| find(&workflow["steps"], step));
    found.unwrap_or_else(|| panic!("there is no {workflow}/{step} in {run:#}"))
}

/// What the engine has of one mergeyard: a line for each container, network and volume.
async fn left_in_engine(owner: &str) -> String {
    let label = format!("label=mergeyard.owner={owner}");
    let listed = async |arguments: &[&str]| {
        process::run(tool("docker").args(arguments).args(["--filter", &label])).await.good()
    };
    let containers = listed(&["ps", "-a", "--format", "container {{.Names}}"]).await;
    let networks = listed(&["network", "ls", "--format", "network {{.Name}}"]).await;
    containers + &networks + &listed(&["volume", "ls", "--format", "volume {{.Name}}"]).await
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list_of(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

async fn inspect(trusted: &Path, login: &str, reference: &str) -> Value {
    let mut skopeo = tool("skopeo");
    skopeo.args(["inspect", "--creds", login, "--cert-dir"]).arg(trusted);
    let said = process::run(skopeo.arg(format!("docker://{reference}"))).await.good();
    serde_json::from_str(&said).expect("JSON")
}

/// A build that goes on until the gate is opened. The gate is a file in a cache mount, which
/// is what a build can see and a test can reach.
struct Gate(String);

impl Gate {
    fn new() -> Self {
        Self(format!("gate-{}", uuid::Uuid::new_v4().simple()))
    }

    fn dockerfile(&self) -> String {
        let Self(id) = self;
        format!(
            "FROM debian:bookworm-slim\n\
             RUN --mount=type=cache,id={id},target=/{id} until [ -e /{id}/open ]; do sleep 0.1; done\n"
        )
    }

    async fn open(&self, yard: &RealYard) {
        let (Self(id), folder) = (self, yard.folder.path());
        let text =
            format!("FROM debian:bookworm-slim\nRUN --mount=type=cache,id={id},target=/{id} : >/{id}/open\n");
        std::fs::write(folder.join("Dockerfile"), text).expect("the folder can be written");
        let tar = process::run(
            tool("tar").arg("-C").arg(folder).args(["-cf", "gate.tar", "Dockerfile"]).current_dir(folder),
        )
        .await;
        tar.good();
        let engine = engine();
        let (socket, address) = match engine.strip_prefix("unix://") {
            Some(path) => (vec!["--unix-socket", path], "http://engine".to_owned()),
            None => (vec![], engine.replace("tcp://", "http://")),
        };
        let mut curl = tool("curl");
        curl.args(socket).args([
            "-fsS",
            "-H",
            "Content-Type: application/x-tar",
            "--data-binary",
            "@gate.tar",
        ]);
        // Under a name of the yard's, so that it goes with the yard.
        let build = format!("{address}/build?version=2&t=127.0.0.1:{}/gate", yard.registry);
        let said = process::run(curl.arg(build).current_dir(folder)).await;
        assert!(!said.good().contains("\"error\""), "the gate cannot be opened");
    }

    /// Whether a build stands before the gate. What builds run are processes of this machine.
    fn is_waited_at(&self) -> bool {
        let all = std::fs::read_dir("/proc").expect("/proc is there").flatten();
        let mut lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.any(|line| String::from_utf8_lossy(&line).contains(&self.0))
    }

    async fn waited_at(&self, wanted: bool) {
        until("the build to be at the gate", async || (self.is_waited_at() == wanted).then_some(())).await;
    }
}
