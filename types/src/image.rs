//! Image names as the OCI distribution specification allows them, and nothing wider:
//! they become URL paths, folder names and arguments.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Digest, NameError};

fn refuse(what: &'static str, text: &str, why: &'static str) -> NameError {
    let text = text.chars().take(80).flat_map(char::escape_debug).collect();
    NameError { what, text, why }
}

/// A repository inside a registry: the `<name>` of the OCI distribution specification,
/// section "Pulling manifests".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(String);

impl ImageName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "image name";
        if text.is_empty() || text.len() > 255 {
            return Err(refuse(WHAT, text, "it must have 1 to 255 characters"));
        }
        if !text.split('/').all(is_name_component) {
            return Err(refuse(
                WHAT,
                text,
                "each part must be lower-case letters and digits, joined by single `.`, `_`, `__` or dashes",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_name_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    word(first)
        && word(last)
        && bytes
            .split(word)
            .filter(|joint| !joint.is_empty())
            .all(|joint| matches!(joint, b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

/// An image's version: the `<reference>` grammar for tags in the OCI distribution specification.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(String);

impl Version {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "version";
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if text.is_empty() || text.len() > 128 {
            return Err(refuse(WHAT, text, "it must have 1 to 128 characters"));
        }
        if !word(text.as_bytes()[0]) || !text.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
            return Err(refuse(
                WHAT,
                text,
                "it must be letters, digits, `_`, `.` and `-`, and not begin with `.` or `-`",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// `host[:port]` of a registry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost(String);

impl RegistryHost {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the port.
    pub fn host(&self) -> &str {
        match self.0.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.0,
        }
    }
}

impl FromStr for RegistryHost {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "registry host";
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        if let Some(port) = port
            && !port.parse::<u16>().is_ok_and(|p| p != 0 && port.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(refuse(WHAT, text, "the part after `:` must be a port from 1 to 65535"));
        }
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let good = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.len() <= 253 && host.split('.').all(label),
        };
        if !good {
            return Err(refuse(
                WHAT,
                text,
                "it must be a host name or address with an optional `:port`, without a scheme or path",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

crate::git::text_form!(ImageName);
crate::git::text_form!(Version);
crate::git::text_form!(RegistryHost);

/// One image in one registry, by tag, by digest, or by both.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    pub registry: RegistryHost,
    pub name: ImageName,
    pub version: Option<Version>,
    pub digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    #[error("`{0}` names no registry: it must read `host[:port]/name:version`")]
    NoRegistry(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Digest(#[from] crate::DigestError),
}

impl ImageRef {
    pub fn tagged(registry: RegistryHost, name: ImageName, version: Version) -> Self {
        Self { registry, name, version: Some(version), digest: None }
    }

    /// `registry/name`, what the engine calls the repository.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.name)
    }

    /// `registry/name@digest`: the form to deploy, because a digest cannot move.
    pub fn by_digest(&self, digest: Digest) -> Self {
        Self { version: None, digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)?;
        if let Some(version) = &self.version {
            write!(f, ":{version}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, path) =
            rest.split_once('/').ok_or_else(|| ImageRefError::NoRegistry(text.chars().take(80).collect()))?;
        let (name, version) = match path.rsplit_once(':') {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (path, None),
        };
        Ok(Self { registry: registry.parse()?, name: name.parse()?, version, digest })
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_are_the_specifications_and_no_wider() {
        for good in ["apache", "acme/clock-backend", "a__b/c.d", "a--b", "0"] {
            assert!(good.parse::<ImageName>().is_ok(), "{good} was refused");
        }
        for bad in [
            "",
            "../x",
            "Apache",
            ";rm -rf",
            "a___b",
            "a..b",
            "-a",
            "a-",
            "evil.example.org:5000/x",
            "a//b",
            "a/",
            "é",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?} was taken for an image name");
        }
    }

    #[test]
    fn a_reference_reads_back_as_written() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        for text in [
            "registry.example.org:5000/acme/clock:0.4.0".to_owned(),
            format!("127.0.0.1:5000/clock@{digest}"),
            format!("[::1]:5000/clock:1@{digest}"),
        ] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), text);
        }
        assert!("clock:1".parse::<ImageRef>().is_err());
        assert!("host/clock:-1".parse::<ImageRef>().is_err());
        assert!("https://host/clock".parse::<ImageRef>().is_err());
    }
}
