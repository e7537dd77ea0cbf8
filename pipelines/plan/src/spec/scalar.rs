//! What a plain word of YAML means.
//!
//! Two versions of YAML disagree about `yes`, `0777` and `1_000`. Existing pipelines were read
//! by Go's yaml.v3, so this follows its compromise: `yes`, `no`, `on` and `off` are flags where a
//! flag is expected and text everywhere else; a leading zero makes an octal number; digits may
//! be grouped by underscores. Dates stay the text they were written as.

use serde_json::{Number, Value};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Without quotes, so that it may mean more than its text.
    pub(super) plain: bool,
    /// How far behind its place the text begins, if it stands there in one line just as it is.
    pub(super) begins: Option<usize>,
}

pub(super) fn is_null(scalar: &Scalar) -> bool {
    scalar.plain && matches!(scalar.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
}

/// Where a flag is expected. Quotes do not hide YAML 1.1's words, but they do hide `true`.
pub(super) fn flag(scalar: &Scalar) -> Option<bool> {
    match scalar.text.as_str() {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        text if scalar.plain => boolean(text),
        _ => None,
    }
}

pub(super) fn integer(scalar: &Scalar) -> Option<i64> {
    if scalar.plain { whole(&scalar.text).and_then(|number| number.as_i64()) } else { None }
}

/// Where anything is allowed. `None`: a number that no JSON can carry.
pub(super) fn value(scalar: &Scalar) -> Option<Value> {
    let text = scalar.text.as_str();
    if !scalar.plain {
        return Some(Value::String(text.to_owned()));
    }
    if is_null(scalar) {
        return Some(Value::Null);
    }
    if let Some(flag) = boolean(text) {
        return Some(Value::Bool(flag));
    }
    if let Some(number) = whole(text) {
        return Some(Value::Number(number));
    }
    if is_fraction(text) {
        let number: f64 = text.replace('_', "").parse().ok()?;
        return Number::from_f64(number).map(Value::Number);
    }
    if matches!(text.trim_start_matches(['+', '-']), ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return None;
    }
    Some(Value::String(text.to_owned()))
}

pub(super) fn kind_name(scalar: &Scalar) -> &'static str {
    match value(scalar) {
        Some(Value::Null) => "nothing",
        Some(Value::Bool(_)) => "a flag",
        Some(Value::Number(_)) | None => "a number",
        _ => "text",
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn whole(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|character: char| character.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    if !digits.starts_with(|character: char| character.is_digit(radix)) {
        return None;
    }
    let number = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(Number::from(number));
    }
    0i64.checked_sub_unsigned(number).map(Number::from)
}

/// `1.5`, `.5`, `1.`, `1e3`; what only looks like one, such as `1.2.3`, is text.
fn is_fraction(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let all = |digits: &str| digits.chars().all(|character| character.is_ascii_digit() || character == '_');
    let some = |digits: &str| digits.starts_with(|character: char| character.is_ascii_digit()) && all(digits);
    let mantissa = match mantissa.split_once('.') {
        Some(("", after)) => some(after),
        Some((before, after)) => some(before) && all(after),
        None => some(mantissa),
    };
    mantissa && exponent.is_none_or(some)
}
