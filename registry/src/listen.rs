//! HTTP listeners hardened against clients that only hold on.
//!
//! A client can take connections, send a request head a byte at a time, or stop reading in the
//! middle of an answer. Connections are therefore counted, in all and per address, a head has to
//! arrive in time, and a connection on which nothing moves is cut.
//!
//! A few addresses can still take every place there is, and take it again as soon as it is free. So
//! when all places are taken, who has fewer of them gets one from who has most: an honest client comes
//! in at once, whatever the others hold.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, middleware::from_fn};
use axum_server::{
    Handle,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use futures_util::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, Ready, ready},
};
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::{
    either::Either,
    sync::{CancellationToken, WaitForCancellationFutureOwned},
};

use crate::{config::Limits, unread::answer_whole};

/// An honest client has few requests at once; more streams are somebody's attempt to hold memory.
const STREAMS_PER_CONNECTION: u32 = 64;

/// Serves any router until `shutdown`, then lets running answers end for a bounded time. Without `tls` it
/// speaks plain HTTP, for a listener that only this machine reaches. Requests carry the address of
/// their peer as [`axum::extract::ConnectInfo`].
pub async fn serve_app(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let router = router.layer(from_fn(answer_whole));
    let handle = Handle::new();
    let door = Door::new(tls, &limits);
    let mut server = axum_server::from_tcp(listener)?.acceptor(door).handle(handle.clone());
    let http = server.http_builder();
    http.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_time);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.header_time)
        .keep_alive_timeout(limits.header_time)
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    let serving = server.serve(router.into_make_service_with_connect_info::<SocketAddr>());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = shutdown => {}
    }
    handle.graceful_shutdown(Some(limits.shutdown_time));
    serving.await
}

/// The way in: counted first, so that a handshake already costs its client a place.
#[derive(Clone)]
enum Door {
    Tls(RustlsAcceptor<Counted>),
    Plain(Counted),
}

impl Door {
    fn new(tls: Option<Arc<ServerConfig>>, limits: &Limits) -> Self {
        let counted = Counted::new(limits);
        let Some(tls) = tls else { return Door::Plain(counted) };
        let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls));
        Door::Tls(acceptor.handshake_timeout(limits.header_time).acceptor(counted))
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Door {
    type Stream = Either<<RustlsAcceptor<Counted> as Accept<TcpStream, S>>::Stream, Watched>;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        match self {
            Door::Tls(door) => {
                door.accept(stream, service).map_ok(|(io, service)| (Either::Left(io), service)).boxed()
            }
            Door::Plain(door) => {
                door.accept(stream, service).map_ok(|(io, service)| (Either::Right(io), service)).boxed()
            }
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
    began: Instant,
}

#[derive(Default)]
struct Open {
    all: usize,
    next: u64,
    by_address: HashMap<IpAddr, HashMap<u64, Seat>>,
}

/// What the others know of one connection.
struct Seat {
    /// When something last moved on it, in milliseconds since the listener began.
    moved: Arc<AtomicU64>,
    leave: CancellationToken,
}

impl Open {
    fn held_by(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, HashMap::len)
    }

    /// Sends away the quietest connection of the address that has most, unless the one who asks
    /// would then have as many as that. Its place is free from now on, its socket in a moment.
    fn make_room_for(&mut self, address: IpAddr) -> bool {
        let here = self.held_by(address);
        let most = self.by_address.iter().max_by_key(|(_, seats)| seats.len());
        let Some((&heaviest, seats)) = most.filter(|(_, seats)| seats.len() > here + 1) else { return false };
        let quietest = seats.iter().min_by_key(|(_, seat)| seat.moved.load(Ordering::Relaxed));
        let Some((&id, _)) = quietest else { return false };
        self.remove(heaviest, id).map(|seat| seat.leave.cancel()).is_some()
    }

    fn remove(&mut self, address: IpAddr, id: u64) -> Option<Seat> {
        let here = self.by_address.get_mut(&address)?;
        let seat = here.remove(&id)?;
        if here.is_empty() {
            self.by_address.remove(&address);
        }
        self.all -= 1;
        Some(seat)
    }
}

impl Counted {
    fn new(limits: &Limits) -> Self {
        Self {
            open: Arc::default(),
            most: limits.connections,
            most_per_address: limits.connections_per_address,
            idle: limits.idle_time,
            began: Instant::now(),
        }
    }

    fn enter(&self, address: IpAddr) -> io::Result<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = open.held_by(address) < self.most_per_address
            && (open.all < self.most || open.make_room_for(address));
        if !has_room {
            return Err(io::Error::other("too many connections"));
        }
        let id = open.next;
        open.next += 1;
        open.all += 1;
        let moved = Arc::new(AtomicU64::new(milliseconds(self.began.elapsed())));
        let leave = CancellationToken::new();
        let seat = Seat { moved: moved.clone(), leave: leave.clone() };
        open.by_address.entry(address).or_default().insert(id, seat);
        Ok(Place { open: self.open.clone(), address, id, began: self.began, moved, leave })
    }

    fn admit(&self, stream: TcpStream) -> io::Result<Watched> {
        let place = self.enter(stream.peer_addr()?.ip().to_canonical())?;
        // Small answers must not wait for the acknowledgement of the ones before them.
        stream.set_nodelay(true)?;
        let deadline = Box::pin(sleep_until(Instant::now() + self.idle));
        let leave = Box::pin(place.leave.clone().cancelled_owned());
        Ok(Watched { stream, idle: self.idle, moved: Instant::now(), deadline, leave, place })
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
    id: u64,
    began: Instant,
    moved: Arc<AtomicU64>,
    leave: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Who was sent away has left the table already.
        let _ = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(self.address, self.id);
    }
}

/// A connection that ends with an error when nothing moves on it, in either direction, for too long,
/// or when another needs its place more.
struct Watched {
    stream: TcpStream,
    idle: Duration,
    moved: Instant,
    deadline: Pin<Box<Sleep>>,
    leave: Pin<Box<WaitForCancellationFutureOwned>>,
    place: Place,
}

impl Watched {
    /// Bytes that move only note the time; the timer is set anew when it goes off too early.
    fn watch<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.leave.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if moved.is_ready() {
            self.moved = Instant::now();
            let since = milliseconds(self.moved.saturating_duration_since(self.place.began));
            self.place.moved.store(since, Ordering::Relaxed);
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

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
