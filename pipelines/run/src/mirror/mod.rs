//! `uses: yum-mirror`: a list of packages of the commit becomes what a mirror serves.
//!
//! The mirror's own dnf finds out what the list means, and brings it ([`conversation`], and
//! `program/`). It holds the mirror's lock through all of it: until the new snapshot was written down,
//! switched to, read back as clients read it ([`served`]), and kept, or taken back. Whatever breaks in between leaves
//! one whole snapshot or the other, and the same step again goes on from what it finds there.

mod conversation;
mod list;
mod metadata;
mod served;

use mergeyard_plan::action::YumMirrorAction;
use mergeyard_types::{Digest, DeploymentId};

use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    ledger::{Intent, LedgerError, Verdict},
    target::{Mirror, Reach, Target},
};
use conversation::{Conversation, Order, Ready, Request, Silence, Work};
pub use served::Served;

pub(crate) async fn yum_mirror(
    docker: &Docker,
    job: &StepJob,
    action: &YumMirrorAction,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    let target = job.target.as_deref().ok_or_else(|| {
        StepFault::lasting(format!("the target `{}` is not defined any more", action.target))
    })?;
    let mirror = target.mirror.as_ref().ok_or_else(|| {
        StepFault::Failure(format!("the target `{}` is no mirror: its operator gave it no `mirror` table", target.name))
    })?;
    let served = Served::by(mirror).map_err(StepFault::lasting)?;
    let work = match &action.snapshot {
        Some(snapshot) => Work::Rollback { snapshot: snapshot.hex() },
        None => {
            let packages = list::packages(docker, job, &action.file, cx).await?;
            match action.check {
                true => Work::Check { packages },
                false => Work::Update { packages },
            }
        }
    };
    let request = Request {
        work,
        root: &mirror.root,
        upstreams: &mirror.upstreams,
        keep: mirror.keep,
        holder: format!("{} at {}, step {} of run {}", job.repo, job.commit.short(), job.step, job.run),
    };
    let section = cx.log.section(format!("ask {} for its packages", target.name)).await;
    let program = program::start(target).await?;
    let mut step = MirrorStep { job, action, target, mirror, served, cx, program };
    let ready = step.program.ready().await;
    todo!()
}
