//! The database: what it survives, what it refuses, and what stays true in whatever order
//! things happen.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{join_all, try_join_all};
use mergeyard_plan::{
    action::{Action, ImageAction},
    decide::{PlannedRun, PlannedStep, PlannedWorkflow, Verdict},
    event::{Forge, Repository},
    rules::{StepRules, WorkflowRules},
    run::Outcome,
};
use mergeyard_server::{
    config::Config,
    data_dir::{DataDir, DataDirError},
    serve::{Parts, Server},
    store::{Created, Delivery, Fuse, Lease, Pulse, Receipt, ReportError, Source, Store, StoreError},
    workers::Worker,
};
use mergeyard_testkit::{
    script::Act,
    yard::{TestYard, borrowed, service, two_services},
};
use mergeyard_types::{DeliveryId, RunId, State, StepId, Timestamp, TreeId};
use proptest::prelude::*;
use reqwest::StatusCode;
use sqlx::{ConnectOptions, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp(1_893_456_000_000);

#[tokio::test]
async fn an_empty_file_becomes_a_database_and_is_one_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    fs::write(&file, b"").unwrap();
    for round in 0..3 {
        let store = open(&file).await.unwrap();
        store.receive(delivery(&format!("d-{round}"))).await.unwrap();
        assert_eq!(ids(&store).await.len(), round + 1);
        store.close().await;
    }
    assert_eq!(ask(&file, "PRAGMA user_version").await, "3");
    assert_eq!(ask(&file, "PRAGMA integrity_check").await, "ok");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    fill(&file, 3).await;
    ask(&file, "PRAGMA user_version = 4").await;
    let before = fs::read(&file).unwrap();
    let error = open(&file).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "the database `{}` was written by a newer mergeyard (schema 4, this one knows 3); \
             start that version, or restore a backup",
            file.display()
        )
    );
    assert!(fs::read(&file).unwrap() == before);
}

#[tokio::test]
async fn a_database_of_version_1_is_brought_up_and_its_runs_go_on() {
    const ROWS: &str = r#"
        INSERT INTO runs (id, key, delivery, forge, repo, known_as, event, branch, commit_sha, hints, merged, title, author, state, created)
        VALUES (7, 'k', 'd-1', 'github', 'acme/clock', 'acme/clock', 'push', 'develop', '1111111111111111111111111111111111111111',
                '[]', 1, 'An old one', 'ada', 'running', 1);
        INSERT INTO workflows (id, run, name, axis, state, why) VALUES (1, 7, 'image', 'a', 'skipped', 'unchanged'), (2, 7, 'image', 'b', 'running', NULL);
        INSERT INTO steps (id, run, workflow, name, action, timeout, retry, merged, state, ready, not_before, attempt, started, finished)
        VALUES (1, 7, 2, 'first', '{"uses":"image","with":{"folder":"","name":"clock","version":"1","tree":"0707070707070707070707070707070707070707"}}',
                1000, 0, 1, 'running', 0, 1, 1, 1, NULL),
               (2, 7, 2, 'second', '{"uses":"image","with":{"folder":"","name":"clock","version":"2","tree":"0707070707070707070707070707070707070707"}}',
                1000, 0, 1, 'queued', 0, 1, 0, NULL, NULL);
        PRAGMA user_version = 1;
    "#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let mut old =
        SqliteConnectOptions::new().filename(&file).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(include_str!("../../server/src/store/schema/1.sql")).execute(&mut old).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&mut old).await.unwrap();
    sqlx::Connection::close(old).await.unwrap();

    let store = open(&file).await.unwrap();
    let page = store.run_page(RunId(7)).await.unwrap().unwrap();
    assert_eq!((page.run.title.as_str(), page.workflows[0].state), ("An old one", State::Skipped));
    assert!(store.claim_step(NOW, &[]).await.unwrap().is_none(), "the second follows the first, as it did");
    let (lease, beat) = store.leases().await.unwrap().remove(0);
    assert!(store.expire(&lease, beat, NOW).await.unwrap());
    for name in ["first", "second"] {
        let job = store.claim_step(NOW, &[]).await.unwrap().unwrap();
        assert_eq!(job.name, name);
        store.report(&job.lease, success(), NOW).await.unwrap();
    }
    let page = store.run_page(RunId(7)).await.unwrap().unwrap();
    assert_eq!((page.run.state, page.workflows[0].state), (State::Success, State::Skipped));
    assert_eq!(store.next_run().await.unwrap(), RunId(8));
    store.close().await;
    assert_eq!(ask(&file, "PRAGMA foreign_key_check").await, "");
}

