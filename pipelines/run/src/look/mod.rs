//! What a target really runs, whatever was written down about it.
//!
//! Looking changes nothing and needs nothing of a step: it is asked from time to time, so that
//! somebody notices when a person or a program changed a target behind the server's back.

mod containers;

use std::time::Duration;

use mergeyard_types::{Digest, ImageName};

use crate::{
    executor::{Docker, Executor},
    mirror::Served,
    target::Target,
};

/// Of one target. One that hangs must not keep the others from being looked at.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// What was put on a target, to be found there again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    pub service: String,
    pub way: Way,
    /// `None` of a mirror.
    pub image: Option<ImageName>,
    /// Where several of one image run, as after a playbook, this is the one that counts.
    pub digest: Digest,
}

/// How it came there, which says where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    Rollout,
    Playbook,
    Mirror,
}

/// What was found of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Digest(Digest),
    /// It would be seen if it were there.
    Nothing,
    /// A playbook may have put it where nobody can see what it is.
    Untold,
}

/// Why it could not be looked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OutOfReach(pub String);

impl Executor {
    /// Looks for each of `sought` on the target; the answers are in the same order.
    pub async fn look(&self, target: &Target, sought: &[Sought]) -> Vec<Result<Seen, OutOfReach>> {
        match self {
            Executor::Docker(docker) => {
                let look = docker.look(target, sought);
                tokio::time::timeout(LONGEST_LOOK, look).await.unwrap_or_else(|_| {
                    let why = format!("it did not answer within {} seconds", LONGEST_LOOK.as_secs());
                    vec![Err(OutOfReach(why)); sought.len()]
                })
            }
            Executor::Scripted(scripted) => scripted.play.look(target, sought).await,
        }
    }
}

impl Docker {
    async fn look(&self, target: &Target, sought: &[Sought]) -> Vec<Result<Seen, OutOfReach>> {
        let has = |mirror: bool| sought.iter().any(|one| (one.way == Way::Mirror) == mirror);
        let snapshot = async { if has(true) { Some(snapshot(target).await) } else { None } };
        let running = async { if has(false) { Some(containers::running(self, target).await) } else { None } };
        let (snapshot, running) = tokio::join!(snapshot, running);
        let find = |one: &Sought| match one.way {
            Way::Mirror => snapshot.clone().unwrap_or(Ok(Seen::Untold)),
            Way::Rollout | Way::Playbook => {
                let running = running.as_ref().map(Result::as_ref);
                running.map_or(Ok(Seen::Untold), |running| match running {
                    Ok(running) => Ok(containers::find(running, &target.name, one)),
                    Err(error) => Err(error.clone()),
                })
            }
        };
        sought.iter().map(find).collect()
    }
}

/// The snapshot that a yum mirror serves, read as its clients read it.
async fn snapshot(target: &Target) -> Result<Seen, OutOfReach> {
    let mirror = target.mirror.as_ref();
    let mirror =
        mirror.ok_or_else(|| OutOfReach(format!("target `{}` is no mirror any more", target.name)))?;
    let served = Served::by(mirror).map_err(OutOfReach)?;
    let digest = served.digest().await.map_err(OutOfReach)?;
    Ok(digest.map_or(Seen::Nothing, Seen::Digest))
}
