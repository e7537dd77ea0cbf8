//! Schedules: runs that start by the clock.
//!
//! The database knows when each schedule is due next. That it was due and when it is due again
//! are one transaction with the delivery it causes, and the delivery's id is made from
//! the time it was due, so neither a crash nor a clock that is set back starts a run twice.
//! What was missed, however often, is caught up once.

use std::time::Duration;

use mergeyard_plan::event::{Asked, AskedKind};
use mergeyard_types::Timestamp;
use tracing::info;

use crate::{
    asked,
    config::Schedule,
    store::{Due, StoreError},
    yard::Yard,
};

/// How late a run may start.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let rules = yard.rules();
    let now = yard.clock.now();
    let known = yard.store.schedules().await?;
    for due in known.iter().filter(|due| !rules.schedules.iter().any(|schedule| is_of(schedule, due))) {
        yard.store.forget_schedule(&due.repo, &due.name).await?;
    }
    for schedule in &rules.schedules {
        let due = known.iter().find(|due| is_of(schedule, due));
        look(yard, schedule, due, now).await?;
    }
    Ok(false)
}

async fn look(yard: &Yard, schedule: &Schedule, due: Option<&Due>, now: Timestamp) -> Result<(), StoreError> {
    let Some(at) = schedule.next(now) else { return Ok(()) };
    let next = Due {
        repo: schedule.repo.clone(),
        name: schedule.name.clone(),
        expression: schedule.expression.clone(),
        at,
    };
    // A new or another schedule begins with its next time.
    let Some(due) = due.filter(|due| due.expression == schedule.expression) else {
        return yard.store.set_schedule(&next, None).await;
    };
    if due.at > now {
        // Due later than the next time is only what was noted before the clock was set back.
        return if due.at > next.at { yard.store.set_schedule(&next, None).await } else { Ok(()) };
    }
    let asked = Asked {
        kind: AskedKind::Cron,
        repository: schedule.repo.clone(),
        git_ref: schedule.branch.clone(),
        inputs: Default::default(),
        who: String::new(),
        name: schedule.name.clone(),
        occasion: due.at.0.to_string(),
    };
    yard.store.set_schedule(&next, Some(&asked::delivery(&asked, now))).await?;
    info!(repo = %schedule.repo, schedule = schedule.name, "a schedule was due");
    yard.wake.inbox.notify_one();
    yard.changes.tell();
    Ok(())
}

fn is_of(schedule: &Schedule, due: &Due) -> bool {
    schedule.name == due.name && schedule.repo.as_str().eq_ignore_ascii_case(due.repo.as_str())
}
