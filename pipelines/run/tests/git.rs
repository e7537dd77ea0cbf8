//! Fetching and reading commits: real bare repositories, over `file://` and over a real
//! smart-HTTP server.

mod support;

use std::{path::Path, time::Duration};

use axum::{Router, http::StatusCode, response::IntoResponse};
use futures_util::StreamExt;
use mergeyard_run::git::{Commit, Entry, GitCache, GitError, GitLimits, Remote};
use mergeyard_types::{CommitSha, GitRef};
use support::{
    FILE, GitServer, PROGRAM, SUBMODULE, SYMLINK, bare, commit, file_remote, remote, repo_name, serve,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "ghs_S3cret/To+ken";
const DOCKERFILE: (&str, u32, &[u8]) = ("Dockerfile", FILE, b"FROM scratch\n");
const SPEC: (&str, u32, &[u8]) = ("spec.json", FILE, br#"{"service":{"name":"a","version":"1"}}"#);

fn cache(dir: &TempDir) -> GitCache {
    GitCache::new(dir.path().join("cache"), GitLimits::default()).unwrap()
}

fn small(dir: &TempDir, limits: GitLimits) -> GitCache {
    GitCache::new(dir.path().join("cache"), limits).unwrap()
}

async fn fetch(
    cache: &GitCache,
    remote: &Remote,
    commit: CommitSha,
    hints: &[GitRef],
) -> Result<Commit, GitError> {
    cache.fetch(&repo_name(), remote, commit, hints, &CancellationToken::new()).await
}

async fn tar_of(commit: &Commit, folder: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tar = commit.tar(folder, &CancellationToken::new());
    while let Some(chunk) = tar.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    bytes
}

fn names(tar: &[u8]) -> Vec<String> {
    tar::Archive::new(tar)
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect()
}

fn branch(name: &str) -> GitRef {
    GitRef::branch(name).unwrap()
}

fn pack_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let packs = dir.join("cache/acme%clock.git/objects/pack");
    std::fs::read_dir(packs).unwrap().map(|f| f.unwrap().path()).collect()
}

#[tokio::test]
async fn the_exact_commit_comes_although_the_branch_moved_on() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let merged = commit(&git, "develop", &[DOCKERFILE, SPEC, ("what", FILE, b"merged")]);
    for _ in 0..3 {
        commit(&git, "develop", &[DOCKERFILE, SPEC, ("what", FILE, b"later")]);
    }
    let server = GitServer::start(dir.path(), None).await;
    for remote in [file_remote(&dir.path().join("up.git")), remote(&format!("{}/up.git", server.url), None)] {
        let dir = tempfile::tempdir().unwrap();
        let found = fetch(&cache(&dir), &remote, merged, &[branch("develop")]).await.unwrap();
        assert_eq!(found.entry("what").await.unwrap(), Some(Entry::Blob(b"merged".to_vec())));
        assert_eq!(found.time().await.unwrap().0, 1_700_000_001_000);
        assert_eq!(
            pack_files(dir.path()).iter().filter(|f| f.extension().is_some_and(|e| e == "pack")).count(),
            1
        );
        let mirror = git2::Repository::open_bare(dir.path().join("cache/acme%clock.git")).unwrap();
        assert!(
            mirror.is_shallow()
                || mirror
                    .find_commit(git2::Oid::from_str(&merged.to_string()).unwrap())
                    .unwrap()
                    .parent_count()
                    == 0
        );
    }
}

#[tokio::test]
async fn a_server_that_hands_out_no_commit_by_name_is_asked_for_references() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let old = commit(&git, "develop", &[DOCKERFILE, SPEC, ("what", FILE, b"old")]);
    let tip = commit(&git, "develop", &[DOCKERFILE, SPEC, ("what", FILE, b"tip")]);
    // Without protocol version 2 the server only serves the tips it advertises.
    let server = serve(Router::new().fallback_service(OldGit::start(dir.path()).await)).await;
    let cache = cache(&dir);
    let remote = remote(&format!("{server}/up.git"), None);
    for (sha, what) in [(tip, "tip"), (old, "old")] {
        let hints = [branch("deleted"), branch("develop")];
        let found = fetch(&cache, &remote, sha, &hints).await.unwrap();
        assert_eq!(found.entry("what").await.unwrap(), Some(Entry::Blob(what.into())));
    }
}

