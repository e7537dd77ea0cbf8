//! Debian's `docker-registry` with TLS and a password, its certificates made by `openssl`.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{path::Path, process::Stdio, sync::Arc};

use mergeyard_run::registry_client::{RegistryAccess, RegistryClient};
use mergeyard_types::Secret;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

pub(crate) const USER: &str = "robot";
/// Needs both letters in which URL-safe base64 differs, and more than ASCII.
pub(crate) const PASSWORD: &str = "p~~~?>>>ü?~";

pub(crate) struct Registry {
    address: String,
    pub(crate) port: u16,
    pub(crate) ca: Vec<u8>,
    pub(crate) dir: TempDir,
    _program: Child,
}

/// What is wrong with the registry's certificate.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Certificate {
    Good,
    Expired,
    ForAnotherHost,
}

impl Registry {
    pub(crate) async fn start() -> Registry {
        Self::start_with(Certificate::Good).await
    }

    pub(crate) async fn start_with(certificate: Certificate) -> Registry {
        Self::start_as("127.0.0.1", certificate).await
    }

    pub(crate) async fn start_at(address: &str) -> Registry {
        Self::start_as(address, Certificate::Good).await
    }

    async fn start_as(address: &str, certificate: Certificate) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), address, certificate).await;
        let (mut program, port) = start_program(dir.path(), address).await;
        let ca = std::fs::read(dir.path().join("ca.crt")).unwrap();
        // Kept reading, so that the registry never waits for its log to be read.
        let mut log = BufReader::new(program.stderr.take().unwrap()).lines();
        while let Some(line) = log.next_line().await.unwrap() {
            if line.contains("listening on") {
                break;
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Registry { address: address.to_owned(), port, ca, dir, _program: program }
    }

    pub(crate) fn host(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    pub(crate) fn access(&self) -> RegistryAccess {
        RegistryAccess {
            host: self.host().parse().unwrap(),
            ca_pem: Some(self.ca.clone()),
            username: USER.to_owned(),
            password: Secret::new(PASSWORD),
        }
    }

    pub(crate) fn client(&self) -> Arc<RegistryClient> {
        Arc::new(RegistryClient::new(self.access()).unwrap())
    }
}

async fn start_program(dir: &Path, address: &str) -> (Child, u16) {
    let hash = run(Command::new("htpasswd").args(["-Bbn", USER, PASSWORD])).await;
    std::fs::write(dir.join("htpasswd"), hash).unwrap();
    let port = std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
    let at = |name: &str| dir.join(name).display().to_string();
    let config = format!(
        "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http: {{addr: '{address}:{port}', tls: {{certificate: {}, key: {}}}}}\n\
         auth: {{htpasswd: {{realm: r, path: {}}}}}\n",
        at("data"),
        at("server.crt"),
        at("server.key"),
        at("htpasswd")
    );
    std::fs::write(dir.join("config.yml"), config).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(dir.join("config.yml")).env("OTEL_TRACES_EXPORTER", "none");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    (command.spawn().expect("docker-registry is missing: run scripts/setup.sh"), port)
}

/// An authority and a certificate of its for the address, or something wrong on purpose.
pub(crate) async fn certificates(dir: &Path, address: &str, certificate: Certificate) {
    let name = match certificate {
        Certificate::ForAnotherHost => "DNS:another.example.org".to_owned(),
        Certificate::Good | Certificate::Expired => format!("IP:{address}"),
    };
    std::fs::write(dir.join("ext"), format!("subjectAltName={name}\nbasicConstraints=CA:FALSE\n")).unwrap();
    openssl(dir, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=test-ca")
        .await;
    openssl(dir, "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=registry").await;
    match certificate {
        Certificate::Expired => {
            std::fs::write(dir.join("index.txt"), "").unwrap();
            std::fs::write(dir.join("serial"), "01\n").unwrap();
            let config = "[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ncertificate=ca.crt\nprivate_key=ca.key\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n";
            std::fs::write(dir.join("ca.cnf"), config).unwrap();
            openssl(dir, "ca -batch -config ca.cnf -in server.csr -out server.crt -notext -extfile ext -startdate 200101000000Z -enddate 200201000000Z").await;
        }
        Certificate::Good | Certificate::ForAnotherHost => {
            openssl(dir, "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 20 -extfile ext").await;
        }
    }
}

async fn openssl(dir: &Path, args: &str) {
    run(Command::new("openssl").args(args.split(' ')).current_dir(dir)).await;
}

async fn run(command: &mut Command) -> Vec<u8> {
    let program = command.as_std().get_program().to_owned();
    let output = command.output().await.unwrap_or_else(|e| panic!("{program:?}: {e}: run scripts/setup.sh"));
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
