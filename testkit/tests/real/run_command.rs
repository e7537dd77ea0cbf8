//! `mergeyard run` and `mergeyard plan` on working trees, as somebody types them: what they see, what
//! they say, how they exit, and that nothing is left afterwards.

use std::{path::Path, process::ExitStatus};

use mergeyard_server::sample::payload;
use mergeyard_testkit::process::{self, Process, Said, Signal, tool};
use serde_json::Value;
use tempfile::TempDir;

use super::{RealYard, engine, left_in_engine, list_of, text};

/// Says which mergeyard's volume the workspace is, so that a test can ask for what is left of it.
const WHOSE: &str = "sed -n 's|.*volumes/mergeyard-\\([0-9a-f]*\\)-w.*|owner \\1|p' /proc/self/mountinfo";

/// A working tree with a history, and a folder for whatever a command keeps meanwhile.
struct WorkingTree {
    folder: TempDir,
    temporary: TempDir,
}

impl WorkingTree {
    /// All of `files` committed.
    async fn with(files: &[(&str, &str)]) -> Self {
        let tree = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            temporary: tempfile::tempdir().expect("a temporary folder"),
        };
        tree.git(&["init", "-q", "-b", "main"]).await;
        for (path, content) in files {
            tree.write(path, content);
        }
        tree.git(&["add", "-A"]).await;
        let author = ["-c", "user.name=robin", "-c", "user.email=robin@example.org"];
        tree.git(&[&author[..], &["commit", "-q", "-m", "Begin"]].concat()).await;
        tree
    }

    async fn git(&self, arguments: &[&str]) {
        process::run(tool("git").arg("-C").arg(self.path()).args(arguments)).await.good();
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(path, content).expect("the folder can be written");
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, command: &str, arguments: &[&str]) -> tokio::process::Command {
        let mut program = process::mergeyard();
        program.env("TMPDIR", self.temporary.path()).arg(command).arg(self.path()).args(arguments);
        if command == "run" && !arguments.contains(&"--engine") {
            program.args(["--engine", &engine()]);
        }
        program
    }

    async fn run(&self, arguments: &[&str]) -> Said {
        let said = process::run(&mut self.command("run", arguments)).await;
        self.is_clean();
        said
    }

    async fn plan(&self, arguments: &[&str]) -> Said {
        let said = process::run(&mut self.command("plan", arguments)).await;
        self.is_clean();
        said
    }

    /// One document and no word beside it, whatever came of it.
    async fn run_for_json(&self, arguments: &[&str]) -> (ExitStatus, Value) {
        let said = self.run(&[arguments, &["--format", "json"]].concat()).await;
        (said.status, serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}")))
    }

    fn is_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.temporary.path()).expect("a folder").flatten().collect();
        assert!(left.is_empty(), "the command left {left:?}");
    }
}

/// `workflow status`, and below it `step status exit-code`.
fn told(document: &Value) -> String {
    let mut told = format!("{}\n", text(&document["status"]));
    for workflow in list_of(&document["workflows"]) {
        told += &format!("{} {}\n", text(&workflow["name"]), text(&workflow["status"]));
        for step in list_of(&workflow["steps"]) {
            told += &format!("  {} {} {}\n", text(&step["name"]), text(&step["status"]), step["exit_code"]);
        }
    }
    told
}

fn owner(said: &str) -> &str {
    said.split_once("owner ").and_then(|(_, rest)| rest.get(..32)).unwrap_or_else(|| panic!("{said}"))
}

#[tokio::test]
async fn a_working_tree_runs_as_it_lies_there_and_nothing_is_left_of_it() {
    let check = format!(
        "when: {{event: [push, pull_request_merged]}}
steps:
  - name: look
    image: debian:bookworm-slim
    commands:
      - cat kept new
      - test ! -e ignored && test ! -e gone
      - echo event=$CI_PIPELINE_EVENT
      - {WHOSE}
    cache: [/var/cache/look]
"
    );
    let tree = WorkingTree::with(&[
        (".mergeyard/check.yml", &check),
        (".gitignore", "ignored\n"),
        ("kept", "one\n"),
        ("gone", "one\n"),
    ])
    .await;
    tree.write("kept", "two\n");
    tree.write("new", "three\n");
    tree.write("ignored", "hunter2\n");
    std::fs::remove_file(tree.path().join("gone")).expect("it is there");

    let said = tree.run(&[]).await.good();
    assert!(said.contains("with what is not committed, event push"), "{said}");
    assert!(said.contains("check look | two\n") && said.contains("check look | three\n"), "{said}");
    assert!(said.contains("check look | event=push\n") && said.contains("\nsuccess in "), "{said}");
    assert!(!said.contains('\x1b'), "no colour where nobody sees it: {said}");
    assert_eq!(left_in_engine(owner(&said)).await, "");

    let said = tree.run(&["--event", "pull_request_merged"]).await.good();
    assert!(said.contains("check look | event=pull_request_merged\n"), "{said}");
    let (status, document) = tree.run_for_json(&[]).await;
    assert!(status.success());
    assert_eq!(told(&document), "success\ncheck success\n  clone success 0\n  look success 0\n");
}

