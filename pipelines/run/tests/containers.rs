//! Steps as containers on the real engine.

#[path = "support/registry.rs"]
mod registry;
#[path = "support/steps.rs"]
mod steps;
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::query_parameters::TagImageOptionsBuilder;

use mergeyard_plan::{
    action::{Action, Cache, ContainerAction},
    spec::{Probe, Ready},
};
use mergeyard_run::{
    engine::{Engine, RegistryCredentials},
    executor::{Docker, Executor, StepJob, StepNetwork, StepOutcome},
    git::{GitCache, GitLimits},
    log::{LogSink, Masker},
};
use mergeyard_types::{Secret, StepId, WorkflowId};
use registry::Registry;
use steps::{MINUTE, Running, Steps, container, exited, failure, killed, left_of, live, success};
use support::{FILE, PROGRAM, SUBMODULE, SYMLINK, bare, commit};

fn with(job: StepJob, change: impl FnOnce(&mut ContainerAction)) -> StepJob {
    let Action::Container(mut action) = job.action else { panic!("not a container") };
    change(&mut action);
    StepJob { action: Action::Container(action), ..job }
}

fn service(steps: &Steps, name: &str, commands: &[&str], ready: Option<Probe>) -> StepJob {
    let mut action = container(commands);
    action.ready = ready.map(|probe| Ready { probe, timeout: Duration::from_secs(20) });
    StepJob { detached: true, ..steps.job(name, Action::Container(Box::new(action))) }
}

/// Whether a process with exactly these words runs anywhere on this machine.
fn runs(command: &str) -> bool {
    let wanted: Vec<u8> = command.replace(' ', "\0").into_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .any(|line| line.starts_with(&wanted))
}

/// Only one test sleeps for exactly so long.
fn sleep() -> String {
    let seconds = u32::from_str_radix(&steps::fresh()[..6], 16).unwrap() + 100_000;
    format!("sleep {seconds}")
}

#[tokio::test]
async fn commands_run_where_and_as_whom_the_documentation_says() {
    let steps = Steps::new();
    let said = steps
        .said(&[
            "pwd",
            "echo $HOME $SHELL $CI_WORKSPACE",
            "id -u",
            "echo [$CI_SCRIPT$CI_NETRC_MACHINE]",
            "ls -A",
        ])
        .await;
    let here = steps::CHECKOUT;
    assert_eq!(said, [here, &format!("/root /bin/sh {here}"), "0", "[]"]);
    let (outcome, said) = steps.run(steps.commands(&["echo one", "exit 3", "echo two"])).await;
    assert_eq!(outcome, exited(3));
    assert_eq!(said, ["+ echo one", "one", "+ exit 3"]);
    steps.end().await;
}

#[tokio::test]
async fn what_one_step_writes_the_next_one_finds_and_outputs_are_handed_on() {
    let steps = Steps::new();
    steps.said(&["echo content > file", "umask 077; mkdir made"]).await;
    assert_eq!(steps.said(&["cat file", "ls"]).await, ["content", "file", "made"]);
    let job =
        with(steps.commands(&["echo version=1.2 >> $CI_OUTPUT", "echo other=x >> $CI_OUTPUT"]), |action| {
            action.outputs = vec!["version".to_owned()];
        });
    let (outcome, said) = steps.run(job).await;
    let StepOutcome::Success { outputs } = outcome else { panic!("{outcome:?} {said:?}") };
    assert_eq!((outputs["version"].as_str(), outputs["other"].as_str()), ("1.2", "x"));
    assert_eq!(steps.said(&["ls"]).await, ["file", "made"], "outputs are beside the checkout");
    // Of a user without rights to the workspace, too.
    let job = with(steps.commands(&["id -u", "echo a=b >> $CI_OUTPUT"]), |action| {
        action.user = Some("nobody".to_owned())
    });
    let (outcome, said) = steps.run(job).await;
    assert!(
        matches!(&outcome, StepOutcome::Success { outputs } if outputs["a"] == "b"),
        "{outcome:?} {said:?}"
    );
    for (line, why) in [("hello", "line 1 of $CI_OUTPUT"), ("a=hunter22", "has a secret in it")] {
        let mut job = steps.commands(&[&format!("echo {line} >> $CI_OUTPUT")]);
        job.masked = vec![Secret::new("hunter22")];
        let (outcome, _) = steps.run(job).await;
        assert!(matches!(&outcome, StepOutcome::Failure { message } if message.contains(why)), "{outcome:?}");
    }
    steps.end().await;
}

