//! `uses: yum-mirror` with real dnf, createrepo_c, rpm and sshd: what a mirror serves after a merge, and after
//! everything that can break on the way.

mod disk;
mod files;
mod lab;
#[path = "../support/registry.rs"]
mod registry;
mod rpms;
mod sshd;
#[path = "../support/steps.rs"]
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use axum::http::StatusCode;
use disk::Disk;
use files::Fault;
use lab::{Lab, names};
use mergeyard_run::{executor::StepOutcome, mirror::Served};
use rpms::{Rpm, rpm};

const UPSTREAM: [Rpm; 6] = [
    rpm("editor", "1.0", &["terminal"]),
    rpm("editor", "2.0", &["terminal"]),
    rpm("terminal", "3", &[]),
    rpm("web-server", "1.24.1", &["tls", "terminal"]),
    rpm("web-server", "1.26.0", &["tls"]),
    rpm("tls", "1", &[]),
];

fn short(lab: &Lab) -> String {
    lab.digest().hex()[..6].to_owned()
}

#[tokio::test]
async fn a_merge_brings_what_the_list_names_with_all_it_needs_and_lets_go_of_the_rest() {
    let lab = Lab::over_ssh(&UPSTREAM).await;

    let first = lab.merge("editor  # the newest\n").await;
    assert_eq!(first.changes(), ["+ editor-1:2.0-1.noarch", "+ terminal-1:3-1.noarch"]);
    assert!(first.summary().starts_with("+2 packages, 2 with dependencies, 2"), "{}", first.summary());
    assert_eq!(lab.client_finds().await, ["editor-1:2.0-1.noarch", "terminal-1:3-1.noarch"]);
    let (one, first) = (lab.digest(), short(&lab));
    assert_eq!(
        lab.book.read(),
        [
            format!("begin {first} after nothing while nothing is served"),
            format!("healthy while {first} is served")
        ]
    );

    let second = lab.merge("web-server-1.24*\n").await;
    let changes = ["+ tls-1:1-1.noarch", "+ web-server-1:1.24.1-1.noarch", "- editor-1:2.0-1.noarch"];
    assert_eq!(second.changes(), changes);
    assert_eq!(
        lab.served(),
        ["terminal-3-1.noarch.rpm", "tls-1-1.noarch.rpm", "web-server-1.24.1-1.noarch.rpm"]
    );
    // Only what was not there came, and what was is the same file.
    assert!(second.said.iter().any(|line| line.starts_with("packages to download: 2,")), "{:?}", second.said);
    let terminal = lab.root.join("current/Packages/terminal-3-1.noarch.rpm");
    assert_eq!(std::fs::metadata(terminal).unwrap().nlink(), 3);
    let second = short(&lab);
    assert_eq!(
        lab.book.read(),
        [
            format!("begin {second} after {first} while {first} is served"),
            format!("healthy while {second} is served")
        ]
    );

    let again = lab.merge("# as before\nweb-server-1.24*\n").await;
    assert!(again.summary().starts_with("unchanged, 3 with dependencies"), "{}", again.summary());
    assert_eq!(lab.book.read(), [""; 0]);

    let commit = lab.list("nothing-that-exists\n");
    let back = lab.start(lab.job(commit, |action| action.snapshot = Some(one))).end().await;
    assert!(back.summary().starts_with("+1 −2 packages, 2 with"), "{}", back.summary());
    assert_eq!(lab.client_finds().await, ["editor-1:2.0-1.noarch", "terminal-1:3-1.noarch"]);
}

