//! What a step asks for beyond the usual, and whether its repository may.
//!
//! The operator's configuration says how far a repository is trusted; nothing in a file does.

use crate::{
    finding::Finding,
    policy::Trust,
    spec::{At, Spanned, Step},
};

/// Names that a step must not set for an action of mergeyard itself: they would decide what runs
/// or whom it talks to.
const RESERVED: [&str; 10] = [
    "PATH",
    "HOME",
    "SHELL",
    "IFS",
    "ENV",
    "BASH_ENV",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TMPDIR",
];
const RESERVED_BEGINNINGS: [&str; 6] = ["LD_", "DYLD_", "DOCKER_", "GIT_", "BUILDKIT_", "MERGEYARD_"];

/// What the step asks for and its repository may not have.
pub fn check(step: &Step, trust: Trust, file: &str) -> Vec<Finding> {
    let mut asked: Vec<(&str, At, &str)> = Vec::new();
    let first = |values: &[Spanned<String>]| values.first().map(|value| value.at);
    if !trust.security
        && let Some(privileged) = step.privileged.as_ref().filter(|privileged| privileged.value)
    {
        asked.push(("privileged", privileged.at, "security"));
    }
    if !trust.network {
        let lists =
            [("dns", &step.dns), ("dns_search", &step.dns_search), ("extra_hosts", &step.extra_hosts)];
        asked.extend(lists.into_iter().filter_map(|(key, values)| Some((key, first(values)?, "network"))));
        let mode = step.network_mode.as_ref().filter(|mode| !mode.is_empty() && mode.value != "none");
        asked.extend(mode.map(|mode| ("network_mode", mode.at, "network")));
    }
    if !trust.volumes {
        let lists = [("volumes", &step.volumes), ("devices", &step.devices), ("tmpfs", &step.tmpfs)];
        asked.extend(lists.into_iter().filter_map(|(key, values)| Some((key, first(values)?, "volumes"))));
    }
    asked.sort_by_key(|(_, at, _)| *at);
    let mut findings: Vec<Finding> = asked
        .into_iter()
        .map(|(key, at, trust)| {
            let message = format!(
                "step `{}` asks for `{key}`, which this repository is not trusted with; \
                 remove it, or ask the operator for `trusted = [\"{trust}\"]` in its `[[repo]]`",
                step.name.value
            );
            Finding::error(file, "trust", message).at(at.line, at.column)
        })
        .collect();
    findings.extend(reserved(step, file));
    findings
}

fn reserved(step: &Step, file: &str) -> Vec<Finding> {
    if step.uses.is_none() {
        return Vec::new();
    }
    let is_reserved = |name: &str| {
        let name = name.to_ascii_uppercase();
        RESERVED.contains(&&*name) || RESERVED_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
    };
    let named = step.environment.iter().filter(|(name, _)| is_reserved(name));
    named
        .map(|(name, _)| {
            let message = format!(
                "`{}` is reserved: it would change how the built-in action itself works; remove it from `environment`",
                name.value
            );
            Finding::error(file, "reserved-variable", message).at(name.at.line, name.at.column)
        })
        .collect()
}
