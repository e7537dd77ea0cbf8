//! Names on disk: which repository may see which content, and what its tags mean.
//!
//! Everything here blocks and is called from blocking tasks. The order of each write is what
//! makes a crash harmless, and [`paths`] is the table it follows.

pub(crate) mod blobs;
pub(crate) mod lists;
mod manifests;
pub(crate) mod paths;
pub(crate) mod quota;
pub(crate) mod upload;

use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use mergeyard_types::{Digest, ImageName, Timestamp, Version};

use self::{
    blobs::{Blob, Blobs},
    paths::Paths,
    quota::Quotas,
};
use crate::{config::Limits, durable, error::Error};

/// Repositories that share a lock merely wait for each other.
const LOCKS: usize = 64;

/// Decisions that share a lock wait for each other, and each holds it until the disk has answered:
/// many more than the pushes that are likely at once.
const DECISIONS: usize = 512;

/// A link or tag file is one short line; anything longer is not ours.
const LINE: u64 = 4096;

/// A promise younger than this is not renewed, so that asking for a blob rarely writes anything.
/// Small against the time a promise holds.
const RENEW_PROMISE: Duration = Duration::from_secs(10 * 60);

const FILE_MODE: u32 = 0o600;

pub(crate) struct Store {
    pub(crate) paths: Paths,
    pub(crate) blobs: Blobs,
    pub(crate) quotas: Quotas,
    /// Held by the one collection.
    pub(crate) collecting: Mutex<()>,
    locks: [RepositoryLock; LOCKS],
    /// For the decision "may this tag move?", by repository and tag.
    tags: [Mutex<()>; DECISIONS],
    /// For the question "has this manifest its link?", by repository and digest. Taken after `tags`.
    links: [Mutex<()>; DECISIONS],
    hash: RandomState,
    /// Holds the advisory lock as long as it is open.
    _lock: File,
}

/// Keeps what a manifest refers to in its place while the manifest gets its names.
#[derive(Default)]
pub(crate) struct RepositoryLock {
    /// Shared by those who rely on links, exclusive for who removes them. Taken first.
    links: RwLock<()>,
    /// How many manifests were pushed: what was concluded from the manifests there are holds as
    /// long as this does not change.
    pushes: AtomicU64,
}

// The locks guard no memory, so a panic under one leaves nothing half done.
impl RepositoryLock {
    fn rely(&self) -> RwLockReadGuard<'_, ()> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remove(&self) -> RwLockWriteGuard<'_, ()> {
        self.links.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts when it is dropped: who sees the new number sees the manifest's names, and who acts upon
    /// the old one has to wait for the lock and then sees the new one.
    fn count_push(&self) -> CountPush<'_> {
        CountPush(&self.pushes)
    }

    pub(crate) fn pushes(&self) -> u64 {
        self.pushes.load(Ordering::Acquire)
    }
}

struct CountPush<'a>(&'a AtomicU64);

impl Drop for CountPush<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// A link of a repository to content, and when it was last touched.
pub(crate) struct Link {
    pub(crate) digest: Digest,
    pub(crate) touched: Timestamp,
}

