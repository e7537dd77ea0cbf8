//! A whole yard in one process: the real router behind a real socket, a database of its
//! own, real bare git repositories, a real TLS registry, a GitHub in memory, played steps.
//!
//! Workers do not work by themselves: [`TestYard::settle`] lets them work until nothing is
//! due, and [`TestYard::advance`] moves the clock. A yard must be closed with
//! [`TestYard::close`], which asserts that nothing was left over.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use mergeyard_plan::run::{self, Scope};
use mergeyard_registry as registry;
use mergeyard_run::registry_client::RegistryAccess;
use mergeyard_server::{
    clock::Clock,
    config::Config,
    github::signature,
    sample::{SampleMerge, SampleRepository, payload},
    serve::{Parts, Server},
    store::{Answered, DeliveryState, Deployed, Fuse, RunPage},
    workers::Worker,
    yard::Yard,
};
use mergeyard_types::{ImageName, RepoName, RunId, Secret, State, Timestamp, Version};
use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{
    fake_github::FakeGithub,
    process::{self, Said},
    script::{Script, Stage},
};

pub const SECRET: &str = "the-secret-of-the-test-yard";

/// 2030-01-01, so that no test depends on the day it runs.
const BEGINNING: Timestamp = Timestamp(1_893_456_000_000);

pub struct TestYard {
    pub github: FakeGithub,
    pub sample: SampleRepository,
    pub first: SampleMerge,
    pub script: Arc<Script>,
    pub clock: Clock,
    pub images: TestRegistry,
    folder: TempDir,
    config: toml::Table,
    server: Option<Server>,
    http: reqwest::Client,
}

/// The answer to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

/// Two services, as the clock's two: a folder each.
pub fn two_services(version: &str) -> Vec<(String, Vec<u8>)> {
    ["backend", "frontend"].iter().flat_map(|name| service(name, version, "one")).collect()
}

/// The files of one service.
pub fn service(name: &str, version: &str, content: &str) -> Vec<(String, Vec<u8>)> {
    let spec = format!(r#"{{"service":{{"name":"clock-{name}","version":"{version}"}}}}"#);
    vec![
        (format!("{name}/Dockerfile"), format!("FROM scratch\nLABEL content={content}\n").into_bytes()),
        (format!("{name}/spec.json"), spec.into_bytes()),
    ]
}

pub fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect()
}

impl TestYard {
    pub async fn new() -> Self {
        Self::with(two_services("0.1.0"), |_| {}).await
    }

    /// A yard whose sample repository holds `files`; `configure` changes the configuration.
    pub async fn with(files: Vec<(String, Vec<u8>)>, configure: impl FnOnce(&mut toml::Table)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name: RepoName = "acme/clock".parse().expect("a name");
        let (sample, first) =
            SampleRepository::create(&folder.path().join("clock.git"), name.clone(), &borrowed(&files))
                .expect("a repository");
        let github = FakeGithub::start().await;
        github.add_repo(&name);
        github.set_time(BEGINNING);
        let images = TestRegistry::start(folder.path().join("images"));
        let mut config = configuration(&folder, &sample, &github, &images.access);
        configure(&mut config);
        let http =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
        let clock = Clock::manual(BEGINNING);
        let script = Arc::new(Script::default());
        let mut yard =
            Self { github, sample, first, script, clock, images, folder, config, server: None, http };
        yard.start(Fuse::endless()).await;
        yard
    }

    /// Starts a server on what there is, as a restart does.
    pub async fn start(&mut self, fuse: Fuse) {
        let fuse = Arc::new(fuse);
        let config = Config::from_table(self.config.clone()).expect("the test's configuration is right");
        let stage =
            Stage { script: self.script.clone(), registry: self.images.access.clone(), fuse: fuse.clone() };
        let parts = Parts {
            clock: self.clock.clone(),
            fuse,
            play: Some(Arc::new(stage)),
            caches_of: None,
            workers: false,
        };
        self.server = Some(Box::pin(Server::start(config, parts)).await.expect("the server starts"));
    }

