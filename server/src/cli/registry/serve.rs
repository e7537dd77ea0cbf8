//! `mergeyard registry serve`.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    cli::{Failed, usual_file},
    config::{Config, Registry},
    data_dir::DataDir,
    embedded_registry::EmbeddedRegistry,
};

pub(super) async fn serve(file: Option<PathBuf>) -> Result<(), Failed> {
    let (data_dir, config) = Config::load_registry(usual_file(file).as_deref(), std::env::vars())
        .map_err(|error| Failed::Usage(Box::new(error)))?;
    let Registry::Embedded(config) = config else {
        let why = "`registry.embedded` is false, so there is no registry to serve here; remove that line";
        return Err(Failed::Usage(why.into()));
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let data = DataDir::open(&data_dir)?;
    let _owner = data.own()?;
    let closing = CancellationToken::new();
    let mut place = EmbeddedRegistry::start(&config, &data, &closing)?;
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
