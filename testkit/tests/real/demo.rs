//! `mergeyard demo`: the one command a stranger runs first.

use mergeyard_testkit::process::{self, Process, Signal, tool};
use serde_json::Value;

use super::{list_of, text};

#[tokio::test]
async fn the_demo_shows_what_it_says_and_leaves_nothing_behind() {
    let before = left_over().await;
    let registries = [told_in_one_document().await, shown_until_it_is_interrupted().await];
    let after = left_over().await;
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(new.is_empty(), "the demo left {new:?}");
    for registry in registries {
        let images = docker(&["images", "-q", "--filter", &format!("reference={registry}/*")]).await;
        assert_eq!(images, "", "images of a registry that is gone are of no use to anybody");
    }
}

/// `--once --format json`. Returns the registry that the images are in.
async fn told_in_one_document() -> String {
    let said = process::run(process::mergeyard().args(["demo", "--once", "--format", "json"])).await;
    // More than one document, or a word beside it, would not parse.
    let document: Value = serde_json::from_str(&said.good()).unwrap();
    let mut keys: Vec<&String> = document.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["clock_url", "images", "run_url", "status", "timings_ms"]);
    assert_eq!(document["status"], "success");
    for address in ["run_url", "clock_url"] {
        assert!(text(&document[address]).starts_with("http://127.0.0.1:"), "{document}");
    }
    let mut names: Vec<&str> = Vec::new();
    for image in list_of(&document["images"]) {
        let digest = text(&image["digest"]).strip_prefix("sha256:").unwrap();
        assert!(digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{image}");
        names.push(text(&image["ref"]).split_once('/').unwrap().1);
    }
    names.sort_unstable();
    assert_eq!(names, ["clock-backend:0.1.0", "clock-frontend:0.1.0"]);
    for step in ["repository", "server", "webhook", "publish", "pull", "start", "check", "total"] {
        assert!(document["timings_ms"][step].is_u64(), "{step}: {document}");
    }
    text(&document["images"][0]["ref"]).split('/').next().unwrap().to_owned()
}

/// Without `--once` everything that was said can be looked at, until Ctrl-C.
async fn shown_until_it_is_interrupted() -> String {
    let mut demo = Process::start("demo", process::mergeyard().arg("demo"));
    demo.says("press Ctrl-C").await;
    let value = async |name: &str| demo.says(name).await.trim_start_matches([' ', '│']).to_owned();
    let pull = value(" skopeo inspect ").await;
    let inspected = process::run(tool("sh").args(["-c", &pull])).await.good();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let reference = pull.rsplit_once("docker://").unwrap().1;
    assert!(reference.ends_with(text(&inspected["Digest"])), "{pull} gave {inspected}");
    for page in ["status page  http", "this run     http", "the clock    http"] {
        let line = value(page).await;
        let page = reqwest::get(line.rsplit_once(' ').unwrap().1).await.unwrap();
        assert!(page.status().is_success(), "{line}");
    }
    demo.signal(Signal::INT);
    assert!(demo.ended().await.success(), "{}", demo.said());
    reference.split('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn without_an_engine_the_demo_says_what_to_do() {
    let engine = "unix:///nowhere/docker.sock";
    let mut demo = process::mergeyard();
    let said = process::run(demo.args(["demo", "--once", "--format", "json", "--engine", engine])).await;
    assert_eq!(said.stdout, "");
    let error = said.failed(1);
    assert!(error.contains(engine) && error.contains("start it"), "{error}");
}

/// Containers and networks of demos.
async fn left_over() -> Vec<String> {
    let label = ["--filter", "label=mergeyard.demo", "--format"];
    let containers = docker(&[&["ps", "-a"], &label[..], &["container {{.Names}}"]].concat()).await;
    let networks = docker(&[&["network", "ls"], &label[..], &["network {{.Name}}"]].concat()).await;
    containers.lines().chain(networks.lines()).map(str::to_owned).collect()
}

async fn docker(arguments: &[&str]) -> String {
    process::run(tool("docker").args(arguments)).await.good()
}
