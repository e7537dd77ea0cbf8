//! `mergeyard registry …`: the private TLS registry, alone and under care.

mod certificate;
mod doctor;
mod serve;

use std::path::PathBuf;

use clap::Subcommand;

use super::Failed;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Serve the registry alone, without pipelines and webhooks
    Serve,
    /// Make what a registry needs for TLS and login: ca.pem, cert.pem, key.pem, htpasswd, password
    ///
    /// What is there already stays; a certificate that is about to expire, or lacks a name,
    /// is made anew from the same authority.
    Certificate(certificate::Certificate),
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

pub(super) async fn registry(command: Command, file: Option<PathBuf>) -> Result<(), Failed> {
    match command {
        Command::Serve => serve::serve(file).await,
        Command::Certificate(asked) => certificate::certificate(asked),
        Command::Doctor(asked) => doctor::doctor(asked, file).await,
    }
}
