//! Which content of an image a rollout is about.

use mergeyard_plan::{action::RolloutAction, decide, service::Service};
use mergeyard_types::{Digest, Version};

use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob},
    git::Entry,
};

/// What was asked for, or else what the run published, or else what the registry has under the
/// version that the commit's `spec.json` names. `None`: nothing of it is published.
pub(super) async fn digest(
    docker: &Docker,
    job: &StepJob,
    action: &RolloutAction,
    cx: &StepContext,
) -> Result<Option<Digest>, StepFault> {
    if let Some(digest) = action.digest {
        return Ok(Some(digest));
    }
    if let Some(version) = &action.version {
        return published(docker, action, version).await;
    }
    if let Some(digest) = job.images.get(&action.image) {
        return Ok(Some(*digest));
    }
    match of_commit(docker, job, action, cx).await? {
        Some(version) => published(docker, action, &version).await,
        None => Ok(None),
    }
}

/// Why there is none, and what to do.
pub(super) fn missing(action: &RolloutAction, docker: &Docker) -> String {
    let (image, host) = (&action.image, &docker.registry.access().host);
    match &action.version {
        Some(version) => {
            format!("registry {host} has no `{image}:{version}`: publish it, or name another version")
        }
        None => format!(
            "this run published no `{image}`, and registry {host} has none of this commit's version: build it with `uses: image` before, or name a version as in `image: {image}:1.0.0`"
        ),
    }
}

async fn published(
    docker: &Docker,
    action: &RolloutAction,
    version: &Version,
) -> Result<Option<Digest>, StepFault> {
    Ok(docker.registry.published(&action.image, version).await?.map(|published| published.digest))
}

async fn of_commit(
    docker: &Docker,
    job: &StepJob,
    action: &RolloutAction,
    cx: &StepContext,
) -> Result<Option<Version>, StepFault> {
    let commit = docker.git.fetch(&job.repo, &job.remote, job.commit, &job.hints, &cx.cancel).await?;
    for folder in commit.image_folders().await? {
        let Entry::Blob(bytes) = folder.spec else { continue };
        // What is wrong in a file is said by who builds from it.
        match Service::parse(&decide::path(&folder.path, "spec.json"), &bytes) {
            Ok(Service { name, version }) if name == action.image => return Ok(Some(version)),
            _ => {}
        }
    }
    Ok(None)
}
