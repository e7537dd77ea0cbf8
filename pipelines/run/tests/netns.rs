//! Network namespaces that steps of one workflow have one after another.

#[path = "support/steps.rs"]
mod steps;
mod support;

use mergeyard_plan::action::{Action, ContainerAction};
use mergeyard_run::executor::{StepJob, StepOutcome};
use mergeyard_types::StepId;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
};

use steps::{Running, Steps, container, left_of, live, success};

/// Far more steps than it takes until one finds a namespace that another has left.
const ENOUGH: usize = 50;

const WHICH: &str = "readlink /proc/self/ns/net";

fn followed(job: StepJob) -> StepJob {
    StepJob { followed: true, ..job }
}

fn with(job: StepJob, change: impl FnOnce(&mut ContainerAction)) -> StepJob {
    let Action::Container(mut action) = job.action else { panic!("not a container") };
    change(&mut action);
    StepJob { action: Action::Container(action), ..job }
}

/// Runs such steps until one is where another was before, and returns what that one said.
async fn until_shared(steps: &Steps, commands: &[&str]) -> Vec<String> {
    let commands = [&[WHICH], commands].concat();
    let mut seen = Vec::new();
    for _ in 0..ENOUGH {
        let mut said = steps.said_by(followed(steps.commands(&commands))).await;
        let which = said.remove(0);
        if seen.contains(&which) {
            return said;
        }
        seen.push(which);
    }
    panic!("{ENOUGH} steps each had a network namespace of their own");
}

#[tokio::test]
async fn steps_one_after_another_share_a_namespace_and_find_services_and_free_ports_in_it() {
    let steps = Steps::new();
    let mut action = container(&["sleep 1000"]);
    action.ports = vec!["5432".to_owned()];
    let service =
        StepJob { detached: true, followed: true, ..steps.job("db", Action::Container(Box::new(action))) };
    let service = Running::start(&steps.executor, service);
    service.ready.notified().await;
    // The server closes first, so the connection that is left over is on its port.
    let serves = r#"perl -MIO::Socket::INET -e '$l = IO::Socket::INET->new(LocalPort => 8080, Listen => 1) or die "port 8080: $!\n"; $c = IO::Socket::INET->new(PeerAddr => "127.0.0.1:8080"); close($l->accept); close($c)'"#;
    let said = until_shared(&steps, &[serves, "getent hosts db | wc -l"]).await;
    assert_eq!(said, ["1"]);
    // In a namespace of its own nothing is there to make that so.
    let own = with(steps.commands(&[serves, &format!("{serves} 2>&1 || true")]), |action| {
        action.extra_hosts = vec!["other:192.0.2.1".to_owned()];
    });
    assert_eq!(steps.said_by(own).await, ["port 8080: Address already in use"]);
    steps.end().await;
    service.end().await;
}

#[tokio::test]
async fn what_a_step_writes_about_names_is_its_own_affair() {
    names_are_each_steps_own(Steps::new()).await;
}

#[tokio::test]
async fn what_a_step_writes_about_names_is_its_own_affair_on_an_engine_elsewhere() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("tcp://{}", listener.local_addr().unwrap());
    let lead = tokio::spawn(async move {
        loop {
            let (mut there, _) = listener.accept().await.unwrap();
            let mut here = UnixStream::connect("/var/run/docker.sock").await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut there, &mut here).await });
        }
    });
    names_are_each_steps_own(Steps::at(&elsewhere, |_| {})).await;
    lead.abort();
}

async fn names_are_each_steps_own(steps: Steps) {
    until_shared(&steps, &[]).await;
    for file in ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"] {
        // Each follows one that wrote, and would see it; the times say nothing of it either.
        let write =
            format!("touch -r {file} /then; echo '# 192.0.2.66 bank' >> {file}; touch -r /then {file}");
        let count = format!("grep -c bank {file} || true");
        for _ in 0..4 {
            let said = steps.said_by(followed(steps.commands(&[&count, &write, &count]))).await;
            assert_eq!(said, ["0", "1"], "{file}");
        }
    }
    steps.end().await;
}

#[tokio::test]
async fn steps_at_the_same_time_have_a_namespace_each() {
    let steps = Steps::new();
    until_shared(&steps, &[]).await;
    let mut running: Vec<_> = (0..3)
        .map(|_| followed(steps.commands(&[WHICH, "echo has begun", "sleep 1000"])))
        .map(|job| Running::start(&steps.executor, job))
        .collect();
    let mut all = Vec::new();
    for step in &mut running {
        let said = step.until("has begun").await;
        all.extend(said.into_iter().filter(|line| line.starts_with("net:")));
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 3, "{all:?}");
    for step in running {
        step.cancel.cancel();
        assert_eq!(step.end().await.0, StepOutcome::Cancelled);
    }
    steps.end().await;
}

#[tokio::test]
async fn a_step_in_a_borrowed_namespace_outlives_its_server() {
    let steps = Steps::new();
    until_shared(&steps, &[]).await;
    let ip = "test \"$(ls /sys/class/net | grep -c eth)\" = 1";
    let job =
        followed(steps.commands(&["echo has begun", "until test -e /woodpecker/go; do sleep 0.1; done", ip]));
    let (step, workflow) = (job.step, steps.workflow());
    let mut running = Running::start(&steps.executor, job.clone());
    running.until("has begun").await;
    running.task.abort();
    let next = steps.restarted();
    next.reconcile(&live(&[step], &[])).await.unwrap();
    let kept = StepJob { kept_lines: 0, ..job };
    let again = Running::start(&next, kept);
    let go = StepJob { step: StepId(1000), ..steps.commands(&["touch /woodpecker/go"]) };
    assert_eq!(steps::run(&next, go).await.0, success());
    let (outcome, said) = again.end().await;
    assert_eq!(outcome, success(), "{said:?}");
    assert!(left_of(&steps.owner).await.iter().any(|name| name.contains(&format!("-w{workflow}-n"))));
    next.reconcile(&live(&[], &[])).await.unwrap();
    assert_eq!(left_of(&steps.owner).await, Vec::<String>::new());
}
