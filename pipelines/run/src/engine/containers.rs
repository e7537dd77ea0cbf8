//! Containers that are started to stay: what a published image is for.

use std::collections::HashMap;

use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, EndpointSettings, HostConfig, NetworkCreateRequest, NetworkingConfig,
        PortBinding,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, InspectNetworkOptions,
        RemoveContainerOptionsBuilder,
    },
};
use futures_util::StreamExt;
use mergeyard_types::ImageRef;

use super::{Engine, EngineError, RegistryCredentials, docker_credentials, images::OWNER_LABEL};

/// Enough for any small service, and no fork bomb.
const MOST_PROCESSES: i64 = 256;

/// A service to start: unprivileged, without capabilities, its root read-only.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub image: ImageRef,
    pub environment: Vec<(String, String)>,
    /// The network it joins, where others reach it by its name.
    pub network: String,
    /// The port inside that this machine, and nobody else, reaches on a free port of its own.
    pub publish: Option<u16>,
    pub labels: HashMap<String, String>,
}

impl Engine {
    /// Pulls an image of a private registry, by the digest when the reference has one.
    pub async fn pull(&self, image: &ImageRef, credentials: &RegistryCredentials) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let reference = match (&image.digest, &image.version) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(version)) => version.to_string(),
            (None, None) => "latest".to_owned(),
        };
        let options =
            CreateImageOptionsBuilder::new().from_image(&image.repository()).tag(&reference).build();
        let credentials = docker_credentials(credentials, image.registry.as_str());
        let mut events = docker.create_image(Some(options), None, Some(credentials));
        while let Some(event) = events.next().await {
            self.checked(&format!("pull {image}"), event).await?;
        }
        Ok(())
    }

    pub async fn create_network(
        &self,
        name: &str,
        labels: HashMap<String, String>,
    ) -> Result<(), EngineError> {
        let request =
            NetworkCreateRequest { name: name.to_owned(), labels: Some(labels), ..Default::default() };
        let created = self.docker().await?.create_network(request).await;
        self.checked(&format!("create network {name}"), created).await.map(drop)
    }

    /// Makes a bridge unless there is a network of that name.
    pub(crate) async fn ensure_network(&self, request: NetworkCreateRequest) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let name = request.name.clone();
        // The engine would make a second network of the same name.
        match docker.inspect_network(&name, None::<InspectNetworkOptions>).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            found => return self.checked(&format!("inspect network {name}"), found).await.map(drop),
        }
        let bridge = NetworkCreateRequest { driver: Some("bridge".to_owned()), ..request };
        match docker.create_network(bridge).await {
            // Somebody else was as fast.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            created => self.checked(&format!("create network {name}"), created).await.map(drop),
        }
    }

    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        let removed = self.docker().await?.remove_network(name).await;
        self.checked(&format!("remove network {name}"), removed).await
    }

    /// Starts a service; the port is the one of this machine that leads to it.
    pub async fn start(&self, service: &Service) -> Result<Option<u16>, EngineError> {
        let docker = self.docker().await?;
        let name = &service.name;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = docker.create_container(Some(options), self.container(service)).await;
        self.checked(&format!("create container {name}"), created).await?;
        let started = docker.start_container(name, None).await;
        self.checked(&format!("start container {name}"), started).await?;
        let Some(port) = service.publish else { return Ok(None) };
        let inspected = self
            .checked(&format!("inspect container {name}"), docker.inspect_container(name, None).await)
            .await?;
        let bindings = inspected.network_settings.and_then(|network| network.ports).unwrap_or_default();
        let bound = bindings.get(&format!("{port}/tcp")).cloned().flatten().unwrap_or_default();
        Ok(bound.iter().find_map(|binding| binding.host_port.as_ref()?.parse().ok()))
    }

    pub async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.docker().await?.remove_container(name, Some(options)).await;
        self.checked(&format!("remove container {name}"), removed).await
    }

    fn container(&self, service: &Service) -> ContainerCreateBody {
        let port = service.publish.map(|port| format!("{port}/tcp"));
        let mut labels = service.labels.clone();
        labels.extend(self.owner.iter().map(|owner| (OWNER_LABEL.to_owned(), owner.clone())));
        let here = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
        ContainerCreateBody {
            image: Some(service.image.to_string()),
            env: Some(service.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(labels),
            exposed_ports: port.clone().map(|port| vec![port]),
            host_config: Some(HostConfig {
                port_bindings: port.map(|port| HashMap::from([(port, Some(vec![here]))])),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                readonly_rootfs: Some(true),
                pids_limit: Some(MOST_PROCESSES),
                ..Default::default()
            }),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(
                    service.network.clone(),
                    EndpointSettings::default(),
                )])),
            }),
            ..Default::default()
        }
    }
}
