//! A pipeline file, as its author wrote it.
//!
//! These types hold what stands in one file at one point of its matrix, after substitution and
//! with the place of whatever a finding may have to name. Nothing here has been decided yet:
//! whether a step runs, what its environment is and whether the repository may ask for it are
//! the planner's questions.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::event::EventKind;

mod check;
mod findings;
mod grammar;
mod include;
mod keys;
mod limits;
mod matrix;
mod node;
mod parse;
mod read;
mod scalar;
mod schema;
mod step;
mod when;

pub(crate) use grammar::duration;
pub use include::{Included, includes, unread_includes};
pub use limits::Limits;
pub use matrix::{matrix, matrix_with};
pub use read::{Read, defaults, read, read_with, text};
pub use schema::schema;

/// A place in a file: line and column, both from 1. Zero means the file as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    pub line: usize,
    pub column: usize,
}

/// A value with the place it was written at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub at: At,
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// One point of a matrix: axis names and values, sorted by name. Empty without a matrix.
pub type Point = BTreeMap<String, String>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workflow {
    /// Alternatives; none at all means always.
    pub when: Vec<When>,
    pub workspace: Workspace,
    pub skip_clone: bool,
    /// Empty: the built-in clone. One named `git` without an image configures the built-in one.
    pub clone: Vec<Step>,
    pub steps: Vec<Step>,
    pub services: Vec<Step>,
    pub labels: BTreeMap<String, Spanned<String>>,
    pub depends_on: Vec<Need>,
    /// The older way to say `when: {status: …}` of a workflow.
    pub runs_on: Vec<Spanned<Status>>,
    pub concurrency: Option<Concurrency>,
    /// The gate that a person has to open before the workflow starts.
    pub approve: Option<Spanned<String>>,
    /// Typed inputs of manual runs, by name.
    pub inputs: BTreeMap<String, Input>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workspace {
    pub base: Option<String>,
    pub path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concurrency {
    pub limit: u32,
    /// Workflows of one group share the limit; without one, the workflow's own name is the group.
    pub group: Option<String>,
}

/// What has to end before this may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub name: Spanned<String>,
    /// Fine when nothing of that name is there.
    pub optional: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub at: At,
    pub kind: InputKind,
    pub description: Option<String>,
    pub default: Option<String>,
    pub required: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputKind {
    Text,
    Number,
    Boolean,
    Choice(Vec<String>),
}

/// A step, a service or a clone step; they share one form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    pub name: Spanned<String>,
    /// The included file the step stands in, which its places are then places of; `None` is the
    /// file itself.
    pub origin: Option<String>,
    pub image: Option<Spanned<String>>,
    pub pull: bool,
    pub commands: Vec<Spanned<String>>,
    pub entrypoint: Vec<String>,
    pub directory: Option<String>,
    /// In the order of the file.
    pub settings: Vec<(Spanned<String>, Value)>,
    pub environment: Vec<(Spanned<String>, Value)>,
    /// `Some`, even when empty, switches the workflow to DAG mode.
    pub depends_on: Option<Vec<Need>>,
    pub when: Vec<When>,
    pub failure: OnFailure,
    pub detach: bool,
    pub volumes: Vec<Spanned<String>>,
    pub ports: Vec<Spanned<String>>,
    pub dns: Vec<Spanned<String>>,
    pub dns_search: Vec<Spanned<String>>,
    pub devices: Vec<Spanned<String>>,
    pub extra_hosts: Vec<Spanned<String>>,
    pub network_mode: Option<Spanned<String>>,
    pub tmpfs: Vec<Spanned<String>>,
    pub privileged: Option<Spanned<bool>>,
    /// `backend_options.docker.user`.
    pub user: Option<Spanned<String>>,

    // What mergeyard adds to the language.
    pub uses: Option<Spanned<String>>,
    pub with: Vec<(Spanned<String>, Value)>,
    pub timeout: Option<Spanned<Duration>>,
    pub retry: u32,
    /// Names the step promises to write to `$CI_OUTPUT`; others are taken as well.
    pub outputs: Vec<Spanned<String>>,
    pub ready: Option<Ready>,
    /// Directories that are kept per repository and branch.
    pub cache: Vec<Spanned<String>>,
    pub approve: Option<Spanned<String>>,
}

/// When a service counts as started.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ready {
    pub probe: Probe,
    /// After this the service has failed.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Run inside the service's container until it exits with 0.
    Command(Vec<String>),
    /// A TCP port that has to accept a connection.
    Port(u16),
}

/// What the failure of a step means to its workflow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    #[default]
    Fail,
    Ignore,
    /// Ends the whole run.
    Cancel,
}

/// The two statuses that `when` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Success,
    Failure,
}

/// One alternative of a `when`: all of its keys must agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct When {
    pub at: At,
    pub repo: Constraint,
    pub branch: Constraint,
    /// Empty: every event.
    pub event: Vec<Spanned<EventKind>>,
    pub git_ref: Constraint,
    pub cron: Constraint,
    /// Empty: success.
    pub status: Vec<Spanned<Status>>,
    pub platform: Constraint,
    pub matrix: BTreeMap<String, Spanned<String>>,
    /// A point where all of these match is out. Empty excludes nothing.
    pub matrix_exclude: BTreeMap<String, Spanned<String>>,
    pub instance: Constraint,
    pub path: PathConstraint,
    /// An expr-lang expression that yields a bool.
    pub evaluate: Option<Spanned<String>>,
    /// Where its first character stands, if places inside of it are places of the file.
    pub evaluate_inside: Option<At>,
    /// `false` leaves the step out of `mergeyard run`; `true` is what happens without the key.
    pub local: Option<bool>,
}

/// Doublestar globs. Nothing included means everything is; what is excluded is out either way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraint {
    pub include: Vec<Spanned<String>>,
    pub exclude: Vec<Spanned<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathConstraint {
    pub include: Vec<Spanned<String>>,
    /// Excludes only when every changed file matches.
    pub exclude: Vec<Spanned<String>>,
    /// A commit message that contains this, in any case, passes the constraint.
    pub ignore_message: Option<String>,
    /// Whether no changed file at all passes.
    pub on_empty: bool,
}

impl Default for PathConstraint {
    fn default() -> Self {
        Self { include: Vec::new(), exclude: Vec::new(), ignore_message: None, on_empty: true }
    }
}
