//! A service on the local engine: its versions, its clients, and what is left of it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mergeyard_plan::action::{Action, Health, RolloutAction};
use mergeyard_run::{
    executor::{Docker, Executor, StepContext, StepJob, StepOutcome},
    git::{GitCache, GitLimits},
    ledger::{Intent, Ledger, LedgerError, Verdict},
    log::{LogLine, LogSink},
    target::{Reach, Target},
};
use mergeyard_types::{DeploymentId, Digest, StepId, TargetName};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    builds::{MINUTE, Yard, collect, engine, fresh},
    support::{FILE, commit},
};

/// Answers each request with its version, keeps connections, and when it is asked to end it ends
/// them as HTTP says: with the answer to the request that comes next.
const SERVE: &str = r#"
use strict; use IO::Socket::INET; $| = 1;
my ($going, $closing, %serving) = (1, 0);
my ($version, $status) = ($ENV{VERSION}, $ENV{STATUS} || 200);
print "this is $version\n";
exit 3 if $ENV{DIES};
$SIG{TERM} = sub { $going = 0 };
my $listener = IO::Socket::INET->new(LocalPort => 8080, Listen => 128, ReuseAddr => 1) or die;
while ($going) {
    my $client = $listener->accept or next;
    while ((my $gone = waitpid -1, 1) > 0) { delete $serving{$gone} }
    defined(my $child = fork) or die "fork: $!";
    if ($child) { $serving{$child} = 1; close $client; next }
    $SIG{TERM} = sub { $closing = 1 };
    close $listener;
    while (defined(my $line = <$client>)) {
        my $close = 0;
        while (defined($line) && $line ne "\r\n") { $close = 1 if $line =~ /^connection: *close/i; $line = <$client> }
        $close ||= $closing;
        print $client "HTTP/1.1 $status OK\r\nContent-Length: " . length($version) . "\r\nConnection: " . ($close ? "close" : "keep-alive") . "\r\n\r\n$version";
        $client->flush;
        last if $close;
    }
    exit 0;
}
close $listener;
kill TERM => keys %serving;
1 while wait != -1;
"#;

pub(crate) struct Stage {
    pub(crate) yard: Yard,
    pub(crate) service: String,
    pub(crate) port: u16,
    pub(crate) book: Arc<Book>,
    steps: Mutex<i64>,
}

/// What was written down, in its order.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) rows: Mutex<Vec<Row>>,
    /// When set, it says of each moment that it came.
    moments: Mutex<Option<mpsc::UnboundedSender<()>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) intent: Intent,
    pub(crate) verdict: Option<Verdict>,
}

impl Book {
    fn moment(&self) {
        if let Some(moments) = &*self.moments.lock().unwrap() {
            let _ = moments.send(());
        }
    }

    /// `healthy`, `rolled back to …` or nothing of each deployment.
    pub(crate) fn story(&self) -> Vec<String> {
        let said = |row: &Row| match &row.verdict {
            None => "begun".to_owned(),
            Some(Verdict::Healthy { .. }) => format!("{} healthy", row.intent.digest.short()),
            Some(Verdict::RolledBack { to, .. }) => {
                format!("back to {}", to.map_or("nothing".to_owned(), |to| to.short()))
            }
            Some(Verdict::Failed { why }) => format!("failed: {why}"),
        };
        self.rows.lock().unwrap().iter().map(said).collect()
    }
}

impl Ledger for Book {
    fn live<'a>(
        &'a self,
        _: &'a TargetName,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<Digest>, LedgerError>> {
        Box::pin(async { Ok(None) })
    }

    fn begin(&self, intent: Intent) -> BoxFuture<'_, Result<DeploymentId, LedgerError>> {
        Box::pin(async move {
            let id = {
                let mut rows = self.rows.lock().unwrap();
                let known = rows.iter().position(|row| row.intent.step == intent.step);
                known.unwrap_or_else(|| {
                    rows.push(Row { intent, verdict: None });
                    rows.len() - 1
                })
            };
            self.moment();
            Ok(DeploymentId(id as i64))
        })
    }

    fn end(&self, deployment: DeploymentId, verdict: Verdict) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async move {
            self.rows.lock().unwrap()[deployment.0 as usize].verdict = Some(verdict);
            self.moment();
            Ok(())
        })
    }
}

impl Stage {
    pub(crate) async fn start() -> Stage {
        Self::on(Yard::start().await).await
    }

    pub(crate) async fn on(mut yard: Yard) -> Stage {
        yard.executor = Arc::new(executor(&yard).await);
        let id = format!("{}-{}", std::process::id(), fresh().rsplit('-').next().unwrap());
        let service = format!("web-{id}");
        Stage { yard, service, port: free_port(), book: Arc::default(), steps: Mutex::new(100) }
    }

