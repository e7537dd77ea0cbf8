//! The pages of targets: what is live on each, what goes on, what waits, what was.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use mergeyard_plan::{
    action::{Action, Health, RolloutAction},
    decide::{PlannedRun, PlannedStep},
    run::Outcome,
};
use mergeyard_run::ledger::{Intent, Verdict};
use mergeyard_server::{
    config::{Config, Rules},
    store::{Job, Look, Seen},
};
use mergeyard_types::{DeploymentId, Digest, Timestamp};

use crate::web::{Events, HOSTILE, Site, assert_inert, plan, serve, text};

const MINUTE: i64 = 60_000;

/// The rules of a configuration with these targets.
fn rules(targets: &str) -> Rules {
    let table = format!("[git]\nwebhook_secret = \"0123456789abcdef\"\n{targets}");
    Config::from_table(table.parse().unwrap()).unwrap().rules
}

fn two_targets() -> Rules {
    rules(
        "[[target]]\nname = \"attic\"\nkind = \"local\"\n\
         freeze = [{from = \"2020-01-01T00:00:00Z\", to = \"2027-01-01T00:00:00Z\"}]\n\
         [[target]]\nname = \"clock-vm\"\naddress = \"192.0.2.10\"\nuser = \"deploy\"\n\
         key = \"-----BEGIN OPENSSH PRIVATE KEY-----\\nthekeyitself\\n-----END OPENSSH PRIVATE KEY-----\"\n\
         mirror = {root = \"/srv/mirror\", url = \"https://mirror.example.org/yum\"}\n",
    )
}

fn digest(byte: u8) -> Digest {
    Digest::Sha256([byte; 32])
}

fn health() -> Health {
    Health { url: "/health".into(), status: 200, body: None, timeout_ms: 2000, retries: 3, interval_ms: 1000 }
}

/// A run of one step that puts `service` on `target`.
fn rollout(commit: u64, target: &str, service: &str) -> PlannedRun {
    let action = RolloutAction {
        target: target.parse().unwrap(),
        service: service.into(),
        image: "clock".parse().unwrap(),
        version: None,
        digest: None,
        port: 8080,
        publish: vec![],
        network: "mergeyard".into(),
        environment: BTreeMap::new(),
        command: vec![],
        volumes: vec![],
        user: None,
        health: health(),
        check: false,
    };
    let mut plan = plan(commit, "Serve the time");
    let step = &mut plan.workflows[0].steps[0];
    *step = PlannedStep {
        name: "deploy".into(),
        action: Action::Rollout(Box::new(action)),
        serial: Some(format!("target/{target}")),
        ..step.clone()
    };
    plan
}

/// Begins to deploy at a time, as the step's action does.
async fn begin(
    site: &Site,
    plan: &PlannedRun,
    byte: u8,
    before: Option<u8>,
    at: Timestamp,
) -> (Job, DeploymentId) {
    site.run(plan).await;
    let job = site.claim().await;
    let Action::Rollout(action) = &job.action else { panic!("the step is a rollout") };
    let intent = Intent {
        step: job.lease.step,
        target: action.target.clone(),
        service: action.service.clone(),
        image: Some(action.image.clone()),
        digest: digest(byte),
        before: before.map(digest),
    };
    let id = site.pages.store.begin_deployment(&job.lease, &intent, at).await.unwrap();
    site.pages.changes.tell();
    (job, id)
}

async fn end(site: &Site, job: &Job, id: DeploymentId, verdict: Verdict, at: Timestamp) {
    site.pages.store.end_deployment(&job.lease, id, &verdict, at).await.unwrap();
    let outcome = match &verdict {
        Verdict::Healthy { .. } => Outcome::Success { outputs: BTreeMap::new() },
        Verdict::RolledBack { why, .. } | Verdict::Failed { why } => {
            Outcome::Failure { message: why.clone() }
        }
    };
    site.finish(job, outcome).await;
}

fn healthy(said: &str) -> Verdict {
    Verdict::Healthy { said: said.into() }
}

fn ago(site: &Site, minutes: i64) -> Timestamp {
    Timestamp(site.pages.clock.now().0 - minutes * MINUTE)
}

