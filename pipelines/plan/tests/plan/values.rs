//! What a step is given: its settings, its environment, its secrets, what others wrote.

use std::collections::BTreeMap;

use mergeyard_plan::{
    action::{Action, ContainerAction},
    environment::{self, MOST_FILES, Place, Start},
    event::EventKind,
    facts::{Commit, PipelineFacts},
    labels, outputs,
    rules::StepKind,
    secrets::{Level, SecretRule, available, is_fork, nearest},
    settings,
};
use mergeyard_types::{RunId, Timestamp};
use serde_json::{Value, json};

use crate::built::{commit, facts, on, pipeline, pull_request};

#[test]
fn settings_become_what_plugins_expect() {
    let values = json!({
        "skip": null, "string": "stringz", "int": 1, "float": 1.2, "whole": 2.0, "bool": true,
        "slice": [1, 2, 3], "empty": [], "hole": ["a", null], "from.address": "a@example.org", "dry-run": "x",
        "map": {"key": "value", "entry2": ["a", "b", 3], "secret": {"from_secret": "SECRET_TOKEN"}},
        "my_secret": {"from_secret": "secret_token"},
        "list.map": [{"registry": "r", "username": "6543", "port": 5432, "password": {"from_secret": "other"}}],
        "config": ["copy a b", {"foo": null}],
        "huge": 1e21, "tiny": 0.00001,
    });
    let expected = [
        ("PLUGIN_BOOL", "true"),
        ("PLUGIN_CONFIG", r#"["copy a b",{"foo":null}]"#),
        ("PLUGIN_DRY_RUN", "x"),
        ("PLUGIN_EMPTY", ""),
        ("PLUGIN_FLOAT", "1.2"),
        ("PLUGIN_FROM_ADDRESS", "a@example.org"),
        ("PLUGIN_HOLE", "a,"),
        ("PLUGIN_HUGE", "1e+21"),
        ("PLUGIN_INT", "1"),
        ("PLUGIN_LIST_MAP", r#"[{"password":"geheim","port":5432,"registry":"r","username":"6543"}]"#),
        ("PLUGIN_MAP", r#"{"entry2":["a","b",3],"key":"value","secret":"FooBar"}"#),
        ("PLUGIN_MY_SECRET", "FooBar"),
        ("PLUGIN_SLICE", "1,2,3"),
        ("PLUGIN_STRING", "stringz"),
        ("PLUGIN_TINY", "1e-05"),
        ("PLUGIN_WHOLE", "2"),
    ];
    let rendered = BTreeMap::from_iter(rendered(&values, true).unwrap());
    let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(rendered, expected);
}

#[test]
fn an_environment_keeps_its_names() {
    let rendered = rendered(&json!({"dry-run": 1, "Mixed": [true]}), false).unwrap();
    assert_eq!(rendered, [("Mixed".into(), "true".into()), ("dry-run".into(), "1".into())]);
}

#[test]
fn a_secret_that_is_not_to_be_had_is_said_with_the_setting_that_asks() {
    let said = rendered(&json!({"map": {"secret": {"from_secret": "nothing"}}}), true).unwrap_err();
    assert_eq!(said, "`map`: there is no secret `nothing`");
    let said = rendered(&json!({"a": {"from_secret": ["x"]}}), true).unwrap_err();
    assert_eq!(said, "`a`: `from_secret` takes the name of a secret");
}

#[test]
fn the_nearest_secret_counts_even_when_a_farther_one_would_be_allowed() {
    let rules = [
        SecretRule { level: Level::Global, ..rule("token", &[], &[]) },
        SecretRule { level: Level::Repository, ..rule("token", &[EventKind::Tag], &[]) },
    ];
    let found = nearest(&rules, "TOKEN").unwrap();
    assert_eq!(found.level, Level::Repository);
    let why = available(found, EventKind::Push, "alpine", false).unwrap_err();
    assert_eq!(
        why,
        "secret `token` is for tag, and this is `push`; add the event to the secret if that is meant"
    );
}

#[test]
fn events_and_images_decide_who_has_a_secret() {
    use EventKind::{PullRequest, PullRequestClosed, PullRequestMerged, Push, Tag};
    for (events, images, event, image, plugin, expected) in [
        (&[][..], &[][..], Push, "alpine", false, true),
        (&[], &[], PullRequest, "alpine", false, false),
        (&[], &[], PullRequestMerged, "alpine", false, true),
        (&[PullRequest], &[], PullRequestClosed, "alpine", false, true),
        (&[Tag], &[], Push, "alpine", false, false),
        (&[], &["plugins/git"], Push, "plugins/git:1", true, true),
        (&[], &["plugins/git"], Push, "docker.io/plugins/git", true, true),
        (&[], &["plugins/git"], Push, "plugins/git@sha256:00", true, true),
        (&[], &["plugins/git:1"], Push, "plugins/git:1", true, true),
        (&[], &["plugins/git:1"], Push, "plugins/git:2", true, false),
        (&[], &["plugins/git:1"], Push, "plugins/git", true, false),
        (&[], &["plugins/git"], Push, "evil.example.org/plugins/git", true, false),
        (&[], &["plugins/git"], Push, "plugins/git", false, false),
        (&[], &["golang"], Push, "docker.io/library/golang:1", true, true),
    ] {
        let allowed = available(&rule("token", events, images), event, image, plugin).is_ok();
        assert_eq!(allowed, expected, "{events:?} {images:?} for {event} {image} (plugin: {plugin})");
    }
}

#[test]
fn a_fork_is_one_until_it_was_merged() {
    assert!(is_fork(&pull_request(true)));
    assert!(!is_fork(&pull_request(false)));
    assert!(!is_fork(&on(EventKind::Push)));
    let mut merged = pull_request(true);
    merged.pipeline.event = EventKind::PullRequestMerged;
    assert!(!is_fork(&merged));
}

#[test]
fn what_is_known_of_a_run_is_in_the_environment_and_nothing_else() {
    let all = environment::of_run(&facts());
    for (name, value) in [
        ("CI", "mergeyard"),
        ("CI_REPO", "acme/clock"),
        ("CI_REPO_OWNER", "acme"),
        ("CI_REPO_TRUSTED", "false"),
        ("CI_PIPELINE_NUMBER", "7"),
        ("CI_PIPELINE_EVENT", "push"),
        ("CI_PIPELINE_CREATED", "1700000000"),
        ("CI_PIPELINE_FILES", r#"["src/main.rs"]"#),
        ("CI_COMMIT_BRANCH", "main"),
        ("CI_COMMIT_SHA", crate::MERGE),
    ] {
        assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(all.values().all(|value| !value.is_empty()));
    assert!(!all.contains_key("CI_COMMIT_TAG") && !all.contains_key("CI_PREV_COMMIT_SHA"));
}

#[test]
fn a_pull_request_and_the_run_before_have_variables_of_their_own() {
    let mut facts = pull_request(false);
    facts.previous = Some((
        PipelineFacts { number: RunId(6), status: "failure".into(), ..pipeline(EventKind::Push) },
        commit(),
    ));
    facts.pipeline.event = EventKind::PullRequestMerged;
    facts.commit.pull_request.as_mut().unwrap().merged = true;
    let all = environment::of_run(&facts);
    for (name, value) in [
        ("CI_COMMIT_PULL_REQUEST", "7"),
        ("CI_COMMIT_PULL_REQUEST_LABELS", "deploy,big"),
        ("CI_COMMIT_PULL_REQUEST_MERGED", "true"),
        ("CI_COMMIT_SOURCE_BRANCH", "feature"),
        ("CI_PREV_PIPELINE_NUMBER", "6"),
        ("CI_PREV_PIPELINE_STATUS", "failure"),
        ("CI_PREV_COMMIT_BRANCH", "main"),
    ] {
        assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[test]
fn a_list_of_files_that_is_too_long_is_left_out() {
    let mut facts = facts();
    facts.pipeline.files = Some((0..=MOST_FILES).map(|n| n.to_string()).collect());
    assert!(!environment::of_run(&facts).contains_key("CI_PIPELINE_FILES"));
    facts.pipeline.files = None;
    assert_eq!(environment::of_run(&facts)["CI_PIPELINE_FILES"], "[]");
}

#[test]
fn what_only_the_start_of_a_step_knows_comes_last() {
    let place = Place {
        workflow: "build",
        workflow_number: 1,
        step: "test",
        step_number: 2,
        kind: StepKind::Commands,
        workspace: "/woodpecker/src/git.example.org/acme/clock",
        url: "https://ci.example.org/runs/7#test",
    };
    let start = Start {
        at: Timestamp(5_000),
        run_started: Some(Timestamp(3_999)),
        failed: true,
        output: Some("/run/output"),
        script: None,
    };
    let all = environment::at_start(&facts(), &place, &start);
    for (name, value) in [
        ("CI_STEP_STARTED", "5"),
        ("CI_PIPELINE_STARTED", "3"),
        ("CI_PIPELINE_STATUS", "failure"),
        ("CI_STEP_TYPE", "commands"),
        ("CI_WORKSPACE", place.workspace),
        ("CI_OUTPUT", "/run/output"),
    ] {
        assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!all.contains_key("CI_SCRIPT"));
}

#[test]
fn the_facts_that_are_stored_come_back_as_they_were() {
    let facts = pull_request(true);
    let stored = serde_json::to_string(&(&facts.pipeline, &facts.commit)).unwrap();
    let (pipeline, commit): (PipelineFacts, Commit) = serde_json::from_str(&stored).unwrap();
    assert_eq!((pipeline, commit), (facts.pipeline, facts.commit));
}

#[test]
fn a_runner_fits_when_it_has_every_label_that_has_a_value() {
    let of = |labels: &[(&str, &str)]| -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let runner = of(&[("platform", "linux/amd64"), ("location", "*"), ("gpu", "true")]);
    for (workflow, expected) in [
        (of(&[]), Ok(0)),
        (of(&[("platform", "linux/amd64")]), Ok(10)),
        (of(&[("platform", "linux/amd64"), ("location", "europe")]), Ok(11)),
        (of(&[("gpu", "")]), Ok(0)),
        (
            of(&[("gpu", "false")]),
            Err("it needs a runner with `gpu: false`, and this one has `gpu: true`".to_owned()),
        ),
        (
            of(&[("disk", "fast")]),
            Err("it needs a runner with the label `disk: fast`, and there is none".to_owned()),
        ),
    ] {
        assert_eq!(labels::fits(&workflow, &runner), expected);
    }
    let picky = of(&[("!gpu", "true")]);
    assert_eq!(labels::fits(&of(&[("gpu", "true")]), &picky), Ok(10));
    assert!(labels::fits(&of(&[]), &picky).is_err());
}

#[test]
fn outputs_are_lines_and_their_last_value_counts() {
    let outputs = outputs::parse("version=1\n\nurl=https://x.example.org/?a=b\r\nversion=2\n").unwrap();
    assert_eq!(outputs["version"], "2");
    assert_eq!(outputs["url"], "https://x.example.org/?a=b");
    for (text, says) in [
        ("version", "line 1 of $CI_OUTPUT has no `=`"),
        ("a b=1", "`a b` is not a key"),
        ("ok=1\n=x", "line 2 of $CI_OUTPUT: `` is not a key"),
        (&"x".repeat(outputs::LARGEST + 1), "more than the 65536"),
        (&(0..200).map(|n| format!("k{n}=\n")).collect::<String>(), "more than 100 keys"),
    ] {
        assert!(outputs::parse(text).unwrap_err().contains(says), "{says}");
    }
}

#[test]
fn an_output_in_a_command_is_data_whatever_it_says() {
    let hostile = "x\"; touch /tmp/hacked; '`id` $(id) *";
    let mut action = container(&[
        "echo ${{ steps.build.outputs.version }}",
        "echo \"v${{steps.build.outputs.version}}\"",
        "cat <<END\n${{ steps.build.outputs.version }}\nEND",
        "# don't mind\necho ${{ steps.build.outputs.version }}",
    ]);
    outputs::fill(&mut action, &|step, key| {
        (step == "build" && key == "version").then(|| hostile.to_owned())
    })
    .unwrap();
    let Action::Container(container) = action else { unreachable!() };
    assert_eq!(
        container.commands,
        [
            "echo \"${CI_OUTPUT_BUILD_VERSION}\"",
            "echo \"v${CI_OUTPUT_BUILD_VERSION}\"",
            "cat <<END\n${CI_OUTPUT_BUILD_VERSION}\nEND",
            "# don't mind\necho \"${CI_OUTPUT_BUILD_VERSION}\"",
        ]
    );
    assert_eq!(container.environment["CI_OUTPUT_BUILD_VERSION"], hostile);
    // What a shell really makes of it: one argument, as it was written.
    let ran = std::process::Command::new("/bin/sh")
        .args(["-ec", "printf '[%s]' \"${CI_OUTPUT_BUILD_VERSION}\""])
        .env("CI_OUTPUT_BUILD_VERSION", hostile)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), format!("[{hostile}]"));
}

#[test]
fn two_outputs_that_would_share_a_variable_have_two() {
    let mut action = container(&["echo ${{ steps.a-b.outputs.c }} ${{ steps.a_b.outputs.c }}"]);
    outputs::fill(&mut action, &|step, _| Some(format!("of {step}"))).unwrap();
    let Action::Container(container) = action else { unreachable!() };
    assert_eq!(container.commands, ["echo \"${CI_OUTPUT_A_B_C}\" \"${CI_OUTPUT_A_B_C_2}\""]);
    assert_eq!(container.environment["CI_OUTPUT_A_B_C_2"], "of a_b");
}

#[test]
fn outputs_are_put_into_values_and_what_is_missing_is_named() {
    let mut action = container(&[]);
    let Action::Container(inner) = &mut action else { unreachable!() };
    inner.image = "registry/app:${{ steps.build.outputs.version }}".into();
    inner.settings = BTreeMap::from([("tags".into(), json!(["${{ steps.build.outputs.version }}", 1]))]);
    let filled =
        |action: &mut Action, value: Option<&str>| outputs::fill(action, &|_, _| value.map(str::to_owned));
    assert_eq!(
        filled(&mut action.clone(), None),
        Err("step `build` wrote no output `version`; write `version=…` to `$CI_OUTPUT` there".to_owned())
    );
    filled(&mut action, Some("1.2")).unwrap();
    let Action::Container(inner) = &action else { unreachable!() };
    assert_eq!(inner.image, "registry/app:1.2");
    assert_eq!(inner.settings["tags"], json!(["1.2", 1]));
    for (text, says) in [
        ("${{ steps.a.outputs.b", "not closed"),
        ("${{ secrets.a }}", "is not understood"),
        ("${{ steps.a.outputs.b c }}", "is not understood"),
    ] {
        assert!(outputs::references(text).unwrap_err().contains(says), "{text}");
    }
}

fn container(commands: &[&str]) -> Action {
    Action::Container(Box::new(ContainerAction {
        image: "alpine".into(),
        commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        base: "/woodpecker".into(),
        directory: "/woodpecker/src".into(),
        ..ContainerAction::default()
    }))
}

fn rule(name: &str, events: &[EventKind], images: &[&str]) -> SecretRule {
    SecretRule {
        name: name.to_owned(),
        level: Level::Repository,
        events: events.to_vec(),
        images: images.iter().map(|image| (*image).to_owned()).collect(),
    }
}

fn rendered(values: &Value, plugin: bool) -> Result<Vec<(String, String)>, String> {
    let values: BTreeMap<String, Value> = serde_json::from_value(values.clone()).unwrap();
    settings::render(&values, plugin, &|name| match name {
        "secret_token" => Ok("FooBar".to_owned()),
        "other" => Ok("geheim".to_owned()),
        name => Err(format!("there is no secret `{name}`")),
    })
}
