//! `uses: ansible`: a playbook of the commit, run against one target.
//!
//! Ansible runs in a container beside the checkout. Of the target's key it has only the socket of an
//! agent that serves nothing else and no other machine; of the target an inventory of one host and
//! its pinned host key. What it is to put live it is told as digests. A playbook that fails, or
//! whose work is not proven, is run once more with the digests that were live before.

mod book;
mod image;
mod playbook;
mod recap;

use std::net::IpAddr;

use mergeyard_plan::action::AnsibleAction;

use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    health,
    ssh::{self, Agent},
    target::{Reach, Ssh, Target},
};
use book::{Book, Images, plain};
use playbook::{Ended, Playbook};

pub(crate) async fn ansible(
    docker: &Docker,
    job: &StepJob,
    action: &AnsibleAction,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    let target = job.target(&action.target)?;
    let ssh = reached(target)?;
    // Its socket is a file of this machine.
    if !docker.engine.is_local() {
        return Err(StepFault::lasting(format!(
            "`uses: ansible` needs an engine on this machine, because the agent's socket is mounted into its container, and `engine.host` is {}",
            docker.engine.host()
        )));
    }
    let image = image::found(docker, &action.image, &cx.log).await?;
    let known_hosts = ssh::known_hosts(ssh).await?;
    let agent = Agent::start(ssh).await?;
    let playbook = Playbook { docker, job, action, cx, target, ssh, image, known_hosts, agent: &agent };
    let done = step(&playbook).await;
    agent.end().await;
    done
}

/// How Ansible reaches a target from inside a container.
fn reached(target: &Target) -> Result<&Ssh, StepFault> {
    let name = &target.name;
    let Reach::Ssh(ssh) = &target.reach else {
        return Err(StepFault::Failure(format!(
            "`uses: ansible` works on targets that are reached over SSH, and `{name}` is the engine's own machine: use `uses: rollout` for it, or define it with `kind = \"ssh\"`"
        )));
    };
    let loopback = ssh.address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if loopback || ssh.address.eq_ignore_ascii_case("localhost") {
        return Err(StepFault::lasting(format!(
            "target `{name}` has the address {}, which inside of a container is the container itself: give the target an address that others reach, such as that of the engine's bridge",
            ssh.address
        )));
    }
    Ok(ssh)
}

async fn step(playbook: &Playbook<'_>) -> Result<StepOutcome, StepFault> {
    let Playbook { job, action, cx, .. } = *playbook;
    let wanted: Images = if action.pinned.is_empty() { job.images.clone() } else { action.pinned.clone() };
    playbook.clear().await?;
    if action.check {
        let ended = playbook.run(&wanted).await?;
        return match ended {
            Ended::Well { recap } => Ok(success(recap.check())),
            Ended::Badly { code, .. } => {
                Err(exited(code, format!("the dry run failed with exit code {code}")))
            }
        };
    }
    let book = Book::open(cx, job.step, &action.target, &wanted).await?;
    let why = match proven(playbook, &wanted).await {
        Ok((said, summary)) => {
            book.healthy(&said).await?;
            return Ok(success(summary));
        }
        Err(Unproven::Target { why, code }) => (why, code),
        Err(Unproven::Fault(StepFault::Cancelled)) => {
            // Nobody asks twice who wants a thing to end, so nothing is taken back.
            book.failed("cancelled while it ran").await?;
            return Err(StepFault::Cancelled);
        }
        // The target was not reached, or something here is broken; the next attempt goes on from there.
        Err(Unproven::Fault(fault)) => return Err(fault),
    };
    let (why, code) = why;
    let fault = taken_back(playbook, &book, &why).await?;
    Err(exited(code, fault))
}