/// Two targets: `clock-vm` with a service that is live, one whose last rollout was taken back and one
/// that is being rolled out, and `attic`, which is frozen.
async fn arranged() -> Site {
    let site = Site::new().await;
    *site.pages.rules.write().unwrap() = Arc::new(two_targets());
    let at = |minutes| ago(&site, minutes);
    let (job, id) = begin(&site, &rollout(1, "clock-vm", "backend"), 1, None, at(90)).await;
    end(&site, &job, id, healthy("answered 200 at `/health`"), at(89)).await;
    let (job, id) = begin(&site, &rollout(2, "clock-vm", "backend"), 2, Some(1), at(60)).await;
    end(&site, &job, id, healthy("answered 200 at `/health`"), at(59)).await;
    let (job, id) = begin(&site, &rollout(3, "clock-vm", "frontend"), 3, None, at(58)).await;
    end(&site, &job, id, healthy("answered 200 at `/`"), at(57)).await;
    let (job, id) = begin(&site, &rollout(4, "clock-vm", "frontend"), 4, Some(3), at(12)).await;
    let why = "answered 500 at `/`, 30 times in 30 s".to_owned();
    end(&site, &job, id, Verdict::RolledBack { why, to: Some(digest(3)) }, at(11)).await;
    begin(&site, &rollout(5, "clock-vm", "worker"), 5, None, at(1)).await;
    site.run(&rollout(6, "clock-vm", "backend")).await;
    site.run(&rollout(7, "attic", "backend")).await;
    site
}

/// The row of a list that is about `name`.
fn row<'a>(page: &'a str, name: &str) -> &'a str {
    let rows = page.split("<li").find(|row| row.contains(&format!(">{name}</a>")));
    rows.unwrap_or_else(|| panic!("there is no row about {name}: {page}")).split("</li>").next().unwrap()
}

async fn seen(site: &Site, deployment: i64, service: &str, seen: Seen, begun: Timestamp) -> Option<bool> {
    let (deployment, target) = (DeploymentId(deployment), "clock-vm".parse().unwrap());
    let look = Look { deployment, target, service: service.into(), begun, seen };
    site.pages.store.note_look(&look, site.pages.clock.now()).await.unwrap()
}

#[tokio::test]
async fn a_target_shows_what_is_live_what_was_tried_and_what_waits() {
    let site = arranged().await;
    assert_eq!(seen(&site, 2, "backend", Seen::Differs(digest(9)), ago(&site, 4)).await, Some(true));
    for path in ["/targets", "/targets/clock-vm"] {
        let page = site.page(path).await;
        let backend = row(&page, "backend");
        assert!(backend.contains("drifted") && backend.contains("020202020202"), "{path}: {backend}");
        assert!(backend.contains("Something else runs in its place: <code title=\"sha256:0909"), "{backend}");
        assert!(backend.contains("Repeating <a href=\"/runs/2\">run 2</a> puts it back"), "{backend}");
        assert!(backend.contains("answered 200 at <code>/health</code>") && backend.contains("by octocat"));
        assert!(backend.contains("https://github.com/acme/clock/commit/") && backend.contains("/pull/42\""));
        let frontend = row(&page, "frontend");
        assert!(frontend.contains(">live</span>") && frontend.contains("030303030303"), "{frontend}");
        assert!(frontend.contains("rolled back") && frontend.contains("30 times in 30 s"), "{frontend}");
        let worker = row(&page, "worker");
        assert!(worker.contains("nothing proven yet") && worker.contains("href=\"/runs/5#s5\""), "{worker}");
        assert!(row(&page, "run 6").contains("waits for its turn"));
        assert!(!page.contains("thekeyitself") && !page.contains("PRIVATE KEY"), "{path} shows a key");
        // It reads without a script, without colours and to whoever does not see it.
        assert_eq!(page.matches("<h1").count(), 1, "{path}");
        assert!(page.contains("<a href=\"/targets\" aria-current=\"page\">Targets</a>"), "{path}");
        assert_eq!(page.matches("<svg").count(), page.matches("aria-hidden=\"true\">").count(), "{path}");
    }
    let all = site.page("/targets").await;
    assert!(all.contains("2 targets, 2 services live on them. Of 1 service something else runs"), "{all}");
    let attic = &all[all.find("id=\"t-attic\"").unwrap()..all.find("id=\"t-clock-vm\"").unwrap()];
    assert!(attic.contains("Frozen: what is due here starts") && attic.contains("run 7"), "{attic}");
    let one = site.page("/targets/clock-vm").await;
    assert!(one.contains("deploy@192.0.2.10 over SSH") && one.contains("not pinned"));
    assert!(one.contains("mergeyard target check clock-vm") && one.contains("mergeyard rollback clock-vm"));
    let history = &one[one.find("id=\"history\"").unwrap()..];
    let change = &history[history.find("id=\"d2\"").unwrap()..history.find("id=\"d1\"").unwrap()];
    let (before, after) = (change.find("010101010101").unwrap(), change.find(">020202020202").unwrap());
    assert!(before < after && change.contains("<span class=\"kind\">live</span>"), "{change}");
    let only = site.page("/targets/clock-vm?service=frontend").await;
    let history = &only[only.find("id=\"history\"").unwrap()..];
    assert!(history.contains("id=\"d4\"") && !history.contains("id=\"d2\""), "{history}");
    let run = site.page("/runs/4").await;
    let deployed = &run[run.find("id=\"deployed\"").unwrap()..];
    assert!(
        row(deployed, "frontend").contains("rolled back") && deployed.contains("href=\"/targets/clock-vm\"")
    );
    assert!(site.page("/").await.contains("Something else runs than was deployed."));
}

