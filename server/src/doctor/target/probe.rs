//! What a machine has, asked in one go.

use std::{
    io,
    process::{Output, Stdio},
    time::Duration,
};

use mergeyard_run::{
    ssh::{Hear, Program, Session, SshError},
    target::Target,
};
use tokio::{io::AsyncWriteExt, process::Command};

/// Says one thing a line: what, a tab, and which. `$1` is the mirror's folder or nothing, `$2` the
/// engine's socket. It reads and looks, and writes nothing.
const SCRIPT: &str = r#"
say() { printf '%s\t%s\n' "$1" "$2"; }
say user "$(id -un 2>/dev/null || id -u)"
for tool in createrepo_c rpmkeys timeout; do
  if command -v "$tool" >/dev/null 2>&1; then say tool "$tool"; fi
done
python3 -V >/dev/null 2>&1 && say python "$(python3 -V 2>&1)"
for python in python3 /usr/bin/python3 /usr/libexec/platform-python; do
  version=$("$python" -I -c 'import dnf; print(dnf.VERSION)' 2>/dev/null) || continue
  say dnf "$version"
  break
done
if [ ! -S "$2" ]; then say socket none
elif [ -r "$2" ] && [ -w "$2" ]; then say socket open
else say socket closed; fi
folder=$1
if [ -n "$folder" ]; then
  while [ ! -e "$folder" ]; do folder=${folder%/*}; [ -n "$folder" ] || folder=/; done
  if [ -d "$folder" ] && [ -w "$folder" ]; then say root writable; else say root closed; fi
elif [ -d /var/lib/docker ]; then folder=/var/lib/docker
else folder=/; fi
say folder "$folder"
say free "$(df -Pk "$folder" 2>/dev/null | awk 'END { print $4 }')"
"#;

/// A machine that works at all answers this at once; the first look at dnf's modules may take longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What a machine said about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) user: String,
    pub(super) tools: Vec<String>,
    /// `Python 3.11.2`.
    pub(super) python: Option<String>,
    /// Of dnf as a module of Python, which is how the mirror uses it.
    pub(super) dnf: Option<String>,
    pub(super) socket: Socket,
    pub(super) is_root_writable: bool,
    /// The folder whose disk is filled by deployments, or the nearest that is there.
    pub(super) folder: String,
    pub(super) free_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Socket {
    #[default]
    Missing,
    /// Not for this user.
    Closed,
    Open,
}

impl Seen {
    pub(super) fn has(&self, tool: &str) -> bool {
        self.tools.iter().any(|other| other == tool)
    }

    fn read(text: &str) -> Self {
        let mut seen = Seen::default();
        for (what, which) in text.lines().filter_map(|line| line.split_once('\t')) {
            let which = which.trim();
            match what {
                "user" => seen.user = which.to_owned(),
                "tool" => seen.tools.push(which.to_owned()),
                "python" => seen.python = Some(which.to_owned()),
                "dnf" => seen.dnf = Some(which.to_owned()),
                "socket" if which == "open" => seen.socket = Socket::Open,
                "socket" if which == "closed" => seen.socket = Socket::Closed,
                "root" => seen.is_root_writable = which == "writable",
                "folder" => seen.folder = which.to_owned(),
                "free" => seen.free_bytes = which.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024)),
                _ => {}
            }
        }
        seen
    }
}

fn args(target: &Target) -> [String; 4] {
    let root = target.mirror.as_ref().map(|mirror| mirror.root.clone()).unwrap_or_default();
    ["-s".to_owned(), "--".to_owned(), root, target.engine.clone()]
}

pub(super) async fn there(target: &Target, session: &Session) -> Result<Seen, SshError> {
    let program = Program::new("sh").args(args(target)).stdin(SCRIPT).within(LIMIT);
    let ended = session.run(&program, Hear::Nobody).await?;
    Ok(Seen::read(&ended.answer()?))
}

pub(super) async fn here(target: &Target) -> Result<Seen, String> {
    let ended = tokio::time::timeout(LIMIT, run(target)).await;
    match ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(output) if output.status.success() => Ok(Seen::read(&String::from_utf8_lossy(&output.stdout))),
        Ok(output) => Err(format!("`sh` ended with {}", output.status)),
        Err(error) => Err(format!("`sh` cannot be run: {error}")),
    }
}

async fn run(target: &Target) -> io::Result<Output> {
    let mut shell = Command::new("sh");
    shell.args(args(target)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = shell.kill_on_drop(true).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(SCRIPT.as_bytes()).await?;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use mergeyard_run::target::{Mirror, Reach};

    use super::*;

    #[tokio::test]
    async fn this_machine_says_what_it_has_and_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("not yet/mirror").display().to_string();
        let url = "https://mirror.example.org/".parse().unwrap();
        let mirror = Mirror { root, url, ca_pem: None, upstreams: Vec::new(), keep: 3 };
        let name = "here".parse().unwrap();
        let engine = folder.path().join("engine.sock").display().to_string();
        let target = Target { name, reach: Reach::Local, mirror: Some(mirror), engine: engine.clone() };
        let seen = here(&target).await.unwrap();
        assert!(!seen.user.is_empty() && seen.has("timeout"), "{seen:?}");
        assert!(seen.free_bytes.is_some_and(|bytes| bytes > 0), "{seen:?}");
        assert_eq!((seen.socket, seen.is_root_writable), (Socket::Missing, true));
        assert_eq!(seen.folder, folder.path().display().to_string());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let _listener = std::os::unix::net::UnixListener::bind(&engine).unwrap();
        assert_eq!(here(&target).await.unwrap().socket, Socket::Open);
    }

    #[test]
    fn what_a_machine_says_beside_it_changes_nothing() {
        let said = "Welcome!\nuser\tdeploy\nfree\tmuch\nsocket\tclosed\nnews\tx\n";
        let expected = Seen { user: "deploy".to_owned(), socket: Socket::Closed, ..Seen::default() };
        assert_eq!(Seen::read(said), expected);
    }
}
