//! `evaluate`: an expression of expr-lang over the variables of a run.
//!
//! Whoever opens a pull request writes the expression and the commit message it looks at, and it
//! is evaluated inside the server. So everything has a price: each step of the evaluation and each
//! byte it makes is paid from one purse, and an expression that runs out of it is refused. The
//! crates for this language parse by unbounded recursion and build whatever they are told to
//! (`1..9999999999`, `let a = m + m; let b = a + a; …`), which is why the language is read here.
//!
//! Variables are text. One that is not set is the empty text, as it is in Woodpecker. The time is no
//! variable: what was decided has to be decided alike when somebody asks again.

mod functions;
mod syntax;
mod value;

use std::{cell::Cell, rc::Rc};

use regex::RegexBuilder;

use self::{
    syntax::{Binary, Node},
    value::Value,
};

/// Longer than any condition that a person can still read.
pub const LONGEST: usize = 1024;

/// Steps and bytes of one evaluation: a few milliseconds, and a few megabytes.
const PURSE: u64 = 4_000_000;

/// Bounds the memory that a regular expression of the file may take.
const LARGEST_REGEX: usize = 256 * 1024;

/// Why there is no answer: a sentence for whoever wrote the expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Characters of the expression before the place that this is about.
    pub at: usize,
    pub message: String,
}

/// Whether the expression holds.
pub fn holds<'v>(source: &str, variables: &'v dyn Fn(&str) -> Option<&'v str>) -> Result<bool, Fault> {
    if source.len() > LONGEST {
        let message = format!("the expression has {} bytes; at most {LONGEST} are read", source.len());
        return Err(Fault { at: 0, message });
    }
    let program = syntax::parse(source)?;
    let evaluation = Evaluation { variables, purse: Cell::new(PURSE), failed_at: Cell::new(None) };
    let value = evaluation.value(&program, &Scope::default()).and_then(|value| match value {
        Value::Bool(holds) => Ok(holds),
        other => Err(format!("the expression yields {}, and a condition is true or false", other.kind())),
    });
    value.map_err(|message| Fault { at: evaluation.failed_at.get().unwrap_or(0), message })
}

struct Evaluation<'v> {
    variables: &'v dyn Fn(&str) -> Option<&'v str>,
    purse: Cell<u64>,
    /// The innermost part that could not be evaluated.
    failed_at: Cell<Option<usize>>,
}

/// What `let` named, innermost first, and the element that a block is about.
#[derive(Clone, Default)]
struct Scope(Option<Rc<Binding>>);

struct Binding {
    name: String,
    value: Value,
    outer: Scope,
}

impl Scope {
    fn with(&self, name: &str, value: Value) -> Scope {
        Scope(Some(Rc::new(Binding { name: name.to_owned(), value, outer: self.clone() })))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let mut at = self;
        while let Some(binding) = &at.0 {
            if binding.name == name {
                return Some(&binding.value);
            }
            at = &binding.outer;
        }
        None
    }
}

