//! Deployments, told with played targets: in turn, proven or not, taken back, held back, and never
//! without the operator's word.

use std::time::Duration;

use mergeyard_plan::action::Action;
use mergeyard_server::{
    sample::{SampleMerge, payload},
    store::{DeploymentRow, DeploymentState},
    workers::Worker,
};
use mergeyard_testkit::{
    script::Act,
    yard::{TestYard, borrowed, service},
};
use mergeyard_types::{Digest, RunId, State};
use reqwest::StatusCode;
use serde_json::{Value, json};

const ROLLOUT: &str = "
when: {event: [pull_request_merged]}
skip_clone: true
steps:
  - {name: image, uses: image, with: {folder: backend}}
  - name: rollout
    uses: rollout
    with: {target: clock-vm, image: clock-backend, port: 8080, publish: 80, health: /health}
";

const ANSIBLE: &str = "
steps:
  - {name: image, uses: image, with: {folder: backend}}
  - {name: playbook, uses: ansible, with: {target: clock-vm}}
";

pub(crate) type Files = Vec<(String, Vec<u8>)>;

fn files(version: &str, pipeline: &str) -> Files {
    let mut files = service("backend", version, version);
    files.push((".mergeyard/deploy.yml".to_owned(), pipeline.as_bytes().to_vec()));
    files
}

