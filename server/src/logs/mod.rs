//! The logs of steps: files outside the database, compressed in chunks while they grow.
//!
//! | path under `data_dir`                | what                                                |
//! | ------------------------------------ | --------------------------------------------------- |
//! | `logs/<run / 1000>/<run>/<step>.log` | the newest lines as text, see [`line`]              |
//! | `logs/<run / 1000>/<run>/<step>.zst` | the lines before them in sealed chunks, see [`chunk`] |
//!
//! The name of a place in a log is the number of the line before it: lines are numbered from 1,
//! nothing that was kept is ever renumbered, and so "after line N" is what a browser that lost
//! its connection resumes from, what a link names and what a chunk's header is found by.
//!
//! A step appends to the `.log`. When that has grown to a chunk it is compressed to the end of
//! the `.zst` and then emptied, in this order: a server killed in between finds the same lines
//! in both and lets go of the text. What a kill tore at either file's end is dropped when the
//! log is opened, because half a line is nothing anybody said; the engine, asked again, has the
//! whole of it. Both writes are the kernel's before anybody is told of them, so they outlive the
//! process; nothing waits for the disk, and after a power cut the last seconds may be missing.
//!
//! Logs of before chunks were sealed are one `.log` of any length. The first who looks at one
//! brings it into this form.

mod chunk;
mod file;
mod line;
mod search;

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use mergeyard_run::log::LogLine;
use mergeyard_types::{RunId, StepId};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use file::{Content, Log, Stamp, Writer};
pub use search::{Found, Needle, Way};

/// Lines that are written with one call when they arrive faster than the disk takes them.
const BATCH: usize = 1024;

/// Lines that trickle are written together this often: each write wakes everybody who looks on.
const GATHER: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub struct Logs {
    root: PathBuf,
    live: Arc<Mutex<HashMap<StepId, Live>>>,
    recent: Arc<Recent>,
    /// Held while files are brought into their form, so that two readers do not do it at once.
    opening: Arc<Mutex<()>>,
}

/// A log that is being written.
#[derive(Clone)]
struct Live {
    log: Arc<RwLock<Log>>,
    grew: watch::Sender<()>,
}

/// Some lines of a log, one after another.
#[derive(Debug, Default)]
pub struct Piece {
    /// Each with its number.
    pub lines: Vec<(u64, LogLine)>,
    /// The number of the last of them, after which the next piece begins.
    pub next: u64,
    /// How many lines the log had when this was read.
    pub total: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub lines: u64,
    /// Of the text, before compression.
    pub bytes: u64,
}

impl Logs {
    pub fn new(root: PathBuf) -> Self {
        Self { root, live: Arc::default(), recent: Arc::default(), opening: Arc::default() }
    }

    /// Keeps what one attempt of a step says until the last sender is gone. Waits for an earlier
    /// writer of the same log to let go of it.
    pub async fn write(
        &self,
        run: RunId,
        step: StepId,
        attempt: u32,
        mut lines: mpsc::Receiver<LogLine>,
    ) -> io::Result<()> {
        let (base, opening) = (self.base(run, step), self.opening.clone());
        let mut writer = blocking(move || Writer::open(&base, attempt, &opening)).await?;
        let live = Writing::begin(self, step, writer.log());
        let mut batch = Vec::new();
        let mut written = Instant::now();
        while gather(&mut lines, &mut batch, written + GATHER).await {
            (writer, batch) = blocking(move || {
                writer.append(&batch)?;
                batch.clear();
                Ok((writer, batch))
            })
            .await?;
            written = Instant::now();
            live.live.grew.send_replace(());
        }
        blocking(move || writer.close()).await
    }

    /// The lines after line `after`, about `limit` bytes of them and one at least. A log that was
    /// never written is empty.
    pub async fn read(&self, run: RunId, step: StepId, after: u64, limit: usize) -> io::Result<Piece> {
        let (content, size) =
            self.look(run, step, move |log| (log.content(after, limit), log.size())).await?;
        let lines = match content {
            Content::None => Vec::new(),
            Content::Text { text, before } => line::lines(&text, before, after, limit),
            Content::Chunk(chunk) => {
                let path = file::sealed(&self.base(run, step));
                blocking(move || Ok(line::lines(&chunk.read(&path)?, chunk.before, after, limit))).await?
            }
        };
        let next = lines.last().map_or(after, |(number, _)| *number);
        Ok(Piece { lines, next, total: size.lines })
    }

    /// The line with this number.
    pub async fn line(&self, run: RunId, step: StepId, number: u64) -> io::Result<Option<LogLine>> {
        let Some(before) = number.checked_sub(1) else { return Ok(None) };
        let piece = self.read(run, step, before, 1).await?;
        Ok(piece.lines.into_iter().next().map(|(_, line)| line))
    }

    pub async fn size(&self, run: RunId, step: StepId) -> io::Result<Size> {
        self.look(run, step, Log::size).await
    }

