//! Why something could not be done over SSH.

use std::{io, time::Duration};

use super::HostKey;
use crate::StepFault;

#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// What was asked for cannot be asked of any machine.
    #[error("{0}")]
    Unusable(String),
    /// This machine lacks something.
    #[error("{0}")]
    Local(String),
    #[error("{}", unknown(address, shown.as_ref()))]
    HostKeyUnknown { address: String, shown: Option<HostKey> },
    #[error("{}", changed(address, pinned, shown.as_ref()))]
    HostKeyChanged { address: String, pinned: HostKey, shown: Option<HostKey> },
    #[error(
        "{address} does not let `{user}` in with this target's key ({said}): add its public half to ~{user}/.ssh/authorized_keys there:\n{public_key}"
    )]
    LoginRefused { address: String, user: String, public_key: String, said: String },
    #[error("{address} cannot be reached over SSH: {said}")]
    Unreachable { address: String, said: String },
    #[error("{what} did not come to its end within {}", crate::log::seconds(*after))]
    TimedOut { what: String, after: Duration },
    /// It was there, and is no more.
    #[error("the connection to {address} broke{}", because(said))]
    Lost { address: String, said: String },
    #[error("`{program}` ended with exit code {code} on {address}{}", because(stderr))]
    Exited { address: String, program: String, code: i32, stderr: String },
    #[error("`{program}` on {address} {why}")]
    Answer { address: String, program: String, why: String },
}

impl SshError {
    pub(super) fn lacking(program: &str, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => ": install Debian's package openssh-client",
            _ => "",
        };
        SshError::Local(format!("the program {program} cannot be run here: {error}{hint}"))
    }

    /// Whether time may mend it.
    pub fn is_transient(&self) -> bool {
        matches!(self, SshError::Unreachable { .. } | SshError::TimedOut { .. } | SshError::Lost { .. })
    }
}

impl From<SshError> for StepFault {
    fn from(error: SshError) -> Self {
        let message = error.to_string();
        match error {
            SshError::Exited { code, .. } => StepFault::Exited { code: code.into(), message },
            _ => StepFault::Error { retry: error.is_transient(), message },
        }
    }
}

fn unknown(address: &str, shown: Option<&HostKey>) -> String {
    match shown {
        Some(key) => {
            let print = key.fingerprint();
            let algorithm = key.algorithm();
            format!(
                "the host key of {address} is not pinned, so nothing was sent there: it shows the {algorithm} key {print}; when that is what `ssh-keygen -lf` says of its file in /etc/ssh on the machine itself, add this line to the target:\nhost_key = \"{key}\""
            )
        }
        None => format!(
            "the host key of {address} is not pinned, and it shows none: set the target's `host_key` to what stands in /etc/ssh/ssh_host_ed25519_key.pub there"
        ),
    }
}

fn changed(address: &str, pinned: &HostKey, shown: Option<&HostKey>) -> String {
    let now = match shown {
        Some(key) => format!("the {} key {}", key.algorithm(), key.fingerprint()),
        None => "a key that it does not show again".to_owned(),
    };
    let then = format!("{} {}", pinned.algorithm(), pinned.fingerprint());
    let line = shown.map(|key| format!(" by this line:\nhost_key = \"{key}\"")).unwrap_or_default();
    format!(
        "{address} shows {now}, which differs from the pinned {then}: nothing was sent there, because this may be an attack; only when you know that the machine was made anew, replace the target's `host_key`{line}"
    )
}

fn because(said: &str) -> String {
    match said.trim() {
        "" => String::new(),
        said => format!(": {said}"),
    }
}
