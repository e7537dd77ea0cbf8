//! Who pushed, pulled and deleted what in the registry, as lines of the log.
//!
//! Tags and manifests are told at `info`, the many blobs behind them at `debug`; deletions always at
//! `info`. The target is `mergeyard::audit`, so that `MERGEYARD_LOG=mergeyard::audit=info` keeps only these.

use mergeyard_registry::{Act, Content, Event, Registry};
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, info, warn};

/// Tells until the registry is gone.
pub(crate) async fn audit(registry: &Registry) -> ! {
    let mut events = registry.subscribe();
    loop {
        match events.recv().await {
            Ok(event) => tell(&event),
            Err(RecvError::Lagged(missed)) => {
                warn!(target: "mergeyard::audit", missed, "too much happened in the registry at once to tell all of it");
            }
            // The registry at hand holds a sender, so this cannot come.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn tell(event: &Event) {
    let Event { act, name, content, by } = event;
    let act = match act {
        Act::Pushed => "pushed",
        Act::Pulled => "pulled",
        Act::Deleted => "deleted",
    };
    match content {
        Content::Manifest { tag: Some(tag), digest } => {
            info!(target: "mergeyard::audit", %by, %digest, "{act} {name}:{tag}");
        }
        Content::Manifest { tag: None, digest } => {
            info!(target: "mergeyard::audit", %by, "{act} {name}@{digest}");
        }
        Content::Blob(digest) if event.act == Act::Deleted => {
            info!(target: "mergeyard::audit", %by, "{act} blob {name}@{digest}");
        }
        Content::Blob(digest) => debug!(target: "mergeyard::audit", %by, "{act} blob {name}@{digest}"),
    }
}