#[tokio::test]
async fn a_plugin_runs_what_its_image_says_and_an_entrypoint_gets_the_script() {
    let steps = Steps::new();
    let mut job = with(steps.commands(&[]), |action| action.plugin = true);
    job.environment = vec![("PLUGIN_TEXT".to_owned(), "x".to_owned())];
    // The image's own command is a shell that finds no input.
    assert_eq!(steps.run(job).await, (success(), Vec::new()));
    let job = with(steps.commands(&["echo $0", "echo ${BASH_VERSION:0:1}"]), |action| {
        let script = "echo $CI_SCRIPT | base64 -d | /bin/bash -e";
        action.entrypoint = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    });
    assert_eq!(steps.said_by(job).await, ["/bin/bash", "5"]);
    let job = with(steps.commands(&[]), |action| {
        action.entrypoint = ["/bin/sh", "-c", "echo out; echo err >&2; exit 4"].map(str::to_owned).to_vec();
    });
    let (outcome, mut said) = steps.run(job).await;
    said.sort();
    assert_eq!((outcome, said), (exited(4), vec!["err".to_owned(), "out".to_owned()]));
    steps.end().await;
}

#[tokio::test]
async fn what_cannot_start_is_said_in_words() {
    let steps = Steps::new();
    let empty = format!("mergeyard-test-{}:1", steps::fresh());
    let options = bollard::query_parameters::CreateImageOptionsBuilder::new().from_src("-");
    let (repo, tag) = empty.split_once(':').unwrap();
    let options = options.repo(repo).tag(tag).build();
    let nothing = bollard::body_full(vec![0; 1024].into());
    let docker = steps::docker();
    futures_util::TryStreamExt::try_collect::<Vec<_>>(docker.create_image(
        Some(options),
        Some(nothing),
        None,
    ))
    .await
    .unwrap();
    let job = with(steps.commands(&["true"]), |action| action.image = empty.clone());
    let (outcome, _) = steps.run(job).await;
    let why = format!(
        "the image `{empty}` has no /bin/sh, which `commands` need: use an image with a shell, or `entrypoint`; exit code 127"
    );
    assert_eq!(outcome, killed(127, &why));
    let job = with(steps.commands(&[]), |action| action.entrypoint = vec!["no-such".to_owned()]);
    let why = "the image `debian:bookworm-slim` has no program `no-such`; exit code 127";
    assert_eq!(steps.run(job).await.0, killed(127, why));
    let job = with(steps.commands(&["true"]), |action| action.user = Some("nobody-knows-them".to_owned()));
    let (outcome, _) = steps.run(job).await;
    assert!(
        matches!(&outcome, StepOutcome::Failure { message } if message.contains("nobody-knows-them")),
        "{outcome:?}"
    );
    let job = with(steps.commands(&["true"]), |action| action.image = "Not An Image".to_owned());
    let (outcome, _) = steps.run(job).await;
    assert!(matches!(outcome, StepOutcome::Failure { .. }), "{outcome:?}");
    let job = with(steps.commands(&["true"]), |action| action.image = "127.0.0.1:1/nobody:1".to_owned());
    let (outcome, _) = steps.run(job).await;
    assert!(matches!(outcome, StepOutcome::Error { retry: true, .. }), "{outcome:?}");
    steps.end().await;
    Engine::at(&steps::host()).remove_image(&empty).await.unwrap();
}

