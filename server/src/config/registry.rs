//! `[registry]`: the registry inside this server, or the one elsewhere that images go to.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use mergeyard_registry as registry;
use mergeyard_types::{RegistryHost, Secret};

use super::{
    ConfigError,
    raw::{RawMirror, RawRegistry, RawRepository},
};

const DAY: u64 = 24 * 60 * 60;
const GB: u64 = 1_000_000_000;

#[derive(Debug, Clone)]
pub enum Registry {
    Embedded(Box<Embedded>),
    External { host: RegistryHost, ca: Option<PathBuf>, username: String, password: Secret },
}

#[derive(Debug, Clone)]
pub struct Embedded {
    pub listen: SocketAddr,
    /// What clients call it; without one, the address it listens on.
    pub host: Option<RegistryHost>,
    /// Certificate chain and key of the operator's own, in the place of the authority's.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub config: registry::Config,
    /// How often garbage is collected, and how often everything is read again; `None` is never.
    pub collect_every: Option<Duration>,
    pub verify_every: Option<Duration>,
}

/// What is configured for a registry without the rest of the server.
#[derive(Debug, Clone)]
pub struct RegistryAlone {
    pub data_dir: PathBuf,
    pub registry: Registry,
    pub engine_host: String,
}

impl RegistryAlone {
    pub fn embedded(&self) -> Result<&Embedded, ConfigError> {
        match &self.registry {
            Registry::Embedded(embedded) => Ok(embedded),
            Registry::External { .. } => {
                let why = "is false, so the registry is another program's: remove that line to have one here";
                Err(ConfigError::value("registry.embedded", why))
            }
        }
    }
}

impl Registry {
    pub(super) fn check(raw: RawRegistry, folder: &Path) -> Result<Self, ConfigError> {
        let RawRegistry { embedded, listen, host, ca, username, password, .. } = &raw;
        if *embedded {
            let given = [
                ("registry.ca", ca.is_some()),
                ("registry.username", username.is_some()),
                ("registry.password", password.is_some()),
            ];
            if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                let why = "is for another registry; set `embedded = false`, or remove it";
                return Err(ConfigError::value(key, why));
            }
            let tls = raw.tls.as_ref().map(|tls| (folder.join(&tls.cert), folder.join(&tls.key)));
            let (listen, host) = (*listen, host.clone());
            let every = |number: u64, unit: u64| {
                (number > 0).then(|| Duration::from_secs(number.saturating_mul(unit)))
            };
            let collect_every = every(raw.gc_hours, 60 * 60);
            let verify_every = every(raw.verify_days, DAY);
            let config = config(raw, folder)?;
            let embedded = Embedded { listen, host, tls, config, collect_every, verify_every };
            return Ok(Self::Embedded(Box::new(embedded)));
        }
        let missing = |key| ConfigError::value(key, "is missing; a registry that is not embedded needs it");
        let host = host.clone().ok_or_else(|| missing("registry.host"))?;
        let username = username.clone().ok_or_else(|| missing("registry.username"))?;
        let password = password.clone().ok_or_else(|| missing("registry.password"))?;
        Ok(Self::External {
            host,
            ca: ca.as_ref().map(|ca| folder.join(ca)),
            username,
            password: password.reveal("registry.password", folder)?,
        })
    }
}

fn config(raw: RawRegistry, folder: &Path) -> Result<registry::Config, ConfigError> {
    let requests_per_minute = raw.requests_per_minute.map(|number| {
        let why = "is 0, so nobody would be answered; leave it out for no limit, or write 1 or more";
        NonZeroU32::new(number).ok_or_else(|| ConfigError::value("registry.requests_per_minute", why))
    });
    let repositories = raw.repository.into_iter().enumerate().map(|(at, raw)| repository(at, raw));
    let mirrors = raw.mirror.into_iter().enumerate().map(|(at, raw)| mirror(at, raw, folder));
    Ok(registry::Config {
        repositories: repositories.collect::<Result<_, _>>()?,
        mirrors: mirrors.collect::<Result<_, _>>()?,
        limits: registry::Limits {
            requests_per_minute: requests_per_minute.transpose()?,
            ..registry::Limits::default()
        },
    })
}

fn repository(at: usize, raw: RawRepository) -> Result<registry::Repository, ConfigError> {
    let RawRepository { name, mutable_tags, anonymous_pull, quota_gb, .. } = raw;
    let key = |key: &str| format!("registry.repository[{at}].{key}");
    let pattern = |of: &str| {
        let key = key(of);
        move |error: globset::Error| ConfigError::value(&key, &error.to_string())
    };
    let tags = |of: &str, patterns: &[String]| {
        registry::Tags::new(patterns.iter().map(String::as_str)).map_err(pattern(of))
    };
    let days = |days: u64| Duration::from_secs(days.saturating_mul(DAY));
    if raw.keep_last == Some(0) {
        let why = "is 0, which would remove every tag; leave it out to keep all, or write 1 or more";
        return Err(ConfigError::value(&key("keep_last"), why));
    }
    let rules = registry::Rules {
        mutable_tags: tags("mutable_tags", &mutable_tags)?,
        anonymous_pull,
        quota: quota_gb.map(|gb| gb.saturating_mul(GB)),
        retention: registry::Retention {
            keep_last: raw.keep_last,
            keep_for: raw.keep_days.map(days),
            keep_tags: tags("keep_tags", &raw.keep_tags)?,
            untagged_for: raw.untagged_days.map(days),
        },
    };
    registry::Repository::new(&name, rules).map_err(pattern("name"))
}

