//! Blobs of a mirror: downloaded once, followed by many, resumed, and never wrong.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::BodyExt;
use mergeyard_types::Digest;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    scripted::{Asked, HOUR, Scripted, blob, blob_until, content, status},
    yard::{Yard, files, sha256},
};

const MIB: usize = 1 << 20;

fn path(digest: &Digest) -> String {
    format!("/v2/hub/library/clock/blobs/{digest}")
}

/// Nothing of a download is left: neither content nor a part of it.
fn nothing_is_kept(yard: &Yard) -> bool {
    ["content", "uploads", "incoming"].iter().all(|folder| files(&yard.path(folder)).unwrap().is_empty())
}

/// Waits for what another task is about to do.
async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        tokio::task::yield_now().await;
    }
}

/// A blob whose second part comes when it is let.
fn in_two_parts(bytes: &'static [u8], gate: &Arc<Notify>) -> Response {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let (gate, (sender, body)) = (gate.clone(), mpsc::channel(1));
    tokio::spawn(async move {
        sender.send(Ok::<_, std::io::Error>(Bytes::from_static(first))).await.unwrap();
        gate.notified().await;
        sender.send(Ok(Bytes::from_static(second))).await.unwrap();
    });
    let body = Body::from_stream(ReceiverStream::new(body));
    Response::builder().header("content-length", bytes.len()).body(body).unwrap()
}

