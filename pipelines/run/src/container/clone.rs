//! The clone, built in: the commit becomes a working copy in the workflow's volume.
//!
//! It travels as one archive through the engine into a container that mounts the volume and is
//! never started, so it works with an engine on another machine and needs no image of anybody's.

use bollard::{
    body_try_stream,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{CreateImageOptionsBuilder, UploadToContainerOptionsBuilder},
};
use bytes::Bytes;
use futures_util::StreamExt;
use mergeyard_plan::action::CloneAction;

use super::{Made, body, create, name, place};
use crate::{
    StepFault,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    git::{Cause, Checkout, CheckoutSpec},
};

/// An image with nothing in it, for containers that only hold a volume.
const EMPTY_IMAGE: (&str, &str) = ("mergeyard/empty", "1");

/// Two blocks of zeros are an archive of nothing.
const EMPTY_ARCHIVE: [u8; 1024] = [0; 1024];

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
    let network = async { place.network(docker, job.workflow).await.map_err(StepFault::from) };
    let container = name(docker, job, "");
    let (checkout, (), ()) = tokio::try_join!(fetched, network, holder(docker, job, action, &container))?;
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
        image: Some(format!("{}:{}", EMPTY_IMAGE.0, EMPTY_IMAGE.1)),
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
    if let Made::NoImage = create(docker, container, &body).await? {
        import_empty_image(docker).await?;
        create(docker, container, &body).await?;
    }
    Ok(())
}

async fn import_empty_image(docker: &Docker) -> Result<(), StepFault> {
    let (name, tag) = EMPTY_IMAGE;
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(name).tag(tag).build();
    let archive = bollard::body_full(Bytes::from_static(&EMPTY_ARCHIVE));
    let engine = &docker.engine;
    let connection = engine.docker().await?;
    let mut events = connection.create_image(Some(options), Some(archive), None);
    while let Some(event) = events.next().await {
        engine.checked("make an empty image", event).await?;
    }
    Ok(())
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
