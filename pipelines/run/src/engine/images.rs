//! Images between the engine and registries, and sweeping up what a crash left.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use bollard::{
    errors::Error,
    query_parameters::{
        CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
        PushImageOptionsBuilder, RemoveImageOptions, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
    },
};
use futures_util::StreamExt;
use mergeyard_types::{Digest, ImageRef, RegistryHost, Timestamp};

use super::{BaseCredentials, Engine, EngineError, Live, RegistryCredentials, docker_credentials};
use crate::{StepFault, base_images::registry_of, log::LogSink};

/// On every container of a step: which step it belongs to.
pub(crate) const STEP_LABEL: &str = "mergeyard.step";

/// On every container made here: whose it is, see [`Engine::owned_by`].
pub(crate) const OWNER_LABEL: &str = "mergeyard.owner";

/// A younger image without a name may be one that a builder is about to name.
const SETTLED: Duration = Duration::from_secs(600);

/// On every image built here.
pub(crate) const TREE_LABEL: &str = "dev.mergeyard.tree";

impl Engine {
    /// Pulls a base image unless the engine has it already.
    pub async fn ensure_image(
        &self,
        image: &str,
        all: &BaseCredentials,
        log: &LogSink,
    ) -> Result<(), StepFault> {
        if self.has_image(image).await? {
            return Ok(());
        }
        self.pull_base(image, all, log).await
    }

