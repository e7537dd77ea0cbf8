//! States, told three times: by a shape, a word and a colour.

use std::fmt;

use askama::filters::Safe;
use mergeyard_types::State;

use crate::{
    store::{DeliveryState, DeploymentState},
    targets::Condition,
};

/// Markup: every part is a constant of this file, so [`Badge::of`] lets it pass the escaper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Badge {
    word: &'static str,
    /// The class that colours it, shared by words that mean the same to a person.
    tone: &'static str,
    /// The inside of an SVG of 16 by 16.
    shape: &'static str,
}

impl Badge {
    pub(super) fn of(state: impl Into<Badge>) -> Safe<Badge> {
        Safe(state.into())
    }

    /// Of an effect, whose states are words of the database.
    pub(super) fn of_effect(state: &str) -> Safe<Badge> {
        let (word, like) = match state {
            "done" => ("told", State::Success),
            "dead" => ("given up", State::Error),
            "skipped" => ("not told", State::Skipped),
            _ => ("waiting", State::Queued),
        };
        Safe(Badge { word, ..Badge::from(like) })
    }
}

impl Badge {
    pub(super) fn tone(&self) -> &'static str {
        self.tone
    }

    pub(super) fn shape(&self) -> &'static str {
        self.shape
    }
}

impl From<State> for Badge {
    fn from(state: State) -> Self {
        let (tone, shape) = match state {
            State::Queued => {
                ("waiting", r#"<circle cx="8" cy="8" r="6" class="line" stroke-dasharray="2.4 2.3"/>"#)
            }
            State::Running => (
                "running",
                r#"<circle cx="8" cy="8" r="6" class="line faint"/><path class="line" d="M8 2a6 6 0 0 1 6 6"/>"#,
            ),
            State::Success => (
                "good",
                r#"<circle cx="8" cy="8" r="7" class="body"/><path class="cut" d="m4.8 8.3 2.3 2.2 4.2-4.8"/>"#,
            ),
            State::Failure => (
                "bad",
                r#"<path class="body" d="M5 1h6l4 4v6l-4 4H5l-4-4V5z"/><path class="cut" d="m5.5 5.5 5 5m0-5-5 5"/>"#,
            ),
            State::Error => (
                "broken",
                r#"<path class="body" d="M8 .8 15.6 15H.4z"/><path class="cut" d="M8 6v4.2m0 2.2v.1"/>"#,
            ),
            State::Cancelled => {
                ("quiet", r#"<circle cx="8" cy="8" r="6" class="line"/><path class="line" d="m4 12 8-8"/>"#)
            }
            State::Skipped => {
                ("quiet", r#"<circle cx="8" cy="8" r="6" class="line"/><path class="line" d="M5 8h6"/>"#)
            }
            State::Blocked => (
                "waiting",
                r#"<rect x="1" y="1" width="14" height="14" rx="3" class="body"/><path class="cut" d="M6 5v6m4-6v6"/>"#,
            ),
        };
        Badge { word: state.as_str(), tone, shape }
    }
}

impl From<DeliveryState> for Badge {
    fn from(state: DeliveryState) -> Self {
        let like = match state {
            DeliveryState::Queued => State::Queued,
            DeliveryState::Done => State::Success,
            DeliveryState::Ignored => State::Skipped,
            DeliveryState::Dead => State::Error,
        };
        Badge { word: state.as_str(), ..Badge::from(like) }
    }
}

impl From<DeploymentState> for Badge {
    fn from(state: DeploymentState) -> Self {
        match state {
            DeploymentState::InProgress => Badge { word: "deploying", ..Badge::from(State::Running) },
            DeploymentState::Success => Badge::from(State::Success),
            DeploymentState::Failure => Badge::from(State::Failure),
            DeploymentState::RolledBack => Badge { word: "rolled back", tone: "broken", shape: BACK },
            DeploymentState::Error => Badge::from(State::Error),
        }
    }
}

impl From<Condition> for Badge {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Live | Condition::Unlooked => Badge { word: "live", ..Badge::from(State::Success) },
            Condition::Deploying => Badge { word: "deploying", ..Badge::from(State::Running) },
            Condition::Nothing => Badge { word: "not live", ..Badge::from(State::Skipped) },
            Condition::Unreachable => Badge { word: "unreachable", tone: "waiting", shape: SILENT },
            Condition::Drifted => Badge { word: "drifted", tone: "bad", shape: UNLIKE },
            Condition::Unknown => Badge { word: "unknown", ..Badge::from(State::Error) },
        }
    }
}

/// An arrow that turns back.
const BACK: &str = r#"<path class="line" d="M3.2 5.2A5.8 5.8 0 1 1 2.2 8M3 1.6v3.8h3.8"/>"#;

/// Nobody answers.
const SILENT: &str = r#"<circle cx="8" cy="8" r="6.2" class="line" stroke-dasharray="2.4 2.3"/><path class="line" d="M8 4.8v4m0 2.3v.1"/>"#;

/// Not equal.
const UNLIKE: &str = r#"<rect x="1" y="1" width="14" height="14" rx="3.5" class="body"/><path class="cut" d="M4.6 6.2h6.8m-6.8 3.6h6.8m-1.6-6-3.6 8.4"/>"#;

impl fmt::Display for Badge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Badge { word, tone, shape } = self;
        write!(
            f,
            r#"<span class="badge {tone}"><svg viewBox="0 0 16 16" aria-hidden="true">{shape}</svg>{word}</span>"#
        )
    }
}
