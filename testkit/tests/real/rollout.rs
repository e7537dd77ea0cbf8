//! Merges that go live on this machine's engine, with the real program as their gateway, while
//! somebody asks all the time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mergeyard_testkit::process::{free_port, until};
use tokio::task::JoinHandle;

use super::{Files, RealYard, docker, remove_images, step, text};

const SERVE: &str = r#"use IO::Socket::INET;
$SIG{TERM} = sub { exit 0 };
my ($version, $status) = ($ENV{VERSION}, $ENV{STATUS} || 200);
my $listener = IO::Socket::INET->new(LocalPort => 8080, Listen => 128, ReuseAddr => 1) or die;
while (my $client = $listener->accept) {
    while (<$client>) { last if $_ eq "\r\n" }
    print $client "HTTP/1.1 $status OK\r\nContent-Length: " . length($version) . "\r\nConnection: close\r\n\r\n$version";
    close $client;
}
"#;

/// A service of a name that nobody else has, and where it is offered.
struct Service {
    name: String,
    port: u16,
}

impl Service {
    fn new() -> Self {
        Self { name: format!("web-{}", uuid::Uuid::new_v4().simple()), port: free_port() }
    }

    fn files(&self, version: &str, environment: &str) -> Files {
        let Self { name, port } = self;
        let dockerfile = format!(
            "FROM debian:bookworm-slim\nCOPY serve.pl /\nENV VERSION={version} {environment}\nUSER nobody\nCMD [\"perl\", \"/serve.pl\"]\n"
        );
        let spec = format!(r#"{{"service":{{"name":"{name}","version":"{version}"}}}}"#);
        let pipeline = format!(
            "when: {{event: pull_request_merged}}\nskip_clone: true\nsteps:\n  - {{name: image, uses: image, with: {{folder: app}}}}\n  \
             - name: live\n    uses: rollout\n    with:\n      {{target: here, image: {name}, port: 8080, publish: '127.0.0.1:{port}', network: {name}, health: {{path: /, retries: 2, interval: 1s}}}}\n"
        );
        let all = [
            ("app/Dockerfile", dockerfile),
            ("app/spec.json", spec),
            ("app/serve.pl", SERVE.to_owned()),
            (".mergeyard.yml", pipeline),
        ];
        all.map(|(path, content)| (path.to_owned(), content.into_bytes())).into()
    }

    async fn page(&self) -> Result<String, reqwest::Error> {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        client.get(format!("http://127.0.0.1:{}/", self.port)).send().await?.error_for_status()?.text().await
    }

    fn versions(&self) -> Vec<String> {
        let service = format!("label=mergeyard.service={}", self.name);
        let role = "label=mergeyard.role=application";
        let names = docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &service, "--filter", role]);
        names.lines().map(str::to_owned).collect()
    }

    /// Asks all the time; what went wrong until it is told to end.
    fn asked(&self, ends: &Arc<AtomicBool>) -> JoinHandle<Vec<String>> {
        let (ends, service) = (Arc::clone(ends), Service { name: String::new(), port: self.port });
        tokio::spawn(async move {
            let mut failures = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                failures.extend(service.page().await.err().map(|error| format!("{error:?}")));
            }
            failures
        })
    }
}

/// What stays on a target by design.
impl Drop for Service {
    fn drop(&mut self) {
        if self.name.is_empty() {
            return;
        }
        let service = format!("label=mergeyard.service={}", self.name);
        for container in docker(&["ps", "-aq", "--filter", &service]).lines() {
            docker(&["rm", "-f", container]);
        }
        docker(&["volume", "rm", &format!("mergeyard-gateway-{}", self.name)]);
        docker(&["network", "rm", &self.name]);
        remove_images(&format!("*/{}", self.name));
    }
}

async fn yard(service: &Service) -> RealYard {
    RealYard::with(service.files("0.1.0", ""), |config| {
        let here = toml::toml! { name = "here" kind = "local" };
        config.insert("target".to_owned(), toml::Value::Array(vec![here.into()]));
        let repo = config["repo"].as_array_mut().and_then(|all| all.first_mut()).expect("a repository");
        repo.as_table_mut().expect("a table").insert("targets".to_owned(), vec!["here"].into());
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn merges_go_live_without_a_failed_request_also_when_the_server_is_killed_between_two_versions() {
    let service = Service::new();
    let mut yard = yard(&service).await;
    yard.announce("r-1", &yard.first).await;
    let run = yard.finished(1).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}");
    assert_eq!(service.page().await.unwrap(), "0.1.0");
    let ends = Arc::default();
    let asked = service.asked(&ends);

    // Both versions are there: the moment at which most is undecided.
    let merge = merge(&mut yard, &service, "0.2.0", "");
    yard.announce("r-2", &merge).await;
    until("two versions", async || (service.versions().len() == 2).then_some(())).await;
    yard.kill().await;
    yard.start().await;
    let run = yard.finished(2).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}");
    assert_eq!((service.page().await.unwrap().as_str(), service.versions().len()), ("0.2.0", 1));
    let live = service.versions();

    // A version that does not work is never seen by anybody.
    let merge = self::merge(&mut yard, &service, "0.3.0", "STATUS=503");
    yard.announce("r-3", &merge).await;
    let run = yard.finished(3).await;
    assert_eq!(run["run"]["state"], "failure", "{run:#}");
    let why = text(&step(&run, "mergeyard", "live")["why"]).to_owned();
    let log = yard.log_of(step(&run, "mergeyard", "live")).await;
    assert!(format!("{why}{log}").contains("503"), "{why}\n{log}");
    assert_eq!((service.page().await.unwrap().as_str(), service.versions()), ("0.2.0", live));

    ends.store(true, Ordering::Relaxed);
    assert_eq!(asked.await.unwrap(), Vec::<String>::new(), "requests that failed");
    yard.stop().await;
}

fn merge(
    yard: &mut RealYard,
    service: &Service,
    version: &str,
    environment: &str,
) -> mergeyard_server::sample::SampleMerge {
    let files = service.files(version, environment);
    yard.sample.merge_change("Another version", &mergeyard_testkit::yard::borrowed(&files)).unwrap()
}
