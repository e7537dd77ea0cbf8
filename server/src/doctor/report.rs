//! The findings for a person on a terminal.

use super::{Finding, Level};
use crate::cli::text;

/// Good things in one line each, bad things with what to do below them.
pub fn report(host: &str, findings: &[Finding], colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let paint = |code: &str, text: &str| match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let mut text = format!("{host}\n\n");
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => paint("32", "ok     "),
            Level::Warning => paint("33", "warning"),
            Level::Error => paint("31", "error  "),
        };
        let message = plain(&finding.message);
        text += &format!("  {mark}  {:width$}  {message}\n", finding.check);
        for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
            let line = plain(line);
            text += &format!("  {:7}  {:width$}    {}\n", "", "", paint("2", &line));
        }
    }
    text + &format!("\n{}\n", summary(findings))
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let bad = [(count(Level::Error), "error"), (count(Level::Warning), "warning")];
    let bad: Vec<String> = bad
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| text::count(count as u64, what))
        .collect();
    match bad.is_empty() {
        true => "everything is as it should be".to_owned(),
        false => {
            let fixable = findings.iter().filter(|finding| finding.remedy.is_some()).count();
            let fixable = match fixable {
                0 => String::new(),
                _ => format!("; --fix can do something about {fixable}"),
            };
            format!("{}{fixable}", bad.join(", "))
        }
    }
}

/// Much of it was said by the other side, which has no power over the cursor.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}
