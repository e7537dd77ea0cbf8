//! Tokens of the API: kept as hashes, never removed, so that the log can tell whose a dead one was.

use std::{fmt, str::FromStr};

use mergeyard_types::Timestamp;
use serde::Serialize;
use sqlx::{Row, sqlite::SqliteRow};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::{Store, StoreError, word};

/// How long a use may go unwritten: a write for each request would make reading as dear as
/// writing.
const USED_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// What the index is asked for. The other bytes are compared in constant time.
const LOOKED_UP: usize = 8;

/// What a token allows; each role allows what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Read,
    /// Answers gates, starts, repeats and cancels runs.
    Approve,
    Admin,
}

/// SHA-256 of a token. 256 random bits need no salt and no slow hash.
pub type TokenHash = [u8; 32];

#[derive(Debug, Clone)]
pub struct TokenRow {
    pub id: i64,
    pub name: String,
    pub role: Role,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    /// To the minute.
    pub used: Option<Timestamp>,
    pub revoked: Option<Timestamp>,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Read, Role::Approve, Role::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Approve => "approve",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Role::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a role; write read, approve or admin"))
    }
}

impl TokenRow {
    pub fn is_good_at(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|end| now < end)
    }
}

impl Store {
    /// `false` when another token in force has the name.
    pub async fn add_token(
        &self,
        name: &str,
        hash: &TokenHash,
        role: Role,
        expires: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let added = sqlx::query(
            "INSERT INTO tokens (name, hash, role, created, expires) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(name)
        .bind(&hash[..])
        .bind(role.as_str())
        .bind(now.0)
        .bind(expires.map(|end| end.0))
        .execute(&mut *tx.inner)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(added > 0)
    }

    /// `false` when no token in force has the name.
    pub async fn revoke_token(&self, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let revoked = sqlx::query("UPDATE tokens SET revoked = ? WHERE name = ? AND revoked IS NULL")
            .bind(now.0)
            .bind(name)
            .execute(&mut *tx.inner)
            .await?
            .rows_affected();
        tx.commit().await?;
        Ok(revoked > 0)
    }

    /// Newest first, from before row `before`, the revoked ones too.
    pub async fn tokens(&self, before: Option<i64>, limit: u32) -> Result<Vec<TokenRow>, StoreError> {
        sqlx::query("SELECT * FROM tokens WHERE id < ? ORDER BY id DESC LIMIT ?")
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(token_row)
            .collect()
    }

    /// The token with this hash, in force or not.
    pub async fn token(&self, hash: &TokenHash) -> Result<Option<TokenRow>, StoreError> {
        let (mut low, mut high) = ([0; 32], [0xff; 32]);
        low[..LOOKED_UP].copy_from_slice(&hash[..LOOKED_UP]);
        high[..LOOKED_UP].copy_from_slice(&hash[..LOOKED_UP]);
        let rows = sqlx::query("SELECT * FROM tokens WHERE hash BETWEEN ? AND ?")
            .bind(&low[..])
            .bind(&high[..])
            .fetch_all(&self.reader)
            .await?;
        let mut found = None;
        for row in &rows {
            if bool::from(row.try_get::<&[u8], _>("hash")?.ct_eq(hash)) {
                found = Some(token_row(row)?);
            }
        }
        Ok(found)
    }

    /// Whether a token that was in force still is.
    pub async fn is_token_good(&self, id: i64, now: Timestamp) -> Result<bool, StoreError> {
        let row =
            sqlx::query("SELECT * FROM tokens WHERE id = ?").bind(id).fetch_optional(&self.reader).await?;
        Ok(row.as_ref().map(token_row).transpose()?.is_some_and(|token| token.is_good_at(now)))
    }

    pub async fn token_used(&self, token: &TokenRow, now: Timestamp) -> Result<(), StoreError> {
        if token.used.is_some_and(|used| now.since(used) < USED_EVERY) {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE tokens SET used = ? WHERE id = ?")
            .bind(now.0)
            .bind(token.id)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await
    }
}

fn token_row(row: &SqliteRow) -> Result<TokenRow, StoreError> {
    let time = |column| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(column)?.map(Timestamp));
    Ok(TokenRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: word(row, "role")?,
        created: Timestamp(row.try_get("created")?),
        expires: time("expires")?,
        used: time("used")?,
        revoked: time("revoked")?,
    })
}
