//! One blob on its way from upstream to the disk, as an upload that the registry makes itself.
//!
//! A connection that breaks is resumed where it broke. Should upstream send the whole again, what is
//! here already is skipped and not replaced: clients have read it, so it is what the digest must fit.

use std::{fs::File, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use mergeyard_types::{Digest, ImageName};
use reqwest::Response;
use tokio::{sync::watch, time::Instant};

use super::{
    UpstreamError,
    arriving::{Receiving, State},
    upstream::{Answer, Upstream},
};
use crate::{
    blocking,
    config::Limits,
    error::Error,
    store::{
        Store,
        upload::{Algorithm, Upload, Uploads},
    },
};

/// So often in a row upstream may break off, or answer that it cannot, having brought next to nothing.
const ATTEMPTS: u32 = 5;

/// Clients wait in the middle of a blob, and most give up on one that brings nothing for a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a connection has to bring within the idle time to be worth waiting for, and an attempt to count.
const PROGRESS: u64 = 64 << 10;

pub(super) struct Download {
    pub(super) store: Arc<Store>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) limits: Arc<Limits>,
    pub(super) name: ImageName,
    pub(super) upstream_name: ImageName,
    pub(super) digest: Digest,
    pub(super) state: watch::Sender<State>,
}

impl Download {
    /// Says how it ended; on the way it says what can be followed.
    pub(super) async fn run(&self) -> State {
        match self.store_blob().await {
            Ok(()) => State::Stored,
            Err(error) => {
                error.log(&Method::GET, &format!("/v2/{}/blobs/{}", self.name, self.digest));
                State::Failed(Arc::new(error))
            }
        }
    }

    async fn store_blob(&self) -> Result<(), Error> {
        // Another download may have ended between a client's look at the store and this one's start.
        if self.is_here().await? {
            return Ok(());
        }
        let part = self.begin().await?;
        let upload = self.start_upload().await?;
        let received = self.receive(part, &upload).await;
        if received.is_err() {
            let (store, uploads, id) = (self.store.clone(), self.uploads.clone(), upload.id);
            blocking(move || Ok(uploads.remove(&store, id)?)).await?;
        }
        received
    }

    async fn is_here(&self) -> Result<bool, Error> {
        let (store, name, digest) = (self.store.clone(), self.name.clone(), self.digest);
        blocking(move || Ok(store.blob_size(&name, &digest)?.is_some())).await
    }

    async fn start_upload(&self) -> Result<Arc<Upload>, Error> {
        let (store, uploads, limits) = (self.store.clone(), self.uploads.clone(), self.limits.clone());
        let (name, algorithm) = (self.name.clone(), Algorithm::of(&self.digest));
        blocking(move || uploads.start(&store, name, algorithm, &limits)).await
    }

    /// The first answer. An upstream that cannot be reached is told at once, as nobody has read
    /// anything yet; one that stumbles is asked again.
    async fn begin(&self) -> Result<Part, Error> {
        let mut failures = 0;
        loop {
            match self.ask(0, None).await {
                Err(Error::Upstream(error)) if error.is_stumble() => {
                    failures += 1;
                    self.back_off(failures, error).await?;
                }
                answered => return answered,
            }
        }
    }

    async fn receive(&self, first: Part, upload: &Arc<Upload>) -> Result<(), Error> {
        let (size, etag) = (first.size, first.etag.clone());
        let file = self.open(upload).await?;
        let receiving = Receiving { upload: upload.clone(), file, size };
        self.state.send_replace(State::Receiving(receiving));
        let (mut failures, mut part) = (0, Ok(first));
        loop {
            let before = upload.offset();
            let broke = match part {
                Ok(part) if part.size.is_none_or(|now| size == Some(now)) => {
                    self.append(part, size, upload).await?
                }
                Ok(_) => return Err(self.broken("it changed its size on the way").into()),
                Err(Error::Upstream(error)) if error.is_outage() => Some(error),
                Err(error) => return Err(error),
            };
            let Some(error) = broke else { return self.commit(upload).await };
            let progressed = upload.offset() - before >= PROGRESS;
            failures = if progressed { 1 } else { failures + 1 };
            self.back_off(failures, error).await?;
            part = self.ask(upload.offset(), etag.as_ref()).await;
        }
    }

    /// Appends an answer's body. `None`: the blob is whole; otherwise why it is not.
    async fn append(
        &self,
        part: Part,
        size: Option<u64>,
        upload: &Arc<Upload>,
    ) -> Result<Option<UpstreamError>, Error> {
        let writer = upload.write(&self.store, Some(Algorithm::of(&self.digest))).await?;
        let body = Body::from_stream(arrives(part, writer.offset(), self.limits.upstream_idle_time));
        match writer.receive(body, self.limits.blob_bytes).await {
            Ok(writer) if size.is_none_or(|size| size == writer.offset()) => Ok(None),
            Ok(_) => Ok(Some(self.broken("it ended before its size"))),
            // A break after the last byte is none.
            Err(Error::Cut(_)) if size == Some(upload.offset()) => Ok(None),
            Err(Error::Cut(_)) => Ok(Some(self.broken("the connection broke, or brought next to nothing"))),
            Err(Error::BlobSize(limit)) => Err(self.upstream.too_large(&self.what(), limit).into()),
            Err(error) => Err(error),
        }
    }