    /// Builds and publishes a version.
    pub(crate) async fn publish(&self, version: &str, environment: &str) -> Digest {
        let dockerfile = format!(
            "FROM debian:bookworm-slim\nCOPY serve.pl /serve.pl\nENV VERSION={version} {environment}\nUSER nobody\nCMD [\"perl\", \"/serve.pl\"]\n"
        );
        let spec = format!(r#"{{"service":{{"name":"{}","version":"{version}"}}}}"#, self.service);
        let files = [
            ("app/Dockerfile", FILE, dockerfile.as_bytes()),
            ("app/spec.json", FILE, spec.as_bytes()),
            ("app/serve.pl", FILE, SERVE.as_bytes()),
        ];
        let sha = commit(&self.yard.git, "develop", &files);
        let mut job = self.yard.job(sha, &self.service, MINUTE);
        let Action::Image(image) = &mut job.action else { panic!("it is an image's") };
        image.version = version.parse().unwrap();
        let (outcome, log) = self.yard.run(job).await;
        let StepOutcome::Success { outputs } = outcome else { panic!("{outcome:?}\n{log}") };
        outputs["digest"].parse().unwrap()
    }

    pub(crate) fn action(&self, digest: Digest) -> RolloutAction {
        RolloutAction {
            target: "here".parse().unwrap(),
            service: self.service.clone(),
            image: self.service.parse().unwrap(),
            version: None,
            digest: Some(digest),
            port: 8080,
            publish: vec![format!("127.0.0.1:{}", self.port)],
            network: self.network(),
            environment: BTreeMap::new(),
            command: Vec::new(),
            volumes: Vec::new(),
            user: None,
            health: Health {
                url: "/".to_owned(),
                status: 200,
                body: None,
                timeout_ms: 2000,
                retries: 5,
                interval_ms: 200,
            },
            check: false,
        }
    }

    pub(crate) fn network(&self) -> String {
        format!("net-{}", self.service)
    }

    /// A job of a step that never was before.
    pub(crate) fn job(&self, action: RolloutAction) -> StepJob {
        let mut steps = self.steps.lock().unwrap();
        *steps += 1;
        let sha = self.yard.git.refname_to_id("refs/heads/develop").unwrap().to_string().parse().unwrap();
        let mut job = self.yard.job(sha, &self.service, MINUTE);
        job.step = StepId(*steps);
        job.target = Some(Arc::new(Target {
            name: action.target.clone(),
            reach: Reach::Local,
            mirror: None,
            engine: "/var/run/docker.sock".to_owned(),
        }));
        job.action = Action::Rollout(Box::new(action));
        job
    }

    pub(crate) fn context(&self, log: LogSink, cancel: CancellationToken) -> StepContext {
        StepContext { ledger: self.book.clone(), ..StepContext::new(log, cancel) }
    }

    pub(crate) async fn run(&self, job: StepJob) -> (StepOutcome, String) {
        let (log, lines) = LogSink::channel(job.masker(), 64 << 20);
        let said = collect(lines);
        let outcome = self.yard.executor.run(job, self.context(log, CancellationToken::new())).await;
        (outcome, said.await.unwrap())
    }

    /// Rolls out what has to work; its summary.
    pub(crate) async fn live(&self, action: RolloutAction) -> String {
        let (outcome, log) = self.run(self.job(action)).await;
        let StepOutcome::Success { outputs } = outcome else { panic!("{outcome:?}\n{log}") };
        outputs["summary"].clone()
    }

    /// Runs a job with an executor of its own and lets go of it at its `n`th moment, as a server that
    /// is killed. Its outcome when it has fewer.
    pub(crate) async fn cut(&self, job: StepJob, n: usize) -> Option<StepOutcome> {
        let (tell, mut moments) = mpsc::unbounded_channel();
        *self.book.moments.lock().unwrap() = Some(tell.clone());
        let (log, lines) = LogSink::channel(job.masker(), 64 << 20);
        let reading = tokio::spawn(tell_lines(lines, tell));
        let executor = executor(&self.yard).await;
        let cx = self.context(log, CancellationToken::new());
        let outcome = tokio::select! {
            outcome = executor.run(job, cx) => Some(outcome),
            () = async { for _ in 0..n { moments.recv().await.unwrap(); } } => None,
        };
        *self.book.moments.lock().unwrap() = None;
        reading.abort();
        outcome
    }

    /// The names of the service's containers that run, without its gateway.
    pub(crate) fn versions(&self) -> Vec<String> {
        let filter = format!("label=mergeyard.service={}", self.service);
        let role = "label=mergeyard.role=application";
        let said = docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &filter, "--filter", role]);
        said.lines().map(str::to_owned).collect()
    }

    pub(crate) fn gateways(&self) -> Vec<String> {
        let filter = format!("label=mergeyard.service={}", self.service);
        let said = docker(&[
            "ps",
            "--format",
            "{{.Names}} {{.Ports}}",
            "--filter",
            &filter,
            "--filter",
            "label=mergeyard.role=gateway",
        ]);
        said.lines().map(str::to_owned).collect()
    }

    pub(crate) fn forget_images(&self) {
        let images = format!("reference={}/{}", self.yard.registry.host(), self.service);
        for image in docker(&["images", "-q", "--filter", &images]).lines() {
            docker(&["rmi", "-f", image]);
        }
    }

    /// What the page says now.
    pub(crate) async fn page(&self) -> String {
        get(self.port).await.unwrap()
    }
}

