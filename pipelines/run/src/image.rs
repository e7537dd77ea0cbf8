//! The image action: one folder of a commit becomes `<registry>/<name>:<version>`.
//!
//! Asking the registry and preparing the build happen at the same time. What is published
//! never changes: the same tree under the same version is done already, another tree is refused.

use std::collections::BTreeMap;

use mergeyard_plan::{action::ImageAction, decide};
use mergeyard_types::{ImageRef, Timestamp};

use crate::{
    StepFault,
    base_images::base_images,
    engine::{BuildSpec, TREE_LABEL},
    executor::{Docker, StepContext, StepJob, StepOutcome},
    exposed_secrets::exposed_secrets,
    git::Commit,
    log::seconds,
    pull::Pull,
    registry_client::Published,
};

pub(crate) async fn image(
    docker: &Docker,
    job: StepJob,
    action: ImageAction,
    cx: StepContext,
) -> Result<StepOutcome, StepFault> {
    let registry = docker.registry.access();
    let image = ImageRef::tagged(registry.host.clone(), action.name.clone(), action.version.clone());
    let _alone = docker.alone(&image).await;
    let step = ImageStep { docker, job: &job, action: &action, image: &image, cx: &cx };
    let (commit, time) = match tokio::try_join!(step.not_published(), step.prepare()) {
        Ok(((), prepared)) => prepared,
        Err(Early::Unchanged(published)) => return Ok(step.unchanged(&published).await),
        Err(Early::Fault(fault)) => return Err(fault),
    };
    step.build(&commit, time).await?;
    step.push().await?;
    let published = step.read_back().await?;
    cx.log.note(&format!("published {image} as {}", published.digest)).await;
    Ok(step.success(&published))
}

struct ImageStep<'a> {
    docker: &'a Docker,
    job: &'a StepJob,
    action: &'a ImageAction,
    image: &'a ImageRef,
    cx: &'a StepContext,
}

/// Why there is nothing to build.
enum Early {
    Unchanged(Published),
    Fault(StepFault),
}

impl<F: Into<StepFault>> From<F> for Early {
    fn from(fault: F) -> Self {
        Early::Fault(fault.into())
    }
}

