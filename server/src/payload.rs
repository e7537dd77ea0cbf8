//! Bodies of webhooks: as sent, as kept, as read.

use std::{borrow::Cow, cell::RefCell};

use zstd::bulk::Compressor;

/// GitHub's own limit for a payload ("Webhook events and payloads", 25 MB).
pub const LARGEST: usize = 25 * 1024 * 1024;

/// No payload nests deeper; a parser without a limit would be walked off its stack.
const DEEPEST: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("the form has no field `payload`; choose the content type application/json for the webhook")]
    NoPayloadField,
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the body is not JSON: it is not UTF-8")]
    NotUtf8,
    #[error("the body nests deeper than {DEEPEST} levels")]
    TooDeep,
    #[error("content type `{0}` is not one a webhook has: use application/json")]
    ContentType(String),
    #[error("the body was not kept, or is damaged")]
    Gone,
}

/// The JSON document inside a body. GitHub's default sends it as a form's field.
pub fn json<'b>(content_type: &str, body: &'b [u8]) -> Result<Cow<'b, [u8]>, PayloadError> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(Cow::Borrowed(body));
    }
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(PayloadError::ContentType(essence.chars().take(80).collect()));
    }
    url::form_urlencoded::parse(body)
        .find(|(key, _)| key == "payload")
        .map(|(_, value)| Cow::Owned(value.into_owned().into_bytes()))
        .ok_or(PayloadError::NoPayloadField)
}

/// Whether this is text that nests to a sane depth, which is what a parser needs to be safe.
pub fn check_shape(json: &[u8]) -> Result<(), PayloadError> {
    if depth(json) > DEEPEST {
        return Err(PayloadError::TooDeep);
    }
    // A field that is passed over is not looked at, so bytes that are no text would slip through.
    std::str::from_utf8(json).map_err(|_| PayloadError::NotUtf8)?;
    Ok(())
}

/// Whether this is one JSON document.
pub fn check_syntax(json: &[u8]) -> Result<(), PayloadError> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(PayloadError::NotJson)?;
    Ok(())
}

/// How deep objects and lists nest. Most of a payload is text, which is jumped over.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_text(json, at),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The place behind the quotation mark that ends the text which begins at `at`.
fn after_text(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    json.len()
}

pub fn compress(body: &[u8]) -> Vec<u8> {
    const FAST: i32 = 1;
    thread_local! {
        // Setting a compressor up costs more than compressing a usual body with it.
        static COMPRESSOR: RefCell<Compressor<'static>> =
            RefCell::new(Compressor::new(FAST).expect("memory for a compressor"));
    }
    COMPRESSOR
        .with_borrow_mut(|compressor| compressor.compress(body))
        .expect("compressing into memory has no way to fail")
}

pub fn decompress(kept: &[u8]) -> Result<Vec<u8>, PayloadError> {
    if kept.is_empty() {
        return Err(PayloadError::Gone);
    }
    zstd::bulk::decompress(kept, LARGEST).map_err(|_| PayloadError::Gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_of_text_only() {
        assert_eq!(depth(br#"{"a":["[[[[\"[[",{}]}"#), 3);
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert!(matches!(check_shape(&deep), Err(PayloadError::TooDeep)));
    }

    #[test]
    fn both_content_types_hold_the_same_document() {
        let form = b"payload=%7B%22a%22%3A%22%C3%A9%22%7D";
        assert_eq!(&*json("application/x-www-form-urlencoded", form).unwrap(), "{\"a\":\"é\"}".as_bytes());
        assert_eq!(&*json("application/json; charset=utf-8", b"{}").unwrap(), b"{}");
        assert!(matches!(
            json("application/x-www-form-urlencoded", b"x=1"),
            Err(PayloadError::NoPayloadField)
        ));
        assert!(matches!(json("text/plain", b"{}"), Err(PayloadError::ContentType(_))));
    }

    #[test]
    fn what_was_kept_comes_back_whole() {
        let body = b"{\"a\":1}".repeat(1000);
        assert_eq!(decompress(&compress(&body)).unwrap(), body);
        assert!(decompress(b"").is_err() && decompress(b"junk").is_err());
    }
}