    /// Starts the server anew with another configuration.
    pub async fn reconfigure(&mut self, configure: impl FnOnce(&mut toml::Table)) {
        self.kill().await;
        configure(&mut self.config);
        self.start(Fuse::endless()).await;
    }

    /// Ends the server as `kill -9` does.
    pub async fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill().await;
        }
    }

    /// Stops the server as a service manager does, and starts another.
    pub async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        self.start(Fuse::endless()).await;
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    pub fn yard(&self) -> &Arc<Yard> {
        &self.server().yard
    }

    pub fn address(&self) -> SocketAddr {
        self.server().address
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Runs the real program with this yard's configuration, beside its server.
    pub async fn command_line(&self, arguments: &[&str], input: &str) -> Said {
        let config = self.folder.path().join("mergeyard.toml");
        std::fs::write(&config, self.config.to_string()).expect("the folder can be written");
        let mut command = process::mergeyard();
        command.args(arguments).arg("--config").arg(config).current_dir(self.folder.path());
        process::run_with(&mut command, input).await
    }

    /// A token of the API that was made on the command line.
    pub async fn token(&self, name: &str, role: &str) -> String {
        let arguments = ["token", "create", name, "--role", role, "--format", "json"];
        let said: Value =
            serde_json::from_str(&self.command_line(&arguments, "").await.good()).expect("JSON");
        said["token"].as_str().expect("a token").to_owned()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        answer(bearing(self.http.get(self.url(path)), token)).await
    }

    pub async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        answer(bearing(self.http.post(self.url(path)), token).json(body)).await
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub fn repo(&self) -> RepoName {
        self.sample.name().clone()
    }

    pub fn merged(&self, merge: &SampleMerge) -> Value {
        payload::merged_pull_request(&self.sample.hosted(), merge)
    }

    /// Sends a webhook as GitHub does, and waits for the answer.
    pub async fn send(&self, id: &str, event: &str, payload: &Value) -> Answer {
        self.send_signed(SECRET, id, event, payload).await
    }

    pub async fn send_signed(&self, secret: &str, id: &str, event: &str, payload: &Value) -> Answer {
        let body = serde_json::to_vec(payload).expect("JSON");
        let signature = signature::sign(&Secret::new(secret), &body);
        let request = self
            .http
            .post(format!("http://{}/hooks/github", self.address()))
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Delivery", id)
            .header("Content-Type", "application/json")
            .header("X-Hub-Signature-256", signature)
            .body(body);
        answer(request).await
    }

    /// Lets the workers work until nothing is due.
    pub async fn settle(&self) {
        let yard = self.yard();
        let mut busy = true;
        while busy {
            busy = false;
            for worker in [Worker::Inbox, Worker::Steps, Worker::Services, Worker::Outbox] {
                while worker.turn(yard).await.expect("the database works") {
                    busy = true;
                }
            }
        }
        Worker::Ends.turn(yard).await.expect("the database works");
    }

    /// Answers the open question of a run about a gate, or about the run as a whole.
    pub async fn answer(&self, run: i64, gate: Option<&str>, approved: bool) -> Answered {
        let store = &self.yard().store;
        let asked = store.questions(RunId(run)).await.expect("the database works");
        let open = asked.iter().filter(|row| row.answer.is_none());
        let row = open.into_iter().find(|row| gate.is_none_or(|gate| row.gate == gate));
        let Some(row) = row else { return Answered::NothingAsked };
        let scope = match (&row.workflow, &row.step) {
            (_, Some((step, _))) => Scope::Step(*step),
            (Some((workflow, _)), None) => Scope::Workflow(*workflow),
            (None, None) => Scope::Run,
        };
        let answer = run::Answer { approved, who: "ada".to_owned() };
        store.answer(RunId(run), scope, answer, self.clock.now()).await.expect("the database works")
    }

    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    pub async fn run(&self, id: i64) -> RunPage {
        self.yard().store.run_page(RunId(id)).await.expect("the database works").expect("there is such a run")
    }

    pub async fn verdict(&self, id: &str) -> String {
        let id = id.parse().expect("a delivery id");
        let row = self
            .yard()
            .store
            .delivery(&id)
            .await
            .expect("the database works")
            .expect("the delivery was kept");
        format!("{}: {}", row.state.as_str(), row.verdict.unwrap_or_default())
    }

    /// Everything a person could find out afterwards, without times: two worlds that read
    /// the same are the same.
    pub async fn world(&self) -> String {
        let mut world = String::new();
        let store = &self.yard().store;
        let mut deliveries = store.deliveries(None, 1000).await.expect("the database works");
        deliveries.reverse();
        for row in deliveries {
            let verdict = row.verdict.unwrap_or_default();
            let _ = writeln!(world, "delivery {} {}: {verdict}", row.id, row.state.as_str());
        }
        let mut runs = store.runs(None, None, 1000).await.expect("the database works");
        runs.reverse();
        for run in runs {
            let page = self.run(run.id.0).await;
            let _ = writeln!(
                world,
                "run {} {} {} {}: {}",
                run.id,
                run.event,
                run.branch,
                run.commit.short(),
                run.state
            );
            for workflow in page.workflows {
                let axis = workflow.axis.map(|axis| format!("/{axis}")).unwrap_or_default();
                let why = workflow.why.map(|why| format!(" ({why})")).unwrap_or_default();
                let _ = writeln!(world, "  {}{axis}: {}{why}", workflow.name, workflow.state);
                // What is built in has one step, and says nothing that its workflow does not.
                for step in workflow.steps.iter().filter(|_| workflow.steps.len() > 1) {
                    let why = step.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
                    let outputs: String = step.outputs.iter().map(|(k, v)| format!(" {k}={v}")).collect();
                    let _ = writeln!(world, "    {}: {}{why}{outputs}", step.name, step.state);
                }
            }
            for image in page.images {
                let _ = writeln!(
                    world,
                    "  image {}:{} {}",
                    image.image.name,
                    image.digest.short(),
                    image.tree.short()
                );
            }
            for Deployed { row, .. } in store.deployed_by(run.id).await.expect("the database works") {
                let (digest, before) = (row.digest.short(), row.before.map(|digest| digest.short()));
                let _ = writeln!(
                    world,
                    "  deployment {} {digest} after {before:?}: {} ({})",
                    row.service,
                    row.state,
                    row.health.unwrap_or_default()
                );
            }
            for status in self.github.read(|world| latest(world, &run.repo, run.commit)) {
                let _ = writeln!(world, "  github {status}");
            }
        }
        for deployment in self.github.deployments(&self.repo()) {
            let (environment, said) = (&deployment.environment, deployment.statuses.last());
            let said = said.map(|said| format!("{}: {}", said.state, said.description));
            let _ = writeln!(world, "github {environment} {} {said:?}", deployment.sha.short());
        }
        for (place, digest) in self.script.live() {
            let _ = writeln!(world, "live {place} {}", digest.short());
        }
        // The port is another in each world and means nothing.
        (world + &self.images.holds().await).replace(self.images.access.host.as_str(), "REGISTRY")
    }

    /// Asserts that nothing is left over, and closes.
    pub async fn close(mut self) {
        let store = &self.yard().store;
        let deliveries = store.deliveries(None, 1000).await.expect("the database works");
        let open: Vec<_> = deliveries.iter().filter(|row| row.state == DeliveryState::Queued).collect();
        assert!(open.is_empty(), "deliveries were left undecided: {open:#?}");
        assert!(store.leases().await.expect("the database works").is_empty(), "a lease is still held");
        let unsent = store.unsent_effects().await.expect("the database works");
        let unsent: Vec<_> = unsent.iter().filter(|effect| effect.state == "pending").collect();
        assert!(unsent.is_empty(), "effects were left unsent: {unsent:#?}");
        for run in store.runs(None, None, 1000).await.expect("the database works") {
            assert!(run.state.is_final() || run.state == State::Blocked, "run {} is {}", run.id, run.state);
        }
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }
}