#[tokio::test]
async fn a_commit_becomes_a_working_copy_that_git_agrees_with() {
    let steps = Steps::new();
    let up = bare(&steps.dir.path().join("up.git"));
    commit(&up, "feature/x", &[("old", FILE, b"old")]);
    let long = format!("{}/deep", "long-name".repeat(20));
    let sha = commit(
        &up,
        "feature/x",
        &[
            ("a.txt", FILE, b"content\n"),
            ("run.sh", PROGRAM, b"#!/bin/sh\necho ran\n"),
            ("link", SYMLINK, b"a.txt"),
            ("out", SYMLINK, b"/etc/passwd"),
            ("sub", SUBMODULE, b""),
            (".gitmodules", FILE, b"[submodule \"sub\"]\n\tpath = sub\n\turl = ../sub.git\n"),
            (".gitattributes", FILE, b"*.bin filter=lfs diff=lfs merge=lfs -text\n"),
            (".dockerignore", FILE, b"*\n"),
            (&long, FILE, b"x"),
        ],
    );
    let (outcome, said) = steps.run(steps.clone_of(sha, "feature/x", Some(1), false)).await;
    assert_eq!(outcome, success());
    for left_out in ["submodules are not fetched", "files of Git LFS are not fetched"] {
        assert!(said.iter().any(|line| line.contains(left_out)), "{said:?}");
    }
    let said = steps
        .said(&[
            "cat a.txt",
            "./run.sh",
            "readlink link out",
            "stat -c '%u:%g %a' a.txt run.sh .git",
            "ls -d sub long*/deep",
        ])
        .await;
    let expected = ["content", "ran", "a.txt", "/etc/passwd", "0:0 644", "0:0 755", "0:0 755", &long, "sub"];
    assert_eq!(said, expected);
    // The image has no git; ours looks at the copy that a step hands out.
    let copy = handed_out(&steps).await;
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).current_dir(&copy).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(git(&["rev-parse", "HEAD"]), sha.to_string());
    assert_eq!(git(&["symbolic-ref", "HEAD"]), "refs/heads/feature/x");
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["fsck", "--strict"]), "");
    assert_eq!(git(&["log", "--format=%H"]), sha.to_string(), "one commit deep");
    assert_eq!(
        git(&["remote", "get-url", "origin"]),
        steps.clone_of(sha, "x", None, false).remote.url.as_str()
    );
    steps.end().await;
}

/// The checkout, fetched out of its volume onto this machine.
async fn handed_out(steps: &Steps) -> std::path::PathBuf {
    let mut holder = steps.commands(&["true"]);
    holder.step = StepId(9_000_000 + i64::from(steps::fresh().as_bytes()[0]));
    let name = format!("/mergeyard-{}-w1-s{}-a1", steps.owner, holder.step);
    steps.said_by(holder).await;
    let options =
        bollard::query_parameters::DownloadFromContainerOptionsBuilder::new().path(steps::CHECKOUT).build();
    let docker = steps::docker();
    let chunks = docker.download_from_container(name.trim_start_matches('/'), Some(options));
    let archive = futures_util::TryStreamExt::try_collect::<Vec<_>>(chunks).await.unwrap().concat();
    let to = steps.dir.path().join(steps::fresh());
    tar::Archive::new(archive.as_slice()).unpack(&to).unwrap();
    to.join("clock")
}

#[tokio::test]
async fn a_clone_has_the_history_and_the_tags_that_were_asked_for() {
    let steps = Steps::new();
    let up = bare(&steps.dir.path().join("up.git"));
    let shas: Vec<_> = (0..4u8).map(|i| commit(&up, "main", &[("n", FILE, &[i])])).collect();
    let first = up.revparse_single(&shas[0].to_string()).unwrap();
    up.tag_lightweight("v1", &first, false).unwrap();
    for (depth, tags, commits) in
        [(Some(1), false, 1), (Some(3), false, 3), (None, true, 4), (Some(2), true, 2)]
    {
        assert_eq!(steps.run(steps.clone_of(shas[3], "main", depth, tags)).await.0, success(), "{depth:?}");
        let copy = handed_out(&steps).await;
        let git = git2::Repository::open(&copy).unwrap();
        let mut walk = git.revwalk().unwrap();
        walk.push_head().unwrap();
        assert_eq!(walk.count(), commits, "{depth:?}");
        assert_eq!(git.find_reference("refs/tags/v1").is_ok(), tags);
        steps.executor.end_workflow(steps.workflow()).await.unwrap();
    }
    steps.end().await;
}

