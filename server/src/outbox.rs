//! Effects, performed: the fourth stage.
//!
//! At least once, in order within a lane, retried with growing pauses and given up
//! visibly. When GitHub asks for a pause, everything pauses.

use std::time::Duration;

use mergeyard_plan::effect::{self, DeploymentState, Effect};
use mergeyard_types::RepoName;
use tracing::{info, warn};

use crate::{
    github::{CommitStatus, DeploymentStatus, Github, GithubError, NewDeployment},
    store::{Pending, StoreError},
    yard::Yard,
};

/// Tries before an effect is given up, over about a day.
const MOST_ATTEMPTS: u32 = 20;

pub async fn turn(yard: &Yard) -> Result<bool, StoreError> {
    let now = yard.clock.now();
    let Some(pending) = yard.store.next_effect(now).await? else { return Ok(false) };
    let Some(github) = &yard.github else {
        let why = "no GitHub token is configured, so GitHub was not told";
        yard.store.effect_skipped(pending.id, why, now).await?;
        return Ok(true);
    };
    let (repo, about) = about(&pending.effect);
    let told = match &pending.effect {
        Effect::CommitStatus(status) => {
            github.set_status(&status.repo, status.commit, &translate(yard, status)).await
        }
        Effect::Deployment(deployment) => tell_deployment(yard, github, deployment).await?,
    };
    if told.is_ok() {
        yard.store.moment().await;
    }
    let now = yard.clock.now();
    match told {
        Ok(()) => {
            info!(%repo, about, "told GitHub");
            yard.store.effect_done(pending.id, now).await?;
        }
        Err(error) if error.is_permanent() || pending.attempts + 1 >= MOST_ATTEMPTS => {
            warn!(%repo, error = %error, "gave up telling GitHub");
            yard.store.effect_dead(pending.id, &error.to_string(), now).await?;
        }
        Err(error) => {
            let pause = pause(&pending, &error);
            warn!(%repo, error = %error, again_in = ?pause, "could not tell GitHub");
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

fn about(effect: &Effect) -> (&RepoName, String) {
    match effect {
        Effect::CommitStatus(status) => {
            (&status.repo, format!("{} {}", status.context, status.state.as_str()))
        }
        Effect::Deployment(deployment) => {
            let effect::Deployment { repo, target, service, state, .. } = deployment;
            (repo, format!("deployment of {service} to {target} {}", state.as_str()))
        }
    }
}

/// Makes the deployment at GitHub, unless it is there, and sets its status.
async fn tell_deployment(
    yard: &Yard,
    github: &Github,
    deployment: &effect::Deployment,
) -> Result<Result<(), GithubError>, StoreError> {
    let effect::Deployment { id, repo, state, .. } = deployment;
    let status = DeploymentStatus {
        state: *state,
        description: deployment.description.clone(),
        log_url: yard.settings.run_url(deployment.run),
    };
    let known = yard.store.deployment(*id).await?.and_then(|row| row.github);
    let made = match known {
        Some(known) => Ok(Some(known)),
        None => make_deployment(yard, github, deployment).await,
    };
    let github_id = match made {
        Ok(Some(github_id)) => github_id,
        Ok(None) => return Ok(Ok(())),
        Err(error) => return Ok(Err(error)),
    };
    if known.is_none() {
        yard.store.set_github_deployment(*id, github_id).await?;
    }
    Ok(github.set_deployment_status(repo, github_id, &status).await)
}

/// `None`: GitHub never heard of it, and it is not live any more.
async fn make_deployment(
    yard: &Yard,
    github: &Github,
    deployment: &effect::Deployment,
) -> Result<Option<u64>, GithubError> {
    let effect::Deployment { repo, commit, target, service, state, mark, .. } = deployment;
    let new = NewDeployment {
        commit: *commit,
        environment: target.clone(),
        description: format!("{service} by run {}", deployment.run),
        mark: mark.clone(),
    };
    let found = github.find_deployment(repo, &new).await?;
    if found.is_some() || *state == DeploymentState::Inactive {
        return Ok(found);
    }
    let made = github.create_deployment(repo, &new).await?;
    yard.store.moment().await;
    Ok(Some(made))
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
