//! The data directory: everything mergeyard keeps, in one place with one owner.
//!
//! | path                | what                                                         |
//! | ------------------- | ------------------------------------------------------------ |
//! | `owner.lock`        | held by the one server that owns the directory               |
//! | `id`                | tells this yard's containers from another's on one engine    |
//! | `mergeyard.sqlite`  | the database (and its `-wal` and `-shm`)                     |
//! | `logs/`             | the logs of steps, see `logs.rs`                             |
//! | `git/`              | bare mirrors, a cache: may be deleted while nothing runs     |
//! | `registry/`         | images, see the registry's `store/paths.rs`                  |
//! | `tls/`              | the registry's authority and certificate, with their keys    |
//! | `ca/ca.crt`         | the authority's certificate, for clients: `--cert-dir ca`    |
//! | `master.key`        | seals the secrets in the database; keep a copy elsewhere     |
//! | `registry-password` | the login of the embedded registry, made at the first start  |

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use mergeyard_types::Secret;
use uuid::Uuid;

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot use the data directory {path}; create it for this user, or set `data_dir`")]
    Unusable { path: PathBuf, source: io::Error },
    #[error(
        "the data directory {0} belongs to a mergeyard that runs; stop that one first, or set another `data_dir`"
    )]
    Owned(PathBuf),
    #[error(
        "there is no data directory {0}; has a server run with this configuration, and is `data_dir` right?"
    )]
    Missing(PathBuf),
    #[error("the data directory {0} is no directory; set another `data_dir`")]
    NoDirectory(PathBuf),
}

#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

/// Held for as long as a server lives; the kernel lets go of it however the server ends.
#[derive(Debug)]
pub struct Owner(File);

impl Drop for Owner {
    /// Closing alone would leave the lock with a child process that was just being started.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl DataDir {
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |source| DataDirError::Unusable { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        Ok(Self(path.to_owned()))
    }

    /// One that a server made. A mistyped one is not made by looking into it.
    pub fn existing(path: &Path) -> Result<Self, DataDirError> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(Self(path.to_owned())),
            Ok(_) => Err(DataDirError::NoDirectory(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(DataDirError::Missing(path.to_owned()))
            }
            Err(source) => Err(DataDirError::Unusable { path: path.to_owned(), source }),
        }
    }

    /// The same places, whether or not anything is there yet.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn own(&self) -> Result<Owner, DataDirError> {
        let unusable = |source| DataDirError::Unusable { path: self.0.clone(), source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.0.join("owner.lock"))
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Owner(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(DataDirError::Owned(self.0.clone())),
            Err(std::fs::TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// A name for this yard that no other has, made once.
    pub fn id(&self) -> Result<String, DataDirError> {
        let path = self.0.join("id");
        let id = kept(&path, || Uuid::new_v4().simple().to_string());
        id.map_err(|source| DataDirError::Unusable { path, source })
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("mergeyard.sqlite")
    }

    pub fn master_key(&self) -> PathBuf {
        self.0.join("master.key")
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub fn git(&self) -> PathBuf {
        self.0.join("git")
    }

    pub fn registry(&self) -> PathBuf {
        self.0.join("registry")
    }

    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    /// Gives clients the authority's certificate in a folder without keys, which is how
    /// engines and `skopeo` want it. Where there is none to trust, an old one would only mislead.
    pub fn publish_ca(&self, pem: Option<&str>) -> Result<Option<PathBuf>, DataDirError> {
        let path = self.ca_file();
        let published = match pem {
            Some(pem) => self.write_ca(pem).map(|()| Some(path.clone())),
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(None),
            },
        };
        published.map_err(|source| DataDirError::Unusable { path, source })
    }

    pub fn ca_file(&self) -> PathBuf {
        self.0.join("ca").join("ca.crt")
    }

    fn write_ca(&self, pem: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.0.join("ca"))?;
        std::fs::write(self.ca_file(), pem)
    }

    /// The embedded registry's password: 244 random bits, made once. Letters and digits
    /// only, because engines and shells disagree about everything else.
    pub fn registry_password(&self) -> Result<Secret, DataDirError> {
        let path = self.registry_password_file();
        secret_file(&path).map_err(|source| DataDirError::Unusable { path, source })
    }
}

impl DataDir {
    pub fn registry_password_file(&self) -> PathBuf {
        self.0.join("registry-password")
    }
}

/// Reads a secret, making it first where there is none.
pub fn secret_file(path: &Path) -> io::Result<Secret> {
    let random = || format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    kept(path, random).map(Secret::new)
}

/// The line in a file, made first where there is none.
fn kept(path: &Path, make: impl Fn() -> String) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let line = make();
    // Written whole beside its place and moved, so that a crash leaves all of it or none.
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    writeln!(file, "{line}")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    Ok(line)
}
