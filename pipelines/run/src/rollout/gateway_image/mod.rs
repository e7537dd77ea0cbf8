//! The image that a gateway runs from: this program, and what it needs to be started.
//!
//! It is made where it is needed, of what runs, so a target needs nothing but Docker and no image
//! has to be published for a gateway. The same program makes the same image, byte for byte, and is
//! sent to an engine only when that does not have it.

mod archive;
mod program;

use std::{collections::HashMap, path::Path};

use bollard::{
    body_full,
    errors::Error,
    query_parameters::{ImportImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptions},
};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::{StepFault, engine::Engine, log::LogSink};
use archive::Archive;
pub(super) use archive::PROGRAM;
use program::Program;

/// All gateways' images, by their content.
const REPOSITORY: &str = "mergeyard/gateway";

/// The image's name in the engine, which has it from now on.
pub(super) async fn ensure(engine: &Engine, program: &Path, log: &LogSink) -> Result<String, StepFault> {
    let docker = engine.docker().await?;
    let version = engine.checked("tell its version", docker.version().await).await?;
    let (os, arch) = (version.os.unwrap_or_default(), version.arch.unwrap_or_default());
    if os != "linux" || arch != archive::architecture() {
        return Err(StepFault::lasting(format!(
            "the target's engine runs {os}/{arch} and mergeyard here is linux/{}: a gateway is made of mergeyard's own program, so both have to be of the same kind",
            archive::architecture()
        )));
    }
    let program = Program::read(program).await.map_err(|why| {
        StepFault::lasting(format!("the gateway's image cannot be made of mergeyard's own program: {why}"))
    })?;
    let made = tokio::task::spawn_blocking(move || Archive::of(REPOSITORY, &program)).await;
    let archive = made.map_err(std::io::Error::other).and_then(|made| made);
    let Archive { name, bytes } =
        archive.map_err(|why| StepFault::lasting(format!("the gateway's image cannot be made: {why}")))?;
    if engine.has_image(&name).await? {
        return Ok(name);
    }
    let mib = bytes.len() as f64 / f64::from(1 << 20);
    let section = log.section(format!("gateway image {name}, {mib:.1} MiB, once for this version")).await;
    load(engine, bytes).await?;
    if !engine.has_image(&name).await? {
        return Err(StepFault::transient(format!("the engine took the image {name} and does not have it")));
    }
    section.finish().await;
    Ok(name)
}

async fn load(engine: &Engine, archive: Vec<u8>) -> Result<(), StepFault> {
    let docker = engine.docker().await?;
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let mut events = docker.import_image(options, body_full(Bytes::from(archive)), None);
    while let Some(event) = events.next().await {
        engine.checked("load the gateway's image", event).await?;
    }
    Ok(())
}

/// Removes the images that no gateway runs from: those of versions before.
pub(super) async fn forget_unused(engine: &Engine) -> Result<(), StepFault> {
    let docker = engine.docker().await?;
    let ours = HashMap::from([("reference", vec![REPOSITORY])]);
    let options = ListImagesOptionsBuilder::new().filters(&ours).build();
    let images = engine.checked("list images", docker.list_images(Some(options)).await).await?;
    for tag in images.iter().flat_map(|image| &image.repo_tags) {
        match docker.remove_image(tag, None::<RemoveImageOptions>, None).await {
            // 404: gone already; 409: a gateway runs from it.
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
            other => drop(engine.checked("remove an image", other).await?),
        }
    }
    Ok(())
}
