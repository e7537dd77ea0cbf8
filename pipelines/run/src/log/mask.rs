//! Secrets must not be read in a log, whichever way a program prints them.
//!
//! Each secret is looked for as it is, in base64 (standard and URL-safe, at all three
//! alignments, because it may sit anywhere inside a longer encoded text) and URL-encoded.
//! Matching steps over line breaks, so a value wrapped over lines is still found, and text
//! that could be the beginning of a value is held back until the rest decides.
//!
//! Values shorter than [`MIN_SECRET_BYTES`] are not masked: they would blank out ordinary
//! words, and the blanks would tell more than they hide.

use std::sync::Arc;

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};
use mergeyard_types::Secret;

/// The shortest value that is masked.
pub const MIN_SECRET_BYTES: usize = 4;

const MASK: &[u8] = b"********";

/// How many line-break bytes may stand between two bytes of one value: `\r\n` and an empty
/// line. It bounds what a stream can be made to hold back.
const MAX_BREAK: usize = 4;

/// What to look for. Cheap to clone.
#[derive(Clone)]
pub struct Masker {
    patterns: Arc<Vec<Vec<u8>>>,
    /// Which bytes a pattern can begin with; nearly every byte of a log ends here.
    begins: Arc<[bool; 256]>,
}

impl Default for Masker {
    fn default() -> Self {
        Self::new([])
    }
}

impl Masker {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut patterns = Vec::new();
        for secret in secrets {
            let whole = secret.expose().trim();
            for value in std::iter::once(whole).chain(whole.lines().map(str::trim)) {
                if value.len() >= MIN_SECRET_BYTES {
                    patterns.extend(forms(value));
                }
            }
        }
        patterns.sort_unstable();
        patterns.dedup();
        let mut begins = [false; 256];
        for pattern in &patterns {
            begins[usize::from(pattern[0])] = true;
        }
        Self { patterns: Arc::new(patterns), begins: Arc::new(begins) }
    }

    pub fn mask(&self, text: &str) -> String {
        let mut stream = self.stream();
        let mut clean = stream.push(text.as_bytes());
        clean.extend(stream.finish());
        String::from_utf8_lossy(&clean).into_owned()
    }

    pub(super) fn stream(&self) -> MaskedStream {
        MaskedStream { masker: self.clone(), held: Vec::new() }
    }

    fn look(&self, text: &[u8]) -> Found {
        if !self.begins[usize::from(text[0])] {
            return Found::Nothing;
        }
        let mut longest = None;
        let mut may_become = 0;
        for pattern in self.patterns.iter() {
            match compare(pattern, text) {
                Found::Match(end) => longest = longest.max(Some(end)),
                Found::MayBecome => may_become = may_become.max(pattern.len()),
                Found::Nothing => {}
            }
        }
        match longest {
            _ if may_become > 0 => Found::MayBecome,
            Some(end) => Found::Match(end),
            None => Found::Nothing,
        }
    }

    /// As [`Masker::look`], for text that is known to be the last.
    fn look_at_the_end(&self, text: &[u8]) -> Option<usize> {
        self.patterns
            .iter()
            .filter_map(|pattern| match compare(pattern, text) {
                Found::Match(end) => Some(end),
                _ => None,
            })
            .max()
    }
}

enum Found {
    Nothing,
    /// The text so far fits; more of it decides.
    MayBecome,
    /// Found, and it ends here.
    Match(usize),
}

/// Does `text` begin with `pattern`, stepping over line breaks?
fn compare(pattern: &[u8], text: &[u8]) -> Found {
    let mut at = 0;
    for (i, byte) in pattern.iter().enumerate() {
        let mut skipped = 0;
        while i > 0 && skipped < MAX_BREAK && matches!(text.get(at), Some(b'\n' | b'\r')) && text[at] != *byte
        {
            at += 1;
            skipped += 1;
        }
        match text.get(at) {
            None => return Found::MayBecome,
            Some(b) if b == byte => at += 1,
            Some(_) => return Found::Nothing,
        }
    }
    Found::Match(at)
}

/// A byte stream with the secrets taken out.
pub(super) struct MaskedStream {
    masker: Masker,
    /// The tail that may be the beginning of a secret.
    held: Vec<u8>,
}

impl MaskedStream {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.masker.patterns.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        let text = std::mem::take(&mut self.held);
        let mut clean = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            match self.masker.look(&text[at..]) {
                Found::Nothing => {
                    clean.push(text[at]);
                    at += 1;
                }
                Found::Match(end) => {
                    blank(&text[at..at + end], &mut clean);
                    at += end;
                }
                Found::MayBecome => break,
            }
        }
        self.held = text[at..].to_vec();
        clean
    }

    pub(super) fn finish(&mut self) -> Vec<u8> {
        let text = std::mem::take(&mut self.held);
        let mut clean = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            match self.masker.look_at_the_end(&text[at..]) {
                Some(end) => {
                    blank(&text[at..at + end], &mut clean);
                    at += end;
                }
                None => {
                    clean.push(text[at]);
                    at += 1;
                }
            }
        }
        clean
    }
}

