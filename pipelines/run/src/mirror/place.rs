//! Where the mirror's program runs.

use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use super::conversation;
use crate::{
    StepFault,
    ssh::{Program, Session},
    target::{Reach, Target},
};

pub(super) enum Place {
    /// The machine of this process.
    Here,
    There(Box<Session>),
}

impl Place {
    pub(super) async fn of(target: &Target) -> Result<Self, StepFault> {
        match &target.reach {
            Reach::Local => Ok(Place::Here),
            Reach::Ssh(ssh) => Ok(Place::There(Box::new(Session::open(ssh).await?))),
        }
    }

    /// The program, with its input and outputs open.
    pub(super) fn start(&self) -> Result<Child, StepFault> {
        let (name, args) = conversation::program();
        match self {
            Place::Here => {
                let mut command = Command::new(name);
                command.args(args).kill_on_drop(true);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command
                    .spawn()
                    .map_err(|error| StepFault::lasting(format!("`{name}` cannot be run: {error}")))
            }
            Place::There(session) => Ok(session.start(&Program::new(name).args(args))?),
        }
    }

    /// How the program ended, unless it was the way there that did.
    pub(super) async fn exit_code(&self, status: ExitStatus, stderr: &str) -> Result<i32, StepFault> {
        match self {
            Place::Here => Ok(status.code().unwrap_or(-1)),
            Place::There(session) => Ok(session.exit_code(status, stderr).await?),
        }
    }

    pub(super) async fn leave(self) {
        if let Place::There(session) = self {
            session.close().await;
        }
    }
}
