//! Building and pushing with the real engine, into a real registry.

#[path = "support/builds.rs"]
mod builds;
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::time::Duration;

use builds::{
    MINUTE, Yard, address_on_the_bridge, build, build_spec, collect, docker, engine, fresh, sink, spec,
    tar_with, until_gone,
};
use mergeyard_run::{
    StepFault,
    engine::{BaseCredentials, BuildLimits, BuildNetwork, BuildSpec, Builder, Engine, Live},
    executor::{Docker, Executor, StepContext, StepOutcome},
    git::{GitCache, GitLimits},
    log::{LogSink, Masker, Stream},
};
use mergeyard_types::{ImageRef, StepId};
use registry::Registry;
use support::{FILE, SYMLINK, commit};
use tokio_util::sync::CancellationToken;

const BOTH: [Builder; 2] = [Builder::BuildKit, Builder::Classic];

#[tokio::test]
async fn both_builders_build_and_tell_as_they_go() {
    for builder in BOTH {
        let dockerfile = format!(
            "FROM debian:bookworm-slim\nCOPY a /a\nRUN echo said-{}-in-the-build && cat /a\n",
            fresh()
        );
        let (built, log) =
            build("builds", builder, &[("Dockerfile", &dockerfile), ("a", "content of a\n")]).await;
        let id = built.unwrap_or_else(|e| panic!("{builder:?}: {e}\n{log}")).id;
        assert!(log.contains("content of a"), "{builder:?}:\n{log}");
        let tag = spec("builds", builder, Vec::new()).tag.to_string();
        let image = docker().inspect_image(&tag).await.unwrap();
        assert_eq!(image.id.as_deref(), Some(id.as_str()), "{builder:?}");
        assert_eq!(image.config.unwrap().labels.unwrap()["dev.mergeyard.tree"], "t");
        if builder == Builder::BuildKit {
            assert!(log.contains(" done 0.") && log.contains("[2/3] COPY a /a"), "{log}");
        }
        engine().await.remove_image(&tag).await.unwrap();
    }
}

#[tokio::test]
async fn a_cached_step_says_so_and_cache_mounts_keep_their_files() {
    let mark = fresh();
    let dockerfile = |step: &str| {
        format!(
            "FROM debian:bookworm-slim\nRUN --mount=type=cache,id=t{mark},target=/c echo {step}; ls /c; touch /c/kept\n"
        )
    };
    let (first, log) = build("cache", Builder::BuildKit, &[("Dockerfile", &dockerfile("one"))]).await;
    first.unwrap();
    assert!(!log.lines().any(|line| line.ends_with(" kept")), "{log}");
    let (second, log) = build("cache", Builder::BuildKit, &[("Dockerfile", &dockerfile("two"))]).await;
    second.unwrap();
    assert!(log.lines().any(|line| line.ends_with(" kept")), "the cache mount lost its file:\n{log}");
    let (third, log) = build("cache", Builder::BuildKit, &[("Dockerfile", &dockerfile("two"))]).await;
    third.unwrap();
    assert!(log.contains("CACHED"), "{log}");
    engine().await.remove_image(&spec("cache", Builder::BuildKit, Vec::new()).tag.to_string()).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_dockerfile_is_a_failure_with_its_reason() {
    let failing = format!("FROM debian:bookworm-slim\nRUN echo {} && echo last words && exit 7\n", fresh());
    let cases = [
        (failing.as_str(), "7", "last words"),
        ("FROM debian:bookworm-slim\nCOPY ../../etc/passwd /x\n", "etc", ""),
        ("FROM debian:bookworm-slim\nCOPY nothing /x\n", "nothing", ""),
        ("FROM debian:bookworm-slim\nHELLO\n", "unknown instruction", ""),
        ("", "Dockerfile", ""),
    ];
    for builder in BOTH {
        for (dockerfile, why, said) in cases {
            let (built, log) = build("fails", builder, &[("Dockerfile", dockerfile)]).await;
            match built.unwrap_err() {
                StepFault::Failure(message) => {
                    assert!(
                        message.contains(why) && !message.contains('\n'),
                        "{builder:?} {dockerfile:?}: {message}"
                    );
                }
                other => panic!("{builder:?} {dockerfile:?}: {other:?}"),
            }
            assert!(log.contains(said), "{log}");
        }
    }
}

#[tokio::test]
async fn a_link_out_of_the_context_leads_into_the_image_and_not_to_the_host() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret-of-the-host"), "must not be seen").unwrap();
    let target = dir.path().join("secret-of-the-host").display().to_string();
    for builder in BOTH {
        let mut tar = tar::Builder::new(Vec::new());
        let dockerfile = format!("FROM debian:bookworm-slim\nCOPY link /x\nRUN : {}; cat /x\n", fresh());
        let mut header = tar::Header::new_gnu();
        header.set_size(dockerfile.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "link", &target).unwrap();
        let (log, lines) = sink();
        let said = collect(lines);
        let spec = spec("link", builder, tar.into_inner().unwrap());
        let built = engine().await.build(spec, &log, &CancellationToken::new()).await;
        drop(log);
        let said = said.await.unwrap();
        assert!(matches!(built, Err(StepFault::Failure(_))), "{builder:?}: {built:?}");
        assert!(!said.contains("must not be seen"), "{said}");
    }
}

