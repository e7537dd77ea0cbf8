//! What is wrong in a pipeline file, said all at once, where it stands, with what to do.

use mergeyard_plan::{
    finding::Level,
    spec::{Limits, Read, read},
};

use crate::built::{facts, planned};

fn reading(text: &str) -> Read {
    read("build.yml", text, &Limits::default())
}

/// All findings as `line:column level code message`.
fn findings(text: &str) -> Vec<String> {
    let read = reading(text);
    let any_error = read.findings.iter().any(|finding| finding.level == Level::Error);
    assert_eq!(
        read.workflow.is_none(),
        any_error,
        "a file with errors gives no workflow, any other does:\n{text}"
    );
    let line = |finding: &mergeyard_plan::finding::Finding| {
        let level = if finding.level == Level::Error { "error" } else { "warning" };
        format!("{}:{} {level} {} {}", finding.line, finding.column, finding.code, finding.message)
    };
    read.findings.iter().map(line).collect()
}

/// One finding, which begins like this and contains that.
fn one(text: &str, begins: &str, contains: &str) {
    let found = findings(text);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    assert!(found[0].starts_with(&format!("{begins} ")), "{text}\n{}\nis not\n{begins}", found[0]);
    assert!(found[0].contains(contains), "{text}\n{}\ndoes not say\n{contains}", found[0]);
}

/// The same, of a key in a step in line 4.
fn step(key: &str, begins: &str, contains: &str) {
    one(&format!("steps:\n  - name: a\n    image: x\n    {key}\n"), begins, contains);
}

#[test]
fn everything_is_said_in_one_pass_from_top_to_bottom() {
    let text = "whn: {event: push}\nsteps:\n  build:\n    image: golang\n    comands: [make]\n    timeout: 5 minutes\n  test:\n    \
                image: golang\n    depends_on: biuld\n  test2: {image: [a]}\nservices:\n  db: {}\n";
    assert_eq!(
        findings(text),
        [
            "1:1 warning pipeline-unknown-key a pipeline has no key `whn` and passes it over: did you mean `when`?",
            "5:5 warning pipeline-unknown-key the step `build` has no key `comands` and passes it over: did you mean `commands`?",
            "6:14 error pipeline-duration `5 minutes` is not a duration: write a number and s, m or h, such as 30m",
            "9:17 error pipeline-dependency `test` depends on `biuld`, which is no step: did you mean `build`?",
            "10:3 error pipeline-no-image the step `test2` has no `image`: name one, or an action with `uses`",
            "10:18 error pipeline-type `image` is a list, but takes text",
            "12:3 error pipeline-no-image the service `db` has no `image`: name one, or an action with `uses`",
        ]
    );
}

#[test]
fn a_file_without_steps() {
    one("", "0:0 error pipeline-empty", "it needs `steps`");
    one("# nothing\n---\n", "0:0 error pipeline-empty", "it needs `steps`");
    one("when: {event: push}\n", "1:1 error pipeline-no-steps", "at least one step");
    one("steps:\n", "1:1 error pipeline-no-steps", "at least one step");
}

#[test]
fn steps_that_are_none() {
    one("steps: []\n", "1:8 error pipeline-no-steps", "at least one step");
    one("steps: {a: {image: x}, b: }\n", "1:24 error pipeline-no-image", "the step `b` has no `image`");
    one("steps: text\n", "1:8 error pipeline-type", "takes a mapping by name or a list");
    one("steps: [{image: x}, text]\n", "1:21 error pipeline-type", "this step is text, but takes a mapping");
}

#[test]
fn what_is_not_yaml() {
    one("steps: [\n", "1:8 error yaml-syntax", "this is not YAML: ");
    one("a: b: c\n", "1:5 error yaml-syntax", "this is not YAML: ");
    one("steps:\n  - a\n b\n", "3:2 error yaml-syntax", "this is not YAML: ");
    one("steps: {a: {image: *x}}\n", "1:20 error yaml-alias", "no anchor `x` stands above");
    one("steps: {a: {image: x}}\n? [a]\n: b\n", "2:3 error yaml-key", "a key is one word");
    one("- a\n", "1:1 error pipeline-type", "a pipeline is a list, but takes a mapping");
}

#[test]
fn the_same_key_twice() {
    one(
        "steps: {a: {image: x}}\nlabels: {b: c, b: d}\n",
        "2:16 error yaml-duplicate-key",
        "`b` stands here twice",
    );
    one(
        "steps: {a: {image: x}}\nsteps: {b: {image: x}}\n",
        "2:1 error yaml-duplicate-key",
        "`steps` stands here twice",
    );
}

