//! The registry behind TLS, hardened against clients that only hold on.
//!
//! A client can take connections, send a request head a byte at a time, or stop reading in the
//! middle of a blob. Connections are therefore counted, in all and per address, a head has to
//! arrive in time, and a connection on which nothing moves is cut.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum_server::{
    Handle,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use futures_util::future::{Ready, ready};
use hyper_util::rt::TokioTimer;
use mergeyard_types::Timestamp;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use crate::{Registry, config::Limits, router};

/// How often what nobody will finish is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);

/// A push has few requests at once; more streams are somebody's attempt to hold memory.
const STREAMS_PER_CONNECTION: u32 = 64;

/// Serves until `shutdown`, then lets running transfers end for a bounded time.
pub async fn serve(
    listener: std::net::TcpListener,
    registry: Registry,
    tls: Arc<ServerConfig>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let limits = registry.config.limits.clone();
    let handle = Handle::new();
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls))
        .handshake_timeout(limits.header_time)
        .acceptor(Counted::new(&limits));
    let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle.clone());
    let http = server.http_builder();
    http.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_time);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_time)
        .keep_alive_timeout(limits.header_time)
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    let serving = server.serve(router(registry.clone()).into_make_service());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = shutdown => {}
        never = sweep_now_and_then(&registry) => match never {},
    }
    handle.graceful_shutdown(Some(limits.shutdown_time));
    serving.await
}

async fn sweep_now_and_then(registry: &Registry) -> std::convert::Infallible {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        if let Err(error) = registry.sweep(Timestamp::now()).await {
            tracing::warn!("cannot sweep the registry's uploads: {error}: {:?}", std::error::Error::source(&error));
        }
    }
}

/// Lets connections in as long as there is room, and closes the others at once.
#[derive(Clone)]
struct Counted {
    open: Arc<Mutex<Open>>,
    most: usize,
    most_per_address: usize,
    idle: Duration,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Counted {
    fn new(limits: &Limits) -> Self {
        Self {
            open: Arc::default(),
            most: limits.connections,
            most_per_address: limits.connections_per_address,
            idle: limits.idle_time,
        }
    }

    fn enter(&self, address: IpAddr) -> io::Result<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let here = open.by_address.get(&address).copied().unwrap_or(0);
        if open.all >= self.most || here >= self.most_per_address {
            return Err(io::Error::other("too many connections"));
        }
        open.all += 1;
        open.by_address.insert(address, here + 1);
        Ok(Place { open: self.open.clone(), address })
    }

    fn admit(&self, stream: TcpStream) -> io::Result<Watched> {
        let place = self.enter(stream.peer_addr()?.ip().to_canonical())?;
        // Small answers must not wait for the acknowledgement of the ones before them.
        stream.set_nodelay(true)?;
        let deadline = Box::pin(sleep_until(Instant::now() + self.idle));
        Ok(Watched { stream, idle: self.idle, moved: Instant::now(), deadline, _place: place })
    }
}

impl<S> Accept<TcpStream, S> for Counted {
    type Stream = Watched;
    type Service = S;
    type Future = Ready<io::Result<(Watched, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(self.admit(stream).map(|stream| (stream, service)))
    }
}

/// One connection's place among all.
struct Place {
    open: Arc<Mutex<Open>>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// A connection that ends with an error when nothing moves on it, in either direction, for too long.
struct Watched {
    stream: TcpStream,
    idle: Duration,
    moved: Instant,
    deadline: Pin<Box<Sleep>>,
    _place: Place,
}

impl Watched {
    /// Bytes that move only note the time; the timer is set anew when it goes off too early.
    fn watch<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.moved = Instant::now();
            return moved;
        }
        while self.deadline.as_mut().poll(cx).is_ready() {
            let end = self.moved + self.idle;
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.deadline.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.watch(cx, read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
