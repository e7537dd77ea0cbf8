//! The way of a delivery, told from the outside.

use std::time::Duration;

use mergeyard_run::log::Stream;
use mergeyard_server::{sample::payload, store::Pulse};
use mergeyard_testkit::{
    fake_github::Fault,
    script::Act,
    yard::{SECRET, TestYard, borrowed, service, two_services},
};
use mergeyard_types::{RunId, State};
use reqwest::StatusCode;

#[tokio::test]
async fn a_merged_pull_request_becomes_two_images_and_github_is_told() {
    let yard = TestYard::new().await;
    let answer = yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.body["state"], "queued");
    yard.settle().await;
    insta::assert_snapshot!(yard.world().await, @r"
    delivery d-1 done: started run 1
    run 1 pull_request_merged develop 9fb88d1e: success
      image/backend: success
      image/frontend: success
      image clock-backend:89c4aea78b1f 53ecbc27
      image clock-frontend:38375d595a41 166f950c
      github mergeyard/pull_request_merged/image/backend success: published REGISTRY/clock-backend:0.1.0
      github mergeyard/pull_request_merged/image/frontend success: published REGISTRY/clock-frontend:0.1.0
    registry clock-backend:0.1.0 sha256:89c4aea78b1f
    registry clock-frontend:0.1.0 sha256:38375d595a41
    ");
    let statuses = yard.github.statuses(&yard.repo(), yard.first.merge);
    let told: Vec<_> = statuses
        .iter()
        .map(|s| format!("{} {} {}", s.context, s.state, s.target_url.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            "mergeyard/pull_request_merged/image/backend pending https://ci.example.org/runs/1",
            "mergeyard/pull_request_merged/image/frontend pending https://ci.example.org/runs/1",
            "mergeyard/pull_request_merged/image/backend success https://ci.example.org/runs/1",
            "mergeyard/pull_request_merged/image/frontend success https://ci.example.org/runs/1",
        ]
    );
    yard.close().await;
}

#[tokio::test]
async fn what_did_not_change_is_not_built_again() {
    let mut yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let second = yard
        .sample
        .merge_change("Raise the backend", &borrowed(&service("backend", "0.2.0", "two")))
        .unwrap();
    yard.advance(Duration::from_secs(60));
    yard.send("d-2", "pull_request", &yard.merged(&second)).await;
    yard.settle().await;
    assert_eq!(yard.script.played().len(), 3, "{:?}", yard.script.played());
    let run = yard.run(2).await;
    assert_eq!(run.run.state, State::Success);
    let frontend = &run.workflows[1];
    assert_eq!(frontend.state, State::Skipped);
    assert!(
        frontend.why.as_deref().unwrap().starts_with("unchanged: clock-frontend:0.1.0 is already published")
    );
    yard.close().await;
}

#[tokio::test]
async fn a_version_is_immutable_and_the_sentence_says_what_to_raise() {
    let mut yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let before = yard.images.digest("clock-backend", "0.1.0").await;
    let second =
        yard.sample.merge_change("Forget to raise", &borrowed(&service("backend", "0.1.0", "two"))).unwrap();
    yard.send("d-2", "pull_request", &yard.merged(&second)).await;
    yard.settle().await;
    let backend = &yard.run(2).await.workflows[0];
    assert_eq!(backend.state, State::Failure);
    let why = backend.why.as_deref().unwrap();
    assert!(why.ends_with("raise service.version in backend/spec.json"), "{why}");
    assert_eq!(yard.images.digest("clock-backend", "0.1.0").await, before);
    let status =
        yard.github.latest_status(&yard.repo(), second.merge, "mergeyard/pull_request_merged/image/backend");
    assert_eq!(status.unwrap().state, "failure");
    yard.close().await;
}

#[tokio::test]
async fn the_merge_commit_is_built_even_when_the_branch_has_moved_on() {
    let mut yard = TestYard::new().await;
    yard.sample.merge_change("Move on", &borrowed(&two_services("0.9.0"))).unwrap();
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    assert!(yard.images.digest("clock-backend", "0.1.0").await.is_some());
    assert!(yard.images.digest("clock-backend", "0.9.0").await.is_none());
    yard.close().await;
}

