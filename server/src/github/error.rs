//! What can go wrong with GitHub, sorted by what the outbox has to do about it: wait, try
//! again, or give up and say so.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use mergeyard_types::{Secret, Timestamp};
use serde::Deserialize;

/// What GitHub asks to be waited for when it names no time ("Rate limits for the REST API").
const UNNAMED_WAIT: Duration = Duration::from_secs(60);

/// Limits are counted per hour. A longer wait is a wrong header or a wrong clock, and must
/// not silence the statuses of a whole day.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 60 * 60);

/// How much of GitHub's own sentence is repeated.
const LONGEST_MESSAGE: usize = 300;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum GithubError {
    #[error("{0}")]
    Settings(String),
    #[error("github refused the token to {what}: {message}; {permission}")]
    Unauthorized { what: String, message: String, permission: &'static str },
    #[error("github found nothing to {what}: the name is wrong, or the token may not see it; {permission}")]
    NotFound { what: String, permission: &'static str },
    #[error("github limits the rate of requests and was asked to {what}: to be tried again in {} s", until.as_secs())]
    RateLimited { what: String, until: Duration },
    #[error("github refused to {what} with {status}: {message}")]
    Rejected { what: String, status: StatusCode, message: String },
    #[error("github could not be reached to {what}: {message}")]
    Unavailable {
        what: String,
        message: String,
        #[source]
        source: Option<BoxError>,
    },
}

impl GithubError {
    /// How long GitHub wants to be left alone; `None` leaves the wait to the caller.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            GithubError::RateLimited { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Trying again changes nothing until a person changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            GithubError::RateLimited { .. } | GithubError::Unavailable { .. } => false,
            GithubError::Settings(_)
            | GithubError::Unauthorized { .. }
            | GithubError::NotFound { .. }
            | GithubError::Rejected { .. } => true,
        }
    }
}

/// What is asked of GitHub and what the token must be allowed for it.
pub(super) struct Task {
    pub(super) what: String,
    pub(super) permission: &'static str,
}

impl Task {
    /// The error for an answer that is not a success.
    pub(super) fn refused(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        token: Option<&Secret>,
    ) -> GithubError {
        let message = message(status, body, token);
        let (what, permission) = (self.what.clone(), self.permission);
        if let Some(until) = rate_limit(status, headers, &message) {
            return GithubError::RateLimited { what, until };
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                GithubError::Unauthorized { what, message, permission }
            }
            StatusCode::NOT_FOUND => GithubError::NotFound { what, permission },
            StatusCode::REQUEST_TIMEOUT => self_healing(what, status, message),
            status if status.is_server_error() => self_healing(what, status, message),
            status => GithubError::Rejected { what, status, message },
        }
    }

    /// The error when there is no answer, or none that can be read.
    pub(super) fn failed(&self, message: &str, source: Option<BoxError>) -> GithubError {
        GithubError::Unavailable { what: self.what.clone(), message: message.to_owned(), source }
    }
}

fn self_healing(what: String, status: StatusCode, message: String) -> GithubError {
    GithubError::Unavailable {
        what,
        message: format!("it answers {}: {message}", status.as_u16()),
        source: None,
    }
}

/// How long to wait if the answer is a rate limit and not a refusal: both come as 403.
fn rate_limit(status: StatusCode, headers: &HeaderMap, message: &str) -> Option<Duration> {
    if !matches!(status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return None;
    }
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let wait = if let Some(seconds) = number("retry-after") {
        Duration::from_secs(seconds)
    } else if number("x-ratelimit-remaining") == Some(0) {
        number("x-ratelimit-reset").map_or(UNNAMED_WAIT, |reset| until(reset, headers))
    } else if status == StatusCode::TOO_MANY_REQUESTS || message.contains("secondary rate limit") {
        UNNAMED_WAIT
    } else {
        return None;
    };
    Some(wait.min(LONGEST_WAIT))
}

/// GitHub names the second at which the limit ends by its own clock, which its answer
/// tells too: so a wrong clock here changes nothing.
fn until(reset: u64, headers: &HeaderMap) -> Duration {
    let theirs = headers
        .get(http::header::DATE)
        .and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date.to_str().ok()?).ok())
        .map(|date| Timestamp(date.as_millisecond()));
    let reset = Timestamp(i64::try_from(reset.saturating_mul(1000)).unwrap_or(i64::MAX));
    reset.since(theirs.unwrap_or_else(Timestamp::now))
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
    #[serde(default)]
    errors: Vec<serde_json::Value>,
}

/// GitHub's own words in one short line. What stands between us and GitHub may answer in
/// its place and repeat the request, so the token is looked for.
fn message(status: StatusCode, body: &[u8], token: Option<&Secret>) -> String {
    let words = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => {
            let details = body.errors.iter().map(|error| match error {
                serde_json::Value::String(text) => text.clone(),
                other => match other.get("message").or_else(|| other.get("code")) {
                    Some(serde_json::Value::String(text)) => text.clone(),
                    _ => other.to_string(),
                },
            });
            std::iter::once(body.message.clone()).chain(details).collect::<Vec<_>>().join("; ")
        }
        Err(_) => status.canonical_reason().unwrap_or("an unknown status").to_lowercase(),
    };
    let words = match token.map(Secret::expose).filter(|token| !token.is_empty()) {
        Some(token) => words.replace(token, "[redacted]"),
        None => words,
    };
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, headers: &[(&'static str, &str)], body: &str) -> GithubError {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let task = Task { what: "set a status".into(), permission: "it needs nothing" };
        task.refused(
            StatusCode::from_u16(status).unwrap(),
            &map,
            body.as_bytes(),
            Some(&Secret::new("t0ken")),
        )
    }

    #[test]
    fn a_primary_limit_is_waited_for_by_githubs_own_clock() {
        let date = ("date", "Tue, 02 Jan 2024 10:00:00 GMT");
        let reset = 1_704_189_600 + 90;
        let error = refused(
            403,
            &[date, ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset.to_string())],
            "{}",
        );
        assert_eq!(error.retry_after(), Some(Duration::from_secs(90)));
        assert!(!error.is_permanent());
        let past = refused(429, &[date, ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "17")], "");
        assert_eq!(past.retry_after(), Some(Duration::ZERO));
    }

    #[test]
    fn a_secondary_limit_is_waited_for_as_named_or_a_minute_and_never_for_a_day() {
        let words = r#"{"message":"You have exceeded a secondary rate limit"}"#;
        assert_eq!(refused(403, &[("retry-after", "7")], words).retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(refused(403, &[], words).retry_after(), Some(UNNAMED_WAIT));
        assert_eq!(refused(429, &[("retry-after", "soon")], "").retry_after(), Some(UNNAMED_WAIT));
        assert_eq!(
            refused(429, &[("retry-after", "18446744073709551615")], "").retry_after(),
            Some(LONGEST_WAIT)
        );
        assert_eq!(
            refused(403, &[("x-ratelimit-remaining", "41")], r#"{"message":"Must have admin rights"}"#)
                .retry_after(),
            None
        );
    }

    #[test]
    fn messages_are_one_short_line_without_the_token() {
        let body = r#"{"message":"Validation\nFailed for t0ken","errors":[{"code":"custom","message":"too long"},"odd"]}"#;
        let error = refused(422, &[], body);
        assert_eq!(
            error.to_string(),
            "github refused to set a status with 422 Unprocessable Entity: Validation Failed for [redacted]; too long; odd"
        );
        assert!(error.is_permanent());
        let endless = refused(422, &[], &serde_json::json!({ "message": "x".repeat(100_000) }).to_string());
        assert!(endless.to_string().len() < 500);
    }
}
