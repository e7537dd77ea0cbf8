//! Blobs of an upstream registry: here already, on their way, or to be asked for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{HeaderMap, Method, header};
use mergeyard_types::{Digest, ImageName};
use tokio::{sync::watch, task::AbortHandle};

use super::{
    PullThrough, UpstreamError,
    arriving::{Arriving, State},
    download::Download,
    upstream::Answer,
};
use crate::{blocking, error::Error, store::blobs::Blob};

/// A blob up to this size is answered once it is here as a whole, so that what goes wrong with it is
/// said by a status and not by a broken connection. Most configurations are smaller.
const WHOLE_BYTES: u64 = 256 << 10;

/// Where a blob of a mirror is read from.
pub(crate) enum Found {
    Here(Blob),
    Arriving(Arriving),
}

impl PullThrough {
    /// A blob to read, with its size. The download goes on to its end when its clients are gone:
    /// one that timed out comes again, and finds what it had waited for.
    pub(crate) async fn blob(
        &self,
        name: &ImageName,
        upstream_name: &ImageName,
        digest: &Digest,
    ) -> Result<(Found, u64), Error> {
        let mut state = self.download(name, upstream_name, digest);
        loop {
            let known = state.borrow_and_update().clone();
            match known {
                State::Receiving(receiving) => {
                    // Of unknown size: what cannot be announced is not begun.
                    if let Some(size) = receiving.size.filter(|size| *size > WHOLE_BYTES) {
                        return Ok((Found::Arriving(Arriving { state, receiving }), size));
                    }
                }
                State::Stored => return self.stored(name, digest).await,
                State::Failed(error) => return Err(Error::Shared(error)),
                State::Asking => {}
            }
            state.changed().await.map_err(|_| UpstreamError::Stopped)?;
        }
    }

    /// The size of a blob that is not here, as upstream says it.
    pub(crate) async fn blob_size(
        &self,
        name: &ImageName,
        upstream_name: &ImageName,
        digest: &Digest,
    ) -> Result<u64, Error> {
        let path = format!("blobs/{digest}");
        let answer =
            self.upstream.ask(Method::HEAD, upstream_name, &path, HeaderMap::new(), Answer::Small).await?;
        let answer = answer.ok_or_else(|| Error::BlobUnknown { name: name.clone(), digest: *digest })?;
        let size = answer.headers().get(header::CONTENT_LENGTH);
        let size = size.and_then(|size| size.to_str().ok()?.parse().ok());
        size.ok_or_else(|| self.upstream.broken(&path, "it does not say its size").into())
    }

    async fn stored(&self, name: &ImageName, digest: &Digest) -> Result<(Found, u64), Error> {
        let (store, name, digest) = (self.store.clone(), name.clone(), *digest);
        blocking(move || {
            let blob = store.blob(&name, &digest)?.ok_or(Error::BlobUnknown { name, digest })?;
            let size = blob.size;
            Ok((Found::Here(blob), size))
        })
        .await
    }

    /// Joins the download of a blob, or begins it.
    fn download(
        &self,
        name: &ImageName,
        upstream_name: &ImageName,
        digest: &Digest,
    ) -> watch::Receiver<State> {
        let key = (name.clone(), *digest);
        let mut running = self.downloads.running.lock();
        if let Some(download) = running.get(&key) {
            return download.state.clone();
        }
        let (sender, state) = watch::channel(State::Asking);
        let download = Download {
            store: self.store.clone(),
            uploads: self.uploads.clone(),
            upstream: self.upstream.clone(),
            limits: self.limits.clone(),
            name: name.clone(),
            upstream_name: upstream_name.clone(),
            digest: *digest,
            state: sender.clone(),
        };
        let listed = Listed { running: self.downloads.running.clone(), key: key.clone() };
        let task = tokio::spawn(async move {
            let ended = download.run().await;
            // Out of the list first: who comes after a failure begins anew.
            drop(listed);
            sender.send_replace(ended);
        });
        running.insert(key, Running { state: state.clone(), task: task.abort_handle() });
        state
    }
}

/// The downloads of one upstream. A repository's right to read is upstream's to give, so the same
/// blob in two repositories is downloaded for each.
#[derive(Default)]
pub(super) struct Downloads {
    running: Arc<RunningDownloads>,
}

#[derive(Default)]
struct RunningDownloads(Mutex<HashMap<(ImageName, Digest), Running>>);

struct Running {
    state: watch::Receiver<State>,
    task: AbortHandle,
}

impl RunningDownloads {
    fn lock(&self) -> MutexGuard<'_, HashMap<(ImageName, Digest), Running>> {
        // Each holder does one operation on the map, so a panic cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Downloads {
    /// A download holds the directory, which nobody serves any more.
    fn drop(&mut self) {
        // Not under the lock, which each download takes when it ends.
        let tasks: Vec<_> = self.running.lock().values().map(|download| download.task.clone()).collect();
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A download's place in the list, which it leaves however it ends.
struct Listed {
    running: Arc<RunningDownloads>,
    key: (ImageName, Digest),
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}