#[tokio::test]
async fn every_no_has_a_reason_that_is_kept() {
    let mut yard = TestYard::new().await;
    let closed = payload::closed_pull_request(&yard.sample.hosted(), &yard.first);
    let push = payload::push(&yard.sample.hosted(), &yard.first);
    let mut elsewhere = yard.merged(&yard.first);
    elsewhere["pull_request"]["base"]["ref"] = "main".into();
    let mut unknown = yard.merged(&yard.first);
    unknown["repository"]["full_name"] = "acme/other".into();
    let empty = yard.sample.merge_update("Take both away", |git, update| {
        let _ = git;
        for path in ["backend/spec.json", "frontend/spec.json"] {
            update.remove(path);
        }
        Ok(())
    });
    let empty = yard.merged(&empty.unwrap());
    let events = [
        ("n-closed", "pull_request", closed),
        ("n-push", "push", push),
        ("n-branch", "pull_request", elsewhere),
        ("n-repo", "pull_request", unknown),
        ("n-nothing", "pull_request", empty),
        (
            "n-stars",
            "watch",
            serde_json::json!({"action": "started", "repository": yard.merged(&yard.first)["repository"]}),
        ),
    ];
    let mut verdicts = Vec::new();
    for (id, event, payload) in events {
        let answer = yard.send(id, event, &payload).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{id}");
        yard.settle().await;
        verdicts.push(format!("{id} {}", yard.verdict(id).await));
    }
    insta::assert_snapshot!(verdicts.join("\n"), @r#"
    n-closed ignored: no workflow runs on this `pull_request_closed`: `image`: the event is `pull_request_closed`, and it runs on `pull_request_merged, push` (image.yml:9)
    n-push ignored: commit 9fb88d1e has no pipeline files, and without any a push starts nothing: GitHub says a merge with a pull request event
    n-branch ignored: branch `main` is not among the branches configured for acme/clock: develop
    n-repo ignored: repository acme/other is not configured; add `[[repo]]` with `name = "acme/other"` to mergeyard.toml
    n-nothing ignored: commit 06725bdd has no folder with both a Dockerfile and a spec.json
    n-stars ignored: event `watch` with action `started` starts nothing here
    "#);
    assert!(yard.script.played().is_empty());
    yard.close().await;
}

#[tokio::test]
async fn trouble_that_passes_is_waited_out_and_trouble_that_stays_is_said() {
    let yard = TestYard::new().await;
    yard.script.next("clock-backend", Act::Stumble("the engine went away"));
    for _ in 0..4 {
        yard.script.next("clock-frontend", Act::Stumble("no space left on the engine"));
    }
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Queued, "both wait for another try");
    for _ in 0..4 {
        yard.advance(Duration::from_secs(130));
        yard.settle().await;
    }
    let run = yard.run(1).await;
    let told: Vec<_> =
        run.workflows.iter().map(|w| format!("{} {}", w.state, w.why.as_deref().unwrap_or("-"))).collect();
    assert_eq!(told, ["success -", "error no space left on the engine"]);
    assert_eq!(run.workflows[0].steps[0].attempt, 2);
    assert_eq!(run.workflows[1].steps[0].attempt, 4);
    yard.close().await;
}

#[tokio::test]
async fn a_step_that_panics_is_an_error_and_the_yard_goes_on() {
    let yard = TestYard::new().await;
    yard.script.next("clock-backend", Act::Panic);
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let states: Vec<_> = yard.run(1).await.workflows.iter().map(|w| w.state).collect();
    assert_eq!(states, [State::Error, State::Success]);
    yard.close().await;
}

#[tokio::test]
async fn a_run_is_cancelled_while_it_works_and_what_waits_with_it() {
    let yard = TestYard::new().await;
    yard.script.next("clock-backend", Act::Hang);
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    let cancel = async {
        yard.script.hanging.notified().await;
        let now = yard.clock.now();
        yard.yard().store.cancel_run(RunId(1), "not needed any more", now).await.unwrap();
    };
    tokio::join!(yard.settle(), cancel);
    let run = yard.run(1).await;
    assert_eq!(run.run.state, State::Cancelled);
    for workflow in &run.workflows {
        assert_eq!(workflow.state, State::Cancelled);
        assert_eq!(workflow.why.as_deref(), Some("not needed any more"));
    }
    assert_eq!(yard.script.played(), ["hang clock-backend:0.1.0"]);
    yard.close().await;
}

