//! Targets: what is live on each, what waits for it, and whether it runs what was deployed.

use std::sync::Arc;

use axum::{Json, extract::State};
use mergeyard_types::{TargetName, Timestamp};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, Schema, Type},
};

use super::{deployments::Deployment, problem::Problem, request::Id};
use crate::{
    store::{DriftRow, Seen, Sight, WaitingRow},
    targets::{self, Condition, Service, Standing, Tally},
    yard::Yard,
};

/// All targets, and how many services are how.
#[derive(Serialize, ToSchema)]
pub(crate) struct Targets {
    items: Vec<Target>,
    drift: Count,
}

/// A machine that runs deliver to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Target {
    name: String,
    /// How it is reached, in words; null when the configuration no longer defines it.
    reach: Option<String>,
    /// Where its packages are served, if it is a yum mirror.
    mirror: Option<String>,
    /// The end of the freeze window in force.
    #[schema(value_type = Option<i64>)]
    frozen_until: Option<Timestamp>,
    services: Vec<TargetService>,
    /// Steps that have yet to deploy, in their order.
    waiting: Vec<Waiting>,
}

/// What was deployed to a target under one name.
#[derive(Serialize, ToSchema)]
#[schema(as = Service)]
pub(crate) struct TargetService {
    name: String,
    /// The worst that is known of it.
    #[schema(schema_with = condition)]
    condition: &'static str,
    /// The last deployment that was proven: what ought to be live.
    live: Option<Deployment>,
    /// The newest deployment, where that is another: it goes on, or it was not proven.
    newest: Option<Deployment>,
    drift: Option<Drift>,
}

/// The last look at what is live.
#[derive(Serialize, ToSchema)]
pub(crate) struct Drift {
    #[schema(schema_with = sight)]
    seen: &'static str,
    /// What runs in its place.
    found: Option<String>,
    /// It could not be looked.
    why: Option<String>,
    /// When it was first seen like this.
    #[schema(value_type = i64)]
    since: Timestamp,
    #[schema(value_type = i64)]
    looked: Timestamp,
}

/// A step that has yet to deploy.
#[derive(Serialize, ToSchema)]
pub(crate) struct Waiting {
    run: i64,
    step: i64,
    repository: String,
    /// What for, where it is more than its turn.
    why: Option<String>,
}

/// Services that are live, by what was last seen of them.
#[derive(Serialize, ToSchema)]
#[schema(as = DriftCount)]
pub(crate) struct Count {
    services: usize,
    same: usize,
    /// Something else runs, or nothing.
    drifted: usize,
    /// Nobody can see what runs.
    untold: usize,
    unreachable: usize,
    /// Nobody has looked since they were deployed.
    unlooked: usize,
}

fn condition() -> Schema {
    let words = Condition::ALL.map(Condition::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

fn sight() -> Schema {
    let words = Sight::ALL.map(Sight::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
}

impl Targets {
    pub(crate) fn of(all: &[Standing]) -> Self {
        let Tally { services, same, drifted, untold, unreachable, unlooked } = Tally::of(all);
        let drift = Count { services, same, drifted, untold, unreachable, unlooked };
        Self { items: all.iter().map(Target::of).collect(), drift }
    }
}

impl Target {
    fn of(standing: &Standing) -> Self {
        let target = standing.defined.as_ref().map(|defined| &defined.target);
        Self {
            name: standing.name.to_string(),
            reach: target.map(|target| targets::reach(target)),
            mirror: target.and_then(|target| Some(target.mirror.as_ref()?.url.to_string())),
            frozen_until: standing.frozen_until,
            services: standing.services.iter().map(TargetService::of).collect(),
            waiting: standing.waiting.iter().map(Waiting::of).collect(),
        }
    }
}

impl TargetService {
    fn of(service: &Service) -> Self {
        Self {
            name: service.name.clone(),
            condition: service.condition().as_str(),
            live: service.live.as_ref().map(Deployment::of),
            newest: service.newest.as_ref().map(Deployment::of),
            drift: service.drift.as_ref().map(Drift::of),
        }
    }
}

impl Drift {
    fn of(row: &DriftRow) -> Self {
        let (found, why) = match &row.seen {
            Seen::Same | Seen::Gone | Seen::Untold => (None, None),
            Seen::Differs(digest) => (Some(digest.to_string()), None),
            Seen::Unreachable { why } => (None, Some(why.clone())),
        };
        Self { seen: row.seen.word().as_str(), found, why, since: row.since, looked: row.looked }
    }
}

impl Waiting {
    fn of(row: &WaitingRow) -> Self {
        Self { run: row.run.0, step: row.step.0, repository: row.repo.to_string(), why: row.why.clone() }
    }
}

/// All targets with what is live on them
#[utoipa::path(
    get,
    path = "/api/v1/targets",
    tag = "targets",
    responses((status = 200, description = "the targets, by name", body = Targets))
)]
pub(super) async fn targets(State(yard): State<Arc<Yard>>) -> Result<Json<Targets>, Problem> {
    let all = targets::all(&yard.store, &yard.rules(), yard.clock.now()).await?;
    Ok(Json(Targets::of(&all)))
}

/// One target with what is live on it
#[utoipa::path(
    get,
    path = "/api/v1/targets/{name}",
    tag = "targets",
    params(("name" = String, Path, description = "the target")),
    responses(
        (status = 200, description = "the target", body = Target),
        (status = 404, description = "there is no such target", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn target(
    State(yard): State<Arc<Yard>>,
    Id(name): Id<TargetName>,
) -> Result<Json<Target>, Problem> {
    let found = targets::one(&yard.store, &yard.rules(), &name, yard.clock.now()).await?;
    found
        .map(|standing| Json(Target::of(&standing)))
        .ok_or_else(|| Problem::not_found(format!("there is no target {name}; `/api/v1/targets` lists them")))
}