#[tokio::test]
async fn a_failure_is_told_with_its_exit_code_and_one_workflow_can_be_chosen() {
    let workflow = |needs: &str, command: &str| {
        format!(
            "{needs}steps:\n  - {{name: work, image: 'debian:bookworm-slim', commands: ['{command}']}}\n  \
             - {{name: after, image: 'debian:bookworm-slim', commands: ['true']}}\n"
        )
    };
    let tree = WorkingTree::with(&[
        (".mergeyard/base.yml", &workflow("", "true")),
        (".mergeyard/broken.yml", &workflow("", "exit 3")),
        (".mergeyard/top.yml", &workflow("depends_on: [base]\n", "true")),
    ])
    .await;
    let (status, document) = tree.run_for_json(&["--workflow", "broken"]).await;
    assert_eq!(status.code(), Some(1));
    let expected = "failure\nbroken failure\n  clone success 0\n  work failure 3\n  after skipped null\n";
    assert_eq!(told(&document), expected);

    let (status, document) = tree.run_for_json(&["--workflow", "top"]).await;
    assert!(status.success(), "{document:#}");
    let good = "  clone success 0\n  work success 0\n  after success 0\n";
    assert_eq!(told(&document), format!("success\nbase success\n{good}top success\n{good}"));

    let said = tree.run(&["--workflow", "tpo"]).await;
    let said = said.failed(2);
    assert!(said.contains("`tpo`") && said.contains("top"), "{said}");
}

#[tokio::test]
async fn secrets_are_masked_and_gates_open_for_who_names_them() {
    let ship = "steps:
  - name: ship
    image: debian:bookworm-slim
    approve: production
    commands: ['echo token: $TOKEN']
    environment: {TOKEN: {from_secret: ship_token}}
";
    let tree = WorkingTree::with(&[(".mergeyard/ship.yml", ship)]).await;
    let with_secret = async |arguments: &[&str]| {
        let mut command = tree.command("run", &[&["--secret", "ship_token"], arguments].concat());
        process::run(command.env("SHIP_TOKEN", "hunter2-hunter2")).await
    };
    let said = with_secret(&["--approve", "production"]).await.good();
    assert!(said.contains("ship ship | token: ") && !said.contains("hunter2"), "{said}");

    let refused = with_secret(&[]).await;
    let told = refused.stdout.clone();
    refused.failed(1);
    assert!(told.contains("ship/ship waits for `production`"), "{told}");
    assert!(told.contains("give --approve production") && !told.contains("token: "), "{told}");

    let missing = tree.run(&["--secret", "ship_token"]).await.failed(2);
    assert!(missing.contains("SHIP_TOKEN, which is not set"), "{missing}");
    tree.is_clean();
}

