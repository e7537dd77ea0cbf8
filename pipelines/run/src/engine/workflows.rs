//! What a workflow has for itself in the engine: a network, a volume and its containers, all under
//! one name and one label, so that they are found again after a crash and removed whoever made them.

use std::collections::{HashMap, HashSet};

use bollard::{
    errors::Error,
    models::{ContainerSummary, NetworkCreateRequest},
    query_parameters::{
        ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
        RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    },
};
use futures_util::{StreamExt, TryStreamExt};
use mergeyard_types::{StepId, WorkflowId};
use sha2::{Digest, Sha256};

use super::{
    Engine, EngineError,
    images::{OWNER_LABEL, STEP_LABEL},
};

/// On whatever a workflow has in the engine: which workflow it is.
pub(crate) const WORKFLOW_LABEL: &str = "mergeyard.workflow";

/// On every container of a step: which of its attempts.
pub(crate) const ATTEMPT_LABEL: &str = "mergeyard.attempt";

/// On every volume that outlives its workflow: the key it is kept under.
pub(crate) const CACHE_LABEL: &str = "mergeyard.cache";

/// Containers removed at a time: an engine that is asked for all at once serves nobody else.
const REMOVALS_AT_ONCE: usize = 8;

/// A longer owner would not leave room for the rest of a name.
const LONGEST_OWNER_IN_A_NAME: usize = 40;

/// What is going on, and must be left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    pub steps: HashSet<StepId>,
    /// Workflows that have not ended: what their ended steps left is still needed.
    pub workflows: HashSet<WorkflowId>,
}

impl Live {
    fn has(&self, labels: &HashMap<String, String>) -> bool {
        let id = |label| labels.get(label).and_then(|id: &String| id.parse().ok());
        id(STEP_LABEL).is_some_and(|id| self.steps.contains(&StepId(id)))
            || id(WORKFLOW_LABEL).is_some_and(|id| self.workflows.contains(&WorkflowId(id)))
    }
}

impl FromIterator<StepId> for Live {
    fn from_iter<I: IntoIterator<Item = StepId>>(steps: I) -> Self {
        Live { steps: steps.into_iter().collect(), workflows: HashSet::new() }
    }
}

impl Engine {
    /// The name of a workflow's network and of its volume, and how those of its containers begin.
    pub(crate) fn workflow_name(&self, workflow: WorkflowId) -> String {
        format!("mergeyard-{}-w{workflow}", in_names(&self.namespace))
    }

    pub(crate) fn owner_label(&self) -> (String, String) {
        (OWNER_LABEL.to_owned(), self.namespace.clone())
    }

    pub(crate) fn workflow_labels(&self, workflow: WorkflowId) -> HashMap<String, String> {
        HashMap::from([self.owner_label(), (WORKFLOW_LABEL.to_owned(), workflow.to_string())])
    }

    /// Makes a workflow's network unless it is there.
    pub(crate) async fn ensure_workflow_network(
        &self,
        workflow: WorkflowId,
        internal: bool,
    ) -> Result<(), EngineError> {
        self.ensure_network(NetworkCreateRequest {
            name: self.workflow_name(workflow),
            internal: Some(internal),
            labels: Some(self.workflow_labels(workflow)),
            ..Default::default()
        })
        .await
    }

    /// Removes a workflow's containers, its network and its volume. Caches stay.
    pub(crate) async fn remove_workflow(&self, workflow: WorkflowId) -> Result<(), EngineError> {
        let labels = self.workflow_labels(workflow);
        let containers = self.containers_with(&labels).await?;
        self.remove_containers(containers).await?;
        let name = self.workflow_name(workflow);
        tokio::try_join!(self.forget_network(&name), self.forget_volume(&name))?;
        Ok(())
    }

    /// Removes the containers of a step's other attempts than `attempt`: one of them may have been
    /// cut off from us and still run.
    pub(crate) async fn remove_attempts(&self, step: StepId, attempt: u32) -> Result<(), EngineError> {
        let labels = HashMap::from([self.owner_label(), (STEP_LABEL.to_owned(), step.to_string())]);
        let mut containers = self.containers_with(&labels).await?;
        let this = attempt.to_string();
        containers.retain(|c| c.labels.as_ref().and_then(|labels| labels.get(ATTEMPT_LABEL)) != Some(&this));
        self.remove_containers(containers).await.map(drop)
    }

    pub(super) async fn sweep_workflows(&self, live: &Live) -> Result<usize, EngineError> {
        let Some(owner) = &self.owner else { return Ok(0) };
        let owned = HashMap::from([(OWNER_LABEL.to_owned(), owner.clone())]);
        let all = self.containers_with(&owned).await?;
        let labels = |container: &ContainerSummary| container.labels.clone().unwrap_or_default();
        let (steps, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|container| labels(container).contains_key(STEP_LABEL));
        let (kept, mut left): (Vec<_>, Vec<_>) = steps.into_iter().partition(|c| live.has(&labels(c)));
        let mut live = live.clone();
        let of_kept = kept.iter().filter_map(|c| labels(c).get(WORKFLOW_LABEL)?.parse().ok());
        live.workflows.extend(of_kept.map(WorkflowId));
        // A step may be in a network namespace that another container of its workflow holds.
        left.extend(others.into_iter().filter(|c| is_a_workflows(&labels(c)) && !live.has(&labels(c))));
        let containers = self.remove_containers(left).await?;
        Ok(containers + self.sweep_networks(&owned, &live).await? + self.sweep_volumes(&owned, &live).await?)
    }

