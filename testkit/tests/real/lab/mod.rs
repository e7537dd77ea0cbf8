//! `examples/yum-lab`, from a merged list of packages to a machine that installs them: a real
//! mirror behind a real sshd, and a client with a leased address.

mod hosts;
mod roles;

use std::net::Ipv4Addr;

use hosts::Lab;
use mergeyard_server::sample::{SampleMerge, payload};
use mergeyard_testkit::{process::until, yard::answer};
use reqwest::StatusCode;
use serde_json::Value;

use super::{Files, RealYard, step, text};

const WHERE: &str = ".mergeyard/mirror.yml";

/// The example's own pipeline, with a list.
fn packages(list: &str) -> Files {
    let pipeline = std::fs::read(hosts::example().join(WHERE)).expect("the example has a pipeline");
    vec![(WHERE.to_owned(), pipeline), ("packages.txt".to_owned(), list.as_bytes().to_vec())]
}

/// A server with the lab's mirror as its target, and a repository whose list says `gnomon`.
async fn yard(lab: &Lab) -> RealYard {
    let mut yard = RealYard::with(packages("gnomon\n"), |config| {
        config.insert("target".into(), vec![lab.target.clone()].into());
        let repo = config["repo"].as_array_mut().expect("a list")[0].as_table_mut().expect("a table");
        repo.insert("targets".into(), vec![toml::Value::from("yum")].into());
    })
    .await;
    let first = yard.first.clone();
    let run = merged(&mut yard, &first).await;
    ended(&yard, &run, "success").await;
    yard
}

/// A merged pull request with another list.
async fn merge(yard: &mut RealYard, list: &str) -> Value {
    let merge = proposed(yard, list);
    merged(yard, &merge).await
}

fn proposed(yard: &mut RealYard, list: &str) -> SampleMerge {
    let files = [("packages.txt", list.as_bytes())];
    let merge = yard.sample.merge_change("Change the list", &files).expect("a merge");
    yard.github.set_files(yard.sample.name(), merge.number, vec!["packages.txt".to_owned()]);
    merge
}

async fn merged(yard: &mut RealYard, merge: &SampleMerge) -> Value {
    yard.announce(&format!("merge-{}", merge.number), merge).await;
    yard.finished(merge.number).await
}

/// Why the step ended as it was to end.
async fn ended(yard: &RealYard, run: &Value, state: &str) -> String {
    let step = step(run, "mirror", "mirror");
    assert_eq!(text(&step["state"]), state, "{run:#}\n{}", yard.log(run).await);
    text(&step["why"]).to_owned()
}

