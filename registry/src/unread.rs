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

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
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
        rest: Some(body),
        closes: closes.clone(),
    };
    let mut response = next.run(Request::from_parts(parts, Body::new(unread))).await;
    if closes.load(Ordering::Acquire) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A request's body, which sees to its rest when whoever answers lets go of it early.
struct Unread {
    rest: Option<Body>,
    small: bool,
    /// The client sends nothing before it is told to, which the first reading does.
    awaited: bool,
    closes: Arc<AtomicBool>,
}

impl HttpBody for Unread {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.awaited = false;
        let Some(rest) = self.rest.as_mut() else { return Poll::Ready(None) };
        let read = ready!(Pin::new(&mut *rest).poll_frame(cx));
        if rest.is_end_stream() || !matches!(read, Some(Ok(_))) {
            self.rest = None;
        }
        Poll::Ready(read)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
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

async fn discard(rest: Body) {
    let (mut rest, mut left) = (rest.into_data_stream(), LINGER_BYTES);
    while let Some(Ok(bytes)) = rest.next().await {
        match left.checked_sub(bytes.len() as u64) {
            Some(less) => left = less,
            None => return,
        }
    }
}
