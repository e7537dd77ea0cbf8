//! Actions that deploy: what their `with:` may say, and what no text in it can become.

use mergeyard_plan::{
    action::{Action, Health, RolloutAction},
    decide::{PlannedStep, Verdict},
    event::EventKind,
    facts::Facts,
    finding::Finding,
    outputs,
    policy::TargetRights,
    spec::Limits,
    workflows::{self, PipelineFile, Plan, Request},
};
use mergeyard_types::Digest;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::built::facts;

const FILE: &str = ".mergeyard/deploy.yml";

fn rights() -> Vec<TargetRights> {
    let right = |name: &str, mirror| TargetRights::new(name.parse().unwrap(), &[], vec![], mirror).unwrap();
    vec![right("clock-vm", false), right("el8", true), right("el9", true)]
}

fn planned(text: &str, facts: &Facts, targets: Option<&[TargetRights]>) -> Plan {
    let lists = ["packages.json".to_owned()];
    let request = Request { secrets: Some(&[]), targets, lists: &lists, ..Request::of(facts) };
    let file =
        PipelineFile { path: FILE.to_owned(), content: Ok(text.as_bytes().to_vec()), included: vec![] };
    workflows::plan(&workflows::read(&[file], facts, &Limits::DEFAULT), &request)
}

/// The step of `uses` and `with`, or what is wrong.
fn step_at(uses: &str, with: &Value, facts: &Facts) -> Result<PlannedStep, Vec<Finding>> {
    let text = format!("skip_clone: true\nsteps:\n  - name: a\n    uses: {uses}\n    with: {with}\n");
    let plan = planned(&text, facts, Some(&rights()));
    let mut workflow = plan.workflows.into_iter().next().unwrap();
    match workflow.verdict {
        Verdict::Run => Ok(workflow.steps.remove(0)),
        _ => Err(plan.findings),
    }
}

fn step(uses: &str, with: Value) -> Result<PlannedStep, Vec<Finding>> {
    step_at(uses, &with, &facts())
}

fn rollout(more: Value) -> Value {
    let mut with = json!({"target": "clock-vm", "image": "acme/clock", "port": 8080, "health": "/health"});
    with.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    with
}

