//! The database: all SQL of mergeyard is in this folder.
//!
//! One connection writes, a few read. Every write is a transaction that takes the write
//! lock at its start (`BEGIN IMMEDIATE`), because a read that turns into a write later
//! would fail with a stale snapshot that no waiting mends. `synchronous=FULL` makes a
//! commit durable before it returns; concurrent deliveries share one commit.

mod approvals;
mod claims;
mod deliveries;
mod deployed;
mod deployments;
mod drift;
mod effects;
mod fuse;
mod leases;
mod new_runs;
mod pages;
mod remembered;
mod reruns;
mod rollbacks;
mod runs;
mod schedules;
mod secrets;
mod tokens;

use std::{path::Path, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, Row, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use approvals::ApprovalRow;
pub use claims::Frozen;
pub use deliveries::{Claimed, Delivery, DeliveryRow, DeliveryState, Receipt, Received, Source, Verdict};
pub use deployed::{Deployed, WaitingRow};
pub use deployments::{DeploymentRow, DeploymentState};
pub use drift::{DriftRow, Look, Seen, Sight};
pub use effects::{EffectRow, Pending};
pub use fuse::Fuse;
pub use leases::{Job, Lease, Place, Pulse, ReportError};
pub use new_runs::Created;
pub use pages::{ImageRow, RunPage, RunRow, StepRow, WorkflowRow};
pub use reruns::{KEPT, Repeated};
pub use rollbacks::{NoRollback, ROLLBACK, Rollback, Wanted};
pub use runs::Answered;
pub use schedules::Due;
pub use secrets::{SealedSecret, SecretRow};
pub use tokens::{Role, TokenHash, TokenRow};

use deliveries::Receiver;

/// What brings a database from each version to the next.
const SCHEMAS: [&str; 3] =
    [include_str!("schema/1.sql"), include_str!("schema/2.sql"), include_str!("schema/3.sql")];

const SCHEMA: i64 = SCHEMAS.len() as i64;

/// Reads that pages make at the same time; more would only wait for the same two cores.
const READERS: u32 = 4;

/// How long a write waits for another process' write. GitHub gives up on a webhook after ten
/// seconds, and must hear before that whether to send it again.
const BUSY: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
    receiver: Receiver,
    fuse: Arc<Fuse>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database does not answer")]
    Unavailable(#[from] sqlx::Error),
    #[error(
        "the database `{path}` was written by a newer mergeyard (schema {found}, this one knows {SCHEMA}); start that version, or restore a backup"
    )]
    Newer { path: String, found: i64 },
    #[error("the database `{path}` is damaged: {what}; restore a backup of the data directory")]
    Damaged { path: String, what: String },
    #[error("{what} in the database reads `{value}`, which this version does not know")]
    Unreadable { what: &'static str, value: String },
}

impl Store {
    pub async fn open(file: &Path, fuse: Arc<Fuse>) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let path = file.display().to_string();
        let damaged = |error: sqlx::Error| match damage(&error) {
            Some(what) => StoreError::Damaged { path: path.clone(), what },
            None => StoreError::Unavailable(error),
        };
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                .idle_timeout(None)
                .max_lifetime(None)
                // A full disk makes SQLite end a transaction by itself. sqlx goes on counting it,
                // and such a connection would refuse every transaction after it.
                .before_acquire(|connection, _| Box::pin(async { Ok(!connection.is_in_transaction()) }))
        };
        let writer = pool(1).connect_with(options.clone()).await.map_err(&damaged)?;
        migrate(&writer, &path).await.map_err(|error| match error {
            StoreError::Unavailable(error) => damaged(error),
            other => other,
        })?;
        let reader = pool(READERS).min_connections(1).connect_lazy_with(options.read_only(true));
        let receiver = Receiver::start(writer.clone(), fuse.clone());
        Ok(Self { writer, reader, receiver, fuse })
    }

    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Whether a transaction can be made durable right now, which is what a webhook needs.
    /// Only a commit touches the disk, so this commits a page that says what it said before.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::raw_sql(this_version()).execute(&mut *tx.inner).await?;
        tx.inner.commit().await?;
        Ok(())
    }

    /// Says that the outside has noticed something, which is a moment to be killed in.
    pub async fn moment(&self) {
        self.fuse.burn().await;
    }

    /// How many moments there have been.
    pub fn moments(&self) -> u64 {
        self.fuse.moments()
    }

    /// Returns once the fuse is out: the process of this store is dead.
    pub async fn burnt_out(&self) {
        self.fuse.burnt_out().await;
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        self.fuse.gate().await;
        let inner = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx { inner, fuse: self.fuse.clone() })
    }
}

/// A write. Dropped without [`Tx::commit`], it never happened.
struct Tx {
    inner: Transaction<'static, Sqlite>,
    fuse: Arc<Fuse>,
}

impl Tx {
    async fn commit(self) -> Result<(), StoreError> {
        self.inner.commit().await?;
        self.fuse.burn().await;
        Ok(())
    }
}

/// Brings an empty or older database to this version in one transaction, so that a
/// server killed in the middle finds it as it was.
async fn migrate(pool: &SqlitePool, path: &str) -> Result<(), StoreError> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query("PRAGMA user_version").fetch_one(&mut *tx).await?.try_get(0)?;
    let missing = usize::try_from(found).ok().and_then(|found| SCHEMAS.get(found..));
    let missing = missing.ok_or_else(|| StoreError::Newer { path: path.to_owned(), found })?;
    if missing.is_empty() {
        return Ok(());
    }
    for schema in missing {
        sqlx::raw_sql(*schema).execute(&mut *tx).await?;
    }
    sqlx::raw_sql(this_version()).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

fn this_version() -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("PRAGMA user_version = {SCHEMA}"))
}

/// SQLite's own words when the file is not, or no longer, a sound database.
fn damage(error: &sqlx::Error) -> Option<String> {
    const CORRUPT: &str = "11";
    const NOT_A_DATABASE: &str = "26";
    let database = error.as_database_error()?;
    let code = database.code()?;
    let primary = code.parse::<u32>().ok().map(|code| (code & 0xff).to_string());
    [CORRUPT, NOT_A_DATABASE]
        .contains(&primary.as_deref().unwrap_or_default())
        .then(|| database.message().to_owned())
}

/// Reads a column that holds a word or id of the vocabulary.
fn word<T: std::str::FromStr>(row: &sqlx::sqlite::SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|_| StoreError::Unreadable { what: column, value: text })
}

fn word_or_none<T: std::str::FromStr>(
    row: &sqlx::sqlite::SqliteRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| text.parse().map_err(|_| StoreError::Unreadable { what: column, value: text }))
        .transpose()
}

fn json<T: serde::de::DeserializeOwned>(
    row: &sqlx::sqlite::SqliteRow,
    column: &'static str,
) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|_| StoreError::Unreadable { what: column, value: text })
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the vocabulary has no maps with keys that JSON cannot hold")
}
