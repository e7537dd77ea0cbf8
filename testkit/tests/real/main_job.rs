//! From a merged pull request to an image that stock clients pull, with everything an
//! operator does meanwhile.

use mergeyard_server::sample::payload;
use mergeyard_testkit::{
    process::{self, Said, Signal, tool, until},
    yard::{answer, borrowed},
};
use serde_json::{Value, json};

use super::{Gate, RealYard, built_from, list_of, service, set, states, text};

const ON_DEBIAN: &str = "FROM debian:bookworm-slim\nCOPY content /content\nRUN cat /content\nUSER 10001\n";

#[tokio::test]
async fn a_merge_becomes_images_that_stock_clients_pull_over_verified_tls() {
    let files = [built_from("backend", "0.1.0", ON_DEBIAN, "one"), service("frontend", "0.1.0", "one")];
    let mut yard = RealYard::new(files.concat()).await;
    yard.announce("m-1", &yard.first).await;
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: success", "frontend: success"], "{run:#}");
    let page = yard.page("/runs/1").await + &yard.page("/images").await;
    for image in list_of(&run["images"]) {
        let digest = text(&image["digest"]);
        assert_eq!(
            page.matches(&format!(">{digest}</code>")).count(),
            3,
            "on the run's page, among images and in the registry"
        );
        assert_eq!(yard.inspect(text(&image["ref"])).await["Digest"], digest);
        pulled_by_digest(&yard, image).await;
    }
    let log = yard.log(&run).await;
    assert!(log.contains("cat /content") && log.contains("published 127.0.0.1:"), "{log}");
    github_was_told(&yard).await;

    let raised = service("frontend", "0.2.0", "two");
    let second = yard.sample.merge_change("Raise the frontend", &borrowed(&raised)).unwrap();
    yard.announce("m-2", &second).await;
    let run = yard.finished(2).await;
    assert_eq!(states(&run), ["backend: skipped", "frontend: success"], "{run:#}");
    assert_eq!(list_of(&run["images"]).len(), 1, "only what changed was built: {run:#}");
    yard.stop().await;
}

/// Three clients with the authority and the login get the very image; without either they
/// get nothing.
async fn pulled_by_digest(yard: &RealYard, image: &Value) {
    let (reference, digest) = (text(&image["ref"]), text(&image["digest"]));
    let (repository, _) = reference.rsplit_once(':').unwrap();
    let by_digest = format!("{repository}@{digest}");
    let (trusted, login) = (yard.trusted(), format!("mergeyard:{}", yard.password()));
    let copy = async |trust: &std::path::Path, login: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let mut skopeo = tool("skopeo");
        skopeo.arg("copy").arg("--src-cert-dir").arg(trust).args(login).arg(format!("docker://{by_digest}"));
        process::run(skopeo.arg(format!("dir:{}", folder.path().display()))).await
    };
    copy(&trusted, &["--src-creds", &login]).await.good();
    let refused = copy(&trusted, &["--src-creds", "mergeyard:wrong"]).await.failed(1);
    assert!(refused.contains("unauthorized") || refused.contains("invalid username"), "{refused}");
    let refused = copy(&another_authority(yard).await, &["--src-creds", &login]).await.failed(1);
    assert!(refused.contains("unknown authority"), "{refused}");

    let docker = async |arguments: &[&str]| -> Said {
        process::run(tool("docker").arg("--config").arg(yard.path("docker")).args(arguments)).await
    };
    docker(&["rmi", "-f", reference]).await.good();
    let host = repository.split('/').next().unwrap();
    docker(&["login", "-u", "mergeyard", "-p", &yard.password(), host]).await.good();
    docker(&["pull", "-q", &by_digest]).await.good();
    let known = docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", &by_digest]).await.good();
    assert!(known.contains(digest), "{known}");
}

