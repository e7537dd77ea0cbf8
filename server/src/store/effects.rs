//! Effects: written with the state they announce, performed by the outbox.

use mergeyard_plan::effect::Effect;
use mergeyard_types::{EffectId, Timestamp};
use sqlx::Row;

use super::{Store, StoreError, Tx, json, to_json};

#[derive(Debug, Clone)]
pub struct Pending {
    pub id: EffectId,
    pub effect: Effect,
    pub attempts: u32,
    pub created: Timestamp,
}

/// What a person sees of an effect.
#[derive(Debug, Clone)]
pub struct EffectRow {
    pub id: EffectId,
    pub effect: Effect,
    pub state: String,
    pub attempts: u32,
    pub error: Option<String>,
}

impl Store {
    /// The oldest effect that is due and first in its lane.
    pub async fn next_effect(&self, now: Timestamp) -> Result<Option<Pending>, StoreError> {
        let row = sqlx::query(
            "SELECT * FROM effects e WHERE state = 'pending' AND not_before <= ? AND NOT EXISTS \
             (SELECT 1 FROM effects o WHERE o.state = 'pending' AND o.lane = e.lane AND o.id < e.id) \
             ORDER BY id LIMIT 1",
        )
        .bind(now.0)
        .fetch_optional(&self.reader)
        .await?;
        row.map(|row| {
            Ok(Pending {
                id: EffectId(row.try_get("id")?),
                effect: json(&row, "payload")?,
                attempts: row.try_get("attempts")?,
                created: Timestamp(row.try_get("created")?),
            })
        })
        .transpose()
    }

    pub async fn effect_done(&self, id: EffectId, now: Timestamp) -> Result<(), StoreError> {
        self.end_effect(id, "done", None, now).await
    }

    /// Given up, visibly.
    pub async fn effect_dead(&self, id: EffectId, error: &str, now: Timestamp) -> Result<(), StoreError> {
        self.end_effect(id, "dead", Some(error), now).await
    }

    /// Nobody to tell.
    pub async fn effect_skipped(&self, id: EffectId, why: &str, now: Timestamp) -> Result<(), StoreError> {
        self.end_effect(id, "skipped", Some(why), now).await
    }

    async fn end_effect(
        &self,
        id: EffectId,
        state: &'static str,
        error: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(
            "UPDATE effects SET state = ?, error = ?, attempts = attempts + 1, finished = ? WHERE id = ?",
        )
        .bind(state)
        .bind(error)
        .bind(now.0)
        .bind(id.0)
        .execute(&mut *tx.inner)
        .await?;
        tx.commit().await
    }

    pub async fn effect_later(
        &self,
        id: EffectId,
        error: &str,
        not_before: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE effects SET error = ?, attempts = attempts + 1, not_before = ? WHERE id = ?")
            .bind(error)
            .bind(not_before.0)
            .bind(id.0)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await
    }

    /// Holds everything back until then, because the receiver asked for it.
    pub async fn pause_effects(&self, until: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query("UPDATE effects SET not_before = ? WHERE state = 'pending' AND not_before < ?")
            .bind(until.0)
            .bind(until.0)
            .execute(&mut *tx.inner)
            .await?;
        tx.commit().await
    }

    /// The effects of a run, oldest first.
    pub async fn effects_of(&self, run: mergeyard_types::RunId) -> Result<Vec<EffectRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM effects WHERE (key >= ? AND key < ?) OR (key >= ? AND key < ?) ORDER BY id",
        )
        .bind(format!("status/{run}/"))
        .bind(format!("status/{run}0"))
        .bind(format!("deployment/{run}/"))
        .bind(format!("deployment/{run}0"))
        .fetch_all(&self.reader)
        .await?;
        rows.iter().map(effect_row).collect()
    }

    /// Those that were given up, newest first: what waits for a person.
    pub async fn dead_effects(&self, limit: u32) -> Result<Vec<EffectRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM effects WHERE state = 'dead' ORDER BY id DESC LIMIT ?")
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(effect_row).collect()
    }

    /// Everything that still waits or was given up: what a test, and an operator, looks for.
    pub async fn unsent_effects(&self) -> Result<Vec<EffectRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM effects WHERE state = 'pending' UNION ALL SELECT * FROM effects WHERE state = 'dead' ORDER BY id LIMIT 200")
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(effect_row).collect()
    }
}

fn effect_row(row: &sqlx::sqlite::SqliteRow) -> Result<EffectRow, StoreError> {
    Ok(EffectRow {
        id: EffectId(row.try_get("id")?),
        effect: json(row, "payload")?,
        state: row.try_get("state")?,
        attempts: row.try_get("attempts")?,
        error: row.try_get("error")?,
    })
}

impl Tx {
    pub(super) async fn add_effects(&mut self, effects: &[Effect], now: Timestamp) -> Result<(), StoreError> {
        for effect in effects {
            sqlx::query(
                "INSERT INTO effects (key, lane, payload, state, not_before, created) \
                 VALUES (?, ?, ?, 'pending', ?, ?) ON CONFLICT (key) DO NOTHING",
            )
            .bind(effect.key())
            .bind(effect.lane())
            .bind(to_json(effect))
            .bind(now.0)
            .bind(now.0)
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(())
    }
}
