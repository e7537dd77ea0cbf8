//! `when`: whether a workflow or a step runs, and why or why not in a sentence for a person.
//!
//! Items of a list are alternatives, the keys of one item must all agree. A key that does not
//! concern the event (`branch` on a tag, `cron` on a push, `path` on a manual run) is passed over.

use std::collections::BTreeMap;

pub use crate::glob::matches;
use crate::{
    event::EventKind,
    expression::{self, Fault},
    facts::Facts,
    rules::RunsOn,
    spec::{At, Constraint, PathConstraint, Point, Spanned, Status, When},
};

/// More files than this are not listed in a sentence.
const MOST_NAMED: usize = 3;

/// What a `when` is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    pub facts: &'a Facts,
    /// The variables of expressions.
    pub variables: &'a BTreeMap<String, String>,
    /// The workflow's point of the matrix when this is about a step: `matrix` is for steps only.
    pub point: Option<&'a Point>,
    /// For the sentences.
    pub file: &'a str,
}

/// The answer, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Runs { on: RunsOn, why: String },
    Not { why: String },
}

/// Evaluates the alternatives. The error is about an expression that cannot be evaluated, with the
/// place where it stands.
pub fn answer(when: &[When], about: &Circumstances<'_>) -> Result<Answer, (Spanned<()>, String)> {
    if when.is_empty() {
        return Ok(Answer::Runs { on: RunsOn::default(), why: "nothing restricts it".to_owned() });
    }
    let is_step = about.point.is_some();
    if let Some(item) = when.iter().find(|item| is_step && about.facts.local && item.local == Some(false)) {
        let why = format!("`local: false` keeps it out of local runs ({})", place(about.file, item.at.line));
        return Ok(Answer::Not { why });
    }
    let mut matching = Vec::new();
    let mut reasons: Vec<String> = Vec::new();
    for item in when {
        match disagreement(item, about)? {
            None => matching.push(item),
            Some(why) if !reasons.contains(&why) => reasons.push(why),
            Some(_) => {}
        }
    }
    let Some(first) = matching.first() else { return Ok(Answer::Not { why: reasons.join("; ") }) };
    let lists = |item: &&When, status| item.status.iter().any(|listed| listed.value == status);
    let on = RunsOn {
        // Success counts unless a list that holds leaves it out; failure only where a list has it.
        success: matching.iter().all(|item| item.status.is_empty() || lists(item, Status::Success)),
        failure: matching.iter().any(|item| lists(item, Status::Failure)),
    };
    Ok(Answer::Runs { on, why: format!("its `when` holds ({})", place(about.file, first.at.line)) })
}

/// The first key of an item that does not agree, as a sentence.
fn disagreement(item: &When, about: &Circumstances<'_>) -> Result<Option<String>, (Spanned<()>, String)> {
    let facts = about.facts;
    let event = facts.pipeline.event;
    if let Some(first) = item.event.first()
        && !item.event.iter().any(|listed| is_listed(listed.value, event))
    {
        let listed: Vec<&str> = item.event.iter().map(|event| event.as_str()).collect();
        let place = place(about.file, first.at.line);
        return Ok(Some(format!("the event is `{event}`, and it runs on `{}` ({place})", listed.join(", "))));
    }
    let commit = &facts.commit;
    let texts: [(&str, &Constraint, &str, bool); 6] = [
        ("branch", &item.branch, &commit.branch, event != EventKind::Tag),
        ("repo", &item.repo, facts.repo.name.as_str(), true),
        ("ref", &item.git_ref, &commit.git_ref, true),
        ("cron", &item.cron, &facts.pipeline.cron, event == EventKind::Cron),
        ("platform", &item.platform, &facts.system.platform, true),
        ("instance", &item.instance, &facts.system.host, true),
    ];
    for (key, constraint, value, concerned) in texts {
        if let Some(why) = constrained(key, constraint, value, about.file).filter(|_| concerned) {
            return Ok(Some(why));
        }
    }
    if event == EventKind::Push || event.is_pull_request() {
        let files = facts.pipeline.files.as_deref().unwrap_or_default();
        if let Some(why) = changed(&item.path, files, &commit.message, about.file) {
            return Ok(Some(why));
        }
    }
    if let Some(why) = about.point.and_then(|point| elsewhere(item, point, about.file)) {
        return Ok(Some(why));
    }
    let Some(source) = &item.evaluate else { return Ok(None) };
    let variable = |name: &str| about.variables.get(name).map(String::as_str);
    match expression::holds(source, &variable) {
        Ok(true) => Ok(None),
        Ok(false) => {
            Ok(Some(format!("`{}` does not hold ({})", source.value, place(about.file, source.at.line))))
        }
        Err(Fault { at, message }) => {
            let begins = item.evaluate_inside;
            let inside = begins.map(|begins| At { column: begins.column + at, ..begins });
            Err((Spanned { value: (), at: inside.unwrap_or(source.at) }, message))
        }
    }
}

