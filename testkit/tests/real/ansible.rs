//! `uses: ansible` against a real sshd: what a playbook is given, what it leaves when its work is not
//! proven, and what a pull request sees of it. The target is this machine, and what is deployed a file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{Router, http::StatusCode, routing::get};
use mergeyard_server::sample::payload;
use mergeyard_testkit::{
    process::{self, free_port, until},
    sshd::Sshd,
    yard::{answer, borrowed},
};

use super::{Files, RealYard, bridge::Bridge, service, step, text};

const PLAYBOOK: &str = r"---
- name: The service
  hosts: all
  gather_facts: false
  tasks:
    - name: Show what there is to steal
      ansible.builtin.debug:
        msg: >-
          {{ lookup('pipe', 'ssh-add -L; cat /mergeyard-ansible/*.json /mergeyard-ansible/known_hosts') }}
    - name: Put it live
      ansible.builtin.copy:
        content: '{{ (mergeyard_images | default({}))[`clock-backend`] | default(`nothing`) }} {{ word }}'
        dest: PLACE
        mode: '0600'
";

const DELIVER: &str = "
when: [{event: [pull_request_merged, pull_request]}]
steps:
  - name: image
    uses: image
    with: {folder: backend}
    when: [{event: pull_request_merged}]
  - name: deploy
    uses: ansible
    with:
      target: here
      folder: deploy
      variables: {word: {from_secret: the_word}}
      health: {url: 'http://{address}:PORT/', retries: 1, interval: 1s}
";

#[tokio::test]
async fn a_playbook_brings_images_live_and_is_taken_back_when_its_work_is_not_proven() {
    let bridge = Bridge::new();
    let port = free_port();
    let sshd = Sshd::with(&format!("ListenAddress {}:{port}", bridge.address)).await;
    let live = sshd.path("live");
    let well = Arc::new(Mutex::new(None));
    let health = serve(&bridge.address, live.clone(), Arc::clone(&well)).await;
    let files = [service("backend", "0.1.0", "one"), deployment(&live, health)].concat();
    let mut yard = RealYard::with(files, |config| configure(config, &bridge.address, port, &sshd)).await;
    yard.secret("the_word", "open-sesame").await;

    yard.announce("one", &yard.first).await;
    let run = yard.finished(1).await;
    let log = yard.log_of(step(&run, "deliver", "deploy")).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}\n{log}");
    let first = std::fs::read_to_string(&live).unwrap();
    let image = &run["images"][0];
    let reference = text(&image["ref"]).rsplit_once(':').unwrap().0;
    assert_eq!(first, format!("{reference}@{} open-sesame", text(&image["digest"])));
    assert!(log.contains("ssh-ed25519 ") && log.contains("clock-backend@sha256:"), "{log}");
    assert!(!log.contains("PRIVATE KEY") && !log.contains("open-sesame"), "{log}");

    *well.lock().unwrap() = Some(first.clone());
    let two = service("backend", "0.2.0", "two");
    let two = yard.sample.merge_change("two", &borrowed(&two)).unwrap();
    yard.announce("two", &two).await;
    let run = yard.finished(2).await;
    let log = yard.log_of(step(&run, "deliver", "deploy")).await;
    assert_eq!(run["run"]["state"], "failure", "{run:#}\n{log}");
    assert!(
        log.contains("answers 503 in the place of 200, asked 2 times; putting back clock-backend@"),
        "{log}"
    );
    assert_eq!(std::fs::read_to_string(&live).unwrap(), first);
    let [one, two] = told(&yard).await;
    assert!(one.starts_with("success http://"), "{one}");
    assert!(two.starts_with("failure ") && two.contains("is live again: the health check failed"), "{two}");

    let three = yard.sample.merge_change("three", &[("README.md", b"text")]).unwrap();
    let opened = payload::open_pull_request(&yard.sample.hosted(), &three, "opened");
    assert_eq!(answer(yard.webhook("three", &opened)).await.status, StatusCode::ACCEPTED);
    let run = yard.finished(3).await;
    let log = yard.log_of(step(&run, "deliver", "deploy")).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}\n{log}");
    assert!(log.contains("+nothing"), "a dry run shows the difference: {log}");
    until("GitHub to be told of the dry run", async || {
        yard.statuses()
            .values()
            .any(|status| status == "success 1 of 2 tasks would change something")
            .then_some(())
    })
    .await;
    assert_eq!(std::fs::read_to_string(&live).unwrap(), first);

    yard.engine_is_clean().await;
    yard.stop().await;
}

