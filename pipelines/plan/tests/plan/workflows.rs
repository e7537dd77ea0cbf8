//! From pipeline files to a plan: order, dependencies, trust, secrets, gates, and what is refused.

use std::collections::BTreeMap;

use mergeyard_plan::{
    action::{Action, CloneAction, ContainerAction},
    decide::{Candidate, File, Folder, PlannedStep, PlannedWorkflow, Verdict, candidates},
    event::EventKind,
    facts::Facts,
    outputs,
    policy::Trust,
    rules::{ConcurrencyRule, RunsOn, StepKind},
    secrets::{Level, SecretRule},
    spec::{Limits, OnFailure},
    workflows::{self, Gates, PipelineFile, Plan, Request},
};
use mergeyard_types::TreeId;
use proptest::prelude::*;

use crate::built::{facts, on, planned, pull_request, read};

const CLONE_OF: &str = "/woodpecker/src/git.example.org/acme/clock";

#[test]
fn steps_follow_each_other_after_the_clone_and_the_services() {
    let plan = one(
        "services: [{name: db, image: postgres}]
steps:
  - {name: a, image: alpine, commands: [make]}
  - {name: skipped, image: alpine, commands: [make], when: {event: tag}}
  - {name: b, image: alpine, commands: [make]}
",
        &facts(),
    );
    assert_eq!(
        order(&plan),
        [
            ("clone", vec![]),
            ("db", vec!["clone"]),
            ("a", vec!["db"]),
            ("skipped", vec!["db", "a"]),
            ("b", vec!["db", "a"])
        ]
    );
    let kinds: Vec<StepKind> = only(&plan).steps.iter().map(|step| step.rules.kind).collect();
    use StepKind::{Clone, Commands, Service};
    assert_eq!(kinds, [Clone, Service, Commands, Commands, Commands]);
    assert!(only(&plan).steps[1].rules.detached);
    let Verdict::Skip(why) = &only(&plan).steps[3].verdict else { panic!() };
    assert_eq!(why, "the event is `push`, and it runs on `tag` (.mergeyard/build.yml:4)");
}

#[test]
fn one_depends_on_lets_every_step_start_when_its_own_needs_are_met() {
    let plan = one(
        "services: [{name: db, image: postgres}]
steps:
  - {name: a, image: alpine, commands: [make]}
  - {name: b, image: alpine, commands: [make], depends_on: []}
  - {name: c, image: alpine, commands: [make], depends_on: [a, {name: none, optional: true}]}
  - {name: left-out, image: alpine, commands: [make], depends_on: [c, b], when: {event: tag}}
  - {name: d, image: alpine, commands: [make], depends_on: left-out}
",
        &facts(),
    );
    let order = order(&plan);
    assert_eq!(order[2], ("a", vec!["db"]));
    assert_eq!(order[3], ("b", vec!["db"]));
    assert_eq!(order[4], ("c", vec!["db", "a"]));
    assert_eq!(order[6], ("d", vec!["db", "b", "c"]), "what was left out is replaced by what it needed");
}

#[test]
fn only_steps_that_run_switch_the_order() {
    let plan = one(
        "steps:
  - {name: a, image: alpine, commands: [make]}
  - {name: b, image: alpine, commands: [make]}
  - {name: c, image: alpine, commands: [make], depends_on: [], when: {event: tag}}
",
        &facts(),
    );
    assert_eq!(order(&plan)[2], ("b", vec!["a"]));
}

#[test]
fn without_a_clone_nobody_waits_for_one() {
    let plan = one("skip_clone: true\nsteps: [{name: a, image: alpine, commands: [make]}]\n", &facts());
    assert_eq!(order(&plan), [("a", vec![])]);
}

#[test]
fn the_clone_is_built_in_and_its_plugin_settings_are_understood() {
    let cloned = |text: &str, facts: &Facts| {
        let plan = one(&format!("{text}steps: [{{name: a, image: alpine, commands: [make]}}]\n"), facts);
        match &only(&plan).steps[0].action {
            Action::Clone(clone) => clone.clone(),
            other => panic!("{other:?}"),
        }
    };
    let default =
        CloneAction { base: "/woodpecker".into(), directory: CLONE_OF.into(), depth: Some(1), tags: false };
    assert_eq!(cloned("", &facts()), default);
    assert_eq!(cloned("", &on(EventKind::Tag)), CloneAction { depth: None, tags: true, ..default.clone() });
    for (settings, depth, tags) in [
        ("{depth: 50}", Some(50), false),
        ("{depth: 0}", None, false),
        ("{partial: false}", None, false),
        ("{tags: true, depth: 5}", Some(5), true),
        ("{tags: 'true'}", None, true),
    ] {
        for image in ["", "image: woodpeckerci/plugin-git:2, ", "image: docker.io/woodpeckerci/plugin-git, "]
        {
            let text = format!("clone: {{git: {{{image}settings: {settings}}}}}\n");
            assert_eq!(cloned(&text, &facts()), CloneAction { depth, tags, ..default.clone() }, "{text}");
        }
    }
    let elsewhere = cloned("workspace: {base: /go, path: src/clock/../x}\n", &facts());
    assert_eq!((elsewhere.base.as_str(), elsewhere.directory.as_str()), ("/go", "/go/src/x"));
}

