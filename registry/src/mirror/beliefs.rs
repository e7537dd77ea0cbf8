//! What is believed of upstream, tag by tag, and for how long.
//!
//! Only one request at a time asks upstream about a reference; those that come meanwhile wait, and
//! find what it learned. Beliefs are kept in memory: after a restart each tag is compared anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mergeyard_types::ImageName;
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::Freshness;
use crate::route::Reference;

#[derive(Debug, Clone, Copy)]
pub(super) struct Belief {
    pub(super) freshness: Freshness,
    pub(super) until: Instant,
}

type Cell = Arc<tokio::sync::Mutex<Option<Belief>>>;

#[derive(Default)]
pub(super) struct Beliefs(Mutex<HashMap<String, Cell>>);

impl Beliefs {
    /// Waits for the right to ask upstream about a reference.
    pub(super) async fn turn(&self, name: &ImageName, reference: &Reference) -> Turn<'_> {
        let key = format!("{name}{reference}");
        let cell = self.lock().entry(key.clone()).or_default().clone();
        let waiting = cell.clone().lock_owned();
        let mut turn = Turn { beliefs: self, key, cell, belief: None };
        turn.belief = Some(waiting.await);
        turn
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Cell>> {
        // Each holder does one operation on the map, so a panic cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to ask. A reference of which nothing is believed in the end is forgotten, so that names
/// that lead nowhere cost no memory; also when whoever waited here goes away.
pub(super) struct Turn<'a> {
    beliefs: &'a Beliefs,
    key: String,
    cell: Cell,
    belief: Option<OwnedMutexGuard<Option<Belief>>>,
}

impl Turn<'_> {
    /// What holds now, if upstream need not be asked.
    pub(super) fn believed(&self) -> Option<Freshness> {
        let belief = (**self.belief.as_ref()?)?;
        (belief.until > Instant::now()).then_some(belief.freshness)
    }

    pub(super) fn believe(&mut self, belief: Option<Belief>) {
        if let Some(kept) = &mut self.belief {
            **kept = belief;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut map = self.beliefs.lock();
        self.belief = None;
        // The map's and this one: nobody waits.
        let alone = Arc::strong_count(&self.cell) == 2;
        if alone && self.cell.try_lock().is_ok_and(|belief| belief.is_none()) {
            map.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_leads_nowhere_is_forgotten_and_what_is_believed_is_not() {
        let (beliefs, name) = (Beliefs::default(), "hub/clock".parse().unwrap());
        let reference = Reference::Tag("1".parse().unwrap());
        let first = beliefs.turn(&name, &reference).await;
        let waiting = tokio::time::timeout(Duration::from_millis(1), beliefs.turn(&name, &reference));
        assert!(waiting.await.is_err());
        assert_eq!(beliefs.lock().len(), 1);
        drop(first);
        assert_eq!(beliefs.lock().len(), 0);

        let mut turn = beliefs.turn(&name, &reference).await;
        let until = Instant::now() + Duration::from_secs(3600);
        turn.believe(Some(Belief { freshness: Freshness::Fresh, until }));
        drop(turn);
        assert_eq!(beliefs.turn(&name, &reference).await.believed(), Some(Freshness::Fresh));
        assert_eq!(beliefs.lock().len(), 1);
    }
}
