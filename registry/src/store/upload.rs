//! Blobs on their way in.
//!
//! An upload is a growing file with a running hash, so that the digest is known the moment the
//! last byte arrives and nothing is read twice. The file's length is the truth; the hash is only
//! remembered progress, and is computed anew from the file after a restart or a failed write.
//!
//! Bodies are received in batches: while one is hashed and written on a blocking thread the next
//! is gathered from the connection. A slow client therefore never holds a thread, and an upload
//! never holds more than two batches of memory.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future};
use mergeyard_types::{Digest, ImageName, Timestamp};
use sha2::{Digest as _, Sha256, Sha512};
use tokio::sync::{OwnedMutexGuard, watch};
use uuid::Uuid;

use super::{Store, found};
use crate::{blocking, config::Limits, durable::DIRECTORY_MODE, error::Error};

/// Large enough that handing a batch to a thread costs nothing against hashing it.
const BATCH_BYTES: usize = 256 << 10;

/// Each chunk keeps alive the connection's buffer it was cut from, so many tiny ones are one large one.
const BATCH_CHUNKS: usize = 64;

/// How long a request waits for the one before it on the same upload; a client whose connection
/// broke comes back before the server has noticed.
const TAKEOVER: Duration = Duration::from_secs(10);

/// All open uploads of a registry.
pub(crate) struct Uploads {
    open: Mutex<HashMap<Uuid, Arc<Upload>>>,
}

pub(crate) struct Upload {
    pub(crate) id: Uuid,
    pub(crate) name: ImageName,
    offset: watch::Sender<u64>,
    /// Held by the one request that writes. `None` means that the file has to be asked.
    progress: Arc<tokio::sync::Mutex<Option<Progress>>>,
}

struct Progress {
    offset: u64,
    hasher: Hasher,
}

impl Uploads {
    /// Finds the uploads an earlier process left, and removes what cannot be one.
    pub(crate) fn load(store: &Store) -> io::Result<Self> {
        let mut open = HashMap::new();
        for entry in fs::read_dir(store.paths.uploads())? {
            let entry = entry?;
            match Upload::load(store, &entry.file_name().to_string_lossy())? {
                Some(upload) => {
                    open.insert(upload.id, Arc::new(upload));
                }
                None if entry.file_type()?.is_dir() => fs::remove_dir_all(entry.path())?,
                None => fs::remove_file(entry.path())?,
            }
        }
        Ok(Self { open: Mutex::new(open) })
    }

    pub(crate) fn start(
        &self,
        store: &Store,
        name: ImageName,
        algorithm: Algorithm,
        limits: &Limits,
    ) -> Result<Arc<Upload>, Error> {
        let progress = Progress { offset: 0, hasher: Hasher::new(algorithm) };
        let upload = Arc::new(Upload::new(Uuid::new_v4(), name, 0, Some(progress)));
        // Held until its files are there, so that a sweep does not take it for one that lost them.
        let creating = upload.progress.try_lock();
        self.register(upload.clone(), limits)?;
        upload.create_files(store).inspect_err(|_| {
            // The first error is the one to report; what stays behind is swept at the next start.
            let _ = self.remove(store, upload.id);
        })?;
        drop(creating);
        Ok(upload)
    }

    fn register(&self, upload: Arc<Upload>, limits: &Limits) -> Result<(), Error> {
        let mut open = self.lock();
        if open.len() >= limits.open_uploads {
            return Err(Error::TooManyUploads(limits.open_uploads));
        }
        open.insert(upload.id, upload);
        Ok(())
    }

    /// An upload is found only through the repository it was started in.
    pub(crate) fn find(&self, name: &ImageName, id: Uuid) -> Result<Arc<Upload>, Error> {
        self.lock().get(&id).filter(|upload| upload.name == *name).cloned().ok_or(Error::UploadUnknown)
    }

    /// Removes what a crash left of downloads that a mirror began: nobody knows their addresses.
    pub(crate) fn remove_of(&self, store: &Store, mirrored: impl Fn(&ImageName) -> bool) -> io::Result<()> {
        let ids: Vec<Uuid> =
            self.lock().values().filter(|upload| mirrored(&upload.name)).map(|u| u.id).collect();
        ids.into_iter().try_for_each(|id| self.remove(store, id))
    }

