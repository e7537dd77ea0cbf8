//! `${…}` in the text of a pipeline file, replaced before the text is YAML.
//!
//! The operators are those of the library that existing pipelines were written against
//! (drone/envsubst), which looks like a shell and differs from one in corners: lengths and
//! positions count bytes, a shortest match is never empty, and `*` crosses slashes. Those corners
//! are kept, because files rely on them.
//!
//! A value is put in once and never looked at again, so nothing that somebody else has written,
//! such as a commit message, can become an expression.

use crate::{
    finding::Finding,
    spec::{At, Limits},
};

/// Expressions inside of expressions. Reading them is recursive; this bounds the stack.
const NESTING: usize = 16;

/// Bytes that operators may look at or produce for one file. Trimming costs the length of the
/// value times that of the pattern, so a small file could otherwise ask for hours.
const WORK: usize = 32 * 1024 * 1024;

/// What comes out can be no larger than what the reader takes.
const OUTPUT: usize = Limits::DEFAULT.file_bytes;

/// A text after substitution, with the way back: findings are about what somebody wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Substituted {
    text: String,
    /// In the order of the text; each holds up to the next.
    pieces: Vec<Piece>,
}

/// A part of a substituted text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    at: At,
    /// Where it comes from in the file.
    written: At,
    /// Whether it was taken over as it stands, or is the value of what stands there.
    kept: bool,
}

/// The text of a file, substituted or as it is.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    pub(crate) text: &'a str,
    pieces: &'a [Piece],
}

/// Replaces what stands in `${…}`; a name that `lookup` does not know becomes nothing.
///
/// `$$` stands for one `$`, a bare `$NAME` is left for the shell, and so is `${{ … }}`, which is
/// answered when a step starts.
pub fn substitute(
    file: &str,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Substituted, Finding> {
    let mut reader = Reader { text, at: 0, work: 0, lookup, pieces: Vec::new() };
    match reader.all() {
        Ok(output) => Ok(Substituted { pieces: pieces(text, &output, &reader.pieces), text: output }),
        Err(Fault { at, message }) => {
            let At { line, column } = after(At { line: 1, column: 1 }, &text[..at]);
            Err(Finding::error(file, "substitution", message).at(line, column))
        }
    }
}

impl std::ops::Deref for Substituted {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self { text, pieces: &[] }
    }
}

impl<'a> From<&'a Substituted> for Text<'a> {
    fn from(substituted: &'a Substituted) -> Self {
        Self { text: &substituted.text, pieces: &substituted.pieces }
    }
}

impl Text<'_> {
    /// Where in the file stands what this text has at a place.
    pub(crate) fn written(&self, at: At) -> At {
        let next = self.pieces.partition_point(|piece| piece.at <= at);
        let Some(piece) = next.checked_sub(1).map(|piece| self.pieces[piece]) else { return at };
        match at.line - piece.at.line {
            _ if !piece.kept => piece.written,
            0 => At { column: piece.written.column + (at.column - piece.at.column), ..piece.written },
            lines => At { line: piece.written.line + lines, ..at },
        }
    }
}

/// Places for the positions in bytes at which pieces begin, in the substituted text and the file.
fn pieces(file: &str, text: &str, starts: &[(usize, usize, bool)]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(starts.len());
    let (mut from, mut at, mut written) = ((0, 0), At { line: 1, column: 1 }, At { line: 1, column: 1 });
    for (in_text, in_file, kept) in starts {
        at = after(at, &text[from.0..*in_text]);
        written = after(written, &file[from.1..*in_file]);
        from = (*in_text, *in_file);
        pieces.push(Piece { at, written, kept: *kept });
    }
    pieces
}