#[tokio::test]
async fn a_service_is_reached_by_its_name_once_it_is_ready_and_stays_until_it_is_stopped() {
    let steps = Steps::new();
    let serve = "perl -MIO::Socket::INET -e 'sleep 1; $s = IO::Socket::INET->new(LocalPort => 5432, Listen => 5, ReuseAddr => 1) or die; while ($c = $s->accept) { print $c \"hello\\n\"; close $c }'";
    let database = service(&steps, "database", &[serve], Some(Probe::Port(5432)));
    let database = Running::start(&steps.executor, database);
    let told = service(
        &steps,
        "told",
        &["sleep 1; touch /tmp/up; sleep 99999"],
        Some(Probe::Command(["test", "-e", "/tmp/up"].map(str::to_owned).to_vec())),
    );
    let told = Running::start(&steps.executor, told);
    let plain = Running::start(&steps.executor, service(&steps, "plain", &["sleep 99999"], None));
    for running in [&database, &told, &plain] {
        tokio::time::timeout(MINUTE, running.ready.notified()).await.unwrap();
    }
    let read = "perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(\"database:5432\")->getline'";
    assert_eq!(steps.said(&[read]).await, ["hello"]);
    database.cancel.cancel();
    assert_eq!(database.end().await.0, StepOutcome::Cancelled);
    steps.executor.end_workflow(steps.workflow()).await.unwrap();
    assert_eq!(told.end().await.0, success(), "its workflow ended");
    assert_eq!(plain.end().await.0, success(), "its workflow ended");
    steps.end().await;
}

#[tokio::test]
async fn a_service_that_never_gets_ready_or_ends_early_says_why() {
    let steps = Steps::new();
    let mut never = service(&steps, "db", &["sleep 99999"], None);
    never = with(never, |action| {
        action.ready = Some(Ready { probe: Probe::Port(1), timeout: Duration::from_millis(600) })
    });
    let (outcome, _) = steps.run(never).await;
    assert_eq!(outcome, failure("`db` was not ready within 0.6s: nothing accepts connections on port 1"));
    let dead = service(&steps, "dead", &["exit 5"], Some(Probe::Port(1)));
    assert_eq!(steps.run(dead).await.0, exited(5));
    steps.end().await;
}

#[tokio::test]
async fn a_step_that_takes_too_much_dies_and_says_of_what() {
    let steps = Steps::with(|docker| {
        docker.containers.memory_bytes = Some(64 << 20);
        docker.containers.processes = 64;
        docker.containers.output_bytes = 4 << 20;
    });
    let (outcome, said) = steps.run(steps.commands(&["tail /dev/zero"])).await;
    assert_eq!(outcome, killed(137, "killed: out of memory, the limit is 64 MiB; exit code 137"), "{said:?}");
    let mut bomb = steps.commands(&["b() { b | b & b; }; b"]);
    bomb.timeout = Duration::from_secs(20);
    let (outcome, said) = steps.run(bomb).await;
    assert!(matches!(outcome, StepOutcome::Failure { .. } | StepOutcome::Exited { .. }), "{outcome:?}");
    assert!(said.iter().any(|line| line.contains("fork")), "{said:?}");
    let endless = format!("yes {}", steps::fresh());
    let (outcome, _) = steps.run(steps.commands(&[&endless])).await;
    assert_eq!(outcome, failure("stopped: it wrote more than 4 MiB of output"));
    assert!(!runs(&endless));
    let disk = |command: &str| {
        with(steps.commands(&[command]), |action| action.tmpfs = vec!["/disk:size=1m".to_owned()])
    };
    let (outcome, said) = steps.run(disk("dd if=/dev/zero of=/disk/all bs=64k; echo never")).await;
    assert!(matches!(outcome, StepOutcome::Exited { code: 1, .. }), "{outcome:?}");
    assert!(said.iter().any(|line| line.contains("No space left on device")), "{said:?}");
    assert!(!said.iter().any(|line| line == "never"), "{said:?}");
    assert_eq!(steps.said_by(disk("ls /disk; echo next")).await, ["next"]);
    steps.end().await;
}