#[tokio::test]
async fn a_migration_that_was_killed_at_any_byte_is_done_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let store = open(&file).await.unwrap();
    let (database, log) = (fs::read(&file).unwrap(), fs::read(wal(&file)).unwrap());
    store.close().await;
    assert!(log.len() > 10 * 4096, "the migration is in the write-ahead log");
    for cut in (0..log.len()).step_by(2731).chain([log.len() - 1, log.len()]) {
        let copy = folder.path().join(format!("cut-{cut}"));
        fs::write(&copy, &database).unwrap();
        fs::write(wal(&copy), &log[..cut]).unwrap();
        let store = open(&copy).await.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert_eq!(store.receive(delivery("d-1")).await.unwrap(), Receipt::Accepted, "cut at {cut}");
        store.close().await;
        assert_eq!(ask(&copy, "PRAGMA integrity_check").await, "ok", "cut at {cut}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    fill(&sound, 200).await;
    let bytes = fs::read(&sound).unwrap();
    let noise: Vec<u8> = noise().take(bytes.len()).collect();
    let damages: [(&str, Vec<u8>); 5] = [
        ("noise", noise.clone()),
        ("text", b"this is a note, not a database\n".repeat(100)),
        ("half", bytes[..bytes.len() / 2].to_vec()),
        ("one-page", bytes[..4096].to_vec()),
        ("noisy-first-page", [&noise[..4096], &bytes[4096..]].concat()),
    ];
    for (name, content) in damages {
        let file = folder.path().join(name);
        fs::write(&file, &content).unwrap();
        let error = open(&file).await.err().unwrap_or_else(|| panic!("{name} was opened"));
        assert!(matches!(error, StoreError::Damaged { .. }), "{name}: {error:?}");
        let said = error.to_string();
        assert!(said.contains(&file.display().to_string()), "{said}");
        assert!(said.ends_with("restore a backup of the data directory"), "{said}");
        assert!(fs::read(&file).unwrap() == content, "{name} was left as it was");
    }
}

#[tokio::test]
async fn no_server_starts_on_a_database_whose_inside_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDir::open(&folder.path().join("data")).unwrap();
    fill(&data.database(), 200).await;
    let mut bytes = fs::read(data.database()).unwrap();
    let noise = noise().take(bytes.len() - 4096);
    bytes.splice(4096.., noise);
    fs::write(data.database(), &bytes).unwrap();
    let error = Server::start(configuration(&data), parts()).await.err().expect("it does not start");
    let causes = chain(&error);
    assert!(causes.contains("malformed"), "{causes}");
}

