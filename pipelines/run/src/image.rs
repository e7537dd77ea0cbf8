//! The image action: one folder of a commit becomes `<registry>/<name>:<version>`.
//!
//! Asking the registry and preparing the build happen at the same time. What is published
//! never changes: the same tree under the same version is done already, another tree is refused.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use mergeyard_plan::{action::ImageAction, decide};
use mergeyard_types::{ImageRef, Timestamp};

use crate::{
    StepFault,
    base_images::{base_images, in_mirror, registry_of},
    engine::{BaseCredentials, BuildSpec, RegistryCredentials, TREE_LABEL},
    engine_trust::Trust,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    exposed_secrets::exposed_secrets,
    git::{Commit, Entry},
    log::seconds,
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
        let fail = |why: &str| Err(StepFault::Failure(format!("{path} {why}")));
        match commit.entry(&path).await? {
            Some(Entry::Blob(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Some(Entry::TooLarge(size)) => {
                fail(&format!("has {size} bytes, which is too large for a Dockerfile"))
            }
            Some(Entry::Symlink) => fail("is a symbolic link; commit the file itself"),
            Some(Entry::Other) => fail("is not a file"),
            None => fail(&format!("is not in commit {}", commit.sha().short())),
        }
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
        let mut credentials = self.docker.base_credentials.clone();
        let access = self.docker.registry.access();
        credentials.insert(access.host.to_string(), self.credentials());
        let from_ours =
            |image: &String| registry_of(image) == access.host.as_str() || self.copy_of(image).is_some();
        if images.iter().any(from_ours) {
            self.trust().await;
        }
        let section = self.cx.log.section(format!("base images {}", images.join(", "))).await;
        try_join_all(images.iter().map(|image| self.base_image(image, &credentials))).await?;
        section.finish().await;
        Ok(())
    }

    /// From our mirror of its registry, or else from its registry.
    async fn base_image(&self, image: &str, credentials: &BaseCredentials) -> Result<(), StepFault> {
        let (engine, log) = (&self.docker.engine, &self.cx.log);
        let Some(copy) = self.copy_of(image) else {
            return engine.ensure_image(image, credentials, log).await;
        };
        if engine.has_image(image).await? {
            return Ok(());
        }
        let why = match self.pull_from_mirror(&copy, image, credentials).await {
            Ok(()) => return Ok(()),
            Err(StepFault::Cancelled) => return Err(StepFault::Cancelled),
            Err(fault) => fault,
        };
        log.note(&format!("{image} does not come from the mirror: {why}; its own registry is asked")).await;
        engine.ensure_image(image, credentials, log).await
    }

    async fn pull_from_mirror(
        &self,
        copy: &str,
        image: &str,
        credentials: &BaseCredentials,
    ) -> Result<(), StepFault> {
        // A build looks for the name it was given, and the engine gives nothing a name with a digest.
        if image.contains('@') {
            return Err(StepFault::lasting("the engine cannot rename what is named by digest"));
        }
        self.docker.engine.pull_copy(copy, image, credentials, &self.cx.log).await
    }

    fn copy_of(&self, image: &str) -> Option<String> {
        in_mirror(image, &self.docker.registry.access().host, &self.docker.mirrors)
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
        self.trust().await;
        if let Err(fault) = self.docker.engine.push(self.image, &self.credentials(), &self.cx.log).await {
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

    /// Lets the engine know the registry's authority, or says what is missing before the
    /// push would say it less clearly.
    async fn trust(&self) {
        let access = self.docker.registry.access();
        let Some(ca) = access.ca_pem.as_deref().filter(|_| self.docker.engine.is_local()) else { return };
        match self.docker.engine.certs().ensure_trust(&access.host, ca) {
            Trust::LoopbackNeedsNone | Trust::AlreadyThere => {}
            Trust::Written(path) => {
                self.cx
                    .log
                    .note(&format!("wrote the registry's authority to {} for the engine", path.display()))
                    .await;
            }
            Trust::CannotWrite { path, why } => {
                let path = path.display();
                self.cx
                    .log
                    .note(&format!(
                        "the engine needs the registry's authority in {path}, and it cannot be written: {why}"
                    ))
                    .await;
            }
        }
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

    fn credentials(&self) -> RegistryCredentials {
        let access = self.docker.registry.access();
        RegistryCredentials { username: access.username.clone(), password: access.password.clone() }
    }
}
