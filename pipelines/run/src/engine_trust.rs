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

/// Where the engine looks for the authority of one registry.
#[derive(Debug, Clone)]
pub struct CertsDir(PathBuf);

impl Default for CertsDir {
    fn default() -> Self {
        Self("/etc/docker/certs.d".into())
    }
}

impl CertsDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn ca_file(&self, host: &RegistryHost) -> PathBuf {
        self.0.join(host.as_str()).join("ca.crt")
    }

    /// Makes the engine of this machine trust `ca_pem` for `host`. An authority that the
    /// operator put there stays; ours is added beside it.
    pub fn ensure_trust(&self, host: &RegistryHost, ca_pem: &[u8]) -> Trust {
        if is_loopback(host) {
            return Trust::LoopbackNeedsNone;
        }
        let path = self.ca_file(host);
        let (path, there) = match std::fs::read(&path) {
            Ok(pem) if holds(&pem, ca_pem) => (path, true),
            Ok(_) => {
                let beside = path.with_file_name("mergeyard-ca.crt");
                let there = std::fs::read(&beside).is_ok_and(|pem| holds(&pem, ca_pem));
                (beside, there)
            }
            Err(_) => (path, false),
        };
        if there {
            return Trust::AlreadyThere;
        }
        match write(&path, ca_pem) {
            Ok(()) => Trust::Written(path),
            Err(e) => Trust::CannotWrite { path, why: e.to_string() },
        }
    }
}

fn is_loopback(host: &RegistryHost) -> bool {
    let name = host.host();
    name == "localhost"
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn holds(pem: &[u8], ca_pem: &[u8]) -> bool {
    let wanted = ca_pem.trim_ascii();
    !wanted.is_empty() && pem.windows(wanted.len()).any(|part| part == wanted)
}

/// Whole or not at all: the engine may read it at any moment.
fn write(path: &Path, pem: &[u8]) -> io::Result<()> {
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