/// What GitHub is told of a pull request with another list.
async fn checked(yard: &mut RealYard, list: &str) -> String {
    let files = [("packages.txt", list.as_bytes())];
    let change = yard.sample.branch_change("Ask about the list", &files).expect("a branch");
    yard.github.set_files(yard.sample.name(), change.number, vec!["packages.txt".to_owned()]);
    let payload = payload::open_pull_request(&yard.sample.hosted(), &change, "opened");
    let answer = answer(yard.webhook("asked", &payload)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let run = yard.finished(change.number).await;
    ended(yard, &run, "success").await;
    until("GitHub to be told", async || {
        let told = yard.statuses().remove("mergeyard/pull_request/mirror");
        told.filter(|told| !told.starts_with("pending"))
    })
    .await
}

/// A merge whose large package has begun to arrive at the mirror, and will take its time.
async fn half_way(lab: &Lab, yard: &mut RealYard) {
    lab.publish(&["orrery", "1.0", "16"]).await;
    lab.good(&["slow", "200"]).await;
    let merge = proposed(yard, "gnomon\norrery\n");
    yard.announce("large", &merge).await;
    lab.upstream_sends(1 << 20).await;
}

/// That the run brought it in the end.
async fn arrived(lab: &Lab, yard: &RealYard, run: u64) {
    let run = yard.finished(run).await;
    ended(yard, &run, "success").await;
    assert_eq!(lab.offered().await, ["gnomon.noarch 1.0-1", "orrery.noarch 1.0-1"]);
    lab.install("orrery").await.good();
}

#[tokio::test]
async fn what_a_merge_lists_a_machine_with_a_leased_address_installs_and_what_it_removes_is_gone() {
    let lab = Lab::up().await;
    let mut yard = yard(&lab).await;
    let leased: Ipv4Addr = lab.leased().await.parse().expect("an address");
    assert!((Ipv4Addr::new(10, 77, 0, 100)..=Ipv4Addr::new(10, 77, 0, 150)).contains(&leased), "{leased}");
    assert_eq!(lab.offered().await, ["gnomon.noarch 1.0-1"]);
    yard.mergeyard(&["target", "check", "yum"]).await.good();

    lab.publish(&["sundial", "1.1"]).await;
    let list = "sundial # and with it gnomon\n";
    assert!(checked(&mut yard, list).await.starts_with("success +1 package, 2 with dependencies"));
    assert_eq!(lab.offered().await, ["gnomon.noarch 1.0-1"], "a pull request only asks");
    let run = merge(&mut yard, list).await;
    ended(&yard, &run, "success").await;
    lab.install("sundial").await.good();
    let said = lab.shell("client", "sh /srv/root/usr/bin/sundial").await;
    assert_eq!(said, "sundial 1.1 casts a shadow\n", "with what it depends on");

    let run = merge(&mut yard, "gnomon\n").await;
    ended(&yard, &run, "success").await;
    let said = lab.install("sundial").await;
    assert!(said.stderr.contains("Unable to find a match: sundial"), "{said}");
    assert_eq!(lab.offered().await, ["gnomon.noarch 1.0-1"]);

    yard.mergeyard(&["rollback", "yum"]).await.good();
    lab.install("sundial").await.good();
    yard.stop().await;
}

#[tokio::test]
async fn an_upstream_that_is_broken_leaves_the_mirror_as_it_was() {
    let lab = Lab::up().await;
    let mut yard = yard(&lab).await;
    let served = lab.served().await;
    let faults = [
        (
            "a signed package was replaced",
            "printf x | dd of=sundial-1.0-1.noarch.rpm bs=1 seek=4000 conv=notrunc",
        ),
        ("a package is not signed", "rpmsign --delsign sundial-1.0-1.noarch.rpm && createrepo_c -q ."),
        (
            "what lists the packages is no list",
            "touch *.rpm && createrepo_c -q . && for file in repodata/*-primary.xml*; do echo no >$file; done",
        ),
        ("there is nothing at all", "rm -r repodata"),
    ];
    lab.shell("upstream", "cp -a /srv/upstream /srv/whole").await;
    for (fault, how) in faults {
        lab.shell("upstream", &format!("cd /srv/upstream && {how}")).await;
        let run = merge(&mut yard, &format!("# {fault}\nsundial\n")).await;
        let why = ended(&yard, &run, "failure").await;
        assert!(why.contains("http://10.78.0.1/"), "{fault}: it is said whose fault it is: {why}");
        assert_eq!(lab.served().await, served, "{fault}");
        lab.shell("upstream", "rm -r /srv/upstream/* && cp -a /srv/whole/* /srv/upstream/").await;
    }
    lab.install("gnomon").await.good();
    let run = merge(&mut yard, "sundial\n").await;
    ended(&yard, &run, "success").await;
    lab.install("sundial").await.good();
    yard.stop().await;
}

#[tokio::test]
async fn an_upstream_that_is_cut_off_in_the_middle_of_a_transfer_changes_nothing_and_a_rerun_converges() {
    let lab = Lab::up().await;
    let mut yard = yard(&lab).await;
    let served = lab.served().await;
    half_way(&lab, &mut yard).await;
    lab.good(&["cut", "upstream"]).await;
    let run = yard.finished(2).await;
    let why = ended(&yard, &run, "failure").await;
    assert!(why.contains("http://10.78.0.1/"), "it is said what was cut: {why}");
    assert_eq!(lab.served().await, served);
    lab.install("gnomon").await.good();

    lab.good(&["mend", "upstream"]).await;
    lab.good(&["fast"]).await;
    yard.mergeyard(&["rerun", "2", "--failed"]).await.good();
    arrived(&lab, &yard, 3).await;
    yard.stop().await;
}

#[tokio::test]
async fn a_mirror_that_is_cut_off_in_the_middle_of_an_update_is_updated_as_soon_as_it_is_reached_again() {
    let lab = Lab::up().await;
    let mut yard = yard(&lab).await;
    let served = lab.served().await;
    half_way(&lab, &mut yard).await;
    lab.good(&["cut", "machine"]).await;
    let lost = |run: &Value| text(&step(run, "mirror", "mirror")["why"]).starts_with("attempt 1 of 4");
    yard.run_until(2, "the connection to be lost", lost).await;
    assert_eq!(lab.served().await, served);
    lab.good(&["mend", "machine"]).await;
    lab.good(&["fast"]).await;
    arrived(&lab, &yard, 2).await;
    yard.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_an_update_finishes_it_when_it_is_back() {
    let lab = Lab::up().await;
    let mut yard = yard(&lab).await;
    let served = lab.served().await;
    half_way(&lab, &mut yard).await;
    yard.kill().await;
    assert_eq!(lab.served().await, served);
    lab.good(&["fast"]).await;
    yard.start().await;
    arrived(&lab, &yard, 2).await;
    let snapshots = lab.shell("mirror", "ls /var/www/yum/snapshots").await;
    assert_eq!(snapshots.lines().count(), 2, "one for each list, and none by halves:\n{snapshots}");
    yard.stop().await;
}
