//! The hosts of `examples/yum-lab/lab`, for one test.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use mergeyard_testkit::process::{self, Said, until};
use serde_json::Value;
use tokio::process::Command;

/// Comes with its test and goes with it, whatever became of the test.
pub(super) struct Lab {
    name: String,
    /// What its mirror is in `mergeyard.toml`.
    pub(super) target: toml::Value,
}

pub(super) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/yum-lab")
}

fn script(name: &str, arguments: &[&str]) -> Vec<String> {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    ["--name".to_owned(), name.to_owned()].into_iter().chain(arguments).collect()
}

impl Lab {
    /// Five hosts, and an upstream that offers the program `sundial` and what it depends on.
    pub(super) async fn up() -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let mut lab = Self { name, target: toml::Value::Boolean(false) };
        let said = lab.good(&["up"]).await;
        let described: toml::Table = said.parse().expect("it describes its mirror");
        lab.target = described["target"][0].clone();
        lab.publish(&["gnomon", "1.0"]).await;
        lab.publish(&["sundial", "1.0"]).await;
        lab
    }

    /// The upstream builds, signs and offers a package.
    pub(super) async fn publish(&self, package: &[&str]) {
        self.good(&[&["publish"], package].concat()).await;
    }

    pub(super) async fn good(&self, arguments: &[&str]) -> String {
        self.said(arguments).await.good()
    }

    pub(super) async fn said(&self, arguments: &[&str]) -> Said {
        process::run(Command::new(example().join("lab/lab.sh")).args(script(&self.name, arguments))).await
    }

    /// A shell on a host says this.
    pub(super) async fn shell(&self, host: &str, line: &str) -> String {
        self.good(&["in", host, "bash", "-euc", line]).await
    }

    /// The client installs a package into a new system, by nothing but the mirror.
    pub(super) async fn install(&self, package: &str) -> Said {
        self.shell("client", "rm -rf /srv/root").await;
        self.said(&["in", "client", "dnf", "--installroot=/srv/root", "-y", "install", package]).await
    }

    /// What a client sees: all packages by name and version.
    pub(super) async fn offered(&self) -> Vec<String> {
        let list = "dnf --quiet --refresh list --available --showduplicates | awk 'NF == 3 { print $1, $2 }'";
        let mut offered: Vec<String> = self.shell("client", list).await.lines().map(str::to_owned).collect();
        offered.sort();
        offered
    }

    /// What the mirror serves as the list of all lists, which changes with everything else.
    pub(super) async fn served(&self) -> String {
        self.shell("client", "curl -fsS http://mirror.yum-lab.test/repodata/repomd.xml").await
    }

    /// The address that the client was leased.
    pub(super) async fn leased(&self) -> String {
        let shown = self.good(&["in", "client", "ip", "-json", "-4", "address", "show", "dev", "lan"]).await;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        let address = &shown[0]["addr_info"][0];
        assert_eq!(address["dynamic"], true, "it was not leased: {shown:#}");
        address["local"].as_str().expect("an address").to_owned()
    }

    /// Returns when the upstream has sent so many bytes more.
    pub(super) async fn upstream_sends(&self, bytes: u64) {
        let before = self.sent().await;
        let look = async || (self.sent().await >= before + bytes).then_some(());
        until("the upstream to be in the middle of sending", look).await;
    }

    async fn sent(&self) -> u64 {
        let sent = self.shell("upstream", "cat /sys/class/net/wan/statistics/tx_bytes").await;
        sent.trim().parse().expect("a number")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut down = std::process::Command::new(example().join("lab/lab.sh"));
        let ended = down.args(script(&self.name, &["down"])).status();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "the lab {} cannot be removed", self.name);
        }
    }
}
