//! The `git` program, kept on a short leash.
//!
//! It does everything that touches a network, because a process can be stopped for good at
//! any moment (a trickling server, a cancelled step) where a library's blocking read cannot,
//! and because protocol version 2 fetches one exact commit from any server.
//!
//! Its environment is empty but for what is listed here, and the only configuration it sees
//! is [`CONFIG`]: no hooks, no helpers, no redirects, no submodules. The credential travels
//! in the child's environment, never on a command line or a disk.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mergeyard_types::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};
use tokio_util::sync::CancellationToken;

use super::Remote;

/// The whole configuration of every git process.
///
/// - `followRedirects`: a redirect would carry the credential to whoever it names.
/// - `lowSpeed*`: less than 1000 bytes a second for 20 s is no transfer.
/// - `unpackLimit`: objects always arrive as one pack, so that one file size bounds them all.
/// - `bigFileThreshold`: larger objects are checked as a stream instead of in memory.
/// - `safe.directory`: a configured `file://` repository may belong to another user; nothing in it is executed.
const CONFIG: &str = "\
[http]
\tfollowRedirects = false
\tlowSpeedLimit = 1000
\tlowSpeedTime = 20
[fetch]
\tunpackLimit = 1
\trecurseSubmodules = false
\twriteCommitGraph = false
[core]
\tbigFileThreshold = 16m
\thooksPath = /dev/null
\taskPass = true
\tfsmonitor = false
[protocol]
\tversion = 2
\tallow = never
[protocol \"https\"]
\tallow = always
[protocol \"http\"]
\tallow = always
[protocol \"ssh\"]
\tallow = always
[protocol \"file\"]
\tallow = always
[gc]
\tauto = 0
[maintenance]
\tauto = false
[credential]
\thelper =
[safe]
\tdirectory = *
";

/// `lowSpeedTime` of [`CONFIG`].
pub(super) const TOO_SLOW_FOR: Duration = Duration::from_secs(20);

/// More of what a program says is not kept: it protects memory and messages.
const MAX_SAID: u64 = 64 * 1024;

pub(super) struct GitProgram {
    config: PathBuf,
}

pub(super) enum Ended {
    Success,
    Failure(String),
    Timeout,
    Cancelled,
}

impl GitProgram {
    /// Writes the configuration under `root`, which also holds the mirrors.
    pub(super) fn new(root: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let config = root.join("git.conf");
        if std::fs::read_to_string(&config).is_ok_and(|text| text == CONFIG) {
            return Ok(Self { config });
        }
        let fresh = root.join(format!("git.conf.{}", std::process::id()));
        std::fs::write(&fresh, CONFIG)?;
        std::fs::rename(&fresh, &config)?;
        Ok(Self { config })
    }

    pub(super) async fn run(
        &self,
        mirror: &Path,
        args: &[&str],
        remote: Option<&Remote>,
        max_file_bytes: u64,
        timeout: Duration,
        cancel: &CancellationToken,
    ) -> std::io::Result<Ended> {
        let command = self.command(mirror, args, remote, max_file_bytes);
        conduct(command, timeout, cancel).await.map(|(ended, _)| ended)
    }

    /// The same for what asks and writes nothing; also its answer.
    pub(super) async fn ask(
        &self,
        folder: &Path,
        args: &[&str],
        remote: &Remote,
        timeout: Duration,
        cancel: &CancellationToken,
    ) -> std::io::Result<(Ended, String)> {
        let mut command = self.command(folder, args, Some(remote), 0);
        command.stdout(Stdio::piped());
        conduct(command, timeout, cancel).await
    }

    fn command(&self, mirror: &Path, args: &[&str], remote: Option<&Remote>, max_file_bytes: u64) -> Command {
        // The shell only sets the limit (POSIX counts it in blocks of 512 bytes) and becomes git.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "ulimit -f \"$0\" && exec git \"$@\""])
            .arg(max_file_bytes.div_ceil(512).to_string())
            .args(args)
            .current_dir(mirror)
            .env_clear()
            .envs([
                ("LC_ALL", "C"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_DIR", "."),
            ])
            .envs([("GIT_ASKPASS", "true"), ("SSH_ASKPASS", "true"), ("GIT_NO_REPLACE_OBJECTS", "1")])
            .env("GIT_CONFIG_GLOBAL", &self.config)
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        match remote {
            Some(remote) if remote.url.scheme() == "ssh" => ssh(&mut command),
            Some(Remote { token: Some(token), .. }) => credential(&mut command, token),
            _ => {}
        }
        command
    }
}

async fn conduct(
    mut command: Command,
    timeout: Duration,
    cancel: &CancellationToken,
) -> std::io::Result<(Ended, String)> {
    let mut child = command.spawn()?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (answer, said) = tokio::try_join!(text_of(stdout), text_of(stderr))?;
        let status = child.wait().await?;
        Ok::<_, std::io::Error>((
            if status.success() { Ended::Success } else { Ended::Failure(said) },
            answer,
        ))
    };
    let ended = tokio::select! {
        ended = work => ended?,
        () = tokio::time::sleep(timeout) => (Ended::Timeout, String::new()),
        () = cancel.cancelled() => (Ended::Cancelled, String::new()),
    };
    drop(group);
    // Reaped here, so that no process is left over when the caller goes on.
    child.wait().await?;
    Ok(ended)
}

async fn text_of(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_SAID).read_to_end(&mut text).await?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// HTTP basic authentication, by the environment alone.
fn credential(command: &mut Command, token: &Secret) {
    let basic = STANDARD.encode(format!("x-access-token:{}", token.expose()));
    command
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "http.extraHeader")
        .env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {basic}"));
}

/// Host keys must be known already; the user's keys and agent are what authenticates.
fn ssh(command: &mut Command) {
    command.env(
        "GIT_SSH_COMMAND",
        "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=15",
    );
    command.env("GIT_SSH_VARIANT", "ssh");
    for name in ["HOME", "SSH_AUTH_SOCK"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Ends git and every program it started, also when the future that waits is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nothing to do when the group has already ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
