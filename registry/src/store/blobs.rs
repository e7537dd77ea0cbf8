//! Content by its digest: the one place that knows where bytes are kept.
//!
//! The contract, which `tests::contract` puts to every way of keeping bytes:
//!
//! - What is there is whole, and is what its digest says; it appears at once and durably.
//! - Putting what is there already changes nothing. Removing what is not there is no error.
//! - Who opened content reads it to the end, whatever is removed meanwhile.
//! - Content that somebody holds a [`Claim`] on, or claimed since a collection began, is not
//!   collected. A name for content is therefore made under a claim, and no name ever dangles.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use mergeyard_types::Digest;

use super::{FILE_MODE, entries, found, paths::Paths};
use crate::durable;

/// Claims on content that shares a lock merely wait for each other.
const LOCKS: usize = 64;

pub(crate) struct Blobs {
    paths: Paths,
    locks: [RwLock<()>; LOCKS],
    /// What was claimed since a collection began.
    claimed: Mutex<Option<DigestSet>>,
}

/// Opened content.
pub(crate) struct Blob {
    pub(crate) size: u64,
    file: File,
}

/// The right to give content a name.
pub(crate) struct Claim<'a>(#[expect(dead_code, reason = "held, not read")] RwLockReadGuard<'a, ()>);

/// One entry of the list of all content.
pub(crate) struct Kept {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Blob {
    /// The bytes from `offset` on, as many as fit and are there.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    pub(crate) fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.size).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Blobs {
    pub(crate) fn open_at(paths: Paths) -> io::Result<Self> {
        for directory in [paths.content("sha256"), paths.content("sha512"), paths.quarantine()] {
            durable::create_directory(&directory)?;
        }
        let locks = std::array::from_fn(|_| RwLock::new(()));
        Ok(Self { paths, locks, claimed: Mutex::default() })
    }

    pub(crate) fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let Some(file) = found(File::open(self.paths.blob(digest)))? else { return Ok(None) };
        let size = file.metadata()?.len();
        Ok(Some(Blob { size, file }))
    }

    pub(crate) fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(found(fs::metadata(self.paths.blob(digest)))?.map(|metadata| metadata.len()))
    }

    /// Keeps a few bytes whose digest has been computed.
    pub(crate) fn put(&self, _claim: &Claim<'_>, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.paths.blob(digest);
        match path.exists() {
            // Whoever put it there may not have synced it yet, and our caller is about to promise it.
            true => durable::sync_directory(&self.paths.content(digest.algorithm())),
            false => durable::write(&self.paths.incoming(), &path, bytes, FILE_MODE),
        }
    }

    /// Takes over a file whose content has been checked against `digest` and synced.
    pub(crate) fn adopt(&self, _claim: &Claim<'_>, file: &Path, digest: &Digest) -> io::Result<()> {
        durable::rename(file, &self.paths.blob(digest))
    }

    pub(crate) fn claim(&self, digest: &Digest) -> Claim<'_> {
        // The locks guard no memory, so a panic under one leaves nothing half done.
        let lock = self.lock(digest).read().unwrap_or_else(PoisonError::into_inner);
        if let Some(claimed) = &mut *self.claimed() {
            claimed.insert(digest);
        }
        Claim(lock)
    }

    /// All content, in no order. What appears meanwhile may be missing.
    pub(crate) fn all(&self) -> impl Iterator<Item = io::Result<Kept>> {
        ["sha256", "sha512"].into_iter().flat_map(|algorithm| {
            let directory = self.paths.content(algorithm);
            let names = entries(&directory);
            let (names, error) = match names {
                Ok(names) => (names, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let kept = names.into_iter().filter_map(move |name| {
                let digest: Digest = format!("{algorithm}:{name}").parse().ok()?;
                let metadata = found(fs::metadata(directory.join(&name))).transpose()?;
                Some(metadata.map(|metadata| Kept { digest, size: metadata.len() }))
            });
            error.into_iter().chain(kept)
        })
    }

    /// From now on nothing that is claimed is collected, and every earlier claim has got its name:
    /// names looked at from now on are all that matter.
    pub(crate) fn begin_collection(&self) -> Collection<'_> {
        *self.claimed() = Some(DigestSet::default());
        for lock in &self.locks {
            drop(lock.write().unwrap_or_else(PoisonError::into_inner));
        }
        Collection(self)
    }

    /// Takes damaged content out of sight, where a person can look at it. A push of the same
    /// content then puts it right. What has been put right since `damaged` was opened stays.
    pub(crate) fn quarantine(&self, digest: &Digest, damaged: &Blob) -> io::Result<bool> {
        let _nobody_names_it = self.lock(digest).write().unwrap_or_else(PoisonError::into_inner);
        let path = self.paths.blob(digest);
        let Some(now) = found(fs::metadata(&path))? else { return Ok(false) };
        if now.ino() != damaged.file.metadata()?.ino() {
            return Ok(false);
        }
        let name = format!("{}-{}", digest.algorithm(), digest.hex());
        durable::rename(&path, &self.paths.quarantine().join(name))?;
        Ok(true)
    }

    fn lock(&self, digest: &Digest) -> &RwLock<()> {
        &self.locks[key(digest) as usize % LOCKS]
    }

    fn claimed(&self) -> MutexGuard<'_, Option<DigestSet>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, what is claimed is remembered.
pub(crate) struct Collection<'a>(&'a Blobs);

