//! `uses:`: the actions that are built in, and what each takes `with:`.
//!
//! | file            | its subject                                     |
//! | --------------- | ----------------------------------------------- |
//! | `with.rs`       | the values of `with:`, read with their findings |
//! | `target.rs`     | which machine is meant, and whether it may be   |
//! | `health.rs`     | what proves a deployment                        |
//! | the others      | one action each                                 |

mod ansible;
mod health;
mod image;
mod rollout;
mod target;
mod with;
mod yum_mirror;

use crate::{
    action::Action,
    finding::Finding,
    spec::{Spanned, Step},
    workflows::Request,
};

use with::With;

/// Reads a step's `with` into an action. `None` after a finding.
type Read = fn(&mut With<'_>) -> Option<Action>;

/// A key of `with`, and what it says.
type Key = (&'static str, &'static str);

/// By name: what it takes, and how it is read.
const ACTIONS: [(&str, &[Key], Read); 4] = [
    ("image", &image::KEYS, image::read),
    ("yum-mirror", &yum_mirror::KEYS, yum_mirror::read),
    ("ansible", &ansible::KEYS, ansible::read),
    ("rollout", &rollout::KEYS, rollout::read),
];

/// Each action with what its `with` takes, for who describes the language.
pub(crate) fn described() -> impl Iterator<Item = (&'static str, &'static [Key])> {
    ACTIONS.iter().map(|(name, keys, _)| (*name, *keys))
}

/// A step that asks for an action, and where it stands.
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) file: &'a str,
    pub(crate) step: &'a Step,
    pub(crate) uses: &'a Spanned<String>,
    /// Where the workspace's volume is mounted, and the checkout in it.
    pub(crate) base: String,
    pub(crate) directory: String,
}

/// The action of a step. One that does not run may lack what it would need.
pub(crate) fn action(asked: &Asked<'_>, runs: bool, findings: &mut Vec<Finding>) -> Option<Action> {
    let mut with = With::new(asked);
    let Some((name, keys, read)) = ACTIONS.iter().find(|(name, ..)| *name == asked.uses.value) else {
        let all: Vec<&str> = ACTIONS.iter().map(|(name, ..)| *name).collect();
        let message =
            format!("there is no built-in action `{}`; there is {}", asked.uses.value, all.join(", "));
        with.say("uses", asked.uses, message);
        findings.extend(with.findings);
        return None;
    };
    let known: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
    for (key, _) in asked.step.with.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        let message = format!("`{name}` takes no `{}`; it takes {}", key.value, known.join(", "));
        with.say("uses-with", key, message);
    }
    let action = if with.findings.is_empty() && runs { read(&mut with) } else { None };
    let sound = with.findings.is_empty();
    findings.extend(with.findings);
    action.filter(|_| sound)
}
