//! What a step says while it works.
//!
//! Bytes come in as the engine happens to cut them; lines go out, each whole, masked and
//! stamped, through a bounded channel to whoever keeps them. A slow keeper slows the step
//! down rather than filling memory, and a step that never stops talking is cut with a
//! visible marker instead of filling the disk.

mod mask;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mergeyard_types::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};

use mask::MaskedStream;
pub use mask::{MIN_SECRET_BYTES, Masker};

/// A longer line is split here: it protects pages and memory from output without newlines.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// What one step may say in all unless configured otherwise.
pub const DEFAULT_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// Lines waiting for their keeper before the step has to wait too.
const LINES_IN_FLIGHT: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    /// Said by mergeyard itself, not by the step's program.
    Note,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Timestamp,
    pub stream: Stream,
    pub text: String,
}

/// The speaking end of a step's log. Cheap to clone; all clones share one cap and one masker.
#[derive(Clone)]
pub struct LogSink {
    inner: Arc<Inner>,
}

struct Inner {
    lines: mpsc::Sender<LogLine>,
    masker: Masker,
    max_bytes: u64,
    bytes: AtomicU64,
    cut: AtomicBool,
    /// Program lines that are kept already and come once more.
    again: AtomicU64,
    stdout: Mutex<Framer>,
    stderr: Mutex<Framer>,
}

impl LogSink {
    pub fn channel(masker: Masker, max_bytes: u64) -> (LogSink, mpsc::Receiver<LogLine>) {
        let (lines, receiver) = mpsc::channel(LINES_IN_FLIGHT);
        let inner = Inner {
            stdout: Mutex::new(Framer::new(&masker, "")),
            stderr: Mutex::new(Framer::new(&masker, "")),
            lines,
            masker,
            max_bytes,
            bytes: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            again: AtomicU64::new(0),
        };
        (LogSink { inner: Arc::new(inner) }, receiver)
    }

    /// `text` with every secret this log knows masked, for the messages that leave by other ways.
    pub fn mask(&self, text: &str) -> String {
        self.inner.masker.mask(text)
    }

    /// The next `lines` lines of the program are kept already: its output comes again from the
    /// beginning. They count towards the cap as they did the first time.
    pub fn skip(&self, lines: u64) {
        self.inner.again.store(lines, Ordering::Relaxed);
    }

    /// One or more lines in mergeyard's own voice.
    pub async fn note(&self, text: &str) {
        for line in self.mask(text).lines() {
            self.send(Timestamp::now(), Stream::Note, line.to_owned()).await;
        }
    }

    /// Announces a phase; finishing it says how long it took.
    pub async fn section(&self, name: impl Into<String>) -> Section {
        let name = name.into();
        self.note(&format!("== {name}")).await;
        Section { log: self.clone(), name, started: Instant::now() }
    }

    /// Output of a program, cut anywhere. A trailing piece without a newline, or one that
    /// might be the beginning of a secret, waits for the next call or for [`LogSink::flush`].
    pub async fn raw(&self, stream: Stream, bytes: &[u8]) {
        self.raw_at(Timestamp::now(), stream, bytes).await;
    }

    /// As [`LogSink::raw`], for output whose time is known.
    pub async fn raw_at(&self, at: Timestamp, stream: Stream, bytes: &[u8]) {
        let framer = match stream {
            Stream::Stdout => &self.inner.stdout,
            Stream::Stderr => &self.inner.stderr,
            Stream::Note => return self.note(&String::from_utf8_lossy(bytes)).await,
        };
        let mut framer = framer.lock().await;
        let lines = framer.push(bytes);
        self.send_raw(at, stream, lines).await;
    }

    /// Sends what [`LogSink::raw`] still holds back.
    pub async fn flush(&self) {
        for (stream, framer) in [(Stream::Stdout, &self.inner.stdout), (Stream::Stderr, &self.inner.stderr)] {
            let lines = framer.lock().await.finish();
            self.send_raw(Timestamp::now(), stream, lines).await;
        }
    }