impl Collection<'_> {
    /// Removes content that no name was found for, unless somebody wants to give it one.
    pub(crate) fn remove(&self, digest: &Digest) -> io::Result<bool> {
        let Self(blobs) = self;
        let _nobody_names_it = blobs.lock(digest).write().unwrap_or_else(PoisonError::into_inner);
        if blobs.claimed().as_ref().is_none_or(|claimed| claimed.contains(digest)) {
            return Ok(false);
        }
        // Not synced: content that comes back after a power cut is collected another time.
        Ok(found(fs::remove_file(blobs.paths.blob(digest)))?.is_some())
    }
}

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        *self.0.claimed() = None;
    }
}

/// Digests in a quarter of the room. It may take a digest for one it holds, never the opposite: of
/// two that begin alike both are kept.
#[derive(Default)]
pub(crate) struct DigestSet(HashSet<u128>);

impl DigestSet {
    pub(crate) fn insert(&mut self, digest: &Digest) {
        self.0.insert(key(digest));
    }

    pub(crate) fn contains(&self, digest: &Digest) -> bool {
        self.0.contains(&key(digest))
    }
}

fn key(digest: &Digest) -> u128 {
    // Every digest has more bytes than these.
    digest.bytes().first_chunk().map_or(0, |first| u128::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sha2::{Digest as _, Sha256, Sha512};

    use super::*;

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::Sha256(Sha256::digest(bytes).into())
    }

    fn put(blobs: &Blobs, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        blobs.put(&blobs.claim(&digest), &digest, bytes).unwrap();
        digest
    }

    fn all(blobs: &Blobs) -> Vec<(Digest, u64)> {
        let mut all: Vec<_> =
            blobs.all().map(|kept| kept.unwrap()).map(|kept| (kept.digest, kept.size)).collect();
        all.sort_by_key(|(digest, _)| digest.to_string());
        all
    }

    /// What every way of keeping bytes promises. `again` opens it once more, as after a restart, and
    /// `stage` makes a file that it can adopt.
    fn contract(again: impl Fn() -> Blobs, stage: impl Fn(&[u8]) -> std::path::PathBuf) {
        what_is_put_or_adopted_is_there_whole_and_once(&again, &stage);
        what_is_removed_is_read_to_its_end(&again());
        what_is_claimed_is_not_collected(&again());
        what_is_damaged_goes_out_of_sight_unless_it_was_put_right(&again(), &stage);
        many_at_once_put_the_same(Arc::new(again()));
    }

    fn what_is_put_or_adopted_is_there_whole_and_once(
        again: &impl Fn() -> Blobs,
        stage: &impl Fn(&[u8]) -> std::path::PathBuf,
    ) {
        let blobs = again();
        let absent = sha256(b"never put");
        assert!(blobs.open(&absent).unwrap().is_none() && blobs.size(&absent).unwrap().is_none());
        let small = put(&blobs, b"small");
        put(&blobs, b"small");
        let long = Digest::Sha512(Sha512::digest(b"adopted").into());
        for _ in 0..2 {
            blobs.adopt(&blobs.claim(&long), &stage(b"adopted"), &long).unwrap();
        }
        drop(blobs);
        let blobs = again();
        assert_eq!(blobs.open(&small).unwrap().unwrap().read_all().unwrap(), b"small");
        let blob = blobs.open(&long).unwrap().unwrap();
        let mut middle = [0; 3];
        assert_eq!((blob.size, blob.read_at(2, &mut middle).unwrap()), (7, 3));
        assert_eq!(&middle, b"opt");
        assert_eq!(blob.read_at(7, &mut middle).unwrap(), 0);
        let mut expected = vec![(small, 5), (long, 7)];
        expected.sort_by_key(|(digest, _)| digest.to_string());
        assert_eq!(all(&blobs), expected);
    }

    fn what_is_removed_is_read_to_its_end(blobs: &Blobs) {
        let digest = put(blobs, b"read while it goes");
        let reader = blobs.open(&digest).unwrap().unwrap();
        let collection = blobs.begin_collection();
        assert!(collection.remove(&digest).unwrap());
        assert!(!collection.remove(&digest).unwrap());
        assert!(blobs.open(&digest).unwrap().is_none());
        assert_eq!(reader.read_all().unwrap(), b"read while it goes");
    }

    fn what_is_claimed_is_not_collected(blobs: &Blobs) {
        let (before, during) = (put(blobs, b"claimed before"), put(blobs, b"claimed while it goes on"));
        let collection = blobs.begin_collection();
        drop(blobs.claim(&during));
        assert!(!collection.remove(&during).unwrap());
        assert!(collection.remove(&before).unwrap());
        drop(collection);
        assert!(blobs.begin_collection().remove(&during).unwrap());
        // Who claimed before it began has made its name before the collection looks at names.
        let claim = blobs.claim(&during);
        std::thread::scope(|scope| {
            let (began, begun) = std::sync::mpsc::channel();
            scope.spawn(move || {
                drop(blobs.begin_collection());
                began.send(()).unwrap();
            });
            assert!(begun.try_recv().is_err());
            drop(claim);
            begun.recv().unwrap();
        });
    }

    fn what_is_damaged_goes_out_of_sight_unless_it_was_put_right(
        blobs: &Blobs,
        stage: &impl Fn(&[u8]) -> std::path::PathBuf,
    ) {
        let digest = put(blobs, b"damaged");
        let damaged = blobs.open(&digest).unwrap().unwrap();
        blobs.adopt(&blobs.claim(&digest), &stage(b"damaged"), &digest).unwrap();
        assert!(!blobs.quarantine(&digest, &damaged).unwrap());
        let damaged = blobs.open(&digest).unwrap().unwrap();
        assert!(blobs.quarantine(&digest, &damaged).unwrap());
        assert!(!blobs.quarantine(&digest, &damaged).unwrap());
        assert!(blobs.size(&digest).unwrap().is_none());
        put(blobs, b"damaged");
        assert_eq!(blobs.open(&digest).unwrap().unwrap().read_all().unwrap(), b"damaged");
    }

    fn many_at_once_put_the_same(blobs: Arc<Blobs>) {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| put(&blobs, b"put by many"));
            }
        });
        let digest = sha256(b"put by many");
        assert_eq!(blobs.open(&digest).unwrap().unwrap().read_all().unwrap(), b"put by many");
    }

    #[test]
    fn files_keep_the_contract() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        durable::create_directory(&paths.incoming()).unwrap();
        let stage = |bytes: &[u8]| {
            let file = paths.incoming().join(uuid::Uuid::new_v4().to_string());
            fs::write(&file, bytes).unwrap();
            file
        };
        contract(|| Blobs::open_at(paths.clone()).unwrap(), stage);
        // What is not named by a digest is nobody's.
        fs::write(paths.content("sha256").join("notes.txt"), "").unwrap();
        assert!(Blobs::open_at(paths.clone()).unwrap().all().all(|kept| kept.is_ok()));
    }
}
