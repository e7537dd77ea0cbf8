//! Where a connection goes, in words that no program of OpenSSH takes for anything else.

use std::{fmt, path::Path};

use super::{HostKey, SshError};
use crate::target::Ssh;

/// A checked address and user, and the key the operator pinned.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    address: String,
    port: u16,
    user: String,
    pinned: Option<HostKey>,
}

impl Destination {
    pub(super) fn of(ssh: &Ssh) -> Result<Self, SshError> {
        let Ssh { address, port, user, host_key, key: _ } = ssh;
        let refuse = |what, text: &str, why: &str| {
            let text: String = text.chars().take(80).flat_map(char::escape_debug).collect();
            Err(SshError::Unusable(format!("the {what} `{text}` cannot be used: {why}")))
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._:%-".contains(c);
        if address.is_empty() || address.starts_with('-') || !address.chars().all(plain) {
            return refuse("address", address, "it must be a host name or an IP address");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._@+\\$-".contains(c);
        if user.is_empty() || user.starts_with('-') || !user.chars().all(plain) {
            return refuse("user", user, "it must be the name of an account");
        }
        let pinned = host_key.as_deref().map(str::parse).transpose();
        let pinned = pinned.map_err(|error: super::HostKeyError| SshError::Unusable(error.to_string()))?;
        Ok(Self { address: address.to_ascii_lowercase(), port: *port, user: user.clone(), pinned })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn pinned(&self) -> Option<&HostKey> {
        self.pinned.as_ref()
    }

    /// The name under which OpenSSH knows the host.
    pub(super) fn known_as(&self) -> String {
        match self.port {
            22 => self.address.clone(),
            port => format!("[{}]:{port}", self.address),
        }
    }

    /// What every `ssh` is told: nothing of this machine's configuration counts, only one host key
    /// and one key to log in with, and nobody is asked anything.
    pub(super) fn options(&self, files: &Files<'_>) -> Vec<String> {
        let option = |text: String| ["-o".to_owned(), text];
        let fixed = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=/dev/null",
            "UpdateHostKeys=no",
            "VerifyHostKeyDNS=no",
            "PreferredAuthentications=publickey",
            "IdentitiesOnly=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "EscapeChar=none",
            "RequestTTY=no",
            "ControlPersist=no",
            // Greetings of the host are not ours to tell.
            "LogLevel=ERROR",
        ];
        let mut options: Vec<String> = ["-F", "/dev/null"].map(str::to_owned).into();
        options.extend(fixed.iter().flat_map(|text| option((*text).to_owned())));
        let named = [
            ("UserKnownHostsFile", files.known_hosts),
            ("IdentityFile", files.public_key),
            ("IdentityAgent", files.agent),
            ("ControlPath", files.control),
        ];
        options.extend(named.iter().flat_map(|(name, path)| option(format!("{name}={}", path.display()))));
        options.extend(["-p".to_owned(), self.port.to_string(), "-l".to_owned(), self.user.clone()]);
        options
    }
}

/// `192.0.2.10`, or `192.0.2.10 port 2222`.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            22 => f.write_str(&self.address),
            port => write!(f, "{} port {port}", self.address),
        }
    }
}

/// The private files that a connection works with. Their paths have no blanks and no `%`.
pub(super) struct Files<'a> {
    pub(super) known_hosts: &'a Path,
    pub(super) public_key: &'a Path,
    pub(super) agent: &'a Path,
    pub(super) control: &'a Path,
}

#[cfg(test)]
mod tests {
    use mergeyard_types::Secret;

    use super::*;

    fn to(address: &str, user: &str) -> Result<Destination, SshError> {
        let (address, user) = (address.to_owned(), user.to_owned());
        Destination::of(&Ssh { address, port: 22, user, host_key: None, key: Secret::new("") })
    }

    #[test]
    fn an_address_or_user_is_never_an_option_or_a_command() {
        for address in ["mirror.example.org", "192.0.2.10", "2001:db8::1", "Mirror_1"] {
            to(address, "deploy").unwrap();
        }
        for address in
            ["", "-oProxyCommand=id", "a b", "a;id", "$(id)", "ssh://a", "root@a", "a/b", "a\nb", "ä"]
        {
            assert!(to(address, "deploy").is_err(), "{address}");
        }
        for user in ["", "-x", "a b", "a;id", "$(id)", "`id`", "a\nb"] {
            assert!(to("a", user).is_err(), "{user}");
        }
    }
}
