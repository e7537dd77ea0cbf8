//! `[[target]]`: the machines that runs deliver to, and who may deliver what to them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mergeyard_plan::{event::EventKind, policy::TargetRights};
use mergeyard_run::target::{Mirror, Reach, Ssh, Target};
use mergeyard_types::{Secret, TargetName};
use serde::Deserialize;
use url::Url;

use super::{
    ConfigError,
    freeze::{Freeze, RawWindow},
    raw::{RawSecret, url},
    repo::{events, unknown},
    source::nearest,
};

/// A target with what the operator says about deployments to it.
#[derive(Debug, Clone)]
pub struct ConfiguredTarget {
    pub target: Arc<Target>,
    /// Who names it in `[[repo]] targets` may do this.
    pub rights: TargetRights,
    pub freeze: Freeze,
    /// How often what it runs is compared with what was deployed; `None` is never.
    pub drift_every: Option<Duration>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawTarget {
    name: TargetName,
    #[serde(default)]
    kind: Kind,
    address: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    host_key: Option<String>,
    key: Option<RawSecret>,
    #[serde(default)]
    branches: Vec<String>,
    #[serde(default)]
    events: Vec<String>,
    #[serde(default)]
    freeze: Vec<RawWindow>,
    #[serde(default = "engine_socket")]
    engine: String,
    #[serde(default = "ten")]
    drift_minutes: u64,
    mirror: Option<RawMirror>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Ssh,
    Local,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct RawMirror {
    root: String,
    #[serde(deserialize_with = "url")]
    url: Url,
    ca: Option<PathBuf>,
    #[serde(default)]
    upstreams: Vec<String>,
    #[serde(default = "three")]
    keep: usize,
}

fn engine_socket() -> String {
    "/var/run/docker.sock".to_owned()
}

fn ten() -> u64 {
    10
}

fn three() -> usize {
    3
}

/// All targets, by the order of the file.
pub(super) fn targets(raw: Vec<RawTarget>, folder: &Path) -> Result<Vec<ConfiguredTarget>, ConfigError> {
    let mut read = Vec::<ConfiguredTarget>::new();
    for (at, raw) in raw.into_iter().enumerate() {
        let target = target(at, raw, folder)?;
        if read.iter().any(|other| other.target.name == target.target.name) {
            let why = format!("has the name `{}` of another one; give it its own", target.target.name);
            return Err(ConfigError::value(&format!("target[{at}].name"), &why));
        }
        read.push(target);
    }
    Ok(read)
}

/// What the names in a `[[repo]] targets` mean.
pub(super) fn rights(
    at: usize,
    names: &[String],
    targets: &[ConfiguredTarget],
) -> Result<Vec<TargetRights>, ConfigError> {
    let right = |name: &String| match targets.iter().find(|other| other.target.name.as_str() == name) {
        Some(found) => Ok(found.rights.clone()),
        None => {
            let known: Vec<&str> = targets.iter().map(|other| other.target.name.as_str()).collect();
            let why = match nearest(name, known.iter().copied()) {
                Some(_) => unknown(name, "a `[[target]]`", &known),
                None => format!("names `{}`, and there is no `[[target]]`; add it", name.escape_debug()),
            };
            Err(ConfigError::value(&format!("repo[{at}].targets"), &why))
        }
    };
    names.iter().map(right).collect()
}

fn target(at: usize, raw: RawTarget, folder: &Path) -> Result<ConfiguredTarget, ConfigError> {
    let RawTarget {
        name,
        kind,
        address,
        port,
        user,
        host_key,
        key,
        branches,
        events: words,
        freeze,
        engine,
        drift_minutes,
        mirror,
    } = raw;
    let wrong = |key: &str, why: &str| ConfigError::value(&format!("target[{at}].{key}"), why);
    let reach = match kind {
        Kind::Local => {
            let given = [
                ("address", address.is_some()),
                ("port", port.is_some()),
                ("user", user.is_some()),
                ("host_key", host_key.is_some()),
                ("key", key.is_some()),
            ];
            if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
                return Err(wrong(
                    key,
                    "is for targets that are reached over SSH; remove it, or write `kind = \"ssh\"`",
                ));
            }
            Reach::Local
        }
        Kind::Ssh => {
            let missing = |key: &str| wrong(key, "is missing; a target that is reached over SSH needs it");
            let address = address.ok_or_else(|| missing("address"))?;
            let user = user.ok_or_else(|| missing("user"))?;
            let key = key.ok_or_else(|| missing("key"))?;
            check_address(&address).map_err(|why| wrong("address", why))?;
            check_user(&user).map_err(|why| wrong("user", why))?;
            let host_key =
                host_key.map(|key| check_host_key(&key)).transpose().map_err(|why| wrong("host_key", why))?;
            let key = key.reveal(&format!("target[{at}].key"), folder)?;
            let key = check_key(&key).map_err(|why| wrong("key", why))?;
            Reach::Ssh(Ssh { address, port: port.unwrap_or(22), user, host_key, key })
        }
    };
    check_path(&engine).map_err(|why| wrong("engine", why))?;
    let mirror = mirror.map(|raw| self::mirror(at, raw, folder)).transpose()?;
    let words: Vec<EventKind> = events(&words).map_err(|why| wrong("events", &why))?;
    let rights = TargetRights::new(name.clone(), &branches, words, mirror.is_some())
        .map_err(|error| wrong("branches", &error.to_string()))?;
    let freeze = Freeze::read(&freeze).map_err(|why| wrong("freeze", &why))?;
    Ok(ConfiguredTarget {
        target: Arc::new(Target { name, reach, mirror, engine }),
        rights,
        freeze,
        drift_every: (drift_minutes > 0).then(|| Duration::from_secs(drift_minutes.saturating_mul(60))),
    })
}

fn mirror(at: usize, raw: RawMirror, folder: &Path) -> Result<Mirror, ConfigError> {
    let RawMirror { root, url, ca, upstreams, keep } = raw;
    let wrong = |key: &str, why: &str| ConfigError::value(&format!("target[{at}].mirror.{key}"), why);
    check_path(&root).map_err(|why| wrong("root", why))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("url", "must begin with https:// or http://: what is served is read there"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("url", "has a login in it, which pages and logs would show; take it out"));
    }
    let read = |path: PathBuf| {
        let path = folder.join(path);
        std::fs::read(&path)
            .map_err(|error| wrong("ca", &format!("cannot be read from {}: {error}", path.display())))
    };
    let ca_pem = ca.map(read).transpose()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    let is_name = |name: &&String| {
        !name.is_empty() && !name.starts_with('-') && name.len() <= 200 && name.bytes().all(plain)
    };
    if let Some(name) = upstreams.iter().find(|name| !is_name(name)) {
        let why = format!("names `{}`, which is no name of a repository of dnf", name.escape_debug());
        return Err(wrong("upstreams", &why));
    }
    if keep == 0 {
        return Err(wrong("keep", "is 0, so there would be nothing to go back to; write 1 or more"));
    }
    Ok(Mirror { root, url, ca_pem, upstreams, keep })
}

