//! Deployments, as the fake keeps them.

use mergeyard_types::{CommitSha, RepoName};
use serde_json::{Value, json};

use super::{Call, FakeGithub, Refusal, World, invalid, not_found};

#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    pub id: u64,
    pub sha: CommitSha,
    pub environment: String,
    pub description: String,
    pub payload: Value,
    /// In the order they were set.
    pub statuses: Vec<DeploymentStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentStatus {
    pub state: String,
    pub description: String,
    pub log_url: String,
}

impl FakeGithub {
    /// All deployments of a repository, in the order they were made.
    pub fn deployments(&self, repo: &RepoName) -> Vec<Deployment> {
        self.read(|world| world.deployments(repo).to_vec())
    }
}

impl World {
    fn deployments(&self, repo: &RepoName) -> &[Deployment] {
        self.repos.get(repo).map(|repo| &repo.deployments[..]).unwrap_or_default()
    }
}

impl Deployment {
    /// Each state it was in, once for each time it was said.
    pub fn states(&self) -> Vec<&str> {
        self.statuses.iter().map(|status| status.state.as_str()).collect()
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id, "sha": self.sha, "ref": self.sha, "task": "deploy", "payload": self.payload,
            "environment": self.environment, "description": self.description,
            "created_at": "2024-01-02T09:00:00Z", "updated_at": "2024-01-02T09:00:00Z",
        })
    }
}

impl Call<'_> {
    /// Newest first.
    pub(super) fn list_deployments(&self, repo: &RepoName) -> Result<(u16, Value), Refusal> {
        let (sha, environment) = (self.parameter("sha"), self.parameter("environment"));
        let world = self.shared.world.borrow();
        let is_asked = |one: &&Deployment| {
            sha.as_ref().is_none_or(|sha| *sha == one.sha.to_string())
                && environment.as_ref().is_none_or(|environment| *environment == one.environment)
        };
        let found = world.deployments(repo).iter().rev().filter(is_asked);
        Ok((200, found.map(Deployment::json).collect()))
    }

    /// The real one refuses a commit whose statuses are not green, unless none is required, and merges
    /// the default branch into it, unless that is not wanted.
    pub(super) fn add_deployment(&self, repo: &RepoName) -> Result<(u16, Value), Refusal> {
        let text = |name: &str| self.body[name].as_str().unwrap_or_default().to_owned();
        let sha: CommitSha = text("ref").parse().map_err(|_| invalid("No ref found"))?;
        if self.body["required_contexts"] != json!([]) {
            return Err((409, json!({ "message": "Conflict: Commit status checks failed" })));
        }
        if self.body["auto_merge"] != json!(false) {
            return Err((409, json!({ "message": "Conflict merging the default branch" })));
        }
        short(&text("description"))?;
        let answer = self.shared.change(|world| {
            let made = Deployment {
                id: world.next_id(),
                sha,
                environment: text("environment"),
                description: text("description"),
                payload: self.body["payload"].clone(),
                statuses: Vec::new(),
            };
            let answer = made.json();
            world.repos.entry(repo.clone()).or_default().deployments.push(made);
            answer
        });
        Ok((201, answer))
    }

    pub(super) fn add_deployment_status(&self, repo: &RepoName, id: &str) -> Result<(u16, Value), Refusal> {
        const STATES: [&str; 7] =
            ["error", "failure", "inactive", "in_progress", "queued", "pending", "success"];
        let text = |name: &str| self.body[name].as_str().unwrap_or_default().to_owned();
        let id: u64 = id.parse().map_err(|_| not_found())?;
        let state = Some(text("state")).filter(|state| STATES.contains(&state.as_str()));
        let status = DeploymentStatus {
            state: state.ok_or_else(|| invalid("State is not included in the list"))?,
            description: text("description"),
            log_url: text("log_url"),
        };
        short(&status.description)?;
        let replaces = self.body["auto_inactive"] != json!(false) && status.state == "success";
        self.shared.change(|world| {
            let all = &mut world.repos.entry(repo.clone()).or_default().deployments;
            let at = all.iter().position(|one| one.id == id).ok_or_else(not_found)?;
            let environment = all[at].environment.clone();
            for other in all[..at].iter_mut().filter(|one| replaces && one.environment == environment) {
                let inactive = DeploymentStatus { state: "inactive".into(), ..status.clone() };
                other.statuses.push(inactive);
            }
            let answer = json!({ "id": id, "state": status.state });
            all[at].statuses.push(status.clone());
            Ok((201, answer))
        })
    }
}

fn short(description: &str) -> Result<(), Refusal> {
    match description.chars().count() {
        0..=140 => Ok(()),
        _ => Err(invalid("Description is too long (maximum is 140 characters)")),
    }
}
