//! The clone, built in: the commit becomes a working copy in the workflow's volume.
//!
//! It travels as one archive through the engine into a container that mounts the volume and is
//! never started, so it works with an engine on another machine and needs no image of anybody's.

use bollard::{
    body_try_stream,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::UploadToContainerOptionsBuilder,
};
use mergeyard_plan::action::CloneAction;

use super::{body, name, own_image, place};
use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    git::{Cause, Checkout, CheckoutSpec},
};

pub(crate) async fn clone(
    docker: &Docker,
    job: &StepJob,
    action: &CloneAction,
    cx: &StepContext,
) -> Result<StepOutcome, StepFault> {
    let spec = CheckoutSpec { depth: action.depth, tags: action.tags, folder: folder(action)? };
    let section = cx.log.section(format!("clone {} at {}", job.repo, job.commit.short())).await;
    let StepJob { repo, remote, commit, hints, .. } = job;
    let place = docker.places.of(job.workflow);
    let fetched = async {
        docker.git.checkout(repo, remote, *commit, hints, spec, &cx.cancel).await.map_err(StepFault::from)
    };
    // The network is for the steps after this one, and takes the engine as long as a small clone.
    let network = async {
        place.network(docker, job.workflow).await?;
        if job.followed {
            place.netns.make_ahead(&docker.engine, job.workflow);
        }
        Ok(())
    };
    let container = name(docker, job, "");
    let (checkout, (), ()) = tokio::try_join!(fetched, network, holder(docker, job, action, &container))?;
    for left_out in checkout.left_out().await? {
        cx.log.note(left_out).await;
    }
    send(docker, &container, checkout, action, cx).await?;
    place.volume_is_filled();
    section.finish().await;
    Ok(StepOutcome::Success { outputs: Default::default() })
}

/// Where the checkout is below the volume's root.
fn folder(action: &CloneAction) -> Result<String, StepFault> {
    let inside = action.directory.strip_prefix(action.base.trim_end_matches('/'));
    let inside = inside.filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let parts = inside.map(|rest| rest.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>());
    match parts.filter(|parts| !parts.contains(&"..") && !parts.contains(&".")) {
        Some(parts) => Ok(parts.join("/")),
        None => Err(StepFault::Failure(format!(
            "the workspace's path `{}` is not below its base `{}`",
            action.directory, action.base
        ))),
    }
}

/// The container that holds the volume.
async fn holder(
    docker: &Docker,
    job: &StepJob,
    action: &CloneAction,
    container: &str,
) -> Result<(), StepFault> {
    let body = ContainerCreateBody {
        image: Some(own_image::name()),
        entrypoint: Some(vec!["never-started".to_owned()]),
        labels: Some(body::labels(&docker.engine, job)),
        network_disabled: Some(true),
        host_config: Some(HostConfig {
            mounts: Some(vec![body::workspace(&docker.engine, job, &action.base)]),
            network_mode: Some("none".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    };
    own_image::create_of_it(&docker.engine, container, &body).await.map(drop)
}

async fn send(
    docker: &Docker,
    container: &str,
    checkout: Checkout,
    action: &CloneAction,
    cx: &StepContext,
) -> Result<(), StepFault> {
    let cause = Cause::default();
    let archive = cause.watch(checkout.tar(place::append_output_directory, &cx.cancel));
    let options = UploadToContainerOptionsBuilder::new().path(&action.base).build();
    let engine = &docker.engine;
    let sent =
        engine.docker().await?.upload_to_container(container, Some(options), body_try_stream(archive)).await;
    match sent {
        Ok(()) => Ok(()),
        // The engine only saw the archive end early; we know why it did.
        Err(e) => match cause.take() {
            Some(fault) => Err(fault),
            None => Err(engine.error("put the checkout into the workspace", &e).await.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_stays_inside_its_volume() {
        let at = |base: &str, directory: &str| {
            let (base, directory) = (base.to_owned(), directory.to_owned());
            folder(&CloneAction { base, directory, depth: None, tags: false }).ok()
        };
        assert_eq!(at("/woodpecker", "/woodpecker/src/a/b").as_deref(), Some("src/a/b"));
        assert_eq!(at("/sources/", "/sources").as_deref(), Some(""));
        for (base, directory) in [("/a", "/b"), ("/a", "/ab"), ("/a", "/a/../b"), ("/a", "b")] {
            assert_eq!(at(base, directory), None, "{directory}");
        }
    }
}