#[tokio::test]
async fn a_torn_log_opens_to_what_was_durable_before_the_tear() {
    const MANY: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let store = open(&file).await.unwrap();
    // How long the write-ahead log was when each delivery had been answered.
    let mut durable = Vec::new();
    for n in 0..MANY {
        store.receive(delivery(&format!("d-{n}"))).await.unwrap();
        durable.push(fs::metadata(wal(&file)).unwrap().len() as usize);
    }
    let (database, log) = (fs::read(&file).unwrap(), fs::read(wal(&file)).unwrap());
    assert!(durable.is_sorted() && durable[MANY - 1] == log.len(), "nothing was moved over meanwhile");
    store.close().await;
    let mut noise = noise();
    let mut random = |below: usize| (0..8).fold(0, |n, _| n << 8 | noise.next().unwrap() as usize) % below;
    for round in 0..60 {
        let copy = folder.path().join(format!("copy-{round}"));
        let tear = durable[0] + random(log.len() - durable[0] + 1);
        let mut torn = log[..tear].to_vec();
        // Every other time the log is as long as it was, and wrong from some byte on.
        if round % 2 == 0 && tear < log.len() {
            torn = log.clone();
            torn[tear] ^= 1 << random(8);
        }
        fs::write(&copy, &database).unwrap();
        fs::write(wal(&copy), &torn).unwrap();
        let store = open(&copy).await.unwrap_or_else(|error| panic!("torn at {tear}: {error}"));
        let kept = durable.iter().filter(|end| **end <= tear).count();
        let mut found = ids(&store).await;
        found.reverse();
        let expected: Vec<_> = (0..kept).map(|n| format!("d-{n}")).collect();
        assert_eq!(found, expected, "torn at {tear}");
        let last = store.receive(delivery(&format!("d-{}", MANY - 1))).await.unwrap();
        let new = if kept < MANY { Receipt::Accepted } else { Receipt::Duplicate };
        assert_eq!(last, new, "what was lost is taken again");
        store.close().await;
        assert_eq!(ask(&copy, "PRAGMA integrity_check").await, "ok", "torn at {tear}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_and_a_command_line_lose_nothing_and_fail_nowhere() {
    const SENDERS: usize = 8;
    const EACH: usize = 40;
    const RUNS: u64 = 40;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("db");
    let server = open(&file).await.unwrap();
    let command_line = open(&file).await.unwrap();
    server.receive(delivery("d-replayed")).await.unwrap();
    let (reported, all_created) = (AtomicU64::new(0), AtomicBool::new(false));

    let senders = join_all((0..SENDERS).map(async |sender| {
        for n in 0..EACH {
            let receipt = server.receive(delivery(&format!("d-{sender}-{n}"))).await.unwrap();
            assert_eq!(receipt, Receipt::Accepted);
        }
    }));
    let planner = async {
        for commit in 1..=RUNS {
            create(&server, &plan(commit, None, &[&["a"], &["b"]])).await;
        }
        all_created.store(true, Ordering::SeqCst);
    };
    let workers = join_all((0..4).map(async |_| {
        loop {
            let last_look = all_created.load(Ordering::SeqCst);
            match server.claim_step(NOW, &[]).await.unwrap() {
                Some(job) => {
                    assert_eq!(server.heartbeat(&job.lease).await.unwrap(), Pulse::GoOn);
                    server.report(&job.lease, success(), NOW).await.unwrap();
                    reported.fetch_add(1, Ordering::SeqCst);
                }
                None if last_look => return,
                None => tokio::task::yield_now().await,
            }
        }
    }));
    let replayed = "d-replayed".parse().unwrap();
    let replays = async {
        for _ in 0..EACH {
            assert!(command_line.replay(&replayed, NOW).await.unwrap());
            command_line.check_writable().await.unwrap();
        }
    };
    tokio::join!(senders, planner, workers, replays);

    // A worker may have looked while another held the only step that was ready.
    while let Some(job) = server.claim_step(NOW, &[]).await.unwrap() {
        server.report(&job.lease, success(), NOW).await.unwrap();
        reported.fetch_add(1, Ordering::SeqCst);
    }
    assert_eq!(ids(&server).await.len(), 1 + SENDERS * EACH + RUNS as usize);
    assert_eq!(server.delivery(&replayed).await.unwrap().unwrap().replays, EACH as u32);
    assert_eq!(reported.load(Ordering::SeqCst), 2 * RUNS);
    for run in server.runs(None, None, 1000).await.unwrap() {
        assert_eq!(run.state, State::Success, "run {}", run.id);
        let page = server.run_page(run.id).await.unwrap().unwrap();
        assert!(page.workflows.iter().flat_map(|workflow| &workflow.steps).all(|step| step.attempt == 1));
    }
    assert!(server.leases().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let mut yard = TestYard::new().await;
    let data = DataDir::open(&yard.folder().join("data")).unwrap();
    let error = Server::start(configuration(&data), parts()).await.err().expect("the second is refused");
    let place = yard.folder().join("data");
    assert_eq!(
        error.to_string(),
        format!(
            "the data directory {} belongs to a mergeyard that runs; stop that one first, or set another `data_dir`",
            place.display()
        )
    );
    assert!(matches!(data.own(), Err(DataDirError::Owned(_))));
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.kill().await;
    yard.start(Fuse::endless()).await;
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success, "the first was not disturbed");
    yard.close().await;
}

#[tokio::test]
async fn a_step_that_kills_the_server_three_times_is_not_run_a_fourth_time() {
    let mut yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    mergeyard_server::inbox::turn(yard.yard()).await.unwrap();
    let mut poison = None;
    for crash in 1..=3 {
        let job = yard.yard().store.claim_step(yard.clock.now(), &[]).await.unwrap().unwrap();
        assert_eq!(*poison.get_or_insert(job.lease.step), job.lease.step, "crash {crash}");
        yard.kill().await;
        yard.start(Fuse::endless()).await;
    }
    yard.settle().await;
    let run = yard.run(1).await;
    let states: Vec<_> = run.workflows.iter().map(|workflow| workflow.state).collect();
    assert_eq!(states, [State::Error, State::Success], "the queue moved on");
    let why = run.workflows[0].why.as_deref().unwrap();
    assert_eq!(why, "the server died 3 times while running this step, so it is not run again");
    let status = yard.github.latest_status(
        &yard.repo(),
        yard.first.merge,
        "mergeyard/pull_request_merged/image/backend",
    );
    assert_eq!(status.unwrap().state, "error");
    yard.close().await;
}

#[tokio::test]
async fn a_locked_database_is_degraded_until_it_is_let_go_of() {
    let yard = TestYard::new().await;
    assert_eq!(ready(&yard).await, (StatusCode::OK, "ready".into()));
    let mut other = beside(&yard.folder().join("data/mergeyard.sqlite")).await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    assert_eq!(ready(&yard).await, (StatusCode::SERVICE_UNAVAILABLE, "degraded".into()));
    let alive = yard.http().get(format!("http://{}/healthz", yard.address())).send().await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK, "it lives, and must not be restarted for this");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(ready(&yard).await, (StatusCode::OK, "ready".into()));
    yard.close().await;
}

#[tokio::test]
async fn a_full_disk_is_said_survived_and_forgotten() {
    let Some(disk) = SmallDisk::mount() else { return };
    let data = disk.0.path().join("data");
    let mut yard = TestYard::with(two_services("0.1.0"), |config| {
        config["data_dir"] = data.display().to_string().into();
    })
    .await;
    yard.script.next("clock-backend", Act::Hang);
    let first = yard.merged(&yard.first);
    let second = yard.sample.merge_change("Raise", &borrowed(&service("backend", "0.2.0", "two"))).unwrap();
    let second = yard.merged(&second);
    yard.send("d-1", "pull_request", &first).await;
    let trouble = async {
        yard.script.hanging.notified().await;
        disk.fill();
        assert_eq!(ready(&yard).await, (StatusCode::SERVICE_UNAVAILABLE, "degraded".into()));
        let refused = yard.send("d-2", "pull_request", &second).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
        let store = &yard.yard().store;
        assert!(store.cancel_run(RunId(1), "no space", yard.clock.now()).await.is_err());
        let page = yard.http().get(format!("http://{}/runs/1", yard.address())).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK, "what is there can still be read");
        disk.empty();
        assert_eq!(ready(&yard).await, (StatusCode::OK, "ready".into()));
        assert_eq!(yard.send("d-2", "pull_request", &second).await.status, StatusCode::ACCEPTED);
        assert_eq!(store.cancel_run(RunId(1), "hung", yard.clock.now()).await.unwrap(), Some(true));
    };
    tokio::join!(yard.settle(), trouble);
    assert_eq!(yard.run(1).await.run.state, State::Cancelled);
    assert_eq!(yard.run(2).await.run.state, State::Success);
    assert_eq!(ask(&data.join("mergeyard.sqlite"), "PRAGMA integrity_check").await, "ok");
    yard.close().await;
}