#[tokio::test]
async fn a_step_may_do_what_a_package_manager_does_and_nothing_to_the_machine() {
    let steps = Steps::new();
    let said = steps
        .said(&[
            "touch /f; chown nobody:nogroup /f; chmod 4755 /f; stat -c '%U %a' /f",
            "su nobody -s /bin/sh -c 'id -un'",
            "mknod /dev/x b 8 0 2>/dev/null || echo no device",
            "mount -t tmpfs x /mnt 2>/dev/null || echo no mount",
            "grep -h NoNewPrivs /proc/self/status | tr -d '\\t'",
            "test ! -e /var/run/docker.sock && echo no socket",
            "cat /proc/1/comm",
        ])
        .await;
    let expected =
        ["nobody 4755", "nobody", "no device", "no mount", "NoNewPrivs:1", "no socket", "docker-init"];
    assert_eq!(said, expected);
    steps.end().await;
}

#[tokio::test]
async fn a_workflow_without_an_outside_reaches_its_services_and_nothing_else() {
    let steps = Steps::with(|docker| docker.step_network = StepNetwork::Internal);
    let web = service(
        &steps,
        "web",
        &[
            "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 80, Listen => 5); $s->accept while 1'",
        ],
        Some(Probe::Port(80)),
    );
    let web = Running::start(&steps.executor, web);
    tokio::time::timeout(MINUTE, web.ready.notified()).await.unwrap();
    let reach = |host: &str| {
        format!("timeout 3 bash -c ': </dev/tcp/{host}/80' 2>/dev/null && echo reached || echo nothing")
    };
    assert_eq!(steps.said(&[&reach("web"), &reach("169.254.169.254")]).await, ["reached", "nothing"]);
    let name = format!("mergeyard-{}-w1", steps.owner);
    let all = None::<bollard::query_parameters::InspectNetworkOptions>;
    assert_eq!(steps::docker().inspect_network(&name, all).await.unwrap().internal, Some(true));
    web.cancel.cancel();
    assert_eq!(web.end().await.0, StepOutcome::Cancelled);
    steps.end().await;
}

#[tokio::test]
async fn two_first_steps_at_once_share_one_network_and_one_workspace() {
    let steps = Steps::new();
    let (one, two, three) = tokio::join!(
        steps.said(&["echo 1 > one"]),
        steps.said(&["echo 2 > two"]),
        steps.said(&["echo 3 > three; echo a=b > $CI_OUTPUT"]),
    );
    assert_eq!((one.len(), two.len(), three.len()), (0, 0, 0));
    assert_eq!(steps.said(&["ls"]).await, ["one", "three", "two"]);
    let left = left_of(&steps.owner).await;
    let name = format!("mergeyard-{}-w1", steps.owner);
    assert_eq!(left.iter().filter(|left| **left == name).count(), 2, "a network and a volume: {left:?}");
    steps.end().await;
}

#[tokio::test]
async fn the_end_and_the_cancelling_of_a_step_take_its_children_along() {
    let steps = Steps::new();
    let (slow, child) = (sleep(), sleep());
    let mut job = steps.commands(&[&format!("{child} & echo begun; {slow}")]);
    job.timeout = Duration::from_secs(3);
    let (outcome, _) = steps.run(job).await;
    assert_eq!(outcome, failure("timed out after 3s"));
    assert!(!runs(&slow) && !runs(&child));

    // Even one that does not want to go, within its grace.
    let deaf =
        steps.commands(&["trap '' TERM", &format!("({child}) & echo begun; while true; do {slow}; done")]);
    let mut running = Running::start(&steps.executor, deaf);
    running.until("begun").await;
    let asked = Instant::now();
    running.cancel.cancel();
    let (outcome, _) = running.end().await;
    assert_eq!(outcome, StepOutcome::Cancelled);
    assert!(asked.elapsed() < Duration::from_secs(2 + 10), "{:?}", asked.elapsed());
    assert!(!runs(&slow) && !runs(&child));
    let last = steps
        .commands(&["trap 'echo last words; exit 0' TERM", "echo begun; while true; do sleep 0.1; done"]);
    let mut running = Running::start(&steps.executor, last);
    running.until("begun").await;
    running.cancel.cancel();
    let (outcome, said) = running.end().await;
    assert_eq!((outcome, said), (StepOutcome::Cancelled, vec!["last words".to_owned()]));
    steps.end().await;
}