#[test]
fn a_merge_key_takes_a_mapping() {
    one(
        "x-a: &a [1]\nsteps: {a: {image: x, <<: *a}}\n",
        "1:10 error yaml-merge",
        "`<<` takes the keys of a mapping",
    );
}

#[test]
fn what_is_passed_over_is_a_warning_as_it_was_to_woodpecker() {
    one("steps: {a: {image: x}}\n---\nsteps: {}\n", "2:1 warning yaml-documents", "only what stands above");
    one("steps: {a: {image: !mine x}}\n", "1:20 warning yaml-tag", "`!mine` means nothing here");
    one(
        "platform: linux/amd64\nsteps: {a: {image: x}}\n",
        "1:1 warning pipeline-old-key",
        "write `labels: {platform: …}`",
    );
    one(
        "when: {matrix: {a: b}}\nsteps: {a: {image: x}}\n",
        "1:8 warning pipeline-when",
        "use it under a step's `when`",
    );
    one(
        "runs_on: [success]\nsteps: {a: {image: x}}\n",
        "1:1 warning pipeline-old-key",
        "write `status` under `when`",
    );
    step("group: a", "4:5 warning pipeline-old-key", "write `depends_on`");
    step("secrets: [a]", "4:5 warning pipeline-old-key", "from_secret");
    step("environment: [A=1]", "4:18 warning pipeline-old-key", "write `NAME: value`");
    step("when: {environment: prod}", "4:12 warning pipeline-old-key", "CI_PIPELINE_DEPLOY_TARGET");
    step("nothing_like_it: 1", "4:5 warning pipeline-unknown-key", "remove it");
    step("backend_options: {docker: {usr: a}}", "4:32 warning pipeline-unknown-key", "did you mean `user`?");
}

#[test]
fn what_would_do_something_else_than_it_says_is_an_error() {
    one(
        "branches: main\nsteps: {a: {image: x}}\n",
        "1:1 error pipeline-old-key",
        "write `branch` under `when`",
    );
    one("pipeline: {a: {image: x}}\nsteps: {a: {image: x}}\n", "1:1 error pipeline-old-key", "write `steps`");
}

#[test]
fn keys_for_anchors_and_other_programs_are_fine() {
    assert!(
        findings("variables: [.nan, 1e999]\nsteps: {a: {image: x}}\n").is_empty(),
        "nobody is given these"
    );
    assert!(
        findings("x-a: 1\n_b: 2\n.c: 3\nversion: 1\n$schema: https://x\nsteps: {a: {image: x, x-mine: 1}}\n")
            .is_empty()
    );
}

#[test]
fn values_of_the_wrong_kind() {
    step("detach: maybe", "4:13 error pipeline-type", "`detach` is text, but takes true or false");
    step("detach: 'true'", "4:13 error pipeline-type", "takes true or false");
    step("commands: {a: b}", "4:15 error pipeline-type", "`commands` is a mapping, but takes text or a list");
    step("commands: [a, [b]]", "4:19 error pipeline-type", "`commands` is a list, but takes text");
    step(
        "commands:\n      - \n      - a",
        "5:9 error pipeline-type",
        "`commands` is nothing, but takes text",
    );
    step("settings: [a]", "4:15 error pipeline-type", "takes a mapping");
    step("settings: {a: .nan}", "4:19 error pipeline-number", "`.nan` is a number nobody can be given");
    step("settings: {a: [1e999]}", "4:20 error pipeline-number", "put it in quotes");
    step("failure: explode", "4:14 error pipeline-word", "it is one of `fail`, `ignore`, `cancel`");
    step("failure: ignored", "4:14 error pipeline-word", "did you mean `ignore`?");
    step("when: text", "4:11 error pipeline-type", "`when` is text, but takes a mapping or a list");
    step("when: {status: broken}", "4:20 error pipeline-word", "`success`, `failure`");
    step("when: {path: {on_empty: 1}}", "4:29 error pipeline-type", "true or false");
    step("depends_on: [{optional: true}]", "4:18 error pipeline-dependency", "needs the `name` of a step");
    step("outputs: [1st]", "4:15 error pipeline-name", "`1st` is not a name");
    one(
        "concurrency: {group: a}\nsteps: {a: {image: x}}\n",
        "1:14 warning pipeline-concurrency",
        "without a `limit`",
    );
    one("concurrency: 1001\nsteps: {a: {image: x}}\n", "1:14 error pipeline-number", "takes at most 1000");
}

#[test]
fn a_listed_variable_without_a_value() {
    let found = findings("steps: {a: {image: x, environment: [A]}}\n");
    assert_eq!(found[1], "1:37 error pipeline-type `A` is not a variable: write `NAME: value`");
}

