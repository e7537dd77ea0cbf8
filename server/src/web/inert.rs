//! Text from outside, made harmless to look at.
//!
//! Titles, names, reasons and logs are written by whoever opens a pull request. HTML is
//! the smaller part of what they can do with them: terminal sequences hide text and plant
//! links, and bidirectional marks make a sentence read as another one. So nothing reaches
//! a page as it came: sequences go, colours become classes, and characters that cannot be
//! seen are written out.

use std::{borrow::Cow, fmt};

use askama::filters::{Escaper, Html, Safe};
use serde::Serialize;
use vte::{Params, Parser, Perform};

/// The escaper of every template, see `askama.toml`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inert;

impl Escaper for Inert {
    fn write_escaped_str<W: fmt::Write>(&self, dest: W, string: &str) -> fmt::Result {
        Html.write_escaped_str(dest, &plain(string))
    }
}

/// A sentence with what stands between backticks as code, escaped like everything.
pub(crate) fn prose(text: &str) -> Safe<String> {
    let mut markup = String::new();
    let mut parts = text.split('`').peekable();
    let mut is_code = false;
    while let Some(part) = parts.next() {
        // A backtick without its second is a character like others.
        let is_odd = is_code && parts.peek().is_none();
        let (begin, end) = match (is_code, is_odd) {
            (true, false) => ("<code>", "</code>"),
            (true, true) => ("`", ""),
            (false, _) => ("", ""),
        };
        markup.push_str(begin);
        // Writing to memory does not fail.
        let _ = Inert.write_escaped_str(&mut markup, part);
        markup.push_str(end);
        is_code = !is_code;
    }
    Safe(markup)
}

/// A piece of a line in one style. The style is a list of classes of the style sheet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Span {
    pub(super) style: String,
    pub(super) text: String,
}

/// The text without sequences and with everything invisible written out.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if is_harmless(text) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(Screen::show(text).into_iter().map(|span| span.text).collect())
}

/// One line of a log. A carriage return begins the line anew, as progress bars mean it.
pub(super) fn log_line(line: &str) -> Vec<Span> {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or_default();
    if is_harmless(line) {
        return vec![Span { style: String::new(), text: line.to_owned() }];
    }
    Screen::show(line)
}

/// The same without its styles.
pub(crate) fn log_text(line: &str) -> String {
    log_line(line).into_iter().map(|span| span.text).collect()
}

/// Most text is, and needs no second look.
fn is_harmless(text: &str) -> bool {
    are_harmless(text.as_bytes())
}

pub(crate) fn are_harmless(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t'))
}

#[derive(Default)]
struct Screen {
    spans: Vec<Span>,
    style: Style,
    /// The style of the last span.
    shown: Style,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Style {
    colour: Option<&'static str>,
    bold: bool,
    dim: bool,
    italic: bool,
    underlined: bool,
}

impl Screen {
    fn show(text: &str) -> Vec<Span> {
        let mut screen = Screen::default();
        Parser::new().advance(&mut screen, text.as_bytes());
        screen.spans
    }

    fn push(&mut self, c: char) {
        if self.spans.is_empty() || self.shown != self.style {
            self.shown = self.style;
            self.spans.push(Span { style: self.style.classes(), text: String::new() });
        }
        let Some(Span { text, .. }) = self.spans.last_mut() else { return };
        if is_invisible(c) { text.push_str(&format!("⟨U+{:04X}⟩", u32::from(c))) } else { text.push(c) }
    }
}

impl Perform for Screen {
    fn print(&mut self, c: char) {
        self.push(c);
    }

