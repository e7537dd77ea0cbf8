//! From a delivery to a decision: the second stage.
//!
//! What may fail for a while (the git server, the database) is tried again with growing
//! pauses; what cannot work, or did not after [`MOST_ATTEMPTS`], ends as `dead` with its
//! reason, where a person sees it and can replay it. Deliveries behind it go on.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use mergeyard_plan::{
    decide::{self, Candidate, Change, Decision, File, Folder, Published},
    effect::{CommitStatus, Effect, StatusState},
    event::{Event, Forge},
    pipeline::{BUILTIN_IMAGE, Pipeline},
};
use mergeyard_run::git::{Entry, GitError};
use mergeyard_types::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    payload,
    store::{Claimed, Created, Source, StoreError, Verdict},
    yard::Yard,
};

/// Tries before a delivery is given up: with the pauses between them about half an hour,
/// which outlives a restart of a git server.
pub const MOST_ATTEMPTS: u32 = 6;

/// The label an image carries with the git tree it was built from.
const TREE_LABEL: &str = "dev.mergeyard.tree";

/// Why a delivery could not be decided.
struct Fault {
    why: String,
    /// Whether the same may work later.
    passing: bool,
    /// What GitHub is told if it does not.
    tell: Option<Box<Effect>>,
}

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let now = yard.clock.now();
    let busy: Vec<String> =
        yard.busy.lock().expect("no holder of this lock panics").iter().cloned().collect();
    let Some((row, lane)) = yard.store.next_delivery(now, &busy).await? else { return Ok(false) };
    // Between the look and here another worker may have begun with it, or even ended.
    let Some(_busy) = Busy::enter(yard, lane) else { return Ok(true) };
    let Some(claimed) = yard.store.claim_delivery(row).await? else { return Ok(true) };
    // There may be work for one more: of another repository.
    yard.wake.inbox.notify_one();
    let decided = AssertUnwindSafe(decide(yard, &claimed)).catch_unwind().await;
    let fault = match decided {
        Ok(Ok(())) => None,
        Ok(Err(fault)) => Some(fault),
        Err(_) => Some(Fault::lasting("deciding it panicked; the server's log has the place".to_owned())),
    };
    if let Some(fault) = fault {
        give_up_or_retry(yard, &claimed, fault).await?;
    }
    yard.wake.steps.notify_waiters();
    yard.wake.outbox.notify_waiters();
    yard.changes.tell();
    Ok(true)
}

/// Holds a repository while one of its deliveries is decided.
struct Busy<'a> {
    yard: &'a Yard,
    lane: String,
}

impl<'a> Busy<'a> {
    fn enter(yard: &'a Yard, lane: String) -> Option<Self> {
        let free = yard.busy.lock().expect("no holder of this lock panics").insert(lane.clone());
        // Made only when free: letting go of one that was not would free another's.
        free.then(|| Self { yard, lane })
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.yard.busy.lock().expect("no holder of this lock panics").remove(&self.lane);
    }
}

impl Fault {
    fn lasting(why: String) -> Self {
        Self { why, passing: false, tell: None }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self { why: error.to_string(), passing: true, tell: None }
    }
}

async fn give_up_or_retry(yard: &Yard, claimed: &Claimed, fault: Fault) -> Result<(), StoreError> {
    let now = yard.clock.now();
    let Fault { why, passing, tell } = fault;
    let (verdict, tell) = if passing && claimed.attempt < MOST_ATTEMPTS {
        warn!(delivery = %claimed.id, attempt = claimed.attempt, why, "could not decide a delivery; it is tried again");
        let why = format!("attempt {} of {MOST_ATTEMPTS}: {why}", claimed.attempt);
        (Verdict::Retry { why, not_before: now.plus(pause(claimed.attempt)) }, None)
    } else {
        warn!(delivery = %claimed.id, why, "gave up on a delivery; `mergeyard deliveries replay {}` tries again", claimed.id);
        (Verdict::Dead(why), tell)
    };
    yard.store.settle_delivery(&claimed.id, verdict, tell.map(|effect| *effect), now).await
}

/// 2 s, 10 s, 50 s, 250 s, 10 min.
fn pause(attempt: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(600);
    Duration::from_secs(2).saturating_mul(5_u32.saturating_pow(attempt.saturating_sub(1))).min(LONGEST)
}

