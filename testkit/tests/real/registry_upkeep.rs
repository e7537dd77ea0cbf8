//! The registry under care while people push to it: collected, verified, killed, and on a disk that
//! has no room left.

use std::{
    fs::File,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use mergeyard_testkit::process::{self, tool};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;

use super::lone_registry::{LoneRegistry, RegistryUser, sha256};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes everything that repositories name as old as only patience makes it otherwise.
fn age(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("the registry has repositories").flatten() {
        if entry.path().is_dir() {
            age(&entry.path());
        } else if let Ok(file) = File::options().write(true).open(entry.path()) {
            file.set_modified(SystemTime::now() - 3 * DAY).expect("the file is ours");
        }
    }
}

#[tokio::test]
async fn gc_and_verify_work_on_a_registry_that_serves_and_on_one_that_rests() {
    let mut registry = LoneRegistry::new("[[registry.repository]]\nname = \"**\"\nkeep_last = 1\n");
    let missing = registry.command(&["gc"]).await.failed(1);
    assert!(missing.contains("there is no registry in"), "{missing}");
    registry.serve().await;
    let user = registry.client();
    for version in ["0.1.0", "0.2.0"] {
        let layers = [b"shared".to_vec(), version.repeat(1000).into_bytes()];
        assert_eq!(user.push("acme/clock", version, &layers).await, Some(StatusCode::CREATED));
    }
    age(&registry.path("data/registry/repositories"));
    user.push("acme/clock", "0.3.0", &[b"shared".to_vec()]).await.unwrap();

    let dry = registry.command(&["gc", "--dry-run"]).await.good();
    assert!(
        dry.contains("tag       acme/clock:0.1.0") && dry.contains("would remove 2 tags, 2 manifests"),
        "{dry}"
    );
    let json = registry.command(&["gc", "--dry-run", "--format", "json"]).await.good();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["collected"]["manifests"], &json["removed"][0]["tag"]), (&2.into(), &"0.2.0".into()));
    let served = registry.command(&["gc"]).await.good();
    assert_eq!(served.replace("removed", "would remove"), dry);
    assert_eq!(user.pull("acme/clock", "0.3.0").await, user.pull("acme/clock", "0.3.0").await);
    let gone = user.ask(Method::GET, "/v2/acme/clock/manifests/0.1.0").send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);

    let sound = registry.command(&["verify"]).await.good();
    assert!(sound.starts_with("read 3 contents, ") && sound.trim_end().ends_with("0 faults"), "{sound}");
    let layer = sha256(b"shared");
    std::fs::write(registry.path("data/registry/content/sha256").join(layer.hex()), "shaved").unwrap();
    let said = registry.command(&["verify", "--format", "json"]).await;
    assert_eq!(said.status.code(), Some(1), "{said}");
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(document["faults"][0]["fault"], "damaged");
    assert_eq!(user.push("acme/clock", "0.3.0", &[b"shared".to_vec()]).await, Some(StatusCode::CREATED));

    // Who did what is in the log.
    for line in ["pushed acme/clock:0.1.0", "deleted acme/clock:0.1.0", "pulled acme/clock:0.3.0"] {
        let told = registry.process().says(line).await;
        let by = if line.starts_with("deleted") { "by=retention" } else { "by=mergeyard" };
        assert!(told.contains(by), "{told}");
    }
    registry.stop().await;
    let sum: Value =
        serde_json::from_str(&registry.command(&["gc", "--format", "json"]).await.good()).unwrap();
    assert_eq!((&sum["collected"]["tags"], &sum["removed"]), (&0.into(), &Value::Array(vec![])));
    assert!(registry.command(&["verify"]).await.good().ends_with("0 faults\n"));
}

/// What clients were told is kept.
#[derive(Default)]
struct Told {
    kept: Vec<(String, Vec<Vec<u8>>)>,
}