#[tokio::test]
async fn cancelling_stops_what_runs_and_leaves_no_container() {
    for builder in BOTH {
        // Only this build sleeps for exactly so long.
        let seconds = 100_000 + std::process::id() % 100_000 * 2 + u32::from(builder == Builder::Classic);
        let dockerfile = format!("FROM debian:bookworm-slim\nRUN echo begun; sleep {seconds}\n");
        let (log, mut lines) = sink();
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let engine = engine().await;
        let spec = spec("cancel", builder, tar_with(&[("Dockerfile", &dockerfile)]));
        let watch = async {
            while let Some(line) = lines.recv().await {
                if line.text.ends_with("begun") {
                    stop.cancel();
                    break;
                }
            }
            while lines.recv().await.is_some() {}
        };
        let started = std::time::Instant::now();
        // The log ends with the build, which ends the watching.
        let ended = async move { engine.build(spec, &log, &cancel).await };
        let (ended, ()) = tokio::join!(ended, watch);
        assert_eq!(ended, Err(StepFault::Cancelled), "{builder:?}");
        until_gone(&format!("sleep {seconds}")).await;
        assert!(started.elapsed() < Duration::from_secs(20));
        until_no_container_runs(&seconds.to_string()).await;
    }
}

#[tokio::test]
async fn endless_output_is_cut_visibly_and_the_build_can_still_be_ended() {
    const KEPT: usize = 64 << 10;
    for builder in BOTH {
        let endless = format!("yes endless-{}", fresh());
        let dockerfile = format!("FROM debian:bookworm-slim\nRUN {endless}\n");
        let (log, mut lines) = LogSink::channel(Masker::default(), KEPT as u64);
        let cancel = CancellationToken::new();
        let watch = async {
            let (mut said, mut cuts) = (0, Vec::new());
            while let Some(line) = lines.recv().await {
                match line.stream {
                    Stream::Note if line.text.starts_with("-- log cut") => {
                        cancel.cancel();
                        cuts.push(line.text);
                    }
                    Stream::Note => {}
                    Stream::Stdout | Stream::Stderr => said += line.text.len() + 1,
                }
            }
            (said, cuts)
        };
        let spec = spec("endless", builder, tar_with(&[("Dockerfile", &dockerfile)]));
        let ended = async {
            let log = log;
            engine().await.build(spec, &log, &cancel).await
        };
        let (ended, (said, cuts)) =
            tokio::time::timeout(MINUTE, async { tokio::join!(ended, watch) }).await.unwrap();
        assert_eq!(ended, Err(StepFault::Cancelled), "{builder:?}");
        assert!((KEPT / 2..=KEPT).contains(&said), "{builder:?}: {said} bytes");
        assert_eq!(cuts, ["-- log cut here: it is longer than 0.0625 MiB, the rest is not kept"]);
        until_gone(&endless).await;
    }
}

