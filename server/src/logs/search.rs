//! Looking for text in a log as it is shown: without the sequences that colour it, so that a
//! word which a program paints letter by letter is still a word.

use std::{ops::Range, sync::Arc};

use memchr::memmem::Finder;
use mergeyard_run::log::LogLine;

use super::line;
use crate::web::inert;

/// Text that one search looks at before it answers with a place to go on from: a second of
/// work, so that no request lasts much longer.
const MOST_LOOKED_AT: usize = 256 * 1024 * 1024;

/// What is looked for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Needle {
    text: Arc<str>,
    ignore_case: bool,
    /// For text that is shown as it was written, which most is.
    plain: Arc<Finder<'static>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Forward,
    Backward,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of the search, with their numbers.
    pub matches: Vec<(u64, LogLine)>,
    /// Where to go on, unless the log ended there.
    pub next: Option<u64>,
    looked_at: usize,
}

impl Needle {
    /// `None` for no text at all, which would be everywhere.
    pub fn new(text: &str, ignore_case: bool) -> Option<Self> {
        let folded = if ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let plain = Arc::new(Finder::new(&folded).into_owned());
        (!text.is_empty()).then(|| Self { text: text.into(), ignore_case, plain })
    }

    /// The first place of it in text as it is shown.
    pub fn find(&self, shown: &str) -> Option<Range<usize>> {
        if !self.ignore_case {
            return shown.find(&*self.text).map(|at| at..at + self.text.len());
        }
        shown.char_indices().find_map(|(at, _)| self.length_at(&shown[at..]).map(|length| at..at + length))
    }

    /// How long it is at the beginning of `shown`, whose letters may take other room in the other case.
    fn length_at(&self, shown: &str) -> Option<usize> {
        let mut rest = shown.chars();
        let same = |wanted: char, there: char| match wanted.is_ascii() {
            true => wanted.eq_ignore_ascii_case(&there),
            false => wanted.to_lowercase().eq(there.to_lowercase()),
        };
        let all = self.text.chars().all(|wanted| rest.next().is_some_and(|there| same(wanted, there)));
        all.then(|| shown.len() - rest.as_str().len())
    }

    fn is_in(&self, framed: &[u8], folded: &mut Vec<u8>) -> bool {
        let text = line::parts(framed).2;
        if !inert::are_harmless(text) {
            return self.find(&inert::log_text(&String::from_utf8_lossy(text))).is_some();
        }
        if !self.ignore_case {
            return self.plain.find(text).is_some();
        }
        folded.clear();
        folded.extend(text.iter().map(u8::to_ascii_lowercase));
        self.plain.find(folded).is_some()
    }
}

impl Found {
    pub(super) fn is_enough(&self, limit: usize) -> bool {
        self.matches.len() >= limit || self.looked_at >= MOST_LOOKED_AT
    }

    /// Looks through `text` from `place` on; where to go on is what comes back.
    pub(super) fn look(
        &mut self,
        needle: &Needle,
        text: &[u8],
        before: u64,
        (place, way): (u64, Way),
        limit: usize,
    ) -> u64 {
        self.looked_at += text.len();
        let room = limit.saturating_sub(self.matches.len());
        let mut folded = Vec::new();
        let mut came = place;
        let mut hits: Vec<_> = line::numbered(text, before)
            .inspect(|(number, _)| came = came.max(*number))
            .filter(|(number, _)| match way {
                Way::Forward => *number > place,
                Way::Backward => *number < place,
            })
            .filter(|(_, line)| needle.is_in(line, &mut folded))
            .take(if way == Way::Forward { room } else { usize::MAX })
            .collect();
        if way == Way::Backward {
            hits.reverse();
        }
        let is_full = hits.len() >= room;
        hits.truncate(room);
        let last = hits.last().map(|(number, _)| *number);
        self.matches.extend(hits.into_iter().map(|(number, line)| (number, line::unframe(line))));
        match (last.filter(|_| is_full), way) {
            (Some(last), _) => last,
            (None, Way::Forward) => came,
            (None, Way::Backward) => before + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_either_case_are_found_where_they_are() {
        let find = |text: &str, shown: &str, ignore| Needle::new(text, ignore).unwrap().find(shown);
        assert_eq!(find("error", "an ERROR", true), Some(3..8));
        assert_eq!(find("error", "an ERROR", false), None);
        assert_eq!(find("größe", "Die GRÖSSE und die GRÖßE", true), Some(20..27));
        assert_eq!(find("İ", "x i̇ İ", true).map(|range| range.start), Some(6));
        assert!(Needle::new("", true).is_none());
    }
}
