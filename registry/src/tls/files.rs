//! A certificate of the operator's own: two files that somebody else renews.
//!
//! What is wrong with them is said at the start, by file, because a registry whose certificate no
//! client accepts fails much later and somewhere else. While serving, they are looked at now and
//! then; programs such as certbot replace one after the other, so a change counts once it rests.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use mergeyard_types::Timestamp;
use rustls::{
    Error as TlsError, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{
    certificate::{Certificate, certificates, is_for, is_signed_by},
    shown::Shown,
    trust::{Roots, provider},
};

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no usable certificate: {why}", path.display())]
    Certificate { path: PathBuf, why: String },
    #[error("{} holds no usable private key: {why}", path.display())]
    Key { path: PathBuf, why: String },
    #[error(
        "the key in {} does not belong to the first certificate in {}: write the server's certificate first, and its own key",
        key.display(), cert.display()
    )]
    KeyOfAnother { cert: PathBuf, key: PathBuf },
    #[error(
        "in {} certificate {position} (`{subject}`) is not signed by the one after it: write the server's first, then each one's issuer",
        path.display()
    )]
    Order { path: PathBuf, position: usize, subject: String },
    #[error("the certificate in {} is for {names}, not for `{host}`: set `registry.host` to a name it has, or get one for `{host}`", path.display())]
    OtherHost { path: PathBuf, host: String, names: String },
    #[error(
        "the chain in {} is incomplete: its issuer `{issuer}` is neither in the file nor trusted by this system: use the full chain (`fullchain.pem`), or append the certificate of `{issuer}`",
        path.display()
    )]
    Incomplete { path: PathBuf, issuer: String },
    #[error("the certificate in {} would be refused by clients: {why}", path.display())]
    Refused { path: PathBuf, why: String },
    #[error("the certificate in {} has expired: renew it", .0.display())]
    Expired(PathBuf),
    #[error(
        "the certificate in {} is signed by another authority than before, which this process does not trust: restart it to change over",
        .0.display()
    )]
    OtherAuthority(PathBuf),
}

/// Whom clients have to trust for it.
#[derive(Debug, Clone)]
pub enum Anchor {
    /// Those that every system trusts.
    System,
    /// The last certificate of the chain itself, as PEM's bytes.
    Own(CertificateDer<'static>),
}

pub struct CertificateFiles {
    cert: PathBuf,
    key: PathBuf,
    host: String,
    anchor: Anchor,
    system: Roots,
    shown: Arc<Shown>,
    looked: Mutex<Looked>,
}

/// What a look at the files found: the pair that was tried last, and the one seen last.
struct Looked {
    tried: Stamp,
    seen: Stamp,
}

type Stamp = [Option<(u64, u64, u64, i64, i64)>; 2];

/// What a look came to.
#[derive(Debug)]
pub enum Reloaded {
    Nothing,
    Changed,
    /// The old pair is shown on.
    Bad(FilesError),
}

impl CertificateFiles {
    /// A pair that has expired is taken: who renews it finds a server that takes up the new one.
    pub fn open(
        cert: &Path,
        key: &Path,
        host: &str,
        system: Roots,
        now: Timestamp,
    ) -> Result<Self, FilesError> {
        let stamp = stamp(cert, key);
        let pair = load(cert, key, host)?;
        let anchor = anchor(cert, &pair.cert, &system, now)?;
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            host: host.to_owned(),
            anchor,
            system,
            shown: Shown::new(pair),
            looked: Mutex::new(Looked { tried: stamp, seen: stamp }),
        })
    }

    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    pub fn path(&self) -> &Path {
        &self.cert
    }

    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.shown.server_config()
    }

    /// The certificate that is shown.
    pub fn certificate(&self) -> Option<Certificate> {
        Certificate::read(self.shown.get().cert.first()?).ok()
    }

    /// Takes up a changed pair, once it has been the same for two looks.
    pub fn reload(&self, now: Timestamp) -> Reloaded {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.cert, &self.key);
        let rests = std::mem::replace(&mut looked.seen, stamp) == stamp;
        if stamp == looked.tried || !rests {
            return Reloaded::Nothing;
        }
        looked.tried = stamp;
        match self.load_anew(now) {
            Ok(pair) => {
                self.shown.replace(pair);
                Reloaded::Changed
            }
            Err(error) => Reloaded::Bad(error),
        }
    }

    fn load_anew(&self, now: Timestamp) -> Result<CertifiedKey, FilesError> {
        let pair = load(&self.cert, &self.key, &self.host)?;
        let leaf = read(&self.cert, &pair.cert[0])?;
        if leaf.is_expired(now) {
            return Err(FilesError::Expired(self.cert.clone()));
        }
        let trusted = match &self.anchor {
            Anchor::System => self.system.clone(),
            Anchor::Own(anchor) => Roots::of(std::slice::from_ref(anchor)),
        };
        trusted.verify(&pair.cert, now).map_err(|_| FilesError::OtherAuthority(self.cert.clone()))?;
        Ok(pair)
    }
}

