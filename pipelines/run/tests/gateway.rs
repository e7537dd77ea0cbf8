//! The gateway alone: what it does with connections, on loopback.

use std::{path::Path, time::Duration};

use mergeyard_run::gateway::{self, Answer, Ask, Probe};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinHandle,
};

struct Gateway {
    folder: TempDir,
    port: u16,
    _serving: tokio_util::task::AbortOnDropHandle<()>,
}

impl Gateway {
    async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(folder: TempDir) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = folder.path().to_owned();
        let serving = tokio::spawn(async move { gateway::serve(port, &path).await.unwrap() });
        let gateway = Self { folder, port, _serving: tokio_util::task::AbortOnDropHandle::new(serving) };
        gateway.ask(&Ask::Show).await;
        gateway
    }

    async fn ask(&self, ask: &Ask) -> Answer {
        let line = order(self.folder.path(), &serde_json::to_string(ask).unwrap()).await;
        serde_json::from_str(&line).unwrap()
    }

    async fn switch(&self, to: &str) {
        assert_eq!(self.ask(&Ask::Switch { to: to.to_owned() }).await, Answer::Switched);
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    async fn left(&self, from: &str, within_ms: u64) -> usize {
        match self.ask(&Ask::Drain { from: from.to_owned(), within_ms }).await {
            Answer::Drained { left } => left,
            other => panic!("{other:?}"),
        }
    }
}

async fn order(folder: &Path, line: &str) -> String {
    let connect = async {
        loop {
            match UnixStream::connect(folder.join("orders")).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let mut stream = tokio::time::timeout(Duration::from_secs(10), connect).await.unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.unwrap();
    answer
}

/// Says its name to whoever comes, reads what they say to the end, says it back, and ends.
async fn backend(name: &'static str) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                client.write_all(name.as_bytes()).await.unwrap();
                client.read_to_end(&mut heard).await.unwrap();
                client.write_all(&heard).await.unwrap();
            });
        }
    });
    (address, serving)
}

#[tokio::test]
async fn each_side_ends_on_its_own_and_what_breaks_breaks_on_both() {
    let gateway = Gateway::start().await;
    let (address, _serving) = backend("one:").await;
    gateway.switch(&address).await;
    let mut client = gateway.client().await;
    let sent = vec![b'x'; 3 << 20];
    let (mut reads, mut writes) = client.split();
    let mut heard = Vec::new();
    let write = async {
        writes.write_all(&sent).await.unwrap();
        writes.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(write, reads.read_to_end(&mut heard));
    read.unwrap();
    assert!(heard.starts_with(b"one:x") && heard.len() == sent.len() + 4, "{} bytes", heard.len());

    let breaks = TcpListener::bind("127.0.0.1:0").await.unwrap();
    gateway.switch(&breaks.local_addr().unwrap().to_string()).await;
    let mut client = gateway.client().await;
    let (mut server, _) = breaks.accept().await.unwrap();
    server.write_all(b"half of it").await.unwrap();
    client.read_exact(&mut [0; 10]).await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let broken = client.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset, "it does not look like an end");
}

#[tokio::test]
async fn new_connections_go_to_the_new_one_and_old_ones_are_waited_for() {
    let gateway = Gateway::start().await;
    let ((one, _first), (two, _second)) = (backend("one").await, backend("two").await);
    gateway.switch(&one).await;
    let mut old = gateway.client().await;
    let mut name = [0; 3];
    old.read_exact(&mut name).await.unwrap();
    gateway.switch(&two).await;
    let mut new = gateway.client().await;
    new.read_exact(&mut name).await.unwrap();
    assert_eq!((&name, gateway.left(&one, 0).await, gateway.left("nobody:1", 0).await), (b"two", 1, 0));
    let (left, ()) = tokio::join!(gateway.left(&one, 60_000), async {
        old.write_all(b"still served").await.unwrap();
        old.shutdown().await.unwrap();
        let mut rest = String::new();
        old.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "still served");
    });
    assert_eq!(left, 0);

    // Another process in its place remembers.
    let Gateway { folder, _serving, .. } = gateway;
    drop(_serving);
    let again = Gateway::on(folder).await;
    assert!(matches!(again.ask(&Ask::Show).await, Answer::Shown { live: Some(live), .. } if live == two));
}

#[tokio::test]
async fn who_comes_while_nobody_answers_is_served_by_who_takes_over() {
    let gateway = Gateway::start().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    gateway.switch(&gone).await;
    let mut waits = gateway.client().await;
    waits.write_all(b"!").await.unwrap();
    waits.shutdown().await.unwrap();
    let (address, _serving) = backend("at last").await;
    gateway.switch(&address).await;
    let mut heard = String::new();
    waits.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "at last!");
    assert_eq!(gateway.left(&gone, 0).await, 0);
}

#[tokio::test]
async fn a_probe_says_what_is_wrong_and_nonsense_is_refused() {
    let gateway = Gateway::start().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let (silent, _serving) = backend("no HTTP\n").await;
    let refused = "nothing listens on its port";
    for (at, why) in [(gone, refused), (silent, "no HTTP answer"), ("nowhere.invalid:1".into(), "cannot be")]
    {
        let probe = Probe {
            at,
            host: "web".to_owned(),
            path: "/".to_owned(),
            status: 200,
            body: None,
            timeout_ms: 2000,
            retries: 0,
            interval_ms: 1,
        };
        let Answer::Probed(probed) = gateway.ask(&Ask::Probe(probe)).await else { panic!("{why}") };
        assert!(!probed.healthy && probed.said.contains(why), "{probed:?}");
    }
    for nonsense in ["", "{}", "[]", "\"switch\"", "{\"switch\":{\"to\":1}}", "\0"] {
        let answer = order(gateway.folder.path(), nonsense).await;
        assert!(answer.contains("this is no order"), "{nonsense}: {answer}");
    }
    // And a gateway that has nobody to forward to hangs up on its clients.
    let mut client = gateway.client().await;
    let ended = tokio::time::timeout(Duration::from_secs(30), client.read(&mut [0; 1])).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
}
