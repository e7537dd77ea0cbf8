//! `settings` and `environment`, from the file's values to the text a process is given.
//!
//! It is done when a step starts, because only then secrets are looked up: what is stored with a
//! step names them.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

/// The key that stands in the place of a value and names a secret.
pub const FROM_SECRET: &str = "from_secret";

/// `secret` gives a secret's value by its name, or the reason why not. With `plugin`, names become
/// `PLUGIN_…` as plugins expect their settings.
pub fn render(
    values: &BTreeMap<String, Value>,
    plugin: bool,
    secret: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let given = values.iter().filter(|(name, value)| !name.is_empty() && !value.is_null());
    given
        .map(|(name, value)| {
            let value = text(value, secret).map_err(|why| format!("`{name}`: {why}"))?;
            Ok((if plugin { plugin_name(name) } else { name.clone() }, value))
        })
        .collect()
}

/// Puts secrets in, at any depth, and leaves everything else as it is: data for who reads JSON.
pub fn resolve(
    values: &mut BTreeMap<String, Value>,
    secret: &dyn Fn(&str) -> Result<String, String>,
) -> Result<(), String> {
    for (name, value) in values {
        if !secrets(value).is_empty() {
            *value = resolved(value, secret).map_err(|why| format!("`{name}`: {why}"))?;
        }
    }
    Ok(())
}

/// The names of all secrets that a value asks for, at any depth, in lower case. One whose name was
/// left out has an empty one.
pub fn secrets(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(value, &mut found);
    found
}

fn walk(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => match map.get(FROM_SECRET) {
            Some(Value::String(name)) => found.push(name.to_lowercase()),
            Some(Value::Null) => found.push(String::new()),
            _ => map.values().for_each(|value| walk(value, found)),
        },
        Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
        _ => {}
    }
}

fn plugin_name(name: &str) -> String {
    format!("PLUGIN_{}", name.replace(['.', '-'], "_").to_uppercase())
}

fn text(value: &Value, secret: &dyn Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let complex = |value: &Value| matches!(value, Value::Object(_) | Value::Array(_));
    match value {
        Value::Array(items) if !items.iter().any(complex) => {
            Ok(items.iter().map(scalar).collect::<Vec<_>>().join(","))
        }
        Value::Array(_) | Value::Object(_) => match resolved(value, secret)? {
            Value::String(secret) => Ok(secret),
            complex => Ok(complex.to_string()),
        },
        value => Ok(scalar(value)),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number_text(number),
        _ => String::new(),
    }
}

/// As Go's `%v` writes them, because that is what plugins were tested with.
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => {
            let size = float.abs();
            if size != 0.0 && !(1e-4..1e21).contains(&size) {
                let text = format!("{float:e}");
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
                return format!("{digits}e{sign}{exponent:0>2}");
            }
            float.to_string()
        }
        _ => number.to_string(),
    }
}

/// The value with its secrets put in. A whole number written with a point loses it, as in Woodpecker.
fn resolved(value: &Value, secret: &dyn Fn(&str) -> Result<String, String>) -> Result<Value, String> {
    match value {
        Value::Object(map) => match map.get(FROM_SECRET) {
            Some(Value::String(name)) => secret(&name.to_lowercase()).map(Value::String),
            Some(_) => Err("`from_secret` takes the name of a secret".to_owned()),
            None => {
                let entry = |(key, value): (&String, &Value)| Ok((key.clone(), resolved(value, secret)?));
                map.iter().map(entry).collect::<Result<Map<_, _>, String>>().map(Value::Object)
            }
        },
        Value::Array(items) => {
            items.iter().map(|item| resolved(item, secret)).collect::<Result<_, _>>().map(Value::Array)
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => {
                Ok(Value::from(float as i64))
            }
            _ => Ok(value.clone()),
        },
        other => Ok(other.clone()),
    }
}
