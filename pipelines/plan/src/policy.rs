//! Who may start what: the operator's word about repositories.
//!
//! A policy comes from the server's configuration and never from a commit, so a pull
//! request cannot loosen its own gate.

use globset::{Glob, GlobMatcher};
use mergeyard_types::{RepoName, TargetName};

use crate::event::EventKind;

#[derive(Debug, Clone)]
pub struct Policy {
    pattern: Pattern,
    /// Branches whose merges count; empty means every branch.
    branches: Vec<Pattern>,
    /// The repository's id at GitHub, when the operator pinned it.
    pub id: Option<i64>,
    /// Where to fetch from instead of the address the payload names.
    pub clone_url: Option<String>,
    /// Whether a newer merge of the same branch cancels a queued older one.
    pub supersede: bool,
    pub trust: Trust,
    /// Events that count; empty means every event.
    pub events: Vec<EventKind>,
    pub forks: Forks,
    /// The machines it may deliver to.
    pub targets: Vec<TargetRights>,
}

/// What happens with pull requests from other repositories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forks {
    /// They wait until a person says yes to their account.
    #[default]
    Approve,
    Ignore,
}

/// What the operator lets a repository's pipelines ask for beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trust {
    /// `privileged`.
    pub security: bool,
    /// `dns`, `dns_search`, `extra_hosts`, `network_mode` except `none`.
    pub network: bool,
    /// `volumes`, `devices`, `tmpfs`.
    pub volumes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a pattern: {why}")]
pub struct PatternError {
    text: String,
    why: String,
}

/// The policies in the order of the configuration; the first that matches holds.
#[derive(Debug, Clone, Default)]
pub struct Policies(pub Vec<Policy>);

impl Policies {
    pub fn of(&self, repo: &RepoName) -> Option<&Policy> {
        self.0.iter().find(|policy| policy.covers(repo))
    }
}

impl Policy {
    pub fn new(name: &str, branches: &[String]) -> Result<Self, PatternError> {
        Ok(Self {
            pattern: Pattern::new(&name.to_ascii_lowercase())?,
            branches: branches.iter().map(|b| Pattern::new(b)).collect::<Result<_, _>>()?,
            id: None,
            clone_url: None,
            supersede: true,
            trust: Trust::default(),
            events: Vec::new(),
            forks: Forks::default(),
            targets: Vec::new(),
        })
    }

    /// GitHub compares owners and names without case, so this does too.
    pub fn covers(&self, repo: &RepoName) -> bool {
        self.pattern.matches(&repo.as_str().to_ascii_lowercase())
    }

    pub fn branch_counts(&self, branch: &str) -> bool {
        self.branches.is_empty() || self.branches.iter().any(|pattern| pattern.matches(branch))
    }

    pub fn event_counts(&self, event: EventKind) -> bool {
        self.events.is_empty() || self.events.iter().any(|listed| event.is(*listed))
    }

    /// The repository, when the policy is for one and not for a pattern.
    pub fn exact_name(&self) -> Option<RepoName> {
        self.pattern.text.parse().ok()
    }

    /// The events as a person would list them.
    pub fn events(&self) -> String {
        self.events.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The branch patterns as a person would list them.
    pub fn branches(&self) -> String {
        self.branches.iter().map(|b| b.text.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What a repository that may use a target may do there.
#[derive(Debug, Clone)]
pub struct TargetRights {
    pub name: TargetName,
    /// Whether it is a yum mirror.
    pub mirror: bool,
    /// Branches whose commits may be deployed; empty means every branch.
    branches: Vec<Pattern>,
    /// Events that may deploy; empty means all but those of open pull requests.
    events: Vec<EventKind>,
}

impl TargetRights {
    pub fn new(
        name: TargetName,
        branches: &[String],
        events: Vec<EventKind>,
        mirror: bool,
    ) -> Result<Self, PatternError> {
        let branches = branches.iter().map(|branch| Pattern::new(branch)).collect::<Result<_, _>>()?;
        Ok(Self { name, mirror, branches, events })
    }

    /// Why a commit of this branch may not go there by this event. What is only checked needs the
    /// branch, and no right to deploy.
    pub fn refusal(&self, branch: &str, event: EventKind, check: bool) -> Option<String> {
        let Self { name, branches, events, .. } = self;
        let list = |words: Vec<&str>| words.join(", ");
        if !branches.is_empty() && !branches.iter().any(|pattern| pattern.matches(branch)) {
            let listed = list(branches.iter().map(|pattern| pattern.text.as_str()).collect());
            let shown = if branch.is_empty() { "no branch".to_owned() } else { format!("`{branch}`") };
            return Some(format!("target `{name}` takes only the branches {listed}, and this is {shown}"));
        }
        if check {
            return None;
        }
        if events.is_empty() {
            let is_open = event.is_pull_request() && event != EventKind::PullRequestMerged;
            return is_open.then(|| format!("target `{name}` takes nothing that is not merged"));
        }
        if !events.iter().any(|listed| event.is(*listed)) {
            let listed = list(events.iter().map(|event| event.as_str()).collect());
            return Some(format!("target `{name}` takes only the events {listed}, and this is `{event}`"));
        }
        None
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    glob: GlobMatcher,
}

impl Pattern {
    fn new(text: &str) -> Result<Self, PatternError> {
        let glob = Glob::new(text)
            .map_err(|error| PatternError { text: text.to_owned(), why: error.kind().to_string() })?;
        Ok(Self { text: text.to_owned(), glob: glob.compile_matcher() })
    }

    fn matches(&self, text: &str) -> bool {
        self.glob.is_match(text)
    }
}
