//! Runs and images as pages and lists show them. Nothing here writes.

use std::collections::BTreeMap;

use mergeyard_plan::{
    action::Action,
    rules::{StepRules, WorkflowRules},
};
use mergeyard_types::{
    CommitSha, DeliveryId, Digest, ImageName, ImageRef, RepoName, RunId, State, StepId, Timestamp, TreeId,
    WorkflowId,
};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, json, word};

/// A run as a list shows it.
#[derive(Debug, Clone)]
pub struct RunRow {
    pub id: RunId,
    pub delivery: DeliveryId,
    pub repo: RepoName,
    pub source_url: Option<String>,
    pub event: String,
    pub branch: String,
    pub commit: CommitSha,
    pub title: String,
    pub author: String,
    pub number: Option<u64>,
    pub state: State,
    pub cancel: Option<String>,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub rerun_of: Option<RunId>,
    /// A pull request from another repository.
    pub fork: bool,
}

#[derive(Debug, Clone)]
pub struct WorkflowRow {
    pub id: WorkflowId,
    pub name: String,
    pub axis: Option<String>,
    pub state: State,
    pub why: Option<String>,
    pub steps: Vec<StepRow>,
    pub rules: WorkflowRules,
}

#[derive(Debug, Clone)]
pub struct StepRow {
    pub id: StepId,
    pub run: RunId,
    pub name: String,
    pub action: Action,
    pub state: State,
    pub why: Option<String>,
    pub attempt: u32,
    pub not_before: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub outputs: BTreeMap<String, String>,
    pub rules: StepRules,
    /// Detached, and others may rely on it.
    pub up: bool,
    pub exit_code: Option<i64>,
}

/// A run with everything on its page.
#[derive(Debug, Clone)]
pub struct RunPage {
    pub run: RunRow,
    pub workflows: Vec<WorkflowRow>,
    pub images: Vec<ImageRow>,
}

#[derive(Debug, Clone)]
pub struct ImageRow {
    pub row: i64,
    pub run: RunId,
    pub repo: RepoName,
    pub image: ImageRef,
    pub digest: Digest,
    pub tree: TreeId,
    pub commit: CommitSha,
    pub published: Timestamp,
}

