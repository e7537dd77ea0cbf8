//! The globs of the language, which are doublestar's, as globset understands them.

use std::{borrow::Cow, str::Chars};

use globset::{Error, Glob, GlobBuilder};

/// Doublestar: `*` stays within a path's component, `**` crosses them. What is no pattern matches
/// nothing, as in Woodpecker.
pub fn matches(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?', '[', '{', '\\']) {
        return pattern == text;
    }
    // `docs/**` is also `docs` itself to doublestar, and not to globset.
    if pattern.strip_suffix("/**").is_some_and(|folder| matches(folder, text)) {
        return true;
    }
    read(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(text))
}

pub(crate) fn read(pattern: &str) -> Result<Glob, Error> {
    let pattern = with_plain_classes(pattern);
    let mut glob = GlobBuilder::new(&pattern);
    glob.literal_separator(true).backslash_escape(true).empty_alternates(true).build()
}

/// To globset a backslash inside of `[…]` is a character like any other, so what doublestar escapes
/// there is put where it needs no escape.
fn with_plain_classes(pattern: &str) -> Cow<'_, str> {
    if !(pattern.contains('[') && pattern.contains('\\')) {
        return Cow::Borrowed(pattern);
    }
    let mut plain = String::with_capacity(pattern.len());
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '[' => plain.push_str(&plain_class(&mut characters)),
            '\\' => {
                plain.push('\\');
                plain.extend(characters.next());
            }
            character => plain.push(character),
        }
    }
    Cow::Owned(plain)
}

/// The class whose `[` has been read: `]` is itself at the front, `-` at the end, and `!` and `^`
/// anywhere but at the front.
fn plain_class(characters: &mut Chars<'_>) -> String {
    let negation = characters.clone().next().filter(|first| matches!(first, '!' | '^'));
    if negation.is_some() {
        characters.next();
    }
    let negation = negation.map(String::from).unwrap_or_default();
    let (mut front, mut middle, mut end, mut dash) = ("", String::new(), String::new(), "");
    let mut is_first = true;
    loop {
        match characters.next() {
            None => return format!("[{negation}{front}{middle}{end}{dash}"),
            Some(']') if !is_first => break,
            Some(']') => front = "]",
            Some('\\') => match characters.next() {
                Some(']') => front = "]",
                Some('-') => dash = "-",
                Some(escaped @ ('!' | '^')) => end.push(escaped),
                escaped => middle.extend(escaped),
            },
            Some(character) => middle.push(character),
        }
        is_first = false;
    }
    if negation.is_empty() && front.is_empty() && middle.is_empty() && !end.is_empty() {
        // Nothing else could stand before them.
        let alternatives: Vec<String> = end.chars().chain(dash.chars()).map(|c| format!("\\{c}")).collect();
        return format!("{{{}}}", alternatives.join(","));
    }
    format!("[{negation}{front}{middle}{end}{dash}]")
}
