//! The functions an expression may call: those that conditions over text have a use for.

use super::{Evaluation, Scope, syntax::Node, value::Value};

const ABOUT_EACH: [&str; 8] = ["all", "any", "none", "one", "filter", "map", "count", "find"];

/// Whether the last argument is a block about each element of the first.
pub(super) fn asks_about_each(name: &str) -> bool {
    ABOUT_EACH.contains(&name)
}

impl Evaluation<'_> {
    pub(super) fn call(
        &self,
        name: &str,
        arguments: &[Node],
        block: Option<&Node>,
        scope: &Scope,
    ) -> Result<Value, String> {
        let arguments = arguments.iter().map(|a| self.value(a, scope)).collect::<Result<Vec<_>, _>>()?;
        if asks_about_each(name) {
            let [list] = &arguments[..] else { return Err(takes(name, "a list and a block")) };
            return self.about_each(name, list.as_list()?, block, scope);
        }
        // What a function makes is paid by itself; that it looks at what it is given is paid here.
        self.spend(arguments.iter().map(Value::size).sum())?;
        match &arguments[..] {
            [Value::Text(text)] => self.of_text(name, text),
            [Value::Text(text), Value::Text(part)] => self.of_two_texts(name, text, part),
            [Value::Text(text), Value::Text(from), Value::Text(to)] if name == "replace" => {
                let pieces = text.matches(&**from).count();
                self.spend(pieces.saturating_mul(to.len()))?;
                self.text(text.replace(&**from, to))
            }
            [Value::Text(text), Value::Text(part), Value::Integer(most)] if name == "split" => {
                let most = usize::try_from(*most).unwrap_or(usize::MAX);
                self.list(text.splitn(most, &**part).map(|piece| Value::Text(piece.into())).collect())
            }
            [Value::Text(text), Value::Integer(times)] if name == "repeat" => {
                let times = usize::try_from(*times).map_err(|_| takes(name, "a text and a number"))?;
                self.spend(text.len().saturating_mul(times))?;
                self.text(text.repeat(times))
            }
            [Value::List(items)] => self.of_list(name, items),
            [Value::List(items), Value::Text(between)] if name == "join" => {
                let items = items.iter().map(Value::as_text).collect::<Result<Vec<_>, _>>()?;
                self.spend(between.len().saturating_mul(items.len()))?;
                self.text(items.join(between))
            }
            [Value::Map(entries)] => match name {
                "len" => Ok(Value::Integer(entries.len() as i64)),
                "keys" => self.list(entries.keys().map(|key| Value::Text(key.as_str().into())).collect()),
                "values" => self.list(entries.values().cloned().collect()),
                _ => Err(unknown(name)),
            },
            [number @ (Value::Integer(_) | Value::Float(_))] => self.of_number(name, number),
            [Value::Bool(truth)] if name == "string" => self.text(truth.to_string()),
            numbers @ [_, _, ..] if matches!(name, "max" | "min") => largest(name, numbers),
            _ => Err(unknown(name)),
        }
    }

    fn of_text(&self, name: &str, text: &str) -> Result<Value, String> {
        match name {
            "len" => Ok(Value::Integer(text.chars().count() as i64)),
            "lower" => self.text(text.to_lowercase()),
            "upper" => self.text(text.to_uppercase()),
            "trim" => self.text(text.trim().to_owned()),
            "string" => Ok(Value::Text(text.into())),
            "int" => text.parse().map(Value::Integer).map_err(|_| format!("`{text}` is not a whole number")),
            "float" => text.parse().map(Value::Float).map_err(|_| format!("`{text}` is not a number")),
            "fromJSON" => {
                self.spend(text.len().saturating_mul(8))?;
                let json =
                    serde_json::from_str(text).map_err(|error| format!("that is not JSON: {error}"))?;
                Ok(Value::from_json(json))
            }
            _ => Err(unknown(name)),
        }
    }

    fn of_two_texts(&self, name: &str, text: &str, part: &str) -> Result<Value, String> {
        let at = |byte: Option<usize>| match byte {
            Some(byte) => Value::Integer(text[..byte].chars().count() as i64),
            None => Value::Integer(-1),
        };
        match name {
            "hasPrefix" => Ok(Value::Bool(text.starts_with(part))),
            "hasSuffix" => Ok(Value::Bool(text.ends_with(part))),
            "trimPrefix" => self.text(text.strip_prefix(part).unwrap_or(text).to_owned()),
            "trimSuffix" => self.text(text.strip_suffix(part).unwrap_or(text).to_owned()),
            "trim" => self.text(text.trim_matches(|c| part.contains(c)).to_owned()),
            "indexOf" => Ok(at(text.find(part))),
            "lastIndexOf" => Ok(at(text.rfind(part))),
            "split" if part.is_empty() => {
                self.list(text.chars().map(|c| Value::Text(c.to_string().into())).collect())
            }
            "split" => self.list(text.split(part).map(|piece| Value::Text(piece.into())).collect()),
            "max" | "min" => largest(name, &[Value::Text(text.into()), Value::Text(part.into())]),
            _ => Err(unknown(name)),
        }
    }

    fn of_list(&self, name: &str, items: &[Value]) -> Result<Value, String> {
        match name {
            "len" => Ok(Value::Integer(items.len() as i64)),
            "first" => Ok(items.first().cloned().unwrap_or(Value::Nil)),
            "last" => Ok(items.last().cloned().unwrap_or(Value::Nil)),
            "reverse" => self.list(items.iter().rev().cloned().collect()),
            "max" | "min" => largest(name, items),
            "join" => {
                let items = items.iter().map(Value::as_text).collect::<Result<Vec<_>, _>>()?;
                self.text(items.concat())
            }
            _ => Err(unknown(name)),
        }
    }

    fn of_number(&self, name: &str, number: &Value) -> Result<Value, String> {
        match (name, number) {
            ("abs", Value::Integer(whole)) => {
                whole.checked_abs().map(Value::Integer).ok_or_else(|| "a number is too large".to_owned())
            }
            ("abs", Value::Float(number)) => Ok(Value::Float(number.abs())),
            ("int", Value::Float(number)) => Ok(Value::Integer(*number as i64)),
            ("float", Value::Integer(whole)) => Ok(Value::Float(*whole as f64)),
            ("int" | "float", number) => Ok(number.clone()),
            ("string", Value::Integer(whole)) => self.text(whole.to_string()),
            ("string", Value::Float(number)) => self.text(number.to_string()),
            _ => Err(unknown(name)),
        }
    }

    fn about_each(
        &self,
        name: &str,
        items: &[Value],
        block: Option<&Node>,
        scope: &Scope,
    ) -> Result<Value, String> {
        let block =
            block.ok_or_else(|| takes(name, "a list and a block, such as `{# startsWith \"docs/\"}`"))?;
        let mut made = Vec::new();
        let mut count = 0;
        for item in items {
            let value = self.value(block, &scope.with("#", item.clone()))?;
            if name == "map" {
                made.push(value);
                continue;
            }
            let holds = value.truth()?;
            count += i64::from(holds);
            match name {
                "filter" if holds => made.push(item.clone()),
                "find" if holds => return Ok(item.clone()),
                "any" if holds => return Ok(Value::Bool(true)),
                "none" if holds => return Ok(Value::Bool(false)),
                "all" if !holds => return Ok(Value::Bool(false)),
                _ => {}
            }
        }
        match name {
            "map" | "filter" => self.list(made),
            "count" => Ok(Value::Integer(count)),
            "one" => Ok(Value::Bool(count == 1)),
            "find" => Ok(Value::Nil),
            "any" => Ok(Value::Bool(false)),
            _ => Ok(Value::Bool(true)),
        }
    }
}

fn largest(name: &str, values: &[Value]) -> Result<Value, String> {
    let mut values = values.iter();
    let mut best = values.next().ok_or_else(|| takes(name, "at least one value"))?.clone();
    for value in values {
        let order = value.ordered(&best)?;
        let better = if name == "max" { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less };
        if order == Some(better) {
            best = value.clone();
        }
    }
    Ok(best)
}

fn takes(name: &str, what: &str) -> String {
    format!("`{name}` takes {what}")
}

fn unknown(name: &str) -> String {
    format!("there is no function `{name}` for these arguments")
}
