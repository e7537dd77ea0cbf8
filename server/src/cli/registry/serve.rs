//! `mergeyard registry serve`.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::configured;
use crate::{cli::Failed, data_dir::DataDir, embedded_registry::EmbeddedRegistry};

pub(super) async fn serve(file: Option<PathBuf>) -> Result<(), Failed> {
    let alone = configured(file)?;
    let config = alone.embedded().map_err(|error| Failed::Usage(Box::new(error)))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let data = DataDir::open(&alone.data_dir)?;
    let _owner = data.own()?;
    let closing = CancellationToken::new();
    let mut place = EmbeddedRegistry::start(config, &data, &alone.engine_host, &closing)?;
    let ca = place.ca_file.as_deref().map_or("the system's".into(), Path::to_string_lossy);
    info!(host = %place.access.host, %ca, "the registry is ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut place.serving => return Ok(ended??),
    }
    info!("stopping");
    closing.cancel();
    Ok(place.serving.await??)
}