#[tokio::test]
async fn hostile_text_is_inert_on_the_pages_of_targets() {
    let site = Site::new().await;
    let mut plan = rollout(1, "clock-vm", HOSTILE);
    plan.author = HOSTILE.into();
    plan.title = HOSTILE.into();
    plan.source_url = Some("javascript:alert(1)//".into());
    let (job, id) = begin(&site, &plan, 1, None, ago(&site, 2)).await;
    end(&site, &job, id, healthy(HOSTILE), ago(&site, 1)).await;
    let unreachable = Seen::Unreachable { why: HOSTILE.into() };
    assert_eq!(seen(&site, 1, HOSTILE, unreachable, ago(&site, 1)).await, Some(true));
    let mut next = rollout(2, "clock-vm", "next");
    next.title = HOSTILE.into();
    site.run(&next).await;
    let encoded: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    let of_service = format!("/targets/clock-vm?service={encoded}");
    for path in ["/", "/targets", "/targets/clock-vm", &of_service, "/runs/1"] {
        let page = site.page(path).await;
        assert_inert(&page, path);
        assert!(page.contains("⟨U+202E⟩gnp.exe"), "{path} does not show what it hides");
    }
    let server = serve(&site).await;
    let mut events = Events::open(&server, "/api/v1/deployments/events", None).await;
    let told = events.next().await.unwrap().data.to_string();
    assert!(
        told.contains("⟨U+202E⟩gnp.exe") && !told.contains('\u{202e}') && !told.contains("\\u001b"),
        "{told}"
    );
}

