//! What was seen on targets, beside what was deployed to them.

use std::{fmt, str::FromStr};

use mergeyard_types::{DeploymentId, Digest, TargetName, Timestamp};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Store, StoreError, word, word_or_none};

/// The last look at one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriftRow {
    pub target: TargetName,
    pub service: String,
    /// What it was compared with.
    pub deployment: DeploymentId,
    pub seen: Seen,
    /// When it was first seen like this.
    pub since: Timestamp,
    pub looked: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Same,
    /// This runs in its place.
    Differs(Digest),
    /// Nothing runs in its place.
    Gone,
    /// Nobody can see it from outside.
    Untold,
    /// Not an answer about the service: it could not be looked.
    Unreachable {
        why: String,
    },
}

/// A look at the service of one deployment, before it is known whether it still counts.
#[derive(Debug, Clone)]
pub struct Look {
    pub deployment: DeploymentId,
    pub target: TargetName,
    pub service: String,
    /// When it began.
    pub begun: Timestamp,
    pub seen: Seen,
}

impl Store {
    pub async fn drift(&self) -> Result<Vec<DriftRow>, StoreError> {
        sqlx::query("SELECT * FROM drift ORDER BY target, service")
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(drift_row)
            .collect()
    }

    /// Writes down what was seen, unless the service was deployed to since the look began: then it
    /// may be what was there in between. Says whether it is new; `None` when it does not count.
    pub async fn note_look(&self, look: &Look, now: Timestamp) -> Result<Option<bool>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "SELECT (SELECT max(id) FROM deployments WHERE target = ?1 AND service = ?2 AND state = 'success') AS proven, \
             coalesce(finished, ?3) AS touched FROM deployments WHERE target = ?1 AND service = ?2 ORDER BY id DESC LIMIT 1",
        )
        .bind(look.target.as_str())
        .bind(&look.service)
        .bind(i64::MAX)
        .fetch_optional(&mut *tx.inner)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (proven, touched): (Option<i64>, i64) = (row.try_get("proven")?, row.try_get("touched")?);
        if proven != Some(look.deployment.0) || touched > look.begun.0 {
            return Ok(None);
        }
        let (found, why) = look.seen.columns();
        let before = sqlx::query("SELECT * FROM drift WHERE target = ? AND service = ?")
            .bind(look.target.as_str())
            .bind(&look.service)
            .fetch_optional(&mut *tx.inner)
            .await?;
        let before = before.as_ref().map(drift_row).transpose()?;
        let known = before
            .filter(|row| row.deployment == look.deployment && row.seen.is_like(&look.seen))
            .map(|row| row.since);
        sqlx::query(
            "INSERT INTO drift (target, service, deployment, sight, found, why, since, looked) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET deployment = excluded.deployment, \
             sight = excluded.sight, found = excluded.found, why = excluded.why, since = excluded.since, \
             looked = excluded.looked",
        )
        .bind(look.target.as_str())
        .bind(&look.service)
        .bind(look.deployment.0)
        .bind(look.seen.word().as_str())
        .bind(found)
        .bind(why)
        .bind(known.unwrap_or(now).0)
        .bind(now.0)
        .execute(&mut *tx.inner)
        .await?;
        tx.commit().await?;
        Ok(Some(known.is_none()))
    }
}

/// The kinds of [`Seen`], as they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sight {
    Same,
    Differs,
    Gone,
    Untold,
    Unreachable,
}

impl Sight {
    pub const ALL: [Sight; 5] = [Sight::Same, Sight::Differs, Sight::Gone, Sight::Untold, Sight::Unreachable];

    pub fn as_str(self) -> &'static str {
        match self {
            Sight::Same => "same",
            Sight::Differs => "differs",
            Sight::Gone => "gone",
            Sight::Untold => "untold",
            Sight::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Sight {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Sight::ALL.into_iter().find(|sight| sight.as_str() == text).ok_or(())
    }
}

impl Seen {
    pub fn word(&self) -> Sight {
        match self {
            Seen::Same => Sight::Same,
            Seen::Differs(_) => Sight::Differs,
            Seen::Gone => Sight::Gone,
            Seen::Untold => Sight::Untold,
            Seen::Unreachable { .. } => Sight::Unreachable,
        }
    }

    /// Whether something else runs than was deployed.
    pub fn is_drift(&self) -> bool {
        matches!(self, Seen::Differs(_) | Seen::Gone)
    }

    /// The same answer as before: another reason for not getting one is none.
    fn is_like(&self, other: &Seen) -> bool {
        self == other || (self.word(), other.word()) == (Sight::Unreachable, Sight::Unreachable)
    }

    fn columns(&self) -> (Option<String>, Option<&str>) {
        match self {
            Seen::Same | Seen::Gone | Seen::Untold => (None, None),
            Seen::Differs(digest) => (Some(digest.to_string()), None),
            Seen::Unreachable { why } => (None, Some(why)),
        }
    }
}

fn drift_row(row: &SqliteRow) -> Result<DriftRow, StoreError> {
    let unreadable = || StoreError::Unreadable { what: "found", value: "nothing".to_owned() };
    Ok(DriftRow {
        target: word(row, "target")?,
        service: row.try_get("service")?,
        deployment: DeploymentId(row.try_get("deployment")?),
        seen: match word(row, "sight")? {
            Sight::Same => Seen::Same,
            Sight::Differs => Seen::Differs(word_or_none(row, "found")?.ok_or_else(unreadable)?),
            Sight::Gone => Seen::Gone,
            Sight::Untold => Seen::Untold,
            Sight::Unreachable => {
                Seen::Unreachable { why: row.try_get::<Option<String>, _>("why")?.unwrap_or_default() }
            }
        },
        since: Timestamp(row.try_get("since")?),
        looked: Timestamp(row.try_get("looked")?),
    })
}
