//! Whether a target lets us in, and is the machine that it should be.

use mergeyard_run::{
    ssh::{HostKey, SshError},
    target::Ssh,
};

use super::Finding;

const CONNECTION: &str = "connection";
const HOST_KEY: &str = "host key";
const LOGIN: &str = "login";

/// What a login that worked has proven.
pub(super) fn open(ssh: &Ssh) -> Vec<Finding> {
    let mut findings = vec![answers(ssh), is_pinned(ssh)];
    findings.push(Finding::ok(LOGIN, format!("`{}` is let in with this target's key", ssh.user)));
    findings
}

/// How far a login came that did not work.
pub(super) fn closed(ssh: &Ssh, error: &SshError) -> Vec<Finding> {
    let Ssh { address, port, user, .. } = ssh;
    match error {
        SshError::HostKeyUnknown { shown: Some(key), .. } => vec![
            answers(ssh),
            Finding::error(HOST_KEY, format!("it is not pinned yet; {}", shows(key))).fix(format!(
                "on the machine itself: ssh-keygen -lf {}\nwhen that says the same, add to the target: {}",
                file(key),
                line(key)
            )),
        ],
        SshError::HostKeyUnknown { shown: None, .. } => vec![
            Finding::error(CONNECTION, format!("no SSH server shows a host key at {address} port {port}"))
                .fix(way(ssh)),
        ],
        SshError::HostKeyChanged { pinned, shown, .. } => {
            let shows = shown.as_ref().map_or_else(|| "it shows another key".to_owned(), shows);
            let message = format!("{shows}, and pinned is {}: this may be an attack", pinned.fingerprint());
            let mut fix = "only when you know that the machine was made anew, replace it".to_owned();
            if let Some(key) = shown {
                let (file, line) = (file(key), line(key));
                fix += &format!(
                    "; on the machine itself: ssh-keygen -lf {file}\nwhen that says the same: {line}"
                );
            }
            vec![answers(ssh), Finding::error(HOST_KEY, message).fix(fix)]
        }
        SshError::LoginRefused { said, public_key, .. } => vec![
            answers(ssh),
            is_pinned(ssh),
            Finding::error(LOGIN, format!("`{user}` is not let in with this target's key: {said}"))
                .fix(format!("add this line to ~{user}/.ssh/authorized_keys on the machine:\n{public_key}")),
        ],
        SshError::Unreachable { .. } | SshError::TimedOut { .. } | SshError::Lost { .. } => {
            vec![Finding::error(CONNECTION, error.to_string()).fix(way(ssh))]
        }
        _ => vec![Finding::error(CONNECTION, error.to_string())],
    }
}

fn answers(ssh: &Ssh) -> Finding {
    Finding::ok(CONNECTION, format!("an SSH server answers at {} port {}", ssh.address, ssh.port))
}

fn is_pinned(ssh: &Ssh) -> Finding {
    let key = ssh.host_key.as_deref().and_then(|key| key.parse::<HostKey>().ok());
    let print = key.map(|key| format!("{} {}", key.algorithm(), key.fingerprint())).unwrap_or_default();
    Finding::ok(HOST_KEY, format!("it is the pinned one, {print}"))
}

fn shows(key: &HostKey) -> String {
    format!("the machine shows the {} key {}", key.algorithm(), key.fingerprint())
}

fn line(key: &HostKey) -> String {
    format!("host_key = \"{key}\"")
}

/// Where the machine keeps it.
fn file(key: &HostKey) -> String {
    let kind = match key.algorithm() {
        "ssh-ed25519" => "ed25519",
        "ssh-rsa" => "rsa",
        _ => "ecdsa",
    };
    format!("/etc/ssh/ssh_host_{kind}_key.pub")
}

fn way(ssh: &Ssh) -> String {
    let Ssh { address, port, .. } = ssh;
    format!(
        "start sshd there and let TCP port {port} through to {address}, or correct the target's `address` and `port`"
    )
}