/// A merged pull request was closed, and pipelines that were written before there was a word for
/// merging expect to run then.
fn is_listed(listed: EventKind, event: EventKind) -> bool {
    listed == event || (listed == EventKind::PullRequestClosed && event == EventKind::PullRequestMerged)
}

fn constrained(key: &str, constraint: &Constraint, value: &str, file: &str) -> Option<String> {
    if let Some(pattern) = constraint.exclude.iter().find(|pattern| matches(pattern, value)) {
        let place = place(file, pattern.at.line);
        return Some(format!("`{key}` is `{value}`, which `{}` excludes ({place})", pattern.value));
    }
    let first = constraint.include.first()?;
    if constraint.include.iter().any(|pattern| matches(pattern, value)) {
        return None;
    }
    let listed: Vec<&str> = constraint.include.iter().map(|pattern| pattern.as_str()).collect();
    let place = place(file, first.at.line);
    Some(format!("`{key}` is `{value}`, and it runs on `{}` ({place})", listed.join(", ")))
}

/// Whether a point is left out: what is excluded is out whatever is included, and an exclusion is
/// all of its axes together.
fn elsewhere(item: &When, point: &Point, file: &str) -> Option<String> {
    let value = |axis: &str| point.get(axis).map_or("", String::as_str);
    let agrees = |(axis, pattern): (&String, &Spanned<String>)| matches(pattern, value(axis));
    if let Some(first) = item.matrix_exclude.values().next()
        && item.matrix_exclude.iter().all(agrees)
    {
        let axes = item.matrix_exclude.keys().map(|axis| format!("`{axis}` is `{}`", value(axis)));
        let axes = axes.collect::<Vec<_>>().join(" and ");
        return Some(format!("{axes} here, which is excluded ({})", place(file, first.at.line)));
    }
    let (axis, pattern) = item.matrix.iter().find(|axis| !agrees(*axis))?;
    let (place, value) = (place(file, pattern.at.line), value(axis));
    Some(format!("`{axis}` is `{value}` here, and it runs where it is `{}` ({place})", pattern.value))
}

fn changed(path: &PathConstraint, files: &[String], message: &str, file: &str) -> Option<String> {
    let ignored = path.ignore_message.as_ref().filter(|ignored| !ignored.is_empty());
    if ignored.is_some_and(|ignored| message.to_lowercase().contains(&ignored.to_lowercase())) {
        return None;
    }
    if files.is_empty() {
        return (!path.on_empty).then(|| "no file changed, and `on_empty` is false".to_owned());
    }
    let among =
        |patterns: &[Spanned<String>], file: &String| patterns.iter().any(|pattern| matches(pattern, file));
    if let Some(first) = path.exclude.first()
        && files.iter().all(|changed| among(&path.exclude, changed))
    {
        let place = place(file, first.at.line);
        return Some(format!("only excluded files changed: {} ({place})", named(files)));
    }
    let first = path.include.first()?;
    if files.iter().any(|changed| among(&path.include, changed)) {
        return None;
    }
    let listed: Vec<&str> = path.include.iter().map(|pattern| pattern.as_str()).collect();
    let place = place(file, first.at.line);
    Some(format!(
        "it runs when `{}` changes ({place}), and what changed is {}",
        listed.join(", "),
        named(files)
    ))
}

fn named(files: &[String]) -> String {
    let shown: Vec<String> = files.iter().take(MOST_NAMED).map(|file| format!("`{file}`")).collect();
    match files.len().saturating_sub(MOST_NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn place(file: &str, line: usize) -> String {
    if line == 0 { file.to_owned() } else { format!("{file}:{line}") }
}
