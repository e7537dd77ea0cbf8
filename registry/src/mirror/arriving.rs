//! A blob on its way from upstream, seen by those who wait for it.
//!
//! They read the growing file, each at its own speed and with one piece of memory, and hold back the
//! last byte of their answer until the content has proven to be what its digest says: whoever gets
//! the whole of an answer got the right one.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::UpstreamError;
use crate::{blocking, error::Error, store::upload::Upload};

/// One read: large enough that handing it to a thread costs nothing against the disk and TLS.
const READ_BYTES: u64 = 256 << 10;

/// How far a download has come.
#[derive(Clone)]
pub(super) enum State {
    Asking,
    Receiving(Receiving),
    Stored,
    Failed(Arc<Error>),
}

#[derive(Clone)]
pub(super) struct Receiving {
    pub(super) upload: Arc<Upload>,
    pub(super) file: Arc<File>,
    pub(super) size: Option<u64>,
}

/// A blob that can be followed from now on.
pub(crate) struct Arriving {
    pub(super) state: watch::Receiver<State>,
    pub(super) receiving: Receiving,
}

impl Arriving {
    /// The bytes of a range as they arrive.
    pub(crate) fn read(self, bytes: Range<u64>) -> impl Stream<Item = Result<Bytes, Error>> {
        let received = self.receiving.upload.watch();
        let follower = Follower { arriving: self, received, rest: bytes };
        stream::try_unfold(follower, Follower::piece)
    }
}

struct Follower {
    arriving: Arriving,
    received: watch::Receiver<u64>,
    rest: Range<u64>,
}

impl Follower {
    async fn piece(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let ready = self.ready().await?;
        let file = self.arriving.receiving.file.clone();
        let (start, length) = (self.rest.start, READ_BYTES.min(ready - self.rest.start));
        let piece = blocking(move || {
            let mut piece = vec![0; length as usize];
            file.read_exact_at(&mut piece, start)?;
            Ok(Bytes::from(piece))
        });
        let piece = piece.await?;
        self.rest.start += length;
        Ok(Some((piece, self)))
    }

    /// Waits until there is something to send, and says up to where.
    async fn ready(&mut self) -> Result<u64, Error> {
        loop {
            match &*self.arriving.state.borrow_and_update() {
                State::Stored => return Ok(self.rest.end),
                State::Failed(error) => return Err(Error::Shared(error.clone())),
                State::Asking | State::Receiving(_) => {}
            }
            let received = *self.received.borrow_and_update();
            let ready = received.min(self.rest.end - 1);
            if ready > self.rest.start {
                return Ok(ready);
            }
            tokio::select! {
                changed = self.arriving.state.changed() => changed.map_err(|_| UpstreamError::Stopped)?,
                _ = self.received.changed() => {}
            }
        }
    }
}
