//! Drift: what targets run, compared with what was deployed to them.
//!
//! A person on a machine, or a program that is not ours, may change what runs there. Each target
//! is looked at soon after a deployment and then from time to time. What is seen is written
//! down beside the deployment it was compared with; it changes nothing on the target, and a
//! machine that does not answer has not drifted.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use mergeyard_run::look::{OutOfReach, Seen as Found, Sought};
use mergeyard_types::Timestamp;
use tracing::{info, warn};

use crate::{
    config::ConfiguredTarget,
    store::{Deployed, Look, Seen, StoreError},
    targets::{self, Standing},
    yard::Yard,
};

/// How late a look may be.
pub const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Targets that are looked at together; most of a look is waiting for an answer.
const AT_ONCE: usize = 8;

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let (rules, now) = (yard.rules(), yard.clock.now());
    let all = targets::all(&yard.store, &rules, now).await?;
    let mut due = Vec::new();
    for standing in &all {
        if let Some(defined) = standing.defined.as_ref().filter(|defined| is_due(standing, defined, now)) {
            due.push(look(yard, standing, defined));
        }
    }
    let mut looks = stream::iter(due).buffer_unordered(AT_ONCE);
    while let Some(looked) = looks.next().await {
        for seen in looked {
            note(yard, &seen).await?;
        }
    }
    Ok(false)
}

/// Whether its time has come, or something was deployed that nobody has looked at. While a deployment
/// goes on, what runs is between two answers.
fn is_due(standing: &Standing, defined: &ConfiguredTarget, now: Timestamp) -> bool {
    let Some(every) = defined.drift_every else { return false };
    let mut live = standing.services.iter().filter(|service| service.live.is_some());
    let is_due = |looked: Timestamp| now.since(looked) >= every || looked > now;
    standing.deploying().next().is_none()
        && live.any(|service| service.drift.as_ref().is_none_or(|drift| is_due(drift.looked)))
}

async fn look(yard: &Yard, standing: &Standing, defined: &ConfiguredTarget) -> Vec<Look> {
    let begun = yard.clock.now();
    let live: Vec<&Deployed> = standing.services.iter().filter_map(|one| one.live.as_ref()).collect();
    let sought: Vec<Sought> = live.iter().map(|one| sought(one)).collect();
    let found = yard.executor.look(&defined.target, &sought).await;
    let each = live.iter().zip(found).map(|(one, found)| Look {
        deployment: one.row.id,
        target: standing.name.clone(),
        service: one.row.service.clone(),
        begun,
        seen: compare(one, found),
    });
    each.collect()
}

fn sought(one: &Deployed) -> Sought {
    Sought {
        service: one.row.service.clone(),
        way: one.way,
        image: one.row.image.clone(),
        digest: one.row.digest,
    }
}

fn compare(one: &Deployed, found: Result<Found, OutOfReach>) -> Seen {
    match found {
        Ok(Found::Digest(digest)) if digest == one.row.digest => Seen::Same,
        Ok(Found::Digest(digest)) => Seen::Differs(digest),
        Ok(Found::Nothing) => Seen::Gone,
        Ok(Found::Untold) => Seen::Untold,
        Err(OutOfReach(why)) => Seen::Unreachable { why },
    }
}

async fn note(yard: &Yard, look: &Look) -> Result<(), StoreError> {
    let Some(is_new) = yard.store.note_look(look, yard.clock.now()).await? else { return Ok(()) };
    yard.changes.tell();
    let Look { target, service, seen, .. } = look;
    match seen {
        _ if !is_new => {}
        Seen::Differs(digest) => {
            warn!(%target, service, runs = %digest, "something else runs on a target than was deployed")
        }
        Seen::Gone => warn!(%target, service, "what was deployed to a target does not run there any more"),
        Seen::Unreachable { why } => warn!(%target, service, why, "a target could not be looked at"),
        Seen::Same | Seen::Untold => info!(%target, service, seen = %seen.word(), "looked at a target"),
    }
    Ok(())
}
