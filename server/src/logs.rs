//! The logs of steps: files outside the database, one a step, appended line by line.
//!
//! | path under `data_dir`           | what                                                |
//! | ------------------------------- | --------------------------------------------------- |
//! | `logs/<run / 1000>/<run>/<step>.log` | one line a line: `<ms since 1970> <stream> <text>` |
//!
//! A byte offset in that file is a place in the log for ever, which is what lets a browser
//! that lost its connection go on where it was.

use std::{
    collections::HashMap,
    io::{self, SeekFrom},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use mergeyard_run::log::{LogLine, Stream};
use mergeyard_types::{RunId, StepId, Timestamp};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    sync::{mpsc, watch},
};

/// Lines that are written with one call when they arrive faster than the disk takes them.
const BATCH: usize = 1024;

/// A longer line is cut, so that a reader finds a whole line in every piece it reads.
const LONGEST_LINE: usize = 32 * 1024;

#[derive(Clone)]
pub struct Logs {
    root: PathBuf,
    live: Arc<Mutex<HashMap<StepId, watch::Sender<()>>>>,
}

/// A piece of a log, whole lines only.
#[derive(Debug, Default)]
pub struct Piece {
    /// Each line with the offset behind it.
    pub lines: Vec<(u64, LogLine)>,
    /// Where the next piece begins.
    pub next: u64,
}

impl Logs {
    pub fn new(root: PathBuf) -> Self {
        Self { root, live: Arc::default() }
    }

    /// Persists what a step says until the last sender is gone.
    pub async fn write(
        &self,
        run: RunId,
        step: StepId,
        mut lines: mpsc::Receiver<LogLine>,
    ) -> io::Result<()> {
        let path = self.path(run, step);
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).await?;
        end_torn_line(&mut file).await?;
        let live = Live::begin(self, step);
        let mut batch = Vec::new();
        let mut bytes = Vec::new();
        while lines.recv_many(&mut batch, BATCH).await > 0 {
            bytes.clear();
            for line in batch.drain(..) {
                frame(&mut bytes, &line);
            }
            file.write_all(&bytes).await?;
            file.flush().await?;
            live.tell();
        }
        Ok(())
    }

    /// At most about `limit` bytes of whole lines from offset `from`. A log that was never
    /// written is empty.
    pub async fn read(&self, run: RunId, step: StepId, from: u64, limit: usize) -> io::Result<Piece> {
        let mut file = match File::open(self.path(run, step)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Piece { lines: vec![], next: from });
            }
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(from)).await?;
        let mut bytes = Vec::with_capacity(limit.min(64 * 1024));
        file.take(limit as u64).read_to_end(&mut bytes).await?;
        let mut piece = Piece { lines: Vec::new(), next: from };
        for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            piece.next += line.len() as u64;
            if let Some(line) = unframe(line) {
                piece.lines.push((piece.next, line));
            }
        }
        Ok(piece)
    }

    /// How long the log is by now, in bytes.
    pub async fn size(&self, run: RunId, step: StepId) -> io::Result<u64> {
        match tokio::fs::metadata(self.path(run, step)).await {
            Ok(file) => Ok(file.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Wakes whenever the step's log grows; ends when nobody writes it any more. `None`
    /// when nobody writes it now.
    pub fn follow(&self, step: StepId) -> Option<watch::Receiver<()>> {
        self.live.lock().expect("no holder of this lock panics").get(&step).map(watch::Sender::subscribe)
    }

    fn path(&self, run: RunId, step: StepId) -> PathBuf {
        self.root.join((run.0 / 1000).to_string()).join(run.to_string()).join(format!("{step}.log"))
    }
}

/// Marks a log as being written for as long as it is.
struct Live<'a> {
    logs: &'a Logs,
    step: StepId,
}

impl<'a> Live<'a> {
    fn begin(logs: &'a Logs, step: StepId) -> Self {
        let mut live = logs.live.lock().expect("no holder of this lock panics");
        live.insert(step, watch::Sender::new(()));
        Self { logs, step }
    }

    fn tell(&self) {
        let live = self.logs.live.lock().expect("no holder of this lock panics");
        if let Some(sender) = live.get(&self.step) {
            sender.send_replace(());
        }
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.logs.live.lock().expect("no holder of this lock panics").remove(&self.step);
    }
}

/// A server that was killed may have left half a line behind.
async fn end_torn_line(file: &mut File) -> io::Result<()> {
    let size = file.seek(SeekFrom::End(0)).await?;
    if size > 0 {
        file.seek(SeekFrom::End(-1)).await?;
        if file.read_u8().await? != b'\n' {
            file.write_all(b"\n").await?;
        }
    }
    Ok(())
}

fn frame(bytes: &mut Vec<u8>, line: &LogLine) {
    let stream = match line.stream {
        Stream::Stdout => 'o',
        Stream::Stderr => 'e',
        Stream::Note => 'n',
    };
    bytes.extend_from_slice(format!("{} {stream} ", line.at.0).as_bytes());
    let text = &line.text[..line.text.floor_char_boundary(LONGEST_LINE)];
    bytes.extend(text.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
    if text.len() < line.text.len() {
        bytes.extend_from_slice("…".as_bytes());
    }
    bytes.push(b'\n');
}

fn unframe(line: &[u8]) -> Option<LogLine> {
    let line = String::from_utf8_lossy(line);
    let (at, rest) = line.trim_end_matches('\n').split_once(' ')?;
    let (stream, text) = rest.split_once(' ')?;
    let stream = match stream {
        "o" => Stream::Stdout,
        "e" => Stream::Stderr,
        _ => Stream::Note,
    };
    Some(LogLine { at: Timestamp(at.parse().ok()?), stream, text: text.to_owned() })
}
