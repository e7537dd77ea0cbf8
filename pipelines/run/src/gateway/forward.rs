//! Connections in, connections out, and the bytes between them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::backends::Backends;

/// Carried at a time, where there are descriptors for them; more wait to be accepted. It protects
/// memory.
const MOST_CONNECTIONS: usize = 8192;

/// Descriptors for everything else.
const OTHERS: usize = 64;

/// When no connection can be accepted, something has to end first.
const BREATH: Duration = Duration::from_millis(50);

pub(super) async fn accept(listener: TcpListener, backends: Arc<Backends>) -> Infallible {
    let room = Arc::new(Semaphore::new(most_connections()));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            unreachable!("nobody closes the semaphore");
        };
        match listener.accept().await {
            Ok((client, _)) => {
                let backends = Arc::clone(&backends);
                tokio::spawn(async move {
                    carry(client, &backends).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Each needs two descriptors, of which there may be as many as this process can get.
fn most_connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    let room = descriptors.map_or(MOST_CONNECTIONS, |descriptors| descriptors.saturating_sub(OTHERS) / 2);
    room.clamp(1, MOST_CONNECTIONS)
}

/// Each side's end is passed on to the other, which may go on speaking. A connection that breaks
/// breaks on both sides: it must not look like one that ended.
async fn carry(mut client: TcpStream, backends: &Arc<Backends>) {
    let Some((mut server, _held)) = backends.connect().await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = server.set_nodelay(true);
    if copy_bidirectional(&mut client, &mut server).await.is_err() {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}