    /// A stream of its own inside this log, each of its lines beginning with `prefix`, for
    /// output of several programs at once.
    pub fn writer(&self, stream: Stream, prefix: impl Into<String>) -> LogWriter {
        LogWriter { framer: Framer::new(&self.inner.masker, &prefix.into()), log: self.clone(), stream }
    }

    async fn send_raw(&self, at: Timestamp, stream: Stream, lines: Vec<String>) {
        for text in lines {
            let size = text.len() as u64 + 1;
            let fits = self.inner.bytes.fetch_add(size, Ordering::Relaxed) + size <= self.inner.max_bytes;
            // It counted for the cap then, and counts for it again.
            if self.is_kept_already() {
                continue;
            }
            if fits {
                self.send(at, stream, text).await;
            } else if !self.inner.cut.swap(true, Ordering::Relaxed) {
                let mib = self.inner.max_bytes as f64 / (1024.0 * 1024.0);
                self.note(&format!("-- log cut here: it is longer than {mib} MiB, the rest is not kept"))
                    .await;
            }
        }
    }

    fn is_kept_already(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        self.inner.again.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    async fn send(&self, at: Timestamp, stream: Stream, text: String) {
        // A keeper that is gone has given the step up; there is nobody left to tell.
        let _ = self.inner.lines.send(LogLine { at, stream, text }).await;
    }
}

/// One program's output inside a shared log, from [`LogSink::writer`].
pub struct LogWriter {
    log: LogSink,
    stream: Stream,
    framer: Framer,
}

impl LogWriter {
    pub async fn write(&mut self, bytes: &[u8]) {
        let lines = self.framer.push(bytes);
        self.log.send_raw(Timestamp::now(), self.stream, lines).await;
    }

    pub async fn finish(mut self) {
        let lines = self.framer.finish();
        self.log.send_raw(Timestamp::now(), self.stream, lines).await;
    }
}

/// A phase of a step, from [`LogSink::section`].
#[must_use = "a section says its time when it is finished"]
pub struct Section {
    log: LogSink,
    name: String,
    started: Instant,
}

impl Section {
    pub async fn finish(self) -> Duration {
        self.log.flush().await;
        let took = self.started.elapsed();
        self.log.note(&format!("== {} done in {}", self.name, seconds(took))).await;
        took
    }
}

/// `0.034s`, `1.2s`, `75s`: as precise as a person needs.
pub(crate) fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    match s {
        s if s < 1.0 => format!("{s:.3}s"),
        s if s < 60.0 => format!("{s:.1}s"),
        s => format!("{s:.0}s"),
    }
}

/// Masks a byte stream and cuts it into lines.
struct Framer {
    masked: MaskedStream,
    prefix: String,
    line: Vec<u8>,
}

impl Framer {
    fn new(masker: &Masker, prefix: &str) -> Self {
        Self { masked: masker.stream(), prefix: prefix.to_owned(), line: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let clean = self.masked.push(bytes);
        self.frame(&clean)
    }

    fn finish(&mut self) -> Vec<String> {
        let clean = self.masked.finish();
        let mut lines = self.frame(&clean);
        if !self.line.is_empty() {
            lines.push(self.take_line());
        }
        lines
    }

    fn frame(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(&bytes[..end], &mut lines);
            lines.push(self.take_line());
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut lines);
        lines
    }

    fn extend(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        self.line.extend_from_slice(bytes);
        while self.line.len() > MAX_LINE_BYTES {
            let rest = self.line.split_off(character_border(&self.line, MAX_LINE_BYTES));
            lines.push(self.take_line());
            self.line = rest;
        }
    }

    fn take_line(&mut self) -> String {
        let line = std::mem::take(&mut self.line);
        format!("{}{}", self.prefix, String::from_utf8_lossy(&line))
    }
}

