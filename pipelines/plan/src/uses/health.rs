//! `health`: what proves that a deployment works.

use std::time::Duration;

use serde_json::{Map, Value};

use super::with::With;
use crate::{action::Health, event::one_line, spec};

const KEYS: [&str; 7] = ["path", "url", "status", "body", "timeout", "retries", "interval"];

/// Longer than this is no health check but a hang.
const LONGEST: Duration = Duration::from_secs(600);

const MOST_RETRIES: u64 = 1000;

const LONGEST_TEXT: usize = 2000;

/// A text is where to ask; a map says more. Of a rollout it is a path, which is asked on the
/// service's own port.
pub(super) fn read(with: &mut With<'_>, is_rollout: bool) -> Option<Health> {
    let (at, value) = with.get("health")?;
    match health(value, is_rollout) {
        Ok(health) => Some(health),
        Err(why) => {
            with.say("uses-health", at, format!("`health`: {why}"));
            None
        }
    }
}

fn health(value: &Value, is_rollout: bool) -> Result<Health, String> {
    let empty = Map::new();
    let (map, place) = match value {
        Value::String(text) => (&empty, Some(text.as_str())),
        Value::Object(map) => (map, None),
        _ => return Err("write a path such as `/health`, or a map".to_owned()),
    };
    if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("there is no `{}`; there is {}", one_line(key), KEYS.join(", ")));
    }
    let text = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("`{key}` is a text")),
    };
    let place = match (place, text("path")?, text("url")?) {
        (Some(place), ..) | (None, Some(place), None) | (None, None, Some(place)) => place,
        (None, Some(_), Some(_)) => return Err("has both `path` and `url`; remove one of them".to_owned()),
        (None, None, None) => return Err("has no `path`; write one such as `/health`".to_owned()),
    };
    let duration = |key: &str, default: Duration| match text(key)? {
        None => Ok(default),
        Some(text) => spec::duration(text).filter(|duration| *duration <= LONGEST).ok_or_else(|| {
            format!("`{key}` is not a duration up to 10m: write a number and s or m, such as 2s")
        }),
    };
    let number = |key: &str, default: u64, range: std::ops::RangeInclusive<u64>| match map.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_u64().filter(|number| range.contains(number)).ok_or_else(|| {
            format!("`{key}` is not a whole number from {} to {}", range.start(), range.end())
        }),
    };
    let body = text("body")?.map(str::to_owned);
    if body.as_ref().is_some_and(|body| body.is_empty() || body.len() > LONGEST_TEXT) {
        return Err(format!("`body` is a text of 1 to {LONGEST_TEXT} bytes that the answer has in it"));
    }
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(Health {
        url: url(place, is_rollout)?,
        status: u16::try_from(number("status", 200, 100..=599)?).unwrap_or(200),
        body,
        timeout_ms: milliseconds(duration("timeout", Duration::from_secs(2))?),
        retries: u32::try_from(number("retries", 30, 0..=MOST_RETRIES)?).unwrap_or(u32::MAX),
        interval_ms: milliseconds(duration("interval", Duration::from_secs(1))?),
    })
}

fn url(text: &str, is_rollout: bool) -> Result<String, String> {
    let shown = one_line(text);
    if text.len() > LONGEST_TEXT || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(format!("`{shown}` is too long, or has a blank in it"));
    }
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let is_url = ["http://", "https://"].iter().any(|scheme| {
        text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    });
    match (is_rollout, is_path, is_url) {
        (true, true, _) | (false, _, true) => Ok(text.to_owned()),
        (false, true, _) => Ok(format!("http://{{address}}{text}")),
        (true, false, _) => Err(format!(
            "`{shown}` is no path; write one such as `/health`, which is asked on the service's own `port`"
        )),
        (false, false, false) => Err(format!(
            "`{shown}` is no address; write one such as `http://{{address}}/health`, or its path alone"
        )),
    }
}
