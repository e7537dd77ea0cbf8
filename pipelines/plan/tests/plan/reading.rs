//! What a pipeline file means, once it is read.

use std::time::Duration;

use mergeyard_plan::{
    event::EventKind,
    spec::{Concurrency, InputKind, Limits, OnFailure, Probe, Spanned, Status, Step, Workflow, read},
};
use serde_json::{Value, json};

/// Read without a word.
fn workflow(text: &str) -> Workflow {
    let read = read("build.yml", text, &Limits::default());
    assert_eq!(read.findings, [], "{text}");
    read.workflow.unwrap()
}

/// The keys of one step, which has an image.
fn step(keys: &str) -> Step {
    let lines: String = keys.lines().map(|line| format!("    {line}\n")).collect();
    workflow(&format!("steps:\n  build:\n    image: golang\n{lines}")).steps.remove(0)
}

fn texts(list: &[Spanned<String>]) -> Vec<&str> {
    list.iter().map(|text| text.as_str()).collect()
}

fn values(list: &[(Spanned<String>, Value)]) -> Value {
    list.iter()
        .map(|(key, value)| (key.value.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn steps_are_a_mapping_in_the_order_of_the_file_or_a_list() {
    let mapping = workflow("steps:\n  b: {image: x}\n  a: {image: y, name: inner}\n");
    assert_eq!(mapping.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["b", "inner"]);
    let list = workflow("steps:\n  - image: x\n  - {name: b, image: y}\n  - {name: '', image: z}\n");
    assert_eq!(
        list.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(),
        ["step-0", "b", "step-2"]
    );
}

#[test]
fn a_service_is_called_by_its_key_because_that_is_its_host_name() {
    let text = "steps: [{name: a, image: x}]\nservices:\n  database: {image: mysql, name: other, ports: [3306, '80/tcp']}\n";
    let workflow = workflow(text);
    assert_eq!(*workflow.services[0].name, "database");
    assert_eq!(texts(&workflow.services[0].ports), ["3306", "80/tcp"]);
}

#[test]
fn every_value_knows_its_place() {
    let workflow = workflow(
        "steps:\n  - name: büild\n    image: golang\n    commands:\n      - make\n      - make test\n",
    );
    let step = &workflow.steps[0];
    let place = |spanned: &Spanned<String>| (spanned.at.line, spanned.at.column);
    assert_eq!(place(&step.name), (2, 11));
    assert_eq!(place(step.image.as_ref().unwrap()), (3, 12));
    assert_eq!(step.commands.iter().map(place).collect::<Vec<_>>(), [(5, 9), (6, 9)]);
}

#[test]
fn one_text_does_where_a_list_would() {
    let step = step(
        "commands: make\nentrypoint: [/bin/bash, -c]\ndns: 1.1.1.1\nvolumes: /a:/b\ntmpfs: [/t]\noutputs: version",
    );
    assert_eq!(texts(&step.commands), ["make"]);
    assert_eq!(step.entrypoint, ["/bin/bash", "-c"]);
    assert_eq!((texts(&step.dns), texts(&step.volumes)), (vec!["1.1.1.1"], vec!["/a:/b"]));
    assert_eq!((texts(&step.tmpfs), texts(&step.outputs)), (vec!["/t"], vec!["version"]));
}

#[test]
fn all_keys_of_a_container() {
    let step = step(
        "pull: true\ndirectory: src\nfailure: ignore\ndetach: true\nports: [8080]\ndns_search: [a.example]\n\
         devices: [/dev/ttyUSB0:/dev/ttyUSB0]\nextra_hosts: ['ipv6:2001:db8::10']\nnetwork_mode: bridge\nprivileged: true\n\
         backend_options: {docker: {user: 1000:1000}, kubernetes: {resources: {limits: {cpu: 1}}}, local: {any: thing}}",
    );
    assert!(step.pull && step.detach && *step.privileged.unwrap());
    assert_eq!((step.directory.as_deref(), step.failure), (Some("src"), OnFailure::Ignore));
    assert_eq!((texts(&step.ports), texts(&step.dns_search)), (vec!["8080"], vec!["a.example"]));
    assert_eq!(texts(&step.devices), ["/dev/ttyUSB0:/dev/ttyUSB0"]);
    assert_eq!(texts(&step.extra_hosts), ["ipv6:2001:db8::10"]);
    assert_eq!(step.network_mode.unwrap().as_str(), "bridge");
    assert_eq!(step.user.unwrap().as_str(), "1000:1000");
}

#[test]
fn settings_keep_what_yaml_makes_of_them_and_their_order() {
    let step = step(
        "settings:\n  repo: owner/name\n  dry-run: true\n  tags: [next, 1.10]\n  depth: 0x10\n  text: '5'\n  none: ~\n  \
         token: {from_secret: TOKEN}\n  day: 2026-01-02\n  yes: yes",
    );
    let keys: Vec<_> = step.settings.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["repo", "dry-run", "tags", "depth", "text", "none", "token", "day", "yes"]);
    let expected = json!({
        "repo": "owner/name", "dry-run": true, "tags": ["next", 1.1], "depth": 16, "text": "5", "none": null,
        "token": {"from_secret": "TOKEN"}, "day": "2026-01-02", "yes": "yes",
    });
    assert_eq!(values(&step.settings), expected);
}

/// Go's yaml.v3 keeps some of YAML 1.1, and existing files rely on it.
#[test]
fn plain_words_mean_what_they_meant_to_woodpecker() {
    for (word, meaning) in [
        ("true", json!(true)),
        ("True", json!(true)),
        ("FALSE", json!(false)),
        ("tRue", json!("tRue")),
        ("yes", json!("yes")),
        ("off", json!("off")),
        ("~", json!(null)),
        ("Null", json!(null)),
        ("nil", json!("nil")),
        ("0777", json!(511)),
        ("0o17", json!(15)),
        ("0b101", json!(5)),
        ("-0x1F", json!(-31)),
        ("1_000", json!(1000)),
        ("+5", json!(5)),
        ("-5", json!(-5)),
        ("08", json!(8.0)),
        ("1.5", json!(1.5)),
        (".5", json!(0.5)),
        ("1e3", json!(1000.0)),
        ("6.02e-3", json!(0.00602)),
        ("18446744073709551615", json!(18446744073709551615u64)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("1.2.3", json!("1.2.3")),
        ("0x", json!("0x")),
        ("12:30:45", json!("12:30:45")),
        ("1e", json!("1e")),
        ("-", json!("-")),
        ("e3", json!("e3")),
        ("2026-01-02", json!("2026-01-02")),
        ("!!str 5", json!("5")),
        ("\"5\"", json!("5")),
        ("v1", json!("v1")),
    ] {
        let word = if word == "-" { "'-'" } else { word };
        assert_eq!(values(&step(&format!("settings: {{x: {word}}}")).settings)["x"], meaning, "{word}");
    }
}

#[test]
fn where_a_flag_is_expected_older_words_are_flags() {
    for (word, flag) in [
        ("yes", true),
        ("Y", true),
        ("ON", true),
        ("no", false),
        ("n", false),
        ("'off'", false),
        ("true", true),
    ] {
        assert_eq!(step(&format!("detach: {word}")).detach, flag, "{word}");
    }
}

#[test]
fn where_text_is_expected_numbers_stay_as_written() {
    let workflow = workflow(
        "labels: {version: 1.10, big: true}\nsteps: [{name: 1.0, image: 2.50, commands: [5, true]}]\n",
    );
    assert_eq!((workflow.labels["version"].as_str(), workflow.labels["big"].as_str()), ("1.10", "true"));
    let step = &workflow.steps[0];
    assert_eq!((step.name.as_str(), step.image.as_ref().unwrap().as_str()), ("1.0", "2.50"));
    assert_eq!(texts(&step.commands), ["5", "true"]);
}

#[test]
fn a_key_without_a_value_is_as_good_as_absent() {
    let step = step("commands:\nwhen: ~\ndepends_on: null\ntimeout:\nsettings:");
    assert_eq!(step.depends_on, None, "so this does not switch to dependencies");
    assert!(step.commands.is_empty() && step.when.is_empty() && step.timeout.is_none());
}

#[test]
fn dependencies_are_names_and_may_be_optional() {
    let text = "depends_on: [lint, {name: docs, optional: true}]\nsteps:\n  a: {image: x, depends_on: []}\n  \
                b: {image: x, depends_on: a}\n  c: {image: x, depends_on: [a, {name: gone, optional: true}]}\n  d: {image: x}\n";
    let workflow = workflow(text);
    let needs = |step: &Step| {
        step.depends_on.as_ref().map(|needs| {
            needs.iter().map(|need| (need.name.value.clone(), need.optional)).collect::<Vec<_>>()
        })
    };
    assert_eq!(
        workflow.depends_on.iter().map(|need| (need.name.as_str(), need.optional)).collect::<Vec<_>>(),
        [("lint", false), ("docs", true)]
    );
    assert_eq!(needs(&workflow.steps[0]), Some(vec![]), "an empty list is not the same as none");
    assert_eq!(needs(&workflow.steps[1]), Some(vec![("a".into(), false)]));
    assert_eq!(needs(&workflow.steps[2]), Some(vec![("a".into(), false), ("gone".into(), true)]));
    assert_eq!(needs(&workflow.steps[3]), None);
}

#[test]
fn conditions_of_every_form() {
    let when = step(
        "when:\n  - event: [push, pull_request_merged]\n    branch: {include: main, exclude: ['feature/*', 'v**']}\n    repo: a/b\n  \
         - event: cron\n    cron: nightly\n    ref: refs/tags/v*\n    instance: [a, b]\n    platform: linux/*\n    status: [failure]\n    \
         evaluate: 'CI_X == \"1\"'\n    local: false",
    )
    .when;
    assert_eq!(when.len(), 2);
    assert_eq!((when[0].at.line, when[0].at.column), (5, 9));
    assert_eq!(
        when[0].event.iter().map(|kind| kind.value).collect::<Vec<_>>(),
        [EventKind::Push, EventKind::PullRequestMerged]
    );
    assert_eq!(
        (texts(&when[0].branch.include), texts(&when[0].branch.exclude)),
        (vec!["main"], vec!["feature/*", "v**"])
    );
    assert_eq!(texts(&when[0].repo.include), ["a/b"]);
    assert_eq!(
        (texts(&when[1].cron.include), texts(&when[1].git_ref.include)),
        (vec!["nightly"], vec!["refs/tags/v*"])
    );
    assert_eq!(
        (texts(&when[1].instance.include), texts(&when[1].platform.include)),
        (vec!["a", "b"], vec!["linux/*"])
    );
    assert_eq!(when[1].status.iter().map(|status| status.value).collect::<Vec<_>>(), [Status::Failure]);
    assert_eq!(when[1].evaluate.as_ref().unwrap().as_str(), "CI_X == \"1\"");
    assert_eq!((when[0].local, when[1].local), (None, Some(false)));
}

#[test]
fn changed_paths_pass_when_there_are_none_unless_written() {
    let path = |text: &str| step(&format!("when: {{path: {text}}}")).when.remove(0).path;
    assert!(path("'**/*.rs'").on_empty);
    let long = path("{include: [a/**], exclude: '*.md', ignore_message: '[ALL]', on_empty: false}");
    assert_eq!((texts(&long.include), texts(&long.exclude)), (vec!["a/**"], vec!["*.md"]));
    assert_eq!((long.ignore_message.as_deref(), long.on_empty), (Some("[ALL]"), false));
}

#[test]
fn a_condition_on_the_matrix_may_exclude() {
    let when = |text: &str| step(&format!("when: {{matrix: {text}}}")).when.remove(0);
    let short = when("{GO: 1.5, REDIS: 2.8}");
    assert_eq!((short.matrix["GO"].as_str(), short.matrix["REDIS"].as_str()), ("1.5", "2.8"));
    let long = when("{include: {GO: 1.50}, exclude: {REDIS: 2.8}}");
    assert_eq!((long.matrix["GO"].as_str(), long.matrix_exclude["REDIS"].as_str()), ("1.50", "2.8"));
    assert_eq!(when("{include: axis}").matrix["include"].as_str(), "axis", "an axis may be called that");
}

#[test]
fn top_level_keys() {
    let workflow = workflow(
        "version: 1\nwhen: {event: push}\nworkspace: {base: /go, path: src/app}\nskip_clone: true\nlabels: {platform: linux/arm64}\n\
         concurrency: {limit: 2, group: deploy}\nvariables: [&image golang]\nx-mine: anything\napprove: production\n\
         clone: {git: {settings: {depth: 50, tags: true}}}\nsteps: {a: {image: *image}}\n",
    );
    assert_eq!(workflow.when[0].event[0].value, EventKind::Push);
    assert_eq!(
        (workflow.workspace.base.as_deref(), workflow.workspace.path.as_deref()),
        (Some("/go"), Some("src/app"))
    );
    assert!(workflow.skip_clone);
    assert_eq!(workflow.labels["platform"].as_str(), "linux/arm64");
    assert_eq!(workflow.concurrency, Some(Concurrency { limit: 2, group: Some("deploy".into()) }));
    assert_eq!(workflow.approve.unwrap().as_str(), "production");
    assert_eq!(values(&workflow.clone[0].settings), json!({"depth": 50, "tags": true}));
    assert_eq!(workflow.steps[0].image.as_ref().unwrap().as_str(), "golang");
}

#[test]
fn concurrency_in_short_and_switched_off() {
    let concurrency =
        |text: &str| workflow(&format!("concurrency: {text}\nsteps: {{a: {{image: x}}}}\n")).concurrency;
    assert_eq!(concurrency("1"), Some(Concurrency { limit: 1, group: None }));
    for none in ["0", "-1", "{limit: 0, group: deploy}", "{limit: -3}"] {
        assert_eq!(concurrency(none), None, "{none}");
    }
    let own = Some(Concurrency { limit: 2, group: None });
    for unnamed in ["{limit: 2}", "{limit: 2, group: ''}", "{limit: 2, group: }"] {
        assert_eq!(concurrency(unnamed), own, "{unnamed}");
    }
}

#[test]
fn what_mergeyard_adds() {
    let workflow = workflow(
        "inputs:\n  tag: {description: what to deploy, required: true}\n  count: {type: number, default: 3}\n  \
         dry: {type: boolean, default: true}\n  where: {type: choice, options: [eu, us], default: eu}\n\
         steps:\n  - name: build\n    uses: image\n    with: {folder: api}\n    timeout: 90s\n    retry: 2\n    \
         outputs: [version, digest]\n    approve: staging\n  - name: test\n    image: x\n    cache: [node_modules, ~/.npm]\n    timeout: 2h\n\
         services:\n  db: {image: postgres, ready: {command: pg_isready, timeout: 30s}}\n  \
         mq: {image: mq, ready: {port: 5672}}\n  web: {image: web, ready: {command: [curl, -f, localhost]}}\n",
    );
    let build = &workflow.steps[0];
    assert_eq!(build.uses.as_ref().unwrap().as_str(), "image");
    assert_eq!(values(&build.with), json!({"folder": "api"}));
    assert_eq!((build.timeout.as_ref().unwrap().value, build.retry), (Duration::from_secs(90), 2));
    assert_eq!(
        (texts(&build.outputs), build.approve.as_ref().unwrap().as_str()),
        (vec!["version", "digest"], "staging")
    );
    assert_eq!(texts(&workflow.steps[1].cache), ["node_modules", "~/.npm"]);
    assert_eq!(workflow.steps[1].timeout.as_ref().unwrap().value, Duration::from_secs(7200));

    let ready: Vec<_> = workflow.services.iter().map(|service| service.ready.clone().unwrap()).collect();
    assert_eq!(ready[0].probe, Probe::Command(vec!["/bin/sh".into(), "-c".into(), "pg_isready".into()]));
    assert_eq!(
        (&ready[1].probe, ready[0].timeout, ready[1].timeout),
        (&Probe::Port(5672), Duration::from_secs(30), Duration::from_secs(60))
    );
    assert_eq!(ready[2].probe, Probe::Command(vec!["curl".into(), "-f".into(), "localhost".into()]));

    let inputs = &workflow.inputs;
    assert!(inputs["tag"].required && inputs["tag"].kind == InputKind::Text);
    assert_eq!((&inputs["count"].kind, inputs["count"].default.as_deref()), (&InputKind::Number, Some("3")));
    assert_eq!(inputs["where"].kind, InputKind::Choice(vec!["eu".into(), "us".into()]));
    assert_eq!((inputs["tag"].at.line, inputs["tag"].at.column), (2, 3));
}

#[test]
fn mappings_are_merged_and_what_is_written_wins() {
    let text = "variables:\n  step: &base\n    image: golang:1.19\n    commands: &cmds\n      - go version\n      - whoami\n  \
                env: &env {environment: {A: '1'}}\nsteps:\n  one:\n    <<: *base\n  two:\n    image: golang:latest\n    <<: *base\n  \
                three:\n    <<: [*env, *base]\n    commands:\n      - <<: *cmds\n      - hostname\n  four: *base\n";
    let workflow = workflow(text);
    let image = |i: usize| workflow.steps[i].image.as_ref().unwrap().as_str();
    assert_eq!(
        [image(0), image(1), image(2), image(3)],
        ["golang:1.19", "golang:latest", "golang:1.19", "golang:1.19"]
    );
    assert_eq!(texts(&workflow.steps[1].commands), ["go version", "whoami"]);
    assert_eq!(texts(&workflow.steps[2].commands), ["go version", "whoami", "hostname"]);
    assert_eq!(values(&workflow.steps[2].environment), json!({"A": "1"}));
    assert_eq!(*workflow.steps[3].name, "four");
}

#[test]
fn lists_are_spliced_into_lists() {
    let text = "variables:\n  - &a [one, two]\n  - &b [three]\n  - &steps\n    - {name: first, image: x}\nsteps:\n  - <<: *steps\n  \
                - name: last\n    image: x\n    commands:\n      - zero\n      - <<: [*a, *b]\n      - {<<: *a}\n";
    let workflow = workflow(text);
    assert_eq!(workflow.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["first", "last"]);
    assert_eq!(texts(&workflow.steps[1].commands), ["zero", "one", "two", "three", "one", "two"]);
}

#[test]
fn a_step_in_a_list_may_be_nothing_but_a_merged_mapping() {
    let workflow = workflow(
        "variables: {a: &a {name: a, image: x}, b: &b {image: y, pull: true}}\nsteps:\n  - <<: *a\n  - <<: [*b]\n    name: b\n",
    );
    assert_eq!((workflow.steps[0].name.as_str(), workflow.steps[1].pull), ("a", true));
}

#[test]
fn anchors_are_taken_from_anywhere_above_and_the_last_one_counts() {
    let workflow = workflow("x-a: &a one\nsteps:\n  s: {image: *a, commands: [&a two, *a]}\n");
    assert_eq!(workflow.steps[0].image.as_ref().unwrap().as_str(), "one");
    assert_eq!(texts(&workflow.steps[0].commands), ["two", "two"]);
}

#[test]
fn multi_line_texts() {
    let step = step(
        "commands:\n  - |\n    if true; then\n      echo a\n    fi\n  - >-\n    folded\n    text\n  - \"a: \\\"b\\\"\"",
    );
    assert_eq!(texts(&step.commands), ["if true; then\n  echo a\nfi\n", "folded text", "a: \"b\""]);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let plain = "steps:\n  - name: a\n    image: x\n    commands:\n      - |\n        one\n        two\n";
    let windows = format!("\u{feff}{}", plain.replace('\n', "\r\n"));
    let (plain, windows) = (workflow(plain), workflow(&windows));
    assert_eq!(texts(&plain.steps[0].commands), texts(&windows.steps[0].commands));
    assert_eq!(plain.steps[0].image, windows.steps[0].image, "and no place");
}

#[test]
fn the_built_in_pipeline_reads() {
    let (file, text) = mergeyard_plan::builtin::IMAGE;
    let read = read(file, text, &Limits::default());
    assert_eq!(read.findings, []);
    let step = &read.workflow.unwrap().steps[0];
    assert_eq!((step.uses.as_ref().unwrap().as_str(), step.retry), ("image", 3));
}