#[tokio::test]
async fn a_dry_run_tells_the_difference_and_changes_nothing() {
    let lab = Lab::new(&UPSTREAM).await;
    lab.merge("editor-1.0\n").await.summary();
    let (before, root) = (lab.digest(), names(&lab.root));
    lab.book.read();

    let commit = lab.list("editor\n*server\n");
    let check = lab.start(lab.job(commit, |action| action.check = true)).end().await;
    let changes = [
        "+ editor-1:2.0-1.noarch",
        "+ tls-1:1-1.noarch",
        "+ web-server-1:1.26.0-1.noarch",
        "- editor-1:1.0-1.noarch",
    ];
    assert_eq!(check.changes(), changes);
    assert!(check.summary().starts_with("+3 −1 packages, 4 with dependencies, 4"), "{}", check.summary());
    assert_eq!((lab.digest(), names(&lab.root), lab.book.read()), (before, root, Vec::new()));

    let commit = lab.list("editor\nno-such-thing\n");
    let check = lab.start(lab.job(commit, |action| action.check = true)).end().await;
    let url = &lab.upstream.url;
    assert!(
        check.failure().contains(&format!("no package is named `no-such-thing` in lab ({url}/)")),
        "{check:?}"
    );
}

#[tokio::test]
async fn old_snapshots_and_what_only_they_held_go_and_the_last_ones_stay() {
    let lab = Lab::new(&UPSTREAM).await;
    for list in ["editor", "web-server", "tls", "terminal"] {
        lab.merge(list).await.summary();
    }
    assert_eq!(names(&lab.root.join("snapshots")).len(), 3);
    // What `editor` was of no snapshot has any more.
    assert_eq!(names(&lab.root.join("pool/unsigned/lab")).len(), 3);
    assert!(!lab.root.join("incoming").exists());
}

#[tokio::test]
async fn packages_that_exclude_each_other_are_mirrored_side_by_side() {
    let lab = Lab::new(&UPSTREAM).await;
    lab.merge("editor-1.0\neditor-2.0\n").await.summary();
    assert_eq!(
        lab.served(),
        ["editor-1.0-1.noarch.rpm", "editor-2.0-1.noarch.rpm", "terminal-3-1.noarch.rpm"]
    );
}

#[tokio::test]
async fn a_broken_upstream_leaves_the_mirror_as_it_was_and_is_named() {
    let lab = Lab::new(&UPSTREAM).await;
    lab.merge("editor\n").await.summary();
    let before = lab.digest();
    let url = lab.upstream.url.clone();

    lab.upstream.fail(Fault::Status("", StatusCode::SERVICE_UNAVAILABLE));
    let down = lab.merge("tls\n").await;
    assert!(down.failure().contains(&format!("upstream lab ({url}/) cannot be read")), "{down:?}");
    assert_eq!(lab.digest(), before);

    lab.upstream.fail(Fault::Status(".rpm", StatusCode::NOT_FOUND));
    let gone = lab.merge("tls\n").await;
    assert!(gone.failure().contains(&format!("{url}/noarch/tls-1-1.noarch.rpm")), "{gone:?}");
    assert_eq!(lab.digest(), before);

    lab.upstream.fail(Fault::Nothing);
    let repomd = lab.packages.join("repodata/repomd.xml");
    std::fs::write(&repomd, &std::fs::read(&repomd).unwrap()[..500]).unwrap();
    let malformed = lab.merge("tls\n").await;
    assert!(malformed.failure().contains(&format!("upstream lab ({url}/) cannot be read")), "{malformed:?}");
    assert_eq!(lab.digest(), before);

    rpms::index(&lab.packages);
    lab.merge("tls\n").await.summary();
    assert_eq!(lab.served(), ["tls-1-1.noarch.rpm"]);
}

#[tokio::test]
async fn a_corrupted_or_unsigned_package_is_refused_by_its_name() {
    let lab = Lab::new(&UPSTREAM).await;
    let (noarch, keys) = (lab.packages.join("noarch"), lab.steps.dir.path().join("keys"));
    rpms::make_key(&keys);
    rpms::sign(&keys, &noarch.join("terminal-3-1.noarch.rpm"));
    rpms::index(&lab.packages);
    lab.configure(&format!("gpgcheck=1\ngpgkey=file://{}", keys.join("key").display()));
    lab.merge("terminal\n").await.summary();
    let before = lab.digest();

    let unsigned = lab.merge("tls\n").await;
    assert!(unsigned.failure().contains("tls-1:1-1.noarch from lab"), "{unsigned:?}");
    assert!(unsigned.failure().contains("no valid signature"), "{unsigned:?}");
    assert_eq!(lab.digest(), before);

    let file = noarch.join("tls-1-1.noarch.rpm");
    rpms::sign(&keys, &file);
    rpms::index(&lab.packages);
    let whole = std::fs::read(&file).unwrap();
    let mut corrupted = whole.clone();
    let middle = corrupted.len() / 2;
    corrupted[middle] ^= 1;
    std::fs::write(&file, corrupted).unwrap();
    let corrupted = lab.merge("tls\n").await;
    assert!(corrupted.failure().contains("tls-1-1.noarch"), "{corrupted:?}");
    assert_eq!(lab.digest(), before);

    std::fs::write(&file, whole).unwrap();
    lab.merge("tls\n").await.summary();
    assert_eq!(lab.served(), ["tls-1-1.noarch.rpm"]);
}