impl Drop for TestYard {
    fn drop(&mut self) {
        if self.server.is_some() && !std::thread::panicking() {
            panic!("a test yard must be closed, so that what is left over is noticed");
        }
    }
}

fn bearing(request: reqwest::RequestBuilder, token: Option<&str>) -> reqwest::RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    }
}

pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.expect("the server answers");
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, body }
}

fn latest(
    world: &crate::fake_github::World,
    repo: &RepoName,
    commit: mergeyard_types::CommitSha,
) -> Vec<String> {
    let statuses = world.repos.get(repo).map(|repo| &repo.statuses[..]).unwrap_or_default();
    let mut latest = std::collections::BTreeMap::new();
    for status in statuses.iter().filter(|status| status.sha == commit) {
        latest
            .insert(&status.context, format!("{} {}: {}", status.context, status.state, status.description));
    }
    latest.into_values().collect()
}

fn configuration(
    folder: &TempDir,
    sample: &SampleRepository,
    github: &FakeGithub,
    registry: &RegistryAccess,
) -> toml::Table {
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, registry.ca_pem.as_deref().unwrap_or_default()).expect("the folder can be written");
    let text = format!(
        r#"
        data_dir = "{data}"
        [http]
        listen = "127.0.0.1:0"
        public_url = "https://ci.example.org"
        [github]
        api_url = "{api}"
        webhook_secret = "{SECRET}"
        token = "{token}"
        [git]
        webhook_secret = "{SECRET}-of-git"
        [registry]
        embedded = false
        host = "{host}"
        ca = "{ca}"
        username = "{username}"
        password = "{password}"
        [[repo]]
        name = "{repo}"
        branches = ["develop"]
        clone_url = "{clone_url}"
        "#,
        data = folder.path().join("data").display(),
        api = github.api_url(),
        token = github.token().expose(),
        host = registry.host,
        ca = ca.display(),
        username = registry.username,
        password = registry.password.expose(),
        repo = sample.name(),
        clone_url = sample.hosted().clone_url,
    );
    text.parse().expect("TOML")
}