impl Store {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let paths = Paths::new(root);
        for directory in [paths.repositories(), paths.uploads(), paths.incoming()] {
            durable::create_directory(&directory)?;
        }
        let lock = File::create(paths.lock())?;
        lock.try_lock().map_err(io::Error::from)?;
        Ok(Self {
            blobs: Blobs::open_at(paths.clone())?,
            paths,
            quotas: Quotas::default(),
            collecting: Mutex::default(),
            locks: std::array::from_fn(|_| RepositoryLock::default()),
            tags: std::array::from_fn(|_| Mutex::default()),
            links: std::array::from_fn(|_| Mutex::default()),
            hash: RandomState::new(),
            _lock: lock,
        })
    }

    pub(crate) fn lock(&self, name: &ImageName) -> &RepositoryLock {
        &self.locks[self.hash.hash_one(name) as usize % LOCKS]
    }

    fn decide(&self, name: &ImageName, tag: &Version) -> MutexGuard<'_, ()> {
        let lock = &self.tags[self.hash.hash_one((name, tag)) as usize % DECISIONS];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn linking(&self, name: &ImageName, digest: &Digest) -> MutexGuard<'_, ()> {
        let lock = &self.links[self.hash.hash_one((name, digest)) as usize % DECISIONS];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob of a repository, opened.
    pub(crate) fn blob(&self, name: &ImageName, digest: &Digest) -> io::Result<Option<Blob>> {
        match self.paths.blob_link(name, digest).exists() {
            true => self.blobs.open(digest),
            false => Ok(None),
        }
    }

    pub(crate) fn blob_size(&self, name: &ImageName, digest: &Digest) -> io::Result<Option<u64>> {
        self.content_size(&self.paths.blob_link(name, digest), digest)
    }

    /// The size of a blob, for a client that asks before it pushes: as long as a push may take, the
    /// repository keeps what the client now leaves out.
    pub(crate) fn promise_blob(&self, name: &ImageName, digest: &Digest) -> io::Result<Option<u64>> {
        let _stays = self.lock(name).rely();
        let link = self.paths.blob_link(name, digest);
        let size = self.content_size(&link, digest)?;
        if size.is_some() {
            let file = File::open(&link)?;
            if file.metadata()?.modified()?.elapsed().is_ok_and(|age| age >= RENEW_PROMISE) {
                file.set_modified(SystemTime::now())?;
            }
        }
        Ok(size)
    }

    fn content_size(&self, link: &Path, digest: &Digest) -> io::Result<Option<u64>> {
        match link.exists() {
            true => self.blobs.size(digest),
            false => Ok(None),
        }
    }

    /// Takes over a file whose content has been checked against `digest` and synced.
    pub(crate) fn adopt_blob(
        &self,
        file: &Path,
        name: &ImageName,
        digest: &Digest,
        quota: Option<u64>,
    ) -> Result<(), Error> {
        let size = fs::metadata(file)?.len();
        let claim = self.blobs.claim(digest);
        self.link(name, digest, size, quota, || self.blobs.adopt(&claim, file, digest))
    }

    /// Lets a repository see content that another one has, and says whether it is there.
    pub(crate) fn mount_blob(
        &self,
        name: &ImageName,
        digest: &Digest,
        quota: Option<u64>,
    ) -> Result<bool, Error> {
        let _claim = self.blobs.claim(digest);
        match self.blobs.size(digest)? {
            Some(size) => self.link(name, digest, size, quota, || Ok(())).map(|()| true),
            None => Ok(false),
        }
    }

    /// Counts the blob, brings its content, links it; in the end it was counted once.
    fn link(
        &self,
        name: &ImageName,
        digest: &Digest,
        size: u64,
        quota: Option<u64>,
        bring: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), Error> {
        let link = self.paths.blob_link(name, digest);
        let charged = match link.exists() {
            true => 0,
            false => size,
        };
        self.quotas.charge(name, charged, quota, || self.measure(name))?;
        let linked = bring().and_then(|()| durable::touch(&link));
        match &linked {
            Ok(true) => {}
            Ok(false) => self.quotas.refund(name, charged),
            Err(_) => self.quotas.forget(name),
        }
        linked?;
        Ok(())
    }

    /// What the repository refers to, in bytes.
    pub(crate) fn measure(&self, name: &ImageName) -> io::Result<u64> {
        let mut sum = 0u64;
        for link in self.blob_links(name)?.into_iter().chain(self.manifest_links(name)?) {
            sum = sum.saturating_add(self.blobs.size(&link.digest)?.unwrap_or(0));
        }
        Ok(sum)
    }

    /// Takes a blob away from a repository, unless one of its manifests needs it.
    pub(crate) fn delete_blob(&self, name: &ImageName, digest: &Digest) -> Result<bool, Error> {
        let _nobody_relies_on_it = self.lock(name).remove();
        for link in self.manifest_links(name)? {
            let Some(document) = self.document(name, &link.digest)? else { continue };
            if document.refers_to(digest) {
                return Err(Error::BlobInUse { digest: (*digest).into(), by: link.digest.into() });
            }
        }
        self.quotas.forget(name);
        Ok(durable::remove(&self.paths.blob_link(name, digest))?)
    }

    /// The whole of a small blob; `None` when the repository does not have it or it is larger than a manifest may be.
    pub(crate) fn small_blob(
        &self,
        name: &ImageName,
        digest: &Digest,
        limits: &Limits,
    ) -> io::Result<Option<Vec<u8>>> {
        match self.blob(name, digest)? {
            Some(blob) if blob.size <= limits.manifest_bytes as u64 => blob.read_all().map(Some),
            _ => Ok(None),
        }
    }
}

fn line(path: &Path) -> io::Result<Option<String>> {
    let Some(file) = found(File::open(path))? else { return Ok(None) };
    let mut text = String::new();
    file.take(LINE).read_to_string(&mut text)?;
    Ok(Some(text))
}

pub(crate) fn entries(directory: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = found(fs::read_dir(directory))? else { return Ok(Vec::new()) };
    entries.filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose()).collect()
}

/// What is not there is an answer; every other error is one.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
