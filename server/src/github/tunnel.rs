//! The public address of a server without one.
//!
//! An ngrok agent forwards a public https address to this machine and tells on its local
//! API which one. The agent is a neighbour, not a dependency: it is asked once, when a
//! webhook is created.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

/// Where an agent answers when nothing else was configured.
pub const AGENT: &str = "http://127.0.0.1:4040";

/// An agent is on this machine or in the next container; a silent one is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A list of tunnels has a few hundred bytes. What answers more is no agent.
const LONGEST_ANSWER: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    #[error("no ngrok agent answers at {agent}: start it, or set http.public_url")]
    NoAgent {
        agent: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("what answers at {agent} is not an ngrok agent: {why}")]
    NotAnAgent { agent: Url, why: String },
    #[error("the ngrok agent at {agent} has no https tunnel: start one with `ngrok http {port}`")]
    NoTunnel { agent: Url, port: u16 },
    #[error(
        "the ngrok agent at {agent} has several https tunnels and not one of them to port {port}: set http.public_url to one of {}",
        addresses.join(", ")
    )]
    Ambiguous { agent: Url, port: u16, addresses: Vec<String> },
}

/// The https address which the agent forwards to `port`.
pub async fn public_address(agent: &Url, port: u16) -> Result<Url, TunnelError> {
    let tunnels = ask(agent).await?.tunnels;
    let https: Vec<_> = tunnels.into_iter().filter(|tunnel| tunnel.public_url.scheme() == "https").collect();
    if let Some(ours) = https.iter().find(|tunnel| tunnel.forwards_to(port)) {
        return Ok(ours.public_url.clone());
    }
    match &https[..] {
        [] => Err(TunnelError::NoTunnel { agent: agent.clone(), port }),
        [only] => Ok(only.public_url.clone()),
        many => {
            let addresses = many.iter().map(|tunnel| tunnel.public_url.to_string()).collect();
            Err(TunnelError::Ambiguous { agent: agent.clone(), port, addresses })
        }
    }
}

/// Whether an address is lent by ngrok, and so may be another one tomorrow.
pub fn is_tunnel(address: &Url) -> bool {
    const DOMAINS: [&str; 6] =
        [".ngrok.io", ".ngrok.app", ".ngrok.dev", ".ngrok-free.app", ".ngrok-free.dev", ".ngrok.pizza"];
    address.host_str().is_some_and(|host| DOMAINS.iter().any(|domain| host.ends_with(domain)))
}

#[derive(Deserialize)]
struct Tunnels {
    tunnels: Vec<Tunnel>,
}

#[derive(Deserialize)]
struct Tunnel {
    public_url: Url,
    config: Option<Forward>,
}

#[derive(Deserialize)]
struct Forward {
    addr: Option<String>,
}

impl Tunnel {
    /// Agents write the address as `http://localhost:8088`, `server:8088` or `8088`.
    fn forwards_to(&self, port: u16) -> bool {
        let address = self.config.as_ref().and_then(|config| config.addr.as_deref()).unwrap_or_default();
        address.rsplit(':').next().is_some_and(|last| last.parse() == Ok(port))
    }
}

async fn ask(agent: &Url) -> Result<Tunnels, TunnelError> {
    let no_agent =
        |source: reqwest::Error| TunnelError::NoAgent { agent: agent.clone(), source: source.without_url() };
    let not_an_agent = |why: String| TunnelError::NotAnAgent { agent: agent.clone(), why };
    let address = format!("{}/api/tunnels", agent.as_str().trim_end_matches('/'));
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build()
        .map_err(no_agent)?;
    let mut answer = client
        .get(address)
        .header(http::header::ACCEPT, "application/json")
        .send()
        .await
        .map_err(no_agent)?;
    if !answer.status().is_success() {
        return Err(not_an_agent(format!("it answers {}", answer.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(no_agent)? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST_ANSWER {
            return Err(not_an_agent(format!("its answer is longer than {LONGEST_ANSWER} bytes")));
        }
    }
    serde_json::from_slice(&body).map_err(|error| not_an_agent(format!("its answer does not read: {error}")))
}