#[test]
fn durations_have_a_unit_and_last() {
    for bad in ["30", "m", "-3m", "3d", "0s", "1.5h", "99999999999999999999h", "1h30m", "٣m", "''"] {
        step(&format!("timeout: {bad}"), "4:14 error pipeline-duration", "write a number and s, m or h");
    }
}

#[test]
fn globs_that_are_none() {
    step("when: {branch: 'a[b'}", "4:20 error pipeline-glob", "`a[b` is not a glob: ");
    step("when: {path: {exclude: ['{a']}}", "4:29 error pipeline-glob", "`{a` is not a glob: ");
    step(
        &format!("when: {{ref: {}}}", "a".repeat(1001)),
        "4:17 error pipeline-glob",
        "longer than 1000 bytes",
    );
}

/// An empty list of events means every event, so an unknown one must not leave it empty.
#[test]
fn an_unknown_event_is_an_error_when_no_other_is_left() {
    step("when: {event: pull-request}", "4:19 error pipeline-event", "did you mean `pull_request`?");
    step(
        "when: {event: [push, on_friday]}",
        "4:26 warning pipeline-event",
        "no event `on_friday`: it is one of `push`",
    );
    step("when: {event: [PUSH, tag]}", "4:20 warning pipeline-event", "did you mean `push`?");
}

#[test]
fn settings_are_for_plugins() {
    step(
        "settings: {a: b}\n    commands: [c]",
        "2:11 error pipeline-settings",
        "has `settings` and `commands`",
    );
    step(
        "settings: {a: b}\n    entrypoint: [c]",
        "2:11 error pipeline-settings",
        "has `settings` and `entrypoint`",
    );
    step("settings: {a: b}\n    environment: {c: d}", "2:11 warning pipeline-settings", "keep one");
}

#[test]
fn an_action_brings_its_own_container() {
    step("uses: image", "2:11 error pipeline-uses", "has `uses` and `image`");
    step("with: {a: b}", "2:11 error pipeline-uses", "has `with` and no `uses`");
    one("steps: [{uses: image, commands: [a]}]\n", "1:9 error pipeline-uses", "has `uses` and `commands`");
}

#[test]
fn names_are_there_once() {
    let text = "steps:\n  - {name: a, image: x}\n  - {name: a, image: y}\n";
    one(text, "3:12 error pipeline-duplicate-name", "there are two steps `a`, the first in line 2");
    let text = "steps: {a: {image: x}}\nservices:\n  - {name: db, image: x}\n  - {name: db, image: y}\n";
    one(text, "4:12 error pipeline-duplicate-name", "there are two services `db`");
    let text = "steps: {a: {image: x}}\nservices: [{image: x}]\n";
    one(text, "2:12 warning pipeline-name", "a service is reached by its name");
    one(
        &format!("steps: {{{}: {{image: x}}}}\n", "a".repeat(101)),
        "1:9 error pipeline-name",
        "1 to 100 characters",
    );
    one("steps: {\"a\\nb\": {image: x}}\n", "1:9 error pipeline-name", "on one line");
}

#[test]
fn dependencies_that_are_not_there() {
    let text = "steps:\n  a: {image: x, depends_on: [zzz, {name: yyy, optional: true}]}\n";
    one(
        text,
        "2:30 error pipeline-dependency",
        "`a` depends on `zzz`, which is no step: add it, or write `optional: true`",
    );
    let text = "steps:\n  a: {image: x, depends_on: db}\nservices: {db: {image: x}}\n";
    one(text, "2:29 error pipeline-dependency", "steps start after all services, remove it");
}

#[test]
fn a_workflow_that_is_needed_has_a_name() {
    let found = findings("depends_on:\n  - workflow: other\nsteps: {a: {image: x}}\n");
    assert_eq!(
        found,
        [
            "2:5 warning pipeline-unknown-key `depends_on` has no key `workflow` and passes it over: it knows `name`, `optional`",
            "2:5 error pipeline-dependency a dependency needs the `name` of a workflow",
        ]
    );
}

#[test]
fn steps_that_wait_for_each_other_are_named() {
    let text = "steps:\n  a: {image: x, depends_on: c}\n  b: {image: x, depends_on: a}\n  c: {image: x, depends_on: [b]}\n  d: {image: x, depends_on: a}\n";
    one(text, "2:3 error pipeline-cycle", "steps wait for each other: `a` → `c` → `b` → `a`: remove one");
    one("steps: {a: {image: x, depends_on: a}}\n", "1:9 error pipeline-cycle", "`a` → `a`");
    let text =
        "steps: {a: {image: x, depends_on: {name: b, optional: true}}, b: {image: x, depends_on: a}}\n";
    one(text, "1:9 error pipeline-cycle", "`a` → `b` → `a`");
    let diamond = "steps:\n  a: {image: x}\n  b: {image: x, depends_on: a}\n  c: {image: x, depends_on: a}\n  d: {image: x, depends_on: [b, c]}\n";
    assert!(findings(diamond).is_empty());
}

