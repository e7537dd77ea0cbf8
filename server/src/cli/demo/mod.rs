//! `mergeyard demo`: the main job on this machine with nothing configured.
//!
//! Everything is the real thing: a git repository with a merged pull request, a signed
//! webhook over HTTP, a build, a push to the registry over TLS, a pull by digest, running
//! containers. Only GitHub's part, sending the webhook, is played.

mod clock;
mod progress;

use std::{collections::BTreeMap, time::Duration};

use mergeyard_types::{RunId, Secret, State};
use serde_json::json;
use uuid::Uuid;

use super::{Failed, Format, home::Home};
use crate::{
    config::Config,
    github::signature,
    sample::{SampleMerge, SampleRepository, payload},
    serve::{Parts, ServeError, Server},
    store::RunPage,
};
use clock::Clock;
use progress::Progress;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Stop after the clock was checked, instead of keeping everything running
    #[arg(long)]
    once: bool,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The container engine
    #[arg(long, default_value = "unix:///var/run/docker.sock", value_name = "ADDRESS")]
    engine: String,
}

/// The files of the sample repository, compiled in: the demo is one program.
const FILES: [(&str, &[u8]); 11] = [
    ("backend/Dockerfile", include_bytes!("../../../../examples/clock/backend/Dockerfile")),
    ("backend/spec.json", include_bytes!("../../../../examples/clock/backend/spec.json")),
    ("backend/main.rs", include_bytes!("../../../../examples/clock/backend/main.rs")),
    ("backend/http.rs", include_bytes!("../../../../examples/clock/backend/http.rs")),
    ("frontend/Dockerfile", include_bytes!("../../../../examples/clock/frontend/Dockerfile")),
    ("frontend/spec.json", include_bytes!("../../../../examples/clock/frontend/spec.json")),
    ("frontend/main.rs", include_bytes!("../../../../examples/clock/frontend/main.rs")),
    ("frontend/http.rs", include_bytes!("../../../../examples/clock/frontend/http.rs")),
    ("frontend/index.html", include_bytes!("../../../../examples/clock/frontend/index.html")),
    ("frontend/style.css", include_bytes!("../../../../examples/clock/frontend/style.css")),
    ("frontend/clock.js", include_bytes!("../../../../examples/clock/frontend/clock.js")),
];

/// A merged pull request that nobody sees built in this time is stuck.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

pub(super) async fn demo(args: Args) -> Result<(), Failed> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut progress = Progress::new(args.format);
    let home = Home::new("demo")?;
    let mut clock = Clock::new(&args.engine);
    let scene = tokio::select! {
        scene = Scene::play(&args, &home, &mut clock, &mut progress) => scene,
        _ = &mut interrupted => Err(Failed::work("interrupted")),
    };
    if let Ok(scene) = &scene {
        scene.tell(args.format, &clock, &progress);
        if !args.once {
            if args.format == Format::Text {
                scene.invite(&clock);
            }
            let _ = interrupted.await;
        }
    }
    clock.remove().await;
    scene?.server.stop().await;
    Ok(())
}

/// The demo once everything stands.
struct Scene {
    server: Server,
    page: RunPage,
    run_url: String,
}

impl Scene {
    async fn play(
        args: &Args,
        home: &Home,
        clock: &mut Clock,
        progress: &mut Progress,
    ) -> Result<Self, Failed> {
        let (sample, merge) = progress
            .step("repository", "made a git repository with a merged pull request", async {
                let name = "acme/clock".parse().map_err(|_| Failed::work("the sample has no name"))?;
                Ok(SampleRepository::create(&home.path().join("clock.git"), name, &FILES)?)
            })
            .await?;
        let secret = Secret::new(Uuid::new_v4().simple().to_string());
        let config = |ports| config(args, home, &sample, &secret, ports);
        let server = progress
            .step("server", "started the server and its TLS registry", async {
                match Server::start(config(USUAL_PORTS)?, Parts::default()).await {
                    Err(ServeError::Listen { .. }) => {
                        Ok(Server::start(config(ANY_PORTS)?, Parts::default()).await?)
                    }
                    started => Ok(started?),
                }
            })
            .await?;
        progress
            .step(
                "webhook",
                "sent the signed webhook, and it was stored",
                send(&server, &sample, &merge, &secret),
            )
            .await?;
        let page = progress
            .step("publish", "built and pushed the images", finished(&server, progress.is_live()))
            .await?;
        progress.step("pull", "pulled both images by digest", clock.pull(&server, &page)).await?;
        progress.step("start", "started the clock", clock.start()).await?;
        progress.step("check", "the clock answers through its page", clock.check()).await?;
        let run_url = format!("http://{}/runs/{}", server.address, page.run.id);
        Ok(Self { server, page, run_url })
    }

    fn tell(&self, format: Format, clock: &Clock, progress: &Progress) {
        match format {
            Format::Json => say!("{}", self.document(clock, progress)),
            Format::Text => self.print(),
        }
    }