#[test]
fn a_clone_of_another_image_is_a_container() {
    let plan = one(
        "clone: {own: {image: 'example.org/clone'}}\nsteps: [{name: a, image: alpine, commands: [make]}]\n",
        &facts(),
    );
    let clone = &only(&plan).steps[0];
    assert_eq!((clone.name.as_str(), clone.rules.kind), ("own", StepKind::Clone));
    assert_eq!(container(clone).image, "example.org/clone");
}

#[test]
fn a_plugin_is_told_its_settings_and_nothing_of_the_matrix() {
    let plan = one(
        "matrix: {GO: ['1.24']}
workspace: {base: /go}
steps:
  - {name: publish, image: plugins/docker, settings: {tags: [a, b], password: {from_secret: x}}, when: {event: tag}}
  - {name: notify, image: plugins/mail, settings: {to: a}}
  - {name: test, image: 'golang:${GO}', commands: [go test], environment: {A: 1}, directory: cmd}
",
        &facts(),
    );
    let workflow = only(&plan);
    assert_eq!(workflow.axis.as_deref(), Some("GO=1.24"));
    let notify = container(&workflow.steps[2]);
    assert!(notify.plugin && notify.environment.is_empty());
    assert_eq!((notify.base.as_str(), notify.directory.as_str()), ("/woodpecker", CLONE_OF));
    let test = container(&workflow.steps[3]);
    assert_eq!(test.image, "golang:1.24");
    assert_eq!(test.directory, "/go/src/git.example.org/acme/clock/cmd");
    assert_eq!(test.environment, BTreeMap::from([("A".into(), 1.into()), ("GO".into(), "1.24".into())]));
}

#[test]
fn each_point_of_the_matrix_is_a_workflow_with_a_stable_name() {
    let plan = one(
        "matrix: {PYTHON: ['3.12', '3.13'], OS: [linux]}\nsteps: [{name: a, image: 'python:${PYTHON}', commands: [make]}]\n",
        &facts(),
    );
    let axes: Vec<&str> = plan.workflows.iter().map(|workflow| workflow.axis.as_deref().unwrap()).collect();
    assert_eq!(axes, ["OS=linux,PYTHON=3.12", "OS=linux,PYTHON=3.13"]);
}

#[test]
fn values_of_a_matrix_are_data() {
    let plan = one(
        "matrix: {include: [{V: '$(touch /tmp/x) \"; rm'}]}\nsteps: [{name: a, image: alpine, commands: ['echo \"$V\"']}]\n",
        &facts(),
    );
    let step = container(&only(&plan).steps[1]);
    assert_eq!(step.environment["V"], "$(touch /tmp/x) \"; rm");
    assert_eq!(step.commands, ["echo \"$V\""]);
}

#[test]
fn what_a_repository_is_not_trusted_with_refuses_the_workflow() {
    for (key, word) in [
        ("privileged: true", "security"),
        ("dns: 1.1.1.1", "network"),
        ("dns_search: example.org", "network"),
        ("extra_hosts: ['a:1.1.1.1']", "network"),
        ("network_mode: host", "network"),
        ("volumes: ['/var/run/docker.sock:/var/run/docker.sock']", "volumes"),
        ("devices: ['/dev/kvm:/dev/kvm']", "volumes"),
        ("tmpfs: ['/tmp']", "volumes"),
    ] {
        let text = format!("steps:\n  - name: a\n    image: alpine\n    commands: [make]\n    {key}\n");
        let refused = refusal(&one(&text, &facts()));
        let name = key.split(':').next().unwrap();
        assert!(refused.starts_with(".mergeyard/build.yml:5:"), "{refused}");
        assert!(refused.contains(&format!("asks for `{name}`")) && refused.contains(word), "{refused}");
        let mut trusted = facts();
        trusted.repo.trust = Trust { security: true, network: true, volumes: true };
        assert_eq!(only(&one(&text, &trusted)).verdict, Verdict::Run, "{key}");
    }
    let none = "steps: [{name: a, image: alpine, commands: [make], network_mode: none, privileged: false}]\n";
    assert_eq!(only(&one(none, &facts())).verdict, Verdict::Run);
}

#[test]
fn a_built_in_action_is_not_steered_by_its_environment() {
    for name in ["LD_PRELOAD", "PATH", "DOCKER_HOST", "GIT_SSH_COMMAND", "path"] {
        let text = format!("steps: [{{name: a, uses: image, environment: {{{name}: x}}}}]\n");
        assert!(refusal(&one(&text, &facts())).contains("is reserved"), "{name}");
    }
}

#[test]
fn a_secret_that_is_not_there_or_not_for_this_refuses_the_workflow_at_once() {
    let text = "steps:\n  - name: push\n    image: plugins/docker\n    settings:\n      auth: [{password: {from_secret: TOKEN}}]\n";
    let refused = |rules: &[SecretRule], facts: &Facts| refusal(&with_secrets(text, rules, facts));
    let rule = |events: &[EventKind]| SecretRule {
        name: "token".into(),
        level: Level::Repository,
        events: events.to_vec(),
        images: vec![],
    };
    assert_eq!(
        refused(&[], &facts()),
        ".mergeyard/build.yml:5:7: step `push`: there is no secret `token`; \
         add it with `mergeyard secret set --repo acme/clock token`"
    );
    assert!(refused(&[rule(&[EventKind::Tag])], &facts()).contains("is for tag, and this is `push`"));
    assert!(refused(&[rule(&[EventKind::PullRequest])], &pull_request(true)).contains("from forks"));
    assert_eq!(only(&with_secrets(text, &[rule(&[])], &facts())).verdict, Verdict::Run);
    let skipped =
        format!("{text}    when: {{event: tag}}\n  - {{name: a, image: alpine, commands: [make]}}\n");
    assert_eq!(
        only(&with_secrets(&skipped, &[], &facts())).verdict,
        Verdict::Run,
        "who does not run asks nothing"
    );
}

