//! The stream that keeps the pages of targets current.

use std::time::Duration;

use axum::{
    extract::State,
    response::{Response, sse::Event},
};
use futures_util::stream;
use mergeyard_types::{Digest, RunId, TargetName, Timestamp};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::timeout,
};

use super::{
    Answer, ApiAnswer, Pages, Query, Site, asked, inert,
    live::{RETRY, events, lost, permit},
};
use crate::{
    api::problem::ProblemDocument,
    store::{Deployed, StoreError},
    targets::{self, Service, Standing},
};

/// Freeze windows begin and end by the clock, and nobody says so.
const TICK: Duration = Duration::from_secs(10);

#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only this target.
    target: Option<String>,
}

/// How targets are, whenever that changes
///
/// Events `deployments` carry each target with what is live on it. The stream has no end.
#[utoipa::path(
    get,
    path = "/api/v1/deployments/events",
    tag = "targets",
    params(Which),
    responses(
        (status = 200, description = "server-sent events", body = String, content_type = "text/event-stream"),
        (status = 404, description = "there is no such target", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "too many are looking; try again in a moment", body = ProblemDocument, content_type = "application/problem+json"),
    )
)]
pub(super) async fn deployment_events(
    State(site): State<Site>,
    query: Query<Which>,
) -> Result<Response, ApiAnswer> {
    let name: Option<TargetName> =
        asked(query)?.target.map(|name| name.parse().map_err(|_| Answer::NotFound)).transpose()?;
    let closing = site.pages.closing.clone();
    let watch = TargetWatch {
        _permit: permit(&site)?,
        changes: site.pages.changes.subscribe(),
        pages: site.pages,
        name,
        told: String::new(),
    };
    if watch.name.is_some() && watch.look().await?.is_empty() {
        return Err(Answer::NotFound.into());
    }
    Ok(events(
        closing,
        stream::unfold(watch, |mut watch| async { watch.next().await.map(|event| (event, watch)) }),
    ))
}

struct TargetWatch {
    _permit: OwnedSemaphorePermit,
    pages: Pages,
    changes: watch::Receiver<()>,
    name: Option<TargetName>,
    told: String,
}

impl TargetWatch {
    async fn look(&self) -> Result<Vec<TargetNow>, StoreError> {
        let Pages { store, clock, .. } = &self.pages;
        let all = targets::all(store, &self.pages.rules(), clock.now()).await?;
        let is_asked = |standing: &&Standing| self.name.as_ref().is_none_or(|name| standing.name == *name);
        Ok(all.iter().filter(is_asked).map(TargetNow::of).collect())
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            self.changes.borrow_and_update();
            let document = match self.look().await {
                Ok(targets) => serde_json::to_string(&targets).unwrap_or_default(),
                Err(error) => return lost(&error),
            };
            if document != self.told {
                self.told.clone_from(&document);
                return Some(Event::default().event("deployments").retry(RETRY).data(document));
            }
            let _ = timeout(TICK, self.changes.changed()).await;
        }
    }
}

/// What the pages of targets show of states. Texts pass [`inert::plain`] here as they pass the escaper
/// on a page.
#[derive(Serialize)]
struct TargetNow {
    target: TargetName,
    frozen_until: Option<Timestamp>,
    services: Vec<ServiceNow>,
    waiting: Vec<WaitingNow>,
}

#[derive(Serialize)]
struct ServiceNow {
    service: String,
    condition: &'static str,
    looked: Option<Timestamp>,
    live: Option<DeploymentNow>,
    newest: Option<DeploymentNow>,
}

#[derive(Serialize)]
struct WaitingNow {
    run: RunId,
    why: Option<String>,
}

/// A deployment's state, as a run's page shows it too.
#[derive(Serialize)]
pub(super) struct DeploymentNow {
    id: i64,
    state: &'static str,
    digest: Digest,
    health: Option<String>,
}

impl TargetNow {
    fn of(standing: &Standing) -> Self {
        let service = |one: &Service| ServiceNow {
            service: inert::plain(&one.name).into_owned(),
            condition: one.condition().as_str(),
            looked: one.drift.as_ref().map(|drift| drift.looked),
            live: one.live.as_ref().map(DeploymentNow::of),
            newest: one.newest.as_ref().map(DeploymentNow::of),
        };
        let waiting = standing.waiting.iter().map(|row| WaitingNow {
            run: row.run,
            why: row.why.as_deref().map(|why| inert::plain(why).into_owned()),
        });
        Self {
            target: standing.name.clone(),
            frozen_until: standing.frozen_until,
            services: standing.services.iter().map(service).collect(),
            waiting: waiting.collect(),
        }
    }
}

impl DeploymentNow {
    pub(super) fn of(one: &Deployed) -> Self {
        let health = one.row.health.as_deref().map(|health| inert::plain(health).into_owned());
        Self { id: one.row.id.0, state: one.row.state.as_str(), digest: one.row.digest, health }
    }
}