/// The last place at or before `at` that does not split a UTF-8 character.
fn character_border(bytes: &[u8], at: usize) -> usize {
    let continues = |i: usize| bytes[i] & 0b1100_0000 == 0b1000_0000;
    (at.saturating_sub(3)..=at).rev().find(|i| !continues(*i)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(lines: mpsc::Receiver<LogLine>) -> Vec<(Stream, String)> {
        tokio_stream::StreamExt::collect::<Vec<_>>(tokio_stream::wrappers::ReceiverStream::new(lines))
            .await
            .into_iter()
            .map(|l| (l.stream, l.text))
            .collect()
    }

    #[tokio::test]
    async fn lines_are_whole_wherever_the_chunks_were_cut() {
        let (log, lines) = LogSink::channel(Masker::default(), DEFAULT_LOG_BYTES);
        for chunk in ["one\ntw", "o\n\nthr", "ee"] {
            log.raw(Stream::Stdout, chunk.as_bytes()).await;
        }
        log.raw(Stream::Stderr, b"\xff\xfe\n").await;
        log.flush().await;
        drop(log);
        let out = |t: &str| (Stream::Stdout, t.to_owned());
        let broken = (Stream::Stderr, "\u{fffd}\u{fffd}".to_owned());
        assert_eq!(all(lines).await, [out("one"), out("two"), out(""), broken, out("three")]);
    }

    #[tokio::test]
    async fn an_endless_line_is_split_between_characters() {
        let (log, lines) = LogSink::channel(Masker::default(), DEFAULT_LOG_BYTES);
        let text = format!("x{}", "é".repeat(MAX_LINE_BYTES));
        log.raw(Stream::Stdout, text.as_bytes()).await;
        log.flush().await;
        drop(log);
        let pieces = all(lines).await;
        assert!(pieces.iter().all(|(_, t)| t.len() <= MAX_LINE_BYTES && !t.contains('\u{fffd}')));
        assert_eq!(pieces.into_iter().map(|(_, t)| t).collect::<String>(), text);
    }

    #[tokio::test]
    async fn a_log_over_its_cap_is_cut_once_and_says_so() {
        let (log, lines) = LogSink::channel(Masker::default(), 20);
        for _ in 0..10 {
            log.raw(Stream::Stdout, b"123456789\n").await;
        }
        log.note("still heard").await;
        drop(log);
        let lines = all(lines).await;
        assert_eq!(lines.iter().filter(|(s, _)| *s == Stream::Stdout).count(), 2);
        assert_eq!(lines.iter().filter(|(_, t)| t.contains("log cut here")).count(), 1);
        assert_eq!(lines.last().unwrap().1, "still heard");
    }

    #[tokio::test]
    async fn output_that_comes_again_is_told_from_where_it_was_kept() {
        let (log, lines) = LogSink::channel(Masker::default(), DEFAULT_LOG_BYTES);
        log.skip(3);
        log.note("found again").await;
        for (stream, chunk) in [(Stream::Stdout, "a\nb"), (Stream::Stderr, "x\n"), (Stream::Stdout, "\nc\n")]
        {
            log.raw_at(Timestamp(7), stream, chunk.as_bytes()).await;
        }
        drop(log);
        let told = [(Stream::Note, "found again"), (Stream::Stdout, "c")];
        assert_eq!(all(lines).await, told.map(|(stream, text)| (stream, text.to_owned())));
    }

    #[tokio::test]
    async fn a_section_says_its_time_after_everything_in_it() {
        let (log, lines) = LogSink::channel(Masker::default(), DEFAULT_LOG_BYTES);
        let section = log.section("push").await;
        log.raw(Stream::Stdout, b"no newline").await;
        section.finish().await;
        drop(log);
        let lines = all(lines).await;
        assert_eq!(lines[0].1, "== push");
        assert_eq!(lines[1].1, "no newline");
        assert!(lines[2].1.starts_with("== push done in 0."), "{}", lines[2].1);
    }
}
