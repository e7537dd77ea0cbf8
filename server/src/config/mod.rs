//! Configuration: `mergeyard.toml` and the environment, read once and checked once.
//!
//! What the operator wrote ([`raw`]) becomes what the program uses ([`Config`]) here and
//! nowhere else; no other module looks at the environment. Relative paths are relative to
//! the file they stand in.

mod freeze;
mod raw;
mod registry;
mod repo;
mod source;
mod target;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mergeyard_plan::policy::Policies;
use mergeyard_types::{RegistryHost, RepoName, Secret, TargetName, Timestamp};
use url::Url;

pub use freeze::Freeze;
pub use registry::{Embedded, Registry, RegistryAlone};
pub use repo::Schedule;
pub(crate) use repo::event;
pub use source::ConfigError;
pub use target::ConfiguredTarget;

use crate::{
    secrets::{self, ConfiguredSecret, MasterKey},
    store::Source,
};
use mergeyard_run::engine::BuildSecret;
pub use raw::BuildNetwork;
use raw::{RawConfig, RawPipelineSecret, RawPipelines, RawSecret};
use source::Written;

#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub http: Http,
    pub github: Github,
    pub engine: Engine,
    pub registry: Registry,
    pub deliveries: Deliveries,
    /// The key that seals secrets, where it is not the data directory's.
    pub master_key: Option<Arc<MasterKey>>,
    pub rules: Rules,
}

#[derive(Debug, Clone)]
pub struct Http {
    pub listen: SocketAddr,
    /// Where people and GitHub reach this server.
    pub public_url: Url,
    /// Whether the operator named it, rather than it being the address listened on.
    pub has_public_url: bool,
    /// Certificate chain and key, when this server speaks TLS itself.
    pub tls: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone)]
pub struct Github {
    pub api_url: Url,
    pub token: Option<Secret>,
    /// The authority of a GitHub Enterprise server's certificate.
    pub ca: Option<PathBuf>,
    pub ngrok_url: Url,
    /// How often GitHub is asked for deliveries that never arrived.
    pub reconcile_every: Duration,
}

#[derive(Debug, Clone)]
pub struct Engine {
    pub host: String,
    /// Steps that run at the same time.
    pub parallel: usize,
    /// Credentials for private registries of base images.
    pub registries: Vec<RegistryLogin>,
    /// Limits of one build.
    pub memory: Option<u64>,
    pub network: BuildNetwork,
    /// What one step may say in all; the rest is cut, with a line that says so.
    pub log_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct RegistryLogin {
    pub host: RegistryHost,
    pub username: String,
    pub password: Secret,
}

#[derive(Debug, Clone)]
pub struct Deliveries {
    /// How long raw bodies are kept.
    pub keep: Duration,
}

/// What `SIGHUP` reloads: who may start what, and the secrets that prove it.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub policies: Policies,
    pub secrets: Vec<WebhookSecret>,
    /// What builds may read, beside the policies one for one.
    pub build_secrets: Vec<Vec<BuildSecret>>,
    pub pipeline_secrets: Vec<ConfiguredSecret>,
    pub schedules: Vec<Schedule>,
    pub pipelines: Pipelines,
    /// The machines that runs deliver to.
    pub targets: Vec<ConfiguredTarget>,
}

/// What this server's runner offers to pipelines.
#[derive(Debug, Clone)]
pub struct Pipelines {
    /// Points of one file's matrix: past this it is a mistake, or an attack.
    pub matrix_limit: usize,
    /// What workflows may ask for with `labels`.
    pub labels: BTreeMap<String, String>,
    /// `linux/amd64`.
    pub platform: String,
}

impl Default for Pipelines {
    fn default() -> Self {
        Self::of(RawPipelines::default())
    }
}

impl Pipelines {
    fn check(raw: RawPipelines) -> Result<Self, ConfigError> {
        let pipelines = Self::of(raw);
        check_platform(&pipelines.platform)?;
        Ok(pipelines)
    }

