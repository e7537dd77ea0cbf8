//! The configuration as it is written. Every key of `mergeyard.toml` is a field here.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mergeyard_plan::event::EventKind;
use mergeyard_types::{ImageName, RegistryHost, RepoName, Secret};
use serde::{Deserialize, Deserializer, de};
use url::Url;

use super::{ConfigError, target::RawTarget};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawConfig {
    pub(super) data_dir: PathBuf,
    pub(super) http: RawHttp,
    pub(super) github: RawGithub,
    pub(super) git: RawGit,
    pub(super) engine: RawEngine,
    pub(super) registry: RawRegistry,
    pub(super) deliveries: RawDeliveries,
    pub(super) secrets: RawSecrets,
    pub(super) secret: Vec<RawPipelineSecret>,
    pub(super) pipelines: RawPipelines,
    pub(super) repo: Vec<RawRepo>,
    pub(super) target: Vec<RawTarget>,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/mergeyard".into(),
            http: RawHttp::default(),
            github: RawGithub::default(),
            git: RawGit::default(),
            engine: RawEngine::default(),
            registry: RawRegistry::default(),
            deliveries: RawDeliveries::default(),
            secrets: RawSecrets::default(),
            secret: Vec::new(),
            pipelines: RawPipelines::default(),
            repo: Vec::new(),
            target: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawHttp {
    #[serde(deserialize_with = "address")]
    pub(super) listen: SocketAddr,
    #[serde(deserialize_with = "some_url")]
    pub(super) public_url: Option<Url>,
    pub(super) tls: Option<RawTls>,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8088)), public_url: None, tls: None }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawTls {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawGithub {
    #[serde(deserialize_with = "url")]
    pub(super) api_url: Url,
    pub(super) webhook_secret: Option<RawSecret>,
    pub(super) webhook_secret_previous: Option<RawPrevious>,
    pub(super) token: Option<RawSecret>,
    pub(super) ca: Option<PathBuf>,
    #[serde(deserialize_with = "url")]
    pub(super) ngrok_url: Url,
    #[serde(deserialize_with = "number")]
    pub(super) reconcile_minutes: u64,
}

impl Default for RawGithub {
    fn default() -> Self {
        Self {
            api_url: Url::parse("https://api.github.com").expect("a constant"),
            webhook_secret: None,
            webhook_secret_previous: None,
            token: None,
            ca: None,
            ngrok_url: Url::parse("http://127.0.0.1:4040").expect("a constant"),
            reconcile_minutes: 10,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawPrevious {
    pub(super) secret: RawSecret,
    pub(super) until: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawGit {
    pub(super) webhook_secret: Option<RawSecret>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawEngine {
    pub(super) host: String,
    #[serde(deserialize_with = "number")]
    pub(super) parallel: usize,
    pub(super) registries: Vec<RawLogin>,
    #[serde(deserialize_with = "some_number")]
    pub(super) memory_mb: Option<u64>,
    pub(super) network: BuildNetwork,
    #[serde(deserialize_with = "number")]
    pub(super) log_mb: u64,
}

impl Default for RawEngine {
    fn default() -> Self {
        Self {
            host: "unix:///var/run/docker.sock".to_owned(),
            // One more than the machine has on the smallest, where steps mostly wait for the engine.
            parallel: std::thread::available_parallelism().map_or(2, |processors| processors.get().max(2)),
            registries: Vec::new(),
            memory_mb: None,
            network: BuildNetwork::Default,
            log_mb: mergeyard_run::log::DEFAULT_LOG_BYTES / (1024 * 1024),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawLogin {
    pub(super) host: RegistryHost,
    pub(super) username: String,
    pub(super) password: RawSecret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawRegistry {
    pub(super) embedded: bool,
    #[serde(deserialize_with = "address")]
    pub(super) listen: SocketAddr,
    pub(super) host: Option<RegistryHost>,
    pub(super) ca: Option<PathBuf>,
    pub(super) username: Option<String>,
    pub(super) password: Option<RawSecret>,
    pub(super) tls: Option<RawTls>,
    #[serde(deserialize_with = "number")]
    pub(super) gc_hours: u64,
    #[serde(deserialize_with = "number")]
    pub(super) verify_days: u64,
    #[serde(deserialize_with = "some_number")]
    pub(super) requests_per_minute: Option<u32>,
    pub(super) repository: Vec<RawRepository>,
    pub(super) mirror: Vec<RawMirror>,
}

impl Default for RawRegistry {
    fn default() -> Self {
        Self {
            embedded: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 5000)),
            host: None,
            ca: None,
            username: None,
            password: None,
            tls: None,
            gc_hours: 24,
            verify_days: 30,
            requests_per_minute: None,
            repository: Vec::new(),
            mirror: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRepository {
    pub(super) name: String,
    #[serde(default)]
    pub(super) mutable_tags: Vec<String>,
    #[serde(default)]
    pub(super) anonymous_pull: bool,
    pub(super) quota_gb: Option<u64>,
    pub(super) keep_last: Option<usize>,
    pub(super) keep_days: Option<u64>,
    #[serde(default)]
    pub(super) keep_tags: Vec<String>,
    pub(super) untagged_days: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawMirror {
    pub(super) name: ImageName,
    #[serde(deserialize_with = "url")]
    pub(super) upstream: Url,
    pub(super) username: Option<String>,
    pub(super) password: Option<RawSecret>,
    pub(super) ca: Option<PathBuf>,
    #[serde(default = "minute")]
    pub(super) revalidate_seconds: u64,
}

fn minute() -> u64 {
    60
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawDeliveries {
    #[serde(deserialize_with = "number")]
    pub(super) keep_days: u64,
}

impl Default for RawDeliveries {
    fn default() -> Self {
        Self { keep_days: 30 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawRepo {
    pub(super) name: String,
    #[serde(default)]
    pub(super) branches: Vec<String>,
    pub(super) clone_url: Option<String>,
    pub(super) id: Option<i64>,
    pub(super) webhook_secret: Option<RawSecret>,
    #[serde(default)]
    pub(super) build_secrets: BTreeMap<String, RawSecret>,
    #[serde(default = "yes")]
    pub(super) supersede: bool,
    #[serde(default)]
    pub(super) trusted: Vec<String>,
    #[serde(default)]
    pub(super) events: Vec<String>,
    pub(super) forks: Option<String>,
    #[serde(default)]
    pub(super) cron: Vec<RawCron>,
    /// Machines that it may deploy to.
    #[serde(default)]
    pub(super) targets: Vec<String>,
}

fn yes() -> bool {
    true
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawSecrets {
    pub(super) key: Option<RawSecret>,
}

/// A secret of pipelines, of one repository, one organisation or everybody.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawPipelineSecret {
    pub(super) name: String,
    pub(super) value: RawSecret,
    pub(super) repo: Option<RepoName>,
    pub(super) org: Option<String>,
    #[serde(default)]
    pub(super) global: bool,
    #[serde(default)]
    pub(super) events: Vec<EventKind>,
    #[serde(default)]
    pub(super) images: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawCron {
    pub(super) name: String,
    pub(super) schedule: String,
    pub(super) branch: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(super) struct RawPipelines {
    #[serde(deserialize_with = "number")]
    pub(super) matrix_limit: usize,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) platform: Option<String>,
}

impl Default for RawPipelines {
    fn default() -> Self {
        Self { matrix_limit: 100, labels: BTreeMap::new(), platform: None }
    }
}

/// What a build's `RUN` lines may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildNetwork {
    Default,
    None,
}

/// A secret in the file, in a file of its own, or in a variable of the environment.
#[derive(Clone)]
pub(super) enum RawSecret {
    Here(Secret),
    File(PathBuf),
    Env(String),
}

impl RawSecret {
    pub(super) fn reveal(self, key: &str, folder: &Path) -> Result<Secret, ConfigError> {
        let value = match self {
            RawSecret::Here(secret) => return Ok(secret),
            RawSecret::File(path) => {
                let path = folder.join(path);
                std::fs::read_to_string(&path).map_err(|error| {
                    ConfigError::value(key, &format!("cannot be read from {}: {error}; write the secret to that file", path.display()))
                })?
            }
            RawSecret::Env(name) => std::env::var(&name).map_err(|_| {
                ConfigError::value(key, &format!("is to come from the variable {name}, which is not set; set it where this program starts"))
            })?,
        };
        let value = value.trim_end_matches(['\r', '\n']);
        if value.is_empty() {
            return Err(ConfigError::value(key, "is empty"));
        }
        Ok(Secret::new(value))
    }
}

impl<'de> Deserialize<'de> for RawSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawSecret;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(r#"a string, {file = "…"} or {env = "…"}"#)
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<RawSecret, E> {
                Ok(RawSecret::Here(Secret::new(value)))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<RawSecret, A::Error> {
                let (key, value) = map
                    .next_entry::<String, String>()?
                    .ok_or_else(|| de::Error::custom("an empty table holds no secret"))?;
                let secret = match key.as_str() {
                    "file" => RawSecret::File(value.into()),
                    "env" => RawSecret::Env(value),
                    other => return Err(de::Error::unknown_field(other, &["file", "env"])),
                };
                match map.next_key::<String>()? {
                    None => Ok(secret),
                    Some(_) => Err(de::Error::custom("a secret has one source: `file` or `env`")),
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// What is wrong with an address, without the address: a login could be in it.
pub(super) fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |why| de::Error::custom(format!("no URL ({why}); write one such as https://ci.example.org"));
    Url::parse(&text).map_err(wrong)
}

fn some_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    url(deserializer).map(Some)
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = "no IP address with a port; write one such as 127.0.0.1:8088 or [::1]:8088";
    text.parse().map_err(|_| de::Error::custom(wrong))
}

fn some_number<'de, D: Deserializer<'de>, N>(deserializer: D) -> Result<Option<N>, D::Error>
where
    N: TryFrom<u64> + std::str::FromStr,
{
    number(deserializer).map(Some)
}

/// Numbers in the environment arrive as text.
fn number<'de, D: Deserializer<'de>, N>(deserializer: D) -> Result<N, D::Error>
where
    N: TryFrom<u64> + std::str::FromStr,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    let wrong = || de::Error::custom("expected a whole number from 0 on, such as 4");
    match Either::deserialize(deserializer).map_err(|_| wrong())? {
        Either::Number(number) => N::try_from(number).map_err(|_| wrong()),
        Either::Text(text) => text.parse().map_err(|_| wrong()),
    }
}
