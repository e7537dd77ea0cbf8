//! Deployments with what surrounds them, as people look at them. Nothing here writes.

use mergeyard_run::look::Way;
use mergeyard_types::{DeploymentId, RepoName, RunId, StepId, TargetName, Timestamp, Version};
use sqlx::{Row, sqlite::SqliteRow};

use super::{DeploymentRow, Store, StoreError, deployments::deployment_row, word, word_or_none};

/// A deployment with what its registry, its run and its step know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    pub row: DeploymentRow,
    pub way: Way,
    /// Of its image, where a run published it.
    pub version: Option<Version>,
    /// Of what was live before it.
    pub version_before: Option<Version>,
    pub source_url: Option<String>,
    /// Of its run.
    pub title: String,
}

/// A step that has yet to deploy to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRow {
    pub step: StepId,
    pub run: RunId,
    pub target: TargetName,
    pub repo: RepoName,
    /// Of its run.
    pub title: String,
    pub why: Option<String>,
    /// Nothing but the target is waited for.
    pub ready: bool,
    pub not_before: Timestamp,
}

macro_rules! deployed {
    ($rest:literal) => {
        concat!(
            "SELECT d.*, r.source_url, r.title, json_extract(s.action, '$.uses') AS uses, \
             (SELECT version FROM images i WHERE i.digest = d.digest AND i.name = d.image \
              ORDER BY i.id DESC LIMIT 1) AS version, \
             (SELECT version FROM images i WHERE i.digest = d.before AND i.name = d.image \
              ORDER BY i.id DESC LIMIT 1) AS version_before \
             FROM deployments d JOIN runs r ON r.id = d.run JOIN steps s ON s.id = d.step ",
            $rest
        )
    };
}

impl Store {
    /// Newest first, from before `before`, of one target and one of its services, or of all.
    pub async fn deployed(
        &self,
        target: Option<&TargetName>,
        service: Option<&str>,
        before: Option<DeploymentId>,
        limit: u32,
    ) -> Result<Vec<Deployed>, StoreError> {
        // Each in words of its own, so that each has an index.
        let statement = match (target, service) {
            (Some(_), Some(_)) => {
                deployed!("WHERE d.target = ?1 AND d.service = ?2 AND d.id < ?3 ORDER BY d.id DESC LIMIT ?4")
            }
            (Some(_), None) => deployed!("WHERE d.target = ?1 AND d.id < ?3 ORDER BY d.id DESC LIMIT ?4"),
            (None, Some(_)) => deployed!("WHERE d.service = ?2 AND d.id < ?3 ORDER BY d.id DESC LIMIT ?4"),
            (None, None) => deployed!("WHERE d.id < ?3 ORDER BY d.id DESC LIMIT ?4"),
        };
        sqlx::query(statement)
            .bind(target.map(TargetName::as_str))
            .bind(service)
            .bind(before.map_or(i64::MAX, |id| id.0))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(deployed_row)
            .collect()
    }

    pub async fn deployed_by(&self, run: RunId) -> Result<Vec<Deployed>, StoreError> {
        sqlx::query(deployed!("WHERE d.run = ? ORDER BY d.id"))
            .bind(run.0)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(deployed_row)
            .collect()
    }

    pub async fn deployed_as(&self, id: DeploymentId) -> Result<Option<Deployed>, StoreError> {
        let row = sqlx::query(deployed!("WHERE d.id = ?")).bind(id.0).fetch_optional(&self.reader).await?;
        row.as_ref().map(deployed_row).transpose()
    }

    /// Of each service of each target the newest deployment, and the last one that was proven:
    /// what ought to be live.
    pub async fn standing(&self) -> Result<Vec<Deployed>, StoreError> {
        sqlx::query(deployed!(
            "WHERE d.id IN (SELECT max(id) FROM deployments GROUP BY target, service UNION \
             SELECT max(id) FROM deployments WHERE state = 'success' GROUP BY target, service) \
             ORDER BY d.target, d.service, d.id"
        ))
        .fetch_all(&self.reader)
        .await?
        .iter()
        .map(deployed_row)
        .collect()
    }

    /// Steps that have yet to deploy, in the order in which they will.
    pub async fn waiting_deployments(&self) -> Result<Vec<WaitingRow>, StoreError> {
        // The states are named twice, because the index is one of waiting and running steps.
        sqlx::query(
            "SELECT s.id, s.run, substr(s.serial, 8) AS target, r.repo, r.title, s.why, s.ready, s.not_before \
             FROM steps s JOIN runs r ON r.id = s.run WHERE s.serial >= 'target/' AND s.serial < 'target0' \
             AND s.state IN ('queued', 'running') AND s.state = 'queued' ORDER BY s.serial, s.merged, s.id",
        )
        .fetch_all(&self.reader)
        .await?
        .iter()
        .map(waiting_row)
        .collect()
    }
}

fn deployed_row(row: &SqliteRow) -> Result<Deployed, StoreError> {
    let uses: String = row.try_get("uses")?;
    let way = match uses.as_str() {
        "rollout" => Way::Rollout,
        "ansible" => Way::Playbook,
        "yum-mirror" => Way::Mirror,
        _ => return Err(StoreError::Unreadable { what: "uses", value: uses }),
    };
    Ok(Deployed {
        row: deployment_row(row)?,
        way,
        version: word_or_none(row, "version")?,
        version_before: word_or_none(row, "version_before")?,
        source_url: row.try_get("source_url")?,
        title: row.try_get("title")?,
    })
}

fn waiting_row(row: &SqliteRow) -> Result<WaitingRow, StoreError> {
    Ok(WaitingRow {
        step: StepId(row.try_get("id")?),
        run: RunId(row.try_get("run")?),
        target: word(row, "target")?,
        repo: word(row, "repo")?,
        title: row.try_get("title")?,
        why: row.try_get("why")?,
        ready: row.try_get("ready")?,
        not_before: Timestamp(row.try_get("not_before")?),
    })
}