#[tokio::test]
async fn endless_output_does_not_outlive_the_timeout_of_its_step() {
    let yard = Yard::start().await;
    let endless = format!("yes endless-{}", fresh());
    let sha = yard.commit(&format!("FROM debian:bookworm-slim\nRUN {endless}\n"));
    let (outcome, _) = yard.run(yard.job(sha, "endless", Duration::from_secs(3))).await;
    assert_eq!(outcome, StepOutcome::Failure { message: "timed out after 3s".to_owned() });
    until_gone(&endless).await;
}

async fn until_no_container_runs(mark: &str) {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let gone = async {
        loop {
            let all = bollard::query_parameters::ListContainersOptionsBuilder::new().all(true).build();
            let containers = docker().list_containers(Some(all)).await.unwrap();
            if !containers.iter().any(|c| c.command.as_ref().is_some_and(|line| line.contains(mark))) {
                break;
            }
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("a container is left over");
}

#[tokio::test]
async fn a_missing_base_is_a_failure_and_a_present_one_costs_nothing() {
    let registry = Registry::start().await;
    let engine = engine().await;
    let (log, _lines) = sink();
    let credentials = BaseCredentials::from([(registry.host(), credentials(&registry))]);
    engine.ensure_image("debian:bookworm-slim", &credentials, &log).await.unwrap();
    let missing = format!("{}/nope:1", registry.host());
    let fault = engine.ensure_image(&missing, &credentials, &log).await.unwrap_err();
    assert!(matches!(&fault, StepFault::Failure(why) if why.contains(&missing)), "{fault:?}");
    // Without credentials the registry does not tell whether it is there: the user's to repair as well.
    let fault = engine.ensure_image(&missing, &BaseCredentials::new(), &log).await.unwrap_err();
    assert!(matches!(fault, StepFault::Failure(_)), "{fault:?}");
    let nobody = "127.0.0.1:1/nobody:1";
    let fault = engine.ensure_image(nobody, &BaseCredentials::new(), &log).await.unwrap_err();
    assert!(matches!(fault, StepFault::Error { retry: true, .. }), "{fault:?}");
}

fn credentials(registry: &Registry) -> mergeyard_run::engine::RegistryCredentials {
    let access = registry.access();
    mergeyard_run::engine::RegistryCredentials { username: access.username, password: access.password }
}

#[tokio::test]
async fn sweeping_removes_what_a_crash_left_and_keeps_what_lives_and_what_is_anothers() {
    let (mine, theirs) = (format!("mine-{}", fresh()), format!("theirs-{}", fresh()));
    let engine = engine().await.owned_by(&mine);
    for (owner, step) in [(&mine, "1"), (&mine, "2"), (&theirs, "2")] {
        leave_container(owner, step).await;
    }
    engine.sweep(&Live::from_iter([StepId(1)])).await.unwrap();
    assert_eq!(steps_of(&mine).await, ["1"]);
    assert_eq!(steps_of(&theirs).await, ["2"]);
    Engine::at(engine.host()).sweep(&Live::default()).await.unwrap();
    assert_eq!(steps_of(&mine).await, ["1"], "whose engine has no owner sweeps nobody's");
    engine.sweep(&Live::default()).await.unwrap();
    assert_eq!(steps_of(&mine).await, Vec::<String>::new());
    assert_eq!(steps_of(&theirs).await, ["2"]);
    Engine::at(engine.host()).owned_by(&theirs).sweep(&Live::default()).await.unwrap();
    assert_eq!(steps_of(&theirs).await, Vec::<String>::new());
}

#[tokio::test]
async fn of_the_versions_of_an_image_the_engine_keeps_one() {
    let host = "127.0.0.1:2".parse().unwrap();
    let name = format!("127.0.0.1:2/kept-{}", fresh());
    for version in ["1", "2", "3"] {
        let dockerfile = format!("FROM scratch\nLABEL version={version}-{}\n", fresh());
        let context = tar_with(&[("Dockerfile", &dockerfile)]);
        let spec = BuildSpec {
            tag: format!("{name}:{version}").parse().unwrap(),
            ..spec("kept", Builder::BuildKit, context)
        };
        build_spec(spec).await.0.unwrap();
    }
    assert_eq!(engine().await.keep_newest(&host, 1).await.unwrap(), 2);
    let filter = std::collections::HashMap::from([("reference", vec![name])]);
    let options = bollard::query_parameters::ListImagesOptionsBuilder::new().filters(&filter).build();
    let kept = docker().list_images(Some(options)).await.unwrap();
    assert_eq!(kept.len(), 1);
    engine().await.remove_image(&kept[0].id).await.unwrap();
}

/// A container that was made and not removed.
async fn leave_container(owner: &str, step: &str) {
    let labels = [("mergeyard.owner", owner), ("mergeyard.step", step)];
    let config = bollard::models::ContainerCreateBody {
        image: Some("debian:bookworm-slim".to_owned()),
        cmd: Some(vec!["true".to_owned()]),
        labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()),
        ..Default::default()
    };
    let nothing_else = None::<bollard::query_parameters::CreateContainerOptions>;
    docker().create_container(nothing_else, config).await.unwrap();
}

async fn steps_of(owner: &str) -> Vec<String> {
    let filter = std::collections::HashMap::from([("label", vec![format!("mergeyard.owner={owner}")])]);
    let all =
        bollard::query_parameters::ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
    let containers = docker().list_containers(Some(all)).await.unwrap();
    containers.into_iter().map(|mut c| c.labels.as_mut().unwrap().remove("mergeyard.step").unwrap()).collect()
}

#[tokio::test]
async fn a_folder_becomes_an_image_in_the_registry_and_stays_what_it_is() {
    let yard = Yard::start().await;
    let name = "acme/clock";
    let first = yard.commit("ARG TAG=bookworm-slim\nFROM debian:$TAG\nLABEL a=b\n");
    let (outcome, log) = yard.run(yard.job(first, name, MINUTE)).await;
    let StepOutcome::Success { outputs } = outcome else { panic!("{outcome:?}\n{log}") };
    let reference: ImageRef = outputs["image"].parse().unwrap();
    assert_eq!(reference.to_string(), format!("{}/{name}:0.1.0", yard.registry.host()));
    let published =
        yard.registry.client().published(&reference.name, &"0.1.0".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(published.digest.to_string(), outputs["digest"]);
    assert_eq!(published.labels["org.opencontainers.image.revision"], first.to_string());
    assert_eq!(published.labels["org.opencontainers.image.created"], "2023-11-14T22:13:21Z");
    assert_eq!(published.labels["a"], "b");
    assert!(log.contains("== push") && log.contains("done in"), "{log}");

    // The same tree in another commit: nothing is built.
    let again = yard.commit("ARG TAG=bookworm-slim\nFROM debian:$TAG\nLABEL a=b\n");
    let (outcome, log) = yard.run(yard.job(again, name, MINUTE)).await;
    assert_eq!(outcome, StepOutcome::Success { outputs });
    assert!(log.contains("unchanged") && !log.contains("== build"), "{log}");

    // Another tree under the same version: refused with what to do.
    let other = yard.commit("FROM debian:bookworm-slim\nLABEL a=c\n");
    let (outcome, _) = yard.run(yard.job(other, name, MINUTE)).await;
    let StepOutcome::Failure { message } = outcome else { panic!("{outcome:?}") };
    let tree = &published.labels["dev.mergeyard.tree"][..8];
    assert_eq!(
        message,
        format!(
            "acme/clock:0.1.0 is already published from other files (tree {tree}); raise service.version in app/spec.json"
        )
    );
    yard.forget(name).await;
}

#[tokio::test]
async fn a_base_image_of_our_own_registry_is_pulled_with_its_credentials() {
    let yard = Yard::start().await;
    let base = yard.commit("FROM debian:bookworm-slim\nLABEL is=base\n");
    let (outcome, log) = yard.run(yard.job(base, "base", MINUTE)).await;
    assert!(matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}\n{log}");
    yard.forget("base").await;
    let user = yard.commit(&format!("FROM {}/base:0.1.0\nLABEL is=user\n", yard.registry.host()));
    let (outcome, log) = yard.run(yard.job(user, "user", MINUTE)).await;
    assert!(matches!(outcome, StepOutcome::Success { .. }), "{outcome:?}\n{log}");
    yard.forget("base").await;
    yard.forget("user").await;
}

#[tokio::test]
async fn a_step_ends_at_its_timeout_and_by_cancelling_and_says_which() {
    let yard = Yard::start().await;
    let sha = yard.commit(&format!("FROM debian:bookworm-slim\nRUN echo begun {}; sleep 99999\n", fresh()));
    let (outcome, _) = yard.run(yard.job(sha, "slow", Duration::from_secs(3))).await;
    assert_eq!(outcome, StepOutcome::Failure { message: "timed out after 3s".to_owned() });
    let (log, mut lines) = sink();
    let cancel = CancellationToken::new();
    let cx = StepContext::new(log, cancel.clone());
    let run = yard.executor.run(yard.job(sha, "slow", MINUTE), cx);
    let watch = async {
        while let Some(line) = lines.recv().await {
            if line.text.contains("begun") {
                cancel.cancel();
            }
        }
    };
    let (outcome, ()) = tokio::join!(run, watch);
    assert_eq!(outcome, StepOutcome::Cancelled);
    until_gone("sleep 99999").await;
}

#[tokio::test]
async fn a_linked_dockerfile_and_a_missing_engine_are_told_apart() {
    let yard = Yard::start().await;
    let sha = commit(
        &yard.git,
        "develop",
        &[("app/Dockerfile", SYMLINK, b"/etc/passwd"), ("app/spec.json", FILE, b"{}")],
    );
    let (outcome, _) = yard.run(yard.job(sha, "linked", MINUTE)).await;
    let link = "app/Dockerfile is a symbolic link; commit the file itself".to_owned();
    assert_eq!(outcome, StepOutcome::Failure { message: link });

    let sha = yard.commit("FROM scratch\n");
    let cache = GitCache::new(yard.dir.path().join("cache2"), GitLimits::default()).unwrap();
    let absent = Docker::new(cache, Engine::at("unix:///nowhere/docker.sock"), yard.registry.client());
    let (log, _lines) = sink();
    let job = yard.job(sha, "absent", MINUTE);
    let outcome = Executor::Docker(absent).run(job, StepContext::new(log, CancellationToken::new())).await;
    let StepOutcome::Error { message, retry: true } = outcome else { panic!("{outcome:?}") };
    assert!(message.starts_with("no engine answers at unix:///nowhere/docker.sock: start it"), "{message}");
}

#[tokio::test]
async fn an_unknown_authority_is_named_and_written_where_the_engine_looks() {
    let registry = Registry::start_at(&address_on_the_bridge().await).await;
    let access = registry.access();
    let image: ImageRef = format!("{}/trust:1", access.host).parse().unwrap();
    let engine = engine().await;
    let (log, _lines) = sink();
    let tag =
        bollard::query_parameters::TagImageOptionsBuilder::new().repo(&image.repository()).tag("1").build();
    docker().tag_image("debian:bookworm-slim", Some(tag)).await.unwrap();

    let fault = engine.push(&image, &credentials(&registry), &log).await.unwrap_err();
    let file = format!("/etc/docker/certs.d/{}/ca.crt", access.host);
    assert!(
        matches!(&fault, StepFault::Error { message, retry: false } if message.contains(&file)),
        "{fault:?}"
    );

    let trust = engine.certs().ensure_trust(&access.host, &registry.ca);
    assert_eq!(
        trust,
        mergeyard_run::engine_trust::Trust::Written(file.clone().into()),
        "run as a user who may write /etc/docker"
    );
    let pushed = engine.push(&image, &credentials(&registry), &log).await;
    std::fs::remove_dir_all(std::path::Path::new(&file).parent().unwrap()).unwrap();
    engine.remove_image(&image.to_string()).await.unwrap();
    pushed.unwrap();
    let published = registry.client().published(&image.name, &"1".parse().unwrap()).await.unwrap();
    assert!(published.unwrap().size > 0);
}

#[tokio::test]
async fn a_wrong_password_for_the_push_is_said_without_the_password() {
    let registry = Registry::start().await;
    let image: ImageRef = format!("{}/denied:1", registry.host()).parse().unwrap();
    let tag =
        bollard::query_parameters::TagImageOptionsBuilder::new().repo(&image.repository()).tag("1").build();
    docker().tag_image("debian:bookworm-slim", Some(tag)).await.unwrap();
    let wrong = mergeyard_run::engine::RegistryCredentials {
        username: registry::USER.to_owned(),
        password: mergeyard_types::Secret::new("hunter22"),
    };
    let (log, lines) = sink();
    let engine = engine().await;
    let fault = engine.push(&image, &wrong, &log).await.unwrap_err();
    drop(log);
    engine.remove_image(&image.to_string()).await.unwrap();
    let said = collect(lines).await.unwrap();
    assert!(fault.to_string().contains("refused the push"), "{fault}");
    assert!(!format!("{fault}{said}").contains("hunter22"));
}

#[tokio::test]
async fn a_build_does_not_reach_what_listens_on_loopback_and_without_a_network_nothing() {
    let gateway = address_on_the_bridge().await;
    // A server as it is configured unless told otherwise, and one that everybody may reach.
    let [(_own, own), (_open, open)] = ["127.0.0.1", "0.0.0.0"].map(|address| {
        let listener = std::net::TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    });
    let metadata = ("169.254.169.254", 80);
    let all = [("127.0.0.1", own), (&gateway, own), ("127.0.0.1", open), (&gateway, open), metadata];
    for builder in BOTH {
        let reached = reached_by(builder, BuildNetwork::Default, &all[..4]).await;
        assert_eq!(reached, [false, false, false, true], "{builder:?}");
        let reached = reached_by(builder, BuildNetwork::None, &all).await;
        assert_eq!(reached, [false; 5], "{builder:?}");
    }
}

/// Which of the addresses a `RUN` can connect to.
async fn reached_by(builder: Builder, network: BuildNetwork, addresses: &[(&str, u16)]) -> Vec<bool> {
    let attempt = |(host, port): &(&str, u16)| {
        format!("timeout 3 bash -c ': </dev/tcp/{host}/{port}' && echo $((1 + 1))-reached-{host}-{port}; ")
    };
    let attempts: String = addresses.iter().map(attempt).collect();
    let dockerfile = format!("FROM debian:bookworm-slim\nRUN : {}; {attempts} true\n", fresh());
    let context = tar_with(&[("Dockerfile", &dockerfile)]);
    let spec = BuildSpec { network, ..spec("network", builder, context) };
    let tag = spec.tag.to_string();
    let (built, log) = build_spec(spec).await;
    built.unwrap_or_else(|e| panic!("{builder:?}: {e}\n{log}"));
    engine().await.remove_image(&tag).await.unwrap();
    addresses.iter().map(|(host, port)| log.contains(&format!("2-reached-{host}-{port}"))).collect()
}

#[tokio::test]
async fn the_classic_builder_keeps_a_run_inside_its_limits_and_buildkit_says_it_does_not() {
    let limits = BuildLimits { memory_bytes: Some(64 << 20), cpu_millis: Some(500) };
    let hungry = format!("FROM debian:bookworm-slim\nRUN : {}; tail /dev/zero\n", fresh());
    let (log, lines) = sink();
    let said = collect(lines);
    let classic = BuildSpec {
        limits: limits.clone(),
        ..spec("limits", Builder::Classic, tar_with(&[("Dockerfile", &hungry)]))
    };
    let built = engine().await.build(classic, &log, &CancellationToken::new()).await;
    assert!(matches!(&built, Err(StepFault::Failure(why)) if why.contains("137")), "{built:?}");

    let plain = tar_with(&[("Dockerfile", "FROM debian:bookworm-slim\n")]);
    let buildkit = BuildSpec { limits, ..spec("limits", Builder::BuildKit, plain) };
    let tag = buildkit.tag.to_string();
    engine().await.build(buildkit, &log, &CancellationToken::new()).await.unwrap();
    engine().await.remove_image(&tag).await.unwrap();
    drop(log);
    assert!(said.await.unwrap().contains("BuildKit takes no limits"));
}
