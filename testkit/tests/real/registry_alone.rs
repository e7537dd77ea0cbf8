//! The registry as a process of its own, on a machine whose programs do not know it yet, and on
//! one that has hardly any descriptors.

use std::{
    fs::Permissions,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use mergeyard_run::registry_client::{RegistryAccess, RegistryClient};
use mergeyard_testkit::process::{self, Process, Said, Signal, free_port, tool, until};
use mergeyard_types::Secret;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command};

/// Hardly more than the registry needs for itself.
const DESCRIPTORS: usize = 64;

struct Registry {
    folder: TempDir,
    host: String,
    serving: Process,
}

impl Registry {
    async fn start(command: Command, address: Ipv4Addr) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), command, address, "").await
    }

    async fn start_in(folder: TempDir, mut command: Command, address: Ipv4Addr, more: &str) -> Self {
        let host = format!("{address}:{}", port_on(address));
        let config = format!(
            "data_dir = \"{}/data\"\n[registry]\nlisten = \"{host}\"\n{more}",
            folder.path().display()
        );
        std::fs::write(folder.path().join("mergeyard.toml"), config).unwrap();
        command.args(["registry", "serve", "--config"]).arg(folder.path().join("mergeyard.toml"));
        let serving = Process::start("the registry", &mut command);
        serving.says("the registry is ready").await;
        Self { folder, host, serving }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    async fn stop(mut self) {
        self.serving.signal(Signal::TERM);
        assert!(self.serving.ended().await.success(), "{}", self.serving.said());
    }
}

fn port_on(address: Ipv4Addr) -> u16 {
    loop {
        let port = free_port();
        if TcpListener::bind((address, port)).is_ok() {
            return port;
        }
    }
}

/// An address of this machine that is not loopback, so that the engine verifies what is there.
async fn address_on_the_bridge() -> Ipv4Addr {
    let mut inspect = tool("docker");
    inspect.args(["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}"]);
    let subnet = process::run(&mut inspect).await.good();
    let neighbour = subnet.split_once(".0/").expect("the bridge has an IPv4 subnet").0.to_owned() + ".2:9";
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(neighbour).unwrap();
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} is not on the bridge"),
    }
}

/// What the engine reads is the machine's own, so that is taken away again whatever happens.
struct TrustFolder(PathBuf);

impl Drop for TrustFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a script that sees folders of its own where this machine keeps its trust, except for the
/// engine's: what it writes there is gone with it.
async fn in_a_place_of_its_own(script: &str, registry: &Registry) -> Said {
    let setup = format!(
        r#"set -e
        place=$(mktemp -d {folder}/machine-XXXXXX)
        cp -a /etc/ssl $place/ssl
        cp -a /usr/local/share/ca-certificates $place/share
        mkdir $place/containers
        echo '{{"default":[{{"type":"insecureAcceptAnything"}}]}}' > $place/containers/policy.json
        mount --make-rprivate /
        mount --bind $place/ssl /etc/ssl
        mount --bind $place/share /usr/local/share/ca-certificates
        mount --bind $place/containers /etc/containers
        doctor() {{ {program} registry doctor --config {folder}/mergeyard.toml "$@"; }}
        {script}"#,
        folder = registry.folder.path().display(),
        program = process::program().display(),
    );
    let mut command = tool("unshare");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MERGEYARD_")) {
        command.env_remove(name);
    }
    process::run(command.args(["--mount", "sh", "-c"]).arg(setup)).await
}

