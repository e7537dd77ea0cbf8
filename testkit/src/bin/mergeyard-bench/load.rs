//! The load: a number of connections, each asking again as soon as it was answered.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use crate::Failed;

pub(crate) type Ask = Request<Full<Bytes>>;

/// How a load goes.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) time: Duration,
}

/// What came back.
#[derive(Default)]
pub(crate) struct Answered {
    pub(crate) times: Vec<Duration>,
    /// Connection and number of each request that was answered with 2xx.
    pub(crate) accepted: Vec<(usize, usize)>,
    /// The other answers.
    pub(crate) refused: BTreeMap<u16, usize>,
    pub(crate) elapsed: Duration,
}

impl Answered {
    pub(crate) fn per_second(&self) -> f64 {
        self.accepted.len() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    pub(crate) fn add(&mut self, other: Answered) {
        self.times.extend(other.times);
        self.accepted.extend(other.accepted);
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
        self.elapsed += other.elapsed;
    }
}

/// Asks `ask(connection, number)` over and over until the time is up; every request that
/// was begun by then is waited for.
pub(crate) async fn closed_loop(
    address: SocketAddr,
    load: Load,
    ask: impl Fn(usize, usize) -> Ask + Clone + Send + 'static,
) -> Result<Answered, Failed> {
    let begin = Instant::now();
    let mut connections = JoinSet::new();
    for connection in 0..load.connections {
        connections.spawn(one(address, connection, begin + load.time, ask.clone()));
    }
    let mut all = Answered::default();
    while let Some(done) = connections.join_next().await {
        all.add(done??);
    }
    all.elapsed = begin.elapsed();
    Ok(all)
}

async fn one(
    address: SocketAddr,
    connection: usize,
    end: Instant,
    ask: impl Fn(usize, usize) -> Ask,
) -> Result<Answered, Failed> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(driver);
    let mut answered = Answered::default();
    for number in 0.. {
        let begin = Instant::now();
        if begin >= end {
            break;
        }
        sender.ready().await?;
        let answer = sender.send_request(ask(connection, number)).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        answered.times.push(begin.elapsed());
        match status.is_success() {
            true => answered.accepted.push((connection, number)),
            false => *answered.refused.entry(status.as_u16()).or_default() += 1,
        }
    }
    drop(sender);
    let _ = driver.await;
    Ok(answered)
}
