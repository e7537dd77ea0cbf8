//! What steps hand to later steps: `key=value` lines in `$CI_OUTPUT`, read by others as
//! `${{ steps.NAME.outputs.KEY }}`.
//!
//! An output is whatever a program wrote, so it is data everywhere. In values it is simply put in.
//! In commands it never becomes part of the script: a variable that carries it is expanded there.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    action::{Action, ContainerAction, Health},
    event::one_line,
};

/// Outputs are stored with the step and given to others in their environment.
pub const LARGEST: usize = 64 * 1024;
const MOST_KEYS: usize = 100;
const LONGEST_KEY: usize = 100;

const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// `steps.STEP.outputs.KEY`, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub step: String,
    pub key: String,
    pub range: std::ops::Range<usize>,
}

/// The references of a text. What opens like one and is none is an error, for whoever wrote it.
pub fn references(text: &str) -> Result<Vec<Reference>, String> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find(OPEN) {
        let start = from + at;
        let inner = start + OPEN.len();
        let length = text[inner..].find(CLOSE).ok_or("`${{` is not closed by `}}`")?;
        let body = text[inner..inner + length].trim();
        let parts: Vec<&str> = body.split('.').collect();
        let ("steps", [step @ .., "outputs", key]) = (parts[0], parts.get(1..).unwrap_or_default()) else {
            return Err(wrong(body));
        };
        if step.is_empty() || !is_key(key) {
            return Err(wrong(body));
        }
        let range = start..inner + length + CLOSE.len();
        from = range.end;
        found.push(Reference { step: step.join("."), key: (*key).to_owned(), range });
    }
    Ok(found)
}

fn wrong(body: &str) -> String {
    format!("`${{{{ {} }}}}` is not understood; write `${{{{ steps.NAME.outputs.KEY }}}}`", one_line(body))
}

/// Puts outputs in, in the moment a step starts. The error names what is missing.
pub fn fill(action: &mut Action, lookup: &dyn Fn(&str, &str) -> Option<String>) -> Result<(), String> {
    let found = |reference: &Reference| {
        let Reference { step, key, .. } = reference;
        lookup(step, key).ok_or_else(|| {
            format!("step `{step}` wrote no output `{key}`; write `{key}=…` to `$CI_OUTPUT` there")
        })
    };
    match action {
        Action::Image(_) | Action::Clone(_) | Action::YumMirror(_) => Ok(()),
        Action::Container(container) => fill_container(container, &found),
        Action::Ansible(ansible) => {
            let health = ansible.health.iter_mut();
            fill_values(ansible.variables.values_mut(), &found)?;
            health.into_iter().try_for_each(|health| fill_health(health, &found))
        }
        Action::Rollout(rollout) => {
            fill_values(rollout.environment.values_mut(), &found)?;
            for word in &mut rollout.command {
                *word = replaced(word, &found)?;
            }
            fill_health(&mut rollout.health, &found)
        }
    }
}

type Found<'f> = &'f dyn Fn(&Reference) -> Result<String, String>;

fn fill_container(container: &mut ContainerAction, found: Found<'_>) -> Result<(), String> {
    container.image = replaced(&container.image, found)?;
    fill_values(container.environment.values_mut().chain(container.settings.values_mut()), found)?;
    for word in &mut container.entrypoint {
        *word = replaced(word, found)?;
    }
    let mut carried: BTreeMap<String, String> = BTreeMap::new();
    for command in &mut container.commands {
        *command = expanded(command, &mut carried, found)?;
    }
    container.environment.extend(carried.into_iter().map(|(name, value)| (name, Value::String(value))));
    Ok(())
}

fn fill_health(health: &mut Health, found: Found<'_>) -> Result<(), String> {
    health.url = replaced(&health.url, found)?;
    if let Some(body) = &mut health.body {
        *body = replaced(body, found)?;
    }
    Ok(())
}

fn fill_values<'v>(values: impl Iterator<Item = &'v mut Value>, found: Found<'_>) -> Result<(), String> {
    values.into_iter().try_for_each(|value| fill_value(value, found))
}

/// Reads what a step wrote to `$CI_OUTPUT`. The last line of a key counts.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    if text.len() > LARGEST {
        return Err(format!("$CI_OUTPUT has {} bytes, more than the {LARGEST} that are kept", text.len()));
    }
    let mut outputs = BTreeMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = at + 1;
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| format!("line {number} of $CI_OUTPUT has no `=`; write `key=value`"))?;
        let key = key.trim();
        if !is_key(key) {
            return Err(format!(
                "line {number} of $CI_OUTPUT: `{}` is not a key; use letters, digits, `_` and `-`",
                one_line(key)
            ));
        }
        outputs.insert(key.to_owned(), value.to_owned());
        if outputs.len() > MOST_KEYS {
            return Err(format!("$CI_OUTPUT has more than {MOST_KEYS} keys"));
        }
    }
    Ok(outputs)
}

