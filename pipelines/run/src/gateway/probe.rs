//! Asking a program over HTTP whether it works.
//!
//! The gateway asks for the server, because it is in the network of what is to be proven, on
//! whichever machine that is.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mergeyard_plan::action::Health;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// More of an answer is not looked at.
const LONGEST_BODY: usize = 1 << 20;

/// A program that is just starting is asked again this soon, and then less and less often.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// What an answer that was not wanted is shown of.
const SHOWN: usize = 120;

/// What is asked of whom, and what the answer has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// `HOST:PORT`
    pub at: String,
    /// What the request calls the host.
    pub host: String,
    pub path: String,
    pub status: u16,
    pub body: Option<String>,
    pub timeout_ms: u64,
    pub retries: u32,
    pub interval_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    pub healthy: bool,
    /// What the last answer was, for people.
    pub said: String,
    /// Whether it was connected to at all.
    pub reached: bool,
}

impl Probe {
    /// `health`, whose address is a path, asked of `at`.
    pub fn of(health: &Health, at: String, host: String) -> Self {
        let path = health.url.clone();
        let Health { status, body, timeout_ms, retries, interval_ms, .. } = health.clone();
        Self { at, host, path, status, body, timeout_ms, retries, interval_ms }
    }
}

/// Asks until the answer is the wanted one or the retries are used up.
///
/// Within the first interval it is asked more often, because most programs are there at once, and
/// none of that counts as a retry.
pub async fn probe(probe: &Probe) -> Probed {
    let interval = Duration::from_millis(probe.interval_ms);
    let mut pause = FIRST_PAUSE;
    let (mut tries, mut retries) = (0u32, 0u32);
    let mut reached = false;
    loop {
        tries += 1;
        let began = Instant::now();
        let why = match ask(probe, &mut reached).await {
            Ok(status) => {
                let ms = began.elapsed().as_millis();
                return Probed { healthy: true, said: format!("{status} in {ms} ms, try {tries}"), reached };
            }
            Err(why) => why,
        };
        if pause >= interval {
            if retries >= probe.retries {
                return Probed { healthy: false, said: why, reached };
            }
            retries += 1;
        }
        tokio::time::sleep(pause.min(interval)).await;
        pause = (pause * 2).min(interval.max(FIRST_PAUSE));
    }
}

async fn ask(probe: &Probe, reached: &mut bool) -> Result<u16, String> {
    let limit = Duration::from_millis(probe.timeout_ms);
    let asked = tokio::time::timeout(limit, answer(probe, reached)).await;
    asked.unwrap_or_else(|_| Err(format!("no answer within {} ms", probe.timeout_ms)))
}

async fn answer(probe: &Probe, reached: &mut bool) -> Result<u16, String> {
    let stream = TcpStream::connect(&probe.at).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "nothing listens on its port".to_owned(),
        _ => format!("cannot be connected to: {error}"),
    })?;
    *reached = true;
    let broken = |error: hyper::Error| format!("no HTTP answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(&probe.path)
        .header(header::HOST, &probe.host)
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, "mergeyard")
        .body(Empty::<Bytes>::new())
        .map_err(|_| format!("`{}` is no path of a request", probe.path))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST_BODY).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(format!("its answer is longer than {LONGEST_BODY} bytes"))
            }
            Err(error) => Err(format!("its answer broke off: {error}")),
        }
    };
    tokio::pin!(exchange);
    let (status, body) = tokio::select! {
        biased;
        answered = &mut exchange => answered?,
        // What was said until then has come.
        ended = connection => match ended {
            Ok(()) => exchange.await?,
            Err(error) => return Err(broken(error)),
        },
    };
    let text = String::from_utf8_lossy(&body);
    if status != probe.status {
        return Err(format!("it answers {status} in the place of {}: {}", probe.status, shown(&text)));
    }
    match &probe.body {
        Some(wanted) if !text.contains(wanted.as_str()) => {
            Err(format!("its answer does not have `{wanted}` in it: {}", shown(&text)))
        }
        _ => Ok(status),
    }
}

/// The beginning of an answer on one line.
fn shown(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    format!("`{}`", line.trim())
}
