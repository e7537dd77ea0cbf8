//! Deliveries: accepted once, kept, decided.

use std::{collections::HashSet, sync::Arc};

use mergeyard_plan::{change::Identity, effect::Effect, event::Repository};
use mergeyard_types::{DeliveryId, RepoName, RunId, Timestamp};
use sqlx::{QueryBuilder, Row, Sqlite, SqlitePool, sqlite::SqliteRow};
use tokio::sync::{mpsc, oneshot};

use super::{Fuse, Store, StoreError, Tx, to_json, word, word_or_none};

/// Deliveries that share one commit at the most. Past this the statement grows faster
/// than the saving.
const BATCH: usize = 256;

/// Deliveries that may wait for the disk; more than this is answered with 503, so that a
/// stalled disk cannot fill the memory.
const WAITING: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Github,
    Git,
    /// Asked for here: by a schedule, the command line or the API.
    Mergeyard,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Github => "github",
            Source::Git => "git",
            Source::Mergeyard => "mergeyard",
        }
    }
}

impl std::str::FromStr for Source {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Source::Github, Source::Git, Source::Mergeyard]
            .into_iter()
            .find(|source| source.as_str() == text)
            .ok_or(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    Queued,
    /// Decided: it started a run, or joined one.
    Done,
    /// Decided: nothing to do.
    Ignored,
    /// Could not be decided, however often it was tried.
    Dead,
}

impl DeliveryState {
    pub const ALL: [DeliveryState; 4] =
        [DeliveryState::Queued, DeliveryState::Done, DeliveryState::Ignored, DeliveryState::Dead];

    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Queued => "queued",
            DeliveryState::Done => "done",
            DeliveryState::Ignored => "ignored",
            DeliveryState::Dead => "dead",
        }
    }
}

impl std::str::FromStr for DeliveryState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        DeliveryState::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// A delivery on its way into the database.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub source: Source,
    pub event: String,
    pub content_type: String,
    pub repo: Option<RepoName>,
    /// Compressed with zstd.
    pub body: Vec<u8>,
    pub body_size: usize,
    pub received: Timestamp,
    /// The reason when it is clear at once that nothing is to be done.
    pub ignored: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// Durable, and new.
    Accepted,
    /// Durable since an earlier delivery with the same id.
    Duplicate,
}

/// A delivery taken up to be decided.
#[derive(Debug)]
pub struct Claimed {
    pub id: DeliveryId,
    pub source: Source,
    pub event: String,
    pub content_type: String,
    pub repo: Option<RepoName>,
    pub body: Vec<u8>,
    pub received: Timestamp,
    /// This attempt's number, from 1.
    pub attempt: u32,
    pub replays: u32,
}

/// How a delivery's decision ended.
#[derive(Debug, Clone)]
pub enum Verdict {
    Ignored(String),
    Retry { why: String, not_before: Timestamp },
    Dead(String),
}

/// What a person sees of a delivery.
#[derive(Debug, Clone)]
pub struct DeliveryRow {
    pub row: i64,
    pub id: DeliveryId,
    pub source: Source,
    pub event: String,
    pub repo: Option<String>,
    pub body_size: u64,
    pub received: Timestamp,
    pub state: DeliveryState,
    pub verdict: Option<String>,
    pub attempts: u32,
    pub replays: u32,
    pub run: Option<RunId>,
}

pub struct Received {
    delivery: Delivery,
    answer: oneshot::Sender<Result<Receipt, StoreError>>,
}

/// Collects what arrives while the disk is busy and makes it durable together.
#[derive(Clone)]
pub(super) struct Receiver(mpsc::Sender<Received>);

impl Receiver {
    pub(super) fn start(writer: SqlitePool, fuse: Arc<Fuse>) -> Self {
        let (sender, mut incoming) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while incoming.recv_many(&mut batch, BATCH).await > 0 {
                fuse.gate().await;
                let stored = insert(&writer, &batch).await;
                if stored.is_ok() {
                    fuse.burn().await;
                }
                answer(&mut batch, stored);
            }
        });
        Self(sender)
    }
}

