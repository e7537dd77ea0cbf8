//! The registry behind its own TLS: certificates that change while it serves, and clients that
//! only want to hold on.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Output,
    sync::Arc,
    time::{Duration, Instant},
};

use mergeyard_registry::{Authority, Config, Limits, router, serve, serve_app};
use mergeyard_types::Timestamp;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{process::Command, sync::oneshot, task::JoinHandle};

use crate::yard::{SECRET, Yard};

/// Nothing here takes seconds; what does has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A registry served over TLS on a port of its own.
pub(crate) struct Served {
    pub(crate) yard: Yard,
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) fn start(config: Config) -> Self {
        let yard = Yard::with(config);
        let names = ["127.0.0.1".to_owned()];
        let authority = Authority::open(&yard.directory.path().join("authority"), &names).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let tls = authority.server_config().unwrap();
        let registry = yard.registry.clone();
        let serving = tokio::spawn(serve(listener, registry, tls, async {
            let _ = stopped.await;
        }));
        Self { yard, authority, address, stop, serving }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.authority.ca_path()
    }

    async fn stop(self) -> std::io::Result<()> {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("the server stops in time").unwrap()
    }

    /// A handshake as a client that trusts the authority under `name`.
    pub(crate) fn connect(&self, name: &str) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.ca_pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = StreamOwned::new(
            ClientConnection::new(Arc::new(config), name).unwrap(),
            TcpStream::connect(self.address)?,
        );
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }
}

async fn curl(served: &Served, arguments: &[&str]) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "5"]).args(arguments);
    curl.arg(format!("https://{}/v2/", served.address));
    curl.output().await.expect("curl is missing: scripts/setup.sh installs it")
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_needs_the_right_authority_and_a_name() {
    let served = Served::start(Config::default());
    let (ca, user) = (served.ca().display().to_string(), format!("robot:{SECRET}"));
    let good = curl(&served, &["--cacert", &ca, "--user", &user]).await;
    assert!(good.status.success(), "{good:?}");
    let nobody = curl(&served, &["--cacert", &ca]).await;
    assert_eq!(nobody.status.code(), Some(22), "{nobody:?}");

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::open(elsewhere.path(), &["127.0.0.1".to_owned()]).unwrap();
    let wrong = curl(&served, &["--cacert", &other.ca_path().display().to_string(), "--user", &user]).await;
    assert_eq!(wrong.status.code(), Some(60), "{wrong:?}");
    let system = curl(&served, &["--user", &user]).await;
    assert_eq!(system.status.code(), Some(60), "{system:?}");
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let served = Served::start(Config::default());
    let before = served.connect("127.0.0.1").unwrap().conn.peer_certificates().unwrap()[0].clone();
    assert!(served.connect("registry.example.org").is_err());
    let names = ["127.0.0.1".to_owned(), "registry.example.org".to_owned()];
    assert!(served.authority.renew(&names, Timestamp::now()).unwrap());
    let after = served.connect("registry.example.org").unwrap().conn.peer_certificates().unwrap()[0].clone();
    assert_ne!(before, after);
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_only_hold_on_are_let_go() {
    let short = Duration::from_secs(2);
    let limits = Limits { header_time: short, idle_time: short, ..Limits::default() };
    let served = Served::start(Config { limits, ..Config::default() });
    // One never begins the handshake, one never speaks after it, one never ends its request's head.
    let mut mute = TcpStream::connect(served.address).unwrap();
    let mut silent = served.connect("127.0.0.1").unwrap();
    let mut slow = served.connect("127.0.0.1").unwrap();
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n").unwrap();
    slow.flush().unwrap();
    for socket in [&mute, &silent.sock, &slow.sock] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    // Reading returns because the server ends the connection, well or badly.
    let began = Instant::now();
    for held in [&mut mute as &mut dyn Read, &mut silent, &mut slow] {
        let mut rest = Vec::new();
        let _ended = held.read_to_end(&mut rest);
    }
    assert!(began.elapsed() < PATIENCE);
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_is_room_for_so_many_connections_and_again_when_one_ends() {
    let limits = Limits { connections: 3, ..Limits::default() };
    let served = Served::start(Config { limits, ..Config::default() });
    let mut held: Vec<_> = (0..3).map(|_| served.connect("127.0.0.1").unwrap()).collect();
    assert!(served.connect("127.0.0.1").is_err());
    held.pop();
    let deadline = Instant::now() + PATIENCE;
    while served.connect("127.0.0.1").is_err() {
        assert!(Instant::now() < deadline, "the place of a connection that ended is not given again");
    }
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_listener_serves_plain_http_when_it_is_given_no_certificate() {
    let yard = Yard::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve_app(listener, router(yard.registry), None, Limits::default(), async {
        let _ = stopped.await;
    }));
    client.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_before_the_body_arrives_goes_on_on_the_same_connection() {
    let served = Served::start(Config::default());
    let mut client = served.connect("127.0.0.1").unwrap();
    client.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        client
            .write_all(b"PUT /v2/a/manifests/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 4096\r\n\r\n")
            .unwrap();
        let head = refusal(&mut client);
        assert!(!head.contains("connection: close"), "{head}");
        client.write_all(&[b'x'; 4096]).unwrap();
    }
    served.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_with_much_to_send_is_told_that_the_connection_ends() {
    let served = Served::start(Config::default());
    let mut large = served.connect("127.0.0.1").unwrap();
    large
        .write_all(b"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n")
        .unwrap();
    // All of it is sent before the answer is read, as simple clients do.
    large.write_all(&vec![b'x'; 9_000_000]).unwrap();
    let mut chunked = served.connect("127.0.0.1").unwrap();
    chunked
        .write_all(b"PUT /v2/a/manifests/1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    let mut polite = served.connect("127.0.0.1").unwrap();
    polite
        .write_all(b"PUT /v2/a/manifests/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 4096\r\nexpect: 100-continue\r\n\r\n")
        .unwrap();
    for client in [&mut large, &mut chunked, &mut polite] {
        client.sock.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = refusal(client);
        assert!(head.contains("connection: close"), "{head}");
    }
    // Who waits to be told to go on is refused instead, and sends nothing.
    assert_eq!(polite.read(&mut [0]).unwrap(), 0);
    served.stop().await.unwrap();
}

/// Reads one refusal to its end and returns its head.
fn refusal(client: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("the connection ended without an answer");
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 4"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    client.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_ever_for_a_transfer() {
    let limits = Limits { shutdown_time: Duration::from_millis(200), ..Limits::default() };
    let served = Served::start(Config { limits, ..Config::default() });
    let upload = served.yard.start("a").await;
    let mut transfer = served.connect("127.0.0.1").unwrap();
    let authorization = crate::yard::basic("robot", SECRET);
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nhost: x\r\nauthorization: {authorization}\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    );
    transfer.write_all(head.as_bytes()).unwrap();
    // The server has begun to read the body once it says so.
    let mut interim = [0; 12];
    transfer.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100");
    served.stop().await.unwrap();
}
