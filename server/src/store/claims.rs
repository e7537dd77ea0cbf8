//! Which step is worked on next, and what the others wait for.

use mergeyard_plan::{
    action::target_serial,
    run::{Report, WAITS_FOR_A_PLACE},
};
use mergeyard_types::{RunId, StepId, TargetName, Timestamp};
use sqlx::Row;

use super::{Job, Store, StoreError, to_json};

/// A target that takes no deployments until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    pub target: TargetName,
    pub until: Timestamp,
}

/// Whether anything of a workflow was started.
macro_rules! begun {
    ($workflow:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM steps b WHERE b.run = ",
            $workflow,
            ".run AND b.workflow = ",
            $workflow,
            ".id AND b.started IS NOT NULL)"
        )
    };
}

/// The workflows `o` that have a place in the group of `w`, or come before it for one.
macro_rules! others {
    () => {
        concat!(
            "workflows o WHERE o.concurrency = w.concurrency AND o.state IN ('queued', 'running', 'blocked') AND o.id <> w.id AND (",
            begun!("o"),
            " OR EXISTS (SELECT 1 FROM steps p WHERE p.run = o.run AND p.workflow = o.id AND p.ready = 1 \
             AND p.not_before <= ?1 AND (p.merged, o.id) < (s.merged, w.id)))"
        )
    };
}

macro_rules! has_place {
    () => {
        concat!("(SELECT count(*) FROM ", others!(), ") < max(1, w.rules ->> '$.concurrency.limit')")
    };
}

/// The steps `o` whose turn comes before that of `s`.
macro_rules! before {
    () => {
        "steps o WHERE o.serial = s.serial AND o.state IN ('queued', 'running') AND o.id <> s.id \
         AND (o.state = 'running' OR (o.merged, o.id) < (s.merged, s.id))"
    };
}

/// Whether the target of `s` takes nothing now. What puts back what was live before is let through.
macro_rules! frozen {
    () => {
        "(coalesce(s.serial IN (SELECT value FROM json_each(?3)), 0) \
         AND (SELECT r.rollback_of IS NULL FROM runs r WHERE r.id = s.run))"
    };
}

/// Steps that can be started now.
macro_rules! next {
    () => {
        concat!(
            "SELECT s.id, s.run FROM steps s JOIN workflows w ON w.id = s.workflow WHERE s.ready = 1 AND s.not_before <= ?1 \
             AND NOT ",
            frozen!(),
            " AND NOT EXISTS (SELECT 1 FROM ",
            before!(),
            ") AND (w.concurrency IS NULL OR ",
            begun!("w"),
            " OR ",
            has_place!(),
            ")"
        )
    };
}

impl Store {
    /// Leases the next step that is ready: none older waits or runs under the same serial key, and
    /// its workflow has a place in its concurrency group. Targets in `frozen` take nothing.
    pub async fn claim_step(&self, now: Timestamp, frozen: &[Frozen]) -> Result<Option<Job>, StoreError> {
        const NEXT: &str = concat!(
            next!(),
            " AND NOT coalesce(s.rules ->> '$.detached', 0) ORDER BY s.not_before, s.id LIMIT 1"
        );
        let claimed = self.claim(NEXT, now, 0, &serials(frozen)).await?;
        if claimed.is_none() {
            self.explain_waiting(now, frozen).await?;
        }
        Ok(claimed)
    }

    /// Leases the next detached step that is ready, for a workflow that has one running or while
    /// fewer than `most` others have.
    pub async fn claim_detached(&self, now: Timestamp, most: u32) -> Result<Option<Job>, StoreError> {
        const NEXT: &str = concat!(
            next!(),
            " AND s.rules ->> '$.detached' AND (SELECT count(DISTINCT d.workflow) FROM steps d \
             JOIN workflows v ON v.id = d.workflow WHERE d.state = 'running' AND d.rules ->> '$.detached' \
             AND d.workflow <> s.workflow AND v.state <> 'blocked') < ?2 ORDER BY s.not_before, s.id LIMIT 1"
        );
        self.claim(NEXT, now, most, &serials(&[])).await
    }