#[tokio::test]
async fn a_newer_merge_supersedes_an_older_one_that_waits_in_whatever_order_they_arrive() {
    for newer_first in [false, true] {
        let mut yard = TestYard::new().await;
        let second = yard.sample.merge_change("Newer", &borrowed(&two_services("0.2.0"))).unwrap();
        let (older, newer) = (yard.merged(&yard.first), yard.merged(&second));
        let order =
            if newer_first { [("d-2", &newer), ("d-1", &older)] } else { [("d-1", &older), ("d-2", &newer)] };
        for (id, payload) in order {
            yard.send(id, "pull_request", payload).await;
        }
        yard.settle().await;
        assert!(yard.images.digest("clock-backend", "0.2.0").await.is_some(), "newer first: {newer_first}");
        assert!(yard.images.digest("clock-backend", "0.1.0").await.is_none(), "newer first: {newer_first}");
        let states: Vec<_> = [1, 2].map(|id| id).to_vec();
        let mut cancelled = 0;
        for id in states {
            let run = yard.run(id).await.run;
            if run.state == State::Cancelled {
                cancelled += 1;
                assert!(run.cancel.unwrap().contains("which was merged later"));
            }
        }
        assert_eq!(cancelled, 1);
        yard.close().await;
    }
}

#[tokio::test]
async fn fifty_deliveries_with_one_id_start_one_run() {
    let yard = TestYard::new().await;
    let payload = yard.merged(&yard.first);
    let sent = (0..50).map(|_| yard.send("d-same", "pull_request", &payload));
    let answers = futures_util::future::join_all(sent).await;
    assert!(answers.iter().all(|answer| answer.status.is_success()));
    let accepted = answers.iter().filter(|answer| answer.status == StatusCode::ACCEPTED).count();
    assert_eq!(accepted, 1, "one was new, the others were known");
    yard.settle().await;
    assert_eq!(yard.yard().store.runs(None, None, 10).await.unwrap().len(), 1);
    yard.close().await;
}

#[tokio::test]
async fn one_merge_announced_by_two_webhooks_starts_one_run() {
    let yard = TestYard::new().await;
    let payload = yard.merged(&yard.first);
    yard.send("d-repo-hook", "pull_request", &payload).await;
    yard.send("d-org-hook", "pull_request", &payload).await;
    yard.settle().await;
    assert_eq!(yard.verdict("d-org-hook").await, "done: run 1 was already started for this commit");
    assert_eq!(yard.script.played().len(), 2);
    yard.close().await;
}

#[tokio::test]
async fn a_commit_that_is_gone_is_looked_for_a_few_times_and_then_said_to_be_gone() {
    let yard = TestYard::new().await;
    let mut payload = yard.merged(&yard.first);
    let gone = "00000000000000000000000000000000deadbeef";
    payload["pull_request"]["merge_commit_sha"] = gone.into();
    yard.send("d-1", "pull_request", &payload).await;
    for _ in 0..8 {
        yard.settle().await;
        yard.advance(Duration::from_secs(700));
    }
    let verdict = yard.verdict("d-1").await;
    assert!(verdict.starts_with("dead: ") && verdict.contains("is gone"), "{verdict}");
    let commit = gone.parse().unwrap();
    let status = yard.github.latest_status(&yard.repo(), commit, "mergeyard/pull_request_merged").unwrap();
    assert_eq!(status.state, "error");
    yard.close().await;
}

#[tokio::test]
async fn a_delivery_can_be_replayed_and_is_a_new_run() {
    let yard = TestYard::new().await;
    yard.script.next("clock-backend", Act::Fail("a typo in the Dockerfile"));
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Failure);
    let id = "d-1".parse().unwrap();
    assert!(yard.yard().store.replay(&id, yard.clock.now()).await.unwrap());
    yard.settle().await;
    let run = yard.run(2).await;
    assert_eq!(run.run.state, State::Success);
    assert_eq!(run.workflows[1].state, State::Skipped, "the frontend was published the first time");
    yard.close().await;
}

