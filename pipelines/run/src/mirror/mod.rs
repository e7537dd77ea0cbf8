//! `uses: yum-mirror`: a list of packages of the commit becomes what a mirror serves.
//!
//! The mirror's own dnf finds out what the list means, and brings it (`program/`). It holds the mirror's
//! lock through all of it: until the new snapshot was written down, switched to, read back as
//! clients read it ([`Served`]), and kept or taken back. Whatever breaks in between leaves one whole
//! snapshot or the other, and the same step again goes on from what it finds there.

mod conversation;
mod list;
mod metadata;
mod place;
mod served;

use mergeyard_plan::action::YumMirrorAction;
use mergeyard_types::{DeploymentId, Digest};

use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    ledger::{Intent, Verdict},
    target::{Mirror, Target},
};
use conversation::{Conversation, Order, Ready, Request, Silence, Work};
use place::Place;
pub use served::Served;

pub(crate) async fn yum_mirror(
    docker: &Docker,
    job: &StepJob,
    action: &YumMirrorAction,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    let name = &action.target;
    let target = job.target(name)?;
    let mirror = target.mirror.as_ref().ok_or_else(|| {
        StepFault::Failure(format!("target `{name}` is no mirror: its operator gave it no `mirror` table"))
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
    let place = Place::of(target).await?;
    let done = MirrorStep { job, action, target, mirror, served, cx, place: &place }.perform(work).await;
    place.leave().await;
    done
}

struct MirrorStep<'a> {
    job: &'a StepJob,
    action: &'a YumMirrorAction,
    target: &'a Target,
    mirror: &'a Mirror,
    served: Served,
    cx: &'a StepContext,
    place: &'a Place,
}

impl MirrorStep<'_> {
    async fn perform(&self, work: Work) -> Result<StepOutcome, StepFault> {
        let log = &self.cx.log;
        let section = log.section(format!("packages of {}", self.target.name)).await;
        let mut program = Conversation::with(self.place.start()?, &self.request(work), log)?;
        let ready = match program.ready().await {
            Ok(ready) => ready,
            Err(silence) => return Err(self.fault(silence, "the mirror is as it was").await),
        };
        for package in ready.packages.iter().filter(|package| package.new) {
            log.note(&format!("+ {}", package.name)).await;
        }
        for name in &ready.removed {
            log.note(&format!("- {name}")).await;
        }
        section.finish().await;
        log.note(&summary(&ready)).await;
        let Some(digest) = ready.digest else { return Ok(success(&ready)) };
        let deployment = self.begin(&ready, digest).await?;
        match self.switch(&mut program, &ready, digest).await {
            Ok(said) => {
                self.end(deployment, Verdict::Healthy { said }).await?;
                // What is proven stays so when the clean-up has to wait for the next time.
                if let Err(silence) = program.order(Order::Keep).await {
                    let why = self.fault(silence, "older snapshots go with the next update").await;
                    log.note(&format!("warning: {why}")).await;
                }
                Ok(success(&ready))
            }
            Err((fault, verdict)) => {
                self.end(deployment, verdict).await?;
                Err(fault)
            }
        }
    }

    /// Makes the new snapshot the one that is served, and says what was seen there. One that cannot be seen
    /// is taken back.
    async fn switch(
        &self,
        program: &mut Conversation,
        ready: &Ready,
        digest: Digest,
    ) -> Result<String, (StepFault, Verdict)> {
        let log = &self.cx.log;
        let failed = |fault: StepFault| (fault.clone(), Verdict::Failed { why: fault.to_string() });
        let is_new = ready.before != Some(digest);
        if is_new {
            let section = log.section(format!("switch to {digest}")).await;
            if let Err(silence) = program.order(Order::Switch).await {
                return Err(failed(self.fault(silence, "it may serve the new snapshot already").await));
            }
            section.finish().await;
        }
        let why = match self.served.prove(&digest, ready).await {
            Ok(said) => {
                log.note(&said).await;
                return Ok(said);
            }
            Err(why) => why,
        };
        if !is_new {
            let what = format!("the mirror holds all packages already, but they are not served: {why}");
            return Err(failed(StepFault::Failure(what)));
        }
        log.note(&format!("the new snapshot is not served as it should be: {why}")).await;
        if let Err(silence) = program.order(Order::Back).await {
            let after = format!("the new snapshot was not proven ({why}), and the mirror may serve it still");
            return Err(failed(self.fault(silence, &after).await));
        }
        let back = match ready.before {
            Some(before) => format!("the previous snapshot {before} is back"),
            None => "the mirror serves nothing, as before".to_owned(),
        };
        log.note(&back).await;
        let fault = StepFault::Failure(format!("the new snapshot was not proven: {why}; {back}"));
        Err((fault, Verdict::RolledBack { why, to: ready.before }))
    }

    fn request(&self, work: Work) -> Request<'_> {
        let StepJob { repo, commit, step, run, .. } = self.job;
        let Mirror { root, upstreams, keep, .. } = self.mirror;
        let holder = format!("{repo} at {}, step {step} of run {run}", commit.short());
        Request { work, root, upstreams, keep: *keep, holder }
    }

    /// `None`: this very snapshot is what was proven last, so there is nothing to write down.
    async fn begin(&self, ready: &Ready, digest: Digest) -> Result<Option<DeploymentId>, StepFault> {
        let (target, service, ledger) = (&self.target.name, &self.action.file, &self.cx.ledger);
        let live = ledger.live(target, service).await?;
        if live == Some(digest) && ready.before == live {
            return Ok(None);
        }
        let (target, service) = (target.clone(), service.clone());
        let intent =
            Intent { step: self.job.step, target, service, image: None, digest, before: ready.before };
        Ok(Some(ledger.begin(intent).await?))
    }

    async fn end(&self, deployment: Option<DeploymentId>, verdict: Verdict) -> Result<(), StepFault> {
        match deployment {
            Some(deployment) => Ok(self.cx.ledger.end(deployment, verdict).await?),
            None => Ok(()),
        }
    }

    /// Why the program did not do what it was asked, and what that means for the mirror.
    async fn fault(&self, silence: Silence, means: &str) -> StepFault {
        let name = &self.target.name;
        match silence {
            Silence::Failed(why) => StepFault::Failure(format!("{name}: {why}; {means}")),
            Silence::Ended { status, stderr } => match self.place.exit_code(status, &stderr).await {
                Ok(code) => {
                    let said =
                        format!("{name}: the program there ended with exit code {code}: {stderr}; {means}");
                    StepFault::Failure(said)
                }
                Err(fault) => fault,
            },
            Silence::Garbled(why) => {
                StepFault::lasting(format!("{name}: the program there cannot be understood: {why}; {means}"))
            }
        }
    }
}

