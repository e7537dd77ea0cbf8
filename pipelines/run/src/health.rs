//! What proves from here that a target serves what it should: an address answers as it ought to.

use std::time::Duration;

use mergeyard_plan::action::Health;

use crate::fault::root_cause;

/// A page may be long; the text that is looked for stands in its beginning.
const LONGEST_BODY: usize = 1 << 20;

/// Asks until the answer is right or the last try is spent. `Ok` and `Err` say what was seen last.
pub(crate) async fn prove(health: &Health, address: &str) -> Result<String, String> {
    let url = health.url.replace("{address}", &in_url(address));
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_millis(health.timeout_ms))
        .no_proxy()
        .build()
        .map_err(|error| format!("{url} cannot be asked: {error}"))?;
    let mut left = health.retries;
    loop {
        match ask(&client, &url, health).await {
            Ok(()) => return Ok(format!("{url} answers {}", health.status)),
            Err(why) if left == 0 => {
                return Err(match health.retries {
                    0 => format!("{url} {why}"),
                    retries => format!("{url} {why}, asked {} times", u64::from(retries) + 1),
                });
            }
            Err(_) => left -= 1,
        }
        tokio::time::sleep(Duration::from_millis(health.interval_ms)).await;
    }
}

async fn ask(client: &reqwest::Client, url: &str, health: &Health) -> Result<(), String> {
    let mut response = client.get(url).send().await.map_err(|error| match error {
        error if error.is_timeout() => format!("does not answer within {} ms", health.timeout_ms),
        error if error.is_builder() => "is no address that can be asked".to_owned(),
        error => format!("does not answer: {}", root_cause(&error)),
    })?;
    let status = response.status().as_u16();
    if status != health.status {
        return Err(format!("answers {status} in the place of {}", health.status));
    }
    let Some(wanted) = &health.body else { return Ok(()) };
    let mut body = Vec::new();
    while body.len() < LONGEST_BODY {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) => return Err("breaks off its answer".to_owned()),
        }
    }
    match String::from_utf8_lossy(&body).contains(wanted.as_str()) {
        true => Ok(()),
        false => Err(format!("answers without `{wanted}`")),
    }
}

/// An IPv6 address stands in brackets there.
fn in_url(address: &str) -> String {
    match address.parse() {
        Ok(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use axum::{Router, http::StatusCode, routing::get};

    use super::*;

    /// An address whose `/` is well only from the third time on.
    async fn slow_starter() -> String {
        let asked = Arc::new(AtomicU32::new(0));
        let answer = move || async move {
            match asked.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => (StatusCode::BAD_GATEWAY, "not yet"),
                _ => (StatusCode::OK, "the time is 12:00"),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = axum::serve(listener, Router::new().route("/", get(answer)));
        tokio::spawn(async move { server.await.unwrap() });
        address
    }

    fn health(body: &str, retries: u32) -> Health {
        let url = "http://{address}/".to_owned();
        Health { url, status: 200, body: Some(body.to_owned()), timeout_ms: 5000, retries, interval_ms: 1 }
    }

    #[tokio::test]
    async fn who_answers_rightly_within_the_tries_is_well() {
        let address = slow_starter().await;
        let why = prove(&health("time", 1), &address).await.unwrap_err();
        assert_eq!(why, format!("http://{address}/ answers 502 in the place of 200, asked 2 times"));
        let address = slow_starter().await;
        assert_eq!(
            prove(&health("time", 2), &address).await.unwrap(),
            format!("http://{address}/ answers 200")
        );
        let why = prove(&health("date", 0), &address).await.unwrap_err();
        assert!(why.contains("answers without `date`"), "{why}");
    }

    #[tokio::test]
    async fn who_is_not_there_is_not_well() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let why = prove(&health("time", 0), &address).await.unwrap_err();
        assert_eq!(why, format!("http://{address}/ does not answer: Connection refused (os error 111)"));
        assert_eq!(in_url("2001:db8::1"), "[2001:db8::1]");
    }
}
