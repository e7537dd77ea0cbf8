//! When each schedule is due next.

use mergeyard_types::{RepoName, Timestamp};
use sqlx::Row;

use super::{Delivery, Store, StoreError, word};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub repo: RepoName,
    pub name: String,
    /// What `at` was reckoned from: another one makes it void.
    pub expression: String,
    pub at: Timestamp,
}

impl Store {
    pub async fn schedules(&self) -> Result<Vec<Due>, StoreError> {
        let rows = sqlx::query("SELECT known_as, name, expression, due FROM schedules")
            .fetch_all(&self.reader)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Due {
                    repo: word(row, "known_as")?,
                    name: row.try_get("name")?,
                    expression: row.try_get("expression")?,
                    at: Timestamp(row.try_get("due")?),
                })
            })
            .collect()
    }

    /// Notes when a schedule is due next, together with the delivery it causes now.
    pub async fn set_schedule(&self, due: &Due, delivery: Option<&Delivery>) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO schedules (known_as, name, expression, due) VALUES (?, ?, ?, ?) \
             ON CONFLICT (known_as, name) DO UPDATE SET expression = excluded.expression, due = excluded.due",
        )
        .bind(due.repo.as_str())
        .bind(&due.name)
        .bind(&due.expression)
        .bind(due.at.0)
        .execute(&mut *tx.inner)
        .await?;
        if let Some(delivery) = delivery {
            tx.insert_delivery(delivery).await?;
        }
        tx.commit().await
    }

    pub async fn forget_schedule(&self, repo: &RepoName, name: &str) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM schedules WHERE known_as = ? AND name = ?")
            .bind(repo.as_str())
            .bind(name)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await
    }
}
