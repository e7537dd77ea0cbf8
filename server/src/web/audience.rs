//! The viewers of a log that is being written: what all of them see is read and rendered once.
//!
//! Viewers come to the end of a log together and stay there, so each new piece is asked for by all
//! of them at the same moment. The first renders it, the others take it as it is. Pieces never
//! overlap: one that would reach past the beginning of another ends there, so that viewers who
//! came at different times fall into step.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use axum::response::sse::Event;
use mergeyard_types::StepId;

use super::log::StepLog;
use crate::logs::Piece;

/// Pieces that are kept of a log, for viewers that are a moment late. Each is a
/// [`super::log::PIECE`] of text at the most.
const KEPT: usize = 8;

/// Who is farther than this from the end reads by themselves, so that nobody at the end waits for them.
const NEAR: u64 = 2000;

/// A piece of a log, ready to be told.
pub(super) struct Told {
    after: u64,
    pub(super) next: u64,
    /// Whether nothing followed when it was read.
    pub(super) is_end: bool,
    pub(super) event: Event,
}

type Pieces = tokio::sync::Mutex<VecDeque<Arc<Told>>>;

/// All logs that somebody looks at while they grow.
#[derive(Clone, Default)]
pub(super) struct Audiences(Arc<Mutex<HashMap<StepId, Weak<Pieces>>>>);

/// The viewers of one log; its pieces go with the last of them.
#[derive(Clone)]
pub(super) struct Audience(Arc<Pieces>);

impl Audiences {
    pub(super) fn of(&self, step: StepId) -> Audience {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = all.get(&step).and_then(Weak::upgrade) {
            return Audience(there);
        }
        all.retain(|_, pieces| pieces.strong_count() > 0);
        let pieces = Arc::default();
        all.insert(step, Arc::downgrade(&pieces));
        Audience(pieces)
    }
}

impl Audience {
    /// What follows line `after`, which `render` makes an event of.
    pub(super) async fn piece(
        &self,
        log: &StepLog,
        after: u64,
        render: impl Fn(&Piece) -> Event,
    ) -> io::Result<Arc<Told>> {
        let far = log.size().await?.lines.saturating_sub(after) > NEAR;
        if far {
            return Ok(Arc::new(Told::of(after, &log.piece(after).await?, render)));
        }
        let mut pieces = self.0.lock().await;
        if let Some(known) = pieces.iter().find(|piece| piece.after == after) {
            return Ok(known.clone());
        }
        let mut piece = log.piece(after).await?;
        let begun =
            pieces.iter().map(|other| other.after).filter(|begin| (after + 1..piece.next).contains(begin));
        if let Some(begin) = begun.min() {
            piece.lines.retain(|(number, _)| *number <= begin);
            piece.next = begin;
        }
        let told = Arc::new(Told::of(after, &piece, render));
        if told.next > after {
            pieces.push_back(told.clone());
            if pieces.len() > KEPT {
                pieces.pop_front();
            }
        }
        Ok(told)
    }
}

impl Told {
    fn of(after: u64, piece: &Piece, render: impl Fn(&Piece) -> Event) -> Self {
        Self { after, next: piece.next, is_end: piece.next == piece.total, event: render(piece) }
    }
}