    /// How many lines of the step's program, rather than of mergeyard about it, are kept of its
    /// last attempt, when that is `attempt`. Nobody reads on where another attempt has followed.
    pub async fn kept_lines(&self, run: RunId, step: StepId, attempt: u32) -> io::Result<u64> {
        let path = file::sealed(&self.base(run, step));
        let end = self.look(run, step, Log::end).await?;
        let state = match end {
            file::End::Known(state) => state,
            file::End::In(chunk) => blocking(move || chunk.state(&path)).await?,
        };
        Ok(if state.attempt == attempt { state.said } else { 0 })
    }

    /// Lines with `needle` in them, as they are shown, from `from` on: behind it or, backwards,
    /// before it. Holds one chunk at a time, and stops with a place to go on from when it has
    /// looked at a lot.
    pub async fn search(
        &self,
        run: RunId,
        step: StepId,
        needle: &Needle,
        (from, way): (u64, Way),
        limit: usize,
    ) -> io::Result<Found> {
        let path = file::sealed(&self.base(run, step));
        let mut found = Found::default();
        let mut place = from;
        while !found.is_enough(limit) {
            let content = self.look(run, step, move |log| log.near(place, way)).await?;
            let (text, before) = match content {
                Content::None => return Ok(found),
                Content::Text { text, before } => (text, before),
                Content::Chunk(chunk) => {
                    let path = path.clone();
                    (blocking(move || chunk.read(&path)).await?, chunk.before)
                }
            };
            let needle = needle.clone();
            (found, place) = blocking(move || {
                let place = found.look(&needle, &text, before, (place, way), limit);
                Ok((found, place))
            })
            .await?;
        }
        found.next = Some(place);
        Ok(found)
    }

    /// Wakes whenever the step's log grows; ends when nobody writes it any more. `None`
    /// when nobody writes it now.
    pub fn follow(&self, step: StepId) -> Option<watch::Receiver<()>> {
        Some(self.live(step)?.grew.subscribe())
    }

    /// Asks the log as it is now: in memory while it is written, and otherwise its files.
    async fn look<T: Send + 'static>(
        &self,
        run: RunId,
        step: StepId,
        ask: impl FnOnce(&Log) -> T + Send + 'static,
    ) -> io::Result<T> {
        if let Some(live) = self.live(step) {
            return Ok(ask(&live.log.read().unwrap_or_else(PoisonError::into_inner)));
        }
        let (base, opening, recent) = (self.base(run, step), self.opening.clone(), self.recent.clone());
        blocking(move || Ok(ask(&*recent.log(&base, &opening)?))).await
    }

    fn live(&self, step: StepId) -> Option<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).get(&step).cloned()
    }

    /// The path of both files without what tells them apart.
    fn base(&self, run: RunId, step: StepId) -> PathBuf {
        self.root.join((run.0 / 1000).to_string()).join(run.to_string()).join(step.to_string())
    }
}

/// Logs that were looked at a moment ago: who reads one from its beginning to its end asks for
/// its index a thousand times.
#[derive(Default)]
struct Recent(Mutex<VecDeque<(PathBuf, Stamp, Arc<Log>)>>);

impl Recent {
    /// Each has at most some text and an entry for each chunk, a few hundred kilobytes.
    const MOST: usize = 16;

    fn log(&self, base: &Path, opening: &Mutex<()>) -> io::Result<Arc<Log>> {
        let stamp = Stamp::of(base)?;
        let known = |logs: &VecDeque<(PathBuf, Stamp, Arc<Log>)>| {
            let log = logs.iter().find(|(path, then, _)| path == base && *then == stamp)?;
            Some(log.2.clone())
        };
        if let Some(log) = known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(log);
        }
        let log = Arc::new(Log::load(base, opening)?);
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.retain(|(path, ..)| path != base);
        logs.push_back((base.to_owned(), stamp, log.clone()));
        if logs.len() > Self::MOST {
            logs.pop_front();
        }
        Ok(log)
    }
}

/// Marks a log as being written for as long as it is.
struct Writing<'a> {
    logs: &'a Logs,
    step: StepId,
    live: Live,
}

impl<'a> Writing<'a> {
    fn begin(logs: &'a Logs, step: StepId, log: Arc<RwLock<Log>>) -> Self {
        let live = Live { log, grew: watch::Sender::new(()) };
        logs.live.lock().unwrap_or_else(PoisonError::into_inner).insert(step, live.clone());
        Self { logs, step, live }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut live = self.logs.live.lock().unwrap_or_else(PoisonError::into_inner);
        // A writer that was given up may end after the next one began.
        if live.get(&self.step).is_some_and(|now| Arc::ptr_eq(&now.log, &self.live.log)) {
            live.remove(&self.step);
        }
    }
}

/// Waits for something to be said, then until `due` for more. False when nothing follows.
async fn gather(lines: &mut mpsc::Receiver<LogLine>, batch: &mut Vec<LogLine>, due: Instant) -> bool {
    let mut came = lines.recv_many(batch, BATCH).await;
    while came > 0 && batch.len() < BATCH {
        came = timeout_at(due, lines.recv_many(batch, BATCH - batch.len())).await.unwrap_or(0);
    }
    !batch.is_empty()
}

/// Files and compression may block, so they have a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
