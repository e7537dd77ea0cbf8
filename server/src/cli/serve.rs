//! `mergeyard serve`.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use super::{Failed, load};
use crate::serve::{Parts, Server};

pub(super) async fn serve(file: Option<PathBuf>) -> Result<(), Failed> {
    let config = load(file.clone())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let server = Server::start(config, Parts::default()).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = reload(&server, &mut hang_up, file) => {}
    }
    info!("stopping");
    server.stop().await;
    Ok(())
}

/// On `SIGHUP` the rules are read anew: repositories and webhook secrets. The rest holds
/// until a restart. A bad file changes nothing.
async fn reload(server: &Server, hang_up: &mut Signal, file: Option<PathBuf>) {
    while hang_up.recv().await.is_some() {
        match load(file.clone()) {
            Ok(config) => {
                server.yard.set_rules(config.rules);
                info!("read repositories and webhook secrets anew; other keys hold from the next start");
            }
            Err(Failed::Work(why) | Failed::Usage(why)) => {
                error!("kept the configuration as it was: {why}");
            }
            Err(Failed::Told) => {}
        }
    }
}
