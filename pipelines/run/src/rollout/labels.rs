//! What is written on the containers of a rollout, so that the target itself tells what it runs.

use std::collections::{BTreeMap, HashMap};

use mergeyard_plan::action::RolloutAction;
use mergeyard_types::{DeploymentId, Digest, StepId, TargetName};
use sha2::{Digest as _, Sha256};

/// What the target is called.
pub(crate) const TARGET: &str = "mergeyard.target";
/// Which service of it.
pub(crate) const SERVICE: &str = "mergeyard.service";
/// Whether it is the service's gateway or one of its versions.
pub(crate) const ROLE: &str = "mergeyard.role";
pub(crate) const GATEWAY: &str = "gateway";
pub(crate) const APPLICATION: &str = "application";
/// Of an application: what it was made from, and by whom. The step is no step of a workflow that
/// could be swept away with it, so its label is another than theirs.
pub(super) const IMAGE: &str = "mergeyard.image";
pub(crate) const DIGEST: &str = "mergeyard.digest";
pub(super) const DEPLOYMENT: &str = "mergeyard.deployment";
pub(super) const DEPLOYED_BY: &str = "mergeyard.deployed-by";
/// All that was asked for, as a hash: another one needs another container.
pub(super) const DEFINITION: &str = "mergeyard.definition";

/// Raised when a gateway of before cannot serve any more: nothing else makes gateways anew when
/// mergeyard becomes newer.
const GATEWAY_GENERATION: u32 = 1;

/// Raised when application containers are made differently.
const APPLICATION_GENERATION: u32 = 1;

pub(super) fn of_gateway(action: &RolloutAction) -> HashMap<String, String> {
    labels(&[
        (TARGET, action.target.to_string()),
        (SERVICE, action.service.clone()),
        (ROLE, GATEWAY.to_owned()),
        (DEFINITION, gateway_definition(action)),
    ])
}

pub(super) fn of_application(
    action: &RolloutAction,
    digest: Digest,
    definition: &str,
    deployment: DeploymentId,
    step: StepId,
) -> HashMap<String, String> {
    labels(&[
        (TARGET, action.target.to_string()),
        (SERVICE, action.service.clone()),
        (ROLE, APPLICATION.to_owned()),
        (IMAGE, action.image.to_string()),
        (DIGEST, digest.to_string()),
        (DEPLOYMENT, deployment.to_string()),
        (DEPLOYED_BY, step.to_string()),
        (DEFINITION, definition.to_owned()),
    ])
}

/// Those of one service.
pub(super) fn of_service(target: &TargetName, service: &str) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([("label", vec![format!("{TARGET}={target}"), format!("{SERVICE}={service}")])])
}

pub(super) fn gateway_definition(action: &RolloutAction) -> String {
    let mut publish: Vec<&str> = action.publish.iter().map(String::as_str).collect();
    publish.sort_unstable();
    let port = action.port.to_string();
    let generation = GATEWAY_GENERATION.to_string();
    let mut parts = vec![generation.as_str(), &action.network, &port];
    parts.extend(publish);
    hash(&parts)
}

pub(super) fn application_definition(
    action: &RolloutAction,
    digest: Digest,
    environment: &BTreeMap<String, String>,
) -> String {
    let digest = digest.to_string();
    let port = action.port.to_string();
    let generation = APPLICATION_GENERATION.to_string();
    let mut parts = vec![generation.as_str(), &digest, &port, &action.network];
    parts.push(action.user.as_deref().unwrap_or_default());
    parts.push("environment");
    parts.extend(environment.iter().flat_map(|(name, value)| [name.as_str(), value]));
    parts.push("command");
    parts.extend(action.command.iter().map(String::as_str));
    parts.push("volumes");
    parts.extend(action.volumes.iter().map(String::as_str));
    hash(&parts)
}

fn labels(pairs: &[(&str, String)]) -> HashMap<String, String> {
    pairs.iter().map(|(label, value)| ((*label).to_owned(), value.clone())).collect()
}

/// Each part with its length: no two lists of parts run together.
fn hash(parts: &[&str]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part.as_bytes());
    }
    sha.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