#[tokio::test]
async fn a_server_that_was_killed_is_followed_by_one_that_goes_on_where_the_log_stopped() {
    let steps = Steps::new();
    let commands = ["for i in $(seq 1 40); do echo line $i; sleep 0.1; done; echo a=b >> $CI_OUTPUT"];
    let job = steps.commands(&commands);
    let mut running = Running::start(&steps.executor, job.clone());
    let mut said = running.until("line 10").await;
    running.task.abort();
    assert!(running.task.await.unwrap_err().is_cancelled());
    let again = steps.restarted();
    // What the steps of a live workflow have is not swept away; an earlier server's rest is.
    again.reconcile(&live(&[job.step], &[])).await.unwrap();
    let job = StepJob { kept_lines: said.len() as u64, ..job };
    let (outcome, rest) = steps::run_for_lines(&again, job.clone()).await;
    assert!(matches!(&outcome, StepOutcome::Success { outputs } if outputs["a"] == "b"), "{outcome:?}");
    assert!(rest.windows(2).all(|pair| pair[0].at <= pair[1].at));
    said.extend(rest.into_iter().map(|line| line.text));
    let expected: Vec<String> = (1..=40).map(|i| format!("line {i}")).collect();
    assert_eq!(said[1..], expected);

    // And one that ended meanwhile tells its end, as often as it is asked, without running again.
    let all = StepJob { kept_lines: 41, ..job };
    let (outcome, rest) = steps::run(&steps.restarted(), all).await;
    assert!(matches!(&outcome, StepOutcome::Success { outputs } if outputs["a"] == "b"), "{outcome:?}");
    assert_eq!(rest, Vec::<String>::new());
    steps.end().await;
}

#[tokio::test]
async fn reconciling_keeps_what_lives_and_removes_the_rest_of_its_owner() {
    let steps = Steps::new();
    let job = steps.commands(&["echo here > file"]);
    let step = job.step;
    steps.said_by(job).await;
    let mut other = steps.commands(&["true"]);
    other.workflow = WorkflowId(2);
    steps.said_by(other).await;
    let theirs = Steps::new();
    theirs.said(&["true"]).await;
    let name = |workflow: &str| format!("mergeyard-{}-{workflow}", steps.owner);
    steps.restarted().reconcile(&live(&[], &[steps.workflow()])).await.unwrap();
    let kept = [format!("/{}-s{step}-a1", name("w1")), name("w1"), name("w1")];
    assert_eq!(left_of(&steps.owner).await, kept);
    assert_eq!(steps.said(&["cat file"]).await, ["here"]);
    steps.restarted().reconcile(&live(&[], &[])).await.unwrap();
    assert_eq!(left_of(&steps.owner).await, Vec::<String>::new());
    assert_eq!(left_of(&theirs.owner).await.len(), 3);
    steps.end().await;
    theirs.end().await;
}

#[tokio::test]
async fn a_new_attempt_takes_the_place_of_one_that_was_cut_off() {
    let steps = Steps::new();
    let slow = sleep();
    let job = steps.commands(&[&format!("echo begun; {slow}")]);
    let mut running = Running::start(&steps.executor, job.clone());
    running.until("begun").await;
    running.task.abort();
    let _ = running.task.await;
    assert!(runs(&slow), "letting go of a step does not end it");
    let second =
        StepJob { attempt: 2, ..with(job, |action| action.commands = vec!["echo second".to_owned()]) };
    assert_eq!(steps.said_by(second).await, ["second"]);
    assert!(!runs(&slow));
    steps.end().await;
}

#[tokio::test]
async fn an_engine_that_is_gone_is_an_error_that_may_pass() {
    let steps = Steps::new();
    let cache = GitCache::new(steps.dir.path().join("other"), GitLimits::default()).unwrap();
    let absent = Docker::new(cache, Engine::at("unix:///nowhere/docker.sock"), steps::no_registry());
    let (outcome, _) = steps::run(&Executor::Docker(absent), steps.commands(&["true"])).await;
    let StepOutcome::Error { message, retry: true } = outcome else { panic!("{outcome:?}") };
    assert!(message.starts_with("no engine answers at unix:///nowhere/docker.sock"), "{message}");
    steps.end().await;
}

/// The engine's socket with somebody on the line who can hang up.
struct Line {
    path: std::path::PathBuf,
    serving: tokio::task::JoinSet<()>,
}