#[tokio::test]
async fn bodies_go_after_their_time_and_what_became_of_them_stays() {
    const MANY: usize = 1500;
    let yard = TestYard::with(two_services("0.1.0"), |config| {
        config.insert("deliveries".into(), toml::toml!(keep_days = 1).into());
    })
    .await;
    let store = &yard.yard().store;
    let old: Vec<_> = (0..MANY)
        .map(|n| Delivery { ignored: Some("of no use".into()), ..delivery(&format!("d-{n}")) })
        .collect();
    // No more at once than may wait for the disk.
    for some in old.chunks(1000) {
        try_join_all(some.iter().cloned().map(|delivery| store.receive(delivery))).await.unwrap();
    }
    yard.send("d-waits", "pull_request", &yard.merged(&yard.first)).await;
    yard.advance(Duration::from_secs(24 * 3600));
    assert!(!Worker::Retention.turn(yard.yard()).await.unwrap(), "a day old is not too old");
    yard.advance(Duration::from_millis(1));
    let mut turns = 0;
    while Worker::Retention.turn(yard.yard()).await.unwrap() {
        turns += 1;
    }
    assert_eq!(turns, 2, "a bounded number at a time");
    for n in [0, 999, 1000, MANY - 1] {
        let id: DeliveryId = format!("d-{n}").parse().unwrap();
        assert_eq!(store.delivery_body(&id).await.unwrap(), None);
        assert!(!store.replay(&id, yard.clock.now()).await.unwrap(), "there is nothing left to decide");
        assert_eq!(yard.verdict(id.as_str()).await, "ignored: of no use");
        assert_eq!(
            store.receive(delivery(id.as_str())).await.unwrap(),
            Receipt::Duplicate,
            "it is still known"
        );
    }
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success, "what was not decided yet kept its body");
    while Worker::Retention.turn(yard.yard()).await.unwrap() {}
    assert_eq!(store.delivery_body(&"d-waits".parse().unwrap()).await.unwrap(), None);
    yard.close().await;
}