fn levels(json: &str, check: &str) -> Vec<String> {
    let findings: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let all = findings.as_array().unwrap().iter();
    all.filter(|finding| finding["check"] == check)
        .map(|finding| finding["level"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_doctor_makes_the_real_engine_curl_and_skopeo_trust_a_registry_they_did_not_know() {
    let registry = Registry::start(process::mergeyard(), address_on_the_bridge().await).await;
    let host = registry.host.clone();
    let certs = PathBuf::from("/etc/docker/certs.d").join(&host);
    assert!(!certs.exists(), "a test before this one left {}", certs.display());
    let _gone_afterwards = TrustFolder(certs.clone());

    let before = in_a_place_of_its_own("doctor --format json", &registry).await;
    assert_eq!(before.status.code(), Some(1), "{before}");
    assert_eq!(levels(&before.stdout, "docker"), ["error"], "{before}");
    assert_eq!(levels(&before.stdout, "system trust"), ["warning"], "{before}");
    assert!(!certs.exists(), "looking writes nothing");

    let password = registry.path("data/registry-password").display().to_string();
    let script = format!(
        "doctor --fix --format json > {out} || exit 9
         doctor --fix > {again} 2>&1 || exit 8
         curl --silent --show-error --fail --user mergeyard:$(cat {password}) https://{host}/v2/_catalog || exit 7
         skopeo list-tags --creds mergeyard:$(cat {password}) docker://{host}/nobody/nothing 2>&1 | grep -c x509 || true",
        out = registry.path("after.json").display(),
        again = registry.path("again").display(),
    );
    let mended = in_a_place_of_its_own(&script, &registry).await;
    assert!(mended.status.success(), "{mended}");
    assert!(mended.stderr.contains(&format!("fixed: wrote {}", certs.join("ca.crt").display())), "{mended}");
    assert!(mended.stderr.contains("and ran update-ca-certificates"), "{mended}");
    assert!(mended.stdout.trim_end().ends_with('0'), "skopeo complains about no certificate: {mended}");
    let after = std::fs::read_to_string(registry.path("after.json")).unwrap();
    for check in ["docker", "engine", "system trust", "login", "trust"] {
        assert!(levels(&after, check).iter().all(|level| level == "ok"), "{check}: {after}");
    }
    let again = std::fs::read_to_string(registry.path("again")).unwrap();
    assert!(!again.contains("fixed:") && again.contains("everything is as it should be"), "{again}");
    let secret = std::fs::read_to_string(&password).unwrap();
    assert!(![after, again].concat().contains(secret.trim()));
    let published = std::fs::read(registry.path("data/ca/ca.crt")).unwrap();
    assert_eq!(std::fs::read(certs.join("ca.crt")).unwrap(), published);
    registry.stop().await;
}

/// A root, and a certificate of it for this address with its key, as files.
fn operators_certificate(folder: &Path, address: Ipv4Addr) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![address.to_string()]).unwrap().signed_by(&key, &root).unwrap();
    std::fs::write(folder.join("fullchain.pem"), leaf.pem() + &root.pem()).unwrap();
    std::fs::write(folder.join("privkey.pem"), key.serialize_pem()).unwrap();
    std::fs::set_permissions(folder.join("privkey.pem"), Permissions::from_mode(0o600)).unwrap();
}

const OPERATORS: &str = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }\n";

#[tokio::test]
async fn an_operators_own_certificate_is_served_published_and_verified_by_the_server_itself() {
    let folder = tempfile::tempdir().unwrap();
    let address = Ipv4Addr::LOCALHOST;
    operators_certificate(folder.path(), address);
    let registry = Registry::start_in(folder, process::mergeyard(), address, OPERATORS).await;
    let mut doctor = process::mergeyard();
    doctor.args(["registry", "doctor", "--format", "json", "--config"]).arg(registry.path("mergeyard.toml"));
    let looked = process::run(&mut doctor).await.good();
    for check in ["certificate", "trust", "login", "authority", "keys"] {
        assert!(levels(&looked, check).iter().all(|level| level == "ok"), "{check}: {looked}");
    }
    let password = std::fs::read_to_string(registry.path("data/registry-password")).unwrap();
    let client = RegistryClient::new(RegistryAccess {
        host: registry.host.parse().unwrap(),
        ca_pem: Some(std::fs::read(registry.path("data/ca/ca.crt")).unwrap()),
        username: "mergeyard".to_owned(),
        password: Secret::new(password.trim().to_owned()),
    });
    let nothing = client.unwrap().published(&"a/b".parse().unwrap(), &"1".parse().unwrap()).await;
    assert_eq!(nothing.unwrap(), None);
    registry.stop().await;
}

#[tokio::test]
async fn an_operators_certificate_for_another_host_is_refused_at_the_start_with_the_files_name() {
    let folder = tempfile::tempdir().unwrap();
    operators_certificate(folder.path(), Ipv4Addr::new(192, 0, 2, 77));
    let config =
        format!("data_dir = \"data\"\n[registry]\nlisten = \"127.0.0.1:{}\"\n{OPERATORS}", free_port());
    std::fs::write(folder.path().join("mergeyard.toml"), config).unwrap();
    let mut serve = process::mergeyard();
    serve.args(["registry", "serve", "--config"]).arg(folder.path().join("mergeyard.toml"));
    let said = process::run(&mut serve).await.failed(1);
    let file = folder.path().join("fullchain.pem");
    let sentence = format!("the certificate in {} is for 192.0.2.77, not for `127.0.0.1`", file.display());
    assert!(said.contains(&sentence), "{said}");
}

#[tokio::test]
async fn a_registry_without_descriptors_recovers_by_itself() {
    let command = process::mergeyard_with_descriptors(DESCRIPTORS);
    let registry = Registry::start(command, Ipv4Addr::LOCALHOST).await;
    let ca = std::fs::read(registry.path("data/ca/ca.crt")).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .timeout(Duration::from_secs(1))
        .pool_max_idle_per_host(0)
        .no_proxy()
        .build()
        .unwrap();
    let url = format!("https://{}/v2/", registry.host);
    let ask = async || client.get(&url).send().await;
    assert_eq!(ask().await.unwrap().status(), 401);

    let held = join_all((0..2 * DESCRIPTORS).map(|_| TcpStream::connect(&registry.host))).await;
    let open = registry.serving.proc("fd");
    until("all descriptors to be taken", async || {
        (0..DESCRIPTORS).all(|number| open.join(number.to_string()).is_symlink()).then_some(())
    })
    .await;
    assert!(ask().await.unwrap_err().is_timeout());
    drop(held);
    until("the registry to answer again", async || (ask().await.ok()?.status() == 401).then_some(())).await;
    registry.stop().await;
}
