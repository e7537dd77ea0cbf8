//! Orders to the gateway of a service, through the engine of its target, wherever that is.
//!
//! One program is started in the gateway's container for a whole rollout; what it is sent and what
//! it answers are lines. When this side goes away it ends, so an order that is not answered yet is
//! not carried out by anybody later.

use std::{pin::Pin, time::Duration};

use bollard::{
    container::LogOutput,
    errors::Error,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
};
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::gateway_image::PROGRAM;
use crate::{
    StepFault,
    engine::Engine,
    gateway::{Answer, Ask, Probe, Probed},
};

/// For an answer that needs no time, on a machine that is busy.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);

pub(super) struct Session<'a> {
    engine: &'a Engine,
    output: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    input: Pin<Box<dyn AsyncWrite + Send>>,
    /// The beginning of an answer.
    said: Vec<u8>,
}

impl<'a> Session<'a> {
    pub(super) async fn open(engine: &'a Engine, gateway: &str) -> Result<Self, StepFault> {
        let docker = engine.docker().await?;
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some([PROGRAM, "gateway", "orders"].map(str::to_owned).to_vec()),
            ..Default::default()
        };
        let exec = docker.create_exec(gateway, options).await;
        let exec = engine.checked("reach the gateway", exec).await?;
        let started = docker.start_exec(&exec.id, None::<StartExecOptions>).await;
        match engine.checked("reach the gateway", started).await? {
            StartExecResults::Attached { output, input } => {
                Ok(Self { engine, output, input, said: Vec::new() })
            }
            StartExecResults::Detached => {
                Err(StepFault::transient("the engine did not attach to the gateway"))
            }
        }
    }

    /// Where new connections go.
    pub(super) async fn live(&mut self) -> Result<Option<String>, StepFault> {
        match self.ask(&Ask::Show, LONGEST_ANSWER).await? {
            Answer::Shown { live, .. } => Ok(live),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn switch(&mut self, to: &str) -> Result<(), StepFault> {
        match self.ask(&Ask::Switch { to: to.to_owned() }, LONGEST_ANSWER).await? {
            Answer::Switched => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// How many are connected to `from` after nobody is, or after that time.
    pub(super) async fn drain(&mut self, from: &str, within: Duration) -> Result<usize, StepFault> {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let ask = Ask::Drain { from: from.to_owned(), within_ms };
        match self.ask(&ask, within + LONGEST_ANSWER).await? {
            Answer::Drained { left } => Ok(left),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn probe(&mut self, probe: &Probe) -> Result<Probed, StepFault> {
        match self.ask(&Ask::Probe(probe.clone()), probe.longest() + LONGEST_ANSWER).await? {
            Answer::Probed(probed) => Ok(probed),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&mut self, ask: &Ask, longest: Duration) -> Result<Answer, StepFault> {
        let exchange = async {
            let mut order = serde_json::to_vec(ask).map_err(std::io::Error::from)?;
            order.push(b'\n');
            self.input.write_all(&order).await?;
            self.input.flush().await?;
            self.line().await
        };
        let broken =
            |why: &dyn std::fmt::Display| StepFault::transient(format!("the gateway does not answer: {why}"));
        let line = tokio::time::timeout(longest, exchange).await;
        let line = line.map_err(|_| broken(&"it takes too long"))?.map_err(|error| broken(&error))?;
        serde_json::from_slice(&line).map_err(|_| broken(&String::from_utf8_lossy(&line).trim()))
    }

    async fn line(&mut self) -> Result<Vec<u8>, std::io::Error> {
        let mut complaint = String::new();
        loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                return Ok(self.said.drain(..=end).collect());
            }
            match self.output.next().await {
                Some(Ok(LogOutput::StdErr { message })) => complaint += &String::from_utf8_lossy(&message),
                Some(Ok(frame)) => self.said.extend_from_slice(&frame.into_bytes()),
                Some(Err(error)) => {
                    return Err(std::io::Error::other(self.engine.error("hear the gateway", &error).await));
                }
                None => {
                    complaint += &String::from_utf8_lossy(&self.said);
                    return Err(std::io::Error::other(complaint.trim().to_owned()));
                }
            }
        }
    }
}

fn unexpected(answer: &Answer) -> StepFault {
    match answer {
        Answer::Refused { why } => StepFault::lasting(format!("the gateway refuses: {why}")),
        other => StepFault::lasting(format!("the gateway answers something else: {other:?}")),
    }
}
