//! Debian's sshd on a port of its own, for the user who runs the tests and one key.

use std::path::{Path, PathBuf};

use mergeyard_run::target::Ssh;
use mergeyard_types::Secret;
use rustix::process::{Pid, geteuid};
use tempfile::TempDir;

use crate::process::{self, Process, Signal, free_port, tool};

/// A machine to log in at, which is this one.
pub struct Sshd {
    folder: TempDir,
    port: u16,
    config: String,
    process: Option<Process>,
}

impl Sshd {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// The same with more lines in its configuration.
    pub async fn with(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "{config}\nListenAddress 127.0.0.1:{port}\nHostKey {host_key}\nAuthorizedKeysFile {key}.pub\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nLogLevel VERBOSE\n",
            host_key = at("host_key"),
            key = at("key"),
        );
        let mut sshd = Self { folder, port, config, process: None };
        sshd.make_key("host_key").await;
        sshd.make_key("key").await;
        sshd.listen().await;
        sshd
    }

    /// Somebody else answers at the same place, or the same machine made anew.
    pub async fn change_host_key(&mut self) {
        self.stop().await;
        for name in ["host_key", "host_key.pub"] {
            std::fs::remove_file(self.path(name)).expect("the key is there");
        }
        self.make_key("host_key").await;
        self.listen().await;
    }

    /// It no longer listens; connections go on.
    pub async fn stop(&mut self) {
        self.process.take().expect("sshd runs").kill().await;
    }

    /// This machine as a target that may be used.
    pub fn target(&self) -> Ssh {
        Ssh { host_key: Some(self.host_key()), ..self.unpinned() }
    }

    /// The same before its operator pinned it.
    pub fn unpinned(&self) -> Ssh {
        Ssh {
            address: "127.0.0.1".to_owned(),
            port: self.port,
            user: user(),
            host_key: None,
            key: Secret::new(self.read("key")),
        }
    }

    /// The key it shows, as a configuration pins it.
    pub fn host_key(&self) -> String {
        let text = self.read("host_key.pub");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// Whom it lets in, as in `authorized_keys`.
    pub fn authorize(&self, keys: &str) {
        std::fs::write(self.path("key.pub"), keys).expect("the folder can be written");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A file beside its keys; `key` is the one that it lets in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("sshd runs")
    }

    /// Sends a signal to what serves each of its connections.
    pub fn signal_connections(&self, signal: Signal) {
        for pid in self.connections() {
            // One that has just ended needs none.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    pub fn connections(&self) -> Vec<Pid> {
        descendants(self.process().id())
    }

    async fn listen(&mut self) {
        if geteuid().is_root() {
            // sshd wants this folder when it may change users; on Debian its service makes it.
            std::fs::create_dir_all("/run/sshd").expect("root can make it");
        }
        let file = self.path("sshd_config");
        std::fs::write(&file, &self.config).expect("the folder can be written");
        let process = Process::start("sshd", tool("sshd").args(["-D", "-e", "-f"]).arg(file));
        process.says("Server listening").await;
        self.process = Some(process);
    }

    async fn make_key(&self, name: &str) {
        make_key(&self.path(name)).await;
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("the key is there")
    }
}

/// A key without a passphrase, and its public half beside it.
pub async fn make_key(path: &Path) {
    process::run(tool("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path)).await.good();
}

fn user() -> String {
    let said = std::process::Command::new("id").arg("-un").output().expect("every system has id");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

fn descendants(of: Pid) -> Vec<Pid> {
    let parent = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The name before it may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    let all: Vec<Pid> = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect();
    let mut found = Vec::new();
    let mut parents = vec![of];
    while let Some(next) = parents.pop() {
        let next = next.as_raw_nonzero().get();
        let children: Vec<Pid> = all.iter().copied().filter(|pid| parent(pid) == Some(next)).collect();
        found.extend(&children);
        parents.extend(children);
    }
    found
}