    pub(crate) fn remove(&self, store: &Store, id: Uuid) -> io::Result<()> {
        self.lock().remove(&id);
        found(fs::remove_dir_all(store.paths.upload(id))).map(|_| ())
    }

    /// Removes the uploads that nobody has written to for too long; one that is being written to stays.
    pub(crate) fn sweep(&self, store: &Store, age: Duration, now: Timestamp) -> io::Result<usize> {
        let candidates: Vec<Arc<Upload>> = self.lock().values().cloned().collect();
        let mut removed = 0;
        for upload in candidates {
            let Ok(_writing) = upload.progress.try_lock() else { continue };
            let data = store.paths.upload_data(upload.id);
            let touched = found(fs::metadata(data).and_then(|metadata| metadata.modified()))?;
            if touched.is_none_or(|at| now.since(at.into()) >= age) {
                self.remove(store, upload.id)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Upload>>> {
        // Each holder does one operation on the map, so a panic cannot leave it half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    fn new(id: Uuid, name: ImageName, offset: u64, progress: Option<Progress>) -> Self {
        Self {
            id,
            name,
            offset: watch::Sender::new(offset),
            progress: Arc::new(tokio::sync::Mutex::new(progress)),
        }
    }

    fn load(store: &Store, directory: &str) -> io::Result<Option<Self>> {
        let Ok(id) = Uuid::try_parse(directory) else { return Ok(None) };
        let Some(name) = found(fs::read_to_string(store.paths.upload_repository(id)))? else {
            return Ok(None);
        };
        let Some(data) = found(fs::metadata(store.paths.upload_data(id)))? else { return Ok(None) };
        Ok(name.parse().ok().map(|name| Self::new(id, name, data.len(), None)))
    }

    fn create_files(&self, store: &Store) -> io::Result<()> {
        // Not synced, as nothing of an upload is before it ends: after a power cut it is begun anew.
        DirBuilder::new().mode(DIRECTORY_MODE).create(store.paths.upload(self.id))?;
        fs::write(store.paths.upload_repository(self.id), self.name.as_str())?;
        File::create_new(store.paths.upload_data(self.id)).map(|_| ())
    }

    /// How many bytes have been received; known without waiting for whoever writes.
    pub(crate) fn offset(&self) -> u64 {
        *self.offset.borrow()
    }

    /// For whoever reads the growing file.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.offset.subscribe()
    }

    /// Where its client continues.
    pub(crate) fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.name, self.id)
    }

    /// Takes the right to write. `algorithm` is the one of the final digest when it is known.
    pub(crate) async fn write(
        self: &Arc<Self>,
        store: &Arc<Store>,
        algorithm: Option<Algorithm>,
    ) -> Result<Writer, Error> {
        let waiting = tokio::time::timeout(TAKEOVER, self.progress.clone().lock_owned());
        let turn = waiting.await.map_err(|_| Error::UploadBusy)?;
        let (upload, store) = (self.clone(), store.clone());
        blocking(move || Writer::open(upload, &store, turn, algorithm)).await
    }
}

/// The one who appends to an upload. Dropped at any point, it leaves what it wrote for the next.
pub(crate) struct Writer {
    upload: Arc<Upload>,
    file: File,
    progress: Option<Progress>,
    turn: OwnedMutexGuard<Option<Progress>>,
}

impl Writer {
    fn open(
        upload: Arc<Upload>,
        store: &Store,
        mut turn: OwnedMutexGuard<Option<Progress>>,
        algorithm: Option<Algorithm>,
    ) -> Result<Self, Error> {
        let path = store.paths.upload_data(upload.id);
        let opened = found(OpenOptions::new().read(true).append(true).open(path))?;
        let file = opened.ok_or(Error::UploadUnknown)?;
        let known = turn.take();
        let algorithm = algorithm
            .or_else(|| known.as_ref().map(|progress| progress.hasher.algorithm()))
            .unwrap_or(Algorithm::Sha256);
        let progress = match known {
            Some(progress) if progress.hasher.algorithm() == algorithm => progress,
            _ => Progress::read(&file, algorithm)?,
        };
        upload.offset.send_replace(progress.offset);
        Ok(Self { upload, file, progress: Some(progress), turn })
    }

