//! Which machine a step means, and whether its repository may do that there.
//!
//! The rights are the operator's. Where nobody knows them, as on a command line, any name will do:
//! the server asks again, by the rules of then, before a step starts.

use mergeyard_types::TargetName;

use super::with::With;
use crate::policy::TargetRights;

/// What a mirror is called where nobody knows the targets.
const SOME_MIRROR: &str = "mirror";

pub(super) fn read(with: &mut With<'_>) -> Option<TargetName> {
    if with.get("target").is_none() {
        let message = match with.asked.request.targets {
            Some([]) => {
                "no target is open to this repository; the operator adds one with `targets` in its `[[repo]]`"
                    .to_owned()
            }
            Some(known) => format!("name one of {}", names(known.iter())),
            None => "the name of a `[[target]]` of the server".to_owned(),
        };
        with.miss("target", &message);
        return None;
    }
    named(with, false)
}

/// Of a mirror: the only one that the repository may use needs no name.
pub(super) fn read_mirror(with: &mut With<'_>) -> Option<TargetName> {
    if with.get("target").is_some() {
        return named(with, true);
    }
    let Some(known) = with.asked.request.targets else { return SOME_MIRROR.parse().ok() };
    let mirrors: Vec<&TargetRights> = known.iter().filter(|right| right.mirror).collect();
    match mirrors[..] {
        [only] => allowed(with, only),
        [] => {
            with.miss("target", "no yum mirror is open to this repository; the operator makes a target one with `mirror = {…}` in its `[[target]]`, and adds it to `targets` in the `[[repo]]`");
            None
        }
        _ => {
            let names = names(mirrors.iter().copied());
            with.miss("target", &format!("there are several yum mirrors: name one of {names}"));
            None
        }
    }
}

fn named(with: &mut With<'_>, mirror: bool) -> Option<TargetName> {
    let name = with.read("target", |text| text.parse::<TargetName>().map_err(|error| error.to_string()))?;
    let Some(known) = with.asked.request.targets else { return Some(name) };
    let right = known.iter().find(|right| right.name == name);
    let refusal = match right {
        None if known.is_empty() => format!(
            "this repository may not use target `{name}`, nor any other; the operator allows it with `targets = [\"{name}\"]` in its `[[repo]]`"
        ),
        None => format!(
            "this repository may not use target `{name}`, only {}; the operator allows it with `targets` in its `[[repo]]`",
            names(known.iter())
        ),
        Some(right) if mirror && !right.mirror => format!(
            "target `{name}` is no yum mirror; the operator makes it one with `mirror = {{…}}` in its `[[target]]`"
        ),
        Some(right) => return allowed(with, right),
    };
    refuse(with, refusal);
    None
}

fn allowed(with: &mut With<'_>, right: &TargetRights) -> Option<TargetName> {
    let facts = with.asked.request.facts;
    match right.refusal(&facts.commit.branch, facts.pipeline.event, with.is_check()) {
        None => Some(right.name.clone()),
        Some(why) => {
            refuse(with, format!("{why}; restrict the step with `when`, or ask the operator"));
            None
        }
    }
}

fn refuse(with: &mut With<'_>, why: String) {
    let at = with.get("target").map_or(with.asked.uses, |(at, _)| at);
    with.say("uses-target", at, why);
}

fn names<'r>(rights: impl Iterator<Item = &'r TargetRights>) -> String {
    rights.map(|right| format!("`{}`", right.name)).collect::<Vec<_>>().join(", ")
}
