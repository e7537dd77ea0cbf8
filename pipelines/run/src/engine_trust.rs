//! The engine pushes by itself, so the engine has to know the registry's authority too.
//!
//! It reads `/etc/docker/certs.d/HOST:PORT/*.crt` at each push, without a restart, and wants
//! nothing for loopback addresses. Where this process may write that file it does; where it
//! may not, it says which file has to be put where, before a push fails with "x509".

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use mergeyard_types::RegistryHost;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The engine does not verify loopback registries.
    LoopbackNeedsNone,
    AlreadyThere,
    Written(PathBuf),
    CannotWrite {
        path: PathBuf,
        why: String,
    },
}

/// How things are in a folder of authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The engine does not verify loopback registries.
    LoopbackNeedsNone,
    There(PathBuf),
    /// Nothing is there yet, and this is where it goes.
    Missing(PathBuf),
    /// Another authority is there, which stays; ours goes beside it.
    Another {
        theirs: PathBuf,
        ours: PathBuf,
    },
}

/// A folder in which a program looks for the authorities of registries, by their hosts.
#[derive(Debug, Clone)]
pub struct CertsDir {
    path: PathBuf,
    verifies_loopback: bool,
}

impl Default for CertsDir {
    fn default() -> Self {
        Self::new("/etc/docker/certs.d")
    }
}

impl CertsDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), verifies_loopback: false }
    }

    /// Of a program that verifies registries on loopback like any other, as podman does.
    pub fn verifying_loopback(self) -> Self {
        Self { verifies_loopback: true, ..self }
    }

    pub fn ca_file(&self, host: &RegistryHost) -> PathBuf {
        self.path.join(host.as_str()).join("ca.crt")
    }

    /// Looks, and changes nothing.
    pub fn standing(&self, host: &RegistryHost, ca_pem: &[u8]) -> Standing {
        if !self.verifies_loopback && is_loopback(host) {
            return Standing::LoopbackNeedsNone;
        }
        let theirs = self.ca_file(host);
        let ours = theirs.with_file_name("mergeyard-ca.crt");
        let has = |path: &Path| std::fs::read(path).is_ok_and(|pem| holds(&pem, ca_pem));
        if has(&theirs) {
            Standing::There(theirs)
        } else if has(&ours) {
            Standing::There(ours)
        } else if theirs.exists() {
            Standing::Another { theirs, ours }
        } else {
            Standing::Missing(theirs)
        }
    }

    /// Makes the engine of this machine trust `ca_pem` for `host`. An authority that the
    /// operator put there stays; ours is added beside it.
    pub fn ensure_trust(&self, host: &RegistryHost, ca_pem: &[u8]) -> Trust {
        let path = match self.standing(host, ca_pem) {
            Standing::LoopbackNeedsNone => return Trust::LoopbackNeedsNone,
            Standing::There(_) => return Trust::AlreadyThere,
            Standing::Missing(path) | Standing::Another { ours: path, .. } => path,
        };
        match write(&path, ca_pem) {
            Ok(()) => Trust::Written(path),
            Err(e) => Trust::CannotWrite { path, why: e.to_string() },
        }
    }
}

/// Whether the name alone says so; other names may lead there too.
pub fn is_loopback(host: &RegistryHost) -> bool {
    let name = host.host();
    name == "localhost"
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn holds(pem: &[u8], ca_pem: &[u8]) -> bool {
    let wanted = ca_pem.trim_ascii();
    !wanted.is_empty() && pem.windows(wanted.len()).any(|part| part == wanted)
}

/// Whole or not at all: whoever reads it may do so at any moment.
pub fn write(path: &Path, pem: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    std::fs::create_dir_all(folder)?;
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&fresh, pem)?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> RegistryHost {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_needs_nothing_and_others_get_their_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let certs = CertsDir::new(dir.path());
        for name in ["127.0.0.1:5000", "127.8.8.8", "localhost:5000", "[::1]:5000"] {
            assert_eq!(certs.ensure_trust(&host(name), b"pem"), Trust::LoopbackNeedsNone);
        }
        let name = host("registry.example.org:5000");
        let file = dir.path().join("registry.example.org:5000/ca.crt");
        assert_eq!(certs.ensure_trust(&name, b"our pem\n"), Trust::Written(file.clone()));
        assert_eq!(certs.ensure_trust(&name, b"our pem"), Trust::AlreadyThere);
        assert_eq!(std::fs::read(&file).unwrap(), b"our pem\n");
    }

    #[test]
    fn the_operators_own_authority_stays() {
        let dir = tempfile::tempdir().unwrap();
        let certs = CertsDir::new(dir.path());
        let name = host("registry.example.org");
        certs.ensure_trust(&name, b"theirs");
        let beside = dir.path().join("registry.example.org/mergeyard-ca.crt");
        assert_eq!(certs.ensure_trust(&name, b"ours"), Trust::Written(beside));
        assert_eq!(certs.ensure_trust(&name, b"ours"), Trust::AlreadyThere);
        assert_eq!(std::fs::read(certs.ca_file(&name)).unwrap(), b"theirs");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        std::fs::write(&blocked, "").unwrap();
        let trust = CertsDir::new(&blocked).ensure_trust(&host("registry.example.org"), b"pem");
        let expected = blocked.join("registry.example.org/ca.crt");
        assert!(matches!(trust, Trust::CannotWrite { path, .. } if path == expected));
    }
}