/// A proxy in front of the git server that loses the protocol header, as old servers do.
struct OldGit;

impl OldGit {
    async fn start(root: &Path) -> axum::routing::MethodRouter {
        let server = GitServer::start(root, None).await;
        axum::routing::any(move |request: axum::extract::Request| {
            let base = server.url.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let url = format!("{base}{}", parts.uri);
                let mut forward = reqwest::Client::new().request(parts.method, url).body(body);
                for name in ["content-type", "content-encoding"] {
                    if let Some(value) = parts.headers.get(name) {
                        forward = forward.header(name, value);
                    }
                }
                let answer = forward.send().await.unwrap();
                let headers =
                    [("content-type", answer.headers()["content-type"].to_str().unwrap().to_owned())];
                (answer.status(), headers, answer.bytes().await.unwrap()).into_response()
            }
        })
    }
}

#[tokio::test]
async fn what_is_in_the_mirror_is_not_fetched_again_and_one_fetch_serves_all() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let sha = commit(&git, "develop", &[DOCKERFILE, SPEC]);
    let server = GitServer::start(dir.path(), None).await;
    let remote = remote(&format!("{}/up.git", server.url), None);
    let cache = cache(&dir);
    let all = futures_util::future::join_all((0..8).map(|_| fetch(&cache, &remote, sha, &[]))).await;
    assert!(all.into_iter().all(|found| found.is_ok()));
    let one = server.requests().iter().filter(|r| r.method == "GET").count();
    assert_eq!(one, 1, "{:?}", server.requests());
    fetch(&cache, &remote, sha, &[]).await.unwrap();
    assert_eq!(server.requests().iter().filter(|r| r.method == "GET").count(), 1);
}

#[tokio::test]
async fn a_commit_that_is_gone_is_said_to_be_gone() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    commit(&git, "develop", &[DOCKERFILE]);
    let gone: CommitSha = "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef".parse().unwrap();
    let server = GitServer::start(dir.path(), None).await;
    for remote in [file_remote(&dir.path().join("up.git")), remote(&format!("{}/up.git", server.url), None)] {
        let dir = tempfile::tempdir().unwrap();
        for hints in [vec![], vec![branch("develop")], vec![branch("deleted")]] {
            let error = fetch(&cache(&dir), &remote, gone, &hints).await.unwrap_err();
            assert_eq!(error, GitError::CommitGone { repo: repo_name(), commit: gone }, "{hints:?}");
            assert!(error.is_transient());
        }
    }
}

#[tokio::test]
async fn the_token_authenticates_and_a_wrong_one_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let sha = commit(&git, "develop", &[DOCKERFILE, SPEC]);
    let basic = format!(
        "Basic {}",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("x-access-token:{TOKEN}"))
    );
    let server = GitServer::start(dir.path(), Some(&basic)).await;
    let url = format!("{}/up.git", server.url);
    for token in [None, Some("wrong-token-123")] {
        let error = fetch(&cache(&dir), &remote(&url, token), sha, &[]).await.unwrap_err();
        assert!(matches!(error, GitError::Auth { .. }) && !error.is_transient(), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("wrong-token-123"));
    }
    fetch(&cache(&dir), &remote(&url, Some(TOKEN)), sha, &[]).await.unwrap();
    for file in walk(dir.path()) {
        let bytes = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains(TOKEN) && !text.contains(&basic),
            "the token is on the disk: {}",
            file.display()
        );
    }
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_token_that_the_server_quotes_is_masked() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(Router::new().fallback(|| async {
        let text = format!(
            "go away, {TOKEN}, {}",
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, TOKEN)
        );
        (StatusCode::FORBIDDEN, [("content-type", "text/plain")], text)
    }));
    let remote = remote(&format!("{}/up.git", server.await), Some(TOKEN));
    let error = fetch(&cache(&dir), &remote, CommitSha::new([1; 20]), &[]).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("go away") && shown.contains("****"), "{shown}");
    assert!(!shown.contains(TOKEN) && !shown.contains("Z2hzX1MzY3JldC9Ubytr"), "{shown}");
}