fn load(cert: &Path, key: &Path, host: &str) -> Result<CertifiedKey, FilesError> {
    let contents =
        |path: &Path| fs::read(path).map_err(|source| FilesError::Read { path: path.to_owned(), source });
    let unusable = |why: String| FilesError::Certificate { path: cert.to_owned(), why };
    let chain = certificates(&contents(cert)?).map_err(|error| unusable(error.to_string()))?;
    let Some(leaf) = chain.first() else {
        return Err(unusable("there is no `BEGIN CERTIFICATE` in it".to_owned()));
    };
    let bad_key = |why: String| FilesError::Key { path: key.to_owned(), why };
    let private =
        PrivateKeyDer::from_pem_slice(&contents(key)?).map_err(|error| bad_key(error.to_string()))?;
    let facts = read(cert, leaf)?;
    in_order(cert, &chain)?;
    if !is_for(leaf, host) {
        let names = facts.names.into_iter().collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "no host at all".to_owned() } else { names };
        return Err(FilesError::OtherHost { path: cert.to_owned(), host: host.to_owned(), names });
    }
    let pair = CertifiedKey::from_der(chain, private, &provider());
    pair.map_err(|error| match error {
        TlsError::InconsistentKeys(_) => {
            FilesError::KeyOfAnother { cert: cert.to_owned(), key: key.to_owned() }
        }
        other => bad_key(other.to_string()),
    })
}

fn in_order(path: &Path, chain: &[CertificateDer<'static>]) -> Result<(), FilesError> {
    for (at, pair) in chain.windows(2).enumerate() {
        if !is_signed_by(&pair[0], &pair[1]) {
            let subject = read(path, &pair[0])?.subject;
            return Err(FilesError::Order { path: path.to_owned(), position: at + 1, subject });
        }
    }
    Ok(())
}

/// Where the chain leads. The server itself is a client of it and verifies like any other.
fn anchor(
    path: &Path,
    chain: &[CertificateDer<'static>],
    system: &Roots,
    now: Timestamp,
) -> Result<Anchor, FilesError> {
    if system.verify(chain, now).is_ok() {
        return Ok(Anchor::System);
    }
    let Some(last) = chain.last() else {
        return Err(FilesError::Certificate { path: path.to_owned(), why: "the chain is empty".to_owned() });
    };
    let (leaf, top) = (read(path, &chain[0])?, read(path, last)?);
    if chain.len() == 1 && !leaf.is_self_signed {
        return Err(FilesError::Incomplete { path: path.to_owned(), issuer: top.issuer });
    }
    let own = Roots::of(std::slice::from_ref(last));
    own.verify(chain, now).map_err(|error| FilesError::Refused {
        path: path.to_owned(),
        why: match leaf.is_authority {
            true => "it is an authority's and a server's at once; make one with `basicConstraints=CA:FALSE`"
                .to_owned(),
            false => error.to_string(),
        },
    })?;
    Ok(Anchor::Own(last.clone()))
}

fn read(path: &Path, der: &CertificateDer<'_>) -> Result<Certificate, FilesError> {
    let unusable = |why: String| FilesError::Certificate { path: path.to_owned(), why };
    Certificate::read(der).map_err(|error| unusable(error.to_string()))
}

/// What changes when a file, or where a link leads, is replaced. Reading it costs two system calls.
fn stamp(cert: &Path, key: &Path) -> Stamp {
    [cert, key].map(|path| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    })
}
