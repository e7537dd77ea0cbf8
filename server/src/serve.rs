//! A server, put together from its configuration, started and stopped.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use mergeyard_registry as registry;
use mergeyard_run::{
    engine::{BuildLimits, BuildNetwork, Engine, RegistryCredentials},
    executor::{Docker, Executor, Play, Scripted},
    git::{GitCache, GitError, GitLimits},
    registry_client::{RegistryAccess, RegistryClient, RegistryError},
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    clock::Clock,
    config::{self, Config},
    data_dir::{DataDir, DataDirError, Owner},
    embedded_registry::EmbeddedRegistry,
    ends,
    github::{Github, GithubError, GithubSettings},
    http, leases,
    logs::Logs,
    secrets::KeySource,
    services::Followers,
    store::{Fuse, Store, StoreError},
    web::{About, Pages},
    workers,
    yard::{Settings, Wake, Yard},
};

/// How long steps that run may go on when the server is asked to stop; what is not done by
/// then is started again by the next server.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a start waits for an engine that does not answer.
const LONGEST_SWEEP: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot listen on {address} for {what}; choose another with `{key}`")]
    Listen { what: &'static str, address: SocketAddr, key: &'static str, source: io::Error },
    #[error("the embedded registry cannot be opened")]
    Registry(#[from] registry::OpenError),
    #[error("the registry's certificate cannot be used")]
    Certificates(#[from] registry::tls::certificates::CertificatesError),
    #[error(transparent)]
    RegistryAccess(#[from] RegistryError),
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("`http.tls` cannot be used")]
    Tls(#[source] io::Error),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Github(#[from] GithubError),
    #[error("the registry does not take the pattern of its own account")]
    Pattern,
}

/// What a test, or a server for one command, puts in the place of the real thing.
pub struct Parts {
    pub clock: Clock,
    pub fuse: Arc<Fuse>,
    /// Plays steps in the place of an engine.
    pub play: Option<Arc<dyn Play>>,
    /// Whose caches the steps of pipelines find; `None`: those of the data directory.
    pub caches_of: Option<String>,
    /// Whether workers work by themselves.
    pub workers: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            clock: Clock::System,
            fuse: Arc::new(Fuse::endless()),
            play: None,
            caches_of: None,
            workers: true,
        }
    }
}

/// A server that runs.
pub struct Server {
    pub yard: Arc<Yard>,
    /// Where it listens.
    pub address: SocketAddr,
    /// The registry images are pushed to, with the login it was opened with.
    pub registry: RegistryAccess,
    pub embedded: Option<registry::Registry>,
    pub ca_file: Option<PathBuf>,
    stopping: CancellationToken,
    closing: CancellationToken,
    workers: TaskTracker,
    listeners: Vec<JoinHandle<io::Result<()>>>,
    _owner: Owner,
}

impl Server {
    pub async fn start(config: Config, parts: Parts) -> Result<Self, ServeError> {
        let data = DataDir::open(&config.data_dir)?;
        let owner = data.own()?;
        let closing = CancellationToken::new();
        let store = Store::open(&data.database(), parts.fuse.clone()).await?;
        let listener = bind("the pages and webhooks", config.http.listen, "http.listen")?;
        let place = RegistryPlace::open(&config, &data, &closing)?;
        let address = listener.local_addr().unwrap_or(config.http.listen);
        let Parts { clock, fuse: _, play, caches_of, workers } = parts;
        let yard = Arc::new(yard(&config, &data, store, &place.access, clock, (play, caches_of))?);
        leases::release_all(&yard).await?;
        let pages = Pages {
            store: yard.store.clone(),
            logs: yard.logs.clone(),
            clock: yard.clock.clone(),
            changes: yard.changes.clone(),
            rules: yard.rules.clone(),
            about: Arc::new(About {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                registry_host: place.access.host.to_string(),
                engine_host: config.engine.host.clone(),
                public_url: yard.settings.public_url.to_string(),
            }),
            registry: place.registry.clone(),
            closing: closing.clone(),
        };
        let app = http::router(yard.clone(), pages);
        let tls = match &config.http.tls {
            Some((cert, key)) => Some(http::tls(cert, key).await.map_err(ServeError::Tls)?),
            None => None,
        };
        let closed = closing.clone().cancelled_owned();
        let http = tokio::spawn(registry::serve_app(listener, app, tls, limits(), closed));
        let stopping = CancellationToken::new();
        if workers {
            // Before anything new is started, so that it cannot be taken for what a crash left.
            let sweep = tokio::time::timeout(LONGEST_SWEEP, ends::sweep(&yard));
            if sweep.await.is_err() {
                warn!("the engine does not answer; what a crash left in it stays until the next start");
            }
        }
        let workers = if workers { workers::start(&yard, &stopping) } else { TaskTracker::new() };
        workers.close();
        info!(%address, registry = %place.access.host, "mergeyard is ready");
        let mut listeners = vec![http];
        listeners.extend(place.listener);
        Ok(Self {
            yard,
            address,
            registry: place.access,
            embedded: place.registry,
            ca_file: place.ca_file,
            stopping,
            closing,
            workers,
            listeners,
            _owner: owner,
        })
    }

