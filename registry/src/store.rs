//! Content and names on disk: what is stored once for all, and which repository may see it.
//!
//! Everything here blocks and is called from blocking tasks. The order of each write is what
//! makes a crash harmless, and [`crate::paths`] is the table it follows.

use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use mergeyard_types::{Digest, ImageName, Version};

use crate::{
    config::Limits,
    durable,
    error::Error,
    manifest::{Document, Manifest},
    paths::Paths,
    route::Reference,
};

/// Locks for the decision "may this tag move?". Repositories that share one merely wait for each other.
const TAG_LOCKS: usize = 64;

/// Nested repositories can be no deeper: a name has 255 characters, every second of them a `/`.
const DEEPEST: usize = 128;

/// A link or tag file is one short line; anything longer is not ours.
const LINE: u64 = 4096;

const FILE_MODE: u32 = 0o600;

pub(crate) struct Store {
    pub(crate) paths: Paths,
    tag_locks: [Mutex<()>; TAG_LOCKS],
    hash: RandomState,
    /// Holds the advisory lock as long as it is open.
    _lock: File,
}

impl Store {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let paths = Paths::new(root);
        for directory in [
            paths.content("sha256"),
            paths.content("sha512"),
            paths.repositories(),
            paths.uploads(),
            paths.incoming(),
        ] {
            durable::create_directory(&directory)?;
        }
        let lock = File::create(paths.lock())?;
        lock.try_lock().map_err(io::Error::from)?;
        let tag_locks = std::array::from_fn(|_| Mutex::new(()));
        Ok(Self { paths, tag_locks, hash: RandomState::new(), _lock: lock })
    }

    /// A blob of a repository, opened, with its size.
    pub(crate) fn blob(&self, name: &ImageName, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        if !self.paths.blob_link(name, digest).exists() {
            return Ok(None);
        }
        let Some(file) = found(File::open(self.paths.blob(digest)))? else { return Ok(None) };
        let size = file.metadata()?.len();
        Ok(Some((file, size)))
    }

    pub(crate) fn blob_size(&self, name: &ImageName, digest: &Digest) -> io::Result<Option<u64>> {
        self.content_size(&self.paths.blob_link(name, digest), digest)
    }

    fn content_size(&self, link: &Path, digest: &Digest) -> io::Result<Option<u64>> {
        if !link.exists() {
            return Ok(None);
        }
        Ok(found(fs::metadata(self.paths.blob(digest)))?.map(|metadata| metadata.len()))
    }

    /// Takes over a file whose content has been checked against `digest` and synced.
    pub(crate) fn adopt_blob(&self, file: &Path, name: &ImageName, digest: &Digest) -> io::Result<()> {
        durable::rename(file, &self.paths.blob(digest))?;
        self.link_blob(name, digest)
    }

    /// Lets a repository see a blob that is already stored.
    pub(crate) fn link_blob(&self, name: &ImageName, digest: &Digest) -> io::Result<()> {
        durable::touch(&self.paths.blob_link(name, digest))
    }

    /// Stores a manifest and, when it has one, its tag. Two pushes of one tag are decided one
    /// after the other; the content is written before that, where it is visible to nobody.
    pub(crate) fn put_manifest(
        &self,
        name: &ImageName,
        tag: Option<(&Version, Mutability)>,
        manifest: &Manifest,
        document: &Document,
    ) -> Result<(), Error> {
        self.check_references(name, document)?;
        self.write_manifest(name, tag, manifest)
    }

    /// Stores a manifest of a mirror. What it refers to is fetched when it is asked for, and
    /// upstream alone decides what a tag means.
    pub(crate) fn put_mirrored_manifest(
        &self,
        name: &ImageName,
        tag: Option<&Version>,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        self.write_manifest(name, tag.map(|tag| (tag, Mutability::Mutable)), manifest)
    }

    /// Forgets a tag that upstream does not have any more. Its manifest stays, for those who pull by digest.
    pub(crate) fn remove_mirrored_tag(&self, name: &ImageName, tag: &Version) -> io::Result<()> {
        let _deciding = self.lock_tags(name);
        found(fs::remove_file(self.paths.tag(name, tag))).map(drop)
    }

    fn write_manifest(
        &self,
        name: &ImageName,
        tag: Option<(&Version, Mutability)>,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        self.check_tag(name, tag, &manifest.digest)?;
        let link = self.paths.manifest_link(name, &manifest.digest);
        let content = self.paths.blob(&manifest.digest);
        let incoming = self.paths.incoming();
        if !link.exists() || !content.exists() {
            durable::write(&incoming, &content, &manifest.bytes, FILE_MODE)?;
        }
        let _deciding = self.lock_tags(name);
        let decision = self.check_tag(name, tag, &manifest.digest)?;
        // Under the lock an existing link is durable, and the media type it was first pushed with stays.
        if !link.exists() {
            durable::write(&incoming, &link, manifest.media_type.as_bytes(), FILE_MODE)?;
        }
        if let (Some((tag, _)), TagIs::Other) = (tag, decision) {
            let digest = manifest.digest.to_string();
            durable::write(&incoming, &self.paths.tag(name, tag), digest.as_bytes(), FILE_MODE)?;
        }
        Ok(())
    }

    fn check_references(&self, name: &ImageName, document: &Document) -> Result<(), Error> {
        let unknown = |digest: Digest| Error::ManifestBlobUnknown { name: name.clone(), digest };
        let same = |stored: u64, claimed: u64, digest: Digest| match stored == claimed {
            true => Ok(()),
            false => Err(Error::ManifestInvalid(format!("{digest} has {stored} bytes, not {claimed}"))),
        };
        for blob in document.blobs() {
            let stored = self.blob_size(name, &blob.digest)?.ok_or_else(|| unknown(blob.digest))?;
            same(stored, blob.size, blob.digest)?;
        }
        for child in document.children() {
            let link = self.paths.manifest_link(name, &child.digest);
            // Build caches are indexes whose entries are layers, not manifests.
            let stored = match self.content_size(&link, &child.digest)? {
                None => self.blob_size(name, &child.digest)?,
                some => some,
            };
            same(stored.ok_or_else(|| unknown(child.digest))?, child.size, child.digest)?;
        }
        Ok(())
    }

    fn check_tag(
        &self,
        name: &ImageName,
        tag: Option<(&Version, Mutability)>,
        digest: &Digest,
    ) -> Result<TagIs, Error> {
        let Some((tag, mutability)) = tag else { return Ok(TagIs::Other) };
        match (self.tag(name, tag)?, mutability) {
            (Some(published), _) if published == *digest => Ok(TagIs::Same),
            (Some(digest), Mutability::Immutable) => {
                Err(Error::TagImmutable { name: name.clone(), tag: tag.clone(), digest })
            }
            (Some(_), Mutability::Mutable) | (None, _) => Ok(TagIs::Other),
        }
    }

    fn lock_tags(&self, name: &ImageName) -> MutexGuard<'_, ()> {
        let index = self.hash.hash_one(name) as usize % TAG_LOCKS;
        // The lock guards no memory, so a panic under it leaves nothing half done.
        self.tag_locks[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn manifest(&self, name: &ImageName, reference: &Reference) -> io::Result<Option<Manifest>> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.tag(name, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let Some(media_type) = line(&self.paths.manifest_link(name, &digest))? else { return Ok(None) };
        let bytes = found(fs::read(self.paths.blob(&digest)))?.map(Bytes::from);
        Ok(bytes.map(|bytes| Manifest { digest, media_type, bytes }))
    }

    pub(crate) fn tag(&self, name: &ImageName, tag: &Version) -> io::Result<Option<Digest>> {
        let path = self.paths.tag(name, tag);
        let Some(text) = line(&path)? else { return Ok(None) };
        let broken =
            |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
        text.trim().parse().map(Some).map_err(broken)
    }

    /// A repository exists once it has had a manifest.
    pub(crate) fn exists(&self, name: &ImageName) -> bool {
        self.paths.manifests(name).exists()
    }

    /// In the specification's order: by letters whatever their case.
    pub(crate) fn tags(&self, name: &ImageName) -> io::Result<Vec<Version>> {
        let mut tags: Vec<Version> =
            entries(&self.paths.tags(name))?.iter().filter_map(|entry| entry.parse().ok()).collect();
        tags.sort_by_cached_key(tag_order);
        Ok(tags)
    }

    pub(crate) fn repositories(&self) -> io::Result<Vec<ImageName>> {
        let mut names = Vec::new();
        self.collect_repositories(String::new(), 0, &mut names)?;
        names.sort();
        Ok(names)
    }

    fn collect_repositories(
        &self,
        above: String,
        depth: usize,
        names: &mut Vec<ImageName>,
    ) -> io::Result<()> {
        if depth == DEEPEST {
            return Ok(());
        }
        let directory: PathBuf = self.paths.repositories().join(&above);
        for part in entries(&directory)?.into_iter().filter(|part| !part.starts_with('_')) {
            let path = if above.is_empty() { part } else { format!("{above}/{part}") };
            let Ok(name) = path.parse::<ImageName>() else { continue };
            if self.exists(&name) {
                names.push(name);
            }
            self.collect_repositories(path, depth + 1, names)?;
        }
        Ok(())
    }

    /// The whole of a small blob; `None` when the repository does not have it or it is larger than a manifest may be.
    pub(crate) fn small_blob(
        &self,
        name: &ImageName,
        digest: &Digest,
        limits: &Limits,
    ) -> io::Result<Option<Vec<u8>>> {
        match self.blob(name, digest)? {
            Some((mut file, size)) if size <= limits.manifest_bytes as u64 => {
                let mut bytes = Vec::with_capacity(size as usize);
                file.read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            _ => Ok(None),
        }
    }
}

/// May a tag be pointed at other content?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutability {
    Mutable,
    Immutable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagIs {
    Same,
    Other,
}

/// The order of the specification's tag lists, "case-insensitive alphanumeric", made total.
pub(crate) fn tag_order(tag: &Version) -> (String, String) {
    (tag.as_str().to_ascii_lowercase(), tag.as_str().to_owned())
}

fn line(path: &Path) -> io::Result<Option<String>> {
    let Some(file) = found(File::open(path))? else { return Ok(None) };
    let mut text = String::new();
    file.take(LINE).read_to_string(&mut text)?;
    Ok(Some(text))
}

fn entries(directory: &Path) -> io::Result<Vec<String>> {
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