#[tokio::test]
async fn pages_show_everything_once_while_more_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("db")).await.unwrap();
    for commit in 1..=25 {
        let mut plan = plan(commit, None, &[&["a"]]);
        plan.repo = if commit % 3 == 0 { "acme/other" } else { "Acme/Clock" }.parse().unwrap();
        create(&store, &plan).await;
    }
    let newest_first = |mut ids: Vec<i64>| {
        ids.sort_by(|a, b| b.cmp(a));
        ids
    };
    let (mut deliveries, mut before) = (Vec::new(), None);
    loop {
        let page = store.deliveries(before, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.row);
        deliveries.extend(page.iter().map(|row| row.row));
        store.receive(delivery(&format!("d-late-{}", deliveries.len()))).await.unwrap();
    }
    assert_eq!(deliveries, newest_first((1..=25).collect()));
    for (repo, expected) in [
        (None, (1..=25).collect::<Vec<i64>>()),
        (Some("acme/clock"), (1..=25).filter(|n| n % 3 != 0).collect()),
        (Some("ACME/OTHER"), (1..=25).filter(|n| n % 3 == 0).collect()),
    ] {
        let repo = repo.map(|repo| repo.parse().unwrap());
        let (mut runs, mut before) = (Vec::new(), None);
        loop {
            let page = store.runs(repo.as_ref(), before, 4).await.unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.len() == 4 || runs.len() + page.len() == expected.len(), "pages are full");
            before = Some(last.id);
            runs.extend(page.iter().map(|run| run.id.0));
        }
        assert_eq!(runs, newest_first(expected), "{repo:?}");
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Merge {
        at: i64,
        supersede: bool,
        shape: usize,
    },
    Claim,
    Beat(usize),
    End(usize, usize),
    Expire(usize),
    HandOver(usize),
    Cancel(usize),
    /// Somebody who lost the lease speaks up.
    Haunt(usize),
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => (0..6_i64, prop::bool::weighted(0.2), 0..SHAPES.len())
            .prop_map(|(at, supersede, shape)| Deed::Merge { at, supersede, shape }),
        6 => Just(Deed::Claim),
        1 => any::<usize>().prop_map(Deed::Beat),
        4 => (any::<usize>(), 0..5_usize).prop_map(|(which, how)| Deed::End(which, how)),
        2 => any::<usize>().prop_map(Deed::Expire),
        1 => any::<usize>().prop_map(Deed::HandOver),
        1 => any::<usize>().prop_map(Deed::Cancel),
        2 => any::<usize>().prop_map(Deed::Haunt),
        1 => (0..100_u64).prop_map(Deed::Wait),
    ]
}

/// Workflows and their steps, by serial key. `free` has none.
const SHAPES: [&[&[&str]]; 5] = [
    &[&["a"]],
    &[&["a", "b"], &["b", "a"]],
    &[&["a"], &["a"], &["b"]],
    &[&["free", "a", "free"]],
    &[&["free"], &["b", "free"]],
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_order_things_happen_leases_stay_exclusive_and_every_run_ends(
        deeds in prop::collection::vec(deed(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut witness = Witness::new().await;
            for deed in deeds {
                witness.see(deed).await;
                witness.check().await;
            }
            witness.drain().await;
        });
    }
}