#[tokio::test]
async fn github_asking_for_a_pause_gets_it() {
    let yard = TestYard::new().await;
    yard.github.fail_next(1, Fault::SecondaryRateLimit { retry_after: Some(Duration::from_secs(90)) });
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    assert_eq!(yard.github.requests().len(), 1, "nothing more was asked of GitHub");
    yard.advance(Duration::from_secs(91));
    yard.settle().await;
    let status = yard.github.latest_status(
        &yard.repo(),
        yard.first.merge,
        "mergeyard/pull_request_merged/image/backend",
    );
    assert_eq!(status.unwrap().state, "success");
    yard.close().await;
}

#[tokio::test]
async fn what_github_never_accepts_is_given_up_where_a_person_sees_it() {
    let yard = TestYard::new().await;
    yard.github.fail_next(100, Fault::Unauthorized);
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let unsent = yard.yard().store.unsent_effects().await.unwrap();
    assert!(!unsent.is_empty() && unsent.iter().all(|effect| effect.state == "dead"), "{unsent:#?}");
    assert_eq!(yard.run(1).await.run.state, State::Success, "the images are published all the same");
    yard.close().await;
}

#[tokio::test]
async fn a_worker_that_stalled_past_its_lease_is_fenced_out() {
    let yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    let store = &yard.yard().store;
    mergeyard_server::inbox::turn(yard.yard()).await.unwrap();
    let stalled = store.claim_step(yard.clock.now(), &[]).await.unwrap().unwrap();
    let (lease, beat) = store.leases().await.unwrap().remove(0);
    assert!(store.expire(&lease, beat, yard.clock.now()).await.unwrap());
    assert_eq!(store.heartbeat(&stalled.lease).await.unwrap(), Pulse::Fenced);
    let outcome = mergeyard_plan::run::Outcome::Failure { message: "from the past".to_owned() };
    assert!(store.report(&stalled.lease, outcome, yard.clock.now()).await.is_err());
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success);
    yard.close().await;
}

#[tokio::test]
async fn a_clock_that_jumps_expires_nothing() {
    let yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    mergeyard_server::inbox::turn(yard.yard()).await.unwrap();
    let job = yard.yard().store.claim_step(yard.clock.now(), &[]).await.unwrap().unwrap();
    for _ in 0..3 {
        mergeyard_server::leases::turn(yard.yard()).await.unwrap();
        yard.advance(Duration::from_secs(3600));
    }
    assert_eq!(yard.yard().store.heartbeat(&job.lease).await.unwrap(), Pulse::GoOn);
    let outcome = mergeyard_plan::run::Outcome::Failure { message: "done with it".to_owned() };
    yard.yard().store.report(&job.lease, outcome, yard.clock.now()).await.unwrap();
    yard.settle().await;
    yard.close().await;
}

#[tokio::test]
async fn a_renamed_repository_keeps_its_policy_and_a_new_one_under_the_old_name_inherits_nothing() {
    let mut yard = TestYard::new().await;
    yard.github.add_repo(&"acme/sundial".parse().unwrap());
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let second = yard.sample.merge_change("Raise", &borrowed(&two_services("0.2.0"))).unwrap();
    let mut renamed = yard.merged(&second);
    renamed["repository"]["full_name"] = "acme/sundial".into();
    yard.send("d-2", "pull_request", &renamed).await;
    yard.settle().await;
    assert_eq!(yard.verdict("d-2").await, "done: started run 2");
    assert_eq!(yard.run(2).await.run.state, State::Success);
    let mut squatter = yard.merged(&second);
    squatter["repository"]["id"] = 666.into();
    yard.send("d-3", "pull_request", &squatter).await;
    yard.settle().await;
    let verdict = yard.verdict("d-3").await;
    assert!(verdict.contains("inherits nothing"), "{verdict}");
    yard.close().await;
}

