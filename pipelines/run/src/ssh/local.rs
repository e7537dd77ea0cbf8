//! The programs of OpenSSH on this machine.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::SshError;

/// More of what a program says is not kept: it protects memory and messages.
const MAX_SAID: u64 = 64 * 1024;

/// What a short program said.
pub(super) struct Said {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// A program with an empty environment: no agent, no askpass, no language of the server's.
pub(super) fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a short program to its end. `None` when it was not over in time.
pub(super) async fn ask(
    mut command: Command,
    input: Option<&[u8]>,
    limit: Duration,
) -> Result<Option<Said>, SshError> {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let lacking = |error| SshError::lacking(&name, &error);
    let mut child = command.kill_on_drop(true).spawn().map_err(lacking)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let (Some(mut pipe), Some(input)) = (stdin, input) {
            // A program that did not read to the end says why by its exit code.
            let _ = pipe.write_all(input).await;
        }
    };
    let work = async {
        let ((), stdout, stderr) = tokio::join!(write, text_of(stdout), text_of(stderr));
        child.wait().await.map(|status| Said { status, stdout, stderr })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(said) => said.map(Some).map_err(lacking),
        Err(_) => Ok(None),
    }
}

/// All that comes, as far as it is kept. The rest is read too, so that nobody waits for a reader.
pub(super) async fn text_of(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = Vec::new();
    if let Some(mut pipe) = pipe {
        // A pipe breaks only with its program, whose end tells more.
        let _ = (&mut pipe).take(MAX_SAID).read_to_end(&mut text).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&text).into_owned()
}
