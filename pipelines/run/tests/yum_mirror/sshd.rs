//! Debian's sshd for one key, behind a link that can be cut.

use std::{path::Path, process::Stdio, sync::Mutex};

use mergeyard_run::target::Ssh;
use mergeyard_types::Secret;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::AbortHandle,
};

pub(crate) struct Sshd {
    folder: TempDir,
    link: u16,
    connections: std::sync::Arc<Mutex<Vec<AbortHandle>>>,
    _process: Child,
}

impl Sshd {
    pub(crate) async fn start(more: &str) -> Sshd {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for key in ["host_key", "key"] {
            let args = ["-q", "-t", "ed25519", "-N", "", "-f", &at(key)];
            assert!(Command::new("ssh-keygen").args(args).status().await.unwrap().success());
        }
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            free.local_addr().unwrap().port()
        };
        let config = format!(
            "{more}\nListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\n",
            at("host_key"),
            at("key"),
        );
        std::fs::write(at("config"), config).unwrap();
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let mut process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", &at("config")])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("sshd is missing: run scripts/setup.sh --tests");
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        while !said.next_line().await.unwrap().expect("sshd listens").contains("Server listening") {}
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let connections = std::sync::Arc::<Mutex<Vec<AbortHandle>>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = listener.local_addr().unwrap().port();
        let all = std::sync::Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let carry = tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
                all.lock().unwrap().push(carry.abort_handle());
            }
        });
        Sshd { folder, link, connections, _process: process }
    }

    /// Every connection ends in the middle of what it carries.
    pub(crate) fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    pub(crate) fn target(&self) -> Ssh {
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap();
        let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
        Ssh {
            address: "127.0.0.1".to_owned(),
            port: self.link,
            user: String::from_utf8(user).unwrap().trim().to_owned(),
            host_key: Some(read("host_key.pub")),
            key: Secret::new(read("key")),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}
