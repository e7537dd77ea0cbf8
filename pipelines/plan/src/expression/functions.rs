//! The functions an expression may call: those that conditions over text have a use for.

use std::cmp::Ordering;

use super::{
    Evaluation, Scope,
    syntax::{Binary, Node},
    value::Value,
};

const ABOUT_EACH: [&str; 14] = [
    "all",
    "any",
    "none",
    "one",
    "filter",
    "map",
    "count",
    "find",
    "findIndex",
    "findLast",
    "findLastIndex",
    "sum",
    "sortBy",
    "reduce",
];

const ABOUT_TIME: [&str; 4] = ["now", "date", "duration", "timezone"];

/// Lists and maps inside each other that `reduce` may make and `toJSON` may write: each is a call
/// inside of another, and an indentation.
const DEEPEST: usize = 32;

/// Whether the second argument is a block about each element of the first.
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
        if ABOUT_TIME.contains(&name) {
            return Err(format!(
                "there is no `{name}`: a condition does not know the time, so that it is decided alike whenever it is asked; use a schedule and `when: {{cron: …}}`"
            ));
        }
        let arguments = arguments.iter().map(|a| self.value(a, scope)).collect::<Result<Vec<_>, _>>()?;
        match (name, block, &arguments[..]) {
            ("reduce", Some(block), [list, start @ ..]) if start.len() < 2 => {
                return self.reduce(list.as_list()?, block, start.first(), scope);
            }
            ("sortBy", Some(block), [list, order @ ..]) if order.len() < 2 => {
                let key = |item: &Value, at: usize| self.value(block, &about(scope, item, at));
                return self.sorted(list.as_list()?, order.first(), key);
            }
            ("count" | "sum", None, [list]) => return self.added(name, list.as_list()?),
            _ => {}
        }
        if asks_about_each(name) {
            let [list] = &arguments[..] else { return Err(takes(name, "a list and a block")) };
            return self.about_each(name, list.as_list()?, block, scope);
        }
        // What a function makes is paid by itself; that it looks at what it is given is paid here.
        self.spend(arguments.iter().map(Value::size).sum())?;
        match (name, &arguments[..]) {
            ("type", [value]) => return self.text(value.type_name().to_owned()),
            ("toJSON", [value]) => return self.json(value),
            ("get", [of, key]) => return Ok(self.element(of, key).unwrap_or(Value::Nil)),
            ("concat", [_, ..]) => {
                let lists = arguments.iter().map(Value::as_list).collect::<Result<Vec<_>, _>>()?;
                return self.list(lists.concat());
            }
            ("sort", [Value::List(items), order @ ..]) if order.len() < 2 => {
                return self.sorted(items, order.first(), |item, _| Ok(item.clone()));
            }
            ("take", [Value::List(items), Value::Integer(most)]) => {
                let most = usize::try_from(*most).unwrap_or_default();
                return self.list(items.iter().take(most).cloned().collect());
            }
            _ => {}
        }
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
            "uniq" => {
                let mut seen: Vec<Value> = Vec::new();
                for item in items {
                    if !self.among(&seen, item)? {
                        seen.push(item.clone());
                    }
                }
                self.list(seen)
            }
            "flatten" => self.list(flat(items)),
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
            ("ceil" | "floor" | "round", Value::Integer(whole)) => Ok(Value::Float(*whole as f64)),
            ("ceil", Value::Float(number)) => Ok(Value::Float(number.ceil())),
            ("floor", Value::Float(number)) => Ok(Value::Float(number.floor())),
            ("round", Value::Float(number)) => Ok(Value::Float(number.round())),
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
        let backwards = matches!(name, "findLast" | "findLastIndex");
        for at in 0..items.len() {
            let at = if backwards { items.len() - 1 - at } else { at };
            let item = &items[at];
            let value = self.value(block, &about(scope, item, at))?;
            if matches!(name, "map" | "sum") {
                made.push(value);
                continue;
            }
            let holds = value.truth()?;
            count += i64::from(holds);
            match name {
                "filter" if holds => made.push(item.clone()),
                "find" | "findLast" if holds => return Ok(item.clone()),
                "findIndex" | "findLastIndex" if holds => return Ok(Value::Integer(at as i64)),
                "any" if holds => return Ok(Value::Bool(true)),
                "none" if holds => return Ok(Value::Bool(false)),
                "all" if !holds => return Ok(Value::Bool(false)),
                _ => {}
            }
        }
        match name {
            "map" | "filter" => self.list(made),
            "sum" => self.added(name, &made),
            "count" => Ok(Value::Integer(count)),
            "one" => Ok(Value::Bool(count == 1)),
            "find" | "findLast" => Ok(Value::Nil),
            "findIndex" | "findLastIndex" => Ok(Value::Integer(-1)),
            "any" => Ok(Value::Bool(false)),
            _ => Ok(Value::Bool(true)),
        }
    }

    /// `count` and `sum` of a list as it is.
    fn added(&self, name: &str, items: &[Value]) -> Result<Value, String> {
        self.spend(items.len())?;
        let mut sum = Value::Integer(0);
        for item in items {
            let number = if name == "count" { &Value::Integer(item.truth()?.into()) } else { item };
            sum = sum.computed(Binary::Add, number)?;
        }
        Ok(sum)
    }

    /// What is made so far is `#acc`. It may grow with each element, so looking at it is paid each time.
    fn reduce(
        &self,
        items: &[Value],
        block: &Node,
        start: Option<&Value>,
        scope: &Scope,
    ) -> Result<Value, String> {
        let mut made = start.cloned();
        for (at, item) in items.iter().enumerate() {
            let Some(so_far) = made else {
                made = Some(item.clone());
                continue;
            };
            let next = self.value(block, &about(scope, item, at).with("#acc", so_far))?;
            self.spend(next.size())?;
            if next.is_deeper_than(DEEPEST) {
                return Err(format!("`reduce` makes more than {DEEPEST} lists inside each other"));
            }
            made = Some(next);
        }
        made.ok_or_else(|| takes("reduce", "a value to begin with, or a list that is not empty"))
    }

    /// Each element goes behind those that are not larger. (Rust's own sort may panic where values
    /// have no consistent order, such as what is no number.)
    fn sorted(
        &self,
        items: &[Value],
        order: Option<&Value>,
        key: impl Fn(&Value, usize) -> Result<Value, String>,
    ) -> Result<Value, String> {
        let larger = match order.map(Value::as_text).transpose()? {
            None | Some("asc") => Ordering::Greater,
            Some("desc") => Ordering::Less,
            Some(other) => return Err(format!("`{other}` is no order; write `asc` or `desc`")),
        };
        let mut sorted: Vec<(Value, Value)> = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let key = key(item, at)?;
            let (mut from, mut to) = (0, sorted.len());
            self.spend(sorted.len() / 8)?;
            while from < to {
                let middle = usize::midpoint(from, to);
                self.spend(key.size().min(sorted[middle].0.size()))?;
                if sorted[middle].0.ordered(&key)? == Some(larger) {
                    to = middle;
                } else {
                    from = middle + 1;
                }
            }
            sorted.insert(from, (key, item.clone()));
        }
        self.list(sorted.into_iter().map(|(_, item)| item).collect())
    }

    /// As Go writes it: over several lines, and without what HTML would take for its own.
    fn json(&self, value: &Value) -> Result<Value, String> {
        if value.is_deeper_than(DEEPEST) {
            return Err(format!("`toJSON` writes at most {DEEPEST} lists inside each other"));
        }
        self.spend(value.size().saturating_mul(DEEPEST))?;
        let json = serde_json::to_string_pretty(&value.to_json()?).map_err(|error| error.to_string())?;
        self.text(json.replace('&', r"\u0026").replace('<', r"\u003c").replace('>', r"\u003e"))
    }
}

/// A block's element is `#`, and its position `#index`.
fn about(scope: &Scope, item: &Value, at: usize) -> Scope {
    scope.with("#index", Value::Integer(at as i64)).with("#", item.clone())
}

fn flat(items: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    for item in items {
        match item {
            Value::List(items) => all.extend(flat(items)),
            item => all.push(item.clone()),
        }
    }
    all
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
