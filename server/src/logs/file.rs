//! One log: its two files, and the same in memory while it is written.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use mergeyard_run::log::LogLine;

use super::{
    chunk::{CHUNK, Chunk},
    line::{self, State},
    search::Way,
};

/// Less text than this is not sealed when its step ends: a file system gives it a block or
/// two either way, and most steps say less.
const WORTH_SEALING: usize = 16 * 1024;

/// A longer `.log` is of before chunks were sealed.
const LONGEST_TEXT: u64 = 8 * CHUNK as u64;

/// What there is of a log: sealed chunks, then text.
#[derive(Debug, Default)]
pub(super) struct Log {
    chunks: Vec<Chunk>,
    /// Whole lines.
    text: Vec<u8>,
    lines_of_text: u64,
}

/// The sizes of both files, from which one sees that nothing was added: the text only ever gets
/// shorter when the chunks get longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    text: u64,
    sealed: u64,
}

impl Stamp {
    pub(super) fn of(base: &Path) -> io::Result<Self> {
        Ok(Self { text: size_of(&text_file(base))?, sealed: size_of(&sealed(base))? })
    }
}

/// Where lines are to be had.
pub(super) enum Content {
    None,
    Chunk(Chunk),
    Text { text: Vec<u8>, before: u64 },
}

/// Where the state behind the last line is known from.
pub(super) enum End {
    Known(State),
    In(Chunk),
}

impl Log {
    /// The log as its files have it. A log without files is empty.
    pub(super) fn load(base: &Path, opening: &Mutex<()>) -> io::Result<Self> {
        if size_of(&text_file(base))? > LONGEST_TEXT {
            convert(base, opening)?;
        }
        // The text first: what is sealed between the two looks is then seen twice rather than
        // not at all.
        let text = read(&text_file(base))?;
        let chunks = match File::open(sealed(base)) {
            Ok(mut file) => Chunk::index(&mut file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self::of(chunks, text))
    }

    fn of(chunks: Vec<Chunk>, mut text: Vec<u8>) -> Self {
        text.truncate(line::untorn(&text).len());
        let before = chunks.last().map_or(0, Chunk::last);
        // It was sealed, and the kill came before it was emptied.
        if State::read_mark(&text).unwrap_or_default().lines < before {
            text.clear();
        }
        let lines_of_text = line::numbered(&text, 0).count() as u64;
        Self { chunks, text, lines_of_text }
    }

    pub(super) fn size(&self) -> super::Size {
        let sealed: u64 = self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        super::Size { lines: self.lines(), bytes: sealed + self.text.len() as u64 }
    }

    pub(super) fn end(&self) -> End {
        match self.chunks.last() {
            Some(chunk) if self.text.is_empty() => End::In(*chunk),
            _ => End::Known(State::behind(&self.text)),
        }
    }

    /// Where the lines behind line `after` are; of text, about the `limit` bytes that are asked for.
    pub(super) fn content(&self, after: u64, limit: usize) -> Content {
        if after >= self.sealed_lines() {
            return self.text_after(after, limit);
        }
        let at = self.chunks.partition_point(|chunk| chunk.last() <= after);
        self.chunks.get(at).map_or(Content::None, |chunk| Content::Chunk(*chunk))
    }

    /// What a search that has come to `place` looks at next.
    pub(super) fn near(&self, place: u64, way: Way) -> Content {
        let sealed = self.sealed_lines();
        match way {
            Way::Forward => self.content(place, usize::MAX),
            Way::Backward => match place.min(self.lines() + 1).checked_sub(2) {
                Some(after) if after < sealed => self.content(after, usize::MAX),
                Some(_) => Content::Text { text: self.text.clone(), before: sealed },
                None => Content::None,
            },
        }
    }

    fn text_after(&self, after: u64, limit: usize) -> Content {
        let Some((begin, first)) = line::behind(&self.text, self.sealed_lines(), after) else {
            return Content::None;
        };
        // A line more than was asked for, as one is given in any case.
        let end = begin.saturating_add(limit).saturating_add(first.len()).min(self.text.len());
        Content::Text { text: self.text[begin..end].to_vec(), before: after }
    }

    fn lines(&self) -> u64 {
        self.sealed_lines() + self.lines_of_text
    }

    fn sealed_lines(&self) -> u64 {
        self.chunks.last().map_or(0, Chunk::last)
    }
}

/// Who appends to a log; there is one at a time.
pub(super) struct Writer {
    log: Arc<RwLock<Log>>,
    state: State,
    /// Locked, so that whoever was given up is waited for.
    text: File,
    base: PathBuf,
    sealed: Option<File>,
    framed: Vec<u8>,
}

impl Writer {
    pub(super) fn open(base: &Path, attempt: u32, opening: &Mutex<()>) -> io::Result<Self> {
        if let Some(folder) = base.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = OpenOptions::new().create(true).append(true).open(text_file(base))?;
        text.lock()?;
        let mut log = Log::load(base, opening)?;
        // A chunk that a power cut left without its content is as good as none.
        let mut state = State::default();
        while let End::In(chunk) = log.end() {
            match chunk.state(&sealed(base)) {
                Ok(found) => {
                    state = found;
                    break;
                }
                Err(_) => drop(log.chunks.pop()),
            }
        }
        if let End::Known(known) = log.end() {
            state = State { lines: log.lines(), ..known };
        }
        let mut writer = Self {
            log: Arc::default(),
            state,
            text,
            base: base.to_owned(),
            sealed: None,
            framed: Vec::new(),
        };
        writer.text.set_len(log.text.len() as u64)?;
        let end = log.chunks.last().map_or(0, Chunk::end);
        if size_of(&sealed(base))? > end {
            writer.sealed()?.set_len(end)?;
        }
        writer.log = Arc::new(RwLock::new(log));
        if writer.state.attempt != attempt {
            writer.state = State { attempt, said: 0, ..writer.state };
            writer.state.write_mark(&mut writer.framed);
            writer.put(0)?;
        }
        Ok(writer)
    }