/// What the first server began has no agent any more, so the next one ends it and begins again.
#[tokio::test]
async fn a_playbook_whose_server_is_killed_is_run_again_by_the_next_one() {
    let bridge = Bridge::new();
    let port = free_port();
    let sshd = Sshd::with(&format!("ListenAddress {}:{port}", bridge.address)).await;
    let (live, gate) = (sshd.path("live"), sshd.path("gate"));
    let health = serve(&bridge.address, live.clone(), Arc::default()).await;
    let mut files = [service("backend", "0.1.0", "one"), deployment(&live, health)].concat();
    let playbook = files.iter_mut().find(|(name, _)| name == "deploy/site.yml").unwrap();
    let wait = format!("    - name: Wait\n      ansible.builtin.wait_for: {{path: {}}}\n", gate.display());
    playbook.1.extend_from_slice(wait.as_bytes());
    let mut yard = RealYard::with(files, |config| configure(config, &bridge.address, port, &sshd)).await;
    yard.secret("the_word", "open-sesame").await;

    yard.announce("one", &yard.first).await;
    until("the file to be live", async || live.exists().then_some(())).await;
    yard.kill().await;
    std::fs::remove_file(&live).unwrap();
    yard.start().await;
    until("the file to be live again", async || live.exists().then_some(())).await;
    std::fs::write(&gate, "").unwrap();
    let run = yard.finished(1).await;
    let log = yard.log_of(step(&run, "deliver", "deploy")).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}\n{log}");
    let deployments = yard.github.deployments(yard.sample.name());
    assert_eq!(deployments.len(), 1, "begun twice, it is one deployment: {deployments:?}");

    yard.engine_is_clean().await;
    yard.stop().await;
}

#[tokio::test]
async fn what_a_playbook_cannot_be_run_with_is_named_with_what_to_do() {
    let sshd = Sshd::start().await;
    let mut files = deployment(Path::new("/nowhere"), 1);
    let deliver = files.iter_mut().find(|(name, _)| name == ".mergeyard/deliver.yml").unwrap();
    let pipeline = "
when: [{event: pull_request_merged}]
steps:
  - {name: unreachable, uses: ansible, with: {target: here, folder: deploy}, depends_on: []}
  - {name: lacking, uses: ansible, with: {target: there, folder: deploy, image: mergeyard-no-such}, depends_on: []}
";
    deliver.1 = pipeline.as_bytes().to_vec();
    let mut yard = RealYard::with(files, |config| {
        configure(config, "127.0.0.1", sshd.port(), &sshd);
        let there = target("there", "192.0.2.1", 22, &sshd);
        config["target"].as_array_mut().unwrap().push(there.into());
        let repo = config["repo"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        repo.insert("targets".into(), vec!["here", "there"].into());
    })
    .await;
    yard.announce("no", &yard.first).await;
    let run = yard.finished(1).await;
    let why = |name| step(&run, "deliver", name).to_string();
    assert!(why("unreachable").contains("which inside of a container is the container itself"), "{run:#}");
    let lacking = why("lacking");
    assert!(lacking.contains("docker build -t mergeyard-no-such examples/clock/ansible"), "{run:#}");
    yard.stop().await;
}

/// What is live answers at `/`: well, unless it is known that only another one is.
async fn serve(address: &str, live: PathBuf, well: Arc<Mutex<Option<String>>>) -> u16 {
    let answer = move || async move {
        let live = std::fs::read_to_string(live).unwrap_or_default();
        match &*well.lock().unwrap() {
            Some(well) if *well != live => (StatusCode::SERVICE_UNAVAILABLE, live),
            _ => (StatusCode::OK, live),
        }
    };
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(answer))).await });
    port
}

/// How both deployments ended, as GitHub knows it.
async fn told(yard: &RealYard) -> [String; 2] {
    until("GitHub to be told of both ends", async || {
        let all = yard.github.deployments(yard.sample.name());
        let last = all.iter().filter_map(|deployment| deployment.statuses.last());
        let ends = last.filter(|status| status.state != "in_progress");
        let ends: Vec<_> = ends.map(|status| format!("{} {}", status.state, status.description)).collect();
        ends.try_into().ok()
    })
    .await
}

fn deployment(live: &Path, health: u16) -> Files {
    let playbook = PLAYBOOK.replace("PLACE", &live.display().to_string()).replace('`', "\"");
    let deliver = DELIVER.replace("PORT", &health.to_string());
    [("deploy/site.yml", playbook), (".mergeyard/deliver.yml", deliver)]
        .map(|(name, text)| (name.to_owned(), text.into_bytes()))
        .into()
}

fn configure(config: &mut toml::Table, address: &str, port: u16, sshd: &Sshd) {
    config.insert("target".into(), vec![toml::Value::from(target("here", address, port, sshd))].into());
    let repo = config["repo"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
    repo.insert("targets".into(), vec![toml::Value::from("here")].into());
}

fn target(name: &str, address: &str, port: u16, sshd: &Sshd) -> toml::Table {
    let known = sshd.target();
    let key = toml::Table::from_iter([("file".to_owned(), sshd.path("key").display().to_string().into())]);
    toml::Table::from_iter([
        ("name".to_owned(), name.into()),
        ("address".to_owned(), address.into()),
        ("port".to_owned(), i64::from(port).into()),
        ("user".to_owned(), known.user.into()),
        ("host_key".to_owned(), sshd.host_key().into()),
        ("key".to_owned(), toml::Value::from(key)),
    ])
}

impl RealYard {
    /// Tells the server a secret of the repository's, for pull requests too.
    pub(super) async fn secret(&self, name: &str, value: &str) {
        let repo = self.sample.name().to_string();
        let mut set = process::mergeyard();
        set.args(["secret", "set", name, "--repo", &repo]);
        set.args(["--event", "pull_request", "--event", "pull_request_merged", "--config"]);
        set.arg(self.config_file());
        process::run_with(&mut set, value).await.good();
    }
}