#[test]
fn a_clone_or_a_service_is_enough_for_what_depends_on_a_workflow() {
    let verdicts = |head: &str| -> Vec<Result<(), String>> {
        let zero = format!("{head}\nsteps: [{{name: a, image: alpine, when: {{event: tag}}}}]\n");
        let run = |needs: &str| {
            format!("depends_on: [{needs}]\nsteps: [{{name: a, image: alpine, commands: [make]}}]\n")
        };
        let files = [("dep.yml", &*run("zero")), ("dep2.yml", &run("dep")), ("zero.yml", &zero)];
        let plan = planned(&files, &facts());
        let verdict = |workflow: &PlannedWorkflow| match &workflow.verdict {
            Verdict::Run => Ok(()),
            Verdict::Skip(why) | Verdict::Refuse(why) => Err(why.clone()),
        };
        plan.workflows.iter().map(verdict).collect()
    };
    let nothing = |head: &str| {
        let line = head.lines().count().max(1) + 1;
        Err(format!("none of its steps runs: the event is `push`, and it runs on `tag` (zero.yml:{line})"))
    };
    for head in ["", "skip_clone: true\nservices: [{name: db, image: postgres}]"] {
        assert_eq!(verdicts(head), [Ok(()), Ok(()), nothing(head)], "{head}");
    }
    let needs = |name: &str, why: &str| Err(format!("it needs workflow `{name}`, which is left out: {why}"));
    let idle = "skip_clone: true\nservices: [{name: db, image: postgres, when: {event: tag}}]";
    for head in ["skip_clone: true", idle] {
        let dep = needs("zero", nothing(head).as_ref().unwrap_err());
        let dep2 = needs("dep", dep.as_ref().unwrap_err());
        assert_eq!(verdicts(head), [dep, dep2, nothing(head)], "{head}");
    }
}

#[test]
fn the_built_in_clone_brings_no_other_repository() {
    let said = |remote: &str| -> Vec<String> {
        let text = format!(
            "clone:
  - {{name: git, image: woodpeckerci/plugin-git}}
  - name: testdata
    image: woodpeckerci/plugin-git
    settings: {{depth: 1, remote: {remote}}}
steps: [{{name: a, image: alpine, commands: [make]}}]
"
        );
        one(&text, &facts()).findings.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        said("https://git.example.org/acme/testdata.git"),
        [
            ".mergeyard/build.yml:5:26: `remote` names another repository, and the built-in clone brings this one only: \
          give the step another image, and `commands` that clone"
        ]
    );
    let own = said("'${CI_REPO_CLONE_URL}'");
    assert!(own.len() == 1 && own[0].contains("means nothing to the built-in clone"), "{own:?}");
}

#[test]
fn what_depends_on_a_workflow_that_is_left_out_is_left_out_too() {
    let run = |needs: &str| format!("{needs}steps: [{{name: a, image: alpine, commands: [make]}}]\n");
    let plan = planned(
        &[
            ("a.yml", &run("when: {event: tag}\n")),
            ("b.yml", &run("depends_on: [a]\n")),
            ("c.yml", &run("depends_on: [b]\n")),
            ("d.yml", &run("depends_on: [{name: c, optional: true}, e]\n")),
            ("e.yml", &run("")),
            ("f.yml", &run("depends_on: [nobody]\n")),
            ("g.yml", &run("depends_on: [h]\n")),
            ("h.yml", "steps: [{name: a, image: alpine, commands: [make], when: {event: tag}}]\n"),
        ],
        &facts(),
    );
    let verdicts: Vec<(&str, Option<&str>)> = plan
        .workflows
        .iter()
        .map(|workflow| match &workflow.verdict {
            Verdict::Run => (workflow.name.as_str(), None),
            Verdict::Skip(why) | Verdict::Refuse(why) => (workflow.name.as_str(), Some(why.as_str())),
        })
        .collect();
    let tag = "the event is `push`, and it runs on `tag` (a.yml:1)";
    let b = format!("it needs workflow `a`, which is left out: {tag}");
    let c = format!("it needs workflow `b`, which is left out: {b}");
    assert_eq!(
        verdicts,
        [
            ("a", Some(tag)),
            ("b", Some(&*b)),
            ("c", Some(&*c)),
            ("d", None),
            ("e", None),
            ("f", Some("it needs workflow `nobody`, and no file is called so")),
            // That none of its steps has anything to do is no reason against what follows.
            ("g", None),
            ("h", Some("none of its steps runs: the event is `push`, and it runs on `tag` (h.yml:1)")),
        ]
    );
    assert_eq!(plan.workflows[3].rules.needs, ["e"]);
    assert!(plan.workflows[6].rules.needs.is_empty());
}