/// A host name or an address, and nothing that a program could take for an option.
fn check_address(address: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'%' | b'_');
    let good = !address.is_empty()
        && address.len() <= 255
        && !address.starts_with('-')
        && address.bytes().all(plain);
    if good { Ok(()) } else { Err("is no host name and no address; write one such as 192.0.2.10") }
}

fn check_user(user: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'$');
    let good = !user.is_empty() && user.len() <= 64 && !user.starts_with('-') && user.bytes().all(plain);
    if good { Ok(()) } else { Err("is no name of an account") }
}

/// An absolute path below the root that leads nowhere else and that every shell reads as it is.
fn check_path(path: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'+');
    let mut parts = path.split('/').skip(1);
    let good = path.starts_with('/')
        && path.len() <= 1000
        && path.bytes().all(plain)
        && parts.all(|part| !matches!(part, "" | "." | ".."));
    if good {
        Ok(())
    } else {
        Err("must be an absolute path of letters, digits and `. - _ +`, without `..` and a slash at its end")
    }
}

/// `ssh-ed25519 AAAA…`, without the comment that `ssh-keyscan` and `.pub` files have.
fn check_host_key(key: &str) -> Result<String, &'static str> {
    const FORM: &str = "is no host key; write the kind and the key, as `ssh-ed25519 AAAA…`: \
                        `mergeyard target check` prints the line";
    const KINDS: [&str; 5] =
        ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];
    let mut words = key.split_ascii_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else { return Err(FORM) };
    let bytes = STANDARD.decode(blob).map_err(|_| FORM)?;
    // A key begins with its kind once more, so what was cut or mixed up shows.
    let inner = bytes.get(4..4 + kind.len());
    if !KINDS.contains(&kind) || inner != Some(kind.as_bytes()) || bytes.len() < 4 + kind.len() + 32 {
        return Err(FORM);
    }
    Ok(format!("{kind} {blob}"))
}

