//! `mergeyard registry …`: the private TLS registry, alone and under care.

mod certificate;
mod doctor;
mod gc;
mod reach;
mod robot;
mod serve;
mod verify;

use std::path::PathBuf;

use clap::Subcommand;

pub(super) use robot::time;

use super::{Failed, usual_file};
use crate::config::{Config, RegistryAlone};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Serve the registry alone, without pipelines and webhooks
    Serve,
    /// Make what a registry needs for TLS and login: ca.pem, cert.pem, key.pem, htpasswd, password
    ///
    /// What is there already stays; a certificate that is about to expire, or lacks a name,
    /// is made anew from the same authority.
    Certificate(certificate::Certificate),
    /// Remove what no rule, manifest or running container keeps; while it serves, too
    Gc(gc::Gc),
    /// Read everything again, and take what is damaged out of sight; while it serves, too
    Verify(verify::Verify),
    /// Accounts for programs: what each may pull, push or delete
    #[command(subcommand)]
    Robot(robot::Command),
    /// Find out why a registry cannot be reached or is not trusted, and what mends it
    ///
    /// Looks at the name, the connection, the certificate, the clock and the login, and at
    /// the files by which Docker, containerd, podman and this system trust a registry. Exits
    /// with 0 when there is no error.
    Doctor(doctor::Doctor),
}

impl Command {
    /// Whether it goes on until it is told to stop.
    pub(super) fn serves(&self) -> bool {
        matches!(self, Command::Serve)
    }
}

/// What is configured for the registry, whatever the rest of the file lacks.
fn configured(file: Option<PathBuf>) -> Result<RegistryAlone, Failed> {
    Config::load_registry(usual_file(file).as_deref(), std::env::vars())
        .map_err(|error| Failed::Usage(Box::new(error)))
}

pub(super) async fn registry(command: Command, file: Option<PathBuf>) -> Result<(), Failed> {
    match command {
        Command::Serve => serve::serve(file).await,
        Command::Certificate(asked) => certificate::certificate(asked),
        Command::Gc(asked) => gc::gc(file, asked).await,
        Command::Verify(asked) => verify::verify(file, asked).await,
        Command::Robot(command) => robot::robot(command, file),
        Command::Doctor(asked) => doctor::doctor(asked, file).await,
    }
}