    async fn commit(&self, upload: &Arc<Upload>) -> Result<(), Error> {
        let writer = upload.write(&self.store, Some(Algorithm::of(&self.digest))).await?;
        let (store, uploads, digest) = (self.store.clone(), self.uploads.clone(), self.digest);
        match blocking(move || writer.commit(&store, &uploads, &digest, None)).await {
            Err(Error::DigestMismatch { actual, .. }) => {
                Err(self.broken(&format!("its digest is {actual}")).into())
            }
            done => done,
        }
    }

    async fn open(&self, upload: &Arc<Upload>) -> Result<Arc<File>, Error> {
        let path = self.store.paths.upload_data(upload.id);
        blocking(move || Ok(Arc::new(File::open(path)?))).await
    }

    /// Asks for the blob from `offset` on.
    async fn ask(&self, offset: u64, etag: Option<&HeaderValue>) -> Result<Part, Error> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            let range = format!("bytes={offset}-");
            headers.extend(HeaderValue::try_from(range).ok().map(|range| (header::RANGE, range)));
            headers.extend(etag.map(|etag| (header::IF_RANGE, etag.clone())));
        }
        let path = format!("blobs/{}", self.digest);
        let answer =
            self.upstream.ask(Method::GET, &self.upstream_name, &path, headers, Answer::Blob).await?;
        let unknown = || Error::BlobUnknown { name: self.name.clone(), digest: self.digest };
        let part = Part::of(answer.ok_or_else(unknown)?, offset).map_err(|why| self.broken(why))?;
        match part.size {
            Some(size) if size > self.limits.blob_bytes => {
                Err(self.upstream.too_large(&self.what(), self.limits.blob_bytes).into())
            }
            _ => Ok(part),
        }
    }

    /// Waits before the next attempt, as long as upstream asks to, or gives up with the last error.
    async fn back_off(&self, failures: u32, error: UpstreamError) -> Result<(), Error> {
        let pause = match error {
            UpstreamError::TooManyRequests { wait, .. } => wait,
            _ => self.limits.upstream_backoff.saturating_mul(1 << (failures - 1)),
        };
        if failures >= ATTEMPTS || pause > LONGEST_PAUSE {
            return Err(error.into());
        }
        let upstream = self.upstream.host();
        tracing::warn!(upstream, blob = self.what(), failures, "mirror: a download is tried again: {error}");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn broken(&self, why: &str) -> UpstreamError {
        self.upstream.broken(&self.what(), why)
    }

    fn what(&self) -> String {
        format!("{}@{}", self.upstream_name, self.digest)
    }
}

/// An answer that brings a blob, or the rest of it.
struct Part {
    response: Response,
    /// Where its body begins in the blob.
    start: u64,
    /// Of the whole blob.
    size: Option<u64>,
    /// Only a strong one can be resumed by (RFC 9110, section 13.1.5).
    etag: Option<HeaderValue>,
}

impl Part {
    fn of(response: Response, offset: u64) -> Result<Self, &'static str> {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let (start, size) = match response.status() {
            StatusCode::OK => (0, text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok())),
            StatusCode::PARTIAL_CONTENT => {
                let range = text(header::CONTENT_RANGE).and_then(content_range);
                range.filter(|(start, _)| *start == offset).ok_or("it is another part than was asked for")?
            }
            _ => return Err("it is neither the content nor a part of it"),
        };
        let strong = |etag: &HeaderValue| etag.as_bytes().starts_with(b"\"");
        let etag = response.headers().get(header::ETAG).cloned().filter(strong);
        Ok(Self { response, start, size, etag })
    }
}

/// `bytes <first>-<last>/<size>`: the first and the size.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.parse().ok()?;
    Some((first, if size == "*" { None } else { Some(size.parse().ok()?) }))
}

/// What a body brings from `offset` on. It ends with an error when too little comes for `idle`.
fn arrives(
    part: Part,
    offset: u64,
    idle: Duration,
) -> impl Stream<Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>> {
    let skip = offset.saturating_sub(part.start);
    let body = part.response.bytes_stream().boxed();
    stream::try_unfold(
        (body, skip, Instant::now() + idle, 0),
        move |(mut body, skip, deadline, fresh)| async move {
            let Some(chunk) = tokio::time::timeout_at(deadline, body.next()).await? else { return Ok(None) };
            let mut chunk = chunk?;
            let arrived = fresh + chunk.len() as u64;
            let skipped = chunk.split_to(skip.min(chunk.len() as u64) as usize);
            let enough = arrived >= PROGRESS;
            let deadline = if enough { Instant::now() + idle } else { deadline };
            let next = (body, skip - skipped.len() as u64, deadline, if enough { 0 } else { arrived });
            Ok(Some((chunk, next)))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_where_it_begins_and_how_large_the_whole_is() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for text in ["", "bytes", "bytes 5/10", "bytes */10", "bytes x-9/10", "bytes 5-9/x", "items 5-9/10"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
