//! Sealed secrets. This file sees ciphertext and names only.

use mergeyard_plan::event::EventKind;
use mergeyard_types::Timestamp;
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, json, to_json};

/// A secret on its way into the database.
#[derive(Debug, Clone)]
pub struct SealedSecret {
    /// `owner/name`, `owner`, or empty for everybody; lower case.
    pub scope: String,
    pub name: String,
    pub sealed: Vec<u8>,
    pub events: Vec<EventKind>,
    pub images: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct SecretRow {
    pub secret: SealedSecret,
    pub updated: Timestamp,
}

impl Store {
    /// Adds a secret, or puts it in the place of the one that has its scope and name.
    pub async fn set_secret(&self, secret: &SealedSecret, now: Timestamp) -> Result<(), StoreError> {
        let SealedSecret { scope, name, sealed, events, images } = secret;
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO secrets (scope, name, sealed, events, images, updated) VALUES (?, ?, ?, ?, ?, ?) \
             ON CONFLICT (scope, name) DO UPDATE SET sealed = excluded.sealed, events = excluded.events, \
             images = excluded.images, updated = excluded.updated",
        )
        .bind(scope)
        .bind(name)
        .bind(sealed)
        .bind(to_json(events))
        .bind(to_json(images))
        .bind(now.0)
        .execute(&mut *tx.inner)
        .await?;
        tx.commit().await
    }

    /// `false` when there is none.
    pub async fn remove_secret(&self, scope: &str, name: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query("DELETE FROM secrets WHERE scope = ? AND name = ?")
            .bind(scope)
            .bind(name)
            .execute(&mut *tx.inner)
            .await?
            .rows_affected();
        tx.commit().await?;
        Ok(removed > 0)
    }

    /// Those of these scopes, or of all, by scope and name.
    pub async fn secrets(&self, scopes: Option<&[String]>) -> Result<Vec<SecretRow>, StoreError> {
        let rows = match scopes {
            Some(scopes) => sqlx::query(
                "SELECT * FROM secrets WHERE scope IN (SELECT value FROM json_each(?)) ORDER BY scope, name",
            )
            .bind(to_json(&scopes))
            .fetch_all(&self.reader)
            .await?,
            None => sqlx::query("SELECT * FROM secrets ORDER BY scope, name").fetch_all(&self.reader).await?,
        };
        rows.iter().map(secret_row).collect()
    }
}

fn secret_row(row: &SqliteRow) -> Result<SecretRow, StoreError> {
    Ok(SecretRow {
        secret: SealedSecret {
            scope: row.try_get("scope")?,
            name: row.try_get("name")?,
            sealed: row.try_get("sealed")?,
            events: json(row, "events")?,
            images: json(row, "images")?,
        },
        updated: Timestamp(row.try_get("updated")?),
    })
}