    fn of(raw: RawPipelines) -> Self {
        let RawPipelines { matrix_limit, labels, platform } = raw;
        Self { matrix_limit, labels, platform: platform.unwrap_or_else(this_platform) }
    }
}

/// By the words of container images.
fn this_platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

#[derive(Debug, Clone)]
pub struct WebhookSecret {
    pub value: Secret,
    /// The one source it signs for; a repository's own signs for both.
    pub source: Option<Source>,
    /// The repositories it speaks for: one `[[repo]]`'s, or every one without a secret of its own.
    pub scope: Scope,
    /// A secret that is being rotated out is good until then.
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub enum Scope {
    All,
    Repo(usize),
}

impl Http {
    /// The address that GitHub sends webhooks to.
    pub fn hook_url(&self) -> Url {
        let mut url = self.public_url.clone();
        url.set_path(&format!("{}/hooks/github", self.public_url.path().trim_end_matches('/')));
        url
    }
}

impl WebhookSecret {
    pub fn is_for(&self, source: Source) -> bool {
        self.source.is_none_or(|mine| mine == source)
    }
}

impl Rules {
    pub fn target(&self, name: &TargetName) -> Option<&ConfiguredTarget> {
        self.targets.iter().find(|target| target.target.name == *name)
    }

    /// What builds of this repository may read with `RUN --mount=type=secret`.
    pub fn build_secrets(&self, repo: &RepoName) -> &[BuildSecret] {
        let own = self.policies.0.iter().position(|policy| policy.covers(repo));
        own.and_then(|at| self.build_secrets.get(at)).map_or(&[], Vec::as_slice)
    }

    /// The secrets in force at `now`.
    pub fn secrets_at(&self, now: Timestamp) -> impl Iterator<Item = &WebhookSecret> {
        self.secrets.iter().filter(move |secret| secret.until.is_none_or(|until| now < until))
    }

    /// Whether `secret` speaks for `repo`: a repository with secrets of its own is only
    /// spoken for by those.
    pub fn speaks_for(&self, secret: &WebhookSecret, repo: &RepoName) -> bool {
        let own = self.policies.0.iter().position(|policy| policy.covers(repo));
        let has_own =
            |at: usize| self.secrets.iter().any(|s| matches!(s.scope, Scope::Repo(other) if other == at));
        match (&secret.scope, own.filter(|at| has_own(*at))) {
            (Scope::Repo(theirs), own) => own == Some(*theirs),
            (Scope::All, own) => own.is_none(),
        }
    }
}

impl Config {
    /// Reads the file, then the environment over it.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let Written { raw, folder, origin } = source::read(file, environment)?;
        Self::check(raw, &folder).map_err(|error| origin.point(error))
    }

    /// The part that a registry alone needs. What the rest would complain about is not looked at.
    pub fn load_registry(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<RegistryAlone, ConfigError> {
        let Written { raw, folder, origin } = source::read(file, environment)?;
        let registry = Registry::check(raw.registry, &folder).map_err(|error| origin.point(error))?;
        Ok(RegistryAlone {
            data_dir: folder.join(raw.data_dir),
            registry,
            engine_host: engine_host(raw.engine.host).map_err(|error| origin.point(error))?,
        })
    }

    /// What an operator's file says of pipelines. What the rest would complain about is not looked at.
    pub fn pipelines(file: &Path) -> Result<Pipelines, ConfigError> {
        let Written { raw, origin, .. } = source::read(Some(file), std::iter::empty())?;
        Pipelines::check(raw.pipelines).map_err(|error| origin.point(error))
    }

    /// A configuration that was not written but made.
    pub fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        let Written { raw, folder, .. } = source::read_table(table)?;
        Self::check(raw, &folder)
    }

