//! Dependencies point one way. This fails when an arrow turns.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// What each crate of the house may lean on.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("mergeyard-types", &[]),
    ("mergeyard-plan", &["mergeyard-types"]),
    ("mergeyard-run", &["mergeyard-types", "mergeyard-plan"]),
    ("mergeyard-registry", &["mergeyard-types"]),
    ("mergeyard-server", &["mergeyard-types", "mergeyard-plan", "mergeyard-run", "mergeyard-registry"]),
    (
        "mergeyard-testkit",
        &["mergeyard-types", "mergeyard-plan", "mergeyard-run", "mergeyard-registry", "mergeyard-server"],
    ),
];

/// What decides must not be able to wait, ask or store.
const NOT_IN_THE_PLANNER: [&str; 6] = ["tokio", "sqlx", "axum", "reqwest", "git2", "bollard"];

#[test]
fn no_arrow_of_the_map_turns() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known, "a crate was added or removed: draw it on the map, and here");
    for (name, may_use) in MAY_USE {
        let (_, uses) = packages.iter().find(|(package, _)| package == name).unwrap();
        for used in uses.iter().filter(|used| used.starts_with("mergeyard-")) {
            assert!(may_use.contains(&used.as_str()), "{name} must not lean on {used}");
        }
    }
}

#[test]
fn the_planner_and_the_vocabulary_touch_nothing() {
    for (name, uses) in packages() {
        if name == "mergeyard-plan" || name == "mergeyard-types" {
            for used in NOT_IN_THE_PLANNER {
                assert!(!uses.contains(used), "{name} must not lean on {used}");
            }
        }
    }
}

/// The crates of the workspace, each with what it leans on outside of its tests.
fn packages() -> Vec<(String, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages").iter();
    packages
        .map(|package| {
            let uses = package["dependencies"].as_array().expect("dependencies").iter();
            let uses = uses.filter(|used| used["kind"].is_null()).map(|used| text(&used["name"])).collect();
            (text(&package["name"]), uses)
        })
        .collect()
}
