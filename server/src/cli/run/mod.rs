//! `mergeyard run`: the pipelines of a working tree, as the server would run them.
//!
//! It is the server, on a data directory of its own that is gone afterwards: the working tree
//! becomes a commit, the event a delivery, and from there on nothing knows the difference. Only
//! the registry is another one, so nothing of it reaches anybody.

mod board;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use mergeyard_types::{RunId, State, StepId};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Failed, Format, working_tree::WorkingTree};
use crate::{
    config::Config,
    serve::{Parts, Server},
    store::RunPage,
};
use board::Board;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The repository, or a folder in it
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The event that the pipelines are to see
    #[arg(long, default_value = "push")]
    event: EventKind,
    /// Only this workflow, and what it depends on
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Open this gate without asking; may be given several times
    #[arg(long, value_name = "GATE")]
    approve: Vec<String>,
    /// A secret for the pipelines, from the environment variable of the same name in upper case
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    /// What the pipelines may ask for: security, network, volumes
    #[arg(long, value_name = "TRUST", value_delimiter = ',')]
    trusted: Vec<String>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The container engine
    #[arg(long, default_value = "unix:///var/run/docker.sock", value_name = "ADDRESS")]
    engine: String,
}
