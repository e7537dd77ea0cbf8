//! Proving a service: the new container on its own, and then through all that leads to it.

use std::time::Duration;

use bollard::{
    container::LogOutput,
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{LogsOptionsBuilder, WaitContainerOptionsBuilder},
};
use futures_util::StreamExt;
use mergeyard_plan::action::RolloutAction;
use tokio::net::TcpStream;

use super::{
    application,
    look::{Container, gateway_name},
    published::Published,
    session::Session,
};
use crate::{
    StepFault,
    engine::Engine,
    gateway::{Probe, Probed, probe},
    target::{Reach, Target},
};

/// To find out whether a published port can be reached from here at all.
const CONNECT: Duration = Duration::from_secs(2);

impl Probe {
    /// With all its retries.
    pub(super) fn longest(&self) -> Duration {
        let one = Duration::from_millis(self.timeout_ms.saturating_add(self.interval_ms));
        // The first interval has tries of its own.
        one.saturating_mul(self.retries.saturating_add(16)).min(Duration::from_secs(24 * 60 * 60))
    }
}

/// What a service is asked, and from where.
pub(super) struct Proof<'a> {
    pub(super) engine: &'a Engine,
    pub(super) action: &'a RolloutAction,
    pub(super) target: &'a Target,
    pub(super) published: &'a [Published],
}

impl Proof<'_> {
    /// Asks a container at its own port. One that ends meanwhile is not waited for.
    pub(super) async fn container(
        &self,
        session: &mut Session<'_>,
        container: &Container,
    ) -> Result<String, StepFault> {
        let probe = self.probe(container.address(self.action.port));
        let ended = async {
            match application::ended(self.engine, &container.id).await {
                Ok(code) => code,
                // Who cannot wait for it still asks it.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            code = ended => Err(StepFault::Failure(format!("it ended with exit code {code} before it was healthy"))),
            probed = session.probe(&probe) => verdict(probed?),
        }
    }

    /// Asks the service as its clients do: through its gateway, and at each published port.
    pub(super) async fn service(&self, session: &mut Session<'_>) -> Result<String, StepFault> {
        let own = format!("127.0.0.1:{}", self.action.port);
        let mut said = verdict(session.probe(&self.probe(own)).await?)?;
        for published in self.published {
            said = self.port(published).await?;
        }
        Ok(said)
    }

    fn probe(&self, at: String) -> Probe {
        Probe::of(&self.action.health, at, format!("{}:{}", self.action.service, self.action.port))
    }

    /// From here when that is possible; otherwise the target asks itself.
    async fn port(&self, published: &Published) -> Result<String, StepFault> {
        let at = match &self.target.reach {
            Reach::Local => Some(published.on_the_target()),
            Reach::Ssh(ssh) => published.for_others(&ssh.address),
        };
        if let Some(at) = at {
            // A connection that stayed open would keep a program busy that serves one at a time.
            let reached =
                tokio::time::timeout(CONNECT, TcpStream::connect(&at)).await.map(|done| done.is_ok());
            if reached == Ok(true) {
                return verdict(probe(&Probe::of(&self.action.health, at.clone(), at)).await);
            }
        }
        let at = published.on_the_target();
        self.asked_by_the_target(&Probe::of(&self.action.health, at.clone(), at)).await
    }

    /// A container that asks once, as a program of the target itself.
    async fn asked_by_the_target(&self, probe: &Probe) -> Result<String, StepFault> {
        let docker = self.engine.docker().await?;
        let gateway = docker.inspect_container(&gateway_name(&self.action.service), None).await;
        let gateway = self.engine.checked("inspect the gateway", gateway).await?;
        let asked = serde_json::to_string(probe).map_err(|error| StepFault::lasting(error.to_string()))?;
        let body = ContainerCreateBody {
            image: gateway.image,
            cmd: Some(vec!["probe".to_owned(), asked]),
            host_config: Some(HostConfig {
                network_mode: Some("host".to_owned()),
                readonly_rootfs: Some(true),
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let name = format!("mergeyard-probe-{}", uuid::Uuid::new_v4().simple());
        let id = application::start(self.engine, &name, body).await?;
        let longest = probe.longest() + Duration::from_secs(30);
        let told = tokio::time::timeout(longest, told(self.engine, &id)).await;
        self.engine.forget_container(&id).await?;
        let told =
            told.map_err(|_| StepFault::transient("the target does not come to an end asking itself"))??;
        let probed = serde_json::from_str(&told);
        verdict(probed.map_err(|_| StepFault::transient(format!("the target cannot ask itself: {told}")))?)
    }
}

/// What others call the machine.
pub(super) fn target_address(target: &Target) -> String {
    match &target.reach {
        Reach::Local => "127.0.0.1".to_owned(),
        Reach::Ssh(ssh) => ssh.address.clone(),
    }
}

fn verdict(probed: Probed) -> Result<String, StepFault> {
    match probed {
        Probed { healthy: true, said, .. } => Ok(said),
        Probed { said, .. } => Err(StepFault::Failure(said)),
    }
}

async fn told(engine: &Engine, id: &str) -> Result<String, StepFault> {
    let docker = engine.docker().await?;
    let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
    // How it ended is told by what it said.
    let _ = std::pin::pin!(docker.wait_container(id, Some(options))).next().await;
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
    let mut frames = std::pin::pin!(docker.logs(id, Some(options)));
    let mut said = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame: LogOutput = engine.checked("read a probe", frame).await?;
        said.extend_from_slice(&frame.into_bytes());
    }
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}
