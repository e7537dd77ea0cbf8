//! Refusals that arrive although the client is still sending.
//!
//! Who is refused has often begun to send a blob. HTTP/1.1 then knows two ways to go on: read the
//! rest and keep the connection, or close it. A server that closes without saying so loses twice: a
//! client that sends its next request on that connection finds it dead and may not repeat it, and
//! bytes that nobody reads make the kernel reset the connection, which takes the answer with it.
//! So what is small is read on, what is large is answered with `Connection: close`, and both are
//! read for a while after the answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, HttpBody},
    extract::Request,
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, Version, header};
use tokio::runtime::Handle;

/// Reading this much costs less than the handshake of a new connection.
const KEPT: u64 = 256 << 10;

/// What a client may still send before it has read its answer: time and memory of a network, not a blob.
const LINGER_BYTES: u64 = 16 << 20;
const LINGER_TIME: Duration = Duration::from_secs(5);

/// A layer around everything that answers on a listener.
pub(crate) async fn answer_whole(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    // A stream of HTTP/2 is ended for itself; the connection goes on.
    if parts.version >= Version::HTTP_2 || body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let closes = Arc::new(AtomicBool::new(false));
    let unread = Unread {
        small: body.size_hint().exact().is_some_and(|size| size <= KEPT),
        awaited: parts.headers.contains_key(header::EXPECT),
        rest: Some(body.into_data_stream()),
        closes: closes.clone(),
    };
    let mut response = next.run(Request::from_parts(parts, Body::from_stream(unread))).await;
    if closes.load(Ordering::Acquire) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A request's body, which sees to its rest when whoever answers lets go of it early.
struct Unread {
    rest: Option<BodyDataStream>,
    small: bool,
    /// The client sends nothing before it is told to, which the first reading does.
    awaited: bool,
    closes: Arc<AtomicBool>,
}

impl Stream for Unread {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.awaited = false;
        let Some(rest) = self.rest.as_mut() else { return Poll::Ready(None) };
        let read = ready!(rest.poll_next_unpin(cx));
        if !matches!(read, Some(Ok(_))) {
            self.rest = None;
        }
        Poll::Ready(read)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        if !self.small || self.awaited {
            self.closes.store(true, Ordering::Release);
        }
        if let (false, Ok(runtime)) = (self.awaited, Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(LINGER_TIME, discard(rest)));
        }
    }
}

async fn discard(mut rest: BodyDataStream) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(bytes)) = rest.next().await {
        match left.checked_sub(bytes.len() as u64) {
            Some(less) => left = less,
            None => return,
        }
    }
}