fn as_rollout(step: PlannedStep) -> RolloutAction {
    match step.action {
        Action::Rollout(rollout) => *rollout,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rollout_says_little_and_means_much() {
    let planned = step("rollout", rollout(json!({}))).unwrap();
    assert_eq!(planned.serial.as_deref(), Some("target/clock-vm"));
    let action = as_rollout(planned);
    assert_eq!((action.service.as_str(), action.image.as_str(), action.port), ("clock", "acme/clock", 8080));
    assert_eq!((action.network.as_str(), action.publish.len(), action.check), ("mergeyard", 0, false));
    let health = Health {
        url: "/health".into(),
        status: 200,
        body: None,
        timeout_ms: 2000,
        retries: 30,
        interval_ms: 1000,
    };
    assert_eq!(action.health, health);
    let more = json!({
        "service": "web", "image": "clock:1.2.3", "publish": [80, "127.0.0.1:81", "[::1]:82"], "network": "clock",
        "environment": {"ZONE": "UTC", "DEPTH": 3}, "command": "serve --port 8080", "volumes": ["data:/data:ro"],
        "user": "1000:1000", "health": {"path": "/", "status": 204, "body": "up", "timeout": "5s", "retries": 0, "interval": "2m"},
    });
    let action = as_rollout(step("rollout", rollout(more)).unwrap());
    assert_eq!((action.service.as_str(), action.version.unwrap().as_str()), ("web", "1.2.3"));
    assert_eq!(action.publish, ["80", "127.0.0.1:81", "[::1]:82"]);
    assert_eq!(action.command, ["serve", "--port", "8080"]);
    assert_eq!((action.health.status, action.health.retries, action.health.interval_ms), (204, 0, 120_000));
    let digest = Digest::Sha256([7; 32]);
    let pinned = json!({"image": format!("clock@{digest}")});
    assert_eq!(as_rollout(step("rollout", rollout(pinned)).unwrap()).digest, Some(digest));
}

#[test]
fn a_playbook_and_a_mirror_have_their_usual_places() {
    let planned = step("ansible", json!({"target": "clock-vm", "health": "/clock"})).unwrap();
    let Action::Ansible(action) = planned.action else { panic!("{:?}", planned.action) };
    assert_eq!((action.playbook.as_str(), action.folder.as_str()), ("site.yml", ""));
    assert_eq!(action.image, "mergeyard-ansible");
    assert!(action.directory.starts_with(&action.base) && action.directory.ends_with("/acme/clock"));
    assert_eq!(action.health.unwrap().url, "http://{address}/clock");
    let Action::YumMirror(action) = step("yum-mirror", json!({"target": "el9"})).unwrap().action else {
        panic!("it is a mirror")
    };
    assert_eq!((action.file.as_str(), action.check), ("packages.json", false), "the list that is there");
}

#[test]
fn what_is_wrong_is_named_at_its_place_with_what_to_do() {
    for (uses, with, says) in [
        ("rollout", json!({}), "`rollout` needs `with: {target: …}`: name one of `clock-vm`, `el8`, `el9`"),
        ("rollout", rollout(json!({"image": null})), "needs `with: {image: …}`"),
        ("rollout", rollout(json!({"image": "docker.io:5000/clock"})), "without the registry's host"),
        ("rollout", rollout(json!({"image": "clock@sha256:12"})), "is not a digest"),
        ("rollout", rollout(json!({"image": "my_clock"})), "`my_clock` cannot be one"),
        ("rollout", rollout(json!({"port": 0})), "`port`: `0` is no port"),
        ("rollout", rollout(json!({"publish": "0.0.0.0"})), "`publish`: `0.0.0.0` is no place"),
        ("rollout", rollout(json!({"publish": ["::1:80"]})), "is no place to listen"),
        ("rollout", rollout(json!({"network": "host"})), "`host` is the engine's own"),
        ("rollout", rollout(json!({"environment": {"A-B": 1}})), "`A-B` is no name"),
        ("rollout", rollout(json!({"environment": ["A=1"]})), "is a map of names and values"),
        ("rollout", rollout(json!({"command": "serve \"all day\""})), "no shell reads it"),
        (
            "rollout",
            rollout(json!({"command": ["sh", "-c", "${{ steps.x.outputs.y }}"]})),
            "become part of a program",
        ),
        ("rollout", rollout(json!({"volumes": ["/etc:/etc"]})), "not trusted with"),
        ("rollout", rollout(json!({"volumes": ["data:/../etc"]})), "is no volume"),
        ("rollout", rollout(json!({"user": "root;id"})), "is no user"),
        ("rollout", rollout(json!({"health": null})), "needs `with: {health: …}`"),
        ("rollout", rollout(json!({"health": "http://elsewhere/"})), "is no path"),
        ("rollout", rollout(json!({"health": {"path": "/", "url": "/"}})), "has both"),
        (
            "rollout",
            rollout(json!({"health": {"path": "/", "timeout": "1h"}})),
            "`timeout` is not a duration up to 10m",
        ),
        (
            "rollout",
            rollout(json!({"health": {"path": "/", "status": 42}})),
            "`status` is not a whole number from 100 to 599",
        ),
        ("rollout", rollout(json!({"health": {"path": "/", "codes": 1}})), "there is no `codes`"),
        ("rollout", rollout(json!({"healthy": "/"})), "`rollout` takes no `healthy`"),
        ("ansible", json!({"target": "clock-vm", "playbook": "../site.yml"}), "leads out of the commit"),
        ("ansible", json!({"target": "clock-vm", "playbook": "--help"}), "begins as an option does"),
        ("ansible", json!({"target": "clock-vm", "folder": "/etc"}), "leads out of the commit"),
        ("ansible", json!({"target": "clock-vm", "image": "-v /:/x"}), "is no image"),
        (
            "ansible",
            json!({"target": "clock-vm", "variables": {"from_secret": "k"}}),
            "there is no secret `k`",
        ),
        ("ansible", json!({"target": "clock-vm", "health": "ftp://x"}), "is no address"),
        ("ansible", json!({"target": "Clock VM"}), "`target`: "),
        ("yum-mirror", json!({}), "there are several yum mirrors: name one of `el8`, `el9`"),
        ("yum-mirror", json!({"target": "clock-vm"}), "is no yum mirror"),
        ("yum-mirror", json!({"target": "el9", "file": "packages.yml"}), "neither a `.txt`"),
    ] {
        let findings = step(uses, with.clone()).expect_err(&with.to_string());
        let said: Vec<&Finding> = findings.iter().filter(|found| found.message.contains(says)).collect();
        let [finding] = said[..] else { panic!("{with}: {findings:#?} has not once `{says}`") };
        // At `uses`, or at the key in `with`.
        assert!(
            finding.file == FILE && matches!((finding.line, finding.column), (4, 11) | (5, 12..)),
            "{finding:?}"
        );
    }
    let detached = "steps: [{name: a, uses: ansible, detach: true, with: {target: clock-vm}}]\n";
    let plan = planned(detached, &facts(), Some(&rights()));
    assert!(plan.findings[0].message.contains("`uses` and `detach`"), "{:?}", plan.findings);
}

#[test]
fn where_nobody_knows_the_targets_none_is_refused() {
    let text =
        "steps:\n  - {name: a, uses: ansible, with: {target: anywhere}}\n  - {name: b, uses: yum-mirror}\n";
    assert_eq!(planned(text, &facts(), None).findings, []);
    let refused = planned(text, &facts(), Some(&[])).findings;
    assert_eq!((refused[0].line, refused[0].column), (2, 37), "{refused:?}");
    assert!(
        refused[0].message.contains("nor any other") && refused[1].message.contains("no yum mirror is open")
    );
}

#[test]
fn an_open_pull_request_is_only_checked_whatever_the_target_takes() {
    let mut open = facts();
    open.pipeline.event = EventKind::PullRequest;
    let with = rollout(json!({"environment": {"TOKEN": {"from_secret": "token"}, "ZONE": "UTC"}}));
    let checked = step_at("rollout", &with, &open).unwrap();
    assert!(checked.action.is_check() && checked.serial.is_none(), "nobody waits for who changes nothing");
    assert_eq!(as_rollout(checked).environment.into_keys().collect::<Vec<_>>(), ["ZONE"]);
    open.pipeline.event = EventKind::PullRequestMerged;
    assert!(!step_at("ansible", &json!({"target": "clock-vm"}), &open).unwrap().action.is_check());
}

#[test]
fn outputs_are_filled_into_what_is_data_and_nowhere_else() {
    let with = rollout(json!({
        "environment": {"MOTD": "v${{ steps.a.outputs.b }}"}, "command": ["serve", "${{ steps.a.outputs.b }}"],
        "health": {"path": "/health", "body": "${{ steps.a.outputs.b }}"},
    }));
    let text = format!(
        "steps:\n  - {{name: a, image: alpine, commands: [ls]}}\n  - {{name: b, uses: rollout, with: {with}}}\n"
    );
    let plan = planned(&text, &facts(), None);
    assert_eq!(plan.findings, []);
    let mut action = plan.workflows[0].steps[2].action.clone();
    let hostile = "1\"; rm -rf / #";
    outputs::fill(&mut action, &|_, _| Some(hostile.to_owned())).unwrap();
    let Action::Rollout(rollout) = action else { panic!("{action:?}") };
    assert_eq!(rollout.environment["MOTD"], format!("v{hostile}"));
    assert_eq!((rollout.command[1].as_str(), rollout.health.body.as_deref()), (hostile, Some(hostile)));
    let named = step(
        "rollout",
        json!({"target": "${{ steps.a.outputs.b }}", "image": "a", "port": 1, "health": "/"}),
    );
    assert!(named.is_err(), "an output names no machine");
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[ -~]{0,40}",
        "[-./:@a-z0-9$(){}\\[\\]';|&`\\\\]{0,60}",
        any::<String>(),
        Just("../".repeat(200)),
        Just("a".repeat(5000)),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever stands in one key, planning ends with an action that is safe to hand on or with a finding.
    #[test]
    fn no_value_becomes_an_option_a_shell_word_or_a_way_out(key in 0usize..16, value in value(), uses in 0usize..3) {
        const KEYS: [&str; 16] = [
            "target", "service", "image", "port", "publish", "network", "environment", "command", "volumes", "user",
            "health", "playbook", "folder", "variables", "file", "other",
        ];
        let uses = ["rollout", "ansible", "yum-mirror"][uses];
        let mut with = if uses == "rollout" { rollout(json!({})) } else { json!({"target": "el9"}) };
        with[KEYS[key]] = value;
        match step(uses, with) {
            Err(findings) => {
                prop_assert!(!findings.is_empty());
                let plain = findings.iter().all(|finding| !finding.message.contains(char::is_control));
                prop_assert!(plain, "{:?}", findings);
            }
            Ok(PlannedStep { action: Action::Rollout(rollout), .. }) => {
                let name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
                prop_assert!(name(&rollout.service) && name(&rollout.network) && !rollout.service.starts_with('-'));
                prop_assert!(rollout.publish.iter().all(|place| place.bytes().all(|b| b.is_ascii_hexdigit() || b".:[]".contains(&b))));
                prop_assert!(rollout.volumes.iter().all(|volume| !volume.contains("..") && !volume.starts_with('/')));
                prop_assert!(rollout.environment.keys().all(|name| !name.contains(['=', '\0'])));
                prop_assert!(rollout.health.url.starts_with('/') && !rollout.health.url.contains(char::is_whitespace));
            }
            Ok(PlannedStep { action: Action::Ansible(ansible), .. }) => {
                for path in [&ansible.playbook, &ansible.folder, &ansible.image] {
                    prop_assert!(!path.starts_with(['-', '/']) && !path.split('/').any(|part| part == ".."), "{}", path);
                    prop_assert!(!path.contains(char::is_control));
                }
            }
            Ok(PlannedStep { action: Action::YumMirror(mirror), .. }) => {
                prop_assert!(!mirror.file.starts_with(['-', '/']) && !mirror.file.contains(".."), "{}", mirror.file);
            }
            Ok(other) => prop_assert!(false, "{:?}", other),
        }
    }
}