async fn decide(yard: &Yard, claimed: &Claimed) -> Result<(), Fault> {
    if claimed.attempt > MOST_ATTEMPTS {
        return Err(Fault::lasting("the server stopped each time it tried to decide it".to_owned()));
    }
    let event = read(claimed)?;
    let rules = yard.rules();
    let identity = match event.repository() {
        Some(repository) => yard.store.identity(repository).await?,
        None => decide::Identity::default(),
    };
    let now = yard.clock.now();
    let change = match decide::change(&event, &rules.policies, &identity) {
        Ok(change) => change,
        Err(why) => return ignore(yard, claimed, why, now).await,
    };
    let candidates = candidates(yard, &change).await.map_err(|mut fault| {
        fault.tell = could_not(&change, &fault.why).map(Box::new);
        fault
    })?;
    let published = published(yard, &candidates).await;
    let (file, text) = BUILTIN_IMAGE;
    let pipeline = Pipeline::parse(file, text).map_err(|finding| Fault::lasting(finding.to_string()))?;
    let name = file.trim_end_matches(".yml");
    match decide::decide(&change, (name, &pipeline), &candidates, &published) {
        Decision::Ignore(why) => ignore(yard, claimed, why, now).await,
        Decision::Run(plan) => {
            let created =
                yard.store.create_run(&claimed.id, claimed.replays, &change.repository, &plan, now).await?;
            match created {
                Created::Run(run) => {
                    info!(delivery = %claimed.id, %run, repo = %plan.repo, commit = %plan.commit, "started a run");
                    Ok(())
                }
                Created::Already(_) => Ok(()),
                Created::Overtaken => Err(Fault {
                    why: "another run took its number while it was planned".to_owned(),
                    passing: true,
                    tell: None,
                }),
            }
        }
    }
}

async fn ignore(yard: &Yard, claimed: &Claimed, why: String, now: Timestamp) -> Result<(), Fault> {
    info!(delivery = %claimed.id, why, "ignored a delivery");
    Ok(yard.store.settle_delivery(&claimed.id, Verdict::Ignored(why), None, now).await?)
}

fn read(claimed: &Claimed) -> Result<Event, Fault> {
    let body = payload::decompress(&claimed.body).map_err(|error| Fault::lasting(error.to_string()))?;
    let json =
        payload::json(&claimed.content_type, &body).map_err(|error| Fault::lasting(error.to_string()))?;
    match claimed.source {
        Source::Github => Event::from_github(&claimed.event, &json),
        Source::Git => Event::from_git(&json),
    }
    .map_err(|error| Fault::lasting(error.to_string()))
}

/// The folders of the commit that ask for an image.
async fn candidates(yard: &Yard, change: &Change<'_>) -> Result<Vec<Candidate>, Fault> {
    let repo = &change.repository.name;
    let remote = yard
        .settings
        .remote(change.policy, repo, change.repository.clone_url.as_deref())
        .map_err(Fault::lasting)?;
    let git = |error: GitError| Fault { passing: error.is_transient(), why: error.to_string(), tell: None };
    let commit = yard
        .executor
        .git()
        .fetch(repo, &remote, change.commit, &change.hints, &CancellationToken::new())
        .await
        .map_err(git)?;
    let folders: Vec<Folder> = commit
        .image_folders()
        .await
        .map_err(git)?
        .into_iter()
        .map(|folder| Folder {
            path: folder.path,
            tree: folder.tree,
            dockerfile: file(folder.dockerfile),
            spec: file(folder.spec),
        })
        .collect();
    Ok(decide::candidates(&folders))
}

fn file(entry: Entry) -> File {
    match entry {
        Entry::Blob(bytes) => File::Text(bytes),
        Entry::TooLarge(size) => File::TooLarge(size),
        Entry::Symlink => File::Symlink,
        Entry::Other => File::NotAFile,
    }
}

/// What the registry holds under each candidate's version.
async fn published(yard: &Yard, candidates: &[Candidate]) -> Vec<Published> {
    let mut published = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let Ok(service) = &candidate.service else {
            published.push(Published::Nothing);
            continue;
        };
        published.push(match yard.executor.registry().published(&service.name, &service.version).await {
            Ok(None) => Published::Nothing,
            Ok(Some(image)) => {
                let tree = image.labels.get(TREE_LABEL).and_then(|tree| tree.parse().ok());
                Published::Image { digest: image.digest, tree }
            }
            Err(error) => {
                warn!(image = %service.name, error = %error, "the registry did not say what it has; the step asks again");
                Published::Unknown
            }
        });
    }
    published
}

/// The commit status for a merge that could not be decided at all.
fn could_not(change: &Change<'_>, why: &str) -> Option<Effect> {
    (change.forge == Forge::Github).then(|| {
        Effect::CommitStatus(CommitStatus {
            repo: change.repository.name.clone(),
            commit: change.commit,
            context: format!("mergeyard/{}", change.event),
            state: StatusState::Error,
            description: why.to_owned(),
            run: None,
        })
    })
}
