//! Files that survive a power cut.
//!
//! A file is durable when its bytes *and* the directory entry that names it are on the disk; the
//! second half is the one that is easily forgotten. Everything here blocks.

mod together;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::fs::{Advice, fadvise};
use uuid::Uuid;

/// Only the server's own user looks into what it stores.
pub(crate) const DIRECTORY_MODE: u32 = 0o700;

/// Puts `bytes` at `path` so that any reader, at any instant, sees the old file or the new one.
/// The temporary file lies in `incoming`, which must be on the same file system.
pub(crate) fn write(incoming: &Path, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Staged::new(incoming, bytes, mode)?.place(path)
}

/// A small file that is on its way to the disk and has no name yet. Of several that are staged
/// before the first is placed, one wait for the disk brings all. Dropped, it is gone.
pub(crate) struct Staged {
    file: File,
    temporary: PathBuf,
}

impl Staged {
    pub(crate) fn new(incoming: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let temporary = incoming.join(Uuid::new_v4().to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        let mut staged = Self { file, temporary };
        staged.file.write_all(bytes)?;
        // Makes the kernel begin to write, and not wait until somebody waits; without it, all is only slower.
        let _ = fadvise(&staged.file, 0, None, Advice::DontNeed);
        Ok(staged)
    }

    /// Gives it its name, durably.
    pub(crate) fn place(self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        rename(&self.temporary, path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Once placed it is not there any more; what stays behind in spite of this is swept later.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Moves an already synced file into place.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let directory = parent(to)?;
    create_directory(directory)?;
    fs::rename(from, to)?;
    sync_directory(directory)
}

/// Creates an empty file; one that exists is left alone. Says whether it is new.
pub(crate) fn touch(path: &Path) -> io::Result<bool> {
    let directory = parent(path)?;
    create_directory(directory)?;
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => sync_directory(directory).map(|()| true),
        // Whoever created it may not have synced it yet, and our caller is about to promise it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            sync_directory(directory).map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// Leaves the time of now on a file, for who comes after a restart.
pub(crate) fn stamp(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.set_modified(SystemTime::now())
}

/// Removes a file, and says whether it was there.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(parent(path)?).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates a directory and the missing ones above it.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path)?;
    create_directory(above)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => sync_directory(above),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes what was created, renamed or removed in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    together::sync(path, |path| File::open(path)?.sync_all())
}

fn parent(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "a root directory has no parent")),
    }
}