#[test]
fn what_mergeyard_adds_has_its_rules_too() {
    step("retry: 11", "4:12 error pipeline-number", "`retry` is `11`, but takes 0 to 10");
    step("retry: -1", "4:12 error pipeline-number", "`retry` is `-1`, but takes 0 to 10");
    step("detach: true\n    ready: {port: 0}", "5:19 error pipeline-number", "takes 1 to 65535");
    step("ready: {port: 1}", "2:11 warning pipeline-ready", "has `ready`, which is passed over");
    for blank in ["[]", "''", "[' ']"] {
        step(&format!("ready: {{command: {blank}}}"), "4:22 error pipeline-ready", "`command` runs nothing");
    }
    step("ready: {timeout: 3s}", "4:12 error pipeline-ready", "either a `command` or a `port`");
    step("ready: {port: 1, command: a}", "4:12 error pipeline-ready", "either a `command` or a `port`");
    step("cache: ../secrets", "4:12 error pipeline-cache", "without `..`");
    step("approve: ''", "4:14 error pipeline-approve", "name the gate");
    let input = |text: &str, begins: &str, says: &str| {
        one(&format!("steps: {{a: {{image: x}}}}\ninputs: {{a: {text}}}\n"), begins, says);
    };
    input("{type: choice}", "2:10 error pipeline-input", "list its `options`");
    input(
        "{type: number, default: many}",
        "2:37 error pipeline-input",
        "does not take its own default `many`",
    );
    input("{type: choice, options: [a], default: b}", "2:51 error pipeline-input", "its own default `b`");
    one(
        "steps: {a: {image: x}}\ninputs: {CI_REPO: {}}\n",
        "2:10 error pipeline-input",
        "`CI_REPO` is named like a variable of mergeyard's own",
    );
    input("{type: date}", "2:20 error pipeline-word", "`text`, `number`, `boolean`, `choice`");
}

#[test]
fn what_an_alias_repeats_is_said_once() {
    let text = "x-a: &a {image: x, comands: [a]}\nsteps: {a: *a, b: *a, c: {<<: *a}}\n";
    let found = findings(text);
    assert!(
        found.iter().all(|finding| finding.starts_with("1:20 warning pipeline-unknown-key ")),
        "{found:#?}"
    );
}

#[test]
fn an_invisible_mark_at_the_beginning_moves_nothing() {
    let text = "\u{feff}whn: 1\nsteps: {a: {image: x}}\n";
    one(text, "1:1 warning pipeline-unknown-key", "`when`");
    let rendered = reading(text).findings[0].render(text);
    assert!(rendered.contains("1 | whn: 1\n  | ^\n"), "{rendered}");
}

#[test]
fn messages_stay_on_one_line_and_short() {
    let long = "x".repeat(500);
    for text in [
        format!("\"\\e[31m{long}\\n\": 1\nsteps: {{a: {{image: x}}}}\n"),
        format!("steps: {{a: {{image: x, failure: \"{long}\"}}}}\n"),
    ] {
        for finding in findings(&text) {
            assert!(finding.chars().count() < 300 && !finding.contains(char::is_control), "{finding}");
        }
    }
}

#[test]
fn only_a_step_is_a_built_in_action() {
    one(
        "steps: {a: {image: x}}\nservices: [{name: q, uses: nonsense}]\n",
        "2:28 error pipeline-uses",
        "the service `q` has `uses`: only a step is a built-in action",
    );
    one(
        "steps: {a: {image: x}}\nclone: {git: {uses: image}}\n",
        "2:21 error pipeline-uses",
        "the clone step `git` has `uses`: only a step is a built-in action, give it an `image`",
    );
}

/// What is said of a file on a push of `MERGE` to `main`.
fn planned_findings(text: &str) -> Vec<String> {
    planned(&[("build.yml", text)], &facts()).findings.iter().map(ToString::to_string).collect()
}

