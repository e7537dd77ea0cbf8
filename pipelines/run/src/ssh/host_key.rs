//! Which machine it is: the key it shows, pinned by the operator.

use std::{fmt, str::FromStr, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use sha2::{Digest as _, Sha256};

use super::{SshError, destination::Destination, local};

/// A machine's public key, as `host_key` has it: `ssh-ed25519 AAAA…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    algorithm: String,
    blob: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`host_key` must read like `ssh-ed25519 AAAA…`, as in /etc/ssh/ssh_host_ed25519_key.pub of the machine: {0}"
)]
pub struct HostKeyError(&'static str);

impl HostKey {
    /// As `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.blob)))
    }

    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }
}

/// A third word, the comment of a key file, is left out.
impl FromStr for HostKey {
    type Err = HostKeyError;

    fn from_str(text: &str) -> Result<Self, HostKeyError> {
        let mut words = text.split_whitespace();
        let (Some(algorithm), Some(blob)) = (words.next(), words.next()) else {
            return Err(HostKeyError("it needs a type and a key"));
        };
        let blob = STANDARD.decode(blob).map_err(|_| HostKeyError("its second word is not base64"))?;
        // The key begins with its type once more.
        let inner = blob
            .split_first_chunk::<4>()
            .and_then(|(size, rest)| rest.get(..usize::try_from(u32::from_be_bytes(*size)).ok()?));
        if inner != Some(algorithm.as_bytes()) || blob.len() <= algorithm.len() + 4 {
            return Err(HostKeyError("its second word is not a key of that type"));
        }
        Ok(Self { algorithm: algorithm.to_owned(), blob })
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, STANDARD.encode(&self.blob))
    }
}

/// Asks a machine which keys it has, the best kind first, without logging in. Nothing of the answer is
/// proven; it is what a person compares and pins.
pub(super) async fn shown(to: &Destination, patience: Duration) -> Result<Vec<HostKey>, SshError> {
    let mut scan = local::command("ssh-keyscan");
    let seconds = patience.as_secs().max(1).to_string();
    scan.args(["-T", &seconds, "-p", &to.port().to_string(), "-t", "ed25519,ecdsa,rsa", "--", to.address()]);
    let Some(said) = local::ask(scan, None, patience * 2 + Duration::from_secs(1)).await? else {
        return Ok(Vec::new());
    };
    let key = |line: &str| line.split_once(' ')?.1.parse::<HostKey>().ok();
    let mut keys: Vec<HostKey> = said.stdout.lines().filter_map(key).collect();
    keys.sort_by_key(|key| match key.algorithm() {
        "ssh-ed25519" => 0,
        "ssh-rsa" => 2,
        _ => 1,
    });
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBjxndpYvKI031/9GctEnd1WbExenGtE9KaRz7+vzphZ";

    #[test]
    fn a_key_has_the_fingerprint_that_openssh_prints() {
        let key: HostKey = format!("{KEY} root@mirror\n").parse().unwrap();
        assert_eq!(key.to_string(), KEY);
        assert_eq!(key.fingerprint(), "SHA256:CPQCa2OZtO4oeXJ/N/4FkMo0r/LDDKeBQ+SasSUPRy0");
    }

    #[test]
    fn what_is_no_key_cannot_be_pinned() {
        let other_type = KEY.replace("ssh-ed25519", "ssh-rsa");
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ****",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
            &other_type,
        ] {
            assert!(bad.parse::<HostKey>().is_err(), "{bad}");
        }
    }
}
