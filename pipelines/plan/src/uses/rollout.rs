//! `uses: rollout`: one image of the registry, live on a target's Docker engine.

use std::net::IpAddr;

use mergeyard_types::{Digest, ImageName, Version};
use serde_json::Value;

use super::{
    Key, health, target,
    with::{With, label, port},
};
use crate::{
    action::{Action, RolloutAction},
    event::one_line,
    outputs, settings,
};

pub(super) const KEYS: [Key; 11] = [
    ("target", "The machine, by the operator's name for it"),
    ("service", "What stays while its containers come and go; the last part of the image's name"),
    ("image", "A name in the registry, of what this run published; or name:version, or name@sha256:…"),
    ("port", "What the program listens on"),
    ("publish", "Where the target offers it: a port, or address:port; or a list"),
    ("network", "What services of one application share on the target; mergeyard"),
    ("environment", "Variables; values may be from_secret"),
    ("command", "In the place of the image's: a list of words"),
    ("volumes", "name:/path, with :ro for reading only"),
    ("user", "As whom it runs, by name or number, with an optional group"),
    (
        "health",
        "What proves it before it goes live: a path, or a map with path, status, body, timeout, retries, interval",
    ),
];

const NETWORK: &str = "mergeyard";

struct Image {
    name: ImageName,
    version: Option<Version>,
    digest: Option<Digest>,
}

pub(super) fn read(with: &mut With<'_>) -> Option<Action> {
    let check = with.is_check();
    let target = target::read(with);
    let image = required(with, "image", "the name of an image in the registry", image);
    let port = required(with, "port", "what the program listens on", port);
    let service = match with.get("service") {
        Some(_) => with.read("service", label),
        None => image.as_ref().and_then(|image| service(with, &image.name)),
    };
    let publish = with.list("publish", publish);
    let network = with.read("network", network).unwrap_or_else(|| NETWORK.to_owned());
    let mut environment = with.variables("environment");
    if check {
        // Nothing is started, so nobody needs to know.
        environment.retain(|_, value| settings::secrets(value).is_empty());
    }
    let command = command(with);
    let volumes = volumes(with);
    let user = with.read("user", user);
    if with.get("health").is_none() {
        with.miss("health", "a path such as `/health`, by which a deployment is proven before it goes live");
    }
    let health = health::read(with, true);
    let Image { name, version, digest } = image?;
    Some(Action::Rollout(Box::new(RolloutAction {
        target: target?,
        service: service?,
        image: name,
        version,
        digest,
        port: port?,
        publish,
        network,
        environment,
        command,
        volumes,
        user,
        health: health?,
        check,
    })))
}

fn required<T>(
    with: &mut With<'_>,
    key: &str,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    if with.get(key).is_none() {
        with.miss(key, what);
        return None;
    }
    with.read(key, parse)
}

/// The image's last part is the service's name, where it can be one.
fn service(with: &mut With<'_>, image: &ImageName) -> Option<String> {
    let last = image.as_str().rsplit('/').next().unwrap_or_default();
    match label(last) {
        Ok(service) => Some(service),
        Err(_) => {
            with.miss("service", &format!("`{last}` cannot be one, as it has other characters than lower-case letters, digits and `-`"));
            None
        }
    }
}

/// `name`, `name:version` or `name@sha256:…`.
fn image(text: &str) -> Result<Image, String> {
    let name = |text: &str| text.parse::<ImageName>().map_err(|error| error.to_string());
    if let Some((image, digest)) = text.split_once('@') {
        let digest = digest.parse().map_err(|error: mergeyard_types::DigestError| error.to_string())?;
        return Ok(Image { name: name(image)?, version: None, digest: Some(digest) });
    }
    match text.split_once(':') {
        Some((image, version)) => {
            let version = version.parse().map_err(|error: mergeyard_types::NameError| {
                format!("{error}; write `name:version`, without the registry's host")
            })?;
            Ok(Image { name: name(image)?, version: Some(version), digest: None })
        }
        None => Ok(Image { name: name(text)?, version: None, digest: None }),
    }
}

