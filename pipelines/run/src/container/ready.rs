//! When others may rely on a service: its probe answers, or its image's health check does, or,
//! when neither is there, it runs.

use std::{net::IpAddr, time::Duration};

use bollard::{
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
    models::{ContainerInspectResponse, HealthStatusEnum},
    query_parameters::InspectContainerOptions,
};
use futures_util::StreamExt;
use mergeyard_plan::spec::{Probe, Ready};
use tokio::{net::TcpStream, time::timeout};

use crate::{StepFault, engine::Engine};

/// Between two questions. A service is waited for by every step after it.
const BETWEEN_PROBES: Duration = Duration::from_millis(100);

/// A probe that hangs says no.
const LONGEST_PROBE: Duration = Duration::from_secs(10);

/// For a port: somebody listens there on more than the service's own loopback. The kernel's table is
/// asked where the container's address cannot be reached from here, as with an engine on another machine.
const LISTENS: &str = r#"cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -v -E ': (0100007F|00000000000000000000000001000000):' | grep -q -i -E ": [0-9A-F]+:$0 [0-9A-F]+:0000 0A""#;

/// One service that is waited for.
pub(super) struct Service<'a> {
    pub(super) engine: &'a Engine,
    pub(super) container: &'a str,
    pub(super) name: &'a str,
    pub(super) network: &'a str,
}

impl Service<'_> {
    pub(super) async fn ready(&self, ready: Option<&Ready>) -> Result<(), StepFault> {
        let Some(Ready { probe, timeout: longest }) = ready else { return self.healthy().await };
        let answers = async {
            while !self.answers(probe).await? {
                tokio::time::sleep(BETWEEN_PROBES).await;
            }
            Ok(())
        };
        timeout(*longest, answers).await.unwrap_or_else(|_| {
            let what = match probe {
                Probe::Command(command) => format!("`{}` never exited with 0", command.join(" ")),
                Probe::Port(port) => format!("nothing accepts connections on port {port}"),
            };
            let seconds = longest.as_secs_f64();
            Err(StepFault::Failure(format!("`{}` was not ready within {seconds}s: {what}", self.name)))
        })
    }

    async fn healthy(&self) -> Result<(), StepFault> {
        loop {
            let state = self.inspect().await?.state.unwrap_or_default();
            match state.health.and_then(|health| health.status) {
                Some(HealthStatusEnum::STARTING) => {}
                Some(HealthStatusEnum::UNHEALTHY) => {
                    let name = self.name;
                    return Err(StepFault::Failure(format!(
                        "the health check of `{name}` says it is unhealthy"
                    )));
                }
                _ if state.running == Some(true) => return Ok(()),
                // It has ended; whoever follows it says how.
                _ => std::future::pending().await,
            }
            tokio::time::sleep(BETWEEN_PROBES).await;
        }
    }

    async fn answers(&self, probe: &Probe) -> Result<bool, StepFault> {
        let asked = async {
            match probe {
                Probe::Command(command) => self.exec(command).await,
                Probe::Port(port) => self.accepts(*port).await,
            }
        };
        timeout(LONGEST_PROBE, asked).await.unwrap_or(Ok(false))
    }

    async fn accepts(&self, port: u16) -> Result<bool, StepFault> {
        if let Some(address) = self.address().await? {
            match timeout(Duration::from_secs(1), TcpStream::connect((address, port))).await {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(false),
                _ => {}
            }
        }
        let port = format!("{port:04X}");
        self.exec(&["/bin/sh", "-c", LISTENS, &port].map(str::to_owned)).await
    }

    /// Where a local engine's container is reached from its machine.
    async fn address(&self) -> Result<Option<IpAddr>, StepFault> {
        if !self.engine.is_local() {
            return Ok(None);
        }
        let networks = self.inspect().await?.network_settings.and_then(|settings| settings.networks);
        let endpoint = networks.and_then(|mut networks| networks.remove(self.network));
        Ok(endpoint.and_then(|endpoint| endpoint.ip_address?.parse().ok()))
    }

    async fn inspect(&self) -> Result<ContainerInspectResponse, StepFault> {
        let docker = self.engine.docker().await?;
        let state = docker.inspect_container(self.container, None::<InspectContainerOptions>).await;
        Ok(self.engine.checked("inspect a service", state).await?)
    }

    /// Whether a program inside the service's container exits with 0.
    async fn exec(&self, command: &[String]) -> Result<bool, StepFault> {
        let docker = self.engine.docker().await?;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..Default::default()
        };
        // A service that has not started or has ended says no, like a program that is not there.
        let Ok(exec) = docker.create_exec(self.container, options).await else { return Ok(false) };
        let Ok(started) = docker.start_exec(&exec.id, None::<StartExecOptions>).await else {
            return Ok(false);
        };
        if let StartExecResults::Attached { mut output, .. } = started {
            while output.next().await.is_some() {}
        }
        let ended = self.engine.checked("inspect a probe", docker.inspect_exec(&exec.id).await).await?;
        Ok(ended.exit_code == Some(0))
    }
}