/// Makes live again what was live before. Says how that ended.
async fn taken_back(playbook: &Playbook<'_>, book: &Book<'_>, why: &str) -> Result<String, StepFault> {
    let Some(before) = book.before() else {
        book.failed(why).await?;
        return Ok(format!("{why}; nothing else was live before that could be put back"));
    };
    playbook.cx.log.note(&format!("{why}; putting back {}", plain(&before))).await;
    match proven(playbook, &before).await {
        Ok(_) => {
            book.rolled_back(why).await?;
            Ok(format!("{why}; live again is {}", plain(&before)))
        }
        Err(Unproven::Target { why: then, .. }) => {
            let said = format!("{why}; putting back what was live before failed too: {then}");
            book.failed(&said).await?;
            Ok(said)
        }
        Err(Unproven::Fault(StepFault::Cancelled)) => {
            book.failed(&format!("{why}; cancelled while what was live before was put back")).await?;
            Err(StepFault::Cancelled)
        }
        Err(Unproven::Fault(fault)) => Err(fault),
    }
}

enum Unproven {
    /// The playbook or the health check says no.
    Target {
        why: String,
        code: Option<i64>,
    },
    Fault(StepFault),
}

impl From<StepFault> for Unproven {
    fn from(fault: StepFault) -> Self {
        Unproven::Fault(fault)
    }
}

/// Runs the playbook and proves what it did. Returns what the proof said, and a summary.
async fn proven(playbook: &Playbook<'_>, images: &Images) -> Result<(String, String), Unproven> {
    let Playbook { action, cx, ssh, .. } = *playbook;
    let recap = match playbook.run(images).await? {
        Ended::Well { recap } => recap,
        Ended::Badly { code, unreachable: true } => {
            return Err(Unproven::Fault(StepFault::transient(format!(
                "Ansible does not reach {}; exit code {code}",
                ssh.address
            ))));
        }
        Ended::Badly { code, .. } => {
            let why = format!("the playbook failed with exit code {code}");
            return Err(Unproven::Target { why, code: Some(code) });
        }
    };
    let Some(asked) = &action.health else { return Ok(("the playbook succeeded".to_owned(), recap.done())) };
    let section = cx.log.section(format!("health {}", asked.url)).await;
    let proof = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => return Err(Unproven::Fault(StepFault::Cancelled)),
        proof = health::prove(asked, &ssh.address) => proof,
    };
    match proof {
        Ok(said) => {
            cx.log.note(&said).await;
            section.finish().await;
            Ok((said, recap.done()))
        }
        Err(why) => {
            cx.log.note(&why).await;
            Err(Unproven::Target { why: format!("the health check failed: {why}"), code: None })
        }
    }
}

fn success(summary: String) -> StepOutcome {
    StepOutcome::Success { outputs: [("summary".to_owned(), summary)].into() }
}

fn exited(code: impl Into<Option<i64>>, message: String) -> StepFault {
    match code.into() {
        Some(code) => StepFault::Exited { code, message },
        None => StepFault::Failure(message),
    }
}

#[cfg(test)]
mod tests {
    use mergeyard_types::Secret;

    use super::*;

    fn target(reach: Reach) -> Target {
        let name = "clock-vm".parse().unwrap();
        Target { name, reach, mirror: None, engine: "/var/run/docker.sock".to_owned() }
    }

    fn over_ssh(address: &str) -> Target {
        let (address, user) = (address.to_owned(), "root".to_owned());
        target(Reach::Ssh(Ssh { address, port: 22, user, host_key: None, key: Secret::new("") }))
    }

    #[test]
    fn a_target_that_no_container_reaches_is_refused_with_what_to_do() {
        for address in ["192.0.2.10", "clock.example.org", "2001:db8::1"] {
            reached(&over_ssh(address)).unwrap();
        }
        for address in ["127.0.0.1", "127.8.8.8", "::1", "LocalHost"] {
            let why = reached(&over_ssh(address)).unwrap_err().to_string();
            assert!(
                why.contains("`clock-vm`") && why.contains("such as that of the engine's bridge"),
                "{why}"
            );
        }
        let why = reached(&target(Reach::Local)).unwrap_err().to_string();
        assert!(why.contains("uses: rollout"), "{why}");
    }
}
