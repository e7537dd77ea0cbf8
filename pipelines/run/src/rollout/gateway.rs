//! The container of a service's gateway: made once, replaced when its ports or its network change.
//!
//! A replacement is made beside the gateway under another name, started when that has let go of the
//! ports, and takes its name when it is proven. So after a crash two names say how far it came, and
//! the old gateway is what is gone back to.

use std::collections::HashMap;

use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, EndpointSettings, HostConfig, Mount, MountType, NetworkConnectRequest,
        NetworkCreateRequest, NetworkingConfig, PortBinding,
    },
    query_parameters::{RemoveVolumeOptions, RenameContainerOptionsBuilder, StopContainerOptionsBuilder},
};
use mergeyard_plan::action::RolloutAction;

use super::{
    application::{log_config, start, unless_stopped},
    labels,
    look::{Found, gateway_name},
    published::Published,
};
use crate::{StepFault, engine::Engine, gateway::FOLDER};

const MOST_PROCESSES: i64 = 256;

/// Seconds that a gateway which is replaced gives open connections.
const LAST_CONNECTIONS: i32 = 2;

/// Of a gateway that is about to take the other's place.
fn next_name(service: &str) -> String {
    format!("{}-next", gateway_name(service))
}

/// Makes the network unless it is there: others may have services on it.
pub(super) async fn ensure_network(engine: &Engine, name: &str) -> Result<(), StepFault> {
    let request = NetworkCreateRequest { name: name.to_owned(), ..Default::default() };
    Ok(engine.ensure_network(request).await?)
}

/// The first gateway of a service.
pub(super) async fn make(
    engine: &Engine,
    action: &RolloutAction,
    published: &[Published],
    image: String,
) -> Result<(), StepFault> {
    let body = body(action, published, image);
    start(engine, &gateway_name(&action.service), body).await.map(drop)
}

/// Brings what a rollout that was cut off left to what it was before. True when anything was done.
pub(super) async fn recover(engine: &Engine, service: &str, found: &Found) -> Result<bool, StepFault> {
    match (&found.gateway, &found.next) {
        (Some(_), Some(next)) => engine.forget_container(&next.id).await?,
        (None, Some(next)) => rename(engine, &next.id, &gateway_name(service)).await?,
        (Some(gateway), None) if gateway.running => return Ok(false),
        (Some(_), None) => {}
        (None, None) => return Ok(false),
    }
    let started = engine.docker().await?.start_container(&gateway_name(service), None).await;
    engine.checked("start the gateway", started).await?;
    Ok(true)
}

/// Lets the gateway reach containers of another network, for as long as it exists.
pub(super) async fn join(engine: &Engine, service: &str, network: &str) -> Result<(), StepFault> {
    let request = NetworkConnectRequest { container: gateway_name(service), endpoint_config: None };
    match engine.docker().await?.connect_network(network, request).await {
        // It is in it already.
        Err(Error::DockerResponseServerError { status_code: 403 | 409, .. }) => Ok(()),
        joined => Ok(engine.checked(&format!("join network {network}"), joined).await?),
    }
}

/// From here until it is over nobody has the service's ports.
pub(super) async fn replace(
    engine: &Engine,
    action: &RolloutAction,
    published: &[Published],
    image: String,
) -> Result<String, StepFault> {
    let next = next_name(&action.service);
    engine.forget_container(&next).await?;
    let body = body(action, published, image);
    let options = StopContainerOptionsBuilder::new().t(LAST_CONNECTIONS).build();
    let stopped = engine.docker().await?.stop_container(&gateway_name(&action.service), Some(options)).await;
    engine.checked("stop the gateway", stopped).await?;
    start(engine, &next, body).await?;
    Ok(next)
}

/// The replacement is proven and takes the name.
pub(super) async fn replaced(engine: &Engine, service: &str) -> Result<(), StepFault> {
    engine.forget_container(&gateway_name(service)).await?;
    rename(engine, &next_name(service), &gateway_name(service)).await
}

/// Of a service that never came to be.
pub(super) async fn remove(engine: &Engine, service: &str) -> Result<(), StepFault> {
    engine.forget_container(&gateway_name(service)).await?;
    let volume = gateway_name(service);
    match engine.docker().await?.remove_volume(&volume, None::<RemoveVolumeOptions>).await {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        removed => Ok(engine.checked(&format!("remove volume {volume}"), removed).await?),
    }
}

async fn rename(engine: &Engine, container: &str, name: &str) -> Result<(), StepFault> {
    let options = RenameContainerOptionsBuilder::new().name(name).build();
    let renamed = engine.docker().await?.rename_container(container, options).await;
    Ok(engine.checked(&format!("rename a container to {name}"), renamed).await?)
}

fn body(action: &RolloutAction, published: &[Published], image: String) -> ContainerCreateBody {
    let port = format!("{}/tcp", action.port);
    let bindings = published.iter().map(|published| PortBinding {
        host_ip: published.address.map(|address| address.to_string()),
        host_port: Some(published.port.to_string()),
    });
    let bindings: Vec<PortBinding> = bindings.collect();
    let endpoint = EndpointSettings { aliases: Some(vec![action.service.clone()]), ..Default::default() };
    // It is nobody in particular, and may have a port below 1024 all the same. Clients that are gone
    // without a word are noticed within minutes.
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.tcp_keepalive_time", "120")];
    ContainerCreateBody {
        image: Some(image),
        cmd: Some(vec!["serve".to_owned(), "--port".to_owned(), action.port.to_string()]),
        labels: Some(labels::of_gateway(action)),
        exposed_ports: Some(vec![port.clone()]),
        host_config: Some(HostConfig {
            network_mode: Some(action.network.clone()),
            port_bindings: (!bindings.is_empty()).then(|| HashMap::from([(port, Some(bindings))])),
            mounts: Some(vec![memory(&action.service)]),
            restart_policy: Some(unless_stopped()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            sysctls: Some(sysctls.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            pids_limit: Some(MOST_PROCESSES),
            log_config: Some(log_config()),
            ..Default::default()
        }),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(action.network.clone(), endpoint)])),
        }),
        ..Default::default()
    }
}

/// Where a gateway, and the one that takes its place, remembers what it forwards to.
fn memory(service: &str) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(gateway_name(service)),
        target: Some(FOLDER.to_owned()),
        ..Default::default()
    }
}