#[tokio::test]
async fn a_redirect_is_refused_and_the_credential_stays_here() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let sha = commit(&git, "develop", &[DOCKERFILE]);
    let other = GitServer::start(dir.path(), None).await;
    let target = other.url.clone();
    let server = serve(Router::new().fallback(move |uri: axum::http::Uri| {
        let to = format!("{target}{uri}");
        async move { (StatusCode::FOUND, [("location", to)]) }
    }));
    let remote = remote(&format!("{}/up.git", server.await), Some(TOKEN));
    let error = fetch(&cache(&dir), &remote, sha, &[branch("develop")]).await.unwrap_err();
    assert!(matches!(&error, GitError::Refused(why) if why.contains("redirect")), "{error}");
    assert!(other.requests().is_empty(), "{:?}", other.requests());
}

/// Says it is a git server and then sends one byte at a time, for ever. Hands out the
/// moment its peer is gone.
async fn trickle() -> (String, tokio::sync::oneshot::Receiver<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/up.git", listener.local_addr().unwrap());
    let (gone, closed) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(peer.read(&mut request).await.unwrap() > 0);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-advertisement\r\n\r\n";
        peer.write_all(head.as_bytes()).await.unwrap();
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                _ = tick.tick() => if peer.write_all(b"0").await.is_err() { break },
                read = peer.read(&mut request) => if matches!(read, Ok(0) | Err(_)) { break },
            }
        }
        let _ = gone.send(());
    });
    (url, closed)
}

#[tokio::test]
async fn a_trickling_server_is_left_in_time_and_nothing_keeps_running() {
    let dir = tempfile::tempdir().unwrap();
    let (url, closed) = trickle().await;
    let cache = small(&dir, GitLimits { fetch_timeout: Duration::from_millis(700), ..GitLimits::default() });
    let error = fetch(&cache, &remote(&url, None), CommitSha::new([1; 20]), &[]).await.unwrap_err();
    assert!(matches!(error, GitError::Timeout { .. }) && error.is_transient(), "{error:?}");
    // The connection belongs to a child of git's; it closes when that process is gone too.
    tokio::time::timeout(Duration::from_secs(5), closed)
        .await
        .expect("something still holds the connection")
        .unwrap();
}

#[tokio::test]
async fn cancelling_ends_a_fetch_and_its_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (url, closed) = trickle().await;
    let (cancel, cache) = (CancellationToken::new(), cache(&dir));
    let (repo, remote) = (repo_name(), remote(&url, None));
    let fetch = cache.fetch(&repo, &remote, CommitSha::new([1; 20]), &[], &cancel);
    let (error, ()) = tokio::join!(fetch, async { cancel.cancel() });
    assert_eq!(error.unwrap_err(), GitError::Cancelled);
    drop(closed);
    // The same by dropping the future once git is connected.
    let (url, closed) = trickle().await;
    let remote = support::remote(&url, None);
    let never = CancellationToken::new();
    let fetch = cache.fetch(&repo, &remote, CommitSha::new([2; 20]), &[], &never);
    assert!(tokio::time::timeout(Duration::from_millis(500), fetch).await.is_err());
    tokio::time::timeout(Duration::from_secs(5), closed)
        .await
        .expect("something still holds the connection")
        .unwrap();
}

#[tokio::test]
async fn what_a_killed_fetch_left_does_not_stop_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let remote = file_remote(&dir.path().join("up.git"));
    let cache = cache(&dir);
    let first = commit(&git, "develop", &[DOCKERFILE, SPEC]);
    fetch(&cache, &remote, first, &[]).await.unwrap();
    let second = commit(&git, "develop", &[DOCKERFILE]);
    let mirror = dir.path().join("cache/acme%clock.git");
    let kept = format!("refs/mergeyard/commits/{second}.lock");
    let left =
        ["shallow.lock", "packed-refs.lock", "HEAD.lock", "config.lock", &kept, "objects/pack/tmp_pack_x"];
    for file in left {
        std::fs::write(mirror.join(file), "").unwrap();
    }
    fetch(&cache, &remote, second, &[]).await.unwrap();
    assert!(left.iter().all(|file| !mirror.join(file).exists()));
}

