//! What earlier runs left behind that later ones ask for.

use mergeyard_plan::{
    event::{Forge, Repository},
    facts::Remembered,
};
use mergeyard_types::{RepoName, State, Timestamp};
use sqlx::Row;

use super::{Store, StoreError, runs, word};

impl Store {
    /// The last run of a branch, as its successor sees it. `None` also for runs of before the
    /// facts of runs were kept.
    pub async fn previous(
        &self,
        known_as: &RepoName,
        branch: &str,
    ) -> Result<Option<Remembered>, StoreError> {
        let row = sqlx::query(
            "SELECT facts, state, started, finished FROM runs WHERE known_as = ? AND branch = ? \
             ORDER BY id DESC LIMIT 1",
        )
        .bind(known_as.as_str())
        .bind(branch)
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let facts: String = row.try_get("facts")?;
        let Ok(mut remembered) = serde_json::from_str::<Remembered>(&facts) else { return Ok(None) };
        let state: State = word(&row, "state")?;
        remembered.pipeline.status = state.as_str().to_owned();
        remembered.pipeline.started = row.try_get::<Option<i64>, _>("started")?.map(Timestamp);
        remembered.pipeline.finished = row.try_get::<Option<i64>, _>("finished")?.map(Timestamp);
        Ok(Some(remembered))
    }

    /// Where a repository lives and is fetched from, by its last run.
    pub async fn last_seen(&self, name: &RepoName) -> Result<Option<(Forge, Repository)>, StoreError> {
        let row = sqlx::query(
            "SELECT forge, repo, clone_url, source_url, (SELECT forge_id FROM repositories WHERE name = known_as) \
             AS forge_id FROM runs WHERE known_as = ? ORDER BY id DESC LIMIT 1",
        )
        .bind(name.as_str())
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut repository = Repository::named(word(&row, "repo")?);
        repository.id = row.try_get("forge_id")?;
        repository.clone_url = row.try_get("clone_url")?;
        repository.html_url = row.try_get("source_url")?;
        Ok(Some((runs::forge(&row)?, repository)))
    }

    /// Whether a person let this account's pull requests from forks run without being asked.
    pub async fn is_trusted(&self, known_as: &RepoName, account: i64) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM trusted_accounts WHERE known_as = ? AND account = ?")
            .bind(known_as.as_str())
            .bind(account)
            .fetch_optional(&self.reader)
            .await?;
        Ok(row.is_some())
    }
}