#[tokio::test]
async fn without_an_engine_a_run_says_what_to_do_before_it_begins() {
    let step = "steps: [{name: a, image: 'debian:bookworm-slim', commands: ['true']}]\n";
    let tree = WorkingTree::with(&[(".mergeyard.yml", step)]).await;
    let begun = std::time::Instant::now();
    let said = tree.run(&["--engine", "unix:///nowhere/docker.sock"]).await;
    assert_eq!(said.stdout, "");
    let error = said.failed(1);
    for part in ["unix:///nowhere/docker.sock", "start it", "--engine", "mergeyard plan"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(begun.elapsed().as_secs() < 10, "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn an_interrupted_run_leaves_no_container_network_or_volume() {
    let slow = format!(
        "services:
  - {{name: beside, image: 'debian:bookworm-slim', commands: [sleep 600]}}
steps:
  - name: slow
    image: debian:bookworm-slim
    commands: [\"{}\", sleep 600]
    cache: [/var/cache/slow]
",
        WHOSE.replace('\\', "\\\\")
    );
    let tree = WorkingTree::with(&[(".mergeyard/slow.yml", &slow)]).await;
    for signal in [Signal::INT, Signal::TERM] {
        let mut running = Process::start("mergeyard run", &mut tree.command("run", &[]));
        let line = running.says("slow slow | owner ").await;
        running.says("slow slow | + sleep 600").await;
        let owner = owner(&line).to_owned();
        assert_ne!(left_in_engine(&owner).await, "");
        running.signal(signal);
        let status = running.ended().await;
        let said = running.said();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("slow cancelled: interrupted"), "{said}");
        assert_eq!(left_in_engine(&owner).await, "", "{said}");
        tree.is_clean();
    }
}

/// What the operator's machine has is not known where a plan is read, and is no reason to have none.
#[tokio::test]
async fn a_plan_knows_what_changed_and_asks_for_no_secret() {
    let paths = "steps:\n  - {name: code, image: x, commands: [make], when: {path: 'src/**'}}\n  \
                 - {name: docs, image: x, settings: {password: {from_secret: of_the_server}}, when: {path: 'docs/**'}}\n";
    let matrix = "matrix: {A: [1, 2]}\nsteps: [{name: a, image: x, commands: [make]}]\n";
    let tree = WorkingTree::with(&[(".mergeyard/paths.yml", paths), (".mergeyard/many.yml", matrix)]).await;
    tree.write("docs/new", "not committed yet");
    // What lies within another repository is not this one's.
    tree.write("vendored/docs/new", "new");
    process::run(tool("git").args(["init", "-q"]).arg(tree.path().join("vendored"))).await.good();
    for event in ["push", "pull_request"] {
        let said = tree.plan(&["--event", event]).await.good();
        assert!(said.contains("skip code") && said.contains("what changed is `docs/new`"), "{said}");
        assert!(said.contains("run  docs"), "{said}");
    }
    let rules = tree.temporary.path().with_extension("toml");
    std::fs::write(&rules, "[pipelines]\nmatrix_limit = 1\n").unwrap();
    let said = tree.plan(&["--config", rules.to_str().unwrap()]).await;
    assert!(said.stdout.contains("2 points, more than 1"), "{said}");
    said.failed(1);
    std::fs::remove_file(&rules).unwrap();
}

#[tokio::test]
async fn what_cannot_run_is_said_with_its_place() {
    let good = "steps: [{name: a, image: 'debian:bookworm-slim', commands: ['true']}]\n";
    let files = [
        (".mergeyard/broken.yml", "steps:\n  - name: a\n    commands: [make]\n"),
        (".mergeyard/good.yml", good),
    ];
    let tree = WorkingTree::with(&files).await;
    for said in [tree.run(&[]).await, tree.plan(&[]).await] {
        let told = said.stdout.clone() + &said.stderr;
        said.failed(1);
        assert!(told.contains(".mergeyard/broken.yml:2:") && told.contains("2 |   - name: a\n"), "{told}");
        assert!(told.contains("`image`"), "{told}");
    }
    let (status, document) = tree.run_for_json(&[]).await;
    assert_eq!(status.code(), Some(1));
    assert!(told(&document).contains("good success\n"), "the other file is none the worse: {document:#}");

    // Woodpecker passes over what it does not know, and so it only warns; but it is said.
    let passed_over = good.replace("commands", "commnads: [make], commands");
    let tree = WorkingTree::with(&[(".mergeyard/odd.yml", &passed_over)]).await;
    for said in [tree.run(&[]).await, tree.plan(&[]).await] {
        assert!(said.status.success() && said.to_string().contains("did you mean `commands`"), "{said}");
    }

    let tagged = "when: {event: tag}\nsteps: [{name: a, image: 'debian:bookworm-slim', commands: [make]}]\n";
    let tree = WorkingTree::with(&[(".mergeyard/tagged.yml", tagged)]).await;
    let said = tree.run(&[]).await.good();
    assert!(said.contains("nothing to run: ") && said.contains("tag"), "{said}");
    let (status, document) = tree.run_for_json(&[]).await;
    assert!(status.success());
    assert_eq!(told_status(&document), "skipped");

    let nowhere = process::run(process::mergeyard().args(["run", "/nowhere"])).await;
    assert!(nowhere.failed(2).contains("/nowhere"));
    let unknown = tree.run(&["--event", "pull"]).await.failed(2);
    assert!(unknown.contains("pull"), "{unknown}");
}

fn told_status(document: &Value) -> &str {
    assert_eq!(document["workflows"], Value::Array(Vec::new()));
    text(&document["status"])
}

#[tokio::test]
async fn without_pipeline_files_the_built_in_pipeline_is_what_is_told_about() {
    // No image that anybody else left has this name.
    let name = format!("web-{}", uuid::Uuid::new_v4().simple());
    let spec = format!(r#"{{"service":{{"name":"{name}","version":"0.1.0"}}}}"#);
    let service = [
        ("web/Dockerfile", "FROM scratch\nCOPY content /content\n"),
        ("web/spec.json", spec.as_str()),
        ("web/content", "content"),
    ];
    let tree = WorkingTree::with(&service).await;
    let merge = RealYard::stopped(super::service("web", "0.1.0", "content"), |_| {}).await;
    let payload = tree.temporary.path().with_extension("json");
    let push = payload::push(&merge.sample.hosted(), &merge.first);
    std::fs::write(&payload, push.to_string()).expect("the folder can be written");
    let said = tree.plan(&["--payload", &payload.to_string_lossy()]).await.good();
    std::fs::remove_file(&payload).expect("it is there");
    assert!(said.contains("nothing would run: ") && said.contains("has no pipeline files"), "{said}");
    let empty = WorkingTree::with(&[("README.md", "nothing\n")]).await;
    let said = empty.run(&[]).await.good();
    assert!(said.contains("nothing to run: "), "{said}");
    assert!(empty.plan(&[]).await.good().contains("nothing would run: "));

    let said = tree.plan(&["--event", "pull_request_merged", "--format", "json"]).await.good();
    let plan: Value = serde_json::from_str(&said).expect("JSON");
    let [workflow] = list_of(&plan["workflows"]) else { panic!("{plan:#}") };
    assert_eq!((text(&workflow["name"]), text(&workflow["verdict"])), ("image", "run"));
    let (status, document) = tree.run_for_json(&["--event", "pull_request_merged"]).await;
    assert!(status.success(), "{document:#}");
    assert_eq!(told(&document), "success\nimage success\n  image success 0\n");
    let images = process::run(tool("docker").args(["images", "--format", "{{.Repository}}"])).await.good();
    assert!(!images.contains(&name), "{images}");
}

#[tokio::test]
async fn a_payload_is_planned_on_the_files_that_lie_here() {
    let step = "steps: [{name: a, image: 'debian:bookworm-slim', commands: [make], approve: production}]\n";
    let tree = WorkingTree::with(&[
        (".mergeyard/change.yml", &format!("when: {{event: pull_request}}\n{step}")),
        (".mergeyard/pushed.yml", &format!("when: {{event: push}}\n{step}")),
    ])
    .await;
    let yard = RealYard::stopped(super::service("web", "0.1.0", "payload"), |_| {}).await;
    let (hosted, merge) = (yard.sample.hosted(), &yard.first);
    let payloads = [
        ("pull_request", payload::open_pull_request(&hosted, merge, "opened"), "change"),
        ("push", payload::push(&hosted, merge), "pushed"),
    ];
    for (event, payload, runs) in payloads {
        let file = tree.temporary.path().with_extension("json");
        std::fs::write(&file, payload.to_string()).expect("the folder can be written");
        let file_name = file.to_string_lossy().into_owned();
        let said = tree.plan(&["--payload", &file_name, "--format", "json"]).await.good();
        std::fs::remove_file(&file).expect("it is there");
        let plan: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(plan["event"], event);
        for workflow in list_of(&plan["workflows"]) {
            let expected =
                if workflow["name"] == runs { ["run", "run", "wait"] } else { ["skip", "skip", "skip"] };
            assert_eq!(text(&workflow["verdict"]), expected[0], "{plan:#}");
            assert_ne!(text(&workflow["why"]), "");
            let last = list_of(&workflow["steps"]).last().expect("steps");
            assert_eq!(text(&last["verdict"]), expected[2], "{plan:#}");
            assert!(last["depends_on"].is_array() && last["why"].is_string(), "{plan:#}");
        }
    }
    for (content, says) in [("{}", "none of the payloads"), ("{", "line 1"), ("", "line 1")] {
        let file = tree.temporary.path().with_extension("json");
        std::fs::write(&file, content).expect("the folder can be written");
        let said = tree.plan(&["--payload", &file.to_string_lossy()]).await.failed(2);
        std::fs::remove_file(&file).expect("it is there");
        assert!(said.contains(says) && said.contains(".json"), "{said}");
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let first = async |mut command: tokio::process::Command| {
        let program = command.as_std_mut();
        let mut line = tool("sh");
        line.args(["-c", "\"$@\" | head -n 1", "sh"]).arg(program.get_program()).args(program.get_args());
        line.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        process::run(&mut line).await
    };
    let mut schema = process::mergeyard();
    schema.arg("schema");
    let said = first(schema).await;
    assert_eq!((said.stdout.trim(), said.stderr.as_str()), ("{", ""), "{said}");

    // A run goes on to its end, because what it made has to be removed.
    let step = "steps: [{name: a, image: 'debian:bookworm-slim', commands: [seq 1 20000]}]\n";
    let tree = WorkingTree::with(&[(".mergeyard.yml", step)]).await;
    let said = first(tree.command("run", &[])).await;
    assert!(said.stdout.contains("event push") && said.stderr.is_empty(), "{said}");
    tree.is_clean();
}
