//! Images that the engine needs before a step can begin, to build on or to run: from our own
//! registry, from its mirror of another, or from where they are published, each with its login.

use futures_util::future::try_join_all;

use crate::{
    StepFault,
    base_images::{in_mirror, registry_of},
    engine::{BaseCredentials, RegistryCredentials},
    engine_trust::Trust,
    executor::Docker,
    log::LogSink,
};

/// Whether an image that the engine has is asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pull {
    Missing,
    Always,
}

impl Docker {
    /// Brings all of `images` at the same time.
    pub(crate) async fn bring(&self, images: &[String], pull: Pull, log: &LogSink) -> Result<(), StepFault> {
        let mut credentials = self.base_credentials.clone();
        let ours = &self.registry.access().host;
        credentials.insert(ours.to_string(), self.registry_login());
        let from_ours = |image: &String| registry_of(image) == ours.as_str() || self.copy_of(image).is_some();
        if images.iter().any(from_ours) {
            self.trust(log).await;
        }
        try_join_all(images.iter().map(|image| self.bring_one(image, pull, &credentials, log))).await?;
        Ok(())
    }

    /// From our mirror of its registry, or else from its registry. Who wants an image that is
    /// being pulled already waits for it.
    async fn bring_one(
        &self,
        image: &str,
        pull: Pull,
        credentials: &BaseCredentials,
        log: &LogSink,
    ) -> Result<(), StepFault> {
        let _alone = self.one_pull_per_image.lock(&image.to_owned()).await;
        if pull == Pull::Missing && self.engine.has_image(image).await? {
            return Ok(());
        }
        let Some(copy) = self.copy_of(image) else {
            return self.engine.pull_base(image, credentials, log).await;
        };
        let why = match self.pull_from_mirror(&copy, image, credentials, log).await {
            Ok(()) => return Ok(()),
            Err(StepFault::Cancelled) => return Err(StepFault::Cancelled),
            Err(fault) => fault,
        };
        log.note(&format!("{image} does not come from the mirror: {why}; its own registry is asked")).await;
        self.engine.pull_base(image, credentials, log).await
    }

    async fn pull_from_mirror(
        &self,
        copy: &str,
        image: &str,
        credentials: &BaseCredentials,
        log: &LogSink,
    ) -> Result<(), StepFault> {
        // A step looks for the name it was given, and the engine gives nothing a name with a digest.
        if image.contains('@') {
            return Err(StepFault::lasting("the engine cannot rename what is named by digest"));
        }
        self.engine.pull_copy(copy, image, credentials, log).await
    }

    fn copy_of(&self, image: &str) -> Option<String> {
        in_mirror(image, &self.registry.access().host, &self.mirrors)
    }

    /// How our own registry lets us in.
    pub(crate) fn registry_login(&self) -> RegistryCredentials {
        let access = self.registry.access();
        RegistryCredentials { username: access.username.clone(), password: access.password.clone() }
    }

    /// Lets the engine know the registry's authority, or says what is missing before a push or a
    /// pull would say it less clearly.
    pub(crate) async fn trust(&self, log: &LogSink) {
        let access = self.registry.access();
        let Some(ca) = access.ca_pem.as_deref().filter(|_| self.engine.is_local()) else { return };
        let said = match self.engine.certs().ensure_trust(&access.host, ca) {
            Trust::LoopbackNeedsNone | Trust::AlreadyThere => return,
            Trust::Written(path) => {
                format!("wrote the registry's authority to {} for the engine", path.display())
            }
            Trust::CannotWrite { path, why } => {
                let path = path.display();
                format!(
                    "the engine needs the registry's authority in {path}, and it cannot be written: {why}"
                )
            }
        };
        log.note(&said).await;
    }
}