    pub(crate) fn offset(&self) -> u64 {
        self.upload.offset()
    }

    pub(crate) fn name(&self) -> &ImageName {
        &self.upload.name
    }

    pub(crate) fn location(&self) -> String {
        self.upload.location()
    }

    /// Appends a body to its end. What arrived before a connection broke is kept.
    pub(crate) async fn receive(self, body: Body, limit: u64) -> Result<Self, Error> {
        let mut chunks = body.into_data_stream();
        let mut batch = Batch::default();
        let mut broken = None;
        let mut writer = future::ready(Ok(self)).boxed();
        while let Some(chunk) = chunks.next().await {
            match chunk {
                Ok(chunk) => batch.push(chunk),
                Err(error) => {
                    broken = Some(Error::Cut(error));
                    break;
                }
            }
            if batch.is_full() {
                let (ready, full) = (writer.await?, std::mem::take(&mut batch));
                writer = blocking(move || Writer::append(ready, full, limit)).boxed();
            }
        }
        let ready = writer.await?;
        let whole = blocking(move || ready.append(batch, limit)).await?;
        broken.map_or(Ok(whole), Err)
    }

    fn append(mut self, batch: Batch, limit: u64) -> Result<Self, Error> {
        // Taken, so that a write that fails halfway leaves `None`: then the file is asked.
        let Some(mut progress) = self.progress.take() else { return Err(Error::UploadUnknown) };
        if progress.offset + batch.bytes as u64 > limit {
            self.progress = Some(progress);
            return Err(Error::BlobSize(limit));
        }
        for chunk in batch.chunks {
            self.file.write_all(&chunk)?;
            progress.hasher.update(&chunk);
            progress.offset += chunk.len() as u64;
        }
        self.upload.offset.send_replace(progress.offset);
        self.progress = Some(progress);
        Ok(self)
    }

    /// Forgets what was received after `offset`: a body that contradicted its own headers.
    pub(crate) fn truncate(mut self, offset: u64) -> io::Result<()> {
        self.progress = None;
        self.file.set_len(offset)?;
        self.upload.offset.send_replace(offset);
        Ok(())
    }

    /// Ends the upload: its content becomes a blob of its repository, durably, or nothing does.
    pub(crate) fn commit(
        mut self,
        store: &Store,
        uploads: &Uploads,
        expected: &Digest,
        quota: Option<u64>,
    ) -> Result<(), Error> {
        let Some(progress) = self.progress.take() else { return Err(Error::UploadUnknown) };
        let actual = progress.hasher.finish();
        if actual != *expected {
            uploads.remove(store, self.upload.id)?;
            return Err(Error::DigestMismatch { expected: (*expected).into(), actual: actual.into() });
        }
        self.file.sync_all()?;
        let data = store.paths.upload_data(self.upload.id);
        store.adopt_blob(&data, &self.upload.name, expected, quota)?;
        uploads.remove(store, self.upload.id)?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        *self.turn = self.progress.take();
    }
}

impl Progress {
    fn read(mut file: &File, algorithm: Algorithm) -> io::Result<Self> {
        let mut progress = Progress { offset: 0, hasher: Hasher::new(algorithm) };
        let mut buffer = vec![0; BATCH_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(progress),
                read => {
                    progress.hasher.update(&buffer[..read]);
                    progress.offset += read as u64;
                }
            }
        }
    }
}

#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.chunks.push(chunk);
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.chunks.len() >= BATCH_CHUNKS
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) fn of(digest: &Digest) -> Self {
        match digest {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub(crate) fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }
}

// One upload has one hasher; boxing the larger would only add an indirection to each update.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Hasher::Sha256(_) => Algorithm::Sha256,
            Hasher::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Hasher::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}