async fn another_authority(yard: &RealYard) -> std::path::PathBuf {
    let (out, folder) = (yard.path("another"), yard.path("distrusted"));
    let mut made = process::mergeyard();
    made.args(["registry", "certificate", "--name", "127.0.0.1", "--out"]).arg(&out);
    process::run(&mut made).await.good();
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(out.join("ca.pem"), folder.join("ca.crt")).unwrap();
    folder
}

async fn github_was_told(yard: &RealYard) {
    let (repo, commit) = (yard.sample.name(), yard.first.merge);
    let context = "mergeyard/pull_request_merged/image/backend";
    let told = |world: &mergeyard_testkit::fake_github::World| -> Vec<_> {
        let all = world.repos[repo].statuses.iter().filter(|s| s.sha == commit && s.context == context);
        all.map(|s| (s.state.clone(), s.target_url.clone().unwrap_or_default())).collect()
    };
    yard.github.wait_until("success", |world| told(world).iter().any(|(state, _)| state == "success")).await;
    let told = yard.github.read(told);
    let states: Vec<_> = told.iter().map(|(state, _)| state.as_str()).collect();
    assert_eq!((states.first(), states.last()), (Some(&"pending"), Some(&"success")), "{told:?}");
    for (_, link) in told {
        assert_eq!(link, yard.url("/runs/1"), "the link leads to the run's page");
    }
}

#[tokio::test]
async fn the_command_line_finds_out_mends_repeats_and_cancels() {
    let mut yard = RealYard::new(service("backend", "0.1.0", "cli")).await;
    let repo = yard.sample.name().to_string();
    let wrong = yard.mergeyard(&["hook", "check", &repo]).await.failed(1);
    assert!(wrong.contains(&format!("mergeyard hook add {repo}")), "{wrong}");
    let made = yard.mergeyard(&["hook", "add", &repo]).await.good();
    assert!(made.contains(&yard.url("/hooks/github")), "{made}");
    yard.mergeyard(&["hook", "check", &repo]).await.good();

    // What GitHub lost is found and sent again, and then is a delivery like any other.
    yard.github.lose_next_delivery();
    let lost = yard.github.happen("pull_request", &yard.merged(&yard.first)).await.remove(0).to_string();
    let unknown = yard.mergeyard(&["deliveries", "show", &lost]).await.failed(1);
    assert!(unknown.contains(&format!("there is no delivery {lost}")), "{unknown}");
    let found = yard.mergeyard(&["deliveries", "reconcile"]).await.good();
    assert!(found.contains("1 never arrived") && found.contains(&lost), "{found}");
    assert_eq!(states(&yard.finished(1).await), ["backend: success"]);
    let found = yard.mergeyard(&["deliveries", "reconcile", &repo]).await.good();
    assert!(found.contains("0 never arrived"), "{found}");

    let shown = yard.mergeyard(&["deliveries", "show", &lost]).await.good();
    assert!(shown.contains("done") && shown.contains("started run 1"), "{shown}");
    let listed = yard.mergeyard(&["deliveries", "list"]).await.good();
    assert!(listed.lines().count() == 1 && listed.contains(&lost), "{listed}");
    let body = yard.mergeyard(&["deliveries", "show", "--body", &lost]).await.good();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), yard.merged(&yard.first));

    let replayed = yard.mergeyard(&["deliveries", "replay", &lost]).await.good();
    assert!(replayed.contains(&lost), "{replayed}");
    assert_eq!(states(&yard.finished(2).await), ["backend: skipped"]);

    let gate = Gate::new();
    let slow = built_from("backend", "0.2.0", &gate.dockerfile(), "");
    let slow = yard.sample.merge_change("Build for ever", &borrowed(&slow)).unwrap();
    yard.announce("c-1", &slow).await;
    gate.waited_at(true).await;
    yard.mergeyard(&["cancel", "3", "--why", "it takes too long"]).await.good();
    let cancelled = yard.finished(3).await;
    assert_eq!(cancelled["run"]["state"], "cancelled", "{cancelled:#}");
    let why = text(&cancelled["workflows"][0]["why"]);
    assert!(why.starts_with("it takes too long (user "), "the reason, and whose: {why}");
    gate.waited_at(false).await;
    let over = yard.mergeyard(&["cancel", "3"]).await.failed(1);
    assert!(over.contains("run 3 is over already"), "{over}");
    yard.stop().await;
}