impl Evaluation<'_> {
    fn spend(&self, price: usize) -> Result<(), String> {
        let left = self.purse.get().checked_sub(price as u64);
        self.purse.set(left.ok_or("the expression takes too long or makes too much; make it simpler")?);
        Ok(())
    }

    fn text(&self, text: String) -> Result<Value, String> {
        self.spend(text.len())?;
        Ok(Value::Text(text.into()))
    }

    fn list(&self, items: Vec<Value>) -> Result<Value, String> {
        self.spend(items.len())?;
        Ok(Value::List(items.into()))
    }

    fn value(&self, node: &Node, scope: &Scope) -> Result<Value, String> {
        self.spend(1)?;
        match node {
            Node::At(at, part) => self.value(part, scope).inspect_err(|_| {
                let innermost = self.failed_at.get().unwrap_or(*at);
                self.failed_at.set(Some(innermost));
            }),
            Node::Literal(value) => Ok(value.clone()),
            Node::Name(name) => self.name(name, scope),
            Node::Let(name, value, rest) => {
                let value = self.value(value, scope)?;
                self.value(rest, &scope.with(name, value))
            }
            Node::If(condition, then, otherwise) => {
                let chosen = if self.value(condition, scope)?.truth()? { then } else { otherwise };
                self.value(chosen, scope)
            }
            Node::Not(operand) => Ok(Value::Bool(!self.value(operand, scope)?.truth()?)),
            Node::Negate(operand) => self.value(operand, scope)?.negated(),
            Node::Binary(operator, left, right) => self.binary(*operator, left, right, scope),
            Node::List(items) => {
                let items = items.iter().map(|item| self.value(item, scope)).collect::<Result<_, _>>()?;
                self.list(items)
            }
            Node::Map(entries) => {
                let entry = |(key, value): &(String, Node)| Ok((key.clone(), self.value(value, scope)?));
                Ok(Value::Map(Rc::new(entries.iter().map(entry).collect::<Result<_, String>>()?)))
            }
            Node::Index(of, index) => self.element(&self.value(of, scope)?, &self.value(index, scope)?),
            Node::Slice(of, from, to) => self.slice(of, from.as_deref(), to.as_deref(), scope),
            Node::Call(name, arguments, block) => self.call(name, arguments, block.as_deref(), scope),
        }
    }

    fn name(&self, name: &str, scope: &Scope) -> Result<Value, String> {
        match scope.get(name) {
            Some(value) => Ok(value.clone()),
            None if name == "#acc" => {
                Err("`#acc` stands for what was made so far, inside the block of `reduce`".to_owned())
            }
            None if name.starts_with('#') => {
                Err(format!("`{name}` stands for an element, inside the block of a function"))
            }
            None if name == "$env" => Ok(Value::Environment),
            None => self.text((self.variables)(name).unwrap_or_default().to_owned()),
        }
    }

    fn element(&self, of: &Value, index: &Value) -> Result<Value, String> {
        match of {
            Value::Environment => {
                self.text((self.variables)(index.as_text()?).unwrap_or_default().to_owned())
            }
            of => of.index(index),
        }
    }

    fn binary(&self, operator: Binary, left: &Node, right: &Node, scope: &Scope) -> Result<Value, String> {
        let left = self.value(left, scope)?;
        match operator {
            Binary::And if !left.truth()? => return Ok(Value::Bool(false)),
            Binary::Or if left.truth()? => return Ok(Value::Bool(true)),
            Binary::OrElse if !matches!(left, Value::Nil) => return Ok(left),
            _ => {}
        }
        let right = self.value(right, scope)?;
        match operator {
            Binary::And | Binary::Or => Ok(Value::Bool(right.truth()?)),
            Binary::OrElse => Ok(right),
            Binary::Equal => self.equal(&left, &right).map(Value::Bool),
            Binary::Unequal => self.equal(&left, &right).map(|equal| Value::Bool(!equal)),
            Binary::In => self.contains(&right, &left).map(Value::Bool),
            Binary::Contains | Binary::StartsWith | Binary::EndsWith | Binary::Matches => {
                self.look(operator, left.as_text()?, right.as_text()?).map(Value::Bool)
            }
            Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
                left.compared(operator, &right).map(Value::Bool)
            }
            Binary::Range => self.range(&left, &right),
            Binary::Add => match (&left, &right) {
                (Value::Text(left), Value::Text(right)) => {
                    self.spend(left.len() + right.len())?;
                    Ok(Value::Text([&**left, &**right].concat().into()))
                }
                _ => left.computed(operator, &right),
            },
            Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Remainder | Binary::Power => {
                left.computed(operator, &right)
            }
        }
    }

    /// Comparing takes as long as what is compared.
    fn equal(&self, left: &Value, right: &Value) -> Result<bool, String> {
        self.spend(left.size().min(right.size()))?;
        Ok(left == right)
    }

    fn contains(&self, whole: &Value, part: &Value) -> Result<bool, String> {
        match whole {
            Value::List(items) => self.among(items, part),
            Value::Map(entries) => Ok(entries.contains_key(part.as_text()?)),
            Value::Environment => Ok((self.variables)(part.as_text()?).is_some()),
            Value::Nil => Ok(false),
            other => Err(format!("`in` looks into a list or a map, and this is {}", other.kind())),
        }
    }

    fn among(&self, items: &[Value], part: &Value) -> Result<bool, String> {
        for item in items {
            self.spend(1)?;
            if self.equal(item, part)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn look(&self, operator: Binary, text: &str, part: &str) -> Result<bool, String> {
        self.spend(text.len())?;
        Ok(match operator {
            Binary::StartsWith => text.starts_with(part),
            Binary::EndsWith => text.ends_with(part),
            Binary::Matches => {
                // Built anew for each element of a block, so that it is paid for each time.
                self.spend(part.len().saturating_mul(100))?;
                let mut regex = RegexBuilder::new(part);
                regex.size_limit(LARGEST_REGEX).dfa_size_limit(LARGEST_REGEX);
                regex
                    .build()
                    .map_err(|error| format!("`{part}` is not a regular expression: {error}"))?
                    .is_match(text)
            }
            _ => text.contains(part),
        })
    }

    fn range(&self, from: &Value, to: &Value) -> Result<Value, String> {
        let (from, to) = (from.as_integer()?, to.as_integer()?);
        let length = usize::try_from(to.saturating_sub(from).saturating_add(1)).unwrap_or(0);
        self.spend(length)?;
        self.list((from..=to).map(Value::Integer).collect())
    }

    fn slice(
        &self,
        of: &Node,
        from: Option<&Node>,
        to: Option<&Node>,
        scope: &Scope,
    ) -> Result<Value, String> {
        let of = self.value(of, scope)?;
        let at = |end: Option<&Node>, none: usize| match end {
            None => Ok::<_, String>(none),
            Some(end) => Ok(value::place(self.value(end, scope)?.as_integer()?, of.length()?)),
        };
        let (from, to) = (at(from, 0)?, at(to, of.length()?)?);
        self.spend(of.size())?;
        of.sliced(from, to)
    }
}

#[cfg(test)]
mod tests;