/// The place behind `text`, which begins at `at`.
fn after(at: At, text: &str) -> At {
    match text.rsplit_once('\n') {
        None => At { column: at.column + text.chars().count(), ..at },
        Some((lines, last)) => {
            At { line: at.line + lines.matches('\n').count() + 1, column: last.chars().count() + 1 }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// The next byte to be read.
    at: usize,
    work: usize,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Where pieces begin: in what was made, in the text, and whether they are kept.
    pieces: Vec<(usize, usize, bool)>,
}

struct Fault {
    at: usize,
    message: String,
}

impl<'a> Reader<'a> {
    fn all(&mut self) -> Result<String, Fault> {
        let mut output = String::with_capacity(self.text.len());
        while let Some(dollar) = self.rest().find('$') {
            output.push_str(&self.rest()[..dollar]);
            self.at += dollar;
            let start = self.at;
            if self.rest().starts_with("${{") {
                output.push_str(self.later());
            } else if self.eat("${") {
                self.pieces.push((output.len(), start, false));
                output.push_str(&self.expression(start, 1)?);
                self.pieces.push((output.len(), self.at, true));
            } else if self.eat("$$") {
                output.push('$');
                self.pieces.push((output.len(), self.at, true));
            } else {
                output.push('$');
                self.at += 1;
            }
            if output.len() > OUTPUT {
                let message = format!("substitution makes more than {OUTPUT} bytes of this file");
                return Err(Fault { at: start, message });
            }
        }
        output.push_str(self.rest());
        Ok(output)
    }

    /// `${{ … }}` as it stands, to its end in the same line.
    fn later(&mut self) -> &'a str {
        let rest = self.rest();
        let line = rest.lines().next().unwrap_or_default();
        let length = line.find("}}").map_or("${{".len(), |end| end + "}}".len());
        self.at += length;
        &rest[..length]
    }

    /// What follows `${`, with its closing brace.
    fn expression(&mut self, start: usize, depth: usize) -> Result<String, Fault> {
        if depth > NESTING {
            let message = format!("expressions stand inside of each other more than {NESTING} times");
            return Err(Fault { at: start, message });
        }
        let length = self.eat("#");
        let name = self.take_while(|character| character.is_alphanumeric() || matches!(character, '_' | '-'));
        if name.is_empty() {
            return Err(self.bad(start));
        }
        let value = quote_lines((self.lookup)(name).unwrap_or_default());
        self.spend(value.len() + 1, start)?;
        let value = match self.rest().chars().next() {
            Some('}') => value,
            _ if length => return Err(self.bad(start)),
            Some('=') => self.default(value, 1, start, depth)?,
            Some(':') if self.rest()[1..].starts_with(['=', '-', '?', '+']) => {
                self.default(value, 2, start, depth)?
            }
            Some(':') => self.substring(value, start, depth)?,
            Some(',' | '^') => self.case(value),
            Some('/') => self.replace(value, start, depth)?,
            Some('#' | '%') => self.trim(value, start, depth)?,
            _ => return Err(self.bad(start)),
        };
        if !self.eat("}") {
            return Err(self.bad(start));
        }
        Ok(if length { value.len().to_string() } else { value })
    }

    /// `=word`, `:=word`, `:-word`: in place of an empty value.
    fn default(
        &mut self,
        value: String,
        operator: usize,
        start: usize,
        depth: usize,
    ) -> Result<String, Fault> {
        self.at += operator;
        let mut word = String::new();
        while !self.rest().is_empty() && !self.rest().starts_with('}') {
            word.push_str(&self.word(|character| character == '}', false, start, depth)?);
        }
        Ok(if value.is_empty() { word } else { value })
    }

    /// `:position`, `:position:length`, both in bytes.
    fn substring(&mut self, value: String, start: usize, depth: usize) -> Result<String, Fault> {
        self.at += 1;
        let position = self.word(|character| matches!(character, ':' | '}'), false, start, depth)?;
        let length = match self.take_while(|character| character == ':') {
            "" => None,
            _ => Some(self.word(|character| character == '}', false, start, depth)?),
        };
        let (Ok(position), Ok(length)) =
            (position.parse::<isize>(), length.map(|length| length.parse::<isize>()).transpose())
        else {
            return Ok(value);
        };
        let from = match usize::try_from(position) {
            Ok(position) => position.min(value.len()),
            Err(_) => value.len().saturating_sub(position.unsigned_abs()),
        };
        let to = match length.map(|length| (usize::try_from(length), length.unsigned_abs())) {
            None => value.len(),
            Some((Ok(length), _)) => from.saturating_add(length).min(value.len()),
            Some((Err(_), from_end)) => value.len().saturating_sub(from_end).max(from),
        };
        // A position in the middle of a character means its beginning.
        let (from, to) = (value.floor_char_boundary(from), value.floor_char_boundary(to));
        Ok(value[from..to].to_owned())
    }

    /// `,` `,,` `^` `^^`: the first character or all of them.
    fn case(&mut self, value: String) -> String {
        let rest = self.rest();
        let length = rest.bytes().take(2).take_while(|byte| matches!(byte, b',' | b'^')).count();
        self.at += length;
        let mut characters = value.chars();
        match &rest[..length] {
            ",," => value.to_lowercase(),
            "^^" => value.to_uppercase(),
            "," => characters
                .next()
                .map(|first| first.to_lowercase().to_string() + characters.as_str())
                .unwrap_or_default(),
            "^" => characters
                .next()
                .map(|first| first.to_uppercase().to_string() + characters.as_str())
                .unwrap_or_default(),
            _ => value,
        }
    }

    /// `/pattern/text`, with `//` everywhere, `/#` at the beginning and `/%` at the end. The
    /// pattern is a text, not a glob.
    fn replace(&mut self, value: String, start: usize, depth: usize) -> Result<String, Fault> {
        self.at += 1;
        let whence = self.rest().chars().next().filter(|character| matches!(character, '/' | '#' | '%'));
        self.at += whence.map_or(0, char::len_utf8);
        let pattern = self.word(|character| character == '/', true, start, depth)?;
        if self.take_while(|character| character == '/').is_empty() || pattern.contains('\n') {
            return Err(self.bad(start));
        }
        let with = match self.rest().starts_with('}') {
            true => None,
            false => Some(self.word(|character| character == '}', true, start, depth)?),
        };
        let text = with.as_deref().unwrap_or_default();
        self.spend(value.len(), start)?;
        Ok(match (whence, &with) {
            (Some('/'), _) => {
                self.spend(value.matches(&pattern).count().saturating_mul(text.len()), start)?;
                value.replace(&pattern, text)
            }
            // Without a text these two do nothing, not even take the match away.
            (Some('#'), Some(_)) => {
                value.strip_prefix(&*pattern).map(|rest| format!("{text}{rest}")).unwrap_or(value)
            }
            (Some('%'), Some(_)) => {
                value.strip_suffix(&*pattern).map(|rest| format!("{rest}{text}")).unwrap_or(value)
            }
            (Some(_), None) => value,
            (_, _) => value.replacen(&pattern, text, 1),
        })
    }

    /// `#glob` `##glob` take away at the beginning, `%glob` `%%glob` at the end; doubled, as much
    /// as possible.
    fn trim(&mut self, value: String, start: usize, depth: usize) -> Result<String, Fault> {
        let operator = self.rest().chars().next().unwrap_or('#');
        self.at += 1;
        let longest = self.rest().starts_with(operator);
        self.at += usize::from(longest);
        let pattern = self.word(|character| character == '}', false, start, depth)?;
        let Some(mut glob) = Glob::parse(&pattern) else { return Ok(value) };
        self.spend(value.len().saturating_mul(glob.0.len() + 1), start)?;
        Ok(if operator == '#' {
            let length = glob.matched(value.chars(), longest);
            value[length..].to_owned()
        } else {
            glob.0.reverse();
            let length = glob.matched(value.chars().rev(), longest);
            value[..value.len() - length].to_owned()
        })
    }

    /// One argument of an operator: another expression, or text up to one or to what ends it.
    fn word(
        &mut self,
        ends: impl Fn(char) -> bool,
        escapes: bool,
        start: usize,
        depth: usize,
    ) -> Result<String, Fault> {
        if self.rest().starts_with("${{") {
            return Ok(self.later().to_owned());
        }
        let inner = self.at;
        if self.eat("${") {
            return self.expression(inner, depth + 1);
        }
        let mut word = String::new();
        while let Some(character) = self.rest().chars().next() {
            let rest = self.rest();
            if rest.starts_with("${") {
                break;
            }
            let escaped = escapes && ["$$", "\\/", "\\\\"].iter().any(|escape| rest.starts_with(escape));
            if escaped {
                self.at += 1;
                word.push_str(&self.rest()[..1]);
            } else if ends(character) {
                break;
            } else {
                word.push(character);
            }
            self.at += if escaped { 1 } else { character.len_utf8() };
        }
        if self.at == inner {
            return Err(self.bad(start));
        }
        self.spend(word.len(), start)?;
        Ok(word)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token);
        self.at += if there { token.len() } else { 0 };
        there
    }

    fn take_while(&mut self, taken: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|character| !taken(character)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn spend(&mut self, work: usize, start: usize) -> Result<(), Fault> {
        self.work = self.work.saturating_add(work);
        if self.work <= WORK {
            return Ok(());
        }
        let message = "substitution in this file takes too long: shorten its values and patterns".to_owned();
        Err(Fault { at: start, message })
    }

    fn bad(&self, start: usize) -> Fault {
        const LONGEST: usize = 40;
        let line = self.text[start..].lines().next().unwrap_or_default();
        let end = line.find('}').map_or(line.len(), |brace| brace + 1);
        let shown: String = line[..end]
            .chars()
            .take(LONGEST)
            .map(|character| if character.is_control() { '\u{fffd}' } else { character })
            .collect();
        let message = format!(
            "`{shown}` is not a substitution: to leave it to the shell, write `$$` in place of its `$`"
        );
        Fault { at: start, message }
    }
}

/// A value of several lines would break the YAML around it, so it becomes one quoted line, as
/// Go's `%q` writes it.
fn quote_lines(value: String) -> String {
    if !value.contains('\n') {
        return value;
    }
    let mut quoted = String::with_capacity(value.len() + 16);
    quoted.push('"');
    for character in value.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            ' ' => quoted.push(' '),
            character if character.is_ascii_control() => {
                quoted.push_str(&format!("\\x{:02x}", u32::from(character)));
            }
            character if character.is_alphanumeric() || character.escape_debug().count() == 1 => {
                quoted.push(character);
            }
            character if u32::from(character) > 0xffff => {
                quoted.push_str(&format!("\\U{:08x}", u32::from(character)));
            }
            character => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}

/// A pattern of `*`, `?`, `[…]` and `\` as a list of what each character may be.
struct Glob(Vec<Token>);

enum Token {
    /// `*`
    Many,
    /// `?`
    One,
    Is(char),
    In {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// `None` when a bracket is not closed; such a pattern matches nothing.
    fn parse(pattern: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut characters = pattern.chars().peekable();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                '*' => Token::Many,
                '?' => Token::One,
                '\\' => Token::Is(characters.next()?),
                '[' => {
                    let not = characters.next_if(|character| matches!(character, '^' | '!')).is_some();
                    let mut ranges = Vec::new();
                    loop {
                        let low = match characters.next()? {
                            ']' if !ranges.is_empty() => break,
                            '\\' => characters.next()?,
                            character => character,
                        };
                        let high = match characters.next_if_eq(&'-') {
                            None => low,
                            Some(_) => match characters.next()? {
                                '\\' => characters.next()?,
                                character => character,
                            },
                        };
                        ranges.push((low, high));
                    }
                    Token::In { not, ranges }
                }
                character => Token::Is(character),
            });
        }
        Some(Self(tokens))
    }

    /// Bytes of the shortest or longest match at the beginning of `text`, which is not empty; 0
    /// without one. All ways to match are followed at once, so no pattern makes it go back.
    fn matched(&self, text: impl Iterator<Item = char>, longest: bool) -> usize {
        let tokens = &self.0;
        let mut states = vec![false; tokens.len() + 1];
        states[0] = true;
        self.pass_stars(&mut states);
        let mut next = states.clone();
        let (mut length, mut found) = (0, 0);
        for character in text {
            length += character.len_utf8();
            next.fill(false);
            for (i, token) in tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
                match token {
                    Token::Many => next[i] = true,
                    Token::One => next[i + 1] = true,
                    Token::Is(wanted) => next[i + 1] |= *wanted == character,
                    Token::In { not, ranges } => {
                        let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&character));
                        next[i + 1] |= inside != *not;
                    }
                }
            }
            self.pass_stars(&mut next);
            std::mem::swap(&mut states, &mut next);
            if states[tokens.len()] {
                found = length;
                if !longest {
                    break;
                }
            }
            if !states.contains(&true) {
                break;
            }
        }
        found
    }

    /// A star may also match nothing.
    fn pass_stars(&self, states: &mut [bool]) {
        for (i, token) in self.0.iter().enumerate() {
            if matches!(token, Token::Many) && states[i] {
                states[i + 1] = true;
            }
        }
    }
}