#[tokio::test]
async fn too_large_a_pack_is_stopped_and_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        // Xorshift: nothing in it can be compressed.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(1_000_000)
    .collect();
    let sha = commit(&git, "develop", &[DOCKERFILE, ("noise", FILE, &noise)]);
    let cache = small(&dir, GitLimits { max_pack_bytes: 64 * 1024, ..GitLimits::default() });
    let error = fetch(&cache, &file_remote(&dir.path().join("up.git")), sha, &[]).await.unwrap_err();
    assert!(matches!(error, GitError::Limit { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!(pack_files(dir.path()), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_tree_of_too_many_files_is_refused_and_cleaned_up() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let paths: Vec<String> = (0..50).map(|i| format!("d{}/f{i}", i % 7)).collect();
    let files: Vec<_> = paths.iter().map(|p| (p.as_str(), FILE, b"x".as_slice())).collect();
    let sha = commit(&git, "develop", &files);
    let remote = file_remote(&dir.path().join("up.git"));
    let cache = small(&dir, GitLimits { max_tree_entries: 40, ..GitLimits::default() });
    for _ in 0..2 {
        let error = fetch(&cache, &remote, sha, &[]).await.unwrap_err();
        assert!(matches!(error, GitError::Limit { .. }), "{error:?}");
    }
    let mirror = git2::Repository::open_bare(dir.path().join("cache/acme%clock.git")).unwrap();
    assert!(mirror.find_reference(&format!("refs/mergeyard/commits/{sha}")).is_err());
}

#[tokio::test]
async fn a_damaged_mirror_is_noticed_and_cloned_anew() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let sha = commit(&git, "develop", &[DOCKERFILE, SPEC]);
    let remote = file_remote(&dir.path().join("up.git"));
    let damages: [fn(&Path); 3] = [
        |mirror| std::fs::remove_file(mirror.join("HEAD")).unwrap(),
        |mirror| std::fs::remove_dir_all(mirror.join("objects/pack")).unwrap(),
        |mirror| {
            for file in std::fs::read_dir(mirror.join("objects/pack")).unwrap() {
                let path = file.unwrap().path();
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, "garbage").unwrap();
            }
        },
    ];
    for damage in damages {
        fetch(&cache(&dir), &remote, sha, &[]).await.unwrap();
        damage(&dir.path().join("cache/acme%clock.git"));
        let found = fetch(&cache(&dir), &remote, sha, &[]).await.unwrap();
        assert_eq!(found.entry("spec.json").await.unwrap(), Some(Entry::Blob(SPEC.2.to_vec())));
    }
}

#[tokio::test]
async fn damage_found_while_reading_is_repaired_by_the_next_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let sha = commit(&git, "develop", &[DOCKERFILE, SPEC]);
    let remote = file_remote(&dir.path().join("up.git"));
    let cache = cache(&dir);
    let found = fetch(&cache, &remote, sha, &[]).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("cache/acme%clock.git/objects/pack")).unwrap();
    let error = found.image_folders().await.unwrap_err();
    assert!(matches!(error, GitError::Corrupt { .. }) && error.is_transient(), "{error:?}");
    let found = fetch(&cache, &remote, sha, &[]).await.unwrap();
    assert_eq!(found.image_folders().await.unwrap().len(), 1);
}

