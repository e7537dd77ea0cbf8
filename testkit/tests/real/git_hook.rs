//! A plain git server: a bare repository behind sshd, with the ready hook in it.

use std::path::PathBuf;

use mergeyard_testkit::{
    process::{self, Said, tool},
    sshd::Sshd,
};
use serde_json::Value;

use super::{GIT_SECRET, RealYard, service, states, text};

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/git-hook/post-receive");

/// Repositories behind an sshd.
struct GitServer {
    folder: tempfile::TempDir,
    sshd: Sshd,
}

impl GitServer {
    async fn start() -> Self {
        let (folder, sshd) = (tempfile::tempdir().unwrap(), Sshd::start().await);
        // Only the host key that the server has is known, so that another would be refused.
        let known = format!("[127.0.0.1]:{} {}\n", sshd.port(), sshd.host_key());
        std::fs::write(folder.path().join("known_hosts"), known).unwrap();
        Self { folder, sshd }
    }

    /// A bare repository with the hook, told where the server is.
    async fn host(&self, name: &str, yard: &RealYard) -> PathBuf {
        let path = self.folder.path().join(name);
        let git =
            async |arguments: &[&str]| git(&[&["-C", path.to_str().unwrap()], arguments].concat()).await;
        process::run(tool("git").args(["init", "-q", "--bare", "-b", "develop"]).arg(&path)).await.good();
        let secret = yard.path("git-secret");
        git(&["config", "mergeyard.url", &yard.url("/")]).await.good();
        git(&["config", "mergeyard.repository", "acme/plain"]).await.good();
        git(&["config", "mergeyard.secretFile", secret.to_str().unwrap()]).await.good();
        std::fs::copy(HOOK, path.join("hooks/post-receive")).unwrap();
        path
    }

    fn ssh(&self) -> String {
        let (folder, key) = (self.folder.path().display(), self.sshd.path("key"));
        format!(
            "ssh -F /dev/null -i {key} -o BatchMode=yes -o IdentitiesOnly=yes \
             -o StrictHostKeyChecking=yes -o UserKnownHostsFile={folder}/known_hosts",
            key = key.display()
        )
    }
}

async fn git(arguments: &[&str]) -> Said {
    process::run(tool("git").args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null")).await
}

/// A person's clone, pushed from over ssh.
struct Clone {
    path: PathBuf,
    ssh: String,
}

impl Clone {
    async fn of(server: &GitServer, repository: &std::path::Path) -> Self {
        let path = server.folder.path().join("clone");
        let clone = Self { path: path.clone(), ssh: server.ssh() };
        process::run(tool("git").args(["init", "-q", "-b", "develop"]).arg(&path)).await.good();
        let user = process::run(tool("id").arg("-un")).await.good();
        let url = format!("ssh://{}@127.0.0.1:{}{}", user.trim(), server.sshd.port(), repository.display());
        clone.git(&["remote", "add", "origin", &url]).await.good();
        clone
    }

    async fn commit(&self, message: &str, files: super::Files) {
        for (name, content) in files {
            let file = self.path.join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        }
        self.git(&["add", "."]).await.good();
        self.git(&["commit", "-q", "-m", message]).await.good();
    }

    /// What the server says to whoever pushes.
    async fn push(&self, what: &str) -> String {
        let said = self.git(&["push", "origin", what]).await;
        assert!(said.status.success(), "{said}");
        said.stderr
    }

    async fn git(&self, arguments: &[&str]) -> Said {
        let mut git = tool("git");
        git.arg("-C").arg(&self.path).args(arguments).env("GIT_SSH_COMMAND", &self.ssh);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null");
        for (name, value) in [("NAME", "Robin \"the\" \\ Robot"), ("EMAIL", "robin@example.org")] {
            git.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        process::run(&mut git).await
    }
}

#[tokio::test]
async fn a_push_over_ssh_becomes_an_image_and_whoever_pushes_is_told() {
    let server = GitServer::start().await;
    let path = server.folder.path().join("plain.git");
    let mut yard = RealYard::with(vec![], |config| {
        let repo = format!(
            "name = \"acme/plain\"\nbranches = [\"develop\"]\nclone_url = \"file://{}\"",
            path.display()
        );
        config["repo"].as_array_mut().unwrap().push(repo.parse::<toml::Table>().unwrap().into());
    })
    .await;
    let bare = server.host("plain.git", &yard).await;
    let clone = Clone::of(&server, &bare).await;

    clone
        .commit("Say \"hello\" \\ to\ttübingen $(id) `id` 'now'", service("backend", "0.1.0", "pushed"))
        .await;
    let told = clone.push("develop").await;
    assert!(told.contains("remote: mergeyard: refs/heads/develop: queued"), "{told}");
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    yard.inspect(text(&run["images"][0]["ref"])).await;
    let delivery = only_delivery(&yard).await;
    assert_eq!(delivery["source"], "git");
    let body = yard.mergeyard(&["deliveries", "show", "--body", text(&delivery["delivery"])]).await.good();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["message"], "Say \"hello\" \\ to tübingen $(id) `id` 'now'");
    assert_eq!(body["author"], "Robin \"the\" \\ Robot");

    // Several at once, with a name that would break out of a careless quote.
    let told = clone.git(&["push", "origin", "develop:a\"},\"b", "develop:gone"]).await;
    assert!(told.stderr.contains("refs/heads/a\"},\"b: ignored: branch `a\"},\"b` is not among"), "{told}");
    let told = clone.push(":gone").await;
    assert!(told.contains("refs/heads/gone: ignored: `refs/heads/gone` was deleted"), "{told}");

    std::fs::write(yard.path("git-secret"), "another secret than the server's").unwrap();
    clone.commit("Unsigned", service("backend", "0.2.0", "pushed")).await;
    let told = clone.push("develop").await;
    assert!(told.contains("signature"), "{told}");
    std::fs::write(yard.path("git-secret"), format!("{GIT_SECRET}\n")).unwrap();
    yard.stop().await;
    clone.commit("While the server is down", service("backend", "0.3.0", "pushed")).await;
    let told = clone.push("develop").await;
    assert!(told.contains("not told") && told.contains("| hooks/post-receive"), "{told}");
}

#[tokio::test]
async fn the_hook_is_sound_and_says_what_it_was_not_told() {
    process::run(tool("shellcheck").arg(HOOK)).await.good();
    let folder = tempfile::tempdir().unwrap();
    process::run(tool("git").args(["init", "-q", "--bare"]).arg(folder.path())).await.good();
    let says = async || process::run(tool("sh").arg(HOOK).current_dir(folder.path())).await.good();
    let settings = [
        ("url", "http://127.0.0.1:9", "mergeyard.url is not set"),
        ("repository", "acme/plain", "mergeyard.repository is not set"),
        ("secretFile", "/nowhere", "mergeyard.secretFile names no file that can be read"),
    ];
    for (key, value, complaint) in settings {
        let said = says().await;
        assert!(said.contains(complaint), "{said}");
        let set = ["config", &format!("mergeyard.{key}"), value];
        process::run(tool("git").args(set).current_dir(folder.path())).await.good();
    }
    let said = says().await;
    assert!(said.contains("names no file that can be read"), "a file that is not there: {said}");
}

async fn only_delivery(yard: &RealYard) -> Value {
    let list = yard.mergeyard(&["deliveries", "list", "--format", "json"]).await.good();
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let [delivery] = list.try_into().unwrap();
    delivery
}