async fn insert(writer: &SqlitePool, batch: &[Received]) -> Result<HashSet<String>, StoreError> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    let deliveries = batch.iter().map(|received| &received.delivery);
    let new = insertion(deliveries).build().persistent(false).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(new.iter().map(|row| row.get(0)).collect())
}

/// The statement that makes deliveries rows, and hands out the ids that are new.
fn insertion<'d>(deliveries: impl Iterator<Item = &'d Delivery>) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new(
        "INSERT INTO deliveries (guid, source, event, content_type, repo, lane, body, body_size, received, \
         state, verdict, not_before) ",
    );
    sql.push_values(deliveries, |mut row, delivery| {
        let state = if delivery.ignored.is_some() { DeliveryState::Ignored } else { DeliveryState::Queued };
        row.push_bind(delivery.id.as_str())
            .push_bind(delivery.source.as_str())
            .push_bind(&delivery.event)
            .push_bind(&delivery.content_type)
            .push_bind(delivery.repo.as_ref().map(RepoName::as_str))
            .push_bind(delivery.repo.as_ref().map_or(delivery.id.as_str(), RepoName::as_str))
            .push_bind(&delivery.body)
            .push_bind(delivery.body_size as i64)
            .push_bind(delivery.received.0)
            .push_bind(state.as_str())
            .push_bind(&delivery.ignored)
            .push_bind(delivery.received.0);
    });
    sql.push(" ON CONFLICT (guid) DO NOTHING RETURNING guid");
    sql
}

fn answer(batch: &mut Vec<Received>, stored: Result<HashSet<String>, StoreError>) {
    let mut stored = stored.map_err(|error| error.to_string());
    for Received { delivery, answer } in batch.drain(..) {
        let receipt = match &mut stored {
            // The first of several with one id was the one that was stored.
            Ok(new) => {
                let first = new.remove(delivery.id.as_str());
                Ok(if first { Receipt::Accepted } else { Receipt::Duplicate })
            }
            Err(why) => Err(StoreError::Unavailable(sqlx::Error::Protocol(why.clone()))),
        };
        // Whoever hung up while waiting asks again with the same id.
        let _ = answer.send(receipt);
    }
}

impl Tx {
    /// Adds a delivery that this server makes itself. One that is there already stays as it is.
    pub(super) async fn insert_delivery(&mut self, delivery: &Delivery) -> Result<(), StoreError> {
        insertion(std::iter::once(delivery)).build().persistent(false).fetch_all(&mut *self.inner).await?;
        Ok(())
    }
}

