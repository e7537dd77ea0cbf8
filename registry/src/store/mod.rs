//! Names on disk: which repository may see which content, and what its tags mean.
//!
//! Everything here blocks and is called from blocking tasks. The order of each write is what
//! makes a crash harmless, and [`crate::paths`] is the table it follows.

pub(crate) mod blobs;
pub(crate) mod paths;
pub(crate) mod quota;
pub(crate) mod upload;

use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use mergeyard_types::{Digest, ImageName, Timestamp, Version};

use self::{
    blobs::{Blob, Blobs},
    paths::Paths,
    quota::Quotas,
};
use crate::{
    config::{Limits, Rules},
    durable::{self, Staged},
    error::Error,
    manifest::{Document, Manifest, Referrer, attached_to},
    route::Reference,
};

/// Repositories that share a lock merely wait for each other.
const LOCKS: usize = 64;

/// Decisions that share a lock wait for each other, and each holds it until the disk has answered:
/// many more than the pushes that are likely at once.
const DECISIONS: usize = 512;

/// Nested repositories can be no deeper: a name has 255 characters, every second of them a `/`.
const DEEPEST: usize = 128;

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

    /// Stores a manifest and, when it has one, its tag. Two pushes of one tag are decided one
    /// after the other; the content is written before that, where it is visible to nobody.
    pub(crate) fn put_manifest(
        &self,
        name: &ImageName,
        tag: Option<&Version>,
        manifest: &Manifest,
        document: &Document,
        rules: &Rules,
    ) -> Result<(), Error> {
        let _stays = self.lock(name).rely();
        let may_move = |tag| rules.mutable_tags.contains(tag) || attached_to(tag).is_some();
        let tagging = tag.map(|tag| Tagging { tag, may_move: may_move(tag) });
        self.check_references(name, document)?;
        self.check_tag(name, tagging, &manifest.digest)?;
        if self.paths.manifest_link(name, &manifest.digest).exists() {
            return self.name_manifest(name, tagging, manifest, document);
        }
        let size = manifest.bytes.len() as u64;
        self.quotas.charge(name, size, rules.quota, || self.measure(name))?;
        let named = self.name_manifest(name, tagging, manifest, document);
        if named.is_err() {
            self.quotas.forget(name);
        }
        named
    }

    /// Stores a manifest of a mirror. What it refers to is fetched when it is asked for, and
    /// upstream alone decides what a tag means.
    pub(crate) fn put_mirrored_manifest(
        &self,
        name: &ImageName,
        tag: Option<&Version>,
        manifest: &Manifest,
        document: &Document,
    ) -> Result<(), Error> {
        let _stays = self.lock(name).rely();
        let tagging = tag.map(|tag| Tagging { tag, may_move: true });
        self.name_manifest(name, tagging, manifest, document)
    }

    /// Gives a manifest its names, for who holds the lock to rely on links.
    fn name_manifest(
        &self,
        name: &ImageName,
        tagging: Option<Tagging<'_>>,
        manifest: &Manifest,
        document: &Document,
    ) -> Result<(), Error> {
        let staged = self.stage_names(name, tagging, manifest)?;
        let claim = self.blobs.claim(&manifest.digest);
        self.blobs.put(&claim, &manifest.digest, &manifest.bytes)?;
        self.list_referrer(name, manifest, document)?;
        let _deciding = tagging.map(|tagging| self.decide(name, tagging.tag));
        let decision = self.check_tag(name, tagging, &manifest.digest)?;
        let _counted = self.lock(name).count_push();
        self.link_manifest(name, manifest, staged.link)?;
        match (tagging, decision) {
            (None, _) => Ok(()),
            (Some(_), TagIs::Same) => Ok(durable::sync_directory(&self.paths.tags(name))?),
            (Some(Tagging { tag, .. }), TagIs::Other) => {
                let line = staged.tag.map_or_else(|| self.stage(&manifest.digest.to_string()), Ok)?;
                Ok(line.place(&self.paths.tag(name, tag))?)
            }
        }
    }

    /// Sends the names that are not there yet on their way to the disk, ahead of the content that
    /// has to be there first.
    fn stage_names(
        &self,
        name: &ImageName,
        tagging: Option<Tagging<'_>>,
        manifest: &Manifest,
    ) -> io::Result<StagedNames> {
        let is_tagged = match tagging {
            Some(Tagging { tag, .. }) => self.tag(name, tag)? == Some(manifest.digest),
            None => true,
        };
        let is_linked = self.paths.manifest_link(name, &manifest.digest).exists();
        Ok(StagedNames {
            link: (!is_linked).then(|| self.stage(&manifest.media_type)).transpose()?,
            tag: (!is_tagged).then(|| self.stage(&manifest.digest.to_string())).transpose()?,
        })
    }

    fn stage(&self, line: &str) -> io::Result<Staged> {
        Staged::new(&self.paths.incoming(), line.as_bytes(), FILE_MODE)
    }

    /// Under the lock an existing link is whole, and the media type it was first pushed with stays.
    fn link_manifest(&self, name: &ImageName, manifest: &Manifest, staged: Option<Staged>) -> io::Result<()> {
        let lock = &self.links[self.hash.hash_one((name, manifest.digest)) as usize % DECISIONS];
        let _linking = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let link = self.paths.manifest_link(name, &manifest.digest);
        match link.exists() {
            // A process that was killed may have named it and not waited for the disk.
            true => durable::sync_directory(&self.paths.manifests(name).join(manifest.digest.algorithm())),
            false => staged.map_or_else(|| self.stage(&manifest.media_type), Ok)?.place(&link),
        }
    }

    /// Written before the manifest's own link: an entry without one is not shown, and a manifest
    /// whose client was told "201" is never missing from the list.
    fn list_referrer(&self, name: &ImageName, manifest: &Manifest, document: &Document) -> io::Result<()> {
        let Some(subject) = document.subject() else { return Ok(()) };
        let path = self.paths.referrer(name, &subject, &manifest.digest);
        if path.exists() {
            return Ok(());
        }
        let entry = serde_json::to_vec(&document.as_referrer(manifest))?;
        durable::write(&self.paths.incoming(), &path, &entry, FILE_MODE)
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
        tagging: Option<Tagging<'_>>,
        digest: &Digest,
    ) -> Result<TagIs, Error> {
        let Some(Tagging { tag, may_move }) = tagging else { return Ok(TagIs::Other) };
        match self.tag(name, tag)? {
            Some(published) if published == *digest => Ok(TagIs::Same),
            Some(digest) if !may_move => {
                Err(Error::TagImmutable { name: name.clone(), tag: tag.clone(), digest })
            }
            Some(_) | None => Ok(TagIs::Other),
        }
    }

    /// Takes a tag away; what it named stays. Says what that was.
    pub(crate) fn delete_tag(&self, name: &ImageName, tag: &Version) -> io::Result<Option<Digest>> {
        let _deciding = self.decide(name, tag);
        let Some(digest) = self.tag(name, tag)? else { return Ok(None) };
        Ok(durable::remove(&self.paths.tag(name, tag))?.then_some(digest))
    }

    /// Takes a manifest away, and the tags that point at it.
    pub(crate) fn delete_manifest(&self, name: &ImageName, digest: &Digest) -> io::Result<bool> {
        let _nobody_relies_on_it = self.lock(name).remove();
        for tag in self.tags(name)? {
            if self.tag(name, &tag)? == Some(*digest) {
                durable::remove(&self.paths.tag(name, &tag))?;
            }
        }
        self.unlink_manifest(name, digest)
    }

    /// For who holds the lock to remove links.
    pub(crate) fn unlink_manifest(&self, name: &ImageName, digest: &Digest) -> io::Result<bool> {
        let manifest = self.manifest(name, &Reference::Digest(*digest))?;
        self.quotas.forget(name);
        let removed = durable::remove(&self.paths.manifest_link(name, digest))?;
        // The entry goes last: without its manifest it is not shown.
        let subject = manifest.map(|manifest| Document::stored(&manifest)).transpose()?;
        if let Some(subject) = subject.and_then(|document| document.subject()) {
            durable::remove(&self.paths.referrer(name, &subject, digest))?;
            // Fails as long as others refer to the subject.
            let _ = fs::remove_dir(self.paths.referrers(name, &subject));
        }
        Ok(removed)
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

    pub(crate) fn manifest(&self, name: &ImageName, reference: &Reference) -> io::Result<Option<Manifest>> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.tag(name, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let Some(media_type) = line(&self.paths.manifest_link(name, &digest))? else { return Ok(None) };
        let Some(blob) = self.blobs.open(&digest)? else { return Ok(None) };
        Ok(Some(Manifest { digest, media_type, bytes: Bytes::from(blob.read_all()?) }))
    }

    /// What a manifest of the repository refers to.
    pub(crate) fn document(&self, name: &ImageName, digest: &Digest) -> io::Result<Option<Document>> {
        let manifest = self.manifest(name, &Reference::Digest(*digest))?;
        manifest.map(|manifest| Document::stored(&manifest)).transpose()
    }

    pub(crate) fn tag(&self, name: &ImageName, tag: &Version) -> io::Result<Option<Digest>> {
        let path = self.paths.tag(name, tag);
        let Some(text) = line(&path)? else { return Ok(None) };
        let broken =
            |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
        text.trim().parse().map(Some).map_err(broken)
    }

    /// When a tag was last pointed at something.
    pub(crate) fn tagged(&self, name: &ImageName, tag: &Version) -> io::Result<Option<Timestamp>> {
        let modified = fs::metadata(self.paths.tag(name, tag)).and_then(|metadata| metadata.modified());
        Ok(found(modified)?.map(Timestamp::from))
    }

    /// A repository exists as long as it has a manifest.
    pub(crate) fn exists(&self, name: &ImageName) -> io::Result<bool> {
        holds_any(&self.paths.manifests(name))
    }

    /// A repository is found as long as anything is in it: one whose last manifest was just deleted
    /// has no tags, which is another answer than that there is no such repository.
    pub(crate) fn is_found(&self, name: &ImageName) -> io::Result<bool> {
        Ok(self.exists(name)? || holds_any(&self.paths.blob_links(name))?)
    }

    pub(crate) fn manifest_links(&self, name: &ImageName) -> io::Result<Vec<Link>> {
        links(&self.paths.manifests(name))
    }

    pub(crate) fn blob_links(&self, name: &ImageName) -> io::Result<Vec<Link>> {
        links(&self.paths.blob_links(name))
    }

    /// The manifests that refer to a subject, in the order in which they were pushed: some clients
    /// take the last for the one that counts.
    pub(crate) fn referrers(&self, name: &ImageName, subject: &Digest) -> io::Result<Vec<Link>> {
        let directory = self.paths.referrers(name, subject);
        let mut referrers = Vec::new();
        for entry in entries(&directory)? {
            let Ok(digest) = entry.replacen('-', ":", 1).parse() else { continue };
            let modified =
                found(fs::metadata(directory.join(&entry)).and_then(|metadata| metadata.modified()))?;
            let Some(modified) = modified.filter(|_| self.paths.manifest_link(name, &digest).exists()) else {
                continue;
            };
            referrers.push(Link { digest, touched: modified.into() });
        }
        referrers.sort_by_cached_key(|link| (link.touched, link.digest.to_string()));
        Ok(referrers)
    }

    /// How a manifest refers to its subject, and how many bytes it takes to say it.
    pub(crate) fn referrer(
        &self,
        name: &ImageName,
        subject: &Digest,
        digest: &Digest,
    ) -> io::Result<Option<(Referrer, usize)>> {
        let Some(entry) = found(fs::read(self.paths.referrer(name, subject, digest)))? else {
            return Ok(None);
        };
        Ok(Some((serde_json::from_slice(&entry)?, entry.len())))
    }

    /// In the specification's order: by letters whatever their case.
    pub(crate) fn tags(&self, name: &ImageName) -> io::Result<Vec<Version>> {
        let mut tags: Vec<Version> =
            entries(&self.paths.tags(name))?.iter().filter_map(|entry| entry.parse().ok()).collect();
        tags.sort_by_cached_key(tag_order);
        Ok(tags)
    }

    /// The repositories that exist, by name.
    pub(crate) fn repositories(&self) -> io::Result<Vec<ImageName>> {
        let mut names = self.names()?;
        let mut failed = Ok(());
        names.retain(|name| {
            self.exists(name).unwrap_or_else(|error| {
                failed = Err(error);
                false
            })
        });
        failed.map(|()| names)
    }

    /// Every repository that anything was ever pushed to, by name.
    pub(crate) fn names(&self) -> io::Result<Vec<ImageName>> {
        let mut names = Vec::new();
        self.collect_names(String::new(), 0, &mut names)?;
        names.sort();
        Ok(names)
    }

    fn collect_names(&self, above: String, depth: usize, names: &mut Vec<ImageName>) -> io::Result<()> {
        if depth == DEEPEST {
            return Ok(());
        }
        let directory: PathBuf = self.paths.repositories().join(&above);
        let (own, nested): (Vec<_>, Vec<_>) =
            entries(&directory)?.into_iter().partition(|part| part.starts_with('_'));
        if !own.is_empty() {
            names.extend(above.parse::<ImageName>().ok());
        }
        for part in nested {
            let path = if above.is_empty() { part } else { format!("{above}/{part}") };
            self.collect_names(path, depth + 1, names)?;
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
            Some(blob) if blob.size <= limits.manifest_bytes as u64 => blob.read_all().map(Some),
            _ => Ok(None),
        }
    }
}

/// The tag a manifest is to get, and whether it may be one that named another.
#[derive(Clone, Copy)]
struct Tagging<'a> {
    tag: &'a Version,
    may_move: bool,
}

/// A manifest's names before they are given to it.
struct StagedNames {
    link: Option<Staged>,
    tag: Option<Staged>,
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

fn holds_any(directory: &Path) -> io::Result<bool> {
    Ok(!entries(&directory.join("sha256"))?.is_empty() || !entries(&directory.join("sha512"))?.is_empty())
}

fn links(directory: &Path) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        let directory = directory.join(algorithm);
        for hex in entries(&directory)? {
            let Ok(digest) = format!("{algorithm}:{hex}").parse() else { continue };
            let modified = fs::metadata(directory.join(&hex)).and_then(|metadata| metadata.modified());
            let Some(modified) = found(modified)? else { continue };
            links.push(Link { digest, touched: modified.into() });
        }
    }
    Ok(links)
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