    fn document(&self, clock: &Clock, progress: &Progress) -> serde_json::Value {
        let images: Vec<_> = self
            .page
            .images
            .iter()
            .map(|image| json!({ "ref": image.image, "digest": image.digest }))
            .collect();
        json!({
            "status": self.page.run.state,
            "run_url": self.run_url,
            "images": images,
            "clock_url": clock.url(),
            "timings_ms": progress.timings(),
        })
    }

    fn print(&self) {
        say!("\nimages");
        for image in &self.page.images {
            say!("  {}\n    {}", image.image, image.digest);
        }
    }

    /// What can be looked at as long as it runs.
    fn invite(&self, clock: &Clock) {
        let registry = &self.server.registry;
        say!("\nlook");
        say!("  status page  http://{}/", self.server.address);
        say!("  this run     {}", self.run_url);
        say!("  the clock    {}", clock.url());
        if let (Some(ca), Some(image)) = (&self.server.ca_file, self.page.images.first()) {
            say!("\npull over verified TLS with a stock client");
            say!(
                "  SSL_CERT_FILE={} skopeo inspect --creds {}:{} docker://{}",
                ca.display(),
                registry.username,
                registry.password.expose(),
                image.image.by_digest(image.digest),
            );
        }
        say!("\neverything keeps running until you press Ctrl-C");
    }
}

/// Where people look for mergeyard and for a registry, and what is taken when somebody else
/// is there already.
const USUAL_PORTS: [u16; 2] = [8088, 5000];
const ANY_PORTS: [u16; 2] = [0, 0];

fn config(
    args: &Args,
    home: &Home,
    sample: &SampleRepository,
    secret: &Secret,
    [http, registry]: [u16; 2],
) -> Result<Config, Failed> {
    let mut table = toml::Table::new();
    let mut set = |section: &str, key: &str, value: String| {
        let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
        if let Some(entry) = entry.as_table_mut() {
            entry.insert(key.to_owned(), value.into());
        }
    };
    set("github", "webhook_secret", secret.expose().to_owned());
    set("http", "listen", format!("127.0.0.1:{http}"));
    set("registry", "listen", format!("127.0.0.1:{registry}"));
    set("engine", "host", args.engine.clone());
    table.insert("data_dir".to_owned(), home.path().join("data").display().to_string().into());
    let repo = toml::Table::from_iter([
        ("name".to_owned(), sample.name().to_string().into()),
        ("clone_url".to_owned(), sample.hosted().clone_url.into()),
    ]);
    table.insert("repo".to_owned(), vec![toml::Value::Table(repo)].into());
    Ok(Config::from_table(table)?)
}

/// Posts what GitHub would have posted.
async fn send(
    server: &Server,
    sample: &SampleRepository,
    merge: &SampleMerge,
    secret: &Secret,
) -> Result<(), Failed> {
    let body = serde_json::to_vec(&payload::merged_pull_request(&sample.hosted(), merge))?;
    let answer = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(format!("http://{}/hooks/github", server.address))
        .header("X-GitHub-Event", "pull_request")
        .header("X-GitHub-Delivery", Uuid::new_v4().to_string())
        .header("Content-Type", "application/json")
        .header("X-Hub-Signature-256", signature::sign(secret, &body))
        .body(body)
        .send()
        .await?;
    match answer.status().as_u16() {
        202 => Ok(()),
        status => {
            Err(Failed::work(format!("the webhook was answered with {status}: {}", answer.text().await?)))
        }
    }
}

/// Waits until the run is over, showing its log meanwhile.
async fn finished(server: &Server, show: bool) -> Result<RunPage, Failed> {
    let yard = &server.yard;
    let mut changes = yard.changes.subscribe();
    let mut shown = BTreeMap::new();
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            changes.borrow_and_update();
            if let Some(page) = yard.store.run_page(RunId(1)).await? {
                progress::show_logs(yard, &page, show, &mut shown).await?;
                if page.run.state.is_final() {
                    return Ok::<_, Failed>(page);
                }
            }
            undecided(server).await?;
            let _ = tokio::time::timeout(Duration::from_millis(200), changes.changed()).await;
        }
    });
    let page = waited.await.map_err(|_| Failed::work("the run did not end in time"))??;
    if page.run.state == State::Success {
        return Ok(page);
    }
    let why = page.workflows.iter().find_map(|workflow| workflow.why.clone());
    Err(Failed::work(format!("the run ended as {}: {}", page.run.state, why.unwrap_or_default())))
}

/// A delivery that was given up will never become a run.
async fn undecided(server: &Server) -> Result<(), Failed> {
    use crate::store::DeliveryState;
    let given_up = server
        .yard
        .store
        .deliveries(None, 1)
        .await?
        .into_iter()
        .find(|row| matches!(row.state, DeliveryState::Dead | DeliveryState::Ignored));
    match given_up {
        Some(row) => {
            Err(Failed::work(format!("the webhook started nothing: {}", row.verdict.unwrap_or_default())))
        }
        None => Ok(()),
    }
}