/// A registry that outlives the servers of a test, as one on another machine does.
pub struct TestRegistry {
    pub registry: registry::Registry,
    pub access: RegistryAccess,
    serving: JoinHandle<std::io::Result<()>>,
}

impl TestRegistry {
    fn start(folder: PathBuf) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let host = listener.local_addr().expect("an address").to_string().parse().expect("a registry host");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let authority = registry::Authority::open(&folder.join("tls"), &names).expect("an authority");
        let registry =
            registry::Registry::open(&folder.join("data"), registry::Config::default()).expect("a registry");
        let password = Secret::new("thepasswordofthetestregistry");
        let rights = [registry::Right::Pull, registry::Right::Push];
        registry.set_accounts(vec![registry::Account {
            name: "yard".to_owned(),
            secret: registry::SecretHash::of(&password),
            grants: vec![registry::Grant::new("**", &rights).expect("a pattern")],
            is_operator: true,
            expires: None,
        }]);
        let tls = authority.server_config().expect("a TLS configuration");
        let serving = tokio::spawn(registry::serve(listener, registry.clone(), tls, std::future::pending()));
        let ca_pem = Some(authority.ca_pem().as_bytes().to_vec());
        Self {
            registry,
            access: RegistryAccess { host, ca_pem, username: "yard".to_owned(), password },
            serving,
        }
    }

    pub async fn digest(&self, name: &str, version: &str) -> Option<String> {
        let (name, version): (ImageName, Version) =
            (name.parse().expect("a name"), version.parse().expect("a version"));
        let labels = self.registry.labels(&name, &version).await.expect("the registry reads");
        labels.map(|(digest, _)| digest.to_string())
    }

    async fn holds(&self) -> String {
        let mut text = String::new();
        for name in self.registry.repositories().await.expect("the registry reads") {
            for version in self.registry.tags(&name).await.expect("the registry reads") {
                let digest = self.digest(name.as_str(), version.as_str()).await.unwrap_or_default();
                let _ = writeln!(text, "registry {name}:{version} {}", &digest[..19]);
            }
        }
        text
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