/// What a client got before its connection ended, and whether that was the announced end.
async fn read(response: Response) -> (Vec<u8>, bool) {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    loop {
        match body.frame().await {
            None => return (bytes, true),
            Some(Err(_)) => return (bytes, false),
            Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_downloaded_once_and_is_here_from_then_on() {
    let (small, large) = (content(1000, 1), content(MIB, 2));
    let upstream = Scripted::start(move |asked| match asked.path.contains(&sha256(small).hex()) {
        true => blob(asked, small),
        false => blob(asked, large),
    });
    let yard = Yard::with(upstream.config(HOUR));
    for bytes in [small, large] {
        let digest = sha256(bytes);
        let head = yard.ask("HEAD", &path(&digest)).send().await;
        assert_eq!(head.header("content-length"), bytes.len().to_string());
        assert!(nothing_is_kept(&yard) || bytes.len() == MIB);
        for _ in 0..2 {
            let pulled = yard.get(&path(&digest)).await;
            assert_eq!(pulled.header("docker-content-digest"), digest.to_string());
            assert!(pulled.body == bytes);
        }
        let asked = format!("/v2/library/clock/blobs/{digest}");
        assert_eq!(upstream.story(), [format!("HEAD {asked}"), format!("GET {asked}")]);
    }
    upstream.stop().await;
    assert!(yard.get(&path(&sha256(large))).await.body == large);
    yard.get(&path(&sha256(b"never asked for"))).await.refused(502, "UNAVAILABLE");
}

/// The highest resident size this process has had, in kilobytes.
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_ask_at_once_and_upstream_is_asked_once_and_memory_stays_flat() {
    let bytes = content(32 * MIB, 3);
    let digest = sha256(bytes);
    let upstream = Scripted::start(move |asked| blob(asked, bytes));
    let yard = Yard::with(upstream.config(HOUR));
    let before = peak_memory();
    let began = Instant::now();
    let pull = async || {
        let mut body = yard.ask("GET", &path(&digest)).open().await.into_body();
        let (mut at, mut same) = (0, true);
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            same &= bytes[at..at + piece.len()] == piece;
            at += piece.len();
        }
        assert!(same && at == bytes.len());
    };
    join_all((0..50).map(|_| pull())).await;
    let grown = (peak_memory() - before) >> 10;
    println!("50 clients, 32 MiB each: {:?}, peak memory +{grown} MiB", began.elapsed());
    assert_eq!(upstream.story().len(), 1);
    // Fifty times the blob would be 1600 MiB; the other tests of this process need some, too.
    assert!(grown < 300, "{grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_read_what_has_arrived_while_the_rest_is_still_coming() {
    let bytes = content(2 * MIB, 4);
    let digest = sha256(bytes);
    let rest = Arc::new(Notify::new());
    let gate = rest.clone();
    let upstream = Scripted::start(move |_| in_two_parts(bytes, &gate));
    let yard = Yard::with(upstream.config(HOUR));
    let mut first = yard.ask("GET", &path(&digest)).open().await.into_body();
    let leaving = yard.ask("GET", &path(&digest)).open().await;
    let part = yard.ask("GET", &path(&digest)).header("range", "bytes=1000-1999").open().await;
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 1000-1999/{}", bytes.len()));
    let mut got = Vec::new();
    // The last batch may still be gathered, so not all of the first half is seen yet.
    while got.len() < MIB / 2 {
        got.extend_from_slice(&first.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    drop(leaving);
    rest.notify_one();
    while let Some(frame) = first.frame().await {
        got.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert!(got == bytes);
    assert_eq!(read(part).await, (bytes[1000..2000].to_vec(), true));
    assert_eq!(upstream.story().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_when_everybody_who_waited_is_gone() {
    let bytes = content(2 * MIB, 5);
    let digest = sha256(bytes);
    let upstream = Scripted::start(move |asked| blob(asked, bytes));
    let yard = Yard::with(upstream.config(HOUR));
    drop(yard.ask("GET", &path(&digest)).open().await);
    let stored = yard.path("content/sha256").join(digest.hex());
    until("the end of the download", || stored.exists()).await;
    assert!(yard.get(&path(&digest)).await.body == bytes);
    assert_eq!(upstream.story().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let bytes = content(3 * MIB, 6);
    let digest = sha256(bytes);
    // Each connection brings one more mebibyte, however often it is asked.
    let upstream = Scripted::start(move |asked| {
        let start = asked.header("range").map_or(0, |range| range[6..range.len() - 1].parse().unwrap());
        blob_until(asked, bytes, bytes.len().min(start + MIB))
    });
    let yard = Yard::with(upstream.config(HOUR));
    let pulled = yard.get(&path(&digest)).await;
    assert!(pulled.body == bytes);
    let asked = upstream.asked();
    let resumed: Vec<_> = asked.iter().filter(|asked| asked.header("range").is_some()).collect();
    assert!(resumed.len() >= 2, "{asked:?}");
    for again in resumed {
        assert_eq!(again.header("if-range"), Some(format!("\"{digest}\"").as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_ranges_sends_the_whole_again_and_nothing_is_doubled() {
    let bytes = content(2 * MIB, 7);
    let digest = sha256(bytes);
    let attempts = AtomicUsize::new(0);
    let upstream = Scripted::start(move |asked| {
        let whole = Asked { headers: Default::default(), ..asked.clone() };
        match attempts.fetch_add(1, Ordering::SeqCst) {
            0 => blob_until(&whole, bytes, MIB),
            _ => blob(&whole, bytes),
        }
    });
    let yard = Yard::with(upstream.config(HOUR));
    assert!(yard.get(&path(&digest)).await.body == bytes);
    assert_eq!(upstream.story().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stumbles_is_asked_again_and_one_that_lies_down_is_not_for_ever() {
    let bytes = content(1000, 8);
    let digest = sha256(bytes);
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let upstream = Scripted::start(move |asked| match counted.fetch_add(1, Ordering::SeqCst) {
        0..2 => status(503),
        _ => blob(asked, bytes),
    });
    let yard = Yard::with(upstream.config(HOUR));
    assert_eq!(yard.get(&path(&digest)).await.body, bytes);
    assert_eq!(attempts.load(Ordering::SeqCst), 3);

    upstream.now(|_| status(500));
    upstream.story();
    let other = sha256(b"other");
    let why = yard.get(&path(&other)).await.refused(502, "UNAVAILABLE");
    assert!(why.contains("answered 500"), "{why}");
    assert_eq!(upstream.story().len(), 5);
    upstream.now(|_| status(404));
    yard.get(&path(&other)).await.refused(404, "BLOB_UNKNOWN");
    assert_eq!(upstream.story().len(), 1);

    // One that breaks off again and again without bringing anything new.
    let large = content(2 * MIB, 9);
    upstream.now(move |asked| blob_until(asked, large, MIB));
    let (got, whole) = read(yard.ask("GET", &path(&sha256(large))).open().await).await;
    assert!(!whole && got.len() <= MIB);
    until("the part to be removed", || files(&yard.path("uploads")).unwrap().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_in_the_middle_waits_as_long_as_upstream_asks_to() {
    let bytes = content(MIB, 17);
    let digest = sha256(bytes);
    let asked_to_wait = Mutex::new(None::<Instant>);
    let upstream = Scripted::start(move |asked| {
        if asked.header("range").is_none() {
            return blob_until(asked, bytes, MIB / 2);
        }
        match *asked_to_wait.lock().unwrap().get_or_insert_with(Instant::now) {
            since if since.elapsed() < Duration::from_millis(900) => {
                let mut response = status(429);
                response.headers_mut().insert("retry-after", "1".parse().unwrap());
                response
            }
            _ => blob(asked, bytes),
        }
    });
    let yard = Yard::with(upstream.config(HOUR));
    assert!(yard.get(&path(&digest)).await.body == bytes);
    assert_eq!(upstream.story().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_not_stored_and_nobody_gets_the_whole_of_it() {
    let (small, large) = (content(1000, 10), content(2 * MIB, 11));
    let (of_small, of_large) = (sha256(b"another small one"), sha256(b"another large one"));
    let rest = Arc::new(Notify::new());
    let gate = rest.clone();
    let upstream = Scripted::start(move |asked| match asked.path.contains(&of_small.hex()) {
        true => blob(asked, small),
        false => in_two_parts(large, &gate),
    });
    let yard = Yard::with(upstream.config(HOUR));
    let why = yard.get(&path(&of_small)).await.refused(502, "UNAVAILABLE");
    assert!(why.contains("its digest is"), "{why}");
    let answers = join_all((0..3).map(|_| yard.ask("GET", &path(&of_large)).open())).await;
    rest.notify_one();
    for (got, whole) in join_all(answers.into_iter().map(read)).await {
        assert!(!whole && got.len() < large.len(), "{} bytes", got.len());
    }
    until("everything of it to be removed", || nothing_is_kept(&yard)).await;
    assert!(yard.registry.repositories().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_elsewhere_gets_no_login_and_only_over_tls() {
    let bytes = content(MIB, 12);
    let digest = sha256(bytes);
    let storage = Scripted::start(move |asked| blob(asked, bytes));
    let location = format!("https://{}/signed?signature=hidden", storage.address);
    let upstream = Scripted::start(move |asked| {
        let mut response = status(307);
        match asked.header("authorization") {
            Some(_) => response.headers_mut().insert("location", location.parse().unwrap()),
            None => {
                response = status(401);
                response.headers_mut().insert("www-authenticate", "Basic realm=\"i\"".parse().unwrap())
            }
        };
        response
    });
    let mut mirror = upstream.mirror(HOUR);
    mirror.ca_pem = Some(format!("{}{}", upstream.ca_pem, storage.ca_pem).into_bytes());
    let yard = Yard::with(crate::scripted::mirroring(mirror));
    assert!(yard.get(&path(&digest)).await.body == bytes);
    let asked = storage.asked();
    assert_eq!((asked.len(), asked[0].query.as_str()), (1, "signature=hidden"));
    assert!(!asked[0].headers.contains_key("authorization") && !asked[0].headers.contains_key("referer"));
    assert_eq!(upstream.asked()[1].header("authorization").map(|text| &text[..6]), Some("Basic "));

    storage.stop().await;
    let why = yard.get(&path(&sha256(b"other"))).await.refused(502, "UNAVAILABLE");
    assert!(!why.contains("hidden"), "{why}");
    for elsewhere in ["http://127.0.0.1:1/plain?signature=hidden", "/v2/round/and/round"] {
        upstream.now(move |_| {
            let mut response = status(302);
            response.headers_mut().insert("location", elsewhere.parse().unwrap());
            response
        });
        let why = yard.get(&path(&sha256(b"other"))).await.refused(502, "UNAVAILABLE");
        assert!(!why.contains("hidden"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_trickles_is_not_waited_for() {
    let bytes = content(2 * MIB, 13);
    let upstream = Scripted::start(move |asked| {
        let (sender, body) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            for byte in bytes.chunks(1) {
                tick.tick().await;
                if sender.send(Ok::<_, std::io::Error>(Bytes::from_static(byte))).await.is_err() {
                    return;
                }
            }
        });
        let start = asked.header("range").map_or(0, |range| range[6..range.len() - 1].parse().unwrap());
        let mut response = Response::builder().header("content-length", bytes.len() - start);
        if start > 0 {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            response = response.status(206).header("content-range", range);
        }
        response.body(Body::from_stream(ReceiverStream::new(body))).unwrap()
    });
    let mut config = upstream.config(HOUR);
    config.limits.upstream_idle_time = Duration::from_millis(200);
    let yard = Yard::with(config);
    let tag = yard.get("/v2/hub/clock/manifests/1").await.refused(504, "UNAVAILABLE");
    assert!(tag.contains("does not answer in time for clock"), "{tag}");
    let (got, whole) = read(yard.ask("GET", &path(&sha256(bytes))).open().await).await;
    assert!(!whole && got.len() < 1000, "{}", got.len());
    until("the part to be removed", || nothing_is_kept(&yard)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_too_large_is_not_begun_and_one_that_hides_its_size_is_cut() {
    let huge = 64 * MIB as u64;
    let bytes = content(2 * MIB, 14);
    let upstream = Scripted::start(move |asked| match asked.path.ends_with(&sha256(bytes).hex()) {
        true => Response::new(Body::from_stream(tokio_stream::iter(
            bytes.chunks(16 << 10).map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece))),
        ))),
        false => Response::builder()
            .header("content-length", huge)
            .body(Body::from_stream(tokio_stream::pending::<Result<Bytes, std::io::Error>>()))
            .unwrap(),
    });
    let mut config = upstream.config(HOUR);
    config.limits.blob_bytes = MIB as u64;
    let yard = Yard::with(config);
    for digest in [sha256(b"huge"), sha256(bytes)] {
        let why = yard.get(&path(&digest)).await.refused(502, "UNAVAILABLE");
        assert!(why.contains("is larger than the 1048576 bytes"), "{why}");
    }
    until("everything of it to be removed", || nothing_is_kept(&yard)).await;

    // Within the limit an unannounced size is no reason to refuse.
    let yard = Yard::with(upstream.config(HOUR));
    assert!(yard.get(&path(&sha256(bytes))).await.body == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_killed_in_the_middle_shows_nothing_and_begins_anew() {
    let bytes = content(2 * MIB, 15);
    let digest = sha256(bytes);
    let upstream = Scripted::start(move |_| {
        let (sender, body) = mpsc::channel(1);
        tokio::spawn(async move {
            sender.send(Ok::<_, std::io::Error>(Bytes::from_static(&bytes[..MIB]))).await.unwrap();
            sender.closed().await;
        });
        let body = Body::from_stream(ReceiverStream::new(body));
        Response::builder().header("content-length", bytes.len()).body(body).unwrap()
    });
    let yard = Yard::with(upstream.config(HOUR));
    let mut body = yard.ask("GET", &path(&digest)).open().await.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(!files(&yard.path("uploads")).unwrap().is_empty());
    let yard = yard.restart().await;
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    tokio::time::timeout(Duration::from_secs(20), rest).await.expect("the old connection is not cut");
    assert!(nothing_is_kept(&yard));
    upstream.now(move |asked| blob(asked, bytes));
    assert!(yard.get(&path(&digest)).await.body == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_the_next_pull_may_succeed() {
    let bytes = content(200 << 10, 16);
    let digest = sha256(bytes);
    let uploads = Arc::new(OnceLock::<PathBuf>::new());
    let folder = uploads.clone();
    // Between two attempts nobody has the file open, and it becomes one that takes nothing.
    let upstream = Scripted::start(move |asked| {
        if asked.header("range").is_none() {
            return blob_until(asked, bytes, 100 << 10);
        }
        let uploads = folder.get().unwrap();
        let data = files(uploads).unwrap().into_iter().find(|path| path.ends_with("data")).unwrap();
        fs::remove_file(uploads.join(&data)).unwrap();
        symlink("/dev/full", uploads.join(&data)).unwrap();
        blob(asked, bytes)
    });
    let yard = Yard::with(upstream.config(HOUR));
    uploads.set(yard.path("uploads")).unwrap();
    let why = yard.get(&path(&digest)).await.refused(507, "UNKNOWN");
    assert!(why.contains("disk is full"), "{why}");
    until("the part to be removed", || nothing_is_kept(&yard)).await;
    upstream.now(move |asked| blob(asked, bytes));
    assert!(yard.get(&path(&digest)).await.body == bytes);
}
