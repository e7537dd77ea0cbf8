//! Orders to a gateway: one JSON document a line, over a socket that only its container has.
//!
//! Whoever may run a program in the container may give orders; `mergeyard gateway orders` is that
//! program, and does nothing but carry them. When it ends, what it asked for ends too.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::{self, BufRead, Write},
    net::Shutdown,
    os::unix::net::UnixStream as StdStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{
    backends::Backends,
    probe::{self, Probe, Probed},
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    Show,
    /// New connections go to this `HOST:PORT`.
    Switch {
        to: String,
    },
    /// Answers when nobody is connected to it any more, or when the time is over.
    Drain {
        from: String,
        within_ms: u64,
    },
    Probe(Probe),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Shown { live: Option<String>, connections: BTreeMap<String, usize> },
    Switched,
    Drained { left: usize },
    Probed(Probed),
    Refused { why: String },
}

pub(super) async fn listen(orders: UnixListener, backends: Arc<Backends>) -> Infallible {
    loop {
        match orders.accept().await {
            Ok((stream, _)) => {
                let backends = Arc::clone(&backends);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &backends).await {
                        tracing::debug!(%error, "who gave orders is gone");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an order was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, backends: &Backends) -> io::Result<()> {
    let (orders, mut answers) = stream.into_split();
    let mut orders = BufReader::new(orders).lines();
    while let Some(order) = orders.next_line().await? {
        let answer = match serde_json::from_str(&order) {
            Ok(ask) => tokio::select! {
                answer = answer(ask, backends) => answer,
                // Nobody gives the next order before the answer to the last: they are gone.
                _ = orders.next_line() => return Ok(()),
            },
            Err(error) => Answer::Refused { why: format!("this is no order: {error}") },
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        answers.write_all(&line).await?;
    }
    Ok(())
}

async fn answer(ask: Ask, backends: &Backends) -> Answer {
    match ask {
        Ask::Show => Answer::Shown { live: backends.live(), connections: backends.connections() },
        Ask::Switch { to } => match backends.switch(&to) {
            Ok(()) => {
                tracing::info!(to, "switched");
                Answer::Switched
            }
            Err(error) => Answer::Refused { why: format!("the choice cannot be kept: {error}") },
        },
        Ask::Drain { from, within_ms } => {
            let _ = tokio::time::timeout(Duration::from_millis(within_ms), backends.gone(&from)).await;
            Answer::Drained { left: backends.connections().get(&from).copied().unwrap_or_default() }
        }
        Ask::Probe(probe) => Answer::Probed(probe::probe(&probe).await),
    }
}

/// Carries orders from this program's input to the gateway in `folder`, and the answers back.
pub fn control(folder: &Path) -> io::Result<()> {
    let mut to = StdStream::connect(folder.join("orders"))?;
    let mut from = to.try_clone()?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    io::copy(&mut from, &mut io::stdout()).map(drop)
}

/// What the gateway in `folder` does now, as JSON.
pub fn show(folder: &Path) -> io::Result<String> {
    let mut stream = StdStream::connect(folder.join("orders"))?;
    serde_json::to_writer(&stream, &Ask::Show)?;
    stream.write_all(b"\n")?;
    let mut answer = String::new();
    io::BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
