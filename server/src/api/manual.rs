//! Runs that a person asks for. They go the way of every delivery: durable first, then decided.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use mergeyard_plan::{
    environment,
    event::{Asked, AskedKind},
};
use mergeyard_types::{GitRef, RepoName};
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    access::Approver,
    problem::Problem,
    request::{Body, Repo},
};
use crate::{asked, yard::Yard};

/// A form with more is a file.
const MOST_INPUTS: usize = 100;

/// Names and values become variables.
const LONGEST_NAME: usize = 100;
const LONGEST_VALUE: usize = 4096;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Start {
    /// Without one it is the default branch.
    branch: Option<String>,
    /// What the pipelines' `inputs` ask for.
    inputs: BTreeMap<String, String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Started {
    /// What starts the run: `/api/v1/deliveries/{id}` says what became of it.
    delivery: String,
    state: &'static str,
}

/// Start a run by hand
#[utoipa::path(
    post,
    path = "/api/v1/repos/{owner}/{name}/runs",
    tag = "runs",
    params(
        ("owner" = String, Path, description = "the repository's owner"),
        ("name" = String, Path, description = "its name"),
    ),
    request_body = Option<Start>,
    security(("token" = ["approve"])),
    responses(
        (status = 202, description = "it will be decided", body = Started),
        (status = 404, description = "the repository is not configured", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn start(
    State(yard): State<Arc<Yard>>,
    Approver(holder): Approver,
    Repo(repo): Repo,
    Body(Start { branch, inputs }): Body<Start>,
) -> Result<(StatusCode, Json<Started>), Problem> {
    if yard.rules().policies.of(&repo).is_none() {
        return Err(Problem::not_found(format!("repository {repo} is not configured")));
    }
    let asked = wish(repo, branch.as_deref(), inputs, &holder.name).map_err(Problem::bad_request)?;
    let delivery = asked::delivery(&asked, yard.clock.now());
    let id = delivery.id.to_string();
    yard.store.receive(delivery).await?;
    info!(target: "mergeyard::audit", token = holder.name, repo = %asked.repository, delivery = id, "asked for a run");
    yard.wake.inbox.notify_one();
    yard.changes.tell();
    Ok((StatusCode::ACCEPTED, Json(Started { delivery: id, state: "queued" })))
}

/// What a person asks for, checked; each wish is one of its own.
pub(crate) fn wish(
    repository: RepoName,
    branch: Option<&str>,
    inputs: BTreeMap<String, String>,
    who: &str,
) -> Result<Asked, String> {
    let git_ref = branch.map(GitRef::branch).transpose().map_err(|error| format!("`branch`: {error}"))?;
    if inputs.len() > MOST_INPUTS {
        return Err(format!("there are more than {MOST_INPUTS} inputs"));
    }
    for (name, value) in &inputs {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
            let shown: String = name.chars().take(LONGEST_NAME).flat_map(char::escape_debug).collect();
            return Err(format!("`{shown}` is not the name of an input"));
        }
        if environment::is_reserved(name) {
            return Err(format!("the input `{name}` {}", environment::RESERVED));
        }
        if value.chars().count() > LONGEST_VALUE || value.contains('\0') {
            return Err(format!(
                "input `{name}` is longer than {LONGEST_VALUE} characters, or holds a zero byte"
            ));
        }
    }
    Ok(Asked {
        kind: AskedKind::Manual,
        repository,
        git_ref,
        inputs,
        who: who.to_owned(),
        name: String::new(),
        occasion: Uuid::new_v4().to_string(),
    })
}
