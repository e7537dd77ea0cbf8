//! How a line is written down.
//!
//! `<ms since 1970> <stream> <text>`, the stream a letter. Between lines stand marks,
//! `# <lines before> <attempt> <of them the attempt's program's>`, which no reader counts or
//! sees: each piece of a log begins with one, and so says where it belongs and how much of
//! a program's output is kept, without anything that stands before it.

use mergeyard_run::log::{LogLine, Stream};
use mergeyard_types::Timestamp;

/// A longer line is cut, which bounds what a reader holds of one.
const LONGEST_LINE: usize = 32 * 1024;

/// Where a log is at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Lines before the place.
    pub(super) lines: u64,
    pub(super) attempt: u32,
    /// Lines of the attempt's program before the place.
    pub(super) said: u64,
}

impl State {
    pub(super) fn write_mark(self, text: &mut Vec<u8>) {
        text.extend_from_slice(format!("# {} {} {}\n", self.lines, self.attempt, self.said).as_bytes());
    }

    /// What the mark at the beginning of `text` says.
    pub(super) fn read_mark(text: &[u8]) -> Option<Self> {
        let line = text.split(|byte| *byte == b'\n').next()?.strip_prefix(b"# ")?;
        let mut numbers = std::str::from_utf8(line).ok()?.split(' ');
        let (lines, attempt, said) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self { lines: lines.parse().ok()?, attempt: attempt.parse().ok()?, said: said.parse().ok()? })
    }

    /// The state behind `text`, which begins with a mark or at the very beginning of a log.
    pub(super) fn behind(text: &[u8]) -> Self {
        let mut state = Self::default();
        for line in whole_lines(text) {
            match Self::read_mark(line) {
                Some(mark) => state = mark,
                None if is_mark(line) => {}
                None => state.pass(stream(line).1),
            }
        }
        state
    }

    pub(super) fn pass(&mut self, stream: Stream) {
        self.lines += 1;
        self.said += u64::from(stream != Stream::Note);
    }
}

pub(super) fn frame(text: &mut Vec<u8>, line: &LogLine) {
    use std::io::Write;
    let stream = match line.stream {
        Stream::Stdout => 'o',
        Stream::Stderr => 'e',
        Stream::Note => 'n',
    };
    // Writing to memory does not fail.
    let _ = write!(text, "{} {stream} ", line.at.0);
    let kept = &line.text[..line.text.floor_char_boundary(LONGEST_LINE)];
    let begin = text.len();
    text.extend_from_slice(kept.as_bytes());
    for byte in text[begin..].iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b' ';
    }
    if kept.len() < line.text.len() {
        text.extend_from_slice("…".as_bytes());
    }
    text.push(b'\n');
}

/// The lines of `text` behind line `after`, about `limit` bytes of them and one at least.
/// `before` lines stand before `text`.
pub(super) fn lines(text: &[u8], before: u64, after: u64, limit: usize) -> Vec<(u64, LogLine)> {
    let mut bytes = 0;
    numbered(text, before)
        .skip_while(|(number, _)| *number <= after)
        .take_while(|(_, line)| {
            bytes += line.len();
            bytes == line.len() || bytes <= limit
        })
        .map(|(number, line)| (number, unframe(line)))
        .collect()
}

/// The lines of `text` as they are framed, each with its number.
pub(super) fn numbered(text: &[u8], before: u64) -> impl Iterator<Item = (u64, &[u8])> {
    whole_lines(text).filter(|line| !is_mark(line)).zip(before + 1..).map(|(line, number)| (number, line))
}

/// Where in `text` the line behind line `after` begins, and the line.
pub(super) fn behind(text: &[u8], before: u64, after: u64) -> Option<(usize, &[u8])> {
    let (mut begin, mut number) = (0, before);
    for line in whole_lines(text) {
        number += u64::from(!is_mark(line));
        if number > after && !is_mark(line) {
            return Some((begin, line));
        }
        begin += line.len();
    }
    None
}

/// What is told of a line. One that a crash of an older server mangled is shown as it is.
pub(super) fn unframe(line: &[u8]) -> LogLine {
    let (at, stream, text) = parts(line);
    LogLine { at, stream, text: String::from_utf8_lossy(text).into_owned() }
}

/// When and by whom a framed line was said, and what.
pub(super) fn parts(line: &[u8]) -> (Timestamp, Stream, &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let ((at, rest), stream) = (split(line), stream(line).1);
    let parsed = std::str::from_utf8(at).ok().and_then(|at| at.parse().ok());
    match (parsed, rest.get(1)) {
        (Some(at), Some(b' ')) => (Timestamp(at), stream, &rest[2..]),
        _ => (Timestamp(0), Stream::Note, line),
    }
}

/// `text` without a piece of a line at its end.
pub(super) fn untorn(text: &[u8]) -> &[u8] {
    memchr::memrchr(b'\n', text).map_or(&[], |end| &text[..=end])
}

fn whole_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr::memchr_iter(b'\n', text).map(move |end| {
        let line = &text[begin..=end];
        begin = end + 1;
        line
    })
}

fn is_mark(line: &[u8]) -> bool {
    line.first() == Some(&b'#')
}

fn stream(line: &[u8]) -> (&[u8], Stream) {
    let (_, rest) = split(line);
    match rest.first() {
        Some(b'o') => (rest, Stream::Stdout),
        Some(b'e') => (rest, Stream::Stderr),
        _ => (rest, Stream::Note),
    }
}

fn split(line: &[u8]) -> (&[u8], &[u8]) {
    memchr::memchr(b' ', line).map_or((line, &[]), |at| (&line[..at], &line[at + 1..]))
}