/// Why a command cannot hold its references, if so.
pub fn check_command(command: &str) -> Result<(), String> {
    for reference in references(command)? {
        if quoting(&command[..reference.range.start]) == Quoting::Single {
            return Err(format!(
                "`{}` stands in single quotes, where the shell expands nothing; use double quotes",
                &command[reference.range]
            ));
        }
    }
    Ok(())
}

/// Why a word of an entrypoint cannot hold its references, if so. A word stays one word whatever
/// is put into it, but what stands behind `-c` or `-e` is read as a program.
pub fn check_word(before: &str, word: &str) -> Result<(), String> {
    let reads_a_program =
        before.starts_with('-') && !before.starts_with("--") && before.ends_with(['c', 'e']);
    match references(word)?.first() {
        Some(_) if reads_a_program => Err(format!(
            "an output behind `{}` would become part of a program; use `commands`, or hand it over in `environment`",
            one_line(before)
        )),
        _ => Ok(()),
    }
}

fn is_key(key: &str) -> bool {
    let first = key.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first
        && key.len() <= LONGEST_KEY
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

pub(crate) fn strings<'v>(value: &'v Value, each: &mut dyn FnMut(&'v str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(items) => items.iter().for_each(|item| strings(item, each)),
        Value::Object(map) => map.values().for_each(|value| strings(value, each)),
        _ => {}
    }
}

fn fill_value(value: &mut Value, found: Found<'_>) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains(OPEN) => *text = replaced(text, found)?,
        Value::Array(items) => {
            for item in items {
                fill_value(item, found)?;
            }
        }
        Value::Object(map) => {
            for value in map.values_mut() {
                fill_value(value, found)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn replaced(text: &str, found: Found<'_>) -> Result<String, String> {
    let mut done = String::with_capacity(text.len());
    let mut from = 0;
    for reference in references(text)? {
        done.push_str(&text[from..reference.range.start]);
        done.push_str(&found(&reference)?);
        from = reference.range.end;
    }
    done.push_str(&text[from..]);
    Ok(done)
}

fn expanded(
    command: &str,
    carried: &mut BTreeMap<String, String>,
    found: Found<'_>,
) -> Result<String, String> {
    check_command(command)?;
    let mut done = String::with_capacity(command.len());
    let mut from = 0;
    for reference in references(command)? {
        let name = variable(&reference, &found(&reference)?, carried);
        let before = &command[..reference.range.start];
        done.push_str(&command[from..reference.range.start]);
        // Without quotes the shell would split it into words, and expand `*` in it. Inside of a
        // here-document quotes would be text.
        let bare = quoting(before) == Quoting::Double || before.contains("<<");
        done.push_str(&if bare { format!("${{{name}}}") } else { format!("\"${{{name}}}\"") });
        from = reference.range.end;
    }
    done.push_str(&command[from..]);
    Ok(done)
}

/// `CI_OUTPUT_STEP_KEY`; two that would be called alike are told apart by a number.
fn variable(reference: &Reference, value: &str, carried: &mut BTreeMap<String, String>) -> String {
    let plain: String = format!("CI_OUTPUT_{}_{}", reference.step, reference.key)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    let mut name = plain.clone();
    let mut number = 2;
    while carried.get(&name).is_some_and(|other| other != value) {
        name = format!("{plain}_{number}");
        number += 1;
    }
    carried.insert(name.clone(), value.to_owned());
    name
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    None,
    Single,
    Double,
}

/// How the shell reads what follows `before`.
fn quoting(before: &str) -> Quoting {
    let mut state = Quoting::None;
    let mut at_word = true;
    let mut chars = before.chars();
    while let Some(c) = chars.next() {
        match (state, c) {
            (Quoting::None | Quoting::Double, '\\') => {
                chars.next();
            }
            (Quoting::None, '#') if at_word => {
                chars.find(|c| *c == '\n');
            }
            (Quoting::None, '\'') => state = Quoting::Single,
            (Quoting::None, '"') => state = Quoting::Double,
            (Quoting::Single, '\'') | (Quoting::Double, '"') => state = Quoting::None,
            _ => {}
        }
        at_word = c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(');
    }
    state
}