fn success(ready: &Ready) -> StepOutcome {
    let mut outputs = vec![("summary".to_owned(), summary(ready))];
    outputs.extend(ready.digest.map(|digest| ("digest".to_owned(), digest.to_string())));
    StepOutcome::Success { outputs: outputs.into_iter().collect() }
}

/// `+2 −1 packages, 14 with dependencies, 23 MB`.
fn summary(ready: &Ready) -> String {
    let new = ready.packages.iter().filter(|package| package.new).count();
    let change = match (new, ready.removed.len()) {
        (0, 0) => "unchanged".to_owned(),
        (new, 0) => format!("+{}", packages(new)),
        (0, removed) => format!("−{}", packages(removed)),
        (new, removed) => format!("+{new} −{} packages", removed),
    };
    let bytes = ready.packages.iter().map(|package| package.size).sum();
    format!("{change}, {} with dependencies, {}", ready.packages.len(), size(bytes))
}

/// `1 package`, `2 packages`.
fn packages(count: usize) -> String {
    match count {
        1 => "1 package".to_owned(),
        _ => format!("{count} packages"),
    }
}

/// `840 bytes`, `12 kB`, `23 MB`, `3.4 GB`.
fn size(bytes: u64) -> String {
    let unit = |power: i32| bytes as f64 / 10f64.powi(power);
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.0} kB", unit(3)),
        1_000_000..1_000_000_000 => format!("{:.0} MB", unit(6)),
        _ => format!("{:.1} GB", unit(9)),
    }
}