/// A yard whose repository may use `clock-vm`; `more` are further keys of that target.
pub(crate) async fn yard_with(files: Files, more: &str) -> TestYard {
    let target: toml::Table = format!("name = \"clock-vm\"\nkind = \"local\"\n{more}").parse().unwrap();
    TestYard::with(files, |config| {
        config.insert("target".to_owned(), toml::Value::Array(vec![target.into()]));
        let repo = config["repo"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        repo.insert("targets".to_owned(), toml::Value::Array(vec!["clock-vm".into()]));
        repo.insert("supersede".to_owned(), false.into());
    })
    .await
}

pub(crate) async fn rollouts() -> TestYard {
    yard_with(rollout_files(), "").await
}

pub(crate) fn rollout_files() -> Files {
    files("0.1.0", ROLLOUT)
}

pub(crate) fn raise(yard: &mut TestYard, version: &str) -> SampleMerge {
    let title = format!("Raise to {version}");
    yard.sample.merge_change(&title, &borrowed(&service("backend", version, version))).unwrap()
}

pub(crate) async fn merge(yard: &TestYard, id: &str, merge: &SampleMerge) {
    let answer = yard.send(id, "pull_request", &yard.merged(merge)).await;
    assert!(answer.status.is_success(), "{id}: {answer:?}");
}

async fn deployed(yard: &TestYard) -> Vec<DeploymentRow> {
    let rows = yard.yard().store.deployed(None, None, None, 100).await.unwrap();
    let mut rows: Vec<_> = rows.into_iter().map(|deployed| deployed.row).collect();
    rows.reverse();
    rows
}

async fn digest(yard: &TestYard, version: &str) -> Digest {
    yard.images.digest("clock-backend", version).await.unwrap().parse().unwrap()
}

fn live(yard: &TestYard) -> Digest {
    yard.script.live()["clock-vm/clock-backend"]
}

/// The reason of a run's step.
async fn why(yard: &TestYard, run: i64, step: &str) -> (State, String) {
    let page = yard.run(run).await;
    let mut steps = page.workflows.iter().flat_map(|workflow| &workflow.steps);
    let step = steps.find(|found| found.name == step).unwrap();
    (step.state, step.why.clone().unwrap_or_default())
}

#[tokio::test]
async fn a_merge_goes_live_and_everybody_is_told() {
    let mut yard = rollouts().await;
    let second = raise(&mut yard, "0.2.0");
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    let (one, two) = (digest(&yard, "0.1.0").await, digest(&yard, "0.2.0").await);
    assert_eq!(live(&yard), two);
    let rows = deployed(&yard).await;
    let told = |row: &DeploymentRow| (row.state, row.digest, row.before, row.live, row.commit, row.number);
    let success = DeploymentState::Success;
    assert_eq!(told(&rows[0]), (success, one, None, Some(one), yard.first.merge, Some(yard.first.number)));
    assert_eq!(told(&rows[1]), (success, two, Some(one), Some(two), second.merge, Some(second.number)));
    assert_eq!((rows[1].health.as_deref(), rows[1].rollback_of), (Some("200 OK"), None));
    assert!(!rows[1].who.is_empty() && rows[1].finished.is_some());

    let at_github = yard.github.deployments(&yard.repo());
    assert_eq!(at_github.len(), 2);
    assert_eq!((at_github[0].sha, at_github[0].environment.as_str()), (yard.first.merge, "clock-vm"));
    assert_eq!(at_github[0].states(), ["in_progress", "success", "inactive"]);
    assert_eq!(at_github[1].states(), ["in_progress", "success"]);
    assert_eq!(at_github[1].statuses[1].log_url, "https://ci.example.org/runs/2");
    assert_eq!(rows[1].github, Some(at_github[1].id));
    let context = "mergeyard/pull_request_merged/deploy";
    let status = yard.github.latest_status(&yard.repo(), second.merge, context).unwrap();
    assert_eq!(status.description, format!("clock-vm/clock-backend {}", two.short()), "what the action said");
    yard.close().await;
}

#[tokio::test]
async fn a_target_takes_one_deployment_at_a_time_and_one_that_was_stopped_is_told_as_unknown() {
    let mut yard = rollouts().await;
    let second = raise(&mut yard, "0.2.0");
    yard.script.next("rollout", Act::Hang);
    merge(&yard, "d-1", &yard.first).await;
    merge(&yard, "d-2", &second).await;
    while Worker::Inbox.turn(yard.yard()).await.unwrap() {}
    assert!(Worker::Steps.turn(yard.yard()).await.unwrap(), "the first image");
    let worker = yard.yard().clone();
    // Which of the two is next does not matter: an image or the first rollout.
    let hangs = tokio::spawn(async move { while Worker::Steps.turn(&worker).await.unwrap() {} });
    yard.script.hanging.notified().await;
    while Worker::Steps.turn(yard.yard()).await.unwrap() {}
    let waits = "waits for run 1, whose turn at `target/clock-vm` comes first";
    assert_eq!(why(&yard, 2, "rollout").await, (State::Queued, waits.to_owned()));
    assert_eq!(deployed(&yard).await[0].state, DeploymentState::InProgress);

    let store = &yard.yard().store;
    assert_eq!(store.cancel_run(RunId(1), "not today", yard.clock.now()).await.unwrap(), Some(true));
    hangs.await.unwrap();
    yard.settle().await;
    let rows = deployed(&yard).await;
    assert_eq!((rows[0].state, rows[1].state), (DeploymentState::Error, DeploymentState::Success));
    assert_eq!(rows[0].live, None);
    let health = rows[0].health.as_deref().unwrap();
    assert!(health.contains("what is live is not known") && health.contains("not today"), "{health}");
    let at_github = yard.github.deployments(&yard.repo());
    assert_eq!(at_github[0].states(), ["in_progress", "error"]);
    assert_eq!(live(&yard), digest(&yard, "0.2.0").await);
    yard.close().await;
}

#[tokio::test]
async fn what_is_not_proven_is_said_to_be_taken_back() {
    let mut yard = rollouts().await;
    let second = raise(&mut yard, "0.2.0");
    yard.script.next("rollout", Act::Publish);
    yard.script.next("rollout", Act::Unhealthy("/health answered 500 for 30 s"));
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    let (one, rows) = (digest(&yard, "0.1.0").await, deployed(&yard).await);
    assert_eq!((rows[1].state, rows[1].live), (DeploymentState::RolledBack, Some(one)));
    assert_eq!(yard.run(2).await.run.state, State::Failure);
    let at_github = yard.github.deployments(&yard.repo());
    assert_eq!(at_github[0].states(), ["in_progress", "success"], "it is what is live");
    assert_eq!(at_github[1].states(), ["in_progress", "failure"]);
    let said = format!("{} is live again: /health answered 500 for 30 s", one.short());
    assert_eq!(at_github[1].statuses[1].description, said);
    let context = "mergeyard/pull_request_merged/deploy";
    let status = yard.github.latest_status(&yard.repo(), second.merge, context).unwrap();
    assert_eq!((status.state.as_str(), live(&yard)), ("failure", one));
    yard.close().await;
}

#[tokio::test]
async fn a_rollback_puts_back_what_was_live_and_says_what_it_cannot() {
    let mut yard = rollouts().await;
    let said = yard.command_line(&["rollback", "clock-vm"], "").await.failed(1);
    assert!(said.contains("nothing was proven on target `clock-vm` yet"), "{said}");
    let said = yard.command_line(&["rollback", "clock"], "").await.failed(2);
    assert!(said.contains("there is no target `clock`: `clock-vm`"), "{said}");
    let second = raise(&mut yard, "0.2.0");
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    let said = yard.command_line(&["rollback", "clock-vm"], "").await.failed(1);
    assert!(said.contains("is the first that was proven"), "{said}");
    merge(&yard, "d-2", &second).await;
    yard.settle().await;

    let (one, two) = (digest(&yard, "0.1.0").await, digest(&yard, "0.2.0").await);
    let (follow, arguments) = (yard.yard().clone(), ["rollback", "clock-vm"]);
    let work = async {
        let mut changes = follow.changes.subscribe();
        // The command line is another process: only a look tells that there is work.
        while !Worker::Steps.turn(&follow).await.unwrap() {
            let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
        }
    };
    let (said, ()) = tokio::join!(yard.command_line(&arguments, ""), work);
    let said = said.good();
    let begun = format!("run 3 puts clock-backend on clock-vm back to {}, as run 1 did", one.short());
    assert!(said.contains(&begun) && said.contains(&format!("{} is live now", two.short())), "{said}");
    assert!(said.contains("rollout success: clock-vm/clock-backend"), "{said}");
    yard.settle().await;
    assert_eq!(live(&yard), one);
    let Action::Rollout(action) = yard.script.given("rollout").action else { panic!("it is a rollout") };
    assert_eq!(action.digest, Some(one), "whatever the version leads to by now");
    let (page, rows) = (yard.run(3).await, deployed(&yard).await);
    assert_eq!(
        (page.run.event.as_str(), page.run.commit, page.run.state),
        ("rollback", yard.first.merge, State::Success)
    );
    assert_eq!((rows[2].rollback_of, rows[2].before), (Some(rows[1].id), Some(two)));
    assert!(rows[2].who.contains("on the command line"), "{}", rows[2].who);
    let at_github = yard.github.deployments(&yard.repo());
    let last = at_github[1].statuses.last().unwrap();
    assert_eq!(last.state, "inactive");
    assert!(last.description.starts_with(&format!("rolled back to {}", one.short())), "{}", last.description);

    let said = yard.command_line(&["rollback", "clock-vm", "--to", "0123456789ab"], "").await.failed(1);
    assert!(said.contains("`0123456789ab`") && said.contains(&two.short()), "{said}");
    let said = yard.command_line(&["rollback", "clock-vm", "--service", "clock"], "").await.failed(1);
    assert!(said.contains("there is `clock-backend`"), "{said}");
    let to = one.to_string();
    let said = yard.command_line(&["rollback", "clock-vm", "--to", &to], "").await.failed(1);
    assert!(said.contains("is what is live"), "{said}");
    yard.close().await;
}

#[tokio::test]
async fn the_api_rolls_back_for_who_may_approve() {
    let mut yard = rollouts().await;
    let second = raise(&mut yard, "0.2.0");
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    let (reader, approver) = (yard.token("robin", "read").await, yard.token("ada", "approve").await);
    let path = "/api/v1/targets/clock-vm/rollback";
    assert_eq!(yard.post(path, None, &json!({})).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(yard.post(path, Some(&reader), &json!({})).await.status, StatusCode::FORBIDDEN);
    let other = yard.post("/api/v1/targets/other/rollback", Some(&approver), &json!({})).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    let unknown = yard.post(path, Some(&approver), &json!({"to": "ffffff"})).await;
    assert_eq!(unknown.status, StatusCode::CONFLICT);
    let one = digest(&yard, "0.1.0").await;
    assert!(unknown.body["detail"].as_str().unwrap().contains(&one.short()), "{unknown:?}");
    let begun = yard.post(path, Some(&approver), &json!({"to": one.short()})).await;
    assert_eq!((begun.status, &begun.body["event"]), (StatusCode::CREATED, &Value::from("rollback")));
    yard.settle().await;
    assert_eq!((live(&yard), deployed(&yard).await[2].who.as_str()), (one, "token `ada`"));
    yard.close().await;
}

#[tokio::test]
async fn a_playbook_goes_back_with_its_commit_and_all_its_images() {
    let mut yard = yard_with(files("0.1.0", ANSIBLE), "").await;
    let second = raise(&mut yard, "0.2.0");
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    yard.command_line(&["rollback", "clock-vm", "--no-wait"], "").await.good();
    yard.settle().await;
    let given = yard.script.given("playbook");
    let one = digest(&yard, "0.1.0").await;
    let Action::Ansible(action) = &given.action else { panic!("it is a playbook") };
    assert_eq!(action.pinned.values().collect::<Vec<_>>(), [&one]);
    assert_eq!((given.commit, live(&yard)), (yard.first.merge, one));
    let page = yard.run(3).await;
    let steps: Vec<&str> = page.workflows[0].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["clone", "playbook"], "a playbook is read from its commit");
    assert_eq!(page.run.state, State::Success);
    yard.close().await;
}

#[tokio::test]
async fn a_rerun_deploys_what_the_run_that_it_repeats_published() {
    let yard = rollouts().await;
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    let said = yard.command_line(&["rerun", "1", "--from", "rollout"], "").await.good();
    assert_eq!(said, "run 2 repeats run 1\n");
    yard.settle().await;
    let (one, rows) = (digest(&yard, "0.1.0").await, deployed(&yard).await);
    assert_eq!(yard.script.given("rollout").images.into_values().collect::<Vec<_>>(), [one]);
    let again = &rows[1];
    assert_eq!((again.run, again.state, again.before), (RunId(2), DeploymentState::Success, Some(one)));
    let published = yard.script.played().iter().filter(|line| line.starts_with("publish")).count();
    assert_eq!(published, 1, "the image was kept");
    yard.close().await;
}

#[tokio::test]
async fn a_freeze_holds_a_deployment_back_until_it_ends_and_lets_a_rollback_through() {
    // The yard begins on Tuesday, the 1st of January 2030.
    let freeze = "freeze = [{from = \"Mon 12:00\", to = \"Tue 06:00\"}]";
    let mut yard = yard_with(files("0.1.0", ROLLOUT), freeze).await;
    let (second, third) = (raise(&mut yard, "0.2.0"), raise(&mut yard, "0.3.0"));
    merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    let waits = "waits for the end of a freeze of target `clock-vm`, until 2030-01-01 06:00 UTC";
    assert_eq!(why(&yard, 1, "rollout").await, (State::Queued, waits.to_owned()));
    assert!(deployed(&yard).await.is_empty() && yard.images.digest("clock-backend", "0.1.0").await.is_some());
    yard.advance(Duration::from_secs(6 * 3600 - 1));
    yard.settle().await;
    assert_eq!(why(&yard, 1, "rollout").await.0, State::Queued);
    yard.advance(Duration::from_secs(1));
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success);
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    assert_eq!(live(&yard), digest(&yard, "0.2.0").await);

    // Monday, 18:00.
    yard.advance(Duration::from_secs((5 * 24 + 36) * 3600));
    merge(&yard, "d-3", &third).await;
    yard.settle().await;
    assert_eq!(why(&yard, 3, "rollout").await.0, State::Queued);
    yard.command_line(&["rollback", "clock-vm", "--no-wait"], "").await.good();
    yard.settle().await;
    assert_eq!((live(&yard), yard.run(4).await.run.state), (digest(&yard, "0.1.0").await, State::Success));
    yard.advance(Duration::from_secs(12 * 3600));
    yard.settle().await;
    assert_eq!(live(&yard), digest(&yard, "0.3.0").await, "what was held back comes after all");
    yard.close().await;
}

