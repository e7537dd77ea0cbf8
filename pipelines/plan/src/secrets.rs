//! Who may have which secret.
//!
//! Only names and rules come here, never a value. The same question is asked when a run is
//! planned, so that its author learns at once, and again when a step starts, because rules change.

use crate::{event::EventKind, facts::Facts};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRule {
    /// In lower case.
    pub name: String,
    pub level: Level,
    /// Empty: every event but pull requests.
    pub events: Vec<EventKind>,
    /// Plugins that may have it; empty is everything. With a tag exactly that one, without any tag.
    pub images: Vec<String>,
}

/// From near to far: the nearest of one name is the one that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Repository,
    Organisation,
    Global,
}

/// The rule of that name which counts.
pub fn nearest<'r>(rules: &'r [SecretRule], name: &str) -> Option<&'r SecretRule> {
    rules.iter().filter(|rule| rule.name.eq_ignore_ascii_case(name)).min_by_key(|rule| rule.level)
}

/// A pull request from another repository, not merged yet: anybody can have written it.
pub fn is_fork(facts: &Facts) -> bool {
    let pull = facts.commit.pull_request.as_ref();
    facts.pipeline.event != EventKind::PullRequestMerged && pull.is_some_and(|pull| pull.from_fork)
}

/// Whether a step may have the secret; the error says why not and what to do.
pub fn available(rule: &SecretRule, event: EventKind, image: &str, plugin: bool) -> Result<(), String> {
    let name = &rule.name;
    if !rule.images.is_empty() && !plugin {
        return Err(format!(
            "secret `{name}` is only for the plugins {}, and a step with commands or an environment is not a plugin",
            rule.images.join(", ")
        ));
    }
    if !rule.images.is_empty() && !rule.images.iter().any(|allowed| image_matches(allowed, image)) {
        return Err(format!(
            "secret `{name}` is only for the images {}, and not for `{image}`",
            rule.images.join(", ")
        ));
    }
    if !allows(&rule.events, event) {
        let listed: Vec<&str> = rule.events.iter().map(|event| event.as_str()).collect();
        let listed =
            if listed.is_empty() { "every event but pull requests".to_owned() } else { listed.join(", ") };
        return Err(format!(
            "secret `{name}` is for {listed}, and this is `{event}`; add the event to the secret if that is meant"
        ));
    }
    Ok(())
}

/// All events of a pull request count as `pull_request`. What was merged was accepted by somebody
/// who may write to the branch, so it needs no more than a push does.
fn allows(events: &[EventKind], event: EventKind) -> bool {
    if events.is_empty() {
        return !event.is_pull_request() || event == EventKind::PullRequestMerged;
    }
    events.contains(&event) || (event.is_pull_request() && events.contains(&EventKind::PullRequest))
}

fn image_matches(allowed: &str, image: &str) -> bool {
    let (allowed_name, allowed_tag) = split(allowed);
    let (name, tag) = split(image);
    allowed_name == name && (allowed_tag.is_none() || allowed_tag == Some(tag.unwrap_or("latest".into())))
}

/// The full name without its tag or digest, and the tag or digest: `golang:1` is `docker.io/library/golang`.
fn split(image: &str) -> (String, Option<String>) {
    let (name, tag) = match image.split_once('@') {
        Some((name, digest)) => (
            name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(n, _)| n),
            Some(digest),
        ),
        None => match image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((name, tag)) => (name, Some(tag)),
            None => (image, None),
        },
    };
    let registry =
        name.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
    let full = match (registry, name.contains('/')) {
        (true, _) => name.replacen("index.docker.io/", "docker.io/", 1),
        (false, true) => format!("docker.io/{name}"),
        (false, false) => format!("docker.io/library/{name}"),
    };
    (full, tag.map(str::to_owned))
}
