//! Effects, performed: the fourth stage.
//!
//! At least once, in order within a lane, retried with growing pauses and given up
//! visibly. When GitHub asks for a pause, everything pauses.

use std::time::Duration;

use mergeyard_plan::effect::{self, Effect};
use tracing::{info, warn};

use crate::{
    github::{CommitStatus, GithubError},
    store::{Pending, StoreError},
    yard::Yard,
};

/// Tries before an effect is given up, over about a day.
const MOST_ATTEMPTS: u32 = 20;

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let now = yard.clock.now();
    let Some(pending) = yard.store.next_effect(now).await? else { return Ok(false) };
    let Effect::CommitStatus(status) = &pending.effect;
    let Some(github) = &yard.github else {
        let why = "no GitHub token is configured, so GitHub was not told";
        yard.store.effect_skipped(pending.id, why, now).await?;
        return Ok(true);
    };
    let told = github.set_status(&status.repo, status.commit, &translate(yard, status)).await;
    if told.is_ok() {
        yard.store.moment().await;
    }
    let now = yard.clock.now();
    match told {
        Ok(()) => {
            info!(repo = %status.repo, context = status.context, state = status.state.as_str(), "told GitHub");
            yard.store.effect_done(pending.id, now).await?;
        }
        Err(error) if error.is_permanent() || pending.attempts + 1 >= MOST_ATTEMPTS => {
            warn!(repo = %status.repo, error = %error, "gave up telling GitHub");
            yard.store.effect_dead(pending.id, &error.to_string(), now).await?;
        }
        Err(error) => {
            let pause = pause(&pending, &error);
            warn!(repo = %status.repo, error = %error, again_in = ?pause, "could not tell GitHub");
            let until = now.plus(pause);
            yard.store.effect_later(pending.id, &error.to_string(), until).await?;
            if error.retry_after().is_some() {
                yard.store.pause_effects(until).await?;
            }
        }
    }
    yard.changes.tell();
    Ok(true)
}

fn translate(yard: &Yard, status: &effect::CommitStatus) -> CommitStatus {
    let target = status.run.map(|run| yard.settings.run_url(run));
    CommitStatus {
        state: status.state,
        context: status.context.clone(),
        description: status.description.clone(),
        target_url: target,
    }
}

/// What GitHub asks for, or 1 s, 2 s, 4 s … an hour, spread a little so that many effects
/// that failed together do not come back together.
fn pause(pending: &Pending, error: &GithubError) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3600);
    error.retry_after().unwrap_or_else(|| {
        let doubled =
            Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(pending.attempts)).min(LONGEST);
        doubled + doubled.mul_f64((pending.id.0 % 16) as f64 / 64.0)
    })
}
