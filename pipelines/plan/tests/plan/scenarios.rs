//! `tests/scenarios/NN-name/`: pipeline files, an event, and what is planned, readable as
//! documentation of the language. `MERGEYARD_BLESS=1` writes `plan.txt` anew.

use std::{collections::BTreeMap, fs, path::Path};

use mergeyard_plan::{
    event::EventKind,
    facts::{Facts, PullRequestFacts},
    policy::{TargetRights, Trust},
    spec::Limits,
    workflows::{self, PipelineFile, Request},
};
use mergeyard_types::TargetName;
use serde::Deserialize;

use crate::built::facts;

/// `event.json`: what is otherwise than at a push of `src/main.rs` to `main` of acme/clock.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Told {
    event: EventKind,
    branch: String,
    source_branch: String,
    tag: String,
    message: String,
    files: Vec<String>,
    labels: Vec<String>,
    cron: String,
    fork: bool,
    local: bool,
    trusted: Vec<String>,
    inputs: BTreeMap<String, String>,
    runner: BTreeMap<String, String>,
    /// The operator's targets for this repository; without any nobody knows.
    targets: Option<Vec<ToldTarget>>,
    lists: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldTarget {
    name: TargetName,
    #[serde(default)]
    branches: Vec<String>,
    #[serde(default)]
    events: Vec<EventKind>,
    #[serde(default)]
    mirror: bool,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            event: EventKind::Push,
            branch: "main".into(),
            source_branch: String::new(),
            tag: String::new(),
            message: "Tell the time".into(),
            files: vec!["src/main.rs".into()],
            labels: vec![],
            cron: String::new(),
            fork: false,
            local: false,
            trusted: vec![],
            inputs: BTreeMap::new(),
            runner: BTreeMap::new(),
            targets: None,
            lists: vec![],
        }
    }
}

#[test]
fn every_scenario_is_planned_as_it_is_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut folders: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 20, "the scenarios are gone from {}", root.display());
    let mut wrong = Vec::new();
    for folder in folders {
        let planned = planned(&folder);
        let file = folder.join("plan.txt");
        if std::env::var_os("MERGEYARD_BLESS").is_some() {
            fs::write(&file, &planned).unwrap();
        } else if fs::read_to_string(&file).unwrap_or_default() != planned {
            wrong.push(format!("{}:\n{planned}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "otherwise than written (MERGEYARD_BLESS=1 accepts it):\n{}", wrong.join("\n"));
}

fn planned(folder: &Path) -> String {
    let told = fs::read_to_string(folder.join("event.json")).unwrap_or_else(|_| "{}".to_owned());
    let told: Told = serde_json::from_str(&told).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut files: Vec<PipelineFile> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .map(|path| PipelineFile {
            path: path.file_name().unwrap().to_str().unwrap().to_owned(),
            content: Ok(fs::read(&path).unwrap()),
            included: vec![],
        })
        .collect();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let (runner, lists) = (told.runner.clone(), told.lists.clone());
    let right = |ToldTarget { name, branches, events, mirror }: &ToldTarget| {
        TargetRights::new(name.clone(), branches, events.clone(), *mirror).unwrap()
    };
    let targets: Option<Vec<TargetRights>> =
        told.targets.as_ref().map(|targets| targets.iter().map(right).collect());
    let facts = facts_of(told);
    let request = Request {
        secrets: Some(&[]),
        runner: &runner,
        targets: targets.as_deref(),
        lists: &lists,
        ..Request::of(&facts)
    };
    workflows::plan(&workflows::read(&files, &facts, &Limits::DEFAULT), &request).text()
}

fn facts_of(told: Told) -> Facts {
    let Told {
        event,
        branch,
        source_branch,
        tag,
        message,
        files,
        labels,
        cron,
        fork,
        local,
        trusted,
        inputs,
        runner: _,
        targets: _,
        lists: _,
    } = told;
    let mut facts = facts();
    let trusts = |what: &str| trusted.iter().any(|trusted| trusted == what);
    facts.repo.trust =
        Trust { security: trusts("security"), network: trusts("network"), volumes: trusts("volumes") };
    facts.pipeline.event = event;
    facts.pipeline.files = Some(files);
    facts.pipeline.cron = cron;
    facts.commit.git_ref = match (tag.is_empty(), event.is_pull_request()) {
        (false, _) => format!("refs/tags/{tag}"),
        (true, true) => "refs/pull/7/head".to_owned(),
        (true, false) => format!("refs/heads/{branch}"),
    };
    facts.commit.pull_request = event.is_pull_request().then(|| PullRequestFacts {
        number: 7,
        labels,
        from_fork: fork,
        ..PullRequestFacts::default()
    });
    facts.commit.branch = branch;
    facts.commit.source_branch = source_branch;
    facts.commit.tag = tag;
    facts.commit.message = message;
    facts.local = local;
    facts.inputs = inputs;
    facts
}