/// Pushes until the registry goes away: versions that stay, and others that a rule removes as soon as
/// there is a newer one.
async fn push_until_the_end(
    user: RegistryUser,
    who: usize,
    round: usize,
    count: &AtomicUsize,
    more: &Notify,
) -> Told {
    let mut told = Told::default();
    for turn in 0.. {
        let layer = |n: usize| format!("layer {}", n % 5).repeat(2000).into_bytes();
        let layers = vec![layer(turn), layer(turn + who), format!("{who} {round} {turn}").into_bytes()];
        for kind in ["keep", "drop"] {
            let tag = format!("{kind}-{who}-{round}-{turn}");
            match user.push("acme/clock", &tag, &layers).await {
                Some(StatusCode::CREATED) if kind == "keep" => told.kept.push((tag, layers.clone())),
                Some(StatusCode::CREATED) => {}
                Some(other) => panic!("{tag}: {other}"),
                None => return told,
            }
            count.fetch_add(1, Ordering::SeqCst);
            more.notify_one();
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_pushes_and_collections_it_has_everything_it_promised() {
    let rules = "[[registry.repository]]\nname = \"**\"\nkeep_last = 1\nkeep_tags = [\"keep-*\"]\n";
    let mut registry = LoneRegistry::new(rules);
    let mut kept: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for round in 0..8 {
        registry.serve().await;
        let user = registry.client();
        for (tag, layers) in &kept {
            let expected: usize = layers.iter().map(Vec::len).sum();
            assert!(user.pull("acme/clock", tag).await > expected);
        }
        let (count, more) = (AtomicUsize::new(0), Notify::new());
        let pushes = |who| push_until_the_end(user.clone(), who, round, &count, &more);
        let collect = async {
            if round > 0 {
                age(&registry.path("data/registry/repositories"));
            }
            loop {
                let asked = user.ask(Method::POST, "/v2/_mergeyard/upkeep/collect").send().await;
                let Ok(answer) = asked else { return };
                let Ok(_) = answer.bytes().await else { return };
            }
        };
        // Another moment each time, counted in what the clients have reached.
        let end = async {
            while count.load(Ordering::SeqCst) < 4 + 5 * round {
                more.notified().await;
            }
            registry.process().signal(process::Signal::KILL);
        };
        let (one, two, (), ()) = tokio::join!(pushes(1), pushes(2), collect, end);
        registry.kill().await;
        kept.extend(one.kept);
        kept.extend(two.kept);
    }
    assert!(registry.command(&["verify"]).await.good().ends_with("0 faults\n"));
    age(&registry.path("data/registry/repositories"));
    let swept = registry.command(&["gc"]).await.good();
    registry.serve().await;
    let user = registry.client();
    for (tag, _) in &kept {
        user.pull("acme/clock", tag).await;
    }
    let list = user.ask(Method::GET, "/v2/acme/clock/tags/list").send().await.unwrap().json::<Value>().await;
    let tags = list.unwrap()["tags"].as_array().unwrap().len();
    // The newest of the others, and those whose push was cut off after its tag was there.
    assert!(
        (kept.len()..=kept.len() + 1 + 2 * 8).contains(&tags),
        "{tags} tags, {} promised: {swept}",
        kept.len()
    );
}

/// A small file system of its own, gone with the test.
struct Disk(std::path::PathBuf);

impl Disk {
    async fn new(folder: &Path, options: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mut mount = tool("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder);
        process::run(&mut mount).await.good();
        Self(folder.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn full_and_back(options: &str, fill: impl Fn(&Path)) {
    let mut registry = LoneRegistry::new("");
    let _disk = Disk::new(&registry.path("data"), options).await;
    registry.serve().await;
    let user = registry.client();
    assert_eq!(user.push("a", "1", &[vec![1; 100_000]]).await, Some(StatusCode::CREATED));
    let filler = registry.path("data/filler");
    fill(&filler);
    for _ in 0..3 {
        assert_eq!(user.push("a", "2", &[vec![2; 400_000]]).await, Some(StatusCode::INSUFFICIENT_STORAGE));
        assert!(user.pull("a", "1").await > 100_000);
    }
    // Collecting and verifying need no room, and find nothing half done.
    registry.command(&["gc"]).await.good();
    assert!(registry.command(&["verify"]).await.good().ends_with("0 faults\n"));
    if filler.is_dir() { std::fs::remove_dir_all(&filler) } else { std::fs::remove_file(&filler) }.unwrap();
    assert_eq!(user.push("a", "2", &[vec![2; 400_000]]).await, Some(StatusCode::CREATED));
    assert!(user.pull("a", "2").await > 400_000);
    registry.stop().await;
}

#[tokio::test]
async fn a_full_disk_takes_no_push_serves_every_pull_and_recovers_by_itself() {
    full_and_back("size=4m", |filler| {
        let mut file = File::create(filler).unwrap();
        let full = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    })
    .await;
}

#[tokio::test]
async fn without_inodes_it_is_the_same() {
    full_and_back("size=64m,nr_inodes=400", |filler| {
        std::fs::create_dir(filler).unwrap();
        let full = (0..).find_map(|n: usize| File::create(filler.join(n.to_string())).err()).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    })
    .await;
}