/// `80`, `127.0.0.1:80` or `[::1]:80`.
fn publish(text: &str) -> Result<String, String> {
    let wrong = || {
        let shown = one_line(text);
        format!(
            "`{shown}` is no place to listen; write a port, or an address of the target and a port as `127.0.0.1:80`"
        )
    };
    let (address, number) = text.rsplit_once(':').map_or((None, text), |(before, port)| (Some(before), port));
    port(number).map_err(|_| wrong())?;
    if let Some(address) = address {
        let bare = match address.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|inner| inner.contains(':')),
            None => Some(address).filter(|address| !address.contains(':')),
        };
        bare.and_then(|bare| bare.parse::<IpAddr>().ok()).ok_or_else(wrong)?;
    }
    Ok(text.to_owned())
}

fn network(text: &str) -> Result<String, String> {
    let network = label(text)?;
    match network.as_str() {
        "host" | "none" | "bridge" | "default" => {
            Err(format!("`{network}` is the engine's own; services of an application share one of their own"))
        }
        _ => Ok(network),
    }
}

/// A list is taken word for word; one text is split at its blanks.
fn command(with: &mut With<'_>) -> Vec<String> {
    let Some((at, value)) = with.get("command") else { return Vec::new() };
    if let Value::String(text) = value {
        if text.contains(['"', '\'', '\\', '$', '|', '&', ';', '<', '>', '`', '*']) && !text.contains("${{") {
            let message =
                "`command`: no shell reads it, so quotes and the like mean nothing; write a list of words";
            with.say("uses-with", at, message.to_owned());
            return Vec::new();
        }
        // A reference to an output has blanks of its own.
        if !text.contains("${{") {
            return text.split_whitespace().map(str::to_owned).collect();
        }
        let message = "`command`: with an output in it, write a list of words";
        with.say("uses-with", at, message.to_owned());
        return Vec::new();
    }
    let words = with.list("command", |word| Ok(word.to_owned()));
    let before = std::iter::once("").chain(words.iter().map(String::as_str));
    let wrong: Vec<String> =
        before.zip(&words).filter_map(|(before, word)| outputs::check_word(before, word).err()).collect();
    for why in wrong {
        with.say("uses-with", at, format!("`command`: {why}"));
    }
    words
}

/// A folder of the target is all that is in it, so it needs the trust that `volumes` of a step need.
fn volumes(with: &mut With<'_>) -> Vec<String> {
    let volumes = with.list("volumes", volume);
    let trusted = with.asked.request.facts.trust().volumes;
    if let (Some(folder), Some((at, _))) =
        (volumes.iter().find(|volume| volume.starts_with('/') && !trusted), with.get("volumes"))
    {
        let message = format!(
            "`volumes`: `{folder}` is a folder of the target, which this repository is not trusted with; \
             name a volume as `data:/data`, or ask the operator for `trusted = [\"volumes\"]` in its `[[repo]]`"
        );
        with.say("trust", at, message);
    }
    volumes
}

fn volume(text: &str) -> Result<String, String> {
    let wrong = || {
        let shown = one_line(text);
        format!(
            "`{shown}` is no volume; write its name and an absolute path in the container, as `data:/data`, with `:ro` for reading only"
        )
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (from, to) = match parts[..] {
        [from, to] | [from, to, "ro" | "rw"] => (from, to),
        _ => return Err(wrong()),
    };
    let is_path = |path: &str| {
        path.len() > 1
            && path.len() <= 500
            && path.starts_with('/')
            && !path.chars().any(char::is_control)
            && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = from.len() > 1
        && from.len() <= 100
        && from.bytes().all(plain)
        && from.starts_with(|first: char| first.is_ascii_alphanumeric());
    if is_path(to) && (is_name || is_path(from)) { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn user(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let part = |part: &str| {
        !part.is_empty() && part.len() <= 64 && !part.starts_with('-') && part.bytes().all(plain)
    };
    let (user, group) = text.split_once(':').unwrap_or((text, "0"));
    match part(user) && part(group) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{}` is no user; write a name or a number, as `1000:1000`", one_line(text))),
    }
}