fn mirror(at: usize, raw: RawMirror, folder: &Path) -> Result<registry::Mirror, ConfigError> {
    let key = |key: &str| format!("registry.mirror[{at}].{key}");
    if raw.upstream.scheme() != "https" || raw.upstream.host_str().is_none() {
        let why = "is not an https address such as https://registry-1.docker.io";
        return Err(ConfigError::value(&key("upstream"), why));
    }
    let login = match (raw.username, raw.password) {
        (Some(username), Some(password)) => Some((username, password.reveal(&key("password"), folder)?)),
        (None, None) => None,
        (Some(_), None) => return Err(ConfigError::value(&key("password"), "is missing beside `username`")),
        (None, Some(_)) => return Err(ConfigError::value(&key("username"), "is missing beside `password`")),
    };
    let ca_pem = match raw.ca {
        Some(ca) => {
            let path = folder.join(ca);
            let read = std::fs::read(&path);
            Some(read.map_err(|error| {
                ConfigError::value(&key("ca"), &format!("cannot be read from {}: {error}", path.display()))
            })?)
        }
        None => None,
    };
    Ok(registry::Mirror {
        prefix: raw.name,
        upstream: raw.upstream,
        login,
        ca_pem,
        revalidate: Duration::from_secs(raw.revalidate_seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Registry, String> {
        let raw = toml::from_str(text).map_err(|error| error.to_string())?;
        Registry::check(raw, Path::new("/etc/mergeyard")).map_err(|error| error.to_string())
    }

    #[test]
    fn rules_mirrors_and_limits_are_what_the_operator_wrote() {
        let registry = check(
            r#"
            gc_hours = 0
            requests_per_minute = 600
            tls = { cert = "chain.pem", key = "/keys/key.pem" }
            [[repository]]
            name = "acme/*"
            mutable_tags = ["latest", "edge-*"]
            quota_gb = 2
            keep_last = 3
            [[repository]]
            name = "**"
            anonymous_pull = true
            keep_days = 1
            [[mirror]]
            name = "docker.io"
            upstream = "https://registry-1.docker.io"
            username = "me"
            password = "secret"
            "#,
        );
        let Registry::Embedded(embedded) = registry.unwrap() else { panic!("it is embedded") };
        assert_eq!(
            (embedded.collect_every, embedded.verify_every),
            (None, Some(Duration::from_secs(30 * DAY)))
        );
        assert_eq!(embedded.tls, Some(("/etc/mergeyard/chain.pem".into(), "/keys/key.pem".into())));
        let config = embedded.config;
        let (one, other) =
            (config.rules(&"acme/clock".parse().unwrap()), config.rules(&"other".parse().unwrap()));
        assert!(one.mutable_tags.contains(&"edge-1".parse().unwrap()) && !one.anonymous_pull);
        assert!(!one.mutable_tags.contains(&"0.1.0".parse().unwrap()));
        assert_eq!(
            (one.quota, one.retention.keep_last, one.retention.keep_for),
            (Some(2 * GB), Some(3), None)
        );
        assert_eq!((other.anonymous_pull, other.retention.keep_for), (true, Some(Duration::from_secs(DAY))));
        let mirror = config.mirror(&"docker.io/library/debian".parse().unwrap()).unwrap();
        assert_eq!((mirror.revalidate.as_secs(), &mirror.login.as_ref().unwrap().0[..]), (60, "me"));
        assert_eq!(config.limits.requests_per_minute.unwrap().get(), 600);
    }

    #[test]
    fn what_could_not_be_meant_is_refused_by_its_key() {
        for (text, error) in [
            ("[[repository]]\nname = \"a\"\nkeep_last = 0", "`registry.repository[0].keep_last` is 0"),
            ("[[repository]]\nname = \"a[\"", "`registry.repository[0].name`"),
            ("[[repository]]\nname = \"a\"\nkeep_tags = [\"v[\"]", "`registry.repository[0].keep_tags`"),
            ("[[repository]]\nname = \"a\"\nkeep_lst = 1", "unknown field `keep_lst`"),
            (
                "[[mirror]]\nname = \"m\"\nupstream = \"http://r.example.org\"",
                "`registry.mirror[0].upstream` is not an https",
            ),
            (
                "[[mirror]]\nname = \"m\"\nupstream = \"https://r.example.org\"\nusername = \"me\"",
                "`registry.mirror[0].password` is missing beside `username`",
            ),
            (
                "[[mirror]]\nname = \"m\"\nupstream = \"https://r.example.org\"\nca = \"none.pem\"",
                "cannot be read from /etc/mergeyard/none.pem",
            ),
            ("requests_per_minute = 0", "`registry.requests_per_minute` is 0"),
            ("ca = \"ca.pem\"", "is for another registry"),
        ] {
            let refused = check(text).unwrap_err();
            assert!(refused.contains(error), "{text}: {refused}");
        }
    }
}