/// Does what it is told to a store, and remembers what must be so.
struct Witness {
    store: Store,
    now: Timestamp,
    held: Vec<Lease>,
    lost: Vec<Lease>,
    runs: Vec<RunId>,
    merged: BTreeMap<RunId, i64>,
    ended: BTreeMap<(RunId, Option<StepId>), State>,
    _folder: TempDir,
}

impl Witness {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("db")).await.unwrap();
        Self {
            store,
            now: NOW,
            held: Vec::new(),
            lost: Vec::new(),
            runs: Vec::new(),
            merged: BTreeMap::new(),
            ended: BTreeMap::new(),
            _folder: folder,
        }
    }

    async fn see(&mut self, deed: Deed) {
        match deed {
            Deed::Merge { at, supersede, shape } => {
                let merged = Timestamp(NOW.0 + at);
                let commit = self.runs.len() as u64 + 1;
                let mut plan = plan(commit, Some(merged), SHAPES[shape]);
                plan.supersede = supersede;
                let run = create(&self.store, &plan).await;
                self.runs.push(run);
                self.merged.insert(run, merged.0);
            }
            Deed::Claim => {
                self.claim().await;
            }
            Deed::Beat(which) => {
                if let Some(lease) = pick(&self.held, which) {
                    let cancel = self.store.run_page(lease.run).await.unwrap().unwrap().run.cancel;
                    let pulse = self.store.heartbeat(&lease).await.unwrap();
                    assert_eq!(pulse, cancel.map_or(Pulse::GoOn, Pulse::Cancel));
                }
            }
            Deed::End(which, how) => {
                if let Some(lease) = self.let_go(which) {
                    let message = "it said no".to_owned();
                    let outcome = match how {
                        0 => Outcome::Failure { message },
                        1 => Outcome::Error { message, retry: true },
                        2 => Outcome::Cancelled,
                        _ => success(),
                    };
                    self.store.report(&lease, outcome, self.now).await.unwrap();
                }
            }
            Deed::Expire(which) => {
                if let Some(lease) = self.let_go(which) {
                    let leases = self.store.leases().await.unwrap();
                    let (_, beat) = leases.into_iter().find(|(other, _)| *other == lease).unwrap();
                    assert!(!self.store.expire(&lease, beat + 1, self.now).await.unwrap(), "it lives");
                    assert!(self.store.expire(&lease, beat, self.now).await.unwrap());
                }
            }
            Deed::HandOver(which) => {
                if let Some(lease) = self.let_go(which) {
                    self.store.hand_over(&lease, self.now).await.unwrap();
                }
            }
            Deed::Cancel(which) => {
                if let Some(run) = pick(&self.runs, which) {
                    let over = self.store.run_page(run).await.unwrap().unwrap().run.state.is_final();
                    assert_eq!(self.store.cancel_run(run, "enough", self.now).await.unwrap(), Some(!over));
                }
            }
            Deed::Haunt(which) => {
                if let Some(lease) = pick(&self.lost, which) {
                    let report = self.store.report(&lease, success(), self.now).await;
                    assert!(matches!(report, Err(ReportError::Fenced(_))), "{lease:?} reported");
                    assert!(matches!(
                        self.store.hand_over(&lease, self.now).await,
                        Err(ReportError::Fenced(_))
                    ));
                    assert_eq!(self.store.heartbeat(&lease).await.unwrap(), Pulse::Fenced);
                    assert!(!self.store.expire(&lease, 0, self.now).await.unwrap());
                }
            }
            Deed::Wait(seconds) => self.now = self.now.plus(Duration::from_secs(seconds)),
        }
    }

    async fn claim(&mut self) -> bool {
        let Some(job) = self.store.claim_step(self.now, &[]).await.unwrap() else { return false };
        let lease = job.lease;
        assert!(!self.held.contains(&lease) && !self.lost.contains(&lease), "a lease was given twice");
        assert!(self.held.iter().all(|other| other.step != lease.step), "a step was given twice");
        if let Some(serial) = serial(&job.action) {
            let mine = (self.merged[&lease.run], lease.step);
            for (run, step, state) in self.steps_of(serial).await {
                let theirs = (self.merged[&run], step);
                assert!(theirs == mine || state != State::Running, "{step:?} runs beside {mine:?}");
                assert!(theirs >= mine || state.is_final(), "{theirs:?} was merged before {mine:?}");
            }
        }
        self.held.push(lease);
        true
    }

    fn let_go(&mut self, which: usize) -> Option<Lease> {
        let lease = pick(&self.held, which)?;
        self.held.retain(|other| *other != lease);
        self.lost.push(lease);
        Some(lease)
    }

    async fn steps_of(&self, key: &str) -> Vec<(RunId, StepId, State)> {
        let mut steps = Vec::new();
        for run in &self.runs {
            let page = self.store.run_page(*run).await.unwrap().unwrap();
            let all = page.workflows.into_iter().flat_map(|workflow| workflow.steps);
            steps.extend(all.filter(|s| serial(&s.action) == Some(key)).map(|s| (*run, s.id, s.state)));
        }
        steps
    }

    /// The store and the witness agree on who works, and what ended stays as it ended.
    async fn check(&mut self) {
        let leases: Vec<Lease> =
            self.store.leases().await.unwrap().into_iter().map(|(lease, _)| lease).collect();
        assert!(leases.len() == self.held.len() && leases.iter().all(|lease| self.held.contains(lease)));
        for run in self.runs.clone() {
            let page = self.store.run_page(run).await.unwrap().unwrap();
            let steps: Vec<_> = page.workflows.iter().flat_map(|workflow| &workflow.steps).collect();
            let all_ended = steps.iter().all(|step| step.state.is_final());
            assert_eq!(page.run.state.is_final(), all_ended, "run {run} is {}", page.run.state);
            assert_eq!(page.run.finished.is_some(), all_ended);
            let states = steps.iter().map(|step| (Some(step.id), step.state)).chain([(None, page.run.state)]);
            for (step, state) in states.filter(|(_, state)| state.is_final()) {
                let before = *self.ended.entry((run, step)).or_insert(state);
                assert_eq!(before, state, "{run:?} {step:?} had ended");
            }
        }
    }

    /// Lets everything succeed that still can: then everything has ended.
    async fn drain(&mut self) {
        loop {
            while self.let_go_with_success().await {}
            self.now = self.now.plus(Duration::from_secs(300));
            if !self.claim().await {
                break;
            }
        }
        self.check().await;
        for run in self.store.runs(None, None, 1000).await.unwrap() {
            assert!(run.state.is_final(), "run {} is still {}", run.id, run.state);
        }
    }

    async fn let_go_with_success(&mut self) -> bool {
        let Some(lease) = self.let_go(0) else { return false };
        self.store.report(&lease, success(), self.now).await.unwrap();
        true
    }
}