#[tokio::test]
async fn folders_with_both_files_are_found_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let large = vec![b' '; 2 << 20];
    let sha = commit(
        &git,
        "develop",
        &[
            ("backend/Dockerfile", FILE, b"FROM scratch\n"),
            ("backend/spec.json", FILE, b"{}"),
            ("evil/Dockerfile", SYMLINK, b"/etc/passwd"),
            ("evil/spec.json", SYMLINK, b"../../../../etc/passwd"),
            ("large/Dockerfile", FILE, b"FROM scratch\n"),
            ("large/spec.json", FILE, &large),
            ("only/Dockerfile", FILE, b"FROM scratch\n"),
            ("odd/Dockerfile/x", FILE, b"x"),
            ("odd/spec.json", SUBMODULE, b""),
            ("linked", SYMLINK, b"backend"),
        ],
    );
    let found = fetch(&cache(&dir), &file_remote(&dir.path().join("up.git")), sha, &[]).await.unwrap();
    let folders = found.image_folders().await.unwrap();
    let seen: Vec<_> = folders.iter().map(|f| (f.path.as_str(), &f.dockerfile, &f.spec)).collect();
    let from_scratch = Entry::Blob(b"FROM scratch\n".to_vec());
    assert_eq!(
        seen,
        [
            ("backend", &from_scratch, &Entry::Blob(b"{}".to_vec())),
            ("evil", &Entry::Symlink, &Entry::Symlink),
            ("large", &from_scratch, &Entry::TooLarge(2 << 20)),
            ("odd", &Entry::Other, &Entry::Other),
        ]
    );
    let tree = git.revparse_single(&format!("{sha}:backend")).unwrap().id().to_string();
    assert_eq!(folders[0].tree.to_string(), tree);
    let tar = tar_of(&found, "evil").await;
    let text = String::from_utf8_lossy(&tar);
    assert!(!text.contains("root:"), "a link was followed");
    let kinds: Vec<_> =
        tar::Archive::new(&tar[..]).entries().unwrap().map(|e| e.unwrap().header().entry_type()).collect();
    assert_eq!(kinds, [tar::EntryType::Symlink; 2]);
}

#[tokio::test]
async fn the_context_is_the_tree_with_its_modes_and_always_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let long = format!("{}/{}", "directory".repeat(12), "file".repeat(20));
    let big: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    let sha = commit(
        &git,
        "develop",
        &[
            ("app/Dockerfile", FILE, b"FROM scratch\n"),
            ("app/.dockerignore", FILE, b"*.log\n!keep.log\n"),
            ("app/a.log", FILE, b"no"),
            ("app/keep.log", FILE, b"yes"),
            ("app/run.sh", PROGRAM, b"#!/bin/sh\n"),
            ("app/link", SYMLINK, b"run.sh"),
            ("app/sub/big", FILE, &big),
            ("app/vendor", SUBMODULE, b""),
            (&format!("app/{long}"), FILE, b"long"),
            ("outside", FILE, b"no"),
        ],
    );
    let found = fetch(&cache(&dir), &file_remote(&dir.path().join("up.git")), sha, &[]).await.unwrap();
    let tar = tar_of(&found, "app").await;
    assert_eq!(tar, tar_of(&found, "app").await);
    let folder = format!("{}/", "directory".repeat(12));
    assert_eq!(
        names(&tar),
        [".dockerignore", "Dockerfile", &folder, &long, "keep.log", "link", "run.sh", "sub/", "sub/big"]
    );
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 1_700_000_001);
        let mut content = Vec::new();
        entry.read_to_end_into(&mut content);
        match entry.path().unwrap().to_str().unwrap() {
            "run.sh" => assert_eq!(entry.header().mode().unwrap(), 0o755),
            "link" => assert_eq!(entry.link_name().unwrap().unwrap().to_str(), Some("run.sh")),
            "sub/big" => assert_eq!(content, big),
            _ => {}
        }
    }
}

trait ReadInto {
    fn read_to_end_into(&mut self, content: &mut Vec<u8>);
}

impl<R: std::io::Read> ReadInto for R {
    fn read_to_end_into(&mut self, content: &mut Vec<u8>) {
        self.read_to_end(content).unwrap();
    }
}

#[tokio::test]
async fn a_file_over_the_limit_ends_the_context_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let sha = commit(&git, "develop", &[DOCKERFILE, ("big.bin", FILE, &[7; 2000])]);
    let cache = small(&dir, GitLimits { max_blob_bytes: 1000, ..GitLimits::default() });
    let found = fetch(&cache, &file_remote(&dir.path().join("up.git")), sha, &[]).await.unwrap();
    let chunks: Vec<_> = found.tar("", &CancellationToken::new()).collect().await;
    let error = chunks.into_iter().find_map(Result::err).unwrap();
    assert!(
        matches!(mergeyard_run::git::Context::cause(&error), Some(GitError::Limit { what, .. }) if what.contains("big.bin"))
    );
}

