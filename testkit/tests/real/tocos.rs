//! `examples/tocos`, from a merged pull request to a service that answers: tested, built,
//! pushed, tried, approved, live.

use std::path::Path;

use mergeyard_testkit::process::{self, free_port, tool};
use serde_json::Value;

use super::{RealYard, list_of, step, text};

/// The example as it lies in the checkout, but on a port that is free here and under a name
/// that no other test uses.
fn example(port: u16, name: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/tocos");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the example is there") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "__pycache__") {
                folders.push(path);
            } else if path.is_file() {
                let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                files.push((name, std::fs::read(&path).expect("a readable file")));
            }
        }
    }
    let deliver = files.iter_mut().find(|(name, _)| name == ".mergeyard/deliver.yml").expect("its pipeline");
    let text = String::from_utf8(deliver.1.clone()).expect("text");
    let here = format!("TOCOS_PORT: {port}\n      TOCOS_NAME: {name}");
    assert!(text.contains("TOCOS_PORT: 8000"), "the example names its port differently now");
    deliver.1 = text.replace("TOCOS_PORT: 8000", &here).into_bytes();
    files
}

#[tokio::test]
async fn the_example_is_tested_built_tried_approved_and_goes_live() {
    let (port, name) = (free_port(), format!("tocos-{}", std::process::id()));
    let mut yard = RealYard::with(example(port, &name), |config| {
        let repo = config["repo"].as_array_mut().expect("a list")[0].as_table_mut().expect("a table");
        repo.insert("trusted".into(), vec![toml::Value::from("volumes")].into());
    })
    .await;
    yard.announce("tocos", &yard.first).await;

    let waits = yard.run_until(1, "deploy waits", |run| state(run, "deliver", "deploy") == "blocked").await;
    assert_eq!(state(&waits, "check", "test"), "success", "{waits:#}");
    assert_eq!(state(&waits, "deliver", "smoke"), "success", "{waits:#}");
    let log = yard.log_of(step(&waits, "deliver", "smoke")).await;
    assert!(log.contains("smoke: 3 users, 2 coins, version 0.1.0"), "{log}");
    assert!(
        yard.http.get(format!("http://127.0.0.1:{port}/healthz")).send().await.is_err(),
        "it is not live yet"
    );

    yard.mergeyard(&["approve", "1", "production"]).await.good();
    let run = yard.finished(1).await;
    let answer = yard.http.get(format!("http://127.0.0.1:{port}/users/1")).send().await;
    process::run(tool("docker").args(["rm", "-f", &name])).await.good();
    assert_eq!(run["run"]["state"], "success", "{run:#}\n{}", yard.log(&run).await);
    let user: Value = answer.expect("it is live").json().await.expect("JSON");
    assert_eq!(user["name"], "Ada");
    assert_eq!(list_of(&run["images"]).len(), 1, "{run:#}");

    yard.engine_is_clean().await;
    yard.stop().await;
}

fn state<'a>(run: &'a Value, workflow: &str, name: &str) -> &'a str {
    text(&step(run, workflow, name)["state"])
}
