//! The machines that runs deliver to, as the operator defined them.

use mergeyard_types::{Secret, TargetName};
use url::Url;

#[derive(Debug, Clone)]
pub struct Target {
    pub name: TargetName,
    pub reach: Reach,
    /// What a yum mirror needs; `None` on a target that is none.
    pub mirror: Option<Mirror>,
    /// The socket of the machine's Docker engine, for rollouts.
    pub engine: String,
}

/// How a target is reached.
#[derive(Debug, Clone)]
pub enum Reach {
    /// The machine of the engine that runs the steps.
    Local,
    Ssh(Ssh),
}

#[derive(Debug, Clone)]
pub struct Ssh {
    pub address: String,
    pub port: u16,
    pub user: String,
    /// `ssh-ed25519 AAAA…`. Without one nothing is done but to say which one the machine showed.
    pub host_key: Option<String>,
    pub key: Secret,
}

/// A yum mirror on a target.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The folder on the target; what is served is `ROOT/current`.
    pub root: String,
    /// Where clients and the proof read it.
    pub url: Url,
    /// The authority of `url`, where it is not a public one.
    pub ca_pem: Option<Vec<u8>>,
    /// Names of the repositories of the target's dnf to download from; empty: all that are enabled.
    pub upstreams: Vec<String>,
    /// Snapshots that stay for a rollback.
    pub keep: usize,
}