#[tokio::test]
async fn a_tree_that_climbs_out_of_its_folder_never_leaves_as_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let blob = git.blob(b"evil").unwrap();
    for name in ["..", "../evil", "/etc/evil", "a/../../evil"] {
        let entry = [b"100644 ".as_slice(), name.as_bytes(), b"\0", blob.as_bytes()].concat();
        let id = git.odb().unwrap().write(git2::ObjectType::Tree, &entry).unwrap();
        let who = git2::Signature::now("a", "a@example.org").unwrap();
        let header = format!(
            "tree {id}\nauthor {0} 1700000000 +0000\ncommitter {0} 1700000000 +0000\n\nx\n",
            format_args!("a <{}>", who.email().unwrap())
        );
        let commit = git.odb().unwrap().write(git2::ObjectType::Commit, header.as_bytes()).unwrap();
        let remote = file_remote(&dir.path().join("up.git"));
        let cache_dir = tempfile::tempdir().unwrap();
        let Ok(found) = fetch(&cache(&cache_dir), &remote, support::sha(commit), &[]).await else { continue };
        let chunks: Vec<_> = found.tar("", &CancellationToken::new()).collect().await;
        assert!(chunks.last().unwrap().is_err(), "{name} was sent");
    }
}

#[tokio::test]
async fn folders_of_this_machine_need_the_operators_word() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote { allow_file: false, ..file_remote(dir.path()) };
    let error = fetch(&cache(&dir), &remote, CommitSha::new([1; 20]), &[]).await.unwrap_err();
    assert!(matches!(&error, GitError::Refused(why) if why.contains("clone_url")), "{error}");
}

#[tokio::test]
async fn old_commits_are_forgotten_and_held_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let remote = file_remote(&dir.path().join("up.git"));
    let cache = cache(&dir);
    let mut shas = Vec::new();
    for i in 0..5u8 {
        shas.push(commit(&git, "develop", &[DOCKERFILE, SPEC, ("n", FILE, &[i])]));
    }
    let held = fetch(&cache, &remote, shas[0], &[]).await.unwrap();
    for sha in &shas[1..] {
        fetch(&cache, &remote, *sha, &[]).await.unwrap();
    }
    cache.prune(&repo_name(), 2).await.unwrap();
    let mirror = git2::Repository::open_bare(dir.path().join("cache/acme%clock.git")).unwrap();
    let kept: Vec<bool> = shas
        .iter()
        .map(|s| mirror.find_commit(git2::Oid::from_str(&s.to_string()).unwrap()).is_ok())
        .collect();
    assert_eq!(kept, [true, false, false, true, true]);
    assert_eq!(held.entry("n").await.unwrap(), Some(Entry::Blob(vec![0])));
    let again = fetch(&cache, &remote, shas[1], &[]).await.unwrap();
    assert_eq!(again.entry("n").await.unwrap(), Some(Entry::Blob(vec![1])));
}

