//! Stock clients push, pull, attach and sign, each in its own way, against the registry as it is served.

mod cosign;
mod docker;
pub(crate) mod layout;
mod oras;
mod podman;
pub(crate) mod skopeo;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use mergeyard_registry::Config;
use mergeyard_types::Digest;
use tokio::process::Command;

use crate::{
    tls::Served,
    yard::{SECRET, name, tag},
};

/// Where scripts/setup.sh unpacks the clients that this Debian has no packages of.
const NEWER_CLIENTS: &str = "/var/lib/mergeyard-tests/clients/bin";

/// A served registry, and a home for a client that knows nothing else.
struct Desk {
    served: Served,
    home: PathBuf,
}

impl Desk {
    fn new(config: Config) -> Self {
        let served = Served::start(config);
        let home = served.yard.directory.path().join("home");
        fs::create_dir(&home).unwrap();
        Self { served, home }
    }

    fn image(&self, rest: &str) -> String {
        format!("{}/{rest}", self.served.address)
    }

    /// The authority, in a folder and under a name as the clients of Red Hat's family want it.
    fn certificates(&self) -> String {
        certificates(&self.home, "certificates", &self.served.ca())
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        at_home(&self.home, program)
    }

    /// These have no folder of authorities, only what their runtime takes for the system's.
    fn newer(&self, program: &str) -> Command {
        let mut command = self.command(Path::new(NEWER_CLIENTS).join(program));
        command.env("SSL_CERT_FILE", self.served.ca());
        command
    }

    /// What the registry has under a tag.
    async fn stored(&self, repository: &str, version: &str) -> Option<Digest> {
        let manifest = self.served.yard.registry.manifest(&name(repository), &tag(version)).await.unwrap();
        manifest.map(|manifest| manifest.digest)
    }
}

/// A program with a home, logins and trust of its own.
fn at_home(home: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(home).kill_on_drop(true);
    for variable in ["HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "TMPDIR"] {
        command.env(variable, home);
    }
    command.env("REGISTRY_AUTH_FILE", home.join("auth.json"));
    command
}

/// A folder as skopeo wants it: the authority under a name that ends with `.crt`.
pub(crate) fn certificates(home: &Path, folder: &str, ca: &Path) -> String {
    let folder = home.join(folder);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(ca, folder.join("ca.crt")).unwrap();
    folder.display().to_string()
}

/// Waits for a program that is installed by scripts/setup.sh.
async fn ended(mut command: Command) -> Output {
    let output = command.output().await;
    output.unwrap_or_else(|error| {
        panic!("{:?}: {error}: scripts/setup.sh --tests installs it", command.as_std())
    })
}

/// What a program says that must succeed.
async fn done(command: Command) -> String {
    let output = ended(command).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a program complains of that must fail.
async fn refused(command: Command) -> String {
    let output = ended(command).await;
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Gives a program a secret the way that keeps it out of the list of processes.
async fn told(mut command: Command, secret: &str) -> String {
    use tokio::io::AsyncWriteExt;
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(secret.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn credentials() -> String {
    format!("robot:{SECRET}")
}
