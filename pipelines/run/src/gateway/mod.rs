//! The gateway of a service: what owns its name and its ports on a target while the containers
//! behind it come and go.
//!
//! It forwards TCP connections and reads nothing of them. Switching is one assignment: a connection
//! that comes after it goes to the new container, one that was there stays with the old, and who
//! wants to stop the old one can wait until nobody is left. Which container it is stands in a file
//! of the target, so that a machine that starts again needs nobody to tell.
//!
//! It runs in a container of its own (`crate::rollout` makes it) and is the same program as the
//! server.

mod backends;
mod control;
mod forward;
mod probe;

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, UnixListener},
    signal::unix::{SignalKind, signal},
};

use backends::Backends;
pub use control::{Answer, Ask, control, show};
pub use probe::{Probe, Probed, probe};

/// The folder for what is remembered and where orders are taken, in a gateway's container.
pub const FOLDER: &str = "/gateway";

/// Between being asked to end and ending, for connections that are open.
const LAST_CONNECTIONS: Duration = Duration::from_secs(10);

/// Connections that the kernel keeps while they wait to be accepted.
const BACKLOG: u32 = 1024;

/// Serves a port until it is asked to end.
pub async fn serve(port: u16, folder: &Path) -> io::Result<()> {
    let backends = Arc::new(Backends::open(folder.join("live"))?);
    let orders = folder.join("orders");
    // Of a gateway that ran here before.
    match std::fs::remove_file(&orders) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let orders = UnixListener::bind(&orders)?;
    let listener = listen(port)?;
    let mut ends = signal(SignalKind::terminate())?;
    tracing::info!(port, live = backends.live(), "the gateway forwards");
    let taking = control::listen(orders, Arc::clone(&backends));
    tokio::select! {
        never = taking => match never {},
        never = forward::accept(listener, Arc::clone(&backends)) => match never {},
        _ = ends.recv() => {}
    }
    // The listener is closed already: whoever comes now is told at once.
    let _ = tokio::time::timeout(LAST_CONNECTIONS, backends.all_gone()).await;
    Ok(())
}

/// One probe, asked for and answered in JSON: for a program that is started to do nothing else.
pub async fn probe_once(asked: &str) -> Result<String, String> {
    let asked = serde_json::from_str(asked).map_err(|error| format!("this is no probe: {error}"))?;
    serde_json::to_string(&probe(&asked).await).map_err(|error| error.to_string())
}

/// Both address families where there are both.
fn listen(port: u16) -> io::Result<TcpListener> {
    let bind = |socket: io::Result<TcpSocket>, address: SocketAddr| {
        let socket = socket?;
        socket.set_reuseaddr(true)?;
        // Connections inherit these: a client that vanished does not stay for ever.
        socket.set_keepalive(true)?;
        socket.set_nodelay(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind(TcpSocket::new_v6(), (Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_| bind(TcpSocket::new_v4(), ([0, 0, 0, 0], port).into()))
}
