//! A mirror of Debian's registry, over TLS and with a login, pulled from by a stock client.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mergeyard_registry::Mirror;
use mergeyard_types::{Digest, Secret};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use crate::{
    clients::{
        certificates,
        layout::{blobs, write_image, write_image_for},
        skopeo::copy,
    },
    scripted::{ALWAYS, PASSWORD, mirroring},
    tls::Served,
    yard::SECRET,
};

/// `docker-registry` on a port of its own, with one login.
struct Debian {
    folder: tempfile::TempDir,
    port: u16,
    serving: Child,
}

impl Debian {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = folder.path().display().to_string();
        write_certificates(folder.path());
        let login = Command::new("htpasswd").args(["-nbB", "builder", PASSWORD]).output();
        let login = login.expect("htpasswd is missing: scripts/setup.sh --tests installs it");
        fs::write(folder.path().join("htpasswd"), login.stdout).unwrap();
        let config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": format!("{path}/images")}},
            "http": {"addr": format!("127.0.0.1:{port}"),
                "tls": {"certificate": format!("{path}/cert.pem"), "key": format!("{path}/key.pem")}},
            "auth": {"htpasswd": {"realm": "images", "path": format!("{path}/htpasswd")}},
        });
        fs::write(folder.path().join("config.yml"), config.to_string()).unwrap();
        let mut serving = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry is missing: scripts/setup.sh --tests installs it");
        let mut said = BufReader::new(serving.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("listening on")), "docker-registry does not start");
        // It goes on talking, and nobody may make it wait for a reader.
        std::thread::spawn(move || said.for_each(drop));
        Self { folder, port, serving }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn mirror(&self) -> Mirror {
        Mirror {
            prefix: "hub".parse().unwrap(),
            upstream: format!("https://127.0.0.1:{}", self.port).parse().unwrap(),
            login: Some(("builder".to_owned(), Secret::new(PASSWORD))),
            ca_pem: Some(fs::read(self.ca()).unwrap()),
            revalidate: ALWAYS,
        }
    }

    async fn push(&self, layout: &Path, tag: &str) {
        let work = self.folder.path();
        let trusted = certificates(work, &format!("trusted-{tag}"), &self.ca());
        let to = ["--dest-cert-dir", &trusted, "--dest-creds", &format!("builder:{PASSWORD}")];
        let image = format!("docker://127.0.0.1:{}/library/clock:{tag}", self.port);
        let pushed = copy(work, &to, &format!("oci:{}:0.1.0", layout.display()), &image).await;
        assert!(pushed.status.success(), "{pushed:?}");
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        self.serving.kill().unwrap();
        self.serving.wait().unwrap();
    }
}

fn write_certificates(folder: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer);
    fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
    fs::write(folder.join("cert.pem"), leaf.unwrap().pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}

/// Pulls `hub/library/clock:<tag>` from the mirror into a layout of its own.
async fn pull(served: &Served, trusted: &str, tag: &str, to: &str) -> PathBuf {
    let work = served.yard.directory.path();
    let layout = work.join(to);
    let from = ["--src-cert-dir", trusted, "--src-creds", &format!("robot:{SECRET}")];
    let image = format!("docker://{}/hub/library/clock:{tag}", served.address);
    let pulled = copy(work, &from, &image, &format!("oci:{}:0.1.0", layout.display())).await;
    assert!(pulled.status.success(), "{pulled:?}");
    layout
}

fn digest(layout: &Path) -> Digest {
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_once_is_pulled_again_when_upstream_is_gone() {
    let debian = Debian::start();
    let layout = debian.folder.path().join("layout");
    let pushed = write_image(&layout);
    debian.push(&layout, "1").await;
    let served = Served::start(mirroring(debian.mirror()));
    let trusted = certificates(served.yard.directory.path(), "trusted", &served.ca());
    let first = pull(&served, &trusted, "1", "first").await;
    assert_eq!((digest(&first), blobs(&first)), (pushed, blobs(&layout)));
    drop(debian);
    // skopeo verifies each digest itself.
    let second = pull(&served, &trusted, "1", "second").await;
    assert_eq!((digest(&second), blobs(&second)), (pushed, blobs(&first)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_pushed_again_upstream_is_the_new_one_here() {
    let debian = Debian::start();
    let (old, new) = (debian.folder.path().join("old"), debian.folder.path().join("new"));
    write_image(&old);
    let moved = write_image_for(&new, "arm64");
    debian.push(&old, "moving").await;
    let served = Served::start(mirroring(debian.mirror()));
    let trusted = certificates(served.yard.directory.path(), "trusted", &served.ca());
    assert_ne!(digest(&pull(&served, &trusted, "moving", "first").await), moved);
    fs::remove_dir_all(debian.folder.path().join("trusted-moving")).unwrap();
    debian.push(&new, "moving").await;
    assert_eq!(digest(&pull(&served, &trusted, "moving", "second").await), moved);
}
