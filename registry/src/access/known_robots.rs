//! The robots as the running server knows them.
//!
//! It looks before each login and each use of a token whether the file is still the one it read,
//! so that a robot that is revoked is gone on the next request, without a word between the server
//! and the command that did it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    account::Account,
    robots::{FileError, Robot, read},
};
use crate::store::paths::Paths;

pub(super) struct KnownRobots {
    path: PathBuf,
    known: Mutex<Known>,
}

struct Known {
    accounts: HashMap<String, Arc<Account>>,
    stamp: Stamp,
    /// Held open, so that the file that takes its place cannot be given its inode number.
    file: Option<File>,
}

/// What changes when a file does. Its permissions are part of that: `ctime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Missing,
    Unreadable(io::ErrorKind),
    File { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

impl KnownRobots {
    pub(super) fn new(paths: &Paths) -> Self {
        let known = Known { accounts: HashMap::new(), stamp: Stamp::Missing, file: None };
        Self { path: paths.robots(), known: Mutex::new(known) }
    }

    /// One `stat` on each call, and the file itself only after it changed.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Account>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(fs::metadata(&self.path));
        if stamp != known.stamp {
            self.read_again(&mut known, stamp);
        }
        known.accounts.get(name).cloned()
    }

    /// What cannot be understood changes nothing, and is complained about once. A file that is gone
    /// is understood: there are no robots.
    fn read_again(&self, known: &mut Known, stamp: Stamp) {
        let before = std::mem::replace(&mut known.stamp, stamp);
        if stamp == Stamp::Missing {
            known.accounts = HashMap::new();
            return;
        }
        let error = match self.read(known) {
            Ok(robots) => {
                let accounts =
                    robots.into_iter().map(|robot| (robot.name.to_string(), robot.account().into()));
                known.accounts = accounts.collect();
                return;
            }
            Err(error) => error,
        };
        // A file that could not be read is not known: with descriptors or memory again, it may be.
        if let FileError::Io(error) = &error {
            known.stamp = Stamp::Unreadable(error.kind());
        }
        if known.stamp != before {
            tracing::error!(
                "the robots stay those known before: {} cannot be used: {error}",
                self.path.display()
            );
        }
    }

    fn read(&self, known: &mut Known) -> Result<Vec<Robot>, FileError> {
        let file = File::open(&self.path)?;
        // The one that is read may be newer than the one looked at.
        known.stamp = Stamp::of(file.metadata());
        read(known.file.insert(file))
    }
}

impl Stamp {
    fn of(metadata: io::Result<fs::Metadata>) -> Self {
        match metadata {
            Ok(file) => Stamp::File {
                device: file.dev(),
                inode: file.ino(),
                size: file.size(),
                modified: (file.mtime(), file.mtime_nsec()),
                changed: (file.ctime(), file.ctime_nsec()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stamp::Missing,
            Err(error) => Stamp::Unreadable(error.kind()),
        }
    }
}