#[test]
fn places_are_those_of_the_file_and_not_of_what_substitution_made_of_it() {
    for (text, says) in [
        (
            "steps:\n  - {name: \"${CI_COMMIT_SHA}\", image: x, detach: 3}\n",
            "build.yml:2:50: `detach` is a number",
        ),
        (
            "steps:\n  - name: ${CI_COMMIT_SHA}${CI_REPO_NAME}\n    image: x\n    detach: 3\n",
            "build.yml:4:13: `detach` is a number",
        ),
        ("steps: [{name: ${UNKNOWN:-a}, image: x, detach: 3}]\n", "build.yml:1:49: `detach` is a number"),
        ("steps: [{name: a$$b${UNKNOWN}, image: x, detach: 3}]\n", "build.yml:1:50: `detach` is a number"),
        ("steps: [{name: a, image: x, detach: ${CI_COMMIT_SHA}}]\n", "build.yml:1:37: `detach` is a number"),
        ("steps: [{name: ${CI_COMMIT_SHA}, image: *x}]\n", "build.yml:1:41: no anchor `x`"),
        (
            "variables: [ä${CI_COMMIT_SHA}]\nx-a: [${CI_COMMIT_SHA}, !mine x]\nsteps: [{name: a, image: x}]\n",
            "build.yml:2:25: the tag `!mine` means nothing here",
        ),
        (
            "steps: [{name: ${CI_COMMIT_SHA}, image: x, when: {evaluate: '+'}}]\n",
            "build.yml:1:63: `evaluate`: the expression ends",
        ),
    ] {
        let said = planned_findings(text);
        assert!(said.len() == 1 && said[0].starts_with(says), "{text}: {said:#?}");
    }
}

#[test]
fn a_secret_has_a_name() {
    for (key, begins) in [("environment", "4:40"), ("settings", "4:37")] {
        for (wrong, is) in [("3", "a number"), ("[x]", "a list"), ("{a: b}", "a mapping"), ("true", "a flag")]
        {
            let text = format!("{key}: {{TOKEN: {{from_secret: {wrong}}}}}");
            let says = format!("`from_secret` is {is}, but takes the name of a secret");
            step(&text, &format!("{begins} error pipeline-secret"), &says);
        }
    }
    step("settings: {a: [{b: {from_secret: 3}}]}", "4:38 error pipeline-secret", "is a number");
    for unnamed in ["~", "", "''", "${UNKNOWN}", "'${UNKNOWN}'"] {
        let text = |when: &str| {
            format!("steps: [{{name: a, image: x, {when}settings: {{token: {{from_secret: {unnamed}}}}}}}]\n")
        };
        let said = planned_findings(&text(""));
        let says = "build.yml:1:40: step `a`: `from_secret` has no name of a secret; write it there";
        assert_eq!(said, [says], "{unnamed}");
        assert_eq!(planned_findings(&text("when: {event: tag}, ")), [""; 0], "who does not run asks nothing");
    }
}

#[test]
fn a_variable_has_a_name() {
    step("environment: {'A=B': c}", "4:19 error pipeline-name", "`A=B` is not the name of a variable");
    step("environment: {'': c}", "4:19 warning pipeline-name", "a variable without a name is passed over");
}

#[test]
fn steps_of_other_workflows_are_not_waited_for() {
    step(
        "depends_on: [{workflow: aux, step: r, optional: true}]",
        "4:18 warning pipeline-dependency",
        "dependencies on steps of other workflows are not read: this optional one is passed over",
    );
    step(
        "depends_on: {workflow: aux, step: r}",
        "4:17 error pipeline-dependency",
        "dependencies on steps of other workflows are not read: let the whole workflow depend on the other one",
    );
}

#[test]
fn too_many_services_are_told_where_they_stand() {
    let services: String = (0..51).map(|at| format!("  s{at}: {{image: x}}\n")).collect();
    one(
        &format!("steps: {{a: {{image: x}}}}\nservices:\n{services}"),
        "3:3 error pipeline-size",
        "the file has 51 services, more than 50",
    );
}

#[test]
fn two_files_of_one_name_are_named() {
    let run = "steps: [{name: a, image: x}]\n";
    let said = |files: &[(&str, &str)]| -> Vec<String> {
        planned(files, &facts()).findings.iter().map(ToString::to_string).collect()
    };
    for other in [".mergeyard/a.yml", ".mergeyard/.a.yaml"] {
        let matrix = format!("matrix: {{A: [1, 2]}}\n{run}");
        assert_eq!(
            said(&[(".mergeyard/a.yaml", run), (other, &matrix)]),
            [format!(
                "{other}: `.mergeyard/a.yaml` is a workflow `a` too: neither `depends_on` nor statuses tell them apart, \
                 rename one"
            )]
        );
    }
    assert_eq!(
        said(&[(".mergeyard/a.yml", run), (".woodpecker/a.yml", run)]),
        [""; 0],
        "one of the two is read"
    );
}
