//! A step's log in windows: nobody ever holds all of it.

use std::{collections::VecDeque, io};

use mergeyard_run::log::{LogLine, Stream};
use mergeyard_types::{RunId, StepId, Timestamp};

use super::{
    inert::{self, Span},
    when,
};
use crate::logs::{Logs, Needle, Piece, Size};

/// What is read of a log at once; with [`super::MOST_STREAMS`] it bounds the memory of
/// all viewers together.
pub(super) const PIECE: usize = 64 * 1024;

/// What a window weighs at the most, however long its lines are.
pub(super) const WINDOW: usize = 1024 * 1024;

/// One step's log.
#[derive(Clone)]
pub(super) struct StepLog {
    pub(super) logs: Logs,
    pub(super) run: RunId,
    pub(super) step: StepId,
}

/// Some lines one after another, each with its number.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) lines: VecDeque<(u64, LogLine)>,
    /// How many lines the log has.
    pub(super) total: u64,
}

/// A line on a page.
pub(super) struct Shown {
    pub(super) number: u64,
    pub(super) exact: String,
    /// Since the step began.
    pub(super) elapsed: String,
    pub(super) kind: &'static str,
    pub(super) spans: Vec<Span>,
}

impl StepLog {
    /// The next lines after line `after`; none at the end.
    pub(super) async fn piece(&self, after: u64) -> io::Result<Piece> {
        self.logs.read(self.run, self.step, after, PIECE).await
    }

    pub(super) async fn size(&self) -> io::Result<Size> {
        self.logs.size(self.run, self.step).await
    }

    /// The last `count` lines.
    pub(super) async fn tail(&self, count: u64) -> io::Result<Window> {
        let total = self.size().await?.lines;
        self.before(total + 1, count, WINDOW).await
    }

    /// `count` lines with line `number` in their middle.
    pub(super) async fn around(&self, number: u64, count: u64) -> io::Result<Window> {
        let mut window = self.before(number, count / 2, WINDOW / 2).await?;
        let later = self.after(number.saturating_sub(1), count - count / 2, WINDOW / 2).await?;
        window.lines.extend(later.lines);
        Ok(Window { total: later.total, ..window })
    }

    /// At most `count` lines after line `after`, fewer when they are long.
    pub(super) async fn after(&self, after: u64, count: u64, weight: usize) -> io::Result<Window> {
        let mut window = Window::default();
        let (mut next, mut bytes) = (after, 0);
        loop {
            let piece = self.piece(next).await?;
            window.total = piece.total;
            let is_end = piece.lines.is_empty();
            next = piece.next;
            for (number, line) in piece.lines {
                bytes += line.text.len();
                let has_one = !window.lines.is_empty();
                if number > after.saturating_add(count) || has_one && bytes > weight {
                    return Ok(window);
                }
                window.lines.push_back((number, line));
            }
            if is_end || next >= after.saturating_add(count) {
                return Ok(window);
            }
        }
    }

    /// At most `count` lines before line `number`, fewer when they are long.
    pub(super) async fn before(&self, number: u64, count: u64, weight: usize) -> io::Result<Window> {
        let number = number.min(self.size().await?.lines + 1);
        let mut window = Window::default();
        let (mut next, mut bytes) = (number.saturating_sub(count + 1), 0);
        loop {
            let piece = self.piece(next).await?;
            window.total = piece.total;
            let is_end = piece.lines.is_empty();
            next = piece.next;
            let wanted = piece.lines.into_iter().take_while(|(at, _)| *at < number);
            for (at, line) in wanted {
                bytes += line.text.len();
                window.lines.push_back((at, line));
                while bytes > weight && window.lines.len() > 1 {
                    bytes -= window.lines.pop_front().map_or(0, |(_, line)| line.text.len());
                }
            }
            if is_end || next + 1 >= number {
                return Ok(window);
            }
        }
    }
}

impl Window {
    /// Whether lines stand before and behind it.
    pub(super) fn has_earlier(&self) -> bool {
        self.lines.front().is_some_and(|(number, _)| *number > 1)
    }

    pub(super) fn has_later(&self) -> bool {
        self.lines.back().is_some_and(|(number, _)| *number < self.total)
    }

    pub(super) fn last(&self) -> u64 {
        self.lines.back().map_or(0, |(number, _)| *number)
    }

    pub(super) fn shown(&self, started: Timestamp, needle: Option<&Needle>) -> Vec<Shown> {
        self.lines.iter().map(|(number, line)| Shown::new(*number, line, started, needle)).collect()
    }
}

impl Shown {
    fn new(number: u64, line: &LogLine, started: Timestamp, needle: Option<&Needle>) -> Self {
        Self {
            number,
            exact: when::exact(line.at),
            elapsed: when::duration(line.at.since(started)),
            kind: kind(line),
            spans: spans(line, needle),
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

/// `1,234,567`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `812 B`, `64.0 KiB`, `12.5 MiB`
pub(super) fn weight(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// The line in its styles, with what was looked for marked in it.
pub(super) fn spans(line: &LogLine, needle: Option<&Needle>) -> Vec<Span> {
    let spans = inert::log_line(&line.text);
    let Some(needle) = needle else { return spans };
    let text: String = spans.iter().map(|span| span.text.as_str()).collect();
    let (mut hits, mut from) = (Vec::new(), 0);
    while let Some(hit) = needle.find(&text[from..]).filter(|hit| hit.end > hit.start) {
        hits.push(from + hit.start..from + hit.end);
        from += hit.end;
    }
    if hits.is_empty() { spans } else { marked(spans, &hits) }
}

fn marked(spans: Vec<Span>, hits: &[std::ops::Range<usize>]) -> Vec<Span> {
    let mut out = Vec::new();
    let mut begin = 0;
    for span in spans {
        let end = begin + span.text.len();
        let mut cuts: Vec<usize> = vec![begin, end];
        let inside = |cut: &usize| *cut > begin && *cut < end;
        cuts.extend(hits.iter().flat_map(|hit| [hit.start, hit.end]).filter(inside));
        cuts.sort_unstable();
        for part in cuts.windows(2).filter(|part| part[0] < part[1]) {
            let is_hit = hits.iter().any(|hit| hit.start <= part[0] && part[1] <= hit.end);
            let style = match (is_hit, span.style.is_empty()) {
                (false, _) => span.style.clone(),
                (true, true) => "hit".to_owned(),
                (true, false) => format!("{} hit", span.style),
            };
            out.push(Span { style, text: span.text[part[0] - begin..part[1] - begin].to_owned() });
        }
        begin = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_a_person_reads_them() {
        let told: Vec<_> = [0, 999, 1000, 1_234_567].map(grouped).into();
        assert_eq!(told, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([812, 65_536, 13_107_200].map(weight), ["812 B", "64.0 KiB", "12.5 MiB"]);
    }

    #[test]
    fn what_was_looked_for_is_marked_through_every_colour() {
        let text = "an \u{1b}[31mer\u{1b}[0mror, no terror".to_owned();
        let line = LogLine { at: Timestamp(0), stream: Stream::Stdout, text };
        let spans = spans(&line, Needle::new("ERROR", true).as_ref());
        let told: Vec<_> = spans.iter().map(|span| (span.style.as_str(), span.text.as_str())).collect();
        let expected = [("", "an "), ("red hit", "er"), ("hit", "ror"), ("", ", no t"), ("hit", "error")];
        assert_eq!(told, expected);
    }
}
