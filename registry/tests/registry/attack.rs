//! The listener under attack, while an honest client wants its image.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use mergeyard_registry::{Config, Limits};
use tokio::{io::AsyncWriteExt, net::TcpSocket};

use crate::{
    tls::{PATIENCE, Served},
    yard::{SECRET, basic},
};

/// More than all places there are, five times over.
const SLOW: usize = 5_000;

/// Enough that no address reaches its own limit.
const ATTACKERS: usize = 12;

/// What an honest client may have to wait while all that goes on; the machine is shared.
const HONEST_WAIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_slow_connections_do_not_keep_an_honest_client_from_pulling() {
    let served = Served::start(Config::default());
    let blob = vec![7; 3 << 20];
    let digest = served.yard.push_blob("acme/clock", &blob).await;
    // Half say nothing; the others begin a handshake and never go on.
    let mut held: Vec<_> = stream::iter(0..SLOW)
        .map(|at| slow(served.address, at))
        .buffer_unordered(64)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(held.len() > 2 * Limits::default().connections, "only {} came as far as that", held.len());

    let path = format!("/v2/acme/clock/blobs/{digest}");
    let address = served.address;
    let pulls = (0..5).map(|_| {
        let (mut client, path) = (served.connect("127.0.0.1").unwrap(), path.clone());
        let length = blob.len();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let authorization = basic("robot", SECRET);
            write!(client, "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: {authorization}\r\nconnection: close\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            // A server that closes without saying so in TLS is still one that sent everything.
            let _ = client.read_to_end(&mut answer);
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
            assert!(answer.len() > length, "{} bytes", answer.len());
            began.elapsed()
        })
    });
    for pull in pulls.collect::<Vec<_>>() {
        let took = pull.await.unwrap();
        assert!(took < HONEST_WAIT, "{took:?}");
        // The attackers go on: what they send now must not get them anything.
        for connection in held.iter_mut().take(100) {
            let _ = connection.try_write(b"\x16");
        }
    }
}

/// One more connection that holds on, from one of several addresses.
async fn slow(to: SocketAddr, at: usize) -> Option<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    let from = Ipv4Addr::new(127, 0, 1, u8::try_from(1 + at % ATTACKERS).ok()?);
    socket.bind(SocketAddr::new(from.into(), 0)).ok()?;
    let mut stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await.ok()?.ok()?;
    if at.is_multiple_of(2) {
        stream.write_all(b"\x16\x03\x01").await.ok()?;
    }
    Some(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_fewest_places_gets_one_from_who_has_most_and_never_the_other_way() {
    let limits = Limits { connections: 4, ..Limits::default() };
    let served = Served::start(Config { limits, ..Config::default() });
    let honest = served.connect("127.0.0.1").unwrap();
    let mut greedy: FuturesUnordered<_> = (0..4)
        .map(|_| async {
            let mut connection = slow(served.address, 1).await.unwrap();
            rest(&mut connection).await
        })
        .collect();
    assert_eq!(greedy.next().await, Some(0), "who has most is refused");
    let second = served.connect("127.0.0.1").unwrap();
    assert_eq!(greedy.next().await, Some(0), "who has most loses one to who has fewer");
    assert!(served.connect("127.0.0.1").is_err(), "two each is even");
    assert_eq!(greedy.len(), 2);
    for mut client in [honest, second] {
        client.write_all(b"HEAD /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        client.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 401");
    }
}

/// How much still comes until the server ends the connection, well or badly.
async fn rest(stream: &mut tokio::net::TcpStream) -> usize {
    use tokio::io::AsyncReadExt;
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    let ended = tokio::time::timeout(PATIENCE, read).await.expect("the server ends it");
    ended.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_two_readers_would_cut_differently_is_refused_and_its_connection_closed() {
    let served = Served::start(Config::default());
    let upload = served.yard.start("acme/clock").await;
    let authorization = basic("robot", SECRET);
    let head = format!("PATCH {upload} HTTP/1.1\r\nhost: x\r\nauthorization: {authorization}\r\n");
    let smuggled = "GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let cases = [
        ("two lengths", format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\nhello")),
        ("a list of lengths", format!("{head}content-length: 5, 6\r\n\r\nhello")),
        ("a length with a sign", format!("{head}content-length: +5\r\n\r\nhello")),
        ("chunks that are not last", format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
        (
            "a chunk size that is none",
            format!("{head}transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"),
        ),
        ("a name with a space", format!("{head}content-length : 5\r\n\r\nhello")),
        ("a folded line", format!("{head}content-length:\r\n 5\r\n\r\nhello")),
        ("a bare CR", format!("{head}x: a\rcontent-length: 5\r\n\r\nhello")),
        (
            "a length and chunks",
            format!("{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("bare line feeds", format!("{}content-length: 5\n\nhello", head.replace("\r\n", "\n"))),
    ];
    // The last two are read as RFC 9112 allows: chunks win over a length and the connection ends with
    // that request, so nothing rides along; a bare line feed ends a line, and the next request is one.
    let mut said = String::new();
    for (case, request) in &cases {
        let mut client = served.connect("127.0.0.1").unwrap();
        client.sock.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client.write_all(smuggled.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let statuses: Vec<_> =
            answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        said += &format!("{case}: {}\n", statuses.join(" then "));
    }
    insta::assert_snapshot!(said, @r"
    two lengths: 400
    a list of lengths: 400
    a length with a sign: 400
    chunks that are not last: 400
    a chunk size that is none: 400
    a name with a space: 400
    a folded line: 400
    a bare CR: 400
    a length and chunks: 202
    bare line feeds: 202 then 401
    ");
}