    async fn sweep_networks(
        &self,
        owned: &HashMap<String, String>,
        live: &Live,
    ) -> Result<usize, EngineError> {
        let options = ListNetworksOptionsBuilder::new().filters(&filters(owned)).build();
        let networks = self.docker().await?.list_networks(Some(options)).await;
        let mut removed = 0;
        for network in self.checked("list networks", networks).await? {
            let labels = network.labels.unwrap_or_default();
            if let Some(name) = network.name.filter(|_| is_a_workflows(&labels) && !live.has(&labels)) {
                self.forget_network(&name).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn sweep_volumes(
        &self,
        owned: &HashMap<String, String>,
        live: &Live,
    ) -> Result<usize, EngineError> {
        let options = ListVolumesOptionsBuilder::new().filters(&filters(owned)).build();
        let volumes = self.docker().await?.list_volumes(Some(options)).await;
        let mut removed = 0;
        for volume in self.checked("list volumes", volumes).await?.volumes.unwrap_or_default() {
            if is_a_workflows(&volume.labels) && !live.has(&volume.labels) {
                self.forget_volume(&volume.name).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes an owner's oldest caches beyond `keep`. One that a container has mounted stays.
    pub(crate) async fn keep_caches(&self, owner: &str, keep: usize) -> Result<usize, EngineError> {
        let with = HashMap::from([
            (OWNER_LABEL.to_owned(), owner.to_owned()),
            (CACHE_LABEL.to_owned(), String::new()),
        ]);
        let options = ListVolumesOptionsBuilder::new().filters(&filters(&with)).build();
        let docker = self.docker().await?;
        let volumes = self.checked("list volumes", docker.list_volumes(Some(options)).await).await?;
        let mut volumes = volumes.volumes.unwrap_or_default();
        volumes.sort_by_key(|volume| std::cmp::Reverse(volume.created_at));
        let mut removed = 0;
        for volume in volumes.into_iter().skip(keep) {
            match docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await {
                Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                other => {
                    self.checked("remove a cache", other).await?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    async fn containers_with(
        &self,
        labels: &HashMap<String, String>,
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters(labels)).build();
        let containers = self.docker().await?.list_containers(Some(options)).await;
        self.checked("list containers", containers).await
    }

    async fn remove_containers(&self, containers: Vec<ContainerSummary>) -> Result<usize, EngineError> {
        let ids: Vec<String> = containers.into_iter().filter_map(|container| container.id).collect();
        let count = ids.len();
        let removals = ids.into_iter().map(|id| async move { self.forget_container(&id).await });
        futures_util::stream::iter(removals).buffer_unordered(REMOVALS_AT_ONCE).try_collect::<()>().await?;
        Ok(count)
    }

    /// Ends a container if it runs, and removes it and what it wrote. Gone already is fine.
    pub(crate) async fn forget_container(&self, container: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker().await?.remove_container(container, Some(options)).await {
            // 409: somebody else is removing it.
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            other => self.checked("remove a container", other).await,
        }
    }

    async fn forget_network(&self, name: &str) -> Result<(), EngineError> {
        match self.docker().await?.remove_network(name).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            other => self.checked(&format!("remove network {name}"), other).await,
        }
    }

    async fn forget_volume(&self, name: &str) -> Result<(), EngineError> {
        match self.docker().await?.remove_volume(name, None::<RemoveVolumeOptions>).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            other => self.checked(&format!("remove volume {name}"), other).await,
        }
    }
}

/// The volume that keeps one cache of an owner.
pub(crate) fn cache_name(owner: &str, key: &str) -> String {
    format!("mergeyard-{}-cache-{}", in_names(owner), short_hash(key))
}

/// An owner as it is when an engine takes it as part of a name, otherwise a hash of it.
fn in_names(owner: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if owner.len() <= LONGEST_OWNER_IN_A_NAME && owner.chars().all(plain) && !owner.is_empty() {
        owner.to_owned()
    } else {
        short_hash(owner)
    }
}

fn is_a_workflows(labels: &HashMap<String, String>) -> bool {
    labels.contains_key(WORKFLOW_LABEL)
}

/// All of `labels`; one without a value may have any.
fn filters(labels: &HashMap<String, String>) -> HashMap<String, Vec<String>> {
    let pair = |(label, value): (&String, &String)| match value.as_str() {
        "" => label.clone(),
        value => format!("{label}={value}"),
    };
    HashMap::from([("label".to_owned(), labels.iter().map(pair).collect())])
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ones_an_engine_takes_and_no_two_owners_share_them() {
        let name = |owner: &str| Engine::at("unix:///x").owned_by(owner).workflow_name(WorkflowId(7));
        assert_eq!(name("yard-1"), "mergeyard-yard-1-w7");
        let odd = [name("/var/lib/a"), name("/var/lib/b"), name(&"x".repeat(41)), name("")];
        for (at, name) in odd.iter().enumerate() {
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name}");
            assert!(name.len() < 64 && !odd[..at].contains(name));
        }
    }

    #[test]
    fn a_live_workflow_keeps_what_its_steps_left() {
        let live = Live { steps: [StepId(1)].into(), workflows: [WorkflowId(2)].into() };
        let labels = |step: &str, workflow: &str| {
            HashMap::from([(STEP_LABEL, step), (WORKFLOW_LABEL, workflow)].map(|(k, v)| (k.into(), v.into())))
        };
        assert!(live.has(&labels("1", "9")) && live.has(&labels("9", "2")));
        assert!(!live.has(&labels("2", "1")) && !live.has(&HashMap::new()));
    }
}
