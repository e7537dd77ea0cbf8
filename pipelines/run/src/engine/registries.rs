//! What the engine itself thinks of a registry: it connects by itself, with its own trust.

use bollard::errors::Error;
use mergeyard_types::RegistryHost;

use super::{Engine, EngineError, RegistryCredentials, docker_credentials};

/// An image that nobody has: asking for it makes the engine connect, verify and log in, and
/// changes nothing on either side.
const NOBODYS_IMAGE: &str = "mergeyard/doctor:none";

/// How far the engine came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Connected, verified and let in.
    LetIn,
    /// Connected and verified; the login was refused, or there was none to try.
    LoginRefused,
    UnknownAuthority,
    /// The certificate was refused for another reason.
    Certificate(String),
    Failed(String),
}

impl Engine {
    pub async fn reach(
        &self,
        registry: &RegistryHost,
        login: Option<&RegistryCredentials>,
    ) -> Result<Reach, EngineError> {
        let docker = self.docker().await?;
        let credentials = login.map(|login| docker_credentials(login, registry.as_str()));
        let asked = docker.inspect_registry_image(&format!("{registry}/{NOBODYS_IMAGE}"), credentials).await;
        match asked {
            Ok(_) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(Reach::LetIn),
            Err(Error::DockerResponseServerError { status_code: 401 | 403, .. }) => Ok(Reach::LoginRefused),
            Err(error) => match self.error("ask the registry", &error).await {
                EngineError::Refused { why, .. } => Ok(sorted(why)),
                unreachable => Err(unreachable),
            },
        }
    }

    /// The hosts and networks whose registries this engine does not verify, as it was told.
    pub async fn insecure_registries(&self) -> Result<Vec<String>, EngineError> {
        let info = self.checked("tell about itself", self.docker().await?.info().await).await?;
        let Some(registries) = info.registry_config else { return Ok(Vec::new()) };
        let hosts = registries.index_configs.into_iter().flatten();
        let hosts = hosts.filter(|(_, index)| index.secure == Some(false)).map(|(host, _)| host);
        Ok(hosts.chain(registries.insecure_registry_cidrs.into_iter().flatten()).collect())
    }
}

fn sorted(why: String) -> Reach {
    if why.contains("x509:") && why.contains("unknown authority") {
        Reach::UnknownAuthority
    } else if why.contains("x509:") {
        Reach::Certificate(why)
    } else if why.contains("no basic auth credentials") {
        Reach::LoginRefused
    } else {
        Reach::Failed(why)
    }
}