#[tokio::test]
async fn a_target_with_a_thousand_deployments_is_read_page_by_page() {
    let site = Site::new().await;
    let (job, id) = begin(&site, &rollout(1, "clock-vm", "backend"), 1, None, ago(&site, 9)).await;
    end(&site, &job, id, healthy("answered"), ago(&site, 8)).await;
    let count = "WITH RECURSIVE n(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)";
    site.arrange(&format!(
        "INSERT INTO steps (id, run, workflow, name, action, timeout, retry, merged, state, ready, not_before) \
         {count} SELECT n, run, workflow, name, action, timeout, retry, merged, state, 0, 0 FROM n, steps WHERE id = 1"
    ))
    .await;
    site.arrange(&format!(
        "INSERT INTO deployments (id, step, run, repo, target, service, image, digest, before, commit_sha, number, who, \
         state, health, live, started, finished) {count} SELECT n, n, run, repo, target, service, image, digest, digest, \
         commit_sha, number, who, state, health, live, started, finished FROM n, deployments WHERE id = 1"
    ))
    .await;
    let begun = Instant::now();
    let (mut path, mut read, mut pages) = ("/targets/clock-vm?service=backend".to_owned(), vec![], 0);
    loop {
        let page = site.page(&path).await;
        assert!(page.len() < 200_000, "{path} has {} bytes", page.len());
        let rows = page.split("<li id=\"d").skip(1).map(|row| row.split('"').next().unwrap());
        read.extend(rows.map(|id| id.parse::<i64>().unwrap()));
        pages += 1;
        let next = page.split("rel=\"next\" href=\"").nth(1).map(|rest| rest.split('"').next().unwrap());
        match next {
            Some(next) => path = next.replace("&#38;", "&"),
            None => break,
        }
    }
    assert_eq!(read, (1..=1000).rev().collect::<Vec<i64>>());
    assert!(site.page("/targets").await.len() < 20_000, "what was does not make the overview longer");
    // A page takes a few milliseconds; this leaves room for a machine that does other things too.
    assert!(begun.elapsed().as_millis() / (pages + 1) < 500, "{:?} for {pages} pages", begun.elapsed());
}

#[tokio::test]
async fn the_pages_of_targets_are_told_of_each_change_as_it_happens() {
    let site = Site::new().await;
    *site.pages.rules.write().unwrap() = Arc::new(two_targets());
    let server = serve(&site).await;
    let mut events = Events::open(&server, "/api/v1/deployments/events?target=clock-vm", None).await;
    let first = events.next().await.unwrap();
    assert_eq!((first.name.as_str(), &first.data[0]["services"]), ("deployments", &serde_json::json!([])));
    let (job, id) = begin(&site, &rollout(1, "clock-vm", "backend"), 1, None, ago(&site, 2)).await;
    // A new run and its deployment are told as one or as two.
    let service = async |events: &mut Events, wanted: &str| {
        loop {
            let event = events.next().await.unwrap();
            let service = event.data[0]["services"][0].clone();
            if service["condition"] == wanted {
                return service;
            }
        }
    };
    assert_eq!(service(&mut events, "deploying").await["newest"]["state"], "in_progress");
    end(&site, &job, id, healthy("answered"), ago(&site, 1)).await;
    assert_eq!(service(&mut events, "unlooked").await["live"]["state"], "success");
    assert_eq!(seen(&site, 1, "backend", Seen::Gone, ago(&site, 0)).await, Some(true));
    site.pages.changes.tell();
    assert_eq!(service(&mut events, "drifted").await["looked"], ago(&site, 0).0);
    let none = site.get("/api/v1/deployments/events?target=none").await;
    assert!(text(none).await.contains("nothing at this address"));
}

#[tokio::test]
async fn a_look_that_a_deployment_came_into_says_nothing() {
    let site = Site::new().await;
    let (job, id) = begin(&site, &rollout(1, "clock-vm", "backend"), 1, None, ago(&site, 9)).await;
    assert_eq!(seen(&site, 1, "backend", Seen::Gone, ago(&site, 9)).await, None, "nothing is live yet");
    end(&site, &job, id, healthy("answered"), ago(&site, 8)).await;
    assert_eq!(seen(&site, 1, "backend", Seen::Gone, ago(&site, 9)).await, None, "it was not there yet");
    assert_eq!(seen(&site, 1, "backend", Seen::Same, ago(&site, 7)).await, Some(true));
    let (job, id) = begin(&site, &rollout(2, "clock-vm", "backend"), 2, Some(1), ago(&site, 6)).await;
    let between = Seen::Differs(digest(2));
    assert_eq!(seen(&site, 1, "backend", between.clone(), ago(&site, 5)).await, None, "it is being changed");
    end(&site, &job, id, healthy("answered"), ago(&site, 4)).await;
    assert_eq!(seen(&site, 1, "backend", between, ago(&site, 3)).await, None, "another one is live now");
    assert_eq!(seen(&site, 2, "backend", Seen::Same, ago(&site, 3)).await, Some(true));
    assert_eq!(seen(&site, 2, "backend", Seen::Same, ago(&site, 2)).await, Some(false), "nothing new");
}