impl Store {
    /// Newest first, from before `before`, of one repository or of all.
    pub async fn runs(
        &self,
        repo: Option<&RepoName>,
        before: Option<RunId>,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreError> {
        let before = before.map_or(i64::MAX, |run| run.0);
        let rows = match repo {
            Some(repo) => {
                sqlx::query("SELECT * FROM runs WHERE repo = ? AND id < ? ORDER BY id DESC LIMIT ?")
                    .bind(repo.as_str())
                    .bind(before)
                    .bind(limit)
                    .fetch_all(&self.reader)
                    .await?
            }
            None => {
                sqlx::query("SELECT * FROM runs WHERE id < ? ORDER BY id DESC LIMIT ?")
                    .bind(before)
                    .bind(limit)
                    .fetch_all(&self.reader)
                    .await?
            }
        };
        rows.iter().map(run_row).collect()
    }

    /// Runs that wait for a person, newest first.
    pub async fn blocked_runs(&self, limit: u32) -> Result<Vec<RunRow>, StoreError> {
        sqlx::query("SELECT * FROM runs WHERE state = 'blocked' ORDER BY id DESC LIMIT ?")
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(run_row)
            .collect()
    }

    /// The repositories of the newest runs.
    pub async fn active_repositories(&self) -> Result<Vec<RepoName>, StoreError> {
        let rows =
            sqlx::query("SELECT DISTINCT repo FROM (SELECT repo FROM runs ORDER BY id DESC LIMIT 1000)")
                .fetch_all(&self.reader)
                .await?;
        rows.iter().map(|row| word(row, "repo")).collect()
    }

    pub async fn run_page(&self, id: RunId) -> Result<Option<RunPage>, StoreError> {
        let mut reader = self.reader.begin().await?;
        let row =
            sqlx::query("SELECT * FROM runs WHERE id = ?").bind(id.0).fetch_optional(&mut *reader).await?;
        let Some(run) = row.as_ref().map(run_row).transpose()? else { return Ok(None) };
        let mut workflows = sqlx::query("SELECT * FROM workflows WHERE run = ? ORDER BY id")
            .bind(id.0)
            .fetch_all(&mut *reader)
            .await?
            .iter()
            .map(workflow_row)
            .collect::<Result<Vec<_>, _>>()?;
        for row in sqlx::query("SELECT * FROM steps WHERE run = ? ORDER BY id")
            .bind(id.0)
            .fetch_all(&mut *reader)
            .await?
        {
            let owner = WorkflowId(row.try_get("workflow")?);
            let step = step_row(&row)?;
            workflows
                .iter_mut()
                .filter(|workflow| workflow.id == owner)
                .for_each(|w| w.steps.push(step.clone()));
        }
        let images = sqlx::query(
            "SELECT i.* FROM steps s JOIN images i ON i.step = s.id WHERE s.run = ? ORDER BY i.id",
        )
        .bind(id.0)
        .fetch_all(&mut *reader)
        .await?;
        let images = images.iter().map(image_row).collect::<Result<_, _>>()?;
        Ok(Some(RunPage { run, workflows, images }))
    }

    pub async fn step(&self, id: StepId) -> Result<Option<StepRow>, StoreError> {
        let row =
            sqlx::query("SELECT * FROM steps WHERE id = ?").bind(id.0).fetch_optional(&self.reader).await?;
        row.as_ref().map(step_row).transpose()
    }

    /// Published images, newest first, from before row `before`.
    pub async fn images(&self, before: Option<i64>, limit: u32) -> Result<Vec<ImageRow>, StoreError> {
        sqlx::query("SELECT * FROM images WHERE id < ? ORDER BY id DESC LIMIT ?")
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(image_row)
            .collect()
    }

    /// The published versions of one image, newest first, from before row `before`.
    pub async fn images_of(
        &self,
        name: &ImageName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<ImageRow>, StoreError> {
        sqlx::query("SELECT * FROM images WHERE name = ? AND id < ? ORDER BY id DESC LIMIT ?")
            .bind(name.as_str())
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(image_row)
            .collect()
    }
}

fn run_row(row: &SqliteRow) -> Result<RunRow, StoreError> {
    Ok(RunRow {
        id: RunId(row.try_get("id")?),
        delivery: word(row, "delivery")?,
        repo: word(row, "repo")?,
        source_url: row.try_get("source_url")?,
        event: row.try_get("event")?,
        branch: row.try_get("branch")?,
        commit: word(row, "commit_sha")?,
        title: row.try_get("title")?,
        author: row.try_get("author")?,
        number: row.try_get::<Option<i64>, _>("number")?.map(i64::unsigned_abs),
        state: word(row, "state")?,
        cancel: row.try_get("cancel")?,
        created: Timestamp(row.try_get("created")?),
        started: time(row, "started")?,
        finished: time(row, "finished")?,
        rerun_of: row.try_get::<Option<i64>, _>("rerun_of")?.map(RunId),
        fork: row.try_get("fork")?,
    })
}

pub(super) fn workflow_row(row: &SqliteRow) -> Result<WorkflowRow, StoreError> {
    Ok(WorkflowRow {
        id: WorkflowId(row.try_get("id")?),
        name: row.try_get("name")?,
        axis: row.try_get("axis")?,
        state: word(row, "state")?,
        why: row.try_get("why")?,
        steps: Vec::new(),
        rules: json(row, "rules")?,
    })
}

pub(super) fn step_row(row: &SqliteRow) -> Result<StepRow, StoreError> {
    Ok(StepRow {
        id: StepId(row.try_get("id")?),
        run: RunId(row.try_get("run")?),
        name: row.try_get("name")?,
        action: json(row, "action")?,
        state: word(row, "state")?,
        why: row.try_get("why")?,
        attempt: row.try_get("attempt")?,
        not_before: Timestamp(row.try_get("not_before")?),
        started: time(row, "started")?,
        finished: time(row, "finished")?,
        outputs: json(row, "outputs")?,
        rules: json(row, "rules")?,
        up: row.try_get("up")?,
        exit_code: row.try_get("exit_code")?,
    })
}

fn image_row(row: &SqliteRow) -> Result<ImageRow, StoreError> {
    let image = ImageRef::tagged(word(row, "registry")?, word(row, "name")?, word(row, "version")?);
    Ok(ImageRow {
        row: row.try_get("id")?,
        run: RunId(row.try_get("run")?),
        repo: word(row, "repo")?,
        image,
        digest: word(row, "digest")?,
        tree: word(row, "tree")?,
        commit: word(row, "commit_sha")?,
        published: Timestamp(row.try_get("published")?),
    })
}

fn time(row: &SqliteRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp))
}
