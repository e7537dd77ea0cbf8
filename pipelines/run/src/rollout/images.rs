//! Images that a target keeps: what is live, and what was before it, for a quick way back.

use std::collections::HashMap;

use bollard::{
    errors::Error,
    query_parameters::{ListImagesOptionsBuilder, RemoveImageOptions},
};
use mergeyard_types::Digest;

use crate::{StepFault, engine::Engine};

/// Removes all of `repository` but the digests to keep, and but what something runs from.
pub(super) async fn forget_others(
    engine: &Engine,
    repository: &str,
    keep: &[Digest],
) -> Result<(), StepFault> {
    let docker = engine.docker().await?;
    let ours = HashMap::from([("reference", vec![repository])]);
    let options = ListImagesOptionsBuilder::new().filters(&ours).build();
    let images = engine.checked("list images", docker.list_images(Some(options)).await).await?;
    for reference in images.iter().flat_map(|image| &image.repo_digests) {
        let Some((name, digest)) = reference.split_once('@') else { continue };
        if name != repository || digest.parse().is_ok_and(|digest| keep.contains(&digest)) {
            continue;
        }
        match docker.remove_image(reference, None::<RemoveImageOptions>, None).await {
            // 404: gone already; 409: something runs from it.
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
            other => drop(engine.checked("remove an image", other).await?),
        }
    }
    Ok(())
}