#[tokio::test]
async fn the_log_of_a_step_is_kept_line_by_line() {
    let yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let run = yard.run(1).await;
    let step = run.workflows[0].steps[0].id;
    let piece = yard.yard().logs.read(RunId(1), step, 0, 1 << 20).await.unwrap();
    let said: Vec<_> = piece.lines.iter().map(|(_, line)| (line.stream, line.text.as_str())).collect();
    assert_eq!(said, [(Stream::Note, "playing clock-backend:0.1.0")]);
    let again = yard.yard().logs.read(RunId(1), step, piece.next, 1 << 20).await.unwrap();
    assert!(again.lines.is_empty());
    yard.close().await;
}

#[tokio::test]
async fn two_merges_that_ask_for_one_version_are_served_in_merge_order() {
    let mut yard = TestYard::with(two_services("0.1.0"), |config| {
        let repo = config["repo"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        repo.insert("supersede".to_owned(), false.into());
    })
    .await;
    let second =
        yard.sample.merge_change("Forget to raise", &borrowed(&service("backend", "0.1.0", "two"))).unwrap();
    yard.send("d-2", "pull_request", &yard.merged(&second)).await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let (newer, older) = (yard.run(1).await, yard.run(2).await);
    assert_eq!(older.workflows[0].state, State::Success, "the older merge came first");
    assert_eq!(newer.workflows[0].state, State::Failure);
    assert_eq!(
        older.images[0].digest.to_string(),
        yard.images.digest("clock-backend", "0.1.0").await.unwrap()
    );
    yard.close().await;
}

#[tokio::test]
async fn a_delivery_that_never_arrived_is_asked_for_and_becomes_a_run() {
    let mut yard = TestYard::new().await;
    let address = format!("http://{}/hooks/github", yard.address());
    yard.reconfigure(|config| {
        let base = address.trim_end_matches("/hooks/github");
        config["http"].as_table_mut().unwrap().insert("public_url".to_owned(), base.into());
        config["http"]
            .as_table_mut()
            .unwrap()
            .insert("listen".to_owned(), base.trim_start_matches("http://").into());
    })
    .await;
    yard.github.add_hook(&yard.repo(), |hook| {
        hook.url = address.clone();
        hook.secret = Some(mergeyard_types::Secret::new(SECRET));
        hook.events = vec!["pull_request".to_owned()];
    });
    yard.github.lose_next_delivery();
    let lost = yard.github.happen("pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    assert!(yard.yard().store.deliveries(None, 10).await.unwrap().is_empty(), "it was lost");
    mergeyard_server::missed::turn(yard.yard()).await.unwrap();
    yard.settle().await;
    assert_eq!(yard.verdict(lost[0].as_str()).await, "done: started run 1");
    mergeyard_server::missed::turn(yard.yard()).await.unwrap();
    assert_eq!(yard.yard().store.runs(None, None, 10).await.unwrap().len(), 1, "asked for once");

    // A repository that GitHub does not have keeps no other from being asked about.
    yard.reconfigure(|config| {
        let repos = config["repo"].as_array_mut().unwrap();
        repos.insert(0, toml::toml! { name = "acme/unknown" }.into());
    })
    .await;
    let said = yard.command_line(&["deliveries", "reconcile"], "").await;
    assert!(said.stdout.contains("acme/unknown: not compared"), "{said}");
    assert!(said.stdout.contains("acme/clock: 2 deliveries at GitHub, 0 never arrived"), "{said}");
    assert!(said.failed(1).contains("1 of 2 repositories could not be compared"));
    yard.close().await;
}

#[tokio::test]
async fn several_workers_decide_each_delivery_once() {
    let yard = TestYard::new().await;
    for n in 0..12 {
        yard.send(&format!("d-{n}"), "pull_request", &yard.merged(&yard.first)).await;
    }
    let worker = async || while mergeyard_server::inbox::turn(yard.yard()).await.unwrap() {};
    tokio::join!(worker(), worker(), worker(), worker());
    let decided = yard.yard().store.deliveries(None, 100).await.unwrap();
    let attempts: Vec<u32> = decided.iter().map(|row| row.attempts).collect();
    assert_eq!(attempts, [1; 12]);
    yard.settle().await;
    yard.close().await;
}