    async fn claim(
        &self,
        next: &'static str,
        now: Timestamp,
        most: u32,
        frozen: &str,
    ) -> Result<Option<Job>, StoreError> {
        // Looking costs no write lock; only a find is looked at again under it.
        let query = || sqlx::query(next).bind(now.0).bind(most).bind(frozen);
        if query().fetch_optional(&self.reader).await?.is_none() {
            return Ok(None);
        }
        let mut tx = self.begin().await?;
        let Some(row) = query().fetch_optional(&mut *tx.inner).await? else {
            return Ok(None);
        };
        let (step, run) = (StepId(row.try_get("id")?), RunId(row.try_get("run")?));
        tx.apply(run, Report::Started { step }, now).await?;
        sqlx::query("UPDATE steps SET fence = fence + 1, beat = 0 WHERE id = ?")
            .bind(step.0)
            .execute(&mut *tx.inner)
            .await?;
        let job = tx.job(step).await?;
        tx.commit().await?;
        Ok(Some(job))
    }

    /// What could start and is held back by others says by whom. Written only when it changed.
    async fn explain_waiting(&self, now: Timestamp, frozen: &[Frozen]) -> Result<(), StoreError> {
        const GROUPS: &str = concat!(
            "SELECT DISTINCT w.id, w.why, w.rules ->> '$.concurrency.group' AS grp, (SELECT group_concat(DISTINCT o.run) FROM ",
            others!(),
            ") AS runs FROM steps s JOIN workflows w ON w.id = s.workflow WHERE s.ready = 1 AND s.not_before <= ?1 \
             AND w.concurrency IS NOT NULL AND NOT ",
            begun!("w"),
            " AND NOT ",
            has_place!()
        );
        const SERIAL: &str = concat!(
            "SELECT s.id, s.why, s.serial, o.run FROM steps s JOIN steps o ON o.id = (SELECT o.id FROM ",
            before!(),
            " ORDER BY o.state = 'running' DESC, o.merged, o.id LIMIT 1) \
             WHERE s.ready = 1 AND s.not_before <= ?1 AND s.started IS NULL"
        );
        const FROZEN: &str = concat!(
            "SELECT s.id, s.why, s.serial FROM steps s WHERE s.ready = 1 AND s.not_before <= ?1 AND s.started IS NULL AND ",
            frozen!(),
            " AND NOT EXISTS (SELECT 1 FROM ",
            before!(),
            ")"
        );
        let mut news = Vec::new();
        for row in sqlx::query(GROUPS).bind(now.0).fetch_all(&self.reader).await? {
            let (group, runs): (String, Option<String>) = (row.try_get("grp")?, row.try_get("runs")?);
            let why = format!(
                "{WAITS_FOR_A_PLACE} `{group}`, behind run {}",
                runs.unwrap_or_default().replace(',', ", ")
            );
            news.push(("UPDATE workflows SET why = ? WHERE id = ? AND state = 'queued'", row, why));
        }
        for row in sqlx::query(SERIAL).bind(now.0).fetch_all(&self.reader).await? {
            let (serial, run): (String, i64) = (row.try_get("serial")?, row.try_get("run")?);
            let why = format!("waits for run {run}, whose turn at `{serial}` comes first");
            news.push(("UPDATE steps SET why = ? WHERE id = ? AND ready = 1", row, why));
        }
        for Frozen { target, until } in frozen {
            let one = to_json(&[target_serial(target)]);
            for row in sqlx::query(FROZEN).bind(now.0).bind(0).bind(&one).fetch_all(&self.reader).await? {
                let why = format!("waits for the end of a freeze of target `{target}`, {}", said(*until));
                news.push(("UPDATE steps SET why = ? WHERE id = ? AND ready = 1", row, why));
            }
        }
        news.retain(|(_, row, why)| {
            row.try_get::<Option<String>, _>("why").ok().flatten().as_ref() != Some(why)
        });
        if news.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        for (update, row, why) in news {
            let id: i64 = row.try_get("id")?;
            sqlx::query(update).bind(why).bind(id).execute(&mut *tx.inner).await?;
        }
        tx.commit().await
    }
}

/// The serial keys of deployments to these targets, as JSON.
fn serials(frozen: &[Frozen]) -> String {
    to_json(&frozen.iter().map(|Frozen { target, .. }| target_serial(target)).collect::<Vec<_>>())
}

/// `until 2030-01-07 07:00 UTC`.
fn said(until: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(until.0) {
        Ok(time) => time.strftime("until %Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => "which has no end".to_owned(),
    }
}