#[tokio::test]
async fn rights_are_asked_for_again_at_the_last_moment() {
    let mut yard = rollouts().await;
    merge(&yard, "d-1", &yard.first).await;
    while Worker::Inbox.turn(yard.yard()).await.unwrap() {}
    yard.reconfigure(|config| {
        let repo = config["repo"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        repo.remove("targets");
    })
    .await;
    yard.settle().await;
    let (state, said) = why(&yard, 1, "rollout").await;
    assert_eq!(state, State::Error);
    assert!(said.contains("acme/clock may not use target `clock-vm`; the operator allows it"), "{said}");
    let second = raise(&mut yard, "0.2.0");
    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    let refused = yard.run(2).await.workflows[0].why.clone().unwrap();
    assert!(
        refused.contains("deploy.yml:8:12: this repository may not use target `clock-vm`, nor any other"),
        "{refused}"
    );
    assert!(deployed(&yard).await.is_empty());
    yard.close().await;
}

#[tokio::test]
async fn a_package_list_needs_no_pipeline_file_and_is_only_looked_at_before_its_merge() {
    const MIRROR: &str = "mirror = {root = \"/srv/mirror\", url = \"https://mirror.example.org/\"}";
    let list = |text: &str| vec![("packages.txt".to_owned(), text.as_bytes().to_vec())];
    let mut yard = yard_with(list("httpd\n"), MIRROR).await;
    let second = yard.sample.merge_change("Add vim", &borrowed(&list("httpd\nvim\n"))).unwrap();
    let docs = yard.sample.merge_change("Say more", &[("README.md", b"more")]).unwrap();
    for (merge, files) in [(&second, "packages.txt"), (&docs, "README.md")] {
        yard.github.set_files(&yard.repo(), merge.number, vec![files.to_owned()]);
    }
    let open = payload::open_pull_request(&yard.sample.hosted(), &second, "opened");
    yard.send("d-open", "pull_request", &open).await;
    yard.settle().await;
    assert_eq!(yard.run(1).await.run.state, State::Success, "{}", yard.verdict("d-open").await);
    assert!(yard.script.played()[0].starts_with("check clock-vm/packages.txt"), "{:?}", yard.script.played());
    let status =
        yard.github.latest_status(&yard.repo(), second.head, "mergeyard/pull_request/mirror").unwrap();
    assert!(status.description.starts_with("would run"), "{}", status.description);
    assert!(deployed(&yard).await.is_empty());

    merge(&yard, "d-2", &second).await;
    yard.settle().await;
    let rows = deployed(&yard).await;
    assert_eq!((rows.len(), rows[0].state, rows[0].image.as_ref()), (1, DeploymentState::Success, None));
    assert_eq!(yard.script.given("mirror").target.unwrap().mirror.as_ref().unwrap().root, "/srv/mirror");
    merge(&yard, "d-3", &docs).await;
    yard.settle().await;
    assert!(yard.verdict("d-3").await.starts_with("ignored: "), "{}", yard.verdict("d-3").await);
    yard.close().await;
}