fn pick<T: Clone>(all: &[T], which: usize) -> Option<T> {
    all.get(which.checked_rem(all.len())?).cloned()
}

fn serial(action: &Action) -> Option<&str> {
    let Action::Image(image) = action else { panic!("no image") };
    Some(image.name.as_str()).filter(|name| *name != "free")
}

/// A run of one commit; the workflows' steps are named by their serial keys.
fn plan(commit: u64, merged_at: Option<Timestamp>, workflows: &[&[&str]]) -> PlannedRun {
    let step = |name: &&str| {
        let action = Action::Image(ImageAction {
            folder: String::new(),
            name: name.parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            tree: TreeId::new([7; 20]),
        });
        let serial = serial(&action).map(str::to_owned);
        PlannedStep {
            name: "image".into(),
            verdict: Verdict::Run,
            rules: StepRules { needs: vec![], ..StepRules::default() },
            action,
            timeout: Duration::from_secs(60),
            retry: 2,
            serial,
        }
    };
    let workflow = |steps: &&[&str]| PlannedWorkflow {
        rules: WorkflowRules::default(),
        name: "image".into(),
        axis: None,
        verdict: Verdict::Run,
        steps: steps.iter().map(step).collect(),
    };
    let repo: mergeyard_types::RepoName = "acme/clock".parse().unwrap();
    PlannedRun {
        forge: Forge::Github,
        repo: repo.clone(),
        known_as: repo,
        clone_url: None,
        source_url: None,
        event: "pull_request_merged".into(),
        branch: "develop".into(),
        commit: format!("{commit:040x}").parse().unwrap(),
        hints: vec![],
        merged_at,
        title: String::new(),
        author: String::new(),
        number: None,
        supersede: false,
        id: None,
        occasion: String::new(),
        facts: serde_json::json!({}),
        account: None,
        fork: false,
        hold: None,
        rerun_of: None,
        workflows: workflows.iter().map(workflow).collect(),
    }
}