    /// Takes up no more work, lets what runs go on for a while, hands the rest over, and
    /// closes.
    pub async fn stop(self) {
        self.stopping.cancel();
        if tokio::time::timeout(DRAIN, self.workers.wait()).await.is_err() {
            warn!("steps still run; the next server starts them again");
            self.yard.hand_over.cancel();
            self.workers.wait().await;
        }
        // Services live as long as their workflows, whoever follows them.
        self.yard.hand_over.cancel();
        self.yard.followers.wait().await;
        self.closing.cancel();
        for listener in self.listeners {
            let _ = listener.await;
        }
        self.yard.store.close().await;
    }

    /// Ends as a killed process does: nothing is finished, nothing is said.
    pub async fn kill(self) {
        self.yard.followers.die().await;
        for listener in self.listeners {
            listener.abort();
            let _ = listener.await;
        }
    }
}

/// Behind a proxy or a tunnel every sender has one address, so one address may have most of
/// the places.
fn limits() -> registry::Limits {
    registry::Limits { connections: 4096, connections_per_address: 2048, ..registry::Limits::default() }
}

/// Where images go.
struct RegistryPlace {
    access: RegistryAccess,
    registry: Option<registry::Registry>,
    listener: Option<JoinHandle<io::Result<()>>>,
    ca_file: Option<PathBuf>,
}

impl RegistryPlace {
    fn open(config: &Config, data: &DataDir, closing: &CancellationToken) -> Result<Self, ServeError> {
        match &config.registry {
            config::Registry::Embedded(embedded) => {
                let EmbeddedRegistry { registry, access, ca_file, serving } =
                    EmbeddedRegistry::start(embedded, data, &config.engine.host, closing)?;
                Ok(Self { access, registry: Some(registry), listener: Some(serving), ca_file })
            }
            config::Registry::External { host, ca, username, password } => {
                let read = |path: &PathBuf| {
                    std::fs::read(path).map_err(|source| ServeError::Read { path: path.clone(), source })
                };
                let ca_pem = ca.as_ref().map(read).transpose()?;
                let access = RegistryAccess {
                    host: host.clone(),
                    ca_pem,
                    username: username.clone(),
                    password: password.clone(),
                };
                Ok(Self { access, registry: None, listener: None, ca_file: ca.clone() })
            }
        }
    }
}

pub(crate) fn bind(
    what: &'static str,
    address: SocketAddr,
    key: &'static str,
) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).map_err(|source| ServeError::Listen { what, address, key, source })
}

fn yard(
    config: &Config,
    data: &DataDir,
    store: Store,
    access: &RegistryAccess,
    clock: Clock,
    (play, caches_of): (Option<Arc<dyn Play>>, Option<String>),
) -> Result<Yard, ServeError> {
    let git = GitCache::new(data.git(), GitLimits::default())?;
    let registry = Arc::new(RegistryClient::new(access.clone())?);
    let executor = match play {
        Some(play) => Executor::Scripted(Scripted { play, git, registry }),
        None => {
            let engine = Engine::at(&config.engine.host).owned_by(data.id()?);
            let mut docker = docker(config, git, engine, registry);
            docker.caches_of = caches_of;
            Executor::Docker(docker)
        }
    };
    let github = match &config.github.token {
        Some(token) => {
            let settings = GithubSettings::new(config.github.api_url.clone(), Some(token.clone()));
            Some(Github::new(GithubSettings { ca: config.github.ca.clone(), ..settings })?)
        }
        None => None,
    };
    let forge =
        config.github.api_url.host_str().map(|host| host.strip_prefix("api.").unwrap_or(host).to_owned());
    Ok(Yard {
        store,
        logs: Logs::new(data.logs()),
        clock,
        rules: Arc::new(RwLock::new(Arc::new(config.rules.clone()))),
        keys: KeySource::new(config.master_key.clone(), data),
        executor,
        github,
        settings: Settings {
            public_url: config.http.public_url.clone(),
            hook_url: config.http.hook_url(),
            forge_url: forge.as_deref().map(|host| format!("https://{host}")).unwrap_or_default(),
            forge_token: forge.zip(config.github.token.clone()),
            machine: machine(),
            keep_bodies: config.deliveries.keep,
            reconcile_every: config.github.reconcile_every,
            parallel_steps: config.engine.parallel,
            log_bytes: config.engine.log_bytes,
        },
        wake: Wake::default(),
        changes: Default::default(),
        busy: Mutex::default(),
        leases: Mutex::default(),
        hand_over: CancellationToken::new(),
        followers: Followers::default(),
        begun: Mutex::default(),
        left: Mutex::default(),
    })
}

fn docker(config: &Config, git: GitCache, engine: Engine, registry: Arc<RegistryClient>) -> Docker {
    let mut docker = Docker::new(git, engine, registry);
    docker.base_credentials = config
        .engine
        .registries
        .iter()
        .map(|login| {
            let credentials =
                RegistryCredentials { username: login.username.clone(), password: login.password.clone() };
            (login.host.to_string(), credentials)
        })
        .collect();
    if let config::Registry::Embedded(embedded) = &config.registry {
        docker.mirrors = embedded.config.mirrors.iter().map(|mirror| mirror.prefix.clone()).collect();
    }
    docker.limits = BuildLimits { memory_bytes: config.engine.memory, ..BuildLimits::default() };
    docker.network = match config.engine.network {
        config::BuildNetwork::Default => BuildNetwork::Default,
        config::BuildNetwork::None => BuildNetwork::None,
    };
    docker
}

/// This machine's name, by the kernel. Elsewhere than on Linux it has none here.
pub(crate) fn machine() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