#[test]
fn a_step_keeps_its_own_reason_when_its_workflow_does_not_run() {
    let plan = planned(
        &[
            (
                "idle.yml",
                "services: [{name: db, image: postgres}]
steps:
  - {name: a, image: alpine, commands: [make], when: {branch: release}}
  - {name: b, image: alpine, commands: [make], when: {path: docs/**}}
",
            ),
            (
                "needy.yml",
                "depends_on: nobody
steps:
  - {name: a, image: alpine, commands: [make]}
  - {name: b, image: alpine, commands: [make], when: {event: tag}}
",
            ),
        ],
        &facts(),
    );
    assert_eq!(
        plan.text(),
        "event push

skip idle: none of its steps runs
  skip a: `branch` is `main`, and it runs on `release` (idle.yml:3)
  skip b: it runs when `docs/**` changes (idle.yml:4), and what changed is `src/main.rs`

skip needy: it needs workflow `nobody`, and no file is called so
  skip a: its workflow does not run
  skip b: the event is `push`, and it runs on `tag` (needy.yml:4)
"
    );
}

#[test]
fn workflows_that_wait_for_each_other_are_refused_with_the_way_round() {
    let run = |needs: &str| {
        format!("depends_on: [{needs}]\nsteps: [{{name: a, image: alpine, commands: [make]}}]\n")
    };
    let files = [
        ("a.yml", run("c")),
        ("b.yml", run("a")),
        ("c.yml", run("b")),
        ("d.yml", run("a")),
        ("e.yml", run("e")),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let plan = planned(&files, &facts());
    let Verdict::Refuse(why) = &plan.workflows[0].verdict else { panic!("{:?}", plan.workflows[0].verdict) };
    assert_eq!(why, "a.yml:1:14: the workflows wait for each other: a → c → b → a; remove one `depends_on`");
    assert!(matches!(&plan.workflows[3].verdict, Verdict::Skip(why) if why.contains("which is refused")));
    assert!(matches!(&plan.workflows[4].verdict, Verdict::Refuse(why) if why.contains("e → e")));
}

#[test]
fn status_and_runs_on_say_after_which_ends_something_runs() {
    let on = |text: &str| {
        only(&one(&format!("{text}steps: [{{name: a, image: alpine, commands: [make]}}]\n"), &facts()))
            .rules
            .runs_on
    };
    assert_eq!(on(""), RunsOn { success: true, failure: false });
    assert_eq!(on("runs_on: [failure]\n"), RunsOn { success: false, failure: true });
    assert_eq!(on("when: {status: [success, failure]}\n"), RunsOn { success: true, failure: true });
    assert_eq!(
        on("runs_on: [success]\nwhen: {status: [failure]}\n"),
        RunsOn { success: true, failure: true }
    );
    let plan = one(
        "steps: [{name: a, image: alpine, commands: [make], failure: ignore, when: {status: failure}}]\n",
        &facts(),
    );
    let rules = &only(&plan).steps[1].rules;
    assert_eq!((rules.runs_on, rules.failure), (RunsOn { success: false, failure: true }, OnFailure::Ignore));
}

#[test]
fn a_commit_may_ask_to_be_skipped() {
    let text = "steps: [{name: a, image: alpine, commands: [make]}]\n";
    for (message, event, expected) in [
        ("Docs [skip ci]", EventKind::Push, false),
        ("Docs [CI SKIP]", EventKind::PullRequest, false),
        ("Docs [skip ci]", EventKind::Tag, true),
        ("Docs [skip-ci]", EventKind::Push, true),
    ] {
        let mut facts = on(event);
        facts.commit.message = message.into();
        assert_eq!(only(&one(text, &facts)).verdict == Verdict::Run, expected, "{message} on {event}");
    }
}

#[test]
fn labels_that_no_runner_has_refuse_the_workflow() {
    let text = "labels: {gpu: 'true'}\nsteps: [{name: a, image: alpine, commands: [make]}]\n";
    let facts = facts();
    let sources = read(&[("build.yml", text)], &facts);
    let fits = |labels: &[(&str, &str)]| {
        let runner = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request = Request { runner: &runner, ..Request::of(&facts) };
        workflows::plan(&sources, &request).workflows.remove(0).verdict
    };
    assert_eq!(fits(&[("gpu", "*")]), Verdict::Run);
    assert_eq!(fits(&[]), Verdict::Run, "where labels are not known, everything fits");
    let Verdict::Refuse(why) = fits(&[("platform", "linux/amd64")]) else { panic!() };
    assert!(why.contains("build.yml:1") && why.contains("`gpu: true`"), "{why}");
}

#[test]
fn the_limits_and_gates_of_a_file_become_rules() {
    let plan = one(
        "approve: staging
concurrency: {limit: 1, group: deploy}
steps:
  - {name: a, image: alpine, commands: [make], approve: production, timeout: 5m, retry: 2}
  - {name: b, image: alpine, commands: [make], detach: true}
",
        &facts(),
    );
    let workflow = only(&plan);
    assert_eq!(workflow.rules.gate.as_deref(), Some("staging"));
    assert_eq!(workflow.rules.concurrency, Some(ConcurrencyRule { group: "deploy".into(), limit: 1 }));
    let a = &workflow.steps[1];
    assert_eq!((a.rules.gate.as_deref(), a.timeout.as_secs(), a.retry), (Some("production"), 300, 2));
    assert!(a.rules.retry_failures);
    let b = &workflow.steps[2];
    assert!(b.rules.detached && b.timeout.as_secs() == 24 * 3600);
    let unnamed = "concurrency: {limit: 1, group: '${CI_COMMIT_TAG}'}\nsteps: [{name: a, image: alpine}]\n";
    let own = ConcurrencyRule { group: "build".into(), limit: 1 };
    assert_eq!(only(&one(unnamed, &facts())).rules.concurrency, Some(own), "the workflow's own");
}

#[test]
fn a_pull_request_cannot_loosen_its_own_gate() {
    let gates = Gates::of(&read(
        &[(
            "deploy.yml",
            "approve: staging\nsteps: [{name: ship, image: alpine, commands: [make], approve: production}]\n",
        )],
        &facts(),
    ));
    let facts = pull_request(false);
    let under = |text: &str, gates: &Gates| {
        let request = Request { gates, ..Request::of(&facts) };
        let workflow = workflows::plan(&read(&[("deploy.yml", text)], &facts), &request).workflows.remove(0);
        let step = workflow.steps.last().and_then(|step| step.rules.gate.clone());
        (workflow.rules.gate, step)
    };
    let loosened = "steps: [{name: ship, image: alpine, commands: [make]}]\n";
    assert_eq!(under(loosened, &gates), (Some("staging".into()), Some("production".into())));
    let steps_only = Gates::of(&read(
        &[("deploy.yml", "steps: [{name: ship, image: alpine, commands: [make], approve: production}]\n")],
        &facts,
    ));
    let renamed = "steps: [{name: sail, image: alpine, commands: [make]}]\n";
    assert_eq!(under(renamed, &steps_only), (Some("production".into()), None), "all of it waits");
    let stricter = "steps: [{name: ship, image: alpine, commands: [make], approve: mine}]\n";
    assert_eq!(under(stricter, &Gates::default()), (None, Some("mine".into())));
}

#[test]
fn caches_are_apart_by_branch_and_a_forks_reaches_nobody() {
    let text = "steps: [{name: a, image: alpine, commands: [make], cache: [target, /root/.cargo]}]\n";
    let keys = |facts: &Facts| -> Vec<(String, String)> {
        let plan = one(text, facts);
        container(&only(&plan).steps[1])
            .caches
            .iter()
            .map(|cache| (cache.path.clone(), cache.key.clone()))
            .collect()
    };
    assert_eq!(
        keys(&facts()),
        [
            (format!("{CLONE_OF}/target"), format!("acme/clock/branch/main:{CLONE_OF}/target")),
            ("/root/.cargo".into(), "acme/clock/branch/main:/root/.cargo".into()),
        ]
    );
    assert_eq!(keys(&pull_request(false))[1].1, "acme/clock/branch/feature:/root/.cargo");
    assert_eq!(keys(&pull_request(true))[1].1, "acme/clock/fork/7:/root/.cargo");
}

#[test]
fn an_image_is_built_from_a_folder_and_may_be_named_otherwise() {
    let images = images();
    let built = |with: &str| {
        let text = format!("steps: [{{name: a, uses: image, with: {with}}}]\n");
        let plan = with_images(&text, &images);
        match &only(&plan).verdict {
            Verdict::Run => match &only(&plan).steps[1] {
                PlannedStep { action: Action::Image(image), serial, .. } => Ok(format!(
                    "{}:{} from `{}` as {}",
                    image.name,
                    image.version,
                    image.folder,
                    serial.as_deref().unwrap()
                )),
                other => panic!("{other:?}"),
            },
            Verdict::Skip(why) | Verdict::Refuse(why) => Err(why.clone()),
        }
    };
    assert_eq!(built("{}"), Ok("clock:1.0 from `` as image/clock".into()));
    assert_eq!(built("{folder: ./web/}"), Ok("web:2 from `web` as image/web".into()));
    assert_eq!(built("{folder: web, name: site, version: 3}"), Ok("site:3 from `web` as image/site".into()));
    assert_eq!(built("{folder: bad, name: bad, version: 1}"), Ok("bad:1 from `bad` as image/bad".into()));
    for (with, says) in [
        ("{folder: bad}", "bad/spec.json"),
        ("{folder: none}", "folder `none` has no Dockerfile"),
        ("{name: ../x}", "image name"),
        ("{push: true}", "`image` takes no `push`; it takes folder, name, version"),
        ("{folder: [a]}", "`folder` is a text"),
    ] {
        let why = built(with).expect_err(with);
        assert!(why.contains(says), "{with}: {why}");
    }
    let unknown = with_images("steps: [{name: a, uses: teleport}]\n", &images);
    assert!(refusal(&unknown).contains("there is no built-in action `teleport`; there is image"));
}

#[test]
fn an_output_can_only_be_asked_of_a_step_that_has_ended() {
    let text = |needs: &str, command: &str| {
        format!(
            "steps:
  - {{name: a, image: alpine, commands: [make], depends_on: []}}
  - {{name: b, image: alpine, commands: [make], when: {{event: tag}}}}
  - {{name: side, image: alpine, commands: [make], detach: true}}
  - name: c
    image: alpine
    commands: [{command:?}]
    depends_on: [{needs}]
"
        )
    };
    let said = |needs: &str, command: &str| match &only(&one(&text(needs, command), &facts())).verdict {
        Verdict::Run => None,
        Verdict::Skip(why) | Verdict::Refuse(why) => Some(why.clone()),
    };
    let reference = "${{ steps.a.outputs.version }}";
    assert_eq!(said("a", reference), None);
    for (needs, command, says) in [
        ("", reference, "which has not ended by then; add `a` to `depends_on`"),
        ("a", "${{ steps.z.outputs.v }}", "there is no such step"),
        ("a", "${{ steps.b.outputs.v }}", "which does not run: the event is `push`"),
        ("side", "${{ steps.side.outputs.v }}", "which has not ended by then"),
        ("a", "echo '${{ steps.a.outputs.v }}'", "stands in single quotes"),
        ("a", "${{ secrets.token }}", "is not understood"),
    ] {
        let why = said(needs, command).expect(command);
        assert!(why.contains(says) && why.starts_with(".mergeyard/build.yml:7:"), "{command}: {why}");
    }
}

#[test]
fn an_output_is_a_word_of_an_entrypoint_and_never_its_program() {
    let entrypoint = |words: &str| {
        let text = format!(
            "steps:
  - {{name: a, image: alpine, commands: [make]}}
  - {{name: b, image: alpine, entrypoint: [{words}]}}
"
        );
        one(&text, &facts())
    };
    let plan = entrypoint("deploy, '--image=${{ steps.a.outputs.image }}'");
    let mut action = only(&plan).steps[2].action.clone();
    outputs::fill(&mut action, &|_, _| Some("x; touch /y $(z)".to_owned())).unwrap();
    let Action::Container(filled) = action else { panic!("{action:?}") };
    assert_eq!(filled.entrypoint, ["deploy", "--image=x; touch /y $(z)"]);
    for words in ["sh, -c, 'echo ${{ steps.a.outputs.v }}'", "bash, -ec, '${{ steps.a.outputs.v }}'"] {
        assert!(refusal(&entrypoint(words)).contains("would become part of a program"), "{words}");
    }
    assert!(refusal(&entrypoint("deploy, '${{ steps.z.outputs.v }}'")).contains("there is no such step"));
}

#[test]
fn what_a_person_gives_to_a_manual_run_is_checked_and_handed_on() {
    let text = "inputs:
  count: {type: number, default: 3}
  where: {type: choice, options: [staging, production], required: true}
steps: [{name: a, image: alpine, commands: [make]}]
";
    let asked = |inputs: &[(&str, &str)]| {
        let mut facts = on(EventKind::Manual);
        facts.inputs = inputs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        one(text, &facts)
    };
    let fine = asked(&[("where", "staging")]);
    let environment = &container(&only(&fine).steps[1]).environment;
    assert_eq!((environment["where"].as_str(), environment["count"].as_str()), (Some("staging"), Some("3")));
    for (inputs, says) in [
        (&[][..], "input `where`: it is required"),
        (&[("where", "moon")], "`moon` is none of staging, production"),
        (&[("where", "staging"), ("count", "many")], "`many` is not a number"),
        (&[("where", "staging"), ("count", "inf")], "`inf` is not a number"),
        (&[("where", "staging"), ("count", "NaN")], "`NaN` is not a number"),
    ] {
        let why = refusal(&asked(inputs));
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn what_a_person_gives_never_stands_for_what_mergeyard_says() {
    let text = "matrix: {CI_REPO: [theirs]}
steps:
  - {name: a, image: 'alpine:${CI_COMMIT_BRANCH}', commands: ['echo ${CI_REPO}'], when: {branch: main}}
  - {name: b, image: alpine, commands: [make], when: {evaluate: 'CI_COMMIT_BRANCH == \"release\"'}}
  - {name: c, image: alpine, commands: [make], when: {evaluate: 'CI_COMMIT_TAG != \"\"'}}
  - {name: d, image: alpine, commands: [make], when: {evaluate: 'CI_REPO == \"theirs\"'}}
";
    let mut facts = on(EventKind::Manual);
    let given = [("CI", "x"), ("CI_COMMIT_BRANCH", "release"), ("CI_COMMIT_TAG", "v1"), ("CIDER", "dry")];
    facts.inputs = given.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let plan = one(text, &facts);
    let runs: Vec<bool> = only(&plan).steps.iter().map(|step| step.verdict == Verdict::Run).collect();
    assert_eq!(runs, [true, true, false, false, false]);
    let step = container(&only(&plan).steps[1]);
    assert_eq!(step.image, "alpine:main");
    assert_eq!(step.commands, ["echo theirs"], "an axis is what a file is made of");
    let mut told: Vec<&str> = step.environment.keys().map(String::as_str).collect();
    told.retain(|name| *name != "CI_REPO");
    assert_eq!(told, ["CIDER"]);
}

#[test]
fn the_default_of_an_input_is_there_wherever_a_given_one_is() {
    let base = "inputs: {zone: {default: utc}, where: {default: nowhere}}\n";
    let text = "include: base.yml
inputs:
  where: {default: 'to-${CI_COMMIT_BRANCH}'}
  count: {type: number, default: 3}
  nothing: {}
steps:
  - name: a
    image: alpine
    commands: ['${where} ${count} ${zone} ${nothing:-nothing} [${where}, x]']
    when: {evaluate: 'where == \"to-main\" && count == \"3\" && zone == \"utc\"'}
  - {name: b, image: alpine, entrypoint: [${count}, ${nothing:-x}], depends_on: []}
";
    let file = |path: &str, text: &str, included| PipelineFile {
        path: path.to_owned(),
        content: Ok(text.as_bytes().to_vec()),
        included,
    };
    let files = [file("build.yml", text, vec![file("base.yml", base, vec![])])];
    let asked = |facts: &Facts| {
        workflows::plan(&workflows::read(&files, facts, &Limits::DEFAULT), &Request::of(facts))
    };
    for event in [EventKind::Manual, EventKind::Push] {
        let plan = asked(&on(event));
        assert_eq!(only(&plan).verdict, Verdict::Run, "{event}");
        let step = &only(&plan).steps[1];
        assert_eq!(step.verdict, Verdict::Run, "{event}");
        assert_eq!(container(step).commands, ["to-main 3 utc nothing [to-main, x]"], "{event}");
        assert_eq!(container(step).environment["where"], "to-main");
        assert_eq!(container(&only(&plan).steps[2]).entrypoint, ["3", "x"]);
    }
    let mut facts = on(EventKind::Manual);
    facts.inputs.insert("where".to_owned(), "moon".to_owned());
    let plan = asked(&facts);
    assert!(matches!(only(&plan).steps[1].verdict, Verdict::Skip(_)), "what is given counts");
    assert_eq!(container(&only(&plan).steps[1]).environment["where"], "moon");
}

#[test]
fn a_condition_that_cannot_be_evaluated_refuses_with_its_place() {
    let refused = refusal(&one(
        "when:\n  evaluate: 'CI_REPO'\nsteps: [{name: a, image: alpine, commands: [make]}]\n",
        &facts(),
    ));
    assert!(refused.starts_with(".mergeyard/build.yml:2:"), "{refused}");
    assert!(refused.contains("`evaluate`: the expression yields text"), "{refused}");
    let steps = "steps: [{name: a, image: alpine, commands: [make]}]\n";
    for (evaluate, place) in [
        ("'true && now() == 1'", "2:22:"),
        ("\"true && now() == 1\"", "2:22:"),
        ("true && now() == 1", "2:21:"),
        // Where a place inside of the expression is not a place of the file, it is the expression's.
        ("'CI_REPO != ''x'' && now() == 1'", "2:13:"),
        (">-\n    true &&\n    now() == 1", "3:5:"),
        ("true &&\n    now() == 1", "2:13:"),
    ] {
        let refused = refusal(&one(&format!("when:\n  evaluate: {evaluate}\n{steps}"), &facts()));
        assert!(refused.starts_with(&format!(".mergeyard/build.yml:{place}")), "{evaluate}: {refused}");
    }
}

#[test]
fn a_file_that_does_not_read_is_refused_and_the_others_run() {
    let plan = planned(
        &[("a.yml", "steps: ["), ("b.yml", "steps: [{name: a, image: alpine, commands: [make]}]\n")],
        &facts(),
    );
    assert!(matches!(plan.workflows[0].verdict, Verdict::Refuse(_)));
    assert_eq!(plan.workflows[1].verdict, Verdict::Run);
    assert!(plan.nothing_to_do().is_none());
}

#[test]
fn what_all_files_ask_for_together_has_an_end() {
    let axis: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let axis = axis.join(", ");
    let small = format!("matrix: {{N: [{axis}]}}\nsteps: [{{name: a, image: alpine, commands: [make]}}]\n");
    let large = format!(
        "matrix: {{N: [{axis}]}}\nsteps: [{{name: a, image: alpine, commands: ['{}']}}]\n",
        "x".repeat(99_000)
    );
    let steps: String =
        (0..400).map(|n| format!("  - {{name: s{n}, image: alpine, commands: [make]}}\n")).collect();
    let many = format!("matrix: {{N: [{axis}]}}\nsteps:\n{steps}");
    for (text, count, says) in [
        (&small, 11, "1100 workflows, counting each point of a matrix, more than the 1000"),
        (&large, 1, "bytes, counting a file once for each point of its matrix, more than the 8388608"),
        (&many, 1, "10400 steps and services, more than the 10000"),
    ] {
        let names: Vec<String> = (0..count).map(|n| format!("w{n}.yml")).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text.as_str())).collect();
        let plan = planned(&files, &facts());
        let last = plan.workflows.last().unwrap();
        assert!(matches!(&last.verdict, Verdict::Refuse(why) if why.contains(says)), "{:?}", last.verdict);
    }
}

#[test]
fn a_plan_is_told_in_the_form_of_the_command_line() {
    let plan = planned(
        &[
            ("build.yml", "steps: [{name: a, image: alpine, commands: [make], approve: production}]\n"),
            ("tag.yml", "when: {event: tag}\nsteps: [{name: a, image: alpine, commands: [make]}]\n"),
        ],
        &facts(),
    );
    assert_eq!(
        plan.explain(),
        serde_json::json!({"event": "push", "workflows": [
            {"name": "build", "verdict": "run", "why": "nothing restricts it", "steps": [
                {"name": "clone", "verdict": "run", "why": "each workflow begins with a clone", "depends_on": []},
                {"name": "a", "verdict": "wait", "depends_on": ["clone"],
                 "why": "a person has to approve `production` first; nothing restricts it"},
            ]},
            {"name": "tag", "verdict": "skip", "why": "the event is `push`, and it runs on `tag` (tag.yml:1)", "steps": [
                {"name": "a", "verdict": "skip", "why": "its workflow does not run", "depends_on": []},
            ]},
        ]})
    );
}

proptest! {
    /// Steps that depend on earlier ones only, in any order of the file, some of them left out.
    #[test]
    fn a_plan_has_no_circles_and_respects_what_the_file_asks(
        graph in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<prop::sample::Index>(), 0..4)), 1..30),
        turn in any::<prop::sample::Index>(),
    ) {
        let mut steps: Vec<String> = Vec::new();
        for (at, (runs, needs)) in graph.iter().enumerate() {
            let needs: Vec<String> = needs.iter().filter(|_| at > 0).map(|need| format!("s{}", need.index(at))).collect();
            let when = if *runs { "" } else { ", when: {event: tag}" };
            steps.push(format!("  - {{name: s{at}, image: alpine, commands: [make], depends_on: [{}]{when}}}\n", needs.join(", ")));
        }
        let turn = turn.index(steps.len());
        steps.rotate_left(turn);
        let text = format!("services: [{{name: db, image: postgres}}]\nsteps:\n{}", steps.concat());
        let plan = one(&text, &facts());
        prop_assert_eq!(&plan, &one(&text, &facts()), "the same twice");
        let workflow = &plan.workflows[0];
        if workflow.verdict != Verdict::Run {
            prop_assert!(graph.iter().all(|(runs, _)| !runs));
            return Ok(());
        }
        let place = |name: &str| workflow.steps.iter().position(|step| step.name == name).unwrap();
        // Whoever is reached from a step, has to end before it.
        let reached = |from: usize| {
            let (mut seen, mut open) = (std::collections::BTreeSet::new(), vec![from]);
            while let Some(at) = open.pop() {
                open.extend(workflow.steps[at].rules.needs.iter().filter(|need| seen.insert(**need)));
            }
            seen
        };
        for (at, (runs, needs)) in graph.iter().enumerate().filter(|(_, (runs, _))| *runs) {
            let reached = reached(place(&format!("s{at}")));
            prop_assert!(*runs && !reached.contains(&place(&format!("s{at}"))), "a circle");
            prop_assert!(reached.contains(&place("db")) && reached.contains(&place("clone")));
            for need in needs.iter().filter(|_| at > 0).map(|need| need.index(at)).filter(|need| graph[*need].0) {
                prop_assert!(reached.contains(&place(&format!("s{need}"))), "s{} before s{}", need, at);
            }
            for need in &workflow.steps[place(&format!("s{at}"))].rules.needs {
                prop_assert_eq!(&workflow.steps[*need].verdict, &Verdict::Run, "nobody waits for what is left out");
            }
        }
    }

    #[test]
    fn no_file_makes_planning_panic(text in "[-a-z:{}\\[\\],'$ \n]{0,200}", name in "[.a-z/]{0,20}") {
        let plan = planned(&[(&name, &text), ("b.yml", "steps: [{name: a, image: alpine, commands: [make]}]\n")], &facts());
        prop_assert_eq!(plan.workflows.len() > 1, true);
        plan.text();
        plan.explain();
    }
}

fn one(text: &str, facts: &Facts) -> Plan {
    planned(&[(".mergeyard/build.yml", text)], facts)
}

fn with_secrets(text: &str, secrets: &[SecretRule], facts: &Facts) -> Plan {
    let request = Request { secrets: Some(secrets), ..Request::of(facts) };
    workflows::plan(&read(&[(".mergeyard/build.yml", text)], facts), &request)
}

fn with_images(text: &str, images: &[Candidate]) -> Plan {
    let facts = facts();
    let request = Request { secrets: Some(&[]), images, ..Request::of(&facts) };
    workflows::plan(&read(&[(".mergeyard/build.yml", text)], &facts), &request)
}

fn images() -> Vec<Candidate> {
    let folder = |path: &str, spec: &str| Folder {
        path: path.to_owned(),
        tree: TreeId::new([1; 20]),
        dockerfile: File::Text(b"FROM scratch\n".to_vec()),
        spec: File::Text(spec.as_bytes().to_vec()),
    };
    candidates(&[
        folder("", r#"{"service":{"name":"clock","version":"1.0"}}"#),
        folder("web", r#"{"service":{"name":"web","version":"2"}}"#),
        folder("bad", "{}"),
    ])
}

fn only(plan: &Plan) -> &PlannedWorkflow {
    assert_eq!(plan.workflows.len(), 1, "{}", plan.text());
    &plan.workflows[0]
}

fn refusal(plan: &Plan) -> String {
    match &only(plan).verdict {
        Verdict::Refuse(why) => why.clone(),
        other => panic!("{other:?}"),
    }
}

fn order(plan: &Plan) -> Vec<(&str, Vec<&str>)> {
    let steps = &only(plan).steps;
    assert!(!steps.is_empty(), "{}", plan.text());
    let needs = |step: &PlannedStep| step.rules.needs.iter().map(|need| steps[*need].name.as_str()).collect();
    steps.iter().map(|step| (step.name.as_str(), needs(step))).collect()
}

fn container(step: &PlannedStep) -> &ContainerAction {
    match &step.action {
        Action::Container(container) => container,
        other => panic!("{other:?}"),
    }
}