    fn check(raw: RawConfig, folder: &Path) -> Result<Self, ConfigError> {
        let RawConfig {
            data_dir,
            http,
            github,
            git,
            engine,
            registry,
            deliveries,
            secrets: raw_secrets,
            secret: raw_secret,
            pipelines,
            repo: repositories,
            target: raw_targets,
        } = raw;
        let path = |path: PathBuf| folder.join(path);
        let secret = |key: &str, raw: RawSecret| raw.reveal(key, folder);
        let has_public_url = http.public_url.is_some();
        let public_url = match http.public_url {
            Some(url) => url,
            None => format!("http://{}", http.listen)
                .parse()
                .map_err(|_| ConfigError::value("http.listen", "not an address"))?,
        };
        let tls = match http.tls {
            Some(tls) => Some((path(tls.cert), path(tls.key))),
            None => None,
        };
        let mut secrets = Vec::new();
        let global = [
            ("github.webhook_secret", Source::Github, github.webhook_secret),
            ("git.webhook_secret", Source::Git, git.webhook_secret),
        ];
        for (key, source, raw) in global {
            if let Some(raw) = raw {
                let value = strong(key, secret(key, raw)?)?;
                secrets.push(WebhookSecret { value, source: Some(source), scope: Scope::All, until: None });
            }
        }
        if let Some(previous) = github.webhook_secret_previous {
            let key = "github.webhook_secret_previous";
            let until = previous.until.parse::<jiff::Timestamp>().map_err(|error| {
                ConfigError::value(
                    &format!("{key}.until"),
                    &format!("{error}; write a time such as 2030-01-31T12:00:00Z"),
                )
            })?;
            let until = Some(Timestamp(until.as_millisecond()));
            let value = strong(key, secret(key, previous.secret)?)?;
            secrets.push(WebhookSecret { value, source: Some(Source::Github), scope: Scope::All, until });
        }
        let pipelines = Pipelines::check(pipelines)?;
        let targets = target::targets(raw_targets, folder)?;
        let mut policies = Policies::default();
        let mut build_secrets = Vec::new();
        let mut schedules = Vec::new();
        for (at, raw) in repositories.into_iter().enumerate() {
            let key = format!("repo[{at}].webhook_secret");
            if let Some(raw) = raw.webhook_secret.clone() {
                let value = strong(&key, secret(&key, raw)?)?;
                secrets.push(WebhookSecret { value, source: None, scope: Scope::Repo(at), until: None });
            }
            let mut own = Vec::new();
            for (id, raw) in raw.build_secrets.clone() {
                let value = secret(&format!("repo[{at}].build_secrets.{id}"), raw)?;
                own.push(BuildSecret { id, value });
            }
            build_secrets.push(own);
            let mut policy = repo::policy(at, &raw)?;
            policy.targets = target::rights(at, &raw.targets, &targets)?;
            policies.0.push(policy);
            schedules.extend(repo::schedules(at, &raw)?);
        }
        if secrets.is_empty() {
            return Err(ConfigError::NoSecret);
        }
        let token = github.token.map(|raw| secret("github.token", raw)).transpose()?;
        let mut registries = Vec::new();
        for (at, login) in engine.registries.into_iter().enumerate() {
            let password = secret(&format!("engine.registries[{at}].password"), login.password)?;
            registries.push(RegistryLogin { host: login.host, username: login.username, password });
        }
        let master_key = raw_secrets.key.map(|raw| master_key(secret("secrets.key", raw)?)).transpose()?;
        let pipeline_secrets = pipeline_secrets(raw_secret, folder)?;
        let registry = Registry::check(registry, folder)?;
        if engine.parallel == 0 {
            return Err(ConfigError::value(
                "engine.parallel",
                "is 0, so no step would ever run; write 1 or more",
            ));
        }
        if engine.log_mb == 0 {
            return Err(ConfigError::value(
                "engine.log_mb",
                "is 0, so no step could say anything; write 1 or more",
            ));
        }
        Ok(Self {
            data_dir: path(data_dir),
            http: Http { listen: http.listen, public_url, has_public_url, tls },
            github: Github {
                api_url: github.api_url,
                token,
                ca: github.ca.map(path),
                ngrok_url: github.ngrok_url,
                reconcile_every: Duration::from_secs(github.reconcile_minutes.saturating_mul(60)),
            },
            engine: Engine {
                host: engine_host(engine.host)?,
                parallel: engine.parallel,
                registries,
                memory: engine.memory_mb.map(|mb| mb.saturating_mul(1024 * 1024)),
                network: engine.network,
                log_bytes: engine.log_mb.saturating_mul(1024 * 1024),
            },
            registry,
            deliveries: Deliveries {
                keep: Duration::from_secs(deliveries.keep_days.saturating_mul(24 * 3600)),
            },
            master_key,
            rules: Rules {
                policies,
                secrets,
                build_secrets,
                pipeline_secrets,
                schedules,
                pipelines,
                targets,
            },
        })
    }
}

