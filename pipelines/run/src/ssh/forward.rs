//! A socket of the target as a socket of this machine.

use std::{path::PathBuf, sync::atomic::Ordering};

use super::{CONTROL_LIMIT, Session, SshError, local};

impl Session {
    /// A local Unix socket that leads to `remote` for as long as the session is open. Whether anything
    /// listens there shows only when it is connected to.
    pub async fn forward(&self, remote: &str) -> Result<PathBuf, SshError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-@".contains(c);
        if !remote.starts_with('/') || !remote.chars().all(plain) {
            let remote: String = remote.chars().take(120).flat_map(char::escape_debug).collect();
            let why = format!(
                "the socket `{remote}` cannot be used: it must be an absolute path of plain characters"
            );
            return Err(SshError::Unusable(why));
        }
        let socket = self.agent().folder().at(&format!("f{}", self.forwards.fetch_add(1, Ordering::Relaxed)));
        let mut ask = local::command("ssh");
        ask.args(self.client()).args(["-O", "forward", "-L", &format!("{}:{remote}", socket.display())]);
        ask.args(["--", self.to().address()]);
        match local::ask(ask, None, CONTROL_LIMIT).await? {
            Some(said) if said.status.success() => Ok(socket),
            Some(said) if self.is_alive().await => {
                let why = format!("{} cannot be led here: {}", remote, said.stderr.trim());
                Err(SshError::Local(why))
            }
            Some(_) => Err(self.lost().await),
            None => Err(SshError::TimedOut { what: format!("leading {remote} here"), after: CONTROL_LIMIT }),
        }
    }
}
