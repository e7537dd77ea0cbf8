//! From an event to the steps of a repository's own pipeline files, and back to the commit it
//! was about.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use mergeyard_plan::{
    event::{Asked, AskedKind},
    run::{Answer, Scope},
};
use mergeyard_server::{asked, clock::Clock, sample::payload, store::Answered, workers::Worker};
use mergeyard_testkit::{
    script::Act,
    yard::{TestYard, two_services},
};
use mergeyard_types::{CommitSha, RunId, State};
use serde_json::Value;

const BUILD: &str =
    "when:\n  event: [push, pull_request]\nsteps:\n  test:\n    image: debian\n    commands: [make test]\n";

const SHIP: &str =
    "when:\n  event: pull_request_merged\nsteps:\n  ship:\n    image: debian\n    commands: [make ship]\n";

fn files(pipelines: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    pipelines.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
}

async fn yard(pipelines: &[(&str, &str)]) -> TestYard {
    yard_with(pipelines, |_| {}).await
}

async fn yard_with(pipelines: &[(&str, &str)], configure: impl FnOnce(&mut toml::Table)) -> TestYard {
    TestYard::with(files(pipelines), configure).await
}

fn repo_key(config: &mut toml::Table, key: &str, value: toml::Value) {
    let repo = config["repo"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
    repo.insert(key.to_owned(), value);
}

fn push(yard: &TestYard) -> Value {
    payload::push(&yard.sample.hosted(), &yard.first)
}

fn opened(yard: &TestYard) -> Value {
    payload::open_pull_request(&yard.sample.hosted(), &yard.first, "opened")
}

/// The variables a step was given when it was last run.
fn given(yard: &TestYard, step: &str) -> BTreeMap<String, String> {
    yard.script.given(step).environment.into_iter().collect()
}

/// What GitHub shows at a commit: context, state and description.
fn shown(yard: &TestYard, commit: CommitSha) -> Vec<(String, String, String)> {
    let mut contexts: Vec<String> =
        yard.github.statuses(&yard.repo(), commit).into_iter().map(|status| status.context).collect();
    contexts.sort();
    contexts.dedup();
    let latest = |context: String| {
        let status = yard.github.latest_status(&yard.repo(), commit, &context).unwrap();
        (context, status.state, status.description)
    };
    contexts.into_iter().map(latest).collect()
}

fn context_and_state(yard: &TestYard, commit: CommitSha) -> Vec<(String, String)> {
    shown(yard, commit).into_iter().map(|(context, state, _)| (context, state)).collect()
}

#[tokio::test]
async fn a_push_runs_the_repositorys_own_pipeline() {
    let yard = yard(&[(".woodpecker/build.yaml", BUILD)]).await;
    assert_eq!(yard.send("d-1", "push", &push(&yard)).await.body["state"], "queued");
    yard.settle().await;
    assert_eq!(yard.verdict("d-1").await, "done: started run 1");
    assert_eq!(yard.script.played(), ["clone clone", "container test"]);
    let expected = [("mergeyard/push/build".to_owned(), "success".to_owned())];
    assert_eq!(context_and_state(&yard, yard.first.merge), expected);

    let given = given(&yard, "test");
    for (name, value) in [
        ("CI_PIPELINE_EVENT", "push"),
        ("CI_PIPELINE_NUMBER", "1"),
        ("CI_PIPELINE_URL", "https://ci.example.org/runs/1"),
        ("CI_COMMIT_BRANCH", "develop"),
        ("CI_COMMIT_REF", "refs/heads/develop"),
        ("CI_COMMIT_AUTHOR", "robin"),
        ("CI_COMMIT_AUTHOR_EMAIL", "robin@example.org"),
        ("CI_COMMIT_SHA", &yard.first.merge.to_string()),
        ("CI_PIPELINE_FILES", r#"[".woodpecker/build.yaml"]"#),
        ("CI_REPO_DEFAULT_BRANCH", "develop"),
    ] {
        assert_eq!(given.get(name).map(String::as_str), Some(value), "{name}");
    }
    yard.close().await;
}

/// Row 13: GitHub says a merge twice, in either order, and each time maybe by two webhooks.
#[tokio::test]
async fn a_merge_and_its_push_are_one_run_each_in_either_order() {
    for order in [["push", "pull_request"], ["pull_request", "push"]] {
        let yard = yard(&[(".mergeyard/build.yml", BUILD), (".mergeyard/ship.yml", SHIP)]).await;
        for hook in ["one", "two"] {
            for event in order {
                let payload = if event == "push" { push(&yard) } else { yard.merged(&yard.first) };
                yard.send(&format!("d-{hook}-{event}").replace('_', "-"), event, &payload).await;
                yard.settle().await;
            }
        }
        let mut played = yard.script.played();
        played.sort();
        assert_eq!(played, ["clone clone", "clone clone", "container ship", "container test"], "{order:?}");
        assert!(yard.verdict("d-two-push").await.ends_with("was already started for this commit"));
        yard.close().await;
    }
}

/// What was pushed last is what is wanted, also when it was there before.
#[tokio::test]
async fn a_branch_that_comes_back_to_a_commit_runs_it_again() {
    let mut yard = yard(&[(".mergeyard/build.yml", BUILD)]).await;
    let (one, next) = (yard.first.merge, yard.sample.merge_change("Again", &[("a", b"a")]).unwrap());
    let moved = |from: CommitSha, to: CommitSha, at: i64| {
        let mut payload = push(&yard);
        payload["before"] = from.to_string().into();
        payload["after"] = to.to_string().into();
        payload["repository"]["pushed_at"] = at.into();
        payload
    };
    let two = next.merge;
    let moves = [moved(one, two, 100), moved(two, one, 200), moved(one, two, 300)];
    for (number, payload) in moves.iter().enumerate() {
        for hook in ["repository", "organization"] {
            yard.send(&format!("d-{number}-{hook}"), "push", payload).await;
            yard.settle().await;
        }
        let run = number + 1;
        let told = ["repository", "organization"].map(|hook| format!("d-{number}-{hook}"));
        assert_eq!(yard.verdict(&told[0]).await, format!("done: started run {run}"));
        assert_eq!(
            yard.verdict(&told[1]).await,
            format!("done: run {run} was already started for this commit")
        );
    }
    yard.close().await;
}

#[tokio::test]
async fn without_pipeline_files_a_merge_is_built_once_and_its_push_ignored() {
    let yard = TestYard::with(two_services("0.1.0"), |_| {}).await;
    yard.send("d-push", "push", &push(&yard)).await;
    yard.send("d-merge", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    assert_eq!(yard.script.played().len(), 2);
    assert!(
        yard.verdict("d-push").await.contains("has no pipeline files"),
        "{}",
        yard.verdict("d-push").await
    );
    yard.close().await;
}

#[tokio::test]
async fn an_opened_pull_request_gets_a_status_for_each_workflow() {
    let lint = BUILD.replace("test", "lint");
    let yard = yard(&[(".mergeyard/build.yml", BUILD), (".mergeyard/lint.yml", &lint)]).await;
    yard.script.next("lint", Act::Fail("`make lint` exited with 1"));
    yard.send("d-1", "pull_request", &opened(&yard)).await;
    yard.settle().await;
    let [build, lint] = &shown(&yard, yard.first.head)[..] else { panic!() };
    assert_eq!((build.0.as_str(), build.1.as_str()), ("mergeyard/pull_request/build", "success"));
    assert_eq!((lint.0.as_str(), lint.1.as_str()), ("mergeyard/pull_request/lint", "failure"));
    assert_eq!(shown(&yard, yard.first.merge), [], "nothing was merged");
    yard.close().await;
}

#[tokio::test]
async fn what_happens_to_one_commit_twice_runs_twice_and_a_relabelling_is_an_event_of_its_own() {
    let label = BUILD.replace("[push, pull_request]", "pull_request_metadata");
    let yard = yard(&[(".mergeyard/build.yml", BUILD), (".mergeyard/label.yml", &label)]).await;
    let at = |mut payload: Value, at: &str| {
        payload["pull_request"]["updated_at"] = at.into();
        payload
    };
    let of = |action: &str| payload::open_pull_request(&yard.sample.hosted(), &yard.first, action);
    let mut reasons = Vec::new();
    for (id, payload) in [
        ("d-1", at(of("opened"), "2030-01-01T00:00:00Z")),
        ("d-2", at(of("labeled"), "2030-01-01T00:00:01Z")),
        ("d-3", at(of("labeled"), "2030-01-01T00:00:02Z")),
        ("d-4", at(of("reopened"), "2030-01-01T00:00:03Z")),
    ] {
        yard.send(id, "pull_request", &payload).await;
        yard.settle().await;
        let given = given(&yard, "test");
        reasons.push(format!("{} {}", given["CI_PIPELINE_EVENT"], given["CI_PIPELINE_EVENT_REASON"]));
    }
    let expected = [
        "pull_request opened",
        "pull_request_metadata labeled",
        "pull_request_metadata labeled",
        "pull_request reopened",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(yard.script.played().len(), 8);
    yard.close().await;
}

/// As a person does who has looked at it.
async fn approve(yard: &TestYard, run: RunId) {
    let (store, now) = (&yard.yard().store, yard.clock.now());
    let answer = Answer { approved: true, who: "robin".to_owned() };
    assert!(matches!(store.answer(run, Scope::Run, answer, now).await.unwrap(), Answered::Taken(_)));
    assert_eq!(store.trust_account(run, "robin", now).await.unwrap(), Some(true));
}

/// Row 18.
#[tokio::test]
async fn a_fork_waits_for_a_person_who_trusts_the_account_from_then_on() {
    let mut yard = yard(&[(".mergeyard/build.yml", BUILD)]).await;
    let from_mallory = |payload| payload::from_fork(payload, "mallory");
    yard.send("d-1", "pull_request", &from_mallory(opened(&yard))).await;
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Blocked);
    assert!(yard.script.played().is_empty());
    let (_, state, why) = shown(&yard, yard.first.head).pop().unwrap();
    assert!(
        state == "pending" && why.contains("a pull request from a fork, by mallory (account "),
        "{state}: {why}"
    );

    let page = |answer: mergeyard_testkit::yard::Answer| answer.body.as_str().unwrap().to_owned();
    let asks = page(yard.get("/runs/1", None).await);
    assert!(
        asks.contains("a pull request from a fork, by mallory (account ")
            && asks.contains(">mergeyard approve 1<")
    );
    assert!(!asks.contains("waits for a worker"), "all of it waits for a person");
    assert!(page(yard.get("/", None).await).contains("A run waits for a person."));

    approve(&yard, RunId(1)).await;
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success);
    let answered = page(yard.get("/runs/1", None).await);
    assert!(answered.contains("Approved</span> by <strong>robin</strong>"), "{answered}");

    let next = yard.sample.merge_change("Again", &[("a", b"a")]).unwrap();
    let again = payload::open_pull_request(&yard.sample.hosted(), &next, "opened");
    yard.send("d-2", "pull_request", &from_mallory(again.clone())).await;
    yard.settle().await;
    assert_eq!(yard.run(2).await.run.state, State::Success, "the account is trusted");
    // The same name on another account is another account.
    let mut stranger = from_mallory(again);
    for user in ["/pull_request/user", "/pull_request/head/repo/owner"] {
        stranger.pointer_mut(user).unwrap()["id"] = 666.into();
    }
    stranger["pull_request"]["updated_at"] = "2031-01-01T00:00:00Z".into();
    yard.send("d-3", "pull_request", &stranger).await;
    yard.settle().await;
    assert_eq!(yard.run(3).await.run.state, State::Blocked);
    yard.close().await;
}

#[tokio::test]
async fn forks_are_ignored_where_the_operator_says_so() {
    let ignore = |config: &mut toml::Table| repo_key(config, "forks", "ignore".into());
    let yard = yard_with(&[(".mergeyard/build.yml", BUILD)], ignore).await;
    yard.send("d-1", "pull_request", &payload::from_fork(opened(&yard), "mallory")).await;
    yard.settle().await;
    assert_eq!(
        yard.verdict("d-1").await,
        "ignored: it comes from a fork, and `forks` of acme/clock says to ignore those"
    );
    yard.close().await;
}

#[tokio::test]
async fn a_pull_request_cannot_take_a_gate_of_the_default_branch_away() {
    let gated = BUILD.replace("    image: debian\n", "    image: debian\n    approve: production\n");
    let mut yard = yard(&[(".mergeyard/build.yml", &gated)]).await;
    let loosened =
        yard.sample.branch_change("Loosen the gate", &[(".mergeyard/build.yml", BUILD.as_bytes())]).unwrap();
    yard.send("d-1", "pull_request", &payload::open_pull_request(&yard.sample.hosted(), &loosened, "opened"))
        .await;
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Blocked);
    assert_eq!(yard.script.played(), ["clone clone"]);
    yard.close().await;
}

#[tokio::test]
async fn a_broken_pipeline_file_is_told_on_the_pull_request_with_its_line() {
    let broken = "steps:\n  test:\n    image: debian\n    commands: [make]\n    depends_on: [nothing]\n";
    let yard = yard(&[(".mergeyard/build.yml", broken), (".mergeyard/fine.yml", BUILD)]).await;
    yard.send("d-1", "pull_request", &opened(&yard)).await;
    yard.settle().await;
    let [build, fine] = &shown(&yard, yard.first.head)[..] else { panic!() };
    assert_eq!((build.0.as_str(), build.1.as_str()), ("mergeyard/pull_request/build", "failure"));
    assert!(build.2.starts_with(".mergeyard/build.yml:5:18: "), "{}", build.2);
    assert_eq!(fine.1, "success", "the other file is not broken");
    assert_eq!(yard.run(1).await.run.state, State::Failure);
    yard.close().await;
}

#[tokio::test]
async fn all_that_is_wrong_in_a_file_is_kept_and_shown_with_its_lines() {
    let broken = "steps:\n  test:\n    image: debian\n    commands: [make]\n    depends_on: [nothing]\n  \
                  ship:\n    imgae: <b>debian</b>\n    commands: [make]\n";
    let yard = yard(&[(".mergeyard/build.yml", broken)]).await;
    yard.send("d-1", "pull_request", &opened(&yard)).await;
    yard.settle().await;
    let page = yard.get("/runs/1", None).await.body.as_str().unwrap().to_owned();
    let at_the_forge = format!("/blob/{}/.mergeyard/build.yml#L5", yard.first.head);
    for part in
        [".mergeyard/build.yml:5:18", &at_the_forge, "    depends_on: [nothing]", "imgae: &#60;b&#62;debian"]
    {
        assert!(page.contains(part), "{part} in {page}");
    }
    let run = yard.get("/api/v1/runs/1", None).await.body;
    let findings = run["workflows"][0]["findings"].as_array().unwrap();
    assert!(findings.len() > 1, "{run}");
    let first = &findings[0];
    assert_eq!((&first["line"], &first["column"], &first["level"]), (&5.into(), &18.into(), &"error".into()));
    assert_eq!(first["text"], "    depends_on: [nothing]");
    yard.close().await;
}

/// Row 24.
#[tokio::test]
async fn a_pipeline_file_that_is_a_link_is_refused_and_what_it_leads_to_never_shown() {
    let mut yard = yard(&[(".mergeyard/build.yml", BUILD)]).await;
    let linked = yard.sample.merge_update("Link", |git, update| {
        update.upsert(".mergeyard/build.yml", git.blob(b"/etc/passwd")?, git2::FileMode::Link);
        Ok(())
    });
    let linked = linked.unwrap();
    yard.send("d-1", "push", &payload::push(&yard.sample.hosted(), &linked)).await;
    yard.settle().await;
    let (_, state, why) = shown(&yard, linked.merge).pop().unwrap();
    assert_eq!(state, "failure");
    assert!(why.starts_with(".mergeyard/build.yml: it is a symbolic link, which is never followed"), "{why}");
    assert!(!yard.world().await.contains("passwd"));
    yard.close().await;
}

#[tokio::test]
async fn the_files_of_a_pull_request_are_githubs_and_else_those_of_the_commits() {
    let only = "when:\n  event: pull_request\n  path: src/**\nsteps:\n  test:\n    image: debian\n    commands: [make]\n";
    let yard = yard(&[(".mergeyard/build.yml", only)]).await;
    let payload = |at: &str| {
        let mut payload = opened(&yard);
        payload["pull_request"]["updated_at"] = at.into();
        payload
    };
    // GitHub knows nothing of it: the commits differ by the pipeline file alone.
    yard.send("d-1", "pull_request", &payload("1")).await;
    yard.settle().await;
    assert!(yard.verdict("d-1").await.starts_with("ignored: no workflow runs on this `pull_request`"));
    let [(context, state, why)] = &shown(&yard, yard.first.head)[..] else { panic!() };
    assert_eq!((context.as_str(), state.as_str()), ("mergeyard/pull_request/build", "success"));
    assert!(why.starts_with("skipped: it runs when `src/**` changes"), "{why}");
    yard.github.set_files(&yard.repo(), 1, vec!["src/main.rs".to_owned()]);
    yard.send("d-2", "pull_request", &payload("2")).await;
    yard.settle().await;
    assert_eq!(yard.script.played(), ["clone clone", "container test"]);
    yard.close().await;
}

#[tokio::test]
async fn a_pull_request_that_no_workflow_is_for_is_not_waited_for_for_ever() {
    let on_tags = BUILD.replace("[push, pull_request]", "tag");
    let matrix = format!("matrix:\n  OS: [linux, bsd]\n{on_tags}");
    let yard = yard(&[(".mergeyard/build.yml", &on_tags), (".mergeyard/test.yml", &matrix)]).await;
    yard.send("d-1", "pull_request", &opened(&yard)).await;
    yard.send("d-2", "push", &push(&yard)).await;
    yard.settle().await;
    assert!(yard.script.played().is_empty());
    let skipped = "skipped: the event is `pull_request`, and it runs on `tag`";
    let shown_at_head = shown(&yard, yard.first.head);
    let contexts: Vec<_> = shown_at_head.iter().map(|(context, ..)| context.as_str()).collect();
    let expected =
        ["build", "test/OS=bsd", "test/OS=linux"].map(|name| format!("mergeyard/pull_request/{name}"));
    assert_eq!(contexts, expected);
    assert!(shown_at_head.iter().all(|(_, state, why)| state == "success" && why.starts_with(skipped)));
    assert_eq!(shown(&yard, yard.first.merge), [], "nobody waits for what a push starts");
    for id in ["d-1", "d-2"] {
        assert!(yard.verdict(id).await.starts_with("ignored: no workflow runs on this"));
    }
    yard.close().await;
}

/// Whoever protects a branch by a status wants it to come from the work, not from a message.
#[tokio::test]
async fn words_in_a_message_do_not_make_a_check_succeed() {
    let mut yard = yard(&[(".mergeyard/build.yml", BUILD)]).await;
    let quiet = yard.sample.branch_change("Break it [skip ci]", &[("a", b"a")]).unwrap();
    let payload = payload::open_pull_request(&yard.sample.hosted(), &quiet, "opened");
    yard.send("d-1", "pull_request", &payload).await;
    yard.settle().await;
    assert!(yard.verdict("d-1").await.contains("says `[skip ci]`"), "{}", yard.verdict("d-1").await);
    assert_eq!(shown(&yard, quiet.head), []);
    yard.close().await;
}

/// A person is asked about the newest commit of a pull request only, in whatever order it came.
#[tokio::test]
async fn a_newer_commit_of_a_pull_request_takes_the_place_of_one_that_waits() {
    for newer_first in [false, true] {
        let mut yard = yard(&[(".mergeyard/build.yml", BUILD)]).await;
        let next = yard.sample.branch_change("Another try", &[("a", b"a")]).unwrap();
        let of = |merge, action, updated: &str| {
            let mut payload = payload::open_pull_request(&yard.sample.hosted(), merge, action);
            payload["pull_request"]["updated_at"] = updated.into();
            payload["pull_request"]["number"] = 1.into();
            payload["number"] = 1.into();
            payload::from_fork(payload, "mallory")
        };
        let older = of(&yard.first, "opened", "2030-01-01T00:00:00Z");
        let newer = of(&next, "synchronize", "2030-01-01T00:00:05Z");
        let order = if newer_first { [&newer, &older] } else { [&older, &newer] };
        for (at, payload) in order.into_iter().enumerate() {
            yard.send(&format!("d-{at}"), "pull_request", payload).await;
            yard.settle().await;
        }
        let [first, second] = [yard.run(1).await.run, yard.run(2).await.run];
        let (old, new) = if newer_first { (second, first) } else { (first, second) };
        assert_eq!((old.state, new.state), (State::Cancelled, State::Blocked), "newer first: {newer_first}");
        assert_eq!(old.cancel.unwrap(), format!("superseded by run {}, whose commit came later", new.id));
        yard.close().await;
    }
}

#[tokio::test]
async fn a_run_knows_the_one_before_it() {
    let mut yard = yard(&[(".mergeyard/build.yml", BUILD)]).await;
    yard.script.next("test", Act::Fail("`make test` exited with 2"));
    yard.send("d-1", "push", &push(&yard)).await;
    yard.settle().await;
    let next = yard.sample.merge_change("Mend it", &[("a", b"a")]).unwrap();
    yard.send("d-2", "push", &payload::push(&yard.sample.hosted(), &next)).await;
    yard.settle().await;
    let given = given(&yard, "test");
    assert_eq!(given["CI_PREV_PIPELINE_NUMBER"], "1");
    assert_eq!(given["CI_PREV_PIPELINE_STATUS"], "failure");
    assert_eq!(given["CI_PREV_COMMIT_SHA"], yard.first.merge.to_string());
    yard.close().await;
}

const NIGHTLY: &str =
    "when:\n  event: cron\n  cron: nightly\nsteps:\n  test:\n    image: debian\n    commands: [make]\n";

async fn nightly() -> TestYard {
    let schedule = toml::toml! { name = "nightly" schedule = "0 4 * * *" branch = "develop" };
    let cron = |config: &mut toml::Table| {
        repo_key(config, "cron", toml::Value::Array(vec![toml::Value::Table(schedule)]));
    };
    yard_with(&[(".mergeyard/night.yml", NIGHTLY)], cron).await
}

async fn look(yard: &TestYard) {
    Worker::Schedules.turn(yard.yard()).await.unwrap();
    yard.settle().await;
}

fn set_back(yard: &TestYard, by: Duration) {
    let Clock::Manual(now) = &yard.clock else { panic!("a test's clock is moved by hand") };
    now.fetch_sub(by.as_millis() as i64, Ordering::SeqCst);
}

#[tokio::test]
async fn a_schedule_starts_one_run_each_time_it_is_due() {
    let mut yard = nightly().await;
    look(&yard).await;
    assert!(yard.script.played().is_empty(), "it is midnight, and the schedule is for four");
    yard.advance(Duration::from_secs(4 * 3600));
    look(&yard).await;
    look(&yard).await;
    assert_eq!(yard.script.played(), ["clone clone", "container test"]);
    let given = given(&yard, "test");
    assert_eq!(
        (given["CI_PIPELINE_EVENT"].as_str(), given["CI_COMMIT_BRANCH"].as_str()),
        ("cron", "develop")
    );

    // Three nights without a server are caught up once; the same commit is no reason not to.
    yard.kill().await;
    yard.advance(Duration::from_secs(3 * 24 * 3600));
    yard.start(mergeyard_server::store::Fuse::endless()).await;
    look(&yard).await;
    look(&yard).await;
    assert_eq!(yard.script.played().len(), 4);
    yard.close().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_starts_no_schedule_twice() {
    let yard = nightly().await;
    look(&yard).await;
    yard.advance(Duration::from_secs(4 * 3600));
    look(&yard).await;
    assert_eq!(yard.script.played().len(), 2);
    set_back(&yard, Duration::from_secs(2 * 3600));
    look(&yard).await;
    yard.advance(Duration::from_secs(2 * 3600));
    look(&yard).await;
    assert_eq!(yard.script.played().len(), 2, "four o'clock was before");
    yard.advance(Duration::from_secs(24 * 3600));
    look(&yard).await;
    assert_eq!(yard.script.played().len(), 4, "and the next four o'clock comes");
    yard.close().await;
}

#[tokio::test]
async fn a_manual_run_gets_its_inputs_and_a_wrong_one_is_said() {
    let deploy = "when:\n  event: manual\ninputs:\n  speed:\n    type: choice\n    options: [fast, slow]\n\
                  steps:\n  go:\n    image: debian\n    commands: [make go]\n";
    let yard = yard(&[(".mergeyard/deploy.yml", deploy)]).await;
    for (occasion, speed) in [("1", "fast"), ("2", "sideways")] {
        let wish = Asked {
            kind: AskedKind::Manual,
            repository: yard.repo(),
            git_ref: None,
            inputs: [("speed".to_owned(), speed.to_owned())].into(),
            who: "robin".to_owned(),
            name: String::new(),
            occasion: occasion.to_owned(),
        };
        let now = yard.clock.now();
        // Asking twice with one occasion is asking once.
        for _ in 0..2 {
            yard.yard().store.receive(asked::delivery(&wish, now)).await.unwrap();
        }
        yard.settle().await;
    }
    assert_eq!(yard.script.played(), ["clone clone", "container go"]);
    let given = given(&yard, "go");
    assert_eq!(
        (given["CI_PIPELINE_EVENT"].as_str(), given["CI_PIPELINE_AUTHOR"].as_str()),
        ("manual", "robin")
    );
    assert_eq!(given["CI_COMMIT_BRANCH"], "develop", "the default branch, which nobody named");
    let refused = yard.run(2).await;
    assert_eq!(refused.run.state, State::Failure);
    let why = refused.workflows[0].why.clone().unwrap();
    assert!(why.contains("input `speed`: `sideways` is none of fast, slow"), "{why}");
    yard.close().await;
}

#[tokio::test]
async fn a_tag_runs_what_is_for_tags() {
    let release = BUILD.replace("[push, pull_request]", "tag");
    let yard = yard(&[(".mergeyard/release.yml", &release)]).await;
    let mut tag = push(&yard);
    tag["ref"] = "refs/tags/v1".into();
    tag["base_ref"] = "refs/heads/develop".into();
    yard.send("d-1", "push", &tag).await;
    yard.settle().await;
    let given = given(&yard, "test");
    assert_eq!((given["CI_COMMIT_TAG"].as_str(), given["CI_PIPELINE_EVENT"].as_str()), ("v1", "tag"));
    assert_eq!(context_and_state(&yard, yard.first.merge)[0].0, "mergeyard/tag/release");
    yard.close().await;
}

#[tokio::test]
async fn an_included_file_is_the_default_branchs() {
    let including = "include: ci/steps.yml\nwhen:\n  event: pull_request\nsteps:\n  own:\n    image: debian\n    commands: [make]\n";
    let steps = "steps:\n  shared:\n    image: debian\n    commands: [make shared]\n";
    let mut yard = yard(&[(".mergeyard/build.yml", including), ("ci/steps.yml", steps)]).await;
    let changed = steps.replace("shared:", "hijacked:");
    let branch =
        yard.sample.branch_change("Change what is shared", &[("ci/steps.yml", changed.as_bytes())]).unwrap();
    yard.send("d-1", "pull_request", &payload::open_pull_request(&yard.sample.hosted(), &branch, "opened"))
        .await;
    yard.settle().await;
    assert_eq!(yard.script.played(), ["clone clone", "container shared", "container own"]);
    yard.close().await;
}

#[tokio::test]
async fn what_cannot_be_included_refuses_its_own_file_at_once() {
    let [gone, folder] = ["../x", "ci"].map(|path| format!("include: {path}\n{BUILD}"));
    let steps = "variables: {image: &image debian}\nsteps: {shared: {image: *image, commands: make}}\n";
    let anchors =
        "include: ci/steps.yml\nwhen: {event: pull_request}\nsteps: {own: {image: *image, commands: make}}\n";
    let yard = yard(&[
        (".mergeyard/a.yml", &gone),
        (".mergeyard/b.yml", &folder),
        (".mergeyard/c.yml", anchors),
        ("ci/steps.yml", steps),
    ])
    .await;
    yard.send("d-1", "pull_request", &opened(&yard)).await;
    yard.settle().await;
    let [a, b, c] = &shown(&yard, yard.first.head)[..] else { panic!() };
    assert!(a.2.starts_with(".mergeyard/a.yml:1:10: `../x` is not the path of a file"), "{}", a.2);
    assert!(b.2.starts_with(".mergeyard/b.yml:1:10: `ci` cannot be included: it is not a file"), "{}", b.2);
    assert_eq!(c.1, "success", "the other file goes its way, with the anchors of what it includes");
    assert_eq!(yard.script.played(), ["clone clone", "container shared", "container own"]);
    yard.close().await;
}

#[tokio::test]
async fn one_commit_has_the_facts_of_each_event_that_is_about_it() {
    let yard = yard(&[(".mergeyard/build.yml", BUILD)]).await;
    yard.send("d-1", "pull_request", &opened(&yard)).await;
    yard.settle().await;
    let pull = given(&yard, "test");
    assert_eq!(
        (pull["CI_COMMIT_PULL_REQUEST"].as_str(), pull["CI_COMMIT_REF"].as_str()),
        ("1", "refs/pull/1/head")
    );
    assert_eq!(
        (pull["CI_COMMIT_SOURCE_BRANCH"].as_str(), pull["CI_COMMIT_TARGET_BRANCH"].as_str()),
        ("clock", "develop")
    );
    yard.send("d-2", "push", &push(&yard)).await;
    yard.settle().await;
    assert!(!given(&yard, "test").contains_key("CI_COMMIT_PULL_REQUEST"));
    yard.close().await;
}