#[tokio::test]
async fn a_link_that_is_cut_half_way_leaves_the_old_snapshot_and_the_next_try_goes_on() {
    let lab = Lab::over_ssh(&UPSTREAM).await;
    lab.merge("editor\n").await.summary();
    let before = lab.digest();

    lab.upstream.fail(Fault::Hold("tls-1-1"));
    let commit = lab.list("tls\n");
    let cut = lab.start(lab.job(commit, |_| {}));
    lab.upstream.holds().await;
    lab.sshd.as_ref().unwrap().cut();
    let cut = cut.end().await;
    assert!(matches!(cut.outcome, StepOutcome::Error { retry: true, .. }), "{cut:?}");
    assert_eq!(lab.digest(), before);
    assert_eq!(lab.client_finds().await, ["editor-1:2.0-1.noarch", "terminal-1:3-1.noarch"]);

    // Nobody let the first download go on: its program has ended, and with it its lock.
    lab.upstream.fail(Fault::Nothing);
    lab.start(lab.job(commit, |_| {})).end().await.summary();
    assert_eq!(lab.served(), ["tls-1-1.noarch.rpm"]);
}

#[tokio::test]
async fn of_two_updates_at_once_one_works_and_the_other_waits_and_says_for_whom() {
    let lab = Lab::new(&UPSTREAM).await;
    lab.upstream.fail(Fault::Hold("editor-2.0"));
    let (one, two) = (lab.list("editor\n"), lab.list("tls\n"));
    let first = lab.start(lab.job(one, |_| {}));
    lab.upstream.holds().await;

    let mut second = lab.start(lab.job(two, |_| {}));
    second.says(&format!("waiting for acme/clock at {}", one.short())).await;
    lab.upstream.release();
    assert_eq!(first.end().await.changes(), ["+ editor-1:2.0-1.noarch", "+ terminal-1:3-1.noarch"]);
    let second = second.end().await;
    let changes = ["+ tls-1:1-1.noarch", "- editor-1:2.0-1.noarch", "- terminal-1:3-1.noarch"];
    assert_eq!((second.changes(), lab.served()), (changes.to_vec(), vec!["tls-1-1.noarch.rpm".to_owned()]));
}

#[tokio::test]
async fn a_snapshot_that_is_not_seen_by_clients_is_taken_back() {
    let lab = Lab::new(&UPSTREAM).await;
    lab.merge("editor\n").await.summary();
    let before = lab.digest();
    lab.book.read();

    // A web server that knows of no new packages.
    lab.web.fail(Fault::Status("Packages/tls", StatusCode::FORBIDDEN));
    let unseen = lab.merge("tls\n").await;
    let said = format!("the previous snapshot {before} is back");
    assert!(unseen.failure().contains("403 Forbidden") && unseen.failure().contains(&said), "{unseen:?}");
    assert_eq!(lab.digest(), before);
    assert!(lab.book.read()[1].starts_with("rolled back"));

    // One that serves another folder.
    let old = lab.root.join("snapshots").join(before.hex());
    lab.web.fail(Fault::Nothing);
    lab.web.serve_instead(old);
    let stale = lab.merge("tls\n").await;
    assert!(stale.failure().contains(&format!("serves {before}, not")), "{stale:?}");
    assert_eq!(lab.digest(), before);

    lab.web.serve_instead(lab.root.join("current"));
    lab.merge("tls\n").await.summary();
    let target = lab.job(lab.list("tls\n"), |_| {}).target.unwrap();
    let served = Served::by(target.mirror.as_ref().unwrap()).unwrap();
    assert_eq!(served.digest().await, Ok(Some(lab.digest())));
}