async fn create(store: &Store, plan: &PlannedRun) -> RunId {
    let id = format!("d-run-{}", plan.commit);
    store.receive(delivery(&id)).await.unwrap();
    let repository = Repository::named(plan.repo.clone());
    match store.create_run(&id.parse().unwrap(), 0, &repository, plan, NOW).await.unwrap() {
        Created::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

fn success() -> Outcome {
    Outcome::Success { outputs: BTreeMap::new() }
}

fn delivery(id: &str) -> Delivery {
    Delivery {
        id: id.parse().unwrap(),
        source: Source::Github,
        event: "watch".into(),
        content_type: "application/json".into(),
        repo: None,
        body: mergeyard_server::payload::compress(b"{}"),
        body_size: 2,
        received: NOW,
        ignored: None,
    }
}

async fn open(file: &Path) -> Result<Store, StoreError> {
    Store::open(file, Arc::new(Fuse::endless())).await
}

/// A sound database with that many deliveries, all of it in the one file.
async fn fill(file: &Path, deliveries: usize) {
    let store = open(file).await.unwrap();
    for n in 0..deliveries {
        store.receive(delivery(&format!("d-{n}"))).await.unwrap();
    }
    store.close().await;
    assert!(!wal(file).exists(), "closing moved everything over");
}

async fn ids(store: &Store) -> Vec<String> {
    let rows = store.deliveries(None, 100_000).await.unwrap();
    rows.into_iter().map(|row| row.id.to_string()).collect()
}

fn wal(file: &Path) -> PathBuf {
    file.with_file_name([file.file_name().unwrap(), OsStr::new("-wal")].join(OsStr::new("")))
}

/// A connection of somebody else to the same file.
pub(crate) async fn beside(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).connect().await.unwrap()
}

/// The first word of the answer.
async fn ask(file: &Path, question: &'static str) -> String {
    use sqlx::Connection;
    let mut connection = beside(file).await;
    let row = sqlx::query(question).fetch_optional(&mut connection).await.unwrap();
    let answer = row.map(|row| row.try_get_unchecked::<String, _>(0).unwrap()).unwrap_or_default();
    connection.close().await.unwrap();
    answer
}

/// The same bytes every time, without a pattern.
fn noise() -> impl Iterator<Item = u8> {
    let next = |state: &u64| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    std::iter::successors(Some(0x9e37_79b9_7f4a_7c15), next).map(|state| (state >> 56) as u8)
}

fn configuration(data: &DataDir) -> Config {
    let text = format!(
        "data_dir = '{}'\n[http]\nlisten = '127.0.0.1:0'\n[git]\nwebhook_secret = 'the-secret-of-nobody'\n\
         [registry]\nlisten = '127.0.0.1:0'\n",
        data.database().parent().unwrap().display()
    );
    Config::from_table(text.parse().unwrap()).unwrap()
}

fn parts() -> Parts {
    Parts { workers: false, ..Parts::default() }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn ready(yard: &TestYard) -> (StatusCode, String) {
    let request = yard.http().get(format!("http://{}/readyz", yard.address()));
    let answer = mergeyard_testkit::yard::answer(request).await;
    (answer.status, answer.body["status"].as_str().unwrap_or_default().to_owned())
}

/// A file system of its own that can be full without harm to others.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Only root may mount. Where that is not allowed the test says so past the harness,
    /// which would swallow it.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(folder.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                let _ = writeln!(
                    std::io::stderr(),
                    "NOT TESTED: a full disk, because a small one cannot be mounted here: {other:?}"
                );
                None
            }
        }
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.path().join("filler")).unwrap();
        let full = std::iter::repeat_with(|| file.write_all(&[1; 4096])).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn empty(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}