impl Line {
    fn open(steps: &Steps) -> Line {
        let path = steps.dir.path().join("engine.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            let mut calls = tokio::task::JoinSet::new();
            while let Ok((mut call, _)) = listener.accept().await {
                calls.spawn(async move {
                    let socket = steps::host().trim_start_matches("unix://").to_owned();
                    let mut engine = tokio::net::UnixStream::connect(socket).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut call, &mut engine).await;
                });
            }
        });
        Line { path, serving }
    }

    async fn hang_up(mut self) {
        self.serving.shutdown().await;
        std::fs::remove_file(&self.path).unwrap();
    }
}

#[tokio::test]
async fn an_engine_that_is_lost_while_a_step_runs_costs_an_attempt_and_leaves_nothing_running() {
    let steps = Steps::new();
    let line = Line::open(&steps);
    let cache = GitCache::new(steps.dir.path().join("other"), GitLimits::default()).unwrap();
    let engine = Engine::at(&format!("unix://{}", line.path.display())).owned_by(&steps.owner);
    let through = Arc::new(Executor::Docker(Docker::new(cache, engine, steps::no_registry())));
    let slow = sleep();
    let job = steps.commands(&[&format!("echo begun; {slow}")]);
    let mut running = Running::start(&through, job.clone());
    running.until("begun").await;
    line.hang_up().await;
    let (outcome, _) = running.end().await;
    assert!(matches!(outcome, StepOutcome::Error { retry: true, .. }), "{outcome:?}");
    let second =
        StepJob { attempt: 2, ..with(job, |action| action.commands = vec!["echo second".to_owned()]) };
    assert_eq!(steps.said_by(second).await, ["second"]);
    assert!(!runs(&slow));
    steps.end().await;
}

#[tokio::test]
async fn an_image_of_a_private_registry_comes_once_and_again_only_when_it_is_asked_for() {
    let registry = Registry::start().await;
    let name = format!("{}/tools-{}:1", registry.host(), steps::fresh());
    let docker = steps::docker();
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let options = TagImageOptionsBuilder::new().repo(repository).tag(tag).build();
    docker.tag_image(steps::IMAGE, Some(options)).await.unwrap();
    let access = registry.access();
    let login = RegistryCredentials { username: access.username.clone(), password: access.password.clone() };
    let (log, _lines) = LogSink::channel(Masker::default(), 1 << 20);
    let engine = Engine::at(&steps::host());
    engine.push(&name.parse().unwrap(), &login, &log).await.unwrap();
    engine.remove_image(&name).await.unwrap();

    let nobody = Steps::new();
    let (outcome, _) =
        nobody.run(with(nobody.commands(&["true"]), |action| action.image = name.clone())).await;
    assert!(matches!(&outcome, StepOutcome::Failure { message } if message.contains(&name)), "{outcome:?}");
    nobody.end().await;
    let steps = Steps::with(|docker| {
        docker.base_credentials.insert(registry.host(), login.clone());
    });
    steps.executor.prefetch(&[name.clone(), "127.0.0.1:1/nobody:1".to_owned()]).await;
    let pulls = |said: &[String]| said.iter().any(|line| line.starts_with("== image"));
    let (outcome, said) =
        steps.run(with(steps.commands(&["true"]), |action| action.image = name.clone())).await;
    assert_eq!((outcome, pulls(&said)), (success(), false), "it came ahead of its need");
    let job = with(steps.commands(&["true"]), |action| {
        action.image = name.clone();
        action.pull = true;
    });
    let (outcome, said) = steps.run(job).await;
    assert_eq!((outcome, pulls(&said)), (success(), true));
    steps.end().await;
    engine.remove_image(&name).await.unwrap();
}