/// A private key in PEM form, with the line break at its end that `ssh-add` wants.
fn check_key(key: &Secret) -> Result<Secret, &'static str> {
    let text = key.expose().trim();
    let framed =
        text.starts_with("-----BEGIN ") && text.ends_with("-----") && text.contains(" PRIVATE KEY-----");
    if framed {
        Ok(Secret::new(format!("{text}\n")))
    } else {
        Err("is no private key; make one with `ssh-keygen -t ed25519 -N \"\" -f KEY` and name its file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\\nhunter2\\n-----END OPENSSH PRIVATE KEY-----";

    fn host_key(kind: &str) -> String {
        let mut blob = vec![0, 0, 0, 11];
        blob.extend_from_slice(b"ssh-ed25519");
        blob.extend_from_slice(&[0, 0, 0, 32]);
        blob.extend_from_slice(&[7; 32]);
        format!("{kind} {} root@clock", STANDARD.encode(blob))
    }

    fn load(targets: &str) -> Result<Config, ConfigError> {
        let text = format!(
            "[github]\nwebhook_secret = \"0123456789abcdef\"\n\
             [[repo]]\nname = \"acme/clock\"\ntargets = [\"clock-vm\", \"here\"]\n{targets}"
        );
        Config::from_table(text.parse().unwrap())
    }

    fn vm(more: &str) -> String {
        format!(
            "[[target]]\nname = \"here\"\nkind = \"local\"\n[[target]]\nname = \"clock-vm\"\naddress = \"192.0.2.10\"\nuser = \"deploy\"\n\
             host_key = \"{}\"\nkey = \"{KEY}\"\n{more}",
            host_key("ssh-ed25519")
        )
    }

    #[test]
    fn a_target_says_how_it_is_reached_and_what_may_be_done_to_it() {
        let text = vm(
            "branches = [\"main\"]\nevents = [\"tag\"]\nfreeze = [{from = \"Fri 16:00\", to = \"Mon 07:00\"}]\n\
             drift_minutes = 0\nmirror = {root = \"/srv/mirror\", url = \"https://mirror.example.org/el9\"}\n",
        );
        let rules = load(&text).unwrap().rules;
        let here = rules.target(&"here".parse().unwrap()).unwrap();
        assert!(matches!(here.target.reach, Reach::Local));
        assert_eq!(here.drift_every, Some(Duration::from_secs(600)));
        let vm = rules.target(&"clock-vm".parse().unwrap()).unwrap();
        let Reach::Ssh(ssh) = &vm.target.reach else { panic!("it is reached over SSH") };
        assert_eq!((ssh.address.as_str(), ssh.port, ssh.user.as_str()), ("192.0.2.10", 22, "deploy"));
        assert_eq!(ssh.host_key.as_ref().unwrap().split(' ').count(), 2, "the comment is not kept");
        assert!(ssh.key.expose().ends_with("-----\n"), "ssh-add reads no key without its last line break");
        assert_eq!((vm.target.mirror.as_ref().unwrap().keep, vm.drift_every), (3, None));
        let rights = &rules.policies.0[0].targets;
        assert_eq!(rights.iter().map(|right| right.mirror).collect::<Vec<_>>(), [true, false]);
        assert_eq!(rights[0].refusal("main", EventKind::Tag, false), None);
        assert!(rights[0].refusal("main", EventKind::Push, false).unwrap().contains("only the events tag"));
        assert!(
            rights[0]
                .refusal("dev", EventKind::PullRequest, true)
                .unwrap()
                .contains("only the branches main")
        );
        assert_eq!(rights[1].refusal("dev", EventKind::PullRequest, true), None);
        assert!(rights[1].refusal("dev", EventKind::PullRequest, false).is_some());
        assert_eq!(rights[1].refusal("dev", EventKind::PullRequestMerged, false), None);
    }

    #[test]
    fn what_a_target_cannot_be_is_named_by_its_key() {
        for (text, expected) in [
            (vm("").replace("192.0.2.10", "-oProxyCommand=id"), "`target[1].address` is no host name"),
            (vm("").replace("\"deploy\"", "\"de ploy\""), "`target[1].user` is no name"),
            (
                vm("").replace(&host_key("ssh-ed25519"), &host_key("ssh-rsa")),
                "`target[1].host_key` is no host key",
            ),
            (vm("").replace("-----BEGIN", "----BEGIN"), "`target[1].key` is no private key"),
            (
                vm("").replace("\"here\"\n", "\"clock-vm\"\n"),
                "`target[1].name` has the name `clock-vm` of another",
            ),
            (vm("").replace("\"local\"\n", "\"local\"\nuser = \"a\"\n"), "`target[0].user` is for targets"),
            (vm("").replace("user = \"deploy\"\n", ""), "`target[1].user` is missing"),
            (
                vm("").replace("\"here\"\n", "\"there\"\n"),
                "names `here`, which is not a `[[target]]`; the nearest is `there`",
            ),
            (String::new(), "names `clock-vm`, and there is no `[[target]]`"),
            (vm("engine = \"/var/../run\"\n"), "`target[1].engine` must be an absolute path"),
            (
                vm("mirror = {root = \"/srv/$(id)\", url = \"https://m\"}\n"),
                "`target[1].mirror.root` must be",
            ),
            (vm("mirror = {root = \"/srv/m\", url = \"ftp://m\"}\n"), "`target[1].mirror.url` must begin"),
            (vm("mirror = {root = \"/srv/m\", url = \"http://m\", upstreams = [\"--x\"]}\n"), "names `--x`"),
            (vm("mirror = {root = \"/srv/m\", url = \"http://m\", keep = 0}\n"), "nothing to go back to"),
            (vm("freeze = [{from = \"x\", to = \"y\"}]\n"), "`target[1].freeze` has `x`, which is no time"),
            (vm("events = [\"pushed\"]\n"), "`target[1].events` names `pushed`"),
            (vm("adress = \"a\"\n"), "the nearest known key is `address`"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\n{text}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
