//! `mergeyard gateway`: what a rollout starts in a container of the target. People look with `show`.

use std::path::Path;

use mergeyard_run::gateway;

use super::Failed;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Forward connections of a port to the container that is live
    Serve {
        #[arg(long)]
        port: u16,
    },
    /// Carry orders to the gateway of this container, as lines of JSON
    Orders,
    /// What the gateway of this container forwards to, as JSON
    Show,
    /// Ask a program over HTTP whether it works; question and answer are JSON
    Probe { asked: String },
}

pub(super) async fn gateway(command: Command) -> Result<(), Failed> {
    let folder = Path::new(gateway::FOLDER);
    match command {
        Command::Serve { port } => Ok(gateway::serve(port, folder).await?),
        // Both read and write like any small program: there is nothing else to be done meanwhile.
        Command::Orders => Ok(gateway::control(folder)?),
        Command::Show => {
            say!("{}", gateway::show(folder)?);
            Ok(())
        }
        Command::Probe { asked } => {
            say!("{}", gateway::probe_once(&asked).await.map_err(Failed::work)?);
            Ok(())
        }
    }
}