#[tokio::test]
async fn a_cache_outlives_its_workflow_and_keys_do_not_mix() {
    let steps = Steps::with(|docker| docker.most_caches = 1);
    let cached = |commands: &[&str], key: &str, workflow: i64| {
        let mut job = with(steps.commands(commands), |action| {
            action.caches = vec![Cache { path: "/cache".to_owned(), key: key.to_owned() }];
        });
        job.workflow = WorkflowId(workflow);
        job
    };
    steps.said_by(cached(&["echo kept > /cache/file"], "acme/clock main trusted", 1)).await;
    steps.executor.end_workflow(WorkflowId(1)).await.unwrap();
    assert_eq!(steps.said_by(cached(&["cat /cache/file"], "acme/clock main trusted", 2)).await, ["kept"]);
    assert_eq!(steps.said_by(cached(&["ls /cache"], "acme/clock main fork", 2)).await, Vec::<String>::new());
    steps.executor.end_workflow(WorkflowId(2)).await.unwrap();
    steps.executor.reconcile(&live(&[], &[])).await.unwrap();
    assert_eq!(steps::caches_of(&steps.owner).await.len(), 2);
    steps.executor.tidy().await.unwrap();
    assert_eq!(steps::caches_of(&steps.owner).await.len(), 1);
    steps::remove_caches(&steps.owner).await;
    steps.end().await;
}

#[tokio::test]
async fn caches_of_one_name_are_found_by_whoever_comes_next() {
    let of = format!("one-user-{}", uuid::Uuid::new_v4().simple());
    let next = || {
        Steps::with(|docker| {
            docker.caches_of = Some(of.clone());
            docker.most_caches = 1;
        })
    };
    let cached = |steps: &Steps, command: &str, key: &str| {
        with(steps.commands(&[command]), |action| {
            action.caches = vec![Cache { path: "/cache".to_owned(), key: key.to_owned() }];
        })
    };
    let first = next();
    first.said_by(cached(&first, "echo kept > /cache/file", "acme/clock main")).await;
    first.end().await;
    let second = next();
    assert_eq!(second.said_by(cached(&second, "cat /cache/file", "acme/clock main")).await, ["kept"]);
    second.said_by(cached(&second, "touch /cache/file", "acme/clock other")).await;
    assert_eq!(steps::caches_of(&second.owner).await.len(), 0);
    second.end().await;
    assert_eq!(steps::caches_of(&of).await.len(), 2);
    next().executor.tidy().await.unwrap();
    assert_eq!(steps::caches_of(&of).await.len(), 1, "the oldest beyond the limit goes, whoever made it");
    steps::remove_caches(&of).await;
}

#[tokio::test]
async fn a_secret_is_masked_however_it_is_printed() {
    let steps = Steps::new();
    let mut job = steps.commands(&[
        "echo plain $TOKEN",
        "echo $TOKEN | base64",
        "printf %s hunter; sleep 0.3; echo -and-more-22",
        "printf 'hunter-and\n-more-22\n'",
        "echo 'hunter-and-more-22' >&2",
    ]);
    job.environment = vec![("TOKEN".to_owned(), "hunter-and-more-22".to_owned())];
    job.masked = vec![Secret::new("hunter-and-more-22")];
    let (outcome, said) = steps.run(job).await;
    assert_eq!(outcome, success());
    let told: Vec<&String> = said.iter().filter(|line| !line.starts_with("+ ")).collect();
    assert!(told.iter().all(|line| !line.contains("more-22") && !line.contains("hunter")), "{said:?}");
    let masks = said.iter().map(|line| line.matches("********").count()).sum::<usize>();
    assert_eq!(masks, 7, "five are printed, and two are in a command: {said:?}");
    assert!(!said.join("").contains("aHVudGVy"), "{said:?}");
    steps.end().await;
}

#[tokio::test]
async fn a_million_lines_arrive_complete_and_in_order_and_none_of_them_waits_in_memory() {
    let steps = Steps::with(|docker| docker.containers.output_bytes = 4 << 30);
    let before = memory();
    let mut running = Running::start(&steps.executor, steps.commands(&["seq 1 1000000", "date +%s%N"]));
    let (mut next, mut peak) = (1, before);
    loop {
        let line = running.until("").await.pop().unwrap();
        if line.starts_with('+') {
            continue;
        }
        if next > 1_000_000 {
            break;
        }
        assert_eq!(line, next.to_string());
        next += 1;
        if next % 10_000 == 0 {
            peak = peak.max(memory());
        }
    }
    // The lines are 7 MB; what else tests in this process need meanwhile is far less than this, too.
    assert!(peak - before < 64 * 1024, "memory grew from {before} to {peak} KiB");
    assert_eq!(running.end().await.0, success());
    steps.end().await;
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
