//! The image that has Ansible: one that the engine has, one of our registry, or one of another.

use std::collections::BTreeMap;

use mergeyard_types::{ImageName, RegistryHost};

use super::book::Images;
use crate::{StepFault, executor::Docker, log::LogSink, pull::Pull};

/// `HOST/NAME@sha256:…` by name: what a playbook puts live.
pub(super) fn references(host: &RegistryHost, images: &Images) -> BTreeMap<String, String> {
    images.iter().map(|(name, digest)| (name.to_string(), format!("{host}/{name}@{digest}"))).collect()
}

/// What the engine knows the image as, once it has it.
pub(super) async fn found(docker: &Docker, image: &str, log: &LogSink) -> Result<String, StepFault> {
    if docker.engine.has_image(image).await? {
        return Ok(image.to_owned());
    }
    let ours = in_ours(image, &docker.registry.access().host);
    let asked = ours.clone().unwrap_or_else(|| image.to_owned());
    match docker.bring(std::slice::from_ref(&asked), Pull::Missing, log).await {
        Ok(()) => Ok(asked),
        Err(fault) if ours.is_some() => Err(missing(image, &asked, &fault)),
        Err(fault) => Err(fault),
    }
}

/// A plain name is one of our registry's, as with every other step that names what runs published.
fn in_ours(image: &str, host: &RegistryHost) -> Option<String> {
    let name = image.split(['@', ':']).next().unwrap_or_default();
    let plain = !image.contains('/') && name.parse::<ImageName>().is_ok();
    plain.then(|| format!("{host}/{image}"))
}

fn missing(image: &str, asked: &str, fault: &StepFault) -> StepFault {
    let why = format!(
        "there is no image `{image}` in the engine, and it cannot be had as {asked} ({fault}): build it on the engine's machine with `docker build -t {image} examples/clock/ansible`, or name another that has ansible-playbook with `image:`"
    );
    let retry = matches!(fault, StepFault::Error { retry: true, .. });
    StepFault::Error { message: why, retry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_is_looked_for_in_our_registry() {
        let host: RegistryHost = "registry.example.org:5000".parse().unwrap();
        let ours = |image| in_ours(image, &host);
        assert_eq!(ours("mergeyard-ansible").unwrap(), "registry.example.org:5000/mergeyard-ansible");
        assert_eq!(ours("ansible:2").unwrap(), "registry.example.org:5000/ansible:2");
        for elsewhere in ["quay.io/ansible/x", "acme/ansible", "Ansible", ""] {
            assert_eq!(ours(elsewhere), None);
        }
        let fault = StepFault::transient("no such image");
        let why = missing("mergeyard-ansible", "r/mergeyard-ansible", &fault).to_string();
        assert!(why.contains("docker build -t mergeyard-ansible examples/clock/ansible"), "{why}");
    }
}
