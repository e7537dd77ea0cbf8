//! Deployments: what went live on which target, beside the commit and the pull request at GitHub.

use http::Method;
use mergeyard_plan::effect::DeploymentState;
use mergeyard_types::{CommitSha, RepoName, TargetName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Github, GithubError, error::Task, status::cut};

const PERMISSION: &str =
    "the token needs `Deployments: write` (fine-grained) or the scope `repo_deployment` (classic)";

/// The key of the payload under which a deployment's mark stands.
const MARK: &str = "mergeyard";

/// A deployment as it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeployment {
    pub commit: CommitSha,
    pub environment: TargetName,
    pub description: String,
    /// By which it is found again.
    pub mark: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentStatus {
    pub state: DeploymentState,
    pub description: String,
    pub log_url: String,
}

#[derive(Deserialize)]
struct Known {
    id: u64,
    #[serde(default)]
    payload: Value,
}

impl Github {
    /// The deployment with that mark, if GitHub has it: it may have been made by a request whose
    /// answer was lost.
    pub async fn find_deployment(
        &self,
        repo: &RepoName,
        wanted: &NewDeployment,
    ) -> Result<Option<u64>, GithubError> {
        let NewDeployment { commit, environment, mark, .. } = wanted;
        let what = format!("look for the deployments of {repo} to {environment}");
        let task = Task { what, permission: PERMISSION };
        let route = format!("/repos/{repo}/deployments?sha={commit}&environment={environment}&per_page=100");
        let known: Vec<Known> = self.call(&task, Method::GET, &route, None).await?.read(&task)?;
        Ok(known.into_iter().find(|known| known.bears(mark)).map(|known| known.id))
    }

    pub async fn create_deployment(&self, repo: &RepoName, new: &NewDeployment) -> Result<u64, GithubError> {
        let NewDeployment { commit, environment, description, mark } = new;
        let what = format!("announce a deployment of {repo} at {} to {environment}", commit.short());
        let task = Task { what, permission: PERMISSION };
        let body = json!({
            "ref": commit,
            "environment": environment,
            "description": cut(description),
            // It has happened: nothing is left to be merged, checked or waited for.
            "auto_merge": false,
            "required_contexts": [],
            "payload": { MARK: mark },
        });
        let answer =
            self.call(&task, Method::POST, &format!("/repos/{repo}/deployments"), Some(&body)).await?;
        Ok(answer.read::<Known>(&task)?.id)
    }

    pub async fn set_deployment_status(
        &self,
        repo: &RepoName,
        deployment: u64,
        status: &DeploymentStatus,
    ) -> Result<(), GithubError> {
        let DeploymentStatus { state, description, log_url } = status;
        let what = format!("set the status of deployment {deployment} of {repo}");
        let task = Task { what, permission: PERMISSION };
        let body = json!({
            "state": state.as_str(),
            "description": cut(description),
            "log_url": log_url,
            // A target may run several services, and only the one that was replaced is not live any more.
            "auto_inactive": false,
        });
        let route = format!("/repos/{repo}/deployments/{deployment}/statuses");
        let answer = self.call(&task, Method::POST, &route, Some(&body)).await?;
        answer.read::<serde::de::IgnoredAny>(&task).map(|_| ())
    }
}

impl Known {
    /// GitHub gives a payload back as it was sent, or as the text of it.
    fn bears(&self, mark: &str) -> bool {
        let is_mark = |payload: &Value| payload.get(MARK).and_then(Value::as_str) == Some(mark);
        match &self.payload {
            Value::String(text) => serde_json::from_str(text).is_ok_and(|payload| is_mark(&payload)),
            payload => is_mark(payload),
        }
    }
}
