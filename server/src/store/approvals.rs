//! Questions to a person, as lists show them. What an answer does to a run is the run's business.

use mergeyard_plan::run::Scope;
use mergeyard_types::{RepoName, RunId, StepId, Timestamp, WorkflowId};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, word};

#[derive(Debug, Clone)]
pub struct ApprovalRow {
    pub id: i64,
    pub run: RunId,
    /// `None`: the run as a whole.
    pub workflow: Option<(WorkflowId, String)>,
    /// `None`: the workflow as a whole.
    pub step: Option<(StepId, String)>,
    pub gate: String,
    pub asked: Timestamp,
    /// `approved` or `rejected`, once somebody said so.
    pub answer: Option<String>,
    pub answered: Option<Timestamp>,
    pub who: Option<String>,
}

impl ApprovalRow {
    pub fn scope(&self) -> Scope {
        match (&self.step, &self.workflow) {
            (Some((step, _)), _) => Scope::Step(*step),
            (None, Some((workflow, _))) => Scope::Workflow(*workflow),
            (None, None) => Scope::Run,
        }
    }

    /// What it is about, for a person.
    pub fn place(&self) -> String {
        match (&self.workflow, &self.step) {
            (None, _) => "the run".to_owned(),
            (Some((_, workflow)), None) => workflow.clone(),
            (Some((_, workflow)), Some((_, step))) => format!("{workflow}/{step}"),
        }
    }
}

impl Store {
    /// Every question of a run, the answered ones too, in the order they were asked.
    pub async fn questions(&self, run: RunId) -> Result<Vec<ApprovalRow>, StoreError> {
        sqlx::query(
            "SELECT a.*, w.name AS workflow_name, w.axis AS workflow_axis, s.name AS step_name FROM approvals a \
             LEFT JOIN workflows w ON w.id = a.workflow LEFT JOIN steps s ON s.id = a.step \
             WHERE a.run = ? ORDER BY a.id",
        )
        .bind(run.0)
        .fetch_all(&self.reader)
        .await?
        .iter()
        .map(approval_row)
        .collect()
    }

    /// Lets pull requests from forks of who caused this run start without a question from now on,
    /// in this repository. `None` when there is no such run, `false` when it does not say whose it is.
    pub async fn trust_account(
        &self,
        run: RunId,
        who: &str,
        now: Timestamp,
    ) -> Result<Option<bool>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query("SELECT known_as, account FROM runs WHERE id = ?")
            .bind(run.0)
            .fetch_optional(&mut *tx.inner)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let Some(account) = row.try_get::<Option<i64>, _>("account")? else { return Ok(Some(false)) };
        let known_as: RepoName = word(&row, "known_as")?;
        sqlx::query(
            "INSERT INTO trusted_accounts (known_as, account, who, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(known_as.as_str())
        .bind(account)
        .bind(who)
        .bind(now.0)
        .execute(&mut *tx.inner)
        .await?;
        tx.commit().await?;
        Ok(Some(true))
    }
}

fn approval_row(row: &SqliteRow) -> Result<ApprovalRow, StoreError> {
    let workflow = match (row.try_get::<Option<i64>, _>("workflow")?, row.try_get("workflow_name")?) {
        (Some(id), Some(name)) => {
            let axis: Option<String> = row.try_get("workflow_axis")?;
            let name: String = name;
            Some((WorkflowId(id), axis.map_or(name.clone(), |axis| format!("{name}/{axis}"))))
        }
        _ => None,
    };
    let step = match (row.try_get::<Option<i64>, _>("step")?, row.try_get("step_name")?) {
        (Some(id), Some(name)) => Some((StepId(id), name)),
        _ => None,
    };
    Ok(ApprovalRow {
        id: row.try_get("id")?,
        run: RunId(row.try_get("run")?),
        workflow,
        step,
        gate: row.try_get("gate")?,
        asked: Timestamp(row.try_get("asked")?),
        answer: row.try_get("answer")?,
        answered: row.try_get::<Option<i64>, _>("answered")?.map(Timestamp),
        who: row.try_get("who")?,
    })
}
