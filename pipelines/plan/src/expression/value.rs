//! The values of an expression. Large ones are shared, so that a copy costs nothing.

use std::{cmp::Ordering, collections::BTreeMap, rc::Rc};

use super::syntax::Binary;

#[derive(Debug, Clone)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Rc<str>),
    List(Rc<[Value]>),
    Map(Rc<BTreeMap<String, Value>>),
    /// `$env`: all variables, of which one is asked for by its name.
    Environment,
}

/// More than any evaluation can pay for; counting ends there. What is shared is counted each time,
/// so lists of lists of the same could otherwise be counted for years.
const LARGEST: usize = super::PURSE as usize + 1;

/// An integer equals the same number written with a point; values of different kinds are unequal.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Nil, Value::Nil) => true,
            (Value::Bool(one), Value::Bool(other)) => one == other,
            (Value::Integer(one), Value::Integer(other)) => one == other,
            (Value::Integer(_) | Value::Float(_), Value::Integer(_) | Value::Float(_)) => {
                self.as_float() == other.as_float()
            }
            (Value::Text(one), Value::Text(other)) => one == other,
            (Value::List(one), Value::List(other)) => one == other,
            (Value::Map(one), Value::Map(other)) => one == other,
            _ => false,
        }
    }
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Nil => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Environment => "the environment",
        }
    }

    pub(super) fn truth(&self) -> Result<bool, String> {
        match self {
            Value::Bool(truth) => Ok(*truth),
            other => Err(format!("{} is neither true nor false; compare it with something", other.kind())),
        }
    }

    pub(super) fn as_text(&self) -> Result<&str, String> {
        match self {
            Value::Text(text) => Ok(text),
            other => Err(format!("{} stands where text is needed", other.kind())),
        }
    }

    pub(super) fn as_integer(&self) -> Result<i64, String> {
        match self {
            Value::Integer(number) => Ok(*number),
            other => Err(format!("{} stands where a whole number is needed", other.kind())),
        }
    }

    pub(super) fn as_list(&self) -> Result<&[Value], String> {
        match self {
            Value::List(items) => Ok(items),
            other => Err(format!("{} stands where a list is needed", other.kind())),
        }
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// What expr-lang calls it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Integer(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "string",
            Value::List(_) => "array",
            Value::Map(_) | Value::Environment => "map",
        }
    }

    /// What looking at all of it costs.
    pub(super) fn size(&self) -> usize {
        let mut left = LARGEST;
        self.count(&mut left);
        LARGEST - left
    }

    fn count(&self, left: &mut usize) {
        let own = match self {
            Value::Text(text) => text.len(),
            _ => 1,
        };
        *left = left.saturating_sub(own);
        match self {
            Value::List(items) => {
                for item in items.iter() {
                    if *left == 0 {
                        break;
                    }
                    item.count(left);
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries.iter() {
                    *left = left.saturating_sub(key.len());
                    if *left == 0 {
                        break;
                    }
                    value.count(left);
                }
            }
            _ => {}
        }
    }

    /// Whether lists and maps stand inside each other more than `most` times. It looks at all of it.
    pub(super) fn is_deeper_than(&self, most: usize) -> bool {
        let deeper = |item: &Value| most == 0 || item.is_deeper_than(most - 1);
        match self {
            Value::List(items) => items.iter().any(deeper),
            Value::Map(entries) => entries.values().any(deeper),
            _ => false,
        }
    }

    pub(super) fn length(&self) -> Result<usize, String> {
        match self {
            Value::Text(text) => Ok(text.chars().count()),
            Value::List(items) => Ok(items.len()),
            Value::Map(entries) => Ok(entries.len()),
            other => Err(format!("{} has no length", other.kind())),
        }
    }

    pub(super) fn index(&self, index: &Value) -> Result<Value, String> {
        match (self, index) {
            (Value::Map(entries), Value::Text(key)) => Ok(entries.get(&**key).cloned().unwrap_or(Value::Nil)),
            (Value::List(items), Value::Integer(at)) => {
                let found = usize::try_from(if *at < 0 { at + items.len() as i64 } else { *at }).ok();
                let found = found.and_then(|at| items.get(at));
                found.cloned().ok_or_else(|| format!("element {at} of {} is asked for", items.len()))
            }
            (Value::Nil, _) => Ok(Value::Nil),
            (of, index) => Err(format!("{} has no element named by {}", of.kind(), index.kind())),
        }
    }

    pub(super) fn sliced(&self, from: usize, to: usize) -> Result<Value, String> {
        let length = to.saturating_sub(from);
        match self {
            Value::Text(text) => {
                Ok(Value::Text(text.chars().skip(from).take(length).collect::<String>().into()))
            }
            Value::List(items) => {
                let items: Vec<Value> = items.iter().skip(from).take(length).cloned().collect();
                Ok(Value::List(items.into()))
            }
            other => Err(format!("a part of {} is asked for", other.kind())),
        }
    }

    pub(super) fn negated(&self) -> Result<Value, String> {
        match self {
            Value::Integer(number) => Ok(Value::Integer(number.checked_neg().ok_or(TOO_LARGE)?)),
            Value::Float(number) => Ok(Value::Float(-number)),
            other => Err(format!("{} has no negative", other.kind())),
        }
    }

    pub(super) fn ordered(&self, other: &Value) -> Result<Option<Ordering>, String> {
        match (self, other) {
            (Value::Integer(one), Value::Integer(other)) => Ok(Some(one.cmp(other))),
            (Value::Text(one), Value::Text(other)) => Ok(Some(one.cmp(other))),
            _ => match (self.as_float(), other.as_float()) {
                (Some(one), Some(other)) => Ok(one.partial_cmp(&other)),
                _ => Err(format!("{} and {} have no order", self.kind(), other.kind())),
            },
        }
    }

    pub(super) fn compared(&self, operator: Binary, other: &Value) -> Result<bool, String> {
        let order = self.ordered(other)?;
        Ok(match operator {
            Binary::Less => order == Some(Ordering::Less),
            Binary::LessOrEqual => order.is_some_and(Ordering::is_le),
            Binary::Greater => order == Some(Ordering::Greater),
            _ => order.is_some_and(Ordering::is_ge),
        })
    }

    pub(super) fn computed(&self, operator: Binary, other: &Value) -> Result<Value, String> {
        if let (Value::Integer(one), Value::Integer(other)) = (self, other) {
            let whole = match operator {
                Binary::Add => Some(one.checked_add(*other)),
                Binary::Subtract => Some(one.checked_sub(*other)),
                Binary::Multiply => Some(one.checked_mul(*other)),
                Binary::Remainder if *other == 0 => return Err("something is divided by zero".to_owned()),
                Binary::Remainder => Some(one.checked_rem(*other)),
                _ => None,
            };
            if let Some(whole) = whole {
                return Ok(Value::Integer(whole.ok_or(TOO_LARGE)?));
            }
        }
        let (Some(one), Some(other)) = (self.as_float(), other.as_float()) else {
            return Err(format!("{} and {} are not two numbers", self.kind(), other.kind()));
        };
        Ok(Value::Float(match operator {
            Binary::Add => one + other,
            Binary::Subtract => one - other,
            Binary::Multiply => one * other,
            Binary::Divide => one / other,
            Binary::Power => one.powf(other),
            _ => return Err("`%` is for whole numbers".to_owned()),
        }))
    }

    /// A whole number is written without a point, as Go does.
    pub(super) fn to_json(&self) -> Result<serde_json::Value, String> {
        Ok(match self {
            Value::Nil => serde_json::Value::Null,
            Value::Bool(truth) => (*truth).into(),
            Value::Integer(whole) => (*whole).into(),
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => (*number as i64).into(),
            Value::Float(number) if number.is_finite() => (*number).into(),
            Value::Text(text) => (**text).into(),
            Value::List(items) => items.iter().map(Value::to_json).collect::<Result<_, _>>()?,
            Value::Map(entries) => {
                let entry = |(key, value): (&String, &Value)| Ok((key.clone(), value.to_json()?));
                serde_json::Value::Object(entries.iter().map(entry).collect::<Result<_, String>>()?)
            }
            Value::Float(_) | Value::Environment => {
                return Err(format!("JSON cannot say {} like this one", self.kind()));
            }
        })
    }

    pub(super) fn from_json(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Nil,
            serde_json::Value::Bool(truth) => Value::Bool(truth),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => Value::Integer(whole),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Text(text.into()),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Value::from_json).collect()),
            serde_json::Value::Object(entries) => {
                let entries = entries.into_iter().map(|(key, value)| (key, Value::from_json(value)));
                Value::Map(Rc::new(entries.collect()))
            }
        }
    }
}

const TOO_LARGE: &str = "a number is too large";

/// An end of a slice: negative ones count from behind, and none leads out of it.
pub(super) fn place(at: i64, length: usize) -> usize {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let at = if at < 0 { at.saturating_add(length) } else { at };
    usize::try_from(at.clamp(0, length)).unwrap_or(0)
}
