//! The one connection that everything goes through.
//!
//! It is an `ssh` that runs nothing itself; others find it at its control socket. It notices a
//! host that says nothing any more, and then ends, and with it whatever went through it.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::watch,
};

use super::{Patience, SshError, agent::Agent, host_key, leash::Leash, local};

/// What ssh runs on this machine when the connection stands.
const READY: &str = "ready";

pub(super) struct Master {
    leash: Leash,
    /// What it said, once it has ended.
    ended: watch::Receiver<Option<Arc<str>>>,
}

impl Master {
    pub(super) async fn open(agent: &Agent, patience: &Patience) -> Result<Master, SshError> {
        let to = agent.destination();
        let seconds = |time: Duration| time.as_secs().max(1);
        let mut command = Command::new("ssh");
        command.args(super::options(agent)).args(["-M", "-N"]);
        for option in [
            format!("ConnectTimeout={}", seconds(patience.connect)),
            format!("ServerAliveInterval={}", seconds(patience.silence / 3)),
            "ServerAliveCountMax=3".to_owned(),
            "PermitLocalCommand=yes".to_owned(),
            format!("LocalCommand=echo {READY}"),
        ] {
            command.args(["-o", &option]);
        }
        command.args(["--", to.address()]);
        let lacking = |error| SshError::lacking("ssh", &error);
        let (leash, stdout, stderr) = Leash::hold(&command, agent.folder().path()).map_err(lacking)?;
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let said = local::text_of(Some(stderr)).await;
            tell.send_replace(Some(said.trim().into()));
        });
        let master = Master { leash, ended };
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        // ssh has a limit for each part of the way; this one is for all of it.
        let limit = patience.connect * 2 + Duration::from_secs(5);
        match tokio::time::timeout(limit, stdout.read_line(&mut line)).await {
            Ok(Ok(_)) if line.trim() == READY => Ok(master),
            Ok(_) => {
                let said = master.last_words().await;
                Err(why(agent, patience, &said).await)
            }
            Err(_) => Err(SshError::TimedOut { what: format!("the login at {to}"), after: limit }),
        }
    }

    /// What it said until its end, which is awaited.
    pub(super) async fn last_words(&self) -> Arc<str> {
        let mut ended = self.ended.clone();
        let said = ended.wait_for(Option::is_some).await;
        said.ok().and_then(|said| said.clone()).unwrap_or_default()
    }

    pub(super) async fn end(self) {
        self.leash.end().await;
    }
}

/// What an `ssh` that could not connect or log in meant.
async fn why(agent: &Agent, patience: &Patience, said: &str) -> SshError {
    let to = agent.destination();
    let address = to.to_string();
    let last = said.lines().last().unwrap_or("it ended without a word").to_owned();
    let has = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    match to.pinned() {
        Some(pinned) if has(&["Host key verification failed", "no matching host key type"]) => {
            let shown = host_key::shown(to, patience.connect).await.unwrap_or_default();
            let same = shown.iter().find(|key| key.algorithm() == pinned.algorithm());
            let shown = same.or(shown.first()).cloned();
            SshError::HostKeyChanged { address, pinned: pinned.clone(), shown }
        }
        _ if has(&["Permission denied", "Too many authentication failures"]) => {
            let (user, public_key) = (to.user().to_owned(), agent.public_key().to_owned());
            SshError::LoginRefused { address, user, public_key, said: last }
        }
        _ if has(&["timed out"]) => {
            SshError::TimedOut { what: format!("the connection to {address}"), after: patience.connect }
        }
        _ => SshError::Unreachable { address, said: last },
    }
}
