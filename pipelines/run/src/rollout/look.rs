//! What a target really has of a service.

use std::collections::HashMap;

use bollard::{models::ContainerSummary, query_parameters::ListContainersOptionsBuilder};
use mergeyard_types::{Digest, StepId, TargetName};

use super::labels;
use crate::engine::{Engine, EngineError};

/// The containers of one service.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) gateway: Option<Container>,
    /// A gateway that was to take the other's place when its rollout was cut off.
    pub(super) next: Option<Container>,
    /// The newest first.
    pub(super) applications: Vec<Container>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    /// The image it was made from, as it was asked for.
    pub(super) image: String,
    pub(super) running: bool,
    created: i64,
    pub(super) digest: Option<Digest>,
    pub(super) step: Option<StepId>,
    pub(super) definition: String,
}

pub(super) async fn look(engine: &Engine, target: &TargetName, service: &str) -> Result<Found, EngineError> {
    let filters = labels::of_service(target, service);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listed = engine.docker().await?.list_containers(Some(options)).await;
    let mut found = Found::default();
    let name = gateway_name(service);
    for summary in engine.checked("list containers", listed).await? {
        let labels = summary.labels.clone().unwrap_or_default();
        let Some(container) = Container::read(summary, &labels) else { continue };
        match labels.get(labels::ROLE).map(String::as_str) {
            Some(labels::GATEWAY) if container.name == name => found.gateway = Some(container),
            Some(labels::GATEWAY) => found.next = Some(container),
            Some(labels::APPLICATION) => found.applications.push(container),
            _ => {}
        }
    }
    found.applications.sort_by_key(|container| std::cmp::Reverse(container.created));
    Ok(found)
}

impl Found {
    pub(super) fn application(&self, address: &str) -> Option<&Container> {
        let id = address.split(':').next().unwrap_or_default();
        self.applications.iter().find(|container| !id.is_empty() && container.id.starts_with(id))
    }
}

impl Container {
    fn read(summary: ContainerSummary, labels: &HashMap<String, String>) -> Option<Self> {
        use bollard::models::ContainerSummaryStateEnum::RUNNING;
        let label = |name: &str| labels.get(name).map(String::as_str);
        Some(Self {
            id: summary.id?,
            name: summary.names?.first()?.trim_start_matches('/').to_owned(),
            image: summary.image.unwrap_or_default(),
            running: summary.state == Some(RUNNING),
            created: summary.created.unwrap_or_default(),
            digest: label(labels::DIGEST).and_then(|digest| digest.parse().ok()),
            step: label(labels::DEPLOYED_BY).and_then(|step| step.parse().ok()).map(StepId),
            definition: label(labels::DEFINITION).unwrap_or_default().to_owned(),
        })
    }

    /// Where the gateway finds it: by the name that the engine gives each container for itself, so
    /// that no other container can ever be meant.
    pub(super) fn address(&self, port: u16) -> String {
        format!("{}:{port}", &self.id[..self.id.len().min(12)])
    }
}

pub(super) fn gateway_name(service: &str) -> String {
    format!("mergeyard-gateway-{service}")
}
