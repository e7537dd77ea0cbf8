//! A target over SSH, by the programs of OpenSSH.
//!
//! A [`Session`] logs in once, and everything goes through that connection: programs
//! ([`Session::run`]), sockets ([`Session::forward`]). The machine is known by its pinned host key alone, before
//! anything of ours is sent; the key to log in with is known to an [`Agent`] of the session's
//! own alone. Both end with the session, however it ends.

mod agent;
mod destination;
mod fault;
mod folder;
mod forward;
mod host_key;
mod leash;
mod local;
mod master;
mod program;
mod quote;

use std::{sync::atomic::AtomicU32, time::Duration};

pub use agent::Agent;
pub use fault::SshError;
pub use host_key::{HostKey, HostKeyError};
pub use program::{Ended, Hear, Program};

use crate::target::Ssh;
use destination::{Destination, Files};
use master::Master;

/// The connection is asked on this machine, where it answers at once.
const CONTROL_LIMIT: Duration = Duration::from_secs(20);

/// How long a machine may say nothing.
#[derive(Debug, Clone)]
pub struct Patience {
    /// While it is connected to, and while it introduces itself.
    pub connect: Duration,
    /// While there is a connection.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), silence: Duration::from_secs(15) }
    }
}

/// A login at a target. Dropping it ends its programs on this machine and removes its folder.
pub struct Session {
    master: Master,
    agent: Agent,
    forwards: AtomicU32,
}

impl Session {
    pub async fn open(ssh: &Ssh) -> Result<Session, SshError> {
        Self::open_with(ssh, &Patience::default()).await
    }

    pub async fn open_with(ssh: &Ssh, patience: &Patience) -> Result<Session, SshError> {
        pinned(ssh, patience).await?;
        let agent = Agent::start(ssh).await?;
        let master = Master::open(&agent, patience).await?;
        Ok(Session { master, agent, forwards: AtomicU32::new(0) })
    }

    /// The agent that knows the target's key, for a step.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// As dropping it, and everything has ended when this returns.
    pub async fn close(self) {
        self.master.end().await;
        self.agent.end().await;
    }

    fn to(&self) -> &Destination {
        self.agent.destination()
    }

    /// What an `ssh` is told that goes through the connection, and never makes one of its own.
    fn client(&self) -> Vec<String> {
        let mut options = options(&self.agent);
        options.extend(["-o", "ControlMaster=no", "-o", "ProxyCommand=false"].map(str::to_owned));
        options
    }

    async fn is_alive(&self) -> bool {
        let mut check = local::command("ssh");
        check.args(self.client()).args(["-O", "check", "--", self.to().address()]);
        let said = local::ask(check, None, CONTROL_LIMIT).await;
        said.ok().flatten().is_some_and(|said| said.status.success())
    }

    /// A connection that does not answer has ended, or is about to.
    async fn lost(&self) -> SshError {
        let said = tokio::time::timeout(CONTROL_LIMIT, self.master.last_words()).await;
        let said = said.map(|said| said.to_string()).unwrap_or_default();
        SshError::Lost { address: self.to().to_string(), said }
    }
}

/// The `known_hosts` by which any OpenSSH knows the target. Fails when its key is not pinned, and then
/// says which one it shows.
pub async fn known_hosts(ssh: &Ssh) -> Result<String, SshError> {
    let pinned = pinned(ssh, &Patience::default()).await?;
    Ok(format!("{} {pinned}\n", Destination::of(ssh)?.known_as()))
}

/// The key that the operator pinned, or what a person needs to pin it.
async fn pinned(ssh: &Ssh, patience: &Patience) -> Result<HostKey, SshError> {
    let to = Destination::of(ssh)?;
    match to.pinned() {
        Some(pinned) => Ok(pinned.clone()),
        None => {
            let shown = host_key::shown(&to, patience.connect).await?.into_iter().next();
            Err(SshError::HostKeyUnknown { address: to.to_string(), shown })
        }
    }
}

fn options(agent: &Agent) -> Vec<String> {
    let at = |name| agent.folder().at(name);
    agent.destination().options(&Files {
        known_hosts: &at("known_hosts"),
        public_key: &at("key.pub"),
        agent: &agent.socket(),
        control: &at("control"),
    })
}