impl ImageStep<'_> {
    async fn not_published(&self) -> Result<(), Early> {
        match self.docker.registry.published(&self.action.name, &self.action.version).await? {
            None => Ok(()),
            Some(published) if self.same_tree(&published) => Err(Early::Unchanged(published)),
            Some(published) => Err(Early::Fault(self.taken(&published))),
        }
    }

    /// The commit in the mirror and the base images in the engine.
    async fn prepare(&self) -> Result<(Commit, Timestamp), Early> {
        let StepJob { repo, commit, hints, remote, .. } = self.job;
        let section = self.cx.log.section(format!("fetch {repo} at {}", commit.short())).await;
        let commit = self.docker.git.fetch(repo, remote, *commit, hints, &self.cx.cancel).await?;
        let time = commit.time().await?;
        let dockerfile = self.dockerfile(&commit).await?;
        section.finish().await;
        self.warn(&dockerfile).await;
        self.base_images(&dockerfile).await?;
        Ok((commit, time))
    }

    async fn dockerfile(&self, commit: &Commit) -> Result<String, StepFault> {
        let path = self.dockerfile_path();
        let bytes = commit.required(&path, "a Dockerfile").await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn dockerfile_path(&self) -> String {
        decide::path(&self.action.folder, "Dockerfile")
    }

    async fn warn(&self, dockerfile: &str) {
        let path = self.dockerfile_path();
        for (line, why) in exposed_secrets(dockerfile, &self.job.secrets) {
            self.cx.log.note(&format!("warning: {path}:{line}: {why}")).await;
        }
    }

    async fn base_images(&self, dockerfile: &str) -> Result<(), StepFault> {
        let images = base_images(dockerfile);
        if images.is_empty() {
            return Ok(());
        }
        let section = self.cx.log.section(format!("base images {}", images.join(", "))).await;
        self.docker.bring(&images, Pull::Missing, &self.cx.log).await?;
        section.finish().await;
        Ok(())
    }

    async fn build(&self, commit: &Commit, time: Timestamp) -> Result<(), StepFault> {
        let section = self.cx.log.section(format!("build {}", self.image)).await;
        let spec = BuildSpec {
            context: commit.tar(&self.action.folder, &self.cx.cancel),
            tag: self.image.clone(),
            labels: self.labels(time),
            dockerfile: "Dockerfile".to_owned(),
            network: self.docker.network,
            limits: self.docker.limits.clone(),
            secrets: self.job.secrets.clone(),
            builder: self.docker.builder,
        };
        self.docker.engine.build(spec, &self.cx.log, &self.cx.cancel).await?;
        section.finish().await;
        Ok(())
    }

    async fn push(&self) -> Result<(), StepFault> {
        let section = self.cx.log.section(format!("push {}", self.image)).await;
        self.docker.trust(&self.cx.log).await;
        if let Err(fault) =
            self.docker.engine.push(self.image, &self.docker.registry_login(), &self.cx.log).await
        {
            return Err(self.why_not_pushed(fault).await);
        }
        section.finish().await;
        Ok(())
    }

    /// A registry that keeps versions immutable refuses the push when somebody else
    /// published the version meanwhile; then that is the thing to say.
    async fn why_not_pushed(&self, fault: StepFault) -> StepFault {
        match self.docker.registry.published(&self.action.name, &self.action.version).await {
            Ok(Some(published)) if !self.same_tree(&published) => self.taken(&published),
            _ => fault,
        }
    }

    /// What the registry has now; it must be what was built.
    async fn read_back(&self) -> Result<Published, StepFault> {
        let started = std::time::Instant::now();
        let published = self.docker.registry.published(&self.action.name, &self.action.version).await?;
        let published = published.ok_or_else(|| {
            StepFault::transient(format!("{} was pushed, but the registry does not have it", self.image))
        })?;
        if !self.same_tree(&published) {
            return Err(self.taken(&published));
        }
        self.cx.log.note(&format!("== read back in {}", seconds(started.elapsed()))).await;
        Ok(published)
    }

    fn same_tree(&self, published: &Published) -> bool {
        published.labels.get(TREE_LABEL).is_some_and(|tree| *tree == self.action.tree.to_string())
    }

    async fn unchanged(&self, published: &Published) -> StepOutcome {
        let ImageAction { name, version, .. } = self.action;
        self.cx.log.note(&decide::unchanged(name, version, &published.digest)).await;
        self.success(published)
    }

    fn success(&self, published: &Published) -> StepOutcome {
        let image = self.image.by_digest(published.digest);
        let outputs = [
            ("image", self.image.to_string()),
            ("digest", published.digest.to_string()),
            ("ref", image.to_string()),
        ];
        StepOutcome::Success { outputs: outputs.map(|(key, value)| (key.to_owned(), value)).into() }
    }

    /// The sentence that says what to bump.
    fn taken(&self, published: &Published) -> StepFault {
        let ImageAction { name, version, folder, .. } = self.action;
        let tree = published.labels.get(TREE_LABEL).and_then(|tree| tree.parse().ok());
        let spec = decide::path(folder, "spec.json");
        StepFault::Failure(decide::already_published(name, version, tree.as_ref(), &spec))
    }

    /// Only what the commit determines, so that the same commit makes the same image. The
    /// run and the step are not among it: they would make every attempt another digest.
    fn labels(&self, time: Timestamp) -> BTreeMap<String, String> {
        let ImageAction { name, version, tree, .. } = self.action;
        let mut labels = BTreeMap::from([
            ("org.opencontainers.image.revision".to_owned(), self.job.commit.to_string()),
            ("org.opencontainers.image.version".to_owned(), version.to_string()),
            ("org.opencontainers.image.title".to_owned(), name.to_string()),
            (TREE_LABEL.to_owned(), tree.to_string()),
        ]);
        if let Ok(created) = jiff::Timestamp::from_millisecond(time.0) {
            labels.insert("org.opencontainers.image.created".to_owned(), created.to_string());
        }
        if let Some(source) = &self.job.source_url {
            labels.insert("org.opencontainers.image.source".to_owned(), source.clone());
        }
        labels
    }
}
