//! A step's log, read in pieces: nobody ever holds all of it.

use std::io;

use mergeyard_run::log::{LogLine, Stream};
use mergeyard_types::{RunId, StepId, Timestamp};

use super::{
    inert::{self, Span},
    when,
};
use crate::logs::{Logs, Piece};

/// What is read of a log at once; with [`super::MOST_STREAMS`] it bounds the memory of
/// all viewers together.
const PIECE: usize = 64 * 1024;

/// What a page shows of a log: its end, where the news is.
const TAIL_LINES: usize = 2000;

/// What is read for a page at the most, so that a step which writes faster than it is read
/// cannot keep its page from being finished.
const MOST_PIECES: usize = 16;

/// One step's log.
#[derive(Clone)]
pub(super) struct StepLog {
    pub(super) logs: Logs,
    pub(super) run: RunId,
    pub(super) step: StepId,
}

/// A part of a log on a page.
pub(super) struct Excerpt {
    pub(super) lines: Vec<Shown>,
    /// Whether lines were left out before, and behind.
    pub(super) earlier: bool,
    pub(super) later: bool,
    /// Where the log goes on.
    pub(super) next: u64,
}

/// A line on a page.
pub(super) struct Shown {
    /// The offset behind the line: its name for ever.
    pub(super) end: u64,
    pub(super) exact: String,
    /// Since the step began.
    pub(super) elapsed: String,
    pub(super) kind: &'static str,
    pub(super) spans: Vec<Span>,
}

impl StepLog {
    /// The next whole lines from `from`; none at the end.
    pub(super) async fn piece(&self, from: u64) -> io::Result<Piece> {
        self.logs.read(self.run, self.step, from, PIECE).await
    }

    /// The last lines, from about `bytes` before the end.
    pub(super) async fn tail(&self, bytes: u64, started: Timestamp) -> io::Result<Excerpt> {
        let start = self.logs.size(self.run, self.step).await?.saturating_sub(bytes);
        let mut part = self.part(start, MOST_PIECES).await?;
        let surplus = part.lines.len().saturating_sub(TAIL_LINES);
        part.lines.drain(..surplus);
        self.excerpt(part, start > 0 || surplus > 0, started).await
    }

    /// The lines around the one that ends at `at`.
    pub(super) async fn around(&self, at: u64, started: Timestamp) -> io::Result<Excerpt> {
        let start = at.min(i64::MAX as u64).saturating_sub(PIECE as u64 / 2);
        let mut part = self.part(start, 1).await?;
        let place = part.lines.partition_point(|(end, _)| *end < at);
        let surplus = place.saturating_sub(TAIL_LINES / 2);
        part.lines.drain(..surplus);
        part.lines.truncate(TAIL_LINES);
        part.next = part.lines.last().map_or(part.next, |(end, _)| *end);
        self.excerpt(part, start > 0 || surplus > 0, started).await
    }

    /// Some pieces in one.
    async fn part(&self, start: u64, pieces: usize) -> io::Result<Piece> {
        let mut part = Piece { lines: Vec::new(), next: start };
        for _ in 0..pieces {
            let piece = self.piece(part.next).await?;
            if piece.next == part.next {
                break;
            }
            part.next = piece.next;
            part.lines.extend(piece.lines);
        }
        // An offset in the middle cuts a line, and half a line is not shown.
        if start > 0 && !part.lines.is_empty() {
            part.lines.remove(0);
        }
        Ok(part)
    }

    async fn excerpt(&self, part: Piece, earlier: bool, started: Timestamp) -> io::Result<Excerpt> {
        let later = self.logs.size(self.run, self.step).await? > part.next;
        let lines = part.lines.into_iter().map(|(end, line)| Shown::new(end, line, started)).collect();
        Ok(Excerpt { lines, earlier, later, next: part.next })
    }
}

impl Shown {
    fn new(end: u64, line: LogLine, started: Timestamp) -> Self {
        Self {
            end,
            exact: when::exact(line.at),
            elapsed: when::duration(line.at.since(started)),
            kind: kind(&line),
            spans: inert::log_line(&line.text),
        }
    }
}

/// The class of a line.
pub(super) fn kind(line: &LogLine) -> &'static str {
    match line.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Note if line.text.starts_with("== ") => "note section",
        Stream::Note => "note",
    }
}
