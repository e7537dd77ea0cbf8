//! `mergeyard target …`.

mod list;

use clap::Subcommand;

use super::{Failed, Format};
use crate::config::Config;

#[derive(Subcommand)]
pub(super) enum Command {
    /// All targets and what is live on each
    List {
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

pub(super) async fn target(config: Config, command: Command) -> Result<(), Failed> {
    match command {
        Command::List { format } => list::list(&config, format).await,
    }
}