    fn execute(&mut self, byte: u8) {
        self.push(char::from(byte));
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        if action == 'm' && intermediates.is_empty() && !ignore {
            self.style.select(params);
        }
    }
}

impl Style {
    /// "Select graphic rendition" of ECMA-48. Colours beyond the sixteen named ones would
    /// be unreadable on one of the two backgrounds, so they are left out.
    fn select(&mut self, params: &Params) {
        let mut params = params.iter().map(|param| param.first().copied().unwrap_or(0));
        while let Some(param) = params.next() {
            match param {
                0 => *self = Style::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                3 => self.italic = true,
                4 => self.underlined = true,
                22 => (self.bold, self.dim) = (false, false),
                23 => self.italic = false,
                24 => self.underlined = false,
                30..=37 => self.colour = Some(COLOURS[usize::from(param - 30)]),
                90..=97 => self.colour = Some(COLOURS[usize::from(param - 90)]),
                39 => self.colour = None,
                // `38;5;N` and `38;2;R;G;B`: their numbers are not attributes.
                38 | 48 => match params.next() {
                    Some(5) => drop(params.next()),
                    Some(2) => drop(params.nth(2)),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn classes(self) -> String {
        let on = |on: bool, class| on.then_some(class);
        let classes = [
            self.colour,
            on(self.bold, "bold"),
            on(self.dim, "dim"),
            on(self.italic, "italic"),
            on(self.underlined, "underlined"),
        ];
        classes.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// In the order of the sequences' numbers. Black and white are the page's own ink.
const COLOURS: [&str; 8] = ["ink", "red", "green", "yellow", "blue", "magenta", "cyan", "ink"];

/// Controls, and the format characters that reorder, hide or break text. Joiners stay:
/// scripts and emoji need them.
fn is_invisible(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => true,
        '\u{e0000}'..='\u{e007f}' => true,
        _ => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_a_sentence_is_marked_and_nothing_else_is_markup() {
        assert_eq!(prose("a `b` c").0, "a <code>b</code> c");
        assert_eq!(prose("`<i>` & `odd").0, "<code>&#60;i&#62;</code> &#38; `odd");
        assert_eq!(prose("").0, "");
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        for text in ["", "plain text", "a\tb\nc", "Grüße, 日本語, नमस्ते, 👩\u{200d}👩\u{200d}👧", "\u{fffd}"]
        {
            assert_eq!(plain(text), text);
        }
    }

    #[test]
    fn sequences_go_and_their_text_stays() {
        for (text, shown) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("a\u{1b}[2K\u{1b}[1;1Hb", "ab"),
            ("\u{1b}]8;;javascript:alert(1)\u{1b}\\link\u{1b}]8;;\u{7}", "link"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}Pdevice\u{1b}\\x", "x"),
            ("\u{1b}[", ""),
        ] {
            assert_eq!(plain(text), shown, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        assert_eq!(plain("a\u{202e}b"), "a⟨U+202E⟩b");
        assert_eq!(plain("a\u{0}\u{8}\u{7f}\u{9b}31m"), "a⟨U+0000⟩⟨U+0008⟩⟨U+007F⟩⟨U+009B⟩31m");
        assert_eq!(plain("user\u{200b}name\u{2066}\u{feff}"), "user⟨U+200B⟩name⟨U+2066⟩⟨U+FEFF⟩");
        assert_eq!(plain("evil\rgood"), "evil⟨U+000D⟩good");
    }

    #[test]
    fn colours_become_classes_and_numbers_of_colours_do_not() {
        let span = |style: &str, text: &str| Span { style: style.into(), text: text.into() };
        assert_eq!(
            log_line("a\u{1b}[1;31mb\u{1b}[22mc\u{1b}[md\u{1b}[38;5;1;4me"),
            [span("", "a"), span("red bold", "b"), span("red", "c"), span("", "d"), span("underlined", "e")]
        );
        assert_eq!(log_line("10%\r100%\r"), [span("", "100%")]);
    }

    #[test]
    fn the_escaper_does_both() {
        let mut page = String::new();
        Inert.write_escaped_str(&mut page, "<b>\u{1b}[1m\"\u{202e}&").unwrap();
        assert_eq!(page, "&#60;b&#62;&#34;⟨U+202E⟩&#38;");
    }
}