impl Store {
    /// Makes a delivery durable. Only after this returns may the sender be told so.
    pub async fn receive(&self, delivery: Delivery) -> Result<Receipt, StoreError> {
        let (answer, receipt) = oneshot::channel();
        let full = |_| StoreError::Unavailable(sqlx::Error::PoolTimedOut);
        self.receiver.0.try_send(Received { delivery, answer }).map_err(full)?;
        receipt.await.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolClosed)))
    }

    /// The next delivery that is due, as its row and its lane, passing over lanes that are
    /// `busy`. It jumps from lane to lane, so a repository with very many deliveries costs the
    /// others no more than one with a single one.
    pub async fn next_delivery(
        &self,
        now: Timestamp,
        busy: &[String],
    ) -> Result<Option<(i64, String)>, StoreError> {
        let row = sqlx::query(
            "WITH RECURSIVE lanes(lane) AS ( \
               SELECT * FROM (SELECT lane FROM deliveries WHERE state = 'queued' ORDER BY lane LIMIT 1) \
               UNION ALL \
               SELECT (SELECT d.lane FROM deliveries d WHERE d.state = 'queued' AND d.lane > lanes.lane \
                       ORDER BY d.lane LIMIT 1) FROM lanes WHERE lanes.lane IS NOT NULL \
             ) \
             SELECT d.id, d.lane FROM lanes JOIN deliveries d ON d.id = ( \
               SELECT first.id FROM deliveries first WHERE first.state = 'queued' AND first.lane = lanes.lane \
               AND first.not_before <= ? ORDER BY first.not_before, first.id LIMIT 1 \
             ) WHERE lanes.lane NOT IN (SELECT value FROM json_each(?)) ORDER BY d.not_before, d.id LIMIT 1",
        )
        .bind(now.0)
        .bind(to_json(&busy))
        .fetch_optional(&self.reader)
        .await?;
        Ok(row.map(|row| Ok::<_, sqlx::Error>((row.try_get("id")?, row.try_get("lane")?))).transpose()?)
    }

    /// Takes up a delivery to be decided, for who holds its key. `None` when it was decided
    /// since it was looked at.
    pub async fn claim_delivery(&self, row: i64) -> Result<Option<Claimed>, StoreError> {
        let mut tx = self.begin().await?;
        let row = sqlx::query(
            "UPDATE deliveries SET attempts = attempts + 1 WHERE id = ? AND state = 'queued' \
             RETURNING guid, source, event, content_type, repo, body, received, attempts, replays",
        )
        .bind(row)
        .fetch_optional(&mut *tx.inner)
        .await?;
        tx.commit().await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Claimed {
            id: word(&row, "guid")?,
            source: word(&row, "source")?,
            event: row.try_get("event")?,
            content_type: row.try_get("content_type")?,
            repo: word_or_none(&row, "repo")?,
            body: row.try_get::<Option<Vec<u8>>, _>("body")?.unwrap_or_default(),
            received: Timestamp(row.try_get("received")?),
            attempt: row.try_get("attempts")?,
            replays: row.try_get("replays")?,
        }))
    }

    pub async fn identity(&self, repository: &Repository) -> Result<Identity, StoreError> {
        let Some(id) = repository.id else { return Ok(Identity::default()) };
        let rows = sqlx::query("SELECT forge_id, name FROM repositories WHERE forge_id = ? OR name = ?")
            .bind(id)
            .bind(repository.name.as_str())
            .fetch_all(&self.reader)
            .await?;
        let mut identity = Identity::default();
        for row in rows {
            let known: i64 = row.try_get("forge_id")?;
            let name: RepoName = word(&row, "name")?;
            if name.as_str().eq_ignore_ascii_case(repository.name.as_str()) {
                identity.id_of_name = Some(known);
            }
            if known == id {
                identity.name_of_id = Some(name);
            }
        }
        Ok(identity)
    }

    /// Every repository whose events were accepted, by the name it had then.
    pub async fn repositories(&self) -> Result<Vec<RepoName>, StoreError> {
        let rows =
            sqlx::query("SELECT name FROM repositories ORDER BY forge_id").fetch_all(&self.reader).await?;
        rows.iter().map(|row| word(row, "name")).collect()
    }

    /// Ends, or postpones, a delivery that starts no run.
    pub async fn settle_delivery(
        &self,
        id: &DeliveryId,
        verdict: Verdict,
        tell: &[Effect],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (state, why, not_before) = match verdict {
            Verdict::Ignored(why) => (DeliveryState::Ignored, why, now),
            Verdict::Retry { why, not_before } => (DeliveryState::Queued, why, not_before),
            Verdict::Dead(why) => (DeliveryState::Dead, why, now),
        };
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE deliveries SET state = ?, verdict = ?, not_before = ? WHERE guid = ?")
            .bind(state.as_str())
            .bind(why)
            .bind(not_before.0)
            .bind(id.as_str())
            .execute(&mut *tx.inner)
            .await?;
        tx.add_effects(tell, now).await?;
        tx.commit().await
    }

    /// Queues a delivery again as if it had just arrived. `false` when there is none, or
    /// its body is past the retention time.
    pub async fn replay(&self, id: &DeliveryId, now: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let changed = sqlx::query(
            "UPDATE deliveries SET state = 'queued', verdict = NULL, attempts = 0, replays = replays + 1, \
             not_before = ?, run = NULL WHERE guid = ? AND body IS NOT NULL",
        )
        .bind(now.0)
        .bind(id.as_str())
        .execute(&mut *tx.inner)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(changed > 0)
    }

    /// Newest first, from before row `before`.
    pub async fn deliveries(&self, before: Option<i64>, limit: u32) -> Result<Vec<DeliveryRow>, StoreError> {
        sqlx::query("SELECT * FROM deliveries WHERE id < ? ORDER BY id DESC LIMIT ?")
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(delivery_row)
            .collect()
    }

    pub async fn delivery(&self, id: &DeliveryId) -> Result<Option<DeliveryRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM deliveries WHERE guid = ?")
            .bind(id.as_str())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(delivery_row).transpose()
    }

    /// Those that could not be decided, newest first: what waits for a person.
    pub async fn dead_deliveries(&self, limit: u32) -> Result<Vec<DeliveryRow>, StoreError> {
        sqlx::query("SELECT * FROM deliveries WHERE state = 'dead' ORDER BY id DESC LIMIT ?")
            .bind(limit)
            .fetch_all(&self.reader)
            .await?
            .iter()
            .map(delivery_row)
            .collect()
    }

    /// The stored body, still compressed.
    pub async fn delivery_body(&self, id: &DeliveryId) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT body FROM deliveries WHERE guid = ?")
            .bind(id.as_str())
            .fetch_optional(&self.reader)
            .await?;
        Ok(row.map(|row| row.try_get::<Option<Vec<u8>>, _>(0)).transpose()?.flatten())
    }

    /// Which of these ids are durable here.
    pub async fn known_deliveries(&self, ids: &[DeliveryId]) -> Result<HashSet<String>, StoreError> {
        let mut known = HashSet::new();
        for chunk in ids.chunks(500) {
            let mut sql = QueryBuilder::new("SELECT guid FROM deliveries WHERE guid IN (");
            let mut list = sql.separated(", ");
            for id in chunk {
                list.push_bind(id.as_str());
            }
            list.push_unseparated(")");
            let rows = sql.build().persistent(false).fetch_all(&self.reader).await?;
            known.extend(rows.iter().map(|row| row.get::<String, _>(0)));
        }
        Ok(known)
    }

    /// Lets go of bodies received before `before`, a bounded number at a time.
    pub async fn drop_bodies(&self, before: Timestamp) -> Result<u64, StoreError> {
        let due = sqlx::query(
            "SELECT 1 FROM deliveries WHERE received < ? AND body IS NOT NULL AND state <> 'queued' LIMIT 1",
        )
        .bind(before.0)
        .fetch_optional(&self.reader)
        .await?;
        if due.is_none() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let dropped = sqlx::query(
            "UPDATE deliveries SET body = NULL WHERE id IN (SELECT id FROM deliveries \
             WHERE received < ? AND body IS NOT NULL AND state <> 'queued' ORDER BY received LIMIT 1000)",
        )
        .bind(before.0)
        .execute(&mut *tx.inner)
        .await?
        .rows_affected();
        tx.commit().await?;
        Ok(dropped)
    }
}

impl Tx {
    /// Remembers which id a name belongs to, once an event of it was accepted.
    pub(super) async fn remember(&mut self, repository: &Repository) -> Result<(), StoreError> {
        if let Some(id) = repository.id {
            sqlx::query("INSERT INTO repositories (forge_id, name) VALUES (?, ?) ON CONFLICT DO NOTHING")
                .bind(id)
                .bind(repository.name.as_str())
                .execute(&mut *self.inner)
                .await?;
        }
        Ok(())
    }
}

fn delivery_row(row: &SqliteRow) -> Result<DeliveryRow, StoreError> {
    Ok(DeliveryRow {
        row: row.try_get("id")?,
        id: word(row, "guid")?,
        source: word(row, "source")?,
        event: row.try_get("event")?,
        repo: row.try_get("repo")?,
        body_size: row.try_get::<i64, _>("body_size")? as u64,
        received: Timestamp(row.try_get("received")?),
        state: word(row, "state")?,
        verdict: row.try_get("verdict")?,
        attempts: row.try_get("attempts")?,
        replays: row.try_get("replays")?,
        run: row.try_get::<Option<i64>, _>("run")?.map(RunId),
    })
}
