//! `uses: rollout` on the local engine: nobody notices a switch, nobody is left with a broken version.

#[path = "support/builds.rs"]
mod builds;
#[path = "support/registry.rs"]
mod registry;
#[path = "support/rollouts.rs"]
mod rollouts;
#[allow(dead_code, reason = "nothing is cut here")]
#[path = "yum_mirror/sshd.rs"]
mod sshd;
mod support;

use std::{sync::Arc, time::Duration};

use builds::{Yard, address_on_the_bridge, collect};
use mergeyard_run::{
    executor::StepOutcome,
    log::LogSink,
    look::{Seen, Sought, Way},
    target::{Reach, Ssh, Target},
};
use mergeyard_types::Secret;
use registry::Registry;
use rollouts::{Hammer, Stage, docker, free_port, get};
use serde_json::json;
use sshd::Sshd;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn versions_follow_each_other_and_no_request_fails() {
    let stage = Stage::start().await;
    let mut digests = Vec::new();
    for version in ["1.0", "2.0", "3.0", "4.0"] {
        digests.push(stage.publish(version, "").await);
    }
    let [one, two, three, four] = digests[..] else { panic!("there are four") };
    let first = stage.live(stage.action(one)).await;
    assert_eq!(first, format!("{} {}, for the first time", stage.service, one.short()));
    let hammers = [Hammer::start(stage.port, false), Hammer::start(stage.port, true)];
    let mut before = one;
    for digest in [two, three, four] {
        let summary = stage.live(stage.action(digest)).await;
        assert_eq!(summary, format!("{} {} → {}", stage.service, before.short(), digest.short()));
        assert_eq!(stage.versions().len(), 1, "{:?}", stage.versions());
        before = digest;
    }
    for hammer in hammers {
        let told = hammer.stop().await;
        assert_eq!(told.failures, Vec::<String>::new());
        assert_eq!(told.pages.keys().collect::<Vec<_>>(), ["1.0", "2.0", "3.0", "4.0"], "all were live");
        let asked: usize = told.pages.values().sum();
        println!("{asked} requests over three switches, and none failed");
    }
    let healthy = [one, two, three, four].map(|digest| format!("{} healthy", digest.short()));
    assert_eq!(stage.book.story(), healthy);

    // What is live stays as it is.
    let running = stage.versions();
    let summary = stage.live(stage.action(four)).await;
    assert_eq!(summary, format!("{} unchanged: {}", stage.service, four.short()));
    assert_eq!((stage.versions(), stage.book.story().len()), (running, 4));

    // A machine that starts again knows what it ran.
    let gateway = format!("mergeyard-gateway-{}", stage.service);
    docker(&["restart", &stage.versions()[0], &gateway]);
    until(async || get(stage.port).await.as_deref() == Ok("4.0")).await;

    // Going back is a rollout like any other.
    stage.live(stage.action(three)).await;
    assert_eq!(stage.page().await, "3.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_out_is_seen_there_until_somebody_takes_it_away() {
    let stage = Stage::start().await;
    let digest = stage.publish("1.0", "").await;
    let job = stage.job(stage.action(digest));
    let target = job.target.clone().unwrap();
    let sought = |way, digest| Sought {
        service: stage.service.clone(),
        way,
        image: Some(stage.service.parse().unwrap()),
        digest,
    };
    let wanted = [sought(Way::Rollout, digest), sought(Way::Playbook, digest)];
    let look = async || stage.yard.executor.look(&target, &wanted).await;
    assert_eq!(look().await, [Ok(Seen::Nothing), Ok(Seen::Untold)]);
    stage.live(stage.action(digest)).await;
    // By its labels, and by the image that its container was made from.
    assert_eq!(look().await, [Ok(Seen::Digest(digest)), Ok(Seen::Digest(digest))]);
    docker(&["rm", "--force", &stage.versions()[0]]);
    assert_eq!(look().await, [Ok(Seen::Nothing), Ok(Seen::Untold)]);
    let nowhere = Reach::Ssh(Ssh {
        address: "127.0.0.1".to_owned(),
        port: free_port(),
        user: "nobody".to_owned(),
        host_key: None,
        key: Secret::new(""),
    });
    let nowhere = Target { reach: nowhere, ..(*target).clone() };
    let seen = stage.yard.executor.look(&nowhere, &wanted).await;
    assert!(seen.iter().all(Result::is_err) && seen.len() == 2, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_work_never_takes_the_others_place() {
    let stage = Stage::start().await;
    let broken = stage.publish("0.1", "STATUS=503").await;
    let (outcome, log) = stage.run(stage.job(stage.action(broken))).await;
    let StepOutcome::Failure { message } = outcome else { panic!("{outcome:?}\n{log}") };
    let why = "fails its health check: it answers 503 in the place of 200: `0.1`";
    assert!(message.contains(why) && message.contains("there is none now"), "{message}");
    assert!(log.contains("this is 0.1"), "its last words are in the log:\n{log}");
    assert_eq!((stage.versions().len(), stage.gateways().len()), (0, 0));
    assert_eq!(stage.book.story(), ["back to nothing"]);

    let good = stage.publish("1.0", "").await;
    stage.live(stage.action(good)).await;
    let running = stage.versions();
    let hammer = Hammer::start(stage.port, false);
    let dies = stage.publish("1.1", "DIES=1").await;
    for (digest, why) in [(broken, "503"), (dies, "it ended with exit code 3 before it was healthy")] {
        let (outcome, log) = stage.run(stage.job(stage.action(digest))).await;
        let StepOutcome::Failure { message } = outcome else { panic!("{outcome:?}\n{log}") };
        assert!(message.contains(why) && message.ends_with("as before"), "{message}");
        assert_eq!(stage.versions(), running);
    }

    // Nobody waits for a version that never answers.
    let mut patient = stage.action(broken);
    patient.health.retries = 100_000;
    let cancel = CancellationToken::new();
    let job = stage.job(patient.clone());
    let (log, lines) = LogSink::channel(job.masker(), 1 << 20);
    let said = collect(lines);
    let (executor, cx) = (Arc::clone(&stage.yard.executor), stage.context(log, cancel.clone()));
    let step = tokio::spawn(async move { executor.run(job, cx).await });
    until(async || stage.versions().len() == 2).await;
    cancel.cancel();
    let outcome = step.await.unwrap();
    assert_eq!(outcome, StepOutcome::Cancelled, "{}", said.await.unwrap());
    assert_eq!(stage.versions(), running);
    let mut job = stage.job(patient);
    job.timeout = Duration::from_secs(4);
    let (outcome, _) = stage.run(job).await;
    assert_eq!(outcome, StepOutcome::Failure { message: "timed out after 4s".to_owned() });
    assert_eq!(stage.versions(), running);

    let told = hammer.stop().await;
    assert_eq!(told.failures, Vec::<String>::new());
    assert_eq!(told.pages.keys().collect::<Vec<_>>(), ["1.0"], "nobody ever saw another version");
    let back = format!("back to {}", good.short());
    let story = stage.book.story();
    assert!(story[2..].iter().all(|row| *row == back), "{story:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_cut_off_anywhere_ends_with_one_version() {
    let stage = Stage::start().await;
    let versions = [("1.0", stage.publish("1.0", "").await), ("2.0", stage.publish("2.0", "").await)];
    stage.live(stage.action(versions[0].1)).await;
    let hammer = Hammer::start(stage.port, false);
    let mut cuts = 0;
    loop {
        cuts += 1;
        let (page, digest) = versions[cuts % 2];
        let job = stage.job(stage.action(digest));
        let whole = stage.cut(job.clone(), cuts).await;
        let (outcome, log) = stage.run(job).await;
        assert!(matches!(outcome, StepOutcome::Success { .. }), "cut at {cuts}: {outcome:?}\n{log}");
        assert_eq!(stage.versions().len(), 1, "cut at {cuts}: {:?}\n{log}", stage.versions());
        assert_eq!(stage.page().await, page, "cut at {cuts}");
        let rows = stage.book.rows.lock().unwrap().clone();
        let row = rows.last().unwrap();
        assert_eq!(stage.book.story().last(), Some(&format!("{} healthy", digest.short())));
        assert_eq!(
            row.intent.before,
            Some(versions[(cuts + 1) % 2].1),
            "cut at {cuts}: what was before stays"
        );
        if whole.is_some() {
            break;
        }
    }
    let told = hammer.stop().await;
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(cuts >= 7, "a rollout has more moments than {cuts}");
    // The next merge finishes what nobody came back to.
    let (page, digest) = versions[cuts % 2];
    stage.cut(stage.job(stage.action(versions[(cuts + 1) % 2].1)), 5).await;
    stage.live(stage.action(digest)).await;
    assert_eq!((stage.versions().len(), stage.page().await.as_str()), (1, page));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_ports_and_settings_are_taken_over_or_nothing_changes() {
    let stage = Stage::start().await;
    let digest = stage.publish("1.0", "").await;
    let mut action = stage.action(digest);
    action.check = true;
    let (outcome, log) = stage.run(stage.job(action.clone())).await;
    let StepOutcome::Success { outputs } = outcome else { panic!("{outcome:?}\n{log}") };
    assert_eq!(outputs["summary"], format!("{} {}, for the first time", stage.service, digest.short()));
    assert!(log.contains("would make the gateway"), "{log}");
    assert_eq!((stage.versions().len(), stage.gateways().len()), (0, 0), "looking changes nothing");

    action.check = false;
    stage.live(action.clone()).await;
    let first = stage.versions();
    action.environment.insert("VERSION".to_owned(), json!("set"));
    assert!(stage.live(action.clone()).await.ends_with("started afresh"));
    assert_ne!(stage.versions(), first);
    assert_eq!(stage.page().await, "set");

    // A port that somebody else has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = stage.versions();
    let mut other = action.clone();
    other.publish = vec![format!("127.0.0.1:{}", taken.local_addr().unwrap().port())];
    let (outcome, log) = stage.run(stage.job(other.clone())).await;
    let StepOutcome::Failure { message } = outcome else { panic!("{outcome:?}\n{log}") };
    assert!(message.contains("address already in use") || message.contains("already allocated"), "{message}");
    assert_eq!((stage.page().await.as_str(), stage.versions()), ("set", second.clone()));

    // Another port: the container stays, only its gateway is another.
    let port = free_port();
    other.publish = vec![format!("127.0.0.1:{port}")];
    let (outcome, log) = stage.run(stage.job(other.clone())).await;
    assert!(matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}\n{log}");
    assert!(log.contains("connections are refused for a moment"), "{log}");
    assert_eq!((get(port).await.unwrap().as_str(), stage.versions()), ("set", second));
    assert!(get(stage.port).await.is_err(), "the old port is nobody's any more");

    // Another network, cut off in the middle of it.
    other.network = format!("{}-two", stage.network());
    for cut in [6, 8, 10, 12] {
        stage.cut(stage.job(other.clone()), cut).await;
    }
    stage.live(other).await;
    let gateways = stage.gateways();
    assert_eq!((stage.versions().len(), gateways.len()), (1, 1), "{gateways:?}");
    assert!(gateways[0].starts_with(&format!("mergeyard-gateway-{} ", stage.service)), "{gateways:?}");
    assert_eq!(get(port).await.unwrap(), "set");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_over_ssh_learns_the_registrys_authority_and_pulls_by_digest() {
    let yard = Yard::with(Registry::start_at(&address_on_the_bridge().await).await).await;
    let stage = Stage::on(yard).await;
    let digests = [stage.publish("1.0", "").await, stage.publish("2.0", "").await];
    // From here on this machine is the target, which knows nothing yet.
    let certificate = Certificate(format!("/etc/docker/certs.d/{}", stage.yard.registry.host()).into());
    std::fs::remove_dir_all(&certificate.0).unwrap();
    stage.forget_images();
    let sshd = Sshd::start("").await;
    for (digest, page) in digests.iter().zip(["1.0", "2.0"]) {
        let mut job = stage.job(stage.action(*digest));
        let target = Target { reach: Reach::Ssh(sshd.target()), ..(**job.target.as_ref().unwrap()).clone() };
        job.target = Some(Arc::new(target));
        let (outcome, log) = stage.run(job).await;
        assert!(matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}\n{log}");
        assert!(log.contains(&format!("pull {}", stage.yard.registry.host())), "{log}");
        assert_eq!(log.contains("wrote the registry's authority"), page == "1.0", "once:\n{log}");
        assert_eq!(stage.page().await, page);
    }
    assert_eq!((stage.versions().len(), stage.gateways().len()), (1, 1));
    let written = std::fs::read(certificate.0.join("ca.crt")).unwrap();
    assert_eq!(written, stage.yard.registry.ca);
}

/// What is written on a target stays there otherwise.
struct Certificate(std::path::PathBuf);

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Looks until it is so.
async fn until(holds: impl AsyncFn() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let seen = async {
        while !holds().await {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it never was so");
}