fn master_key(digits: Secret) -> Result<Arc<MasterKey>, ConfigError> {
    let key = MasterKey::parse(&digits, "of the configuration");
    key.map(Arc::new).map_err(|error| ConfigError::value("secrets.key", &format!("is not usable: {error}")))
}

fn pipeline_secrets(
    raw: Vec<RawPipelineSecret>,
    folder: &Path,
) -> Result<Vec<ConfiguredSecret>, ConfigError> {
    let mut read = Vec::<ConfiguredSecret>::new();
    for (at, raw) in raw.into_iter().enumerate() {
        let RawPipelineSecret { name, value, repo, org, global, events, images } = raw;
        let wrong = |key: &str, why: &str| ConfigError::value(&format!("secret[{at}]{key}"), why);
        let name = name.parse().map_err(|why: String| wrong(".name", &format!("is wrong: {why}")))?;
        let scope = match (repo, org, global) {
            (Some(repo), None, false) => secrets::Scope::repository(&repo),
            (None, Some(org), false) => secrets::Scope::organisation(&org)
                .map_err(|why| wrong(".org", &format!("is wrong: {why}")))?,
            (None, None, true) => secrets::Scope::Global,
            _ => return Err(wrong("", "must say whose it is by one of `repo`, `org` or `global = true`")),
        };
        let value = value.reveal(&format!("secret[{at}].value"), folder)?;
        secrets::check_value(value.expose()).map_err(|why| wrong(".value", &format!("is wrong: {why}")))?;
        if let Some(why) = secrets::unmaskable(value.expose()) {
            tracing::warn!("`secret[{at}].value`: {why}");
        }
        if read.iter().any(|other| (&other.scope, &other.name) == (&scope, &name)) {
            return Err(wrong("", &format!("is there twice: `{name}` of {scope}; take one of them out")));
        }
        let rule = secrets::Rule { events, images };
        read.push(ConfiguredSecret { scope, name, rule, value });
    }
    Ok(read)
}

/// The addresses that the engine's client knows.
fn engine_host(host: String) -> Result<String, ConfigError> {
    let known = ["unix://", "tcp://", "http://", "https://"];
    if known.iter().any(|scheme| host.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
        return Ok(host);
    }
    let why = "which is no address of an engine; write unix:///PATH, tcp://HOST:PORT, http://HOST:PORT or \
               https://HOST:PORT";
    Err(ConfigError::value("engine.host", &format!("is `{}`, {why}", host.escape_debug())))
}

/// `linux/amd64`, or `linux/arm/v7`.
fn check_platform(platform: &str) -> Result<(), ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let parts = platform.split('/').count();
    if (2..=3).contains(&parts) && platform.split('/').all(|part| !part.is_empty() && part.bytes().all(plain))
    {
        return Ok(());
    }
    let why = "which is no platform; write OS/ARCH, such as linux/amd64";
    Err(ConfigError::value("pipelines.platform", &format!("is `{}`, {why}", platform.escape_debug())))
}

/// A secret that can be guessed proves nothing.
fn strong(key: &str, secret: Secret) -> Result<Secret, ConfigError> {
    const SHORTEST: usize = 16;
    if secret.expose().len() < SHORTEST {
        let why = format!("has fewer than {SHORTEST} characters; make one with `openssl rand -hex 32`");
        return Err(ConfigError::value(key, &why));
    }
    Ok(secret)
}
