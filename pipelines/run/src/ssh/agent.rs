//! An `ssh-agent` for one key and one machine.
//!
//! The key goes from memory into the agent and never to a disk. Who holds the agent's socket can
//! log in with the key, but only as the target's user, and only at the machine that has the pinned
//! host key: the agent refuses everything else, so a step cannot carry its socket's worth elsewhere.

use std::{path::PathBuf, time::Duration};

use mergeyard_types::Secret;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{SshError, destination::Destination, folder::Folder, leash::Leash, local};
use crate::target::Ssh;

/// An agent starts and takes a key within milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// A running agent. It ends, and its folder goes, when this is dropped.
pub struct Agent {
    leash: Leash,
    folder: Folder,
    destination: Destination,
    public_key: String,
}

impl Agent {
    /// Starts an agent that serves this target's key for this target alone.
    pub async fn start(ssh: &Ssh) -> Result<Agent, SshError> {
        let destination = Destination::of(ssh)?;
        let known_hosts = super::known_hosts(ssh).await?;
        let folder = Folder::new()?;
        folder.write("known_hosts", &known_hosts)?;
        let leash = start(&folder).await?;
        let mut agent = Agent { leash, folder, destination, public_key: String::new() };
        agent.learn(&ssh.key).await?;
        Ok(agent)
    }

    /// The socket, for `SSH_AUTH_SOCK`. The agent talks to this user and to root.
    pub fn socket(&self) -> PathBuf {
        self.folder.at("agent")
    }

    /// The public half of the key, as `authorized_keys` has it.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// As dropping it, and the agent has ended when this returns.
    pub async fn end(self) {
        self.leash.end().await;
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    async fn learn(&mut self, key: &Secret) -> Result<(), SshError> {
        let to = &self.destination;
        let mut add = self.ssh_add();
        add.args(["-q", "-H"]).arg(self.folder.at("known_hosts"));
        add.args(["-h", &format!("{}@{}", to.user(), to.known_as()), "-"]);
        let added = ask(add, Some(normal(key).expose().as_bytes())).await?;
        if !added.status.success() {
            return Err(unusable(to, added.stderr.trim()));
        }
        let mut list = self.ssh_add();
        list.arg("-L");
        let listed = ask(list, None).await?;
        // Its comment is whatever the operator's file says.
        self.public_key = listed.stdout.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        self.folder.write("key.pub", &format!("{}\n", self.public_key))?;
        Ok(())
    }

    fn ssh_add(&self) -> Command {
        let mut command = local::command("ssh-add");
        // A passphrase is asked of a program that knows none, never of a terminal.
        command.envs([("SSH_ASKPASS", "/bin/false"), ("SSH_ASKPASS_REQUIRE", "force")]);
        command.env("SSH_AUTH_SOCK", self.socket());
        command
    }
}

/// It says where its socket is as soon as it listens there.
async fn start(folder: &Folder) -> Result<Leash, SshError> {
    let lacking = |error| SshError::lacking("ssh-agent", &error);
    let mut command = Command::new("ssh-agent");
    command.arg("-D").arg("-a").arg(folder.at("agent"));
    let (leash, stdout, stderr) = Leash::hold(&command, folder.path()).map_err(lacking)?;
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    match tokio::time::timeout(LIMIT, stdout.read_line(&mut line)).await {
        Ok(Ok(_)) if line.contains("SSH_AUTH_SOCK") => Ok(leash),
        Ok(_) => {
            let said = local::text_of(Some(stderr)).await;
            Err(SshError::Local(format!("ssh-agent does not start here: {}", said.trim())))
        }
        Err(_) => Err(SshError::TimedOut { what: "the start of ssh-agent".to_owned(), after: LIMIT }),
    }
}

async fn ask(command: Command, input: Option<&[u8]>) -> Result<local::Said, SshError> {
    let said = local::ask(command, input, LIMIT).await?;
    said.ok_or_else(|| SshError::TimedOut { what: "ssh-add".to_owned(), after: LIMIT })
}

/// A key that went through an editor of another system, or a variable that lost the last line's end.
fn normal(key: &Secret) -> Secret {
    let lines: Vec<&str> = key.expose().trim().lines().map(str::trim_end).collect();
    Secret::new(lines.join("\n") + "\n")
}

fn unusable(to: &Destination, said: &str) -> SshError {
    // ssh-add has nothing to say about a passphrase that nobody knew.
    let why = match said {
        "" => "it is protected by a passphrase, which nobody is here to type: make a key for this server with `ssh-keygen -t ed25519 -N ''`".to_owned(),
        said => format!("it is no private key that OpenSSH can read ({said})"),
    };
    SshError::Unusable(format!("the key for {}@{to} cannot be used: {why}", to.user()))
}
