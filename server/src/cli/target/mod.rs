//! `mergeyard target …`.

mod check;
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
    /// Find out whether a target can be delivered to, and what mends it
    ///
    /// Looks at the connection, the host key, the login, the tools that deployments there need, and the
    /// disk. A host key that is not pinned yet is shown with the line to add, and never trusted
    /// by itself. Nothing is changed there. Exits with 0 when there is no error.
    Check(check::Check),
}

pub(super) async fn target(config: Config, command: Command) -> Result<(), Failed> {
    match command {
        Command::List { format } => list::list(&config, format).await,
        Command::Check(asked) => check::check(&config, asked).await,
    }
}