/// The mask, and the line breaks that were inside the value, so that lines stay lines.
fn blank(value: &[u8], clean: &mut Vec<u8>) {
    clean.extend_from_slice(MASK);
    clean.extend(value.iter().filter(|b| **b == b'\n'));
}

/// Every way of writing `value` that is looked for.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![value.as_bytes().to_vec()];
    for alphabet in [&alphabet::STANDARD, &alphabet::URL_SAFE] {
        let base64 = GeneralPurpose::new(alphabet, NO_PAD);
        forms.extend((0..3).filter_map(|before| base64_inside(&base64, before, value.as_bytes())));
    }
    let upper = percent_encoded(value);
    forms.push(lower_escapes(&upper).into_bytes());
    forms.push(upper.replace("%20", "+").into_bytes());
    forms.push(upper.into_bytes());
    forms
}

/// The part of a base64 text that depends on `value` alone, when `before` bytes stand
/// ahead of it in the encoded text and anything may follow.
fn base64_inside(base64: &GeneralPurpose, before: usize, value: &[u8]) -> Option<Vec<u8>> {
    let padded: Vec<u8> = std::iter::repeat_n(0, before).chain(value.iter().copied()).collect();
    let encoded = base64.encode(&padded).into_bytes();
    let first = (before * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    let inside = encoded.get(first..last)?;
    (inside.len() >= MIN_SECRET_BYTES).then(|| inside.to_vec())
}

fn percent_encoded(value: &str) -> String {
    let mut encoded = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn lower_escapes(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let mut lower = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        lower.push('%');
        lower.push_str(&digits.to_lowercase());
        lower.push_str(rest);
    }
    lower
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    fn masked(secret: &str, chunks: &[&[u8]]) -> String {
        let mut stream = Masker::new([&Secret::new(secret)]).stream();
        let mut out: Vec<u8> = chunks.iter().flat_map(|c| stream.push(c)).collect();
        out.extend(stream.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_secret_is_masked_and_its_surroundings_stay() {
        assert_eq!(masked("hunter22", &[b"pass=hunter22 ok hunter2"]), "pass=******** ok hunter2");
        assert_eq!(masked("abab-c", &[b"aba", b"bab-", b"c!"]), "ab********!");
    }

    #[test]
    fn a_secret_wrapped_over_lines_is_masked_and_the_lines_stay() {
        assert_eq!(masked("hunter22", &[b"a hun\r\nter", b"\n", b"22\nb"]), "a ********\n\n\nb");
    }

    #[test]
    fn each_line_of_a_key_file_is_a_secret_too() {
        assert_eq!(masked("-----BEGIN\nMIIEabcd\n", &[b"x MIIEabcd y"]), "x ******** y");
    }

    #[test]
    fn the_longer_of_two_secrets_wins() {
        let masker = Masker::new([&Secret::new("pass"), &Secret::new("password")]);
        assert_eq!(masker.mask("password pass passw"), "******** ******** ********w");
    }

    #[test]
    fn short_values_are_left_alone() {
        assert_eq!(masked("yes", &[b"yes and yes"]), "yes and yes");
    }

    proptest! {
        #[test]
        fn a_secret_never_appears_wherever_chunks_are_cut(
            secret in "[!-~é]{6,24}", before in "[ -~]{0,9}", after in "[ -~]{0,9}",
            form in 0..4usize, cuts in proptest::collection::vec(0..200usize, 0..8),
        ) {
            let raw = format!("{before}{secret}{after}");
            let text = match form {
                0 => raw.clone(),
                1 => STANDARD.encode(&raw),
                2 => URL_SAFE_NO_PAD.encode(&raw),
                _ => format!("{before}{}{after}", percent_encoded(&secret)),
            };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % (text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let out = masked(&secret, &chunks);
            for pattern in forms(&secret) {
                // A pattern may still be spelt by accident of the surroundings and the mask itself.
                let pattern = String::from_utf8_lossy(&pattern).into_owned();
                prop_assert!(!out.contains(&pattern) || "********".contains(&pattern), "{pattern} in {out}");
            }
            prop_assert!(out.contains("********"));
        }

        #[test]
        fn text_without_the_secret_passes_unchanged(text in "[a-y \r\n]{0,200}", cut in 0..200usize) {
            let cut = cut.min(text.len());
            prop_assert_eq!(masked("zzzz-zzzz", &[&text.as_bytes()[..cut], &text.as_bytes()[cut..]]), text);
        }
    }
}
