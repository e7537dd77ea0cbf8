//! Commit statuses: the mark beside a commit at GitHub, with a sentence and a link to the run.

use http::Method;
pub use mergeyard_plan::effect::StatusState;
use mergeyard_types::{CommitSha, RepoName};

use super::{Github, GithubError, error::Task};

const PERMISSION: &str =
    "the token needs `Commit statuses: write` (fine-grained) or the scope `repo:status` (classic)";

/// GitHub refuses a status whose description is longer.
const LONGEST_DESCRIPTION: usize = 140;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitStatus {
    pub state: StatusState,
    /// Names the line at GitHub: a later status of the same context replaces an earlier one.
    pub context: String,
    pub description: String,
    pub target_url: Option<String>,
}

impl Github {
    pub async fn set_status(
        &self,
        repo: &RepoName,
        sha: CommitSha,
        status: &CommitStatus,
    ) -> Result<(), GithubError> {
        let CommitStatus { state, context, description, target_url } = status;
        let what = format!("set the status of {repo} at {}", sha.short());
        let task = Task { what, permission: PERMISSION };
        let mut body = serde_json::json!({
            "state": state.as_str(),
            "context": context,
            "description": cut(description),
        });
        if let Some(target_url) = target_url {
            body["target_url"] = target_url.as_str().into();
        }
        let answer =
            self.call(&task, Method::POST, &format!("/repos/{repo}/statuses/{sha}"), Some(&body)).await?;
        answer.read::<serde::de::IgnoredAny>(&task).map(|_| ())
    }
}

pub(super) fn cut(description: &str) -> String {
    if description.chars().count() <= LONGEST_DESCRIPTION {
        return description.to_owned();
    }
    let kept: String = description.chars().take(LONGEST_DESCRIPTION - 1).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_cut_between_characters_and_shows_it() {
        let fits = "é".repeat(140);
        assert_eq!(cut(&fits), fits);
        let long = cut(&"🚢".repeat(141));
        assert_eq!(long.chars().count(), 140);
        assert!(long.ends_with("🚢…"));
        assert_eq!(cut(&format!("{} tail", "x".repeat(138))), format!("{}…", "x".repeat(138)));
    }
}