    pub(crate) async fn has_image(&self, image: &str) -> Result<bool, StepFault> {
        match self.docker().await?.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(e) => Err(self.error("inspect an image", &e).await.into_pull_fault(image)),
        }
    }

    /// Pulls the copy of a base image and lets builds find it under the name they know.
    pub(crate) async fn pull_copy(
        &self,
        copy: &str,
        image: &str,
        all: &BaseCredentials,
        log: &LogSink,
    ) -> Result<(), StepFault> {
        self.pull_base(copy, all, log).await?;
        let (name, tag) = split_reference(image);
        let options = TagImageOptionsBuilder::new().repo(name).tag(tag).build();
        let tagged = self.docker().await?.tag_image(copy, Some(options)).await;
        self.checked("tag an image", tagged).await.map_err(StepFault::from)
    }

    pub(crate) async fn pull_base(
        &self,
        image: &str,
        all: &BaseCredentials,
        log: &LogSink,
    ) -> Result<(), StepFault> {
        let docker = self.docker().await?;
        let registry = registry_of(image);
        let credentials = all.get(registry).map(|c| docker_credentials(c, registry));
        let (name, tag) = split_reference(image);
        let options = CreateImageOptionsBuilder::new().from_image(name).tag(tag).build();
        let mut events = docker.create_image(Some(options), None, credentials);
        while let Some(event) = events.next().await {
            match event {
                Ok(info) if info.progress_detail.is_none() => {
                    log.note(&format!("{image}: {}", info.status.unwrap_or_default())).await;
                }
                Ok(_) => {}
                Err(e) => return Err(self.error("pull", &e).await.into_pull_fault(image)),
            }
        }
        Ok(())
    }

    /// Pushes an image that was built or tagged here.
    pub async fn push(
        &self,
        image: &ImageRef,
        credentials: &RegistryCredentials,
        log: &LogSink,
    ) -> Result<(), StepFault> {
        let docker = self.docker().await?;
        let registry = image.registry.as_str();
        let tag = image.version.as_ref().map_or("latest", |version| version.as_str());
        let options = PushImageOptionsBuilder::new().tag(tag).build();
        let repository = image.repository();
        let mut events =
            docker.push_image(&repository, Some(options), Some(docker_credentials(credentials, registry)));
        while let Some(event) = events.next().await {
            match event {
                Ok(info) if info.progress_detail.as_ref().is_none_or(|p| p.total.is_none()) => {
                    log.note(&info.status.unwrap_or_default()).await;
                }
                Ok(_) => {}
                Err(e) => {
                    let ca_file: PathBuf = self.certs().ca_file(&image.registry);
                    return Err(self.error("push", &e).await.into_push_fault(&image.to_string(), &ca_file));
                }
            }
        }
        Ok(())
    }

    pub async fn remove_image(&self, image: &str) -> Result<(), EngineError> {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        match self.docker().await?.remove_image(image, Some(options), None).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            other => self.checked("remove an image", other).await.map(drop),
        }
    }

    /// The digests, as registries know them, of the images that containers were made from. A
    /// container that is stopped counts: it may be started again.
    pub async fn running_digests(&self) -> Result<HashSet<Digest>, EngineError> {
        let docker = self.docker().await?;
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let containers = self.checked("list containers", docker.list_containers(Some(options)).await).await?;
        let running: HashSet<String> = containers.into_iter().filter_map(|c| c.image_id).collect();
        let options = ListImagesOptionsBuilder::new().build();
        let images = self.checked("list images", docker.list_images(Some(options)).await).await?;
        let digests =
            images.iter().filter(|image| running.contains(&image.id)).flat_map(|image| &image.repo_digests);
        Ok(digests.filter_map(|name| name.split_once('@')?.1.parse().ok()).collect())
    }

    /// Lets go of the older versions of what was built here for this registry. The newest `keep` of
    /// each image stay, as the cache of the next build, and so does what something runs from.
    pub async fn keep_newest(&self, registry: &RegistryHost, keep: usize) -> Result<usize, EngineError> {
        let docker = self.docker().await?;
        let ours = HashMap::from([("label", vec![TREE_LABEL])]);
        let options = ListImagesOptionsBuilder::new().filters(&ours).build();
        let mut images = self.checked("list images", docker.list_images(Some(options)).await).await?;
        images.sort_by_key(|image| std::cmp::Reverse(image.created));
        let mut kept: HashMap<&str, usize> = HashMap::new();
        let mut removed = 0;
        for tag in images.iter().flat_map(|image| &image.repo_tags) {
            let Some((name, _)) = tag.rsplit_once(':') else { continue };
            if registry_of(name) != registry.as_str() {
                continue;
            }
            let kept = kept.entry(name).or_default();
            if *kept < keep {
                *kept += 1;
                continue;
            }
            match docker.remove_image(tag, None::<RemoveImageOptions>, None).await {
                // 404: gone already; 409: something runs from it.
                Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                other => {
                    self.checked("remove an image", other).await?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Removes what a crash left: this owner's containers, networks and volumes that nothing in `live`
    /// needs, and images that lost their name to a later build. Says how many things it removed.
    pub async fn sweep(&self, live: &Live) -> Result<usize, EngineError> {
        Ok(self.sweep_workflows(live).await? + self.sweep_images().await?)
    }

    async fn sweep_images(&self) -> Result<usize, EngineError> {
        let docker = self.docker().await?;
        let ours = HashMap::from([("dangling", vec!["true"]), ("label", vec![TREE_LABEL])]);
        let options = ListImagesOptionsBuilder::new().filters(&ours).build();
        let images = self.checked("list images", docker.list_images(Some(options)).await).await?;
        let mut removed = 0;
        for image in images.into_iter().filter(|image| is_settled(image.created, Timestamp::now())) {
            match docker.remove_image(&image.id, None::<RemoveImageOptions>, None).await {
                // 404: gone already; 409: something still stands on it.
                Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                other => {
                    self.checked("remove an image", other).await?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// `created` is in seconds, as the engine says it.
fn is_settled(created: i64, now: Timestamp) -> bool {
    now.since(Timestamp(created.saturating_mul(1000))) > SETTLED
}

/// The name and the tag or digest, as the engine's pull wants them.
fn split_reference(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        let tagged = name.rfind(':').filter(|colon| !name[*colon..].contains('/'));
        return (tagged.map_or(name, |colon| &name[..colon]), digest);
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_just_made_is_nobodys_leftover() {
        let now = Timestamp(1_700_000_600_000);
        assert!(is_settled(1_699_999_000, now));
        assert!(!is_settled(1_700_000_599, now) && !is_settled(1_700_009_000, now));
    }

    #[test]
    fn references_split_as_the_engine_pulls_them() {
        for (image, name, tag) in [
            ("debian", "debian", "latest"),
            ("debian:12", "debian", "12"),
            ("host:5000/a/b", "host:5000/a/b", "latest"),
            ("host:5000/a/b:1", "host:5000/a/b", "1"),
            ("host:5000/a:1@sha256:00", "host:5000/a", "sha256:00"),
            ("host:5000/a@sha256:00", "host:5000/a", "sha256:00"),
        ] {
            assert_eq!(split_reference(image), (name, tag), "{image}");
        }
    }
}