#[tokio::test]
async fn a_server_that_is_killed_after_the_switch_proves_it_when_it_is_back() {
    let lab = Lab::over_ssh(&UPSTREAM).await;
    lab.merge("editor\n").await.summary();
    let old = short(&lab);
    lab.book.read();

    lab.web.fail(Fault::Hold("repomd.xml"));
    let commit = lab.list("tls\n");
    let killed = lab.start(lab.job(commit, |_| {}));
    lab.web.holds().await;
    killed.kill().await;
    lab.web.release();
    let new = short(&lab);
    assert_eq!(lab.book.read(), [format!("begin {new} after {old} while {old} is served")]);

    let again = lab.start(lab.job(commit, |_| {})).end().await;
    assert!(again.summary().starts_with("unchanged, 1 with dependencies"), "{again:?}");
    let begun = format!("begin {new} after {new} while {new} is served");
    assert_eq!(lab.book.read(), [begun, format!("healthy while {new} is served")]);
}

#[tokio::test]
async fn a_mirror_with_a_certificate_is_believed_by_its_authority_alone() {
    let mut lab = Lab::new(&UPSTREAM).await;
    let tls = lab.steps.dir.path().join("tls");
    std::fs::create_dir(&tls).unwrap();
    registry::certificates(&tls, "127.0.0.1", registry::Certificate::Good).await;
    lab.web = files::Files::serve_tls(lab.root.join("current"), &tls).await;
    let unknown = lab.merge("editor\n").await;
    assert!(unknown.failure().contains("UnknownIssuer"), "{unknown:?}");
    assert!(unknown.failure().contains("the mirror serves nothing, as before"), "{unknown:?}");
    assert!(!lab.root.join("current").exists());

    lab.ca = Some(std::fs::read(tls.join("ca.crt")).unwrap());
    lab.merge("editor\n").await.summary();
    assert_eq!(lab.served(), ["editor-2.0-1.noarch.rpm", "terminal-3-1.noarch.rpm"]);
}

#[tokio::test]
async fn a_full_disk_or_a_program_that_fails_is_shown_with_what_it_said() {
    let lab = Lab::over_ssh(&UPSTREAM).await;
    let disk = Disk::mount(&lab.root, "16m");
    lab.configure("gpgcheck=0");
    lab.merge("terminal\n").await.summary();
    let before = lab.digest();

    disk.fill();
    let full = lab.merge("editor\n").await;
    assert!(full.failure().contains("No space left on device"), "{full:?}");
    assert!(full.failure().contains("the mirror is as it was"), "{full:?}");
    assert_eq!(lab.digest(), before);
    disk.empty();

    // Here only the packages have no room: no file gets larger than some ten kilobytes.
    lab.at_login("ulimit -f 60");
    let large = lab.merge("editor\n").await;
    assert!(large.failure().contains("editor-2.0-1.noarch"), "{large:?}");
    assert!(large.failure().contains("the mirror is as it was"), "{large:?}");
    assert_eq!(lab.digest(), before);

    let programs = lab.steps.dir.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let program = programs.join("createrepo_c");
    std::fs::write(&program, "#!/bin/sh\necho 'no space left on device' >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    lab.at_login(&format!("PATH={}:$PATH", programs.display()));
    let failed = lab.merge("editor\n").await;
    assert!(failed.failure().contains("createrepo_c ended with 3: no space left on device"), "{failed:?}");
    assert!(failed.said.iter().any(|line| line.contains("no space left on device")), "{failed:?}");
    assert_eq!(lab.digest(), before);

    lab.at_login("PATH=/nowhere:/usr/bin/env");
    let bare = lab.merge("editor\n").await;
    assert!(bare.failure().contains("ended with exit code"), "{bare:?}");

    lab.at_login("");
    lab.merge("editor\n").await.summary();
    assert_eq!(lab.served(), ["editor-2.0-1.noarch.rpm", "terminal-3-1.noarch.rpm"]);
}