#[tokio::test]
async fn a_hang_up_reloads_the_rules_and_a_bad_file_changes_nothing() {
    let mut yard = RealYard::new(service("backend", "0.1.0", "reload")).await;
    let mut elsewhere = payload::closed_pull_request(&yard.sample.hosted(), &yard.first);
    elsewhere["repository"]["full_name"] = "acme/sundial".into();
    let said = async |id: &str| answer(yard.webhook(id, &elsewhere)).await.body["reason"].to_string();
    assert!(said("h-1").await.contains("is not configured"));

    std::fs::write(yard.config_file(), "[[repo]]\nname = \"acme/sundial\"\nbranchs = []\n").unwrap();
    yard.server().signal(Signal::HUP);
    let complaint = yard.server().says("kept the configuration as it was").await;
    assert!(complaint.contains("mergeyard.toml:3:1") && complaint.contains("`branches`"), "{complaint}");
    assert!(said("h-2").await.contains("is not configured"), "the old rules hold");
    let wrong = yard.mergeyard(&["deliveries", "list"]).await.failed(2);
    assert!(wrong.contains("mergeyard.toml:3:1"), "a command says it too: {wrong}");

    let mut config = yard.config.clone();
    let repos = config["repo"].as_array_mut().unwrap();
    repos.push(toml::Value::try_from(json!({ "name": "acme/sundial" })).unwrap());
    std::fs::write(yard.config_file(), config.to_string()).unwrap();
    yard.server().signal(Signal::HUP);
    yard.server().says("read repositories and webhook secrets anew").await;
    let known = answer(yard.webhook("h-3", &elsewhere)).await;
    assert_eq!(known.body["state"], "queued", "the new repository is known: {known:?}");
    assert_eq!(answer(yard.webhook("h-4", &yard.merged(&yard.first))).await.body["state"], "queued");
    assert_eq!(yard.finished(1).await["run"]["state"], "success");
    yard.stop().await;
}

#[tokio::test]
async fn a_server_that_is_asked_to_stop_hands_its_build_over_to_the_next() {
    let gate = Gate::new();
    let mut yard = RealYard::new(built_from("backend", "0.1.0", &gate.dockerfile(), "")).await;
    yard.announce("t-1", &yard.first).await;
    gate.waited_at(true).await;
    let begun = std::time::Instant::now();
    yard.stop().await;
    // Ten seconds are for the step to end by itself, five to go.
    assert!(begun.elapsed().as_secs() < 15, "it took {:?} to stop", begun.elapsed());
    gate.waited_at(false).await;
    yard.start().await;
    gate.waited_at(true).await;
    gate.open(&yard).await;
    let run = yard.finished(1).await;
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    yard.stop().await;
}

#[tokio::test]
async fn two_servers_do_not_share_a_data_directory_and_a_taken_port_is_named() {
    let mut yard = RealYard::new(service("backend", "0.1.0", "owner")).await;
    let second = yard.mergeyard(&["serve"]).await.failed(1);
    assert!(second.contains("belongs to a mergeyard that runs"), "{second}");
    set(&mut yard.config, "registry", "listen", "127.0.0.1:0");
    yard.config.insert("data_dir".to_owned(), "elsewhere".into());
    std::fs::write(yard.config_file(), yard.config.to_string()).unwrap();
    let taken = yard.mergeyard(&["serve"]).await.failed(1);
    assert!(taken.contains(&yard.port.to_string()) && taken.contains("`http.listen`"), "{taken}");
    until("the first to go on", async || yard.http.get(yard.url("/healthz")).send().await.ok()).await;
    yard.stop().await;
}