/// Runs itself again in a process whose home and git configuration are an attacker's.
#[tokio::test]
async fn nothing_of_a_repository_or_a_users_configuration_is_executed() {
    const INNER: &str = "MERGEYARD_TEST_EVIL";
    if let Some(marker) = std::env::var_os(INNER) {
        return fetch_something_evil(Path::new(&marker)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let (marker, hooks) = (dir.path().join("executed"), dir.path().join("hooks"));
    std::fs::create_dir_all(dir.path().join("template/hooks")).unwrap();
    std::fs::create_dir_all(&hooks).unwrap();
    for folder in [&hooks, &dir.path().join("template/hooks")] {
        for hook in ["reference-transaction", "post-checkout", "post-merge", "pre-auto-gc"] {
            let path = folder.join(hook);
            std::fs::write(&path, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
    let config = format!(
        "[core]\nhooksPath = {0}\nfsmonitor = touch {1}\n[init]\ntemplateDir = {2}\n[url \"file:///nowhere\"]\ninsteadOf = file://\n\
         [uploadpack]\npackObjectsHook = touch {1}; false\n[filter \"evil\"]\nsmudge = touch {1}\n[fetch]\nrecurseSubmodules = true\n",
        hooks.display(),
        marker.display(),
        dir.path().join("template").display()
    );
    std::fs::write(dir.path().join(".gitconfig"), config).unwrap();
    let name = "nothing_of_a_repository_or_a_users_configuration_is_executed";
    let inner = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INNER, &marker)
        .env("HOME", dir.path())
        .env("GIT_CONFIG_GLOBAL", dir.path().join(".gitconfig"))
        .env("GIT_TEMPLATE_DIR", dir.path().join("template"))
        .output()
        .await
        .unwrap();
    assert!(inner.status.success(), "{}", String::from_utf8_lossy(&inner.stdout));
    assert!(!marker.exists(), "something was executed");
}

async fn fetch_something_evil(marker: &Path) {
    let dir = tempfile::tempdir().unwrap();
    // Made without configuration of its own, so that only the fetch is under test.
    let mut options = git2::RepositoryInitOptions::new();
    let git =
        git2::Repository::init_opts(dir.path().join("up.git"), options.bare(true).external_template(false))
            .unwrap();
    let modules = format!("[submodule \"s\"]\npath = s\nurl = ext::touch%20{}\n", marker.display());
    let sha = commit(
        &git,
        "develop",
        &[
            DOCKERFILE,
            SPEC,
            (".gitattributes", FILE, b"* filter=evil diff=evil\n"),
            (".gitmodules", FILE, modules.as_bytes()),
            ("s", SUBMODULE, b""),
            (".lfsconfig", FILE, b"[lfs]\nurl = http://127.0.0.1:1/\n"),
        ],
    );
    let found = fetch(&cache(&dir), &file_remote(&dir.path().join("up.git")), sha, &[branch("develop")])
        .await
        .unwrap();
    assert_eq!(found.image_folders().await.unwrap().len(), 1);
    tar_of(&found, "").await;
    assert!(!marker.exists());
}

#[tokio::test]
async fn a_tip_is_asked_for_without_fetching_and_the_default_branch_by_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    commit(&git, "develop", &[DOCKERFILE]);
    let tip = commit(&git, "develop", &[DOCKERFILE, SPEC]);
    git.set_head("refs/heads/develop").unwrap();
    let server = GitServer::start(dir.path(), None).await;
    for remote in [file_remote(&dir.path().join("up.git")), remote(&format!("{}/up.git", server.url), None)] {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir);
        let ask = |git_ref: Option<GitRef>| {
            let (cache, remote) = (&cache, &remote);
            async move { cache.tip(&repo_name(), remote, git_ref.as_ref(), &CancellationToken::new()).await }
        };
        for git_ref in [None, Some(branch("develop"))] {
            let found = ask(git_ref).await.unwrap().unwrap();
            assert_eq!((found.git_ref, found.commit), (branch("develop"), tip));
        }
        assert_eq!(ask(Some(branch("gone"))).await.unwrap(), None);
        assert!(!dir.path().join("cache/acme%clock.git").exists(), "nothing was fetched");
    }
    let nowhere = file_remote(&dir.path().join("nowhere.git"));
    assert!(cache(&dir).tip(&repo_name(), &nowhere, None, &CancellationToken::new()).await.is_err());
}

#[tokio::test]
async fn what_differs_between_two_commits_is_read_from_their_trees_alone() {
    let dir = tempfile::tempdir().unwrap();
    let git = bare(&dir.path().join("up.git"));
    let before = commit(&git, "develop", &[DOCKERFILE, SPEC, ("src/gone", FILE, b"1")]);
    let after = commit(&git, "develop", &[DOCKERFILE, ("spec.json", FILE, b"2"), ("src/new", FILE, b"1")]);
    let remote = file_remote(&dir.path().join("up.git"));
    let cache = cache(&dir);
    let (before, after) = (
        fetch(&cache, &remote, before, &[]).await.unwrap(),
        fetch(&cache, &remote, after, &[]).await.unwrap(),
    );
    let changed = after.changed_since(&before).await.unwrap().unwrap();
    assert_eq!(changed, ["spec.json", "src/gone", "src/new"]);
    assert_eq!(after.made().await.unwrap().parents, [before.sha()], "known although it was fetched alone");
    let names = |found: Vec<(String, Entry)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(after.entries("src", |_| true).await.unwrap()), ["new"]);
    for folder in ["nothing", "spec.json", "src/new/x"] {
        assert_eq!(names(after.entries(folder, |_| true).await.unwrap()), [""; 0], "{folder}");
    }
}
