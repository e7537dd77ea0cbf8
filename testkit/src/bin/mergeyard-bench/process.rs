//! The programs that are measured, each in a process of its own that ends with its value.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use mergeyard_server::{
    github::signature,
    sample::{SampleMerge, SampleRepository, payload},
};
use mergeyard_types::Secret;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{Bench, Failed, until};

/// A program that does not listen after this long has a reason, and it stands in its log.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A run that has not begun after this long has a reason, too.
const RUN_PATIENCE: Duration = Duration::from_secs(600);

pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Result<Self, Failed> {
        let out = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {:?}: {error}", command.as_std().get_program()))?;
        Ok(Self { child, log })
    }

    /// As a lost machine would end it.
    pub(crate) async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Its last words, once it ended although nobody asked it to.
    fn check(&mut self) -> Result<(), Failed> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        Err(format!(
            "a program ended with {status}:\n{}",
            last.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
        .into())
    }

    pub(crate) async fn listens(&mut self, address: SocketAddr) -> Result<(), Failed> {
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            self.check()?;
            if begin.elapsed() > PATIENCE {
                return Err(format!("nothing listens on {address}").into());
            }
            tokio::time::sleep(crate::BLINK).await;
        }
        Ok(())
    }

    /// Processor time until now, its own and the kernel's for it.
    pub(crate) fn processor_time(&self) -> Duration {
        let Some(pid) = self.child.id() else { return Duration::ZERO };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The second field is the name in brackets, which may hold anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        // The kernel's unit for this file, on every architecture Debian has.
        const TICK: Duration = Duration::from_millis(10);
        TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// What of it is in memory, in bytes: all, and the part that is not the program's own file.
    pub(crate) fn memory(&self) -> (u64, u64) {
        (self.status("VmRSS:"), self.status("RssAnon:"))
    }

    /// The most that was in memory since [`Program::forget_peak`], in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) -> io::Result<()> {
        let pid = self.child.id().unwrap_or_default();
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")
    }

    /// A field of the kernel's account of it, in bytes.
    fn status(&self, name: &str) -> u64 {
        let Some(pid) = self.child.id() else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }
}

/// The secret that both sides check every webhook with.
pub(crate) const SECRET: &str = "the-secret-of-the-benchmark";

pub(crate) struct Mergeyard {
    pub(crate) program: Program,
    pub(crate) http: SocketAddr,
    pub(crate) registry: SocketAddr,
    pub(crate) data: PathBuf,
    /// From nothing to ready for webhooks.
    pub(crate) ready_after: Duration,
}

impl Mergeyard {
    /// Starts the server on the data in `folder` and waits until it says that it is ready.
    /// `repos` is TOML.
    pub(crate) async fn start(bench: &Bench, folder: &Path, repos: &str) -> Result<Self, Failed> {
        std::fs::create_dir_all(folder)?;
        let (http, registry, data) = (free()?, free()?, folder.join("data"));
        let config = format!(
            "data_dir = {data:?}\n[http]\nlisten = \"{http}\"\n[registry]\nlisten = \"{registry}\"\n\
             [github]\nwebhook_secret = \"{SECRET}\"\n{repos}"
        );
        let file = folder.join("mergeyard.toml");
        std::fs::write(&file, config)?;
        let mut command = bench.mergeyard();
        command.arg("serve").arg("--config").arg(&file);
        let begin = Instant::now();
        let mut program = Program::start(command, folder.join("server.log"))?;
        program.listens(http).await?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let ask = || async {
            let answer = client.get(format!("http://{http}/readyz")).send().await?;
            Ok(answer.status().is_success().then_some(()))
        };
        until("the server's readiness", PATIENCE, ask).await?;
        Ok(Self { program, http, registry, data, ready_after: begin.elapsed() })
    }
}

impl Mergeyard {
    /// Sends the webhook of a merge; returns when it was taken.
    pub(crate) async fn announce(
        &self,
        client: &reqwest::Client,
        sample: &SampleRepository,
        merge: &SampleMerge,
    ) -> Result<(), Failed> {
        let body = serde_json::to_vec(&payload::merged_pull_request(&sample.hosted(), merge))?;
        let request = client
            .post(format!("http://{}/hooks/github", self.http))
            .header("X-GitHub-Event", "pull_request")
            .header("X-GitHub-Delivery", format!("merge-{}", merge.number))
            .header("Content-Type", "application/json")
            .header("X-Hub-Signature-256", signature::sign(&Secret::new(SECRET), &body))
            .body(body);
        let answer = request.send().await?;
        match answer.status().as_u16() {
            202 => Ok(()),
            _ => Err(format!("the webhook was answered with {}", answer.text().await?).into()),
        }
    }

    /// Follows a run's events until what it says there is enough. One that comes to nothing is an error.
    pub(crate) async fn follow(
        &self,
        client: &reqwest::Client,
        run: i64,
        enough: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failed> {
        let url = format!("http://{}/api/v1/runs/{run}/events", self.http);
        let open = || async {
            let answer = client.get(&url).send().await?;
            Ok(answer.status().is_success().then_some(answer))
        };
        let mut events = until("the run", RUN_PATIENCE, open).await?;
        let mut text = String::new();
        while let Some(chunk) = events.chunk().await? {
            text += &String::from_utf8_lossy(&chunk);
            while let Some((event, rest)) = text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data:")).unwrap_or("{}");
                let told: Value = serde_json::from_str(data)?;
                if enough(&told) {
                    return Ok(told);
                }
                let state = told["run"]["state"].as_str().unwrap_or_default();
                if ["failure", "error", "cancelled", "blocked"].contains(&state) {
                    return Err(format!("run {run} came to nothing: {data}").into());
                }
                text = rest.to_owned();
            }
        }
        Err(format!("the events of run {run} ended early").into())
    }
}

/// Debian's `webhook` with these hooks, a JSON document.
pub(crate) async fn webhook(folder: &Path, hooks: &str) -> Result<(Program, SocketAddr), Failed> {
    std::fs::create_dir_all(folder)?;
    let (address, file) = (free()?, folder.join("hooks.json"));
    std::fs::write(&file, hooks)?;
    let mut command = Command::new("webhook");
    command.arg("-hooks").arg(&file).arg("-ip").arg(address.ip().to_string());
    command.arg("-port").arg(address.port().to_string());
    let mut program = Program::start(command, folder.join("webhook.log"))?;
    program.listens(address).await?;
    Ok((program, address))
}

pub(crate) fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
