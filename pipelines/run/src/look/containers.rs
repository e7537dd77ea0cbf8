//! The containers that run on a target's engine, and which of them is a service.

use std::collections::{HashMap, HashSet};

use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder};
use mergeyard_types::{Digest, ImageName, TargetName};

use super::{OutOfReach, Seen, Sought, Way};
use crate::{
    engine::{Engine, EngineError, STEP_LABEL},
    executor::Docker,
    rollout::{labels, reach::Reached},
    target::Target,
};

/// One container that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Running {
    labels: HashMap<String, String>,
    /// What it was made from, by the names and digests of registries: `HOST/NAME@DIGEST`.
    images: Vec<String>,
}

pub(super) async fn running(docker: &Docker, target: &Target) -> Result<Vec<Running>, OutOfReach> {
    let reached = Reached::open(docker, target).await.map_err(|fault| OutOfReach(fault.to_string()))?;
    on(reached.engine()).await.map_err(|error| OutOfReach(error.to_string()))
}

async fn on(engine: &Engine) -> Result<Vec<Running>, EngineError> {
    let docker = engine.docker().await?;
    let options = ListContainersOptionsBuilder::new().build();
    let containers = engine.checked("list containers", docker.list_containers(Some(options)).await).await?;
    let options = ListImagesOptionsBuilder::new().build();
    let images = engine.checked("list images", docker.list_images(Some(options)).await).await?;
    let named: HashMap<String, Vec<String>> =
        images.into_iter().map(|image| (image.id, image.repo_digests)).collect();
    let one = |container: bollard::models::ContainerSummary| Running {
        labels: container.labels.unwrap_or_default(),
        images: container.image_id.and_then(|id| named.get(&id).cloned()).unwrap_or_default(),
    };
    // What a step of a pipeline runs in is not deployed.
    let is_deployed = |running: &Running| !running.labels.contains_key(STEP_LABEL);
    Ok(containers.into_iter().map(one).filter(is_deployed).collect())
}

pub(super) fn find(running: &[Running], target: &TargetName, sought: &Sought) -> Seen {
    let digests: HashSet<Digest> = match sought.way {
        Way::Rollout => {
            let own: Vec<_> = running.iter().filter(|one| one.is_of(target, &sought.service)).collect();
            // Nobody reaches a service without its gateway, whatever runs behind it.
            let is_offered = own.iter().any(|one| one.label(labels::ROLE) == Some(labels::GATEWAY));
            own.iter()
                .filter(|_| is_offered)
                .filter_map(|one| one.label(labels::DIGEST)?.parse().ok())
                .collect()
        }
        Way::Playbook => running.iter().flat_map(|one| one.made_from(sought.image.as_ref())).collect(),
        Way::Mirror => HashSet::new(),
    };
    match digests.into_iter().max_by_key(|digest| (*digest == sought.digest, *digest)) {
        Some(digest) => Seen::Digest(digest),
        None if sought.way == Way::Rollout => Seen::Nothing,
        None => Seen::Untold,
    }
}

impl Running {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// Whether a rollout made it for this service.
    fn is_of(&self, target: &TargetName, service: &str) -> bool {
        let is = |name, value| self.label(name) == Some(value);
        is(labels::TARGET, target.as_str()) && is(labels::SERVICE, service)
    }

    fn made_from<'a>(&'a self, image: Option<&'a ImageName>) -> impl Iterator<Item = Digest> + 'a {
        self.images.iter().filter_map(move |reference| {
            let (name, digest) = reference.split_once('@')?;
            let is_it =
                image.is_some_and(|image| name.split_once('/').is_some_and(|(_, own)| own == image.as_str()));
            digest.parse().ok().filter(|_| is_it)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::Sha256([byte; 32])
    }

    fn sought(way: Way) -> Sought {
        let image = Some("team/clock".parse().unwrap());
        Sought { service: "clock".into(), way, image, digest: digest(1) }
    }

    fn target() -> TargetName {
        "vm".parse().unwrap()
    }

    fn rolled(target: &str, service: &str, role: &str, byte: u8) -> Running {
        let digest = digest(byte).to_string();
        let labels = [
            (labels::TARGET, target),
            (labels::SERVICE, service),
            (labels::ROLE, role),
            (labels::DIGEST, if role == labels::GATEWAY { "" } else { &digest }),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Running { labels, images: vec![] }
    }

    fn played(reference: &str, byte: u8) -> Running {
        Running { labels: HashMap::new(), images: vec![format!("{reference}@{}", digest(byte))] }
    }

    #[test]
    fn a_rollouts_container_is_known_by_its_labels() {
        let gateway = |target| rolled(target, "clock", labels::GATEWAY, 0);
        let version = |target, byte| rolled(target, "clock", labels::APPLICATION, byte);
        let find = |all: &[Running]| find(all, &target(), &sought(Way::Rollout));
        assert_eq!(find(&[gateway("vm"), version("vm", 2)]), Seen::Digest(digest(2)));
        assert_eq!(find(&[gateway("vm"), version("vm", 2), version("vm", 1)]), Seen::Digest(digest(1)));
        // What another target of the same engine runs, or what nobody is led to, is not it.
        assert_eq!(find(&[gateway("other"), version("other", 1), gateway("vm")]), Seen::Nothing);
        assert_eq!(find(&[version("vm", 1)]), Seen::Nothing);
        assert_eq!(find(&[]), Seen::Nothing);
    }

    #[test]
    fn what_a_playbook_started_is_known_by_its_image_or_not_at_all() {
        let find = |all: &[Running]| find(all, &target(), &sought(Way::Playbook));
        assert_eq!(find(&[played("registry.example.org:5000/team/clock", 2)]), Seen::Digest(digest(2)));
        // Two of them, as while one is drained: the one that was asked for is there.
        let two = [played("r:5000/team/clock", 2), played("r:5000/team/clock", 1)];
        assert_eq!(find(&two), Seen::Digest(digest(1)));
        for other in ["r:5000/clock", "team/clock", "r:5000/other/team/clock"] {
            assert_eq!(find(&[played(other, 1)]), Seen::Untold, "{other}");
        }
    }
}
