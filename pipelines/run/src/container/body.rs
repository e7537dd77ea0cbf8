//! How one container is asked for: the step's wishes inside the operator's limits.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions, NetworkingConfig,
};
use mergeyard_plan::action::{Cache, ContainerAction};

use super::{
    netns::Netns,
    outputs,
    script::{Epilogue, script, telling_script},
};
use crate::{
    StepFault,
    engine::{ATTEMPT_LABEL, CACHE_LABEL, Engine, OWNER_LABEL, STEP_LABEL, cache_name},
    executor::{ContainerLimits, Docker, StepJob},
};

/// Of Docker's capabilities those that no ordinary step needs: making device nodes, and raw
/// sockets, with which one container of a network can pretend to be another. What a package manager
/// run by root needs stays: changing owners, users and modes, and binding low ports. `ping` works without.
pub(crate) const DROPPED_CAPABILITIES: [&str; 2] = ["MKNOD", "NET_RAW"];

/// The longest argument or variable a Linux kernel hands to a program.
const MAX_WORD_BYTES: usize = 128 * 1024 - 1;

/// Where a container that names no network is.
#[derive(Clone, Copy)]
pub(super) enum Network<'a> {
    /// In its workflow's, with a namespace of its own, and others find it by its name.
    Own,
    Joined(&'a Netns),
}

/// All that a container is made from.
pub(super) fn body(
    docker: &Docker,
    job: &StepJob,
    action: &ContainerAction,
    epilogue: &Epilogue,
    network: Network<'_>,
) -> Result<ContainerCreateBody, StepFault> {
    let (engine, limits) = (&docker.engine, &docker.containers);
    let (entrypoint, environment) = (entrypoint(job, action, epilogue), environment(job, action));
    fits(&job.name, &entrypoint, &environment)?;
    let exposed = action.ports.iter().map(|port| exposed_port(port)).collect::<Vec<_>>();
    Ok(ContainerCreateBody {
        image: Some(action.image.clone()),
        entrypoint,
        env: Some(environment),
        working_dir: Some(action.directory.clone()),
        user: action.user.clone(),
        labels: Some(labels(engine, job)),
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        stop_timeout: i64::try_from(limits.grace.as_secs()).ok(),
        host_config: Some(host_config(docker, job, action, network)),
        networking_config: networking(engine, job, action, network),
        ..Default::default()
    })
}

/// The file of this attempt that `$CI_OUTPUT` names.
pub(super) fn output_path(job: &StepJob, action: &ContainerAction) -> String {
    let base = action.base.trim_end_matches('/');
    format!("{base}/{}/output-{}-{}", outputs::DIRECTORY, job.step, job.attempt)
}

pub(super) fn labels(engine: &Engine, job: &StepJob) -> HashMap<String, String> {
    let mut labels = engine.workflow_labels(job.workflow);
    labels.insert(STEP_LABEL.to_owned(), job.step.to_string());
    labels.insert(ATTEMPT_LABEL.to_owned(), job.attempt.to_string());
    labels
}