    pub(super) fn log(&self) -> Arc<RwLock<Log>> {
        self.log.clone()
    }

    pub(super) fn append(&mut self, lines: &[LogLine]) -> io::Result<()> {
        let mut count = 0;
        for line in lines {
            if self.framed.is_empty() && self.is_empty() {
                self.state.write_mark(&mut self.framed);
            }
            line::frame(&mut self.framed, line);
            self.state.pass(line.stream);
            count += 1;
            if self.framed.len() >= CHUNK / 2 {
                self.put(count)?;
                count = 0;
            }
        }
        self.put(count)
    }

    pub(super) fn close(mut self) -> io::Result<()> {
        if self.log.read().unwrap_or_else(PoisonError::into_inner).text.len() >= WORTH_SEALING {
            self.seal()?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.log.read().unwrap_or_else(PoisonError::into_inner).text.is_empty()
    }

    /// Writes what is framed, `count` lines.
    fn put(&mut self, count: u64) -> io::Result<()> {
        self.text.write_all(&self.framed)?;
        let length = {
            let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
            log.text.extend_from_slice(&self.framed);
            log.lines_of_text += count;
            log.text.len()
        };
        self.framed.clear();
        if length >= CHUNK { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> io::Result<()> {
        let (bytes, chunk) = {
            let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
            if log.lines_of_text == 0 {
                return Ok(());
            }
            let lines = u32::try_from(log.lines_of_text).map_err(io::Error::other)?;
            let at = log.chunks.last().map_or(0, Chunk::end);
            Chunk::seal(&log.text, log.sealed_lines(), lines, at)?
        };
        self.sealed()?.write_all(&bytes)?;
        self.text.set_len(0)?;
        let mut log = self.log.write().unwrap_or_else(PoisonError::into_inner);
        log.chunks.push(chunk);
        log.text.clear();
        log.lines_of_text = 0;
        Ok(())
    }

    fn sealed(&mut self) -> io::Result<&mut File> {
        if self.sealed.is_none() {
            self.sealed = Some(OpenOptions::new().create(true).append(true).open(sealed(&self.base))?);
        }
        self.sealed.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Seals a text of any length. The chunks get their name when they are complete, and the text
/// goes after that.
fn convert(base: &Path, opening: &Mutex<()>) -> io::Result<()> {
    let _alone = opening.lock().unwrap_or_else(PoisonError::into_inner);
    let size = size_of(&text_file(base))?;
    if size <= LONGEST_TEXT {
        return Ok(());
    }
    if size_of(&sealed(base))? == 0 {
        seal_all(base)?;
    }
    OpenOptions::new().write(true).open(text_file(base))?.set_len(0)
}

fn seal_all(base: &Path) -> io::Result<()> {
    let unfinished = base.with_extension("zst-unfinished");
    let mut out = File::create(&unfinished)?;
    let mut source = BufReader::new(File::open(text_file(base))?);
    let (mut text, mut state, mut at) = (Vec::new(), State::default(), 0);
    loop {
        if text.is_empty() {
            state.write_mark(&mut text);
        }
        let read = source.by_ref().take(CHUNK as u64).read_until(b'\n', &mut text)?;
        if read == 0 {
            text.truncate(line::untorn(&text).len());
        }
        if read == 0 || text.len() >= CHUNK && text.ends_with(b"\n") {
            let behind = State::behind(&text);
            let lines = u32::try_from(behind.lines - state.lines).map_err(io::Error::other)?;
            if lines > 0 {
                let (bytes, chunk) = Chunk::seal(&text, state.lines, lines, at)?;
                out.write_all(&bytes)?;
                at = chunk.end();
            }
            state = behind;
            text.clear();
        }
        if read == 0 {
            break;
        }
    }
    out.sync_all()?;
    std::fs::rename(unfinished, sealed(base))
}

fn text_file(base: &Path) -> PathBuf {
    base.with_extension("log")
}

pub(super) fn sealed(base: &Path) -> PathBuf {
    base.with_extension("zst")
}

fn size_of(path: &Path) -> io::Result<u64> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(file.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}