async fn tell_lines(mut lines: mpsc::Receiver<LogLine>, tell: mpsc::UnboundedSender<()>) {
    while lines.recv().await.is_some() {
        let _ = tell.send(());
    }
}

async fn executor(yard: &Yard) -> Executor {
    let cache = GitCache::new(yard.dir.path().join("cache"), GitLimits::default()).unwrap();
    let mut docker = Docker::new(cache, engine().await, yard.registry.client());
    docker.gateway = env!("CARGO_BIN_EXE_gateway").into();
    Executor::Docker(docker)
}

/// Removes what stays on a target for ever otherwise.
impl Drop for Stage {
    fn drop(&mut self) {
        let filter = format!("label=mergeyard.service={}", self.service);
        for container in docker(&["ps", "-aq", "--filter", &filter]).lines() {
            docker(&["rm", "-f", container]);
        }
        docker(&["volume", "rm", &format!("mergeyard-gateway-{}", self.service)]);
        for network in [self.network(), format!("{}-two", self.network())] {
            docker(&["network", "rm", &network]);
        }
        self.forget_images();
    }
}

pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One request on a connection of its own.
pub(crate) async fn get(port: u16) -> Result<String, String> {
    Client::connect(port).await?.get(true).await.map(|(page, _)| page)
}

struct Client {
    sender: http1::SendRequest<Empty<bytes::Bytes>>,
    _connection: tokio_util::task::AbortOnDropHandle<()>,
}

impl Client {
    async fn connect(port: u16) -> Result<Self, String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect(address).await.map_err(|e| format!("connect: {e}"))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("handshake: {e}"))?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, _connection: tokio_util::task::AbortOnDropHandle::new(connection) })
    }

    /// The page, and whether the server says that this was the last on its connection.
    async fn get(&mut self, close: bool) -> Result<(String, bool), String> {
        let connection = if close { "close" } else { "keep-alive" };
        let request = http::Request::get("/").header("host", "web").header("connection", connection);
        let answer = self.sender.send_request(request.body(Empty::new()).unwrap()).await;
        let answer = answer.map_err(|e| format!("answer: {e}"))?;
        let status = answer.status();
        let is_last = answer.headers().get("connection").is_some_and(|said| said == "close");
        let page = answer.into_body().collect().await.map_err(|e| format!("body: {e}"))?.to_bytes();
        let page = String::from_utf8_lossy(&page).into_owned();
        if status != 200 { Err(format!("{status}: {page}")) } else { Ok((page, is_last)) }
    }
}

/// Clients that ask all the time and remember what they were told.
pub(crate) struct Hammer {
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Told>>,
}

#[derive(Default)]
pub(crate) struct Told {
    /// How often each page came.
    pub(crate) pages: BTreeMap<String, usize>,
    pub(crate) failures: Vec<String>,
}

impl Hammer {
    pub(crate) fn start(port: u16, keep_alive: bool) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let client = |_| tokio::spawn(ask(port, keep_alive, Arc::clone(&ends)));
        Self { clients: (0..4).map(client).collect(), ends }
    }

    pub(crate) async fn stop(self) -> Told {
        self.ends.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        for client in self.clients {
            let told = tokio::time::timeout(Duration::from_secs(30), client).await.unwrap().unwrap();
            told.pages.into_iter().for_each(|(page, count)| *all.pages.entry(page).or_default() += count);
            all.failures.extend(told.failures);
        }
        all
    }
}

async fn ask(port: u16, keep_alive: bool, ends: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut client: Option<Client> = None;
    while !ends.load(Ordering::Relaxed) {
        let asked = async {
            let mut current = match client.take() {
                Some(client) => client,
                None => Client::connect(port).await?,
            };
            let (page, is_last) = current.get(!keep_alive).await?;
            client = (keep_alive && !is_last).then_some(current);
            Ok::<_, String>(page)
        };
        match asked.await {
            Ok(page) => *told.pages.entry(page).or_default() += 1,
            Err(why) => told.failures.push(why),
        }
    }
    told
}