/// The workflow's volume where the workspace is.
pub(super) fn workspace(engine: &Engine, job: &StepJob, base: &str) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(engine.workflow_name(job.workflow)),
        target: Some(base.to_owned()),
        volume_options: Some(MountVolumeOptions {
            // What an image has there is not the workspace's.
            no_copy: Some(true),
            labels: Some(engine.workflow_labels(job.workflow)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn entrypoint(job: &StepJob, action: &ContainerAction, epilogue: &Epilogue) -> Option<Vec<String>> {
    match (action.entrypoint.is_empty(), action.commands.is_empty()) {
        (false, _) => Some(action.entrypoint.clone()),
        (true, false) => {
            let script = telling_script(&action.commands, epilogue, &output_path(job, action));
            Some(["/bin/sh", "-e", "-c", &script].map(str::to_owned).to_vec())
        }
        (true, true) => None,
    }
}

fn environment(job: &StepJob, action: &ContainerAction) -> Vec<String> {
    let mut ours = vec![("CI_OUTPUT", output_path(job, action))];
    let given = |name: &str| job.environment.iter().any(|(known, _)| known == name);
    if !given("CI_WORKSPACE") {
        ours.push(("CI_WORKSPACE", action.directory.clone()));
    }
    if !action.commands.is_empty() {
        if !given("SHELL") {
            ours.push(("SHELL", "/bin/sh".to_owned()));
        }
        if !action.entrypoint.is_empty() {
            ours.push(("CI_SCRIPT", STANDARD.encode(script(&action.commands))));
        }
    }
    let theirs = job.environment.iter().filter(|(name, _)| name != "CI_OUTPUT" && name != "CI_SCRIPT");
    let theirs = theirs.map(|(name, value)| format!("{name}={value}"));
    theirs.chain(ours.iter().map(|(name, value)| format!("{name}={value}"))).collect()
}

/// The kernel would refuse to start the program, with words that nobody understands.
fn fits(step: &str, entrypoint: &Option<Vec<String>>, environment: &[String]) -> Result<(), StepFault> {
    if let Some(word) = entrypoint.iter().flatten().find(|word| word.len() > MAX_WORD_BYTES) {
        return Err(StepFault::Failure(format!(
            "the commands of `{step}` have {} bytes and a program takes {MAX_WORD_BYTES}: put them into a script of the repository",
            word.len()
        )));
    }
    if let Some(word) = environment.iter().find(|word| word.len() > MAX_WORD_BYTES) {
        let name = word.split('=').next().unwrap_or_default();
        return Err(StepFault::Failure(format!(
            "the variable `{name}` has {} bytes and a program takes {MAX_WORD_BYTES}: put it into a file",
            word.len()
        )));
    }
    Ok(())
}

fn host_config(docker: &Docker, job: &StepJob, action: &ContainerAction, network: Network<'_>) -> HostConfig {
    let (engine, limits) = (&docker.engine, &docker.containers);
    let caches = action.caches.iter().map(|cache| cache_mount(docker, cache));
    let mounts = std::iter::once(workspace(engine, job, &action.base)).chain(caches).collect();
    let memory = limits.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    let unprivileged = |words: &[&str]| {
        (!action.privileged).then(|| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    };
    HostConfig {
        mounts: Some(mounts),
        binds: listed(&action.volumes),
        devices: listed(&action.devices).map(|all| all.iter().map(|text| device(text)).collect()),
        tmpfs: listed(&action.tmpfs).map(|all| all.iter().map(|text| tmpfs(text)).collect()),
        dns: listed(&action.dns),
        dns_search: listed(&action.dns_search),
        extra_hosts: listed(&action.extra_hosts),
        network_mode: Some(match network {
            Network::Own => network_of(engine, job, action),
            Network::Joined(netns) => format!("container:{}", netns.holder),
        }),
        privileged: Some(action.privileged),
        security_opt: unprivileged(&["no-new-privileges"]),
        cap_drop: unprivileged(&DROPPED_CAPABILITIES),
        // Reaps what a step leaves behind, and hands it the signal that asks it to stop.
        init: Some(true),
        memory,
        // The same: no swap on top.
        memory_swap: memory,
        nano_cpus: limits.cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
        pids_limit: Some(i64::from(limits.processes)),
        log_config: Some(log_config(limits)),
        ..Default::default()
    }
}

/// The engine keeps more than we ever read of it, and not without bound.
fn log_config(limits: &ContainerLimits) -> HostConfigLogConfig {
    let size = ("max-size".to_owned(), limits.output_bytes.saturating_mul(2).to_string());
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(HashMap::from([size, ("max-file".to_owned(), "2".to_owned())])),
    }
}

fn cache_mount(docker: &Docker, cache: &Cache) -> Mount {
    let owner = docker.owner_of_caches();
    let labels = HashMap::from([
        (OWNER_LABEL.to_owned(), owner.to_owned()),
        (CACHE_LABEL.to_owned(), cache.key.clone()),
    ]);
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(cache_name(owner, &format!("{}\0{}", cache.key, cache.path))),
        target: Some(cache.path.clone()),
        volume_options: Some(MountVolumeOptions { labels: Some(labels), ..Default::default() }),
        ..Default::default()
    }
}

pub(super) fn network_of(engine: &Engine, job: &StepJob, action: &ContainerAction) -> String {
    action.network_mode.clone().unwrap_or_else(|| engine.workflow_name(job.workflow))
}

fn networking(
    engine: &Engine,
    job: &StepJob,
    action: &ContainerAction,
    network: Network<'_>,
) -> Option<NetworkingConfig> {
    if action.network_mode.is_some() || matches!(network, Network::Joined(_)) {
        return None;
    }
    let endpoint = EndpointSettings { aliases: Some(vec![job.name.clone()]), ..Default::default() };
    let endpoints = HashMap::from([(engine.workflow_name(job.workflow), endpoint)]);
    Some(NetworkingConfig { endpoints_config: Some(endpoints) })
}

fn listed(texts: &[String]) -> Option<Vec<String>> {
    (!texts.is_empty()).then(|| texts.to_vec())
}

/// `[address:][here:]there[/protocol]`: others of the network reach what is behind the last colon.
fn exposed_port(port: &str) -> String {
    let there = port.rsplit(':').next().unwrap_or(port);
    if there.contains('/') { there.to_owned() } else { format!("{there}/tcp") }
}

/// `here[:there[:permissions]]`
fn device(text: &str) -> DeviceMapping {
    let mut parts = text.split(':');
    let here = parts.next().unwrap_or_default().to_owned();
    let there = parts.next().unwrap_or(&here).to_owned();
    DeviceMapping {
        path_on_host: Some(here),
        path_in_container: Some(there),
        cgroup_permissions: Some(parts.next().unwrap_or("rwm").to_owned()),
    }
}

/// `path[:options]`
fn tmpfs(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.to_owned(), options.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_devices_and_tmpfs_are_read_as_docker_writes_them() {
        for (port, exposed) in
            [("5432", "5432/tcp"), ("127.0.0.1:80:8080", "8080/tcp"), ("53:53/udp", "53/udp")]
        {
            assert_eq!(exposed_port(port), exposed);
        }
        let mapped = device("/dev/ttyUSB0:/dev/tty1:r");
        assert_eq!(mapped.path_in_container.as_deref(), Some("/dev/tty1"));
        assert_eq!(mapped.cgroup_permissions.as_deref(), Some("r"));
        assert_eq!(device("/dev/kvm").path_in_container.as_deref(), Some("/dev/kvm"));
        assert_eq!(tmpfs("/run:size=1m,mode=700"), ("/run".to_owned(), "size=1m,mode=700".to_owned()));
        assert_eq!(tmpfs("/run"), ("/run".to_owned(), String::new()));
    }

    #[test]
    fn what_no_kernel_would_start_is_said_before() {
        let long = "x".repeat(MAX_WORD_BYTES + 1);
        let fault = fits("build", &Some(vec![long.clone()]), &[]).unwrap_err().to_string();
        assert!(fault.starts_with("the commands of `build` have 131072 bytes"), "{fault}");
        let fault = fits("build", &None, &[format!("TOKEN={long}")]).unwrap_err().to_string();
        assert!(fault.starts_with("the variable `TOKEN` has") && fault.len() < 200, "{fault}");
        fits("build", &Some(vec!["sh".to_owned()]), &["A=b".to_owned()]).unwrap();
    }
}
