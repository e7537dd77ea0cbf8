//! The registry as a server: its endpoints behind TLS, and its own housekeeping while it runs.

use std::{convert::Infallible, io, net::TcpListener, sync::Arc, time::Duration};

use mergeyard_types::Timestamp;
use rustls::ServerConfig;

use crate::{Registry, error::chain, router, serve_app};

/// How often what nobody will finish is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);

/// Serves until `shutdown`, then lets running transfers end for a bounded time.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    tls: Arc<ServerConfig>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let limits = registry.config.limits.clone();
    tokio::select! {
        ended = serve_app(listener, router(registry.clone()), Some(tls), limits, shutdown) => ended,
        never = sweep_now_and_then(&registry) => match never {},
    }
}

async fn sweep_now_and_then(registry: &Registry) -> Infallible {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        if let Err(error) = registry.sweep(Timestamp::now()).await {
            tracing::warn!("cannot remove what expired in the registry: {}", chain(&error));
        }
    }
}
