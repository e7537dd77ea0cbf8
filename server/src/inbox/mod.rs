//! From a delivery to a decision: the second stage.
//!
//! What may fail for a while (the git server, the database) is tried again with growing
//! pauses; what cannot work, or did not after [`MOST_ATTEMPTS`], ends as `dead` with its
//! reason, where a person sees it and can replay it. Deliveries behind it go on.

mod builtin;
mod changed;
mod facts;
mod rehearse;
mod sources;
mod work;

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use mergeyard_plan::{
    change::{self, At, Change, Identity},
    decide::PlannedRun,
    effect::{CommitStatus, Effect, StatusState},
    event::{Event, Forge},
};
use mergeyard_run::git::{GitError, Remote};
use mergeyard_types::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use rehearse::rehearse;
use work::Work;

use crate::{
    payload,
    store::{Claimed, Created, Source, StoreError, Verdict},
    yard::Yard,
};

/// Tries before a delivery is given up: with the pauses between them about half an hour,
/// which outlives a restart of a git server.
pub const MOST_ATTEMPTS: u32 = 6;

/// A plan is made with the number its run will have, and made again when another run takes that
/// in the meantime; after so many times it is tried later.
const MOST_NUMBERS: usize = 5;

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
    // On the heap: it holds a commit's whole way, and a worker's stack has other guests.
    let decided = AssertUnwindSafe(Box::pin(decide(yard, &claimed))).catch_unwind().await;
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

impl From<GitError> for Fault {
    fn from(error: GitError) -> Self {
        Self { passing: error.is_transient(), why: error.to_string(), tell: None }
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
    yard.store.settle_delivery(&claimed.id, verdict, tell.map(|effect| *effect).as_slice(), now).await
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
    let event = read(yard, claimed).await?;
    let rules = yard.rules();
    let identity = match event.repository() {
        Some(repository) => yard.store.identity(repository).await?,
        None => Identity::default(),
    };
    let now = yard.clock.now();
    let change = match change::change(&event, &rules.policies, &identity) {
        Ok(change) => change,
        Err(why) => return ignore(yard, claimed, why, &[], now).await,
    };
    let repository = &change.repository;
    let remote = yard
        .settings
        .remote(change.policy, &repository.name, repository.clone_url.as_deref())
        .map_err(Fault::lasting)?;
    let change = located(yard, change, &remote).await?;
    for _ in 0..MOST_NUMBERS {
        let number = yard.store.next_run().await?;
        let decided = Box::pin(work::decide(yard, &event, &change, &remote, (number, now))).await;
        let decision = decided.map_err(|mut fault| {
            fault.tell = could_not(&change, &fault.why).map(Box::new);
            fault
        })?;
        let mut plan = match decision {
            Work::Nothing { why, tell } => return ignore(yard, claimed, why, &tell, now).await,
            Work::Run(plan) => plan,
        };
        hold(yard, &change, &mut plan).await?;
        let created =
            yard.store.create_run(&claimed.id, claimed.replays, &change.repository, &plan, now).await?;
        match created {
            Created::Run(run) => {
                info!(delivery = %claimed.id, %run, repo = %plan.repo, commit = %plan.commit, "started a run");
                return Ok(());
            }
            Created::Already(_) => return Ok(()),
            Created::Overtaken => {}
        }
    }
    let why = "other runs took its number each time it was planned".to_owned();
    Err(Fault { why, passing: true, tell: None })
}

async fn ignore(
    yard: &Yard,
    claimed: &Claimed,
    why: String,
    tell: &[Effect],
    now: Timestamp,
) -> Result<(), Fault> {
    info!(delivery = %claimed.id, why, "ignored a delivery");
    Ok(yard.store.settle_delivery(&claimed.id, Verdict::Ignored(why), tell, now).await?)
}

async fn read(yard: &Yard, claimed: &Claimed) -> Result<Event, Fault> {
    let body = payload::decompress(&claimed.body).map_err(|error| Fault::lasting(error.to_string()))?;
    let json =
        payload::json(&claimed.content_type, &body).map_err(|error| Fault::lasting(error.to_string()))?;
    let event = match claimed.source {
        Source::Github => Event::from_github(&claimed.event, &json),
        Source::Git => Event::from_git(&json),
        Source::Mergeyard => Event::from_mergeyard(&json),
    };
    match event.map_err(|error| Fault::lasting(error.to_string()))? {
        Event::Asked { asked, .. } => {
            let name = asked.repository.clone();
            let rules = yard.rules();
            let seen = yard.store.last_seen(&name).await?;
            let never = || yard.settings.never_seen(name.clone(), rules.policies.of(&name));
            let (forge, repository) = seen.unwrap_or_else(never);
            Ok(Event::Asked { forge, repository, asked })
        }
        event => Ok(event),
    }
}

/// The change with its commit, which the event may leave to a reference.
async fn located<'a>(yard: &Yard, change: Change<'a, At>, remote: &Remote) -> Result<Change<'a>, Fault> {
    let git_ref = match &change.commit {
        At::Commit(commit) => {
            let commit = *commit;
            return Ok(change.at(commit, None));
        }
        At::Tip(git_ref) => git_ref.clone(),
    };
    let repo = &change.repository.name;
    let tip = yard.executor.git().tip(repo, remote, git_ref.as_ref(), &CancellationToken::new()).await?;
    let what = || git_ref.as_ref().map_or_else(|| "a default branch".to_owned(), |name| format!("`{name}`"));
    // What was announced a moment ago may not have reached every replica of a hosting service.
    let missing = || Fault { why: format!("{repo} has no {}", what()), passing: true, tell: None };
    let tip = tip.ok_or_else(missing)?;
    Ok(change.at(tip.commit, Some(tip.git_ref)))
}

/// A pull request from a fork waits for a person unless all whose word it is are trusted. Who
/// they are is the forge's number for them: names and authors of commits can be chosen.
async fn hold(yard: &Yard, change: &Change<'_>, plan: &mut PlannedRun) -> Result<(), Fault> {
    let Some(fork) = &change.fork else { return Ok(()) };
    plan.fork = true;
    plan.account = fork.accounts.first().copied();
    for account in &fork.accounts {
        if !yard.store.is_trusted(&change.known_as, *account).await? {
            plan.account = Some(*account);
            plan.hold = Some(format!(
                "a pull request from a fork, by {} (account {account}), waits for somebody to approve it",
                change.author
            ));
            return Ok(());
        }
    }
    if fork.unknown {
        plan.hold = Some("the fork it comes from is gone, so it waits for somebody to approve it".to_owned());
    }
    Ok(())
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
