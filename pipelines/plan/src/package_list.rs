//! Package lists: `packages.txt` and `packages.json`, the packages of a mirror.
//!
//! Each entry is what dnf takes for packages: a name, a name with a version, a glob over both. The
//! grammar has nothing that a shell or an option parser would read otherwise, so an entry is data
//! wherever it is handed to.

use std::{collections::HashMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::finding::{Finding, Level};

/// Where a list stands when nobody says where; the first that is there counts.
pub const LISTS: [&str; 2] = ["packages.txt", "packages.json"];

/// A list of all packages of a distribution is a glob; a longer file is a mistake or an attack.
pub const LARGEST_LIST: usize = 1024 * 1024;

/// Each is looked up in every repository.
pub const MOST_PACKAGES: usize = 10_000;

/// Names, versions and architectures together stay far below this.
const LONGEST_PACKAGE: usize = 200;

/// One entry, such as `httpd`, `nginx-1.24*` or `kernel-0:6.1.0-1.el9.x86_64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Package(String);

/// A list that was read, in the order of its file and without repetitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageList {
    pub packages: Vec<Package>,
    /// What is odd about it and harms nothing.
    pub warnings: Vec<Finding>,
}

impl PackageList {
    /// Reads `packages.txt`: an entry a line; a `#` at the start of a line or behind a blank begins
    /// a comment.
    pub fn from_text(file: &str, bytes: &[u8]) -> Result<Self, Vec<Finding>> {
        let text = text(file, bytes)?;
        let mut reader = Reader::new(file);
        for (at, line) in text.lines().enumerate() {
            let code = uncommented(line);
            let entry = code.trim();
            if !entry.is_empty() {
                let indent = code.len() - code.trim_start().len();
                reader.entry(entry, at + 1, code[..indent].chars().count() + 1);
            }
        }
        reader.finish()
    }

    /// Reads `packages.json`: `{"packages":["httpd","nginx-1.24*"]}`.
    pub fn from_json(file: &str, bytes: &[u8]) -> Result<Self, Vec<Finding>> {
        const SHAPE: &str = r#"write `{"packages":["httpd","nginx-1.24*"]}`"#;
        let text = text(file, bytes)?;
        if text.trim_start().starts_with('[') {
            let message = format!("a list stands under the key `packages`; {SHAPE}");
            return Err(vec![Finding::error(file, "packages-json", message)]);
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let wrong = |error: &serde_json::Error, what: String| {
            vec![
                Finding::error(file, "packages-json", format!("{what}; {SHAPE}"))
                    .at(error.line(), error.column()),
            ]
        };
        let list = RawList::deserialize(&mut json).map_err(|error| {
            let said = error.to_string();
            let what = said.rfind(" at line ").map_or(said.as_str(), |end| &said[..end]);
            wrong(&error, crate::event::one_line(what))
        })?;
        json.end().map_err(|error| wrong(&error, "there is more text after the JSON value".to_owned()))?;
        let mut reader = Reader::new(file);
        for raw in list.packages {
            let (line, column) = place(text, raw.get());
            match serde_json::from_str::<String>(raw.get()) {
                Ok(entry) => reader.entry(&entry, line, column),
                Err(_) => reader.refuse(line, column, format!("an entry must be a string; {SHAPE}")),
            }
        }
        reader.finish()
    }
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(borrow)]
    packages: Vec<&'a RawValue>,
}

struct Reader<'f> {
    file: &'f str,
    packages: Vec<Package>,
    /// Where each entry was first.
    lines: HashMap<String, usize>,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl<'f> Reader<'f> {
    fn new(file: &'f str) -> Self {
        let (packages, lines) = (Vec::new(), HashMap::new());
        Self { file, packages, lines, errors: Vec::new(), warnings: Vec::new() }
    }

    fn entry(&mut self, entry: &str, line: usize, column: usize) {
        match check(entry) {
            Err(why) => self.refuse(line, column, why),
            Ok(()) => match self.lines.get(entry) {
                Some(first) => {
                    let message = format!("`{entry}` stands on line {first} already; take one of them out");
                    let warning = Finding::error(self.file, "packages-duplicate", message).at(line, column);
                    self.warnings.push(Finding { level: Level::Warning, ..warning });
                }
                None => {
                    self.lines.insert(entry.to_owned(), line);
                    self.packages.push(Package(entry.to_owned()));
                }
            },
        }
    }

    fn refuse(&mut self, line: usize, column: usize, why: String) {
        // A file of another kind would otherwise be as many findings as it has lines.
        const MOST_ERRORS: usize = 100;
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(Finding::error(self.file, "packages-entry", why).at(line, column));
        }
    }

    fn finish(mut self) -> Result<PackageList, Vec<Finding>> {
        if self.packages.len() > MOST_PACKAGES {
            let message = format!(
                "{} packages are more than the {MOST_PACKAGES} a list may have; use globs",
                self.packages.len()
            );
            self.errors.push(Finding::error(self.file, "packages-too-many", message));
        }
        if self.errors.is_empty() && self.packages.is_empty() {
            let message = "the list is empty; name at least one package";
            self.errors.push(Finding::error(self.file, "packages-empty", message));
        }
        if self.errors.is_empty() {
            return Ok(PackageList { packages: self.packages, warnings: self.warnings });
        }
        self.errors.extend(self.warnings);
        self.errors.sort_by_key(|finding| (finding.line, finding.column));
        Err(self.errors)
    }
}

/// Why an entry is none.
fn check(entry: &str) -> Result<(), String> {
    let shown: String = entry.chars().take(60).flat_map(char::escape_debug).collect();
    if entry.len() > LONGEST_PACKAGE {
        return Err(format!("`{shown}…` is longer than {LONGEST_PACKAGE} characters"));
    }
    let first = entry.chars().next();
    if !first.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '*' | '?' | '[')) {
        return Err(format!("`{shown}` must begin with a letter, a digit or a glob, as package names do"));
    }
    let mut open = false;
    for c in entry.chars() {
        match c {
            '[' if !open => open = true,
            ']' if open => open = false,
            '!' if open => {}
            _ if c.is_ascii_alphanumeric() => {}
            '.' | '_' | '-' | '+' | '~' | '^' | ':' => {}
            '*' | '?' if !open => {}
            _ => {
                let c = c.escape_debug();
                return Err(format!(
                    "`{shown}` has `{c}`, which stands in no package name; write one package a line, such as `nginx-1.24*`"
                ));
            }
        }
    }
    match open {
        true => Err(format!("`{shown}` opens a `[` that is not closed")),
        false => Ok(()),
    }
}

fn text<'t>(file: &str, bytes: &'t [u8]) -> Result<&'t str, Vec<Finding>> {
    if bytes.len() > LARGEST_LIST {
        let message = format!("{} bytes are more than the {LARGEST_LIST} a list may have", bytes.len());
        return Err(vec![Finding::error(file, "packages-too-large", message)]);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("byte {} is not UTF-8; save the file as UTF-8", error.valid_up_to());
        vec![Finding::error(file, "packages-encoding", message)]
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// What stands before a comment.
fn uncommented(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

/// Line and column of a part of a text.
fn place(text: &str, part: &str) -> (usize, usize) {
    let at = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

impl Package {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: Result<PackageList, Vec<Finding>>) -> Vec<String> {
        list.unwrap().packages.iter().map(Package::to_string).collect()
    }

    #[test]
    fn a_list_has_names_versions_globs_and_comments() {
        let text = "\u{feff}# the web\r\nhttpd   # Apache\r\n\r\n  nginx-1.24*\npython3.1[12]\ngcc-c++\nkernel-0:6.1.0-1.el9.x86_64\nfoo~rc1^git\nc#\n";
        let (good, bad) = text.split_at(text.len() - 3);
        let wanted = [
            "httpd",
            "nginx-1.24*",
            "python3.1[12]",
            "gcc-c++",
            "kernel-0:6.1.0-1.el9.x86_64",
            "foo~rc1^git",
        ];
        assert_eq!(names(PackageList::from_text("packages.txt", good.as_bytes())), wanted);
        assert!(PackageList::from_text("packages.txt", bad.as_bytes()).is_err());
    }

    #[test]
    fn a_json_list_says_the_same() {
        let json = "{\"packages\": [\n  \"httpd\",\n  \"nginx-1.24*\"\n], \"team\": 1}\n";
        assert_eq!(names(PackageList::from_json("packages.json", json.as_bytes())), ["httpd", "nginx-1.24*"]);
    }

    #[test]
    fn nothing_that_a_shell_or_an_option_parser_reads_passes() {
        for entry in [
            "httpd;rm",
            "$(id)",
            "`id`",
            "a b",
            "a|b",
            "a&b",
            "a>b",
            "a<b",
            "'a'",
            "\"a\"",
            "a\\b",
            "--installroot=/",
            "-y",
            "../x",
            "/bin/sh",
            "~root",
            "a/b",
            "a{b,c}",
            "a[b",
            "a[[b]",
            "a]",
            "a=1",
            "a\u{0}b",
            "päckchen",
            "a\u{202e}b",
            "%{x}",
            "@group",
            "!a",
        ] {
            let findings = PackageList::from_text("packages.txt", format!("httpd\n  {entry}\n").as_bytes())
                .expect_err(entry);
            assert_eq!(
                (findings[0].code, findings[0].line, findings[0].column),
                ("packages-entry", 2, 3),
                "{entry}"
            );
            assert!(!findings[0].message.contains(['\0', '\u{202e}']), "{entry}");
            let json = serde_json::json!({ "packages": ["httpd", entry] }).to_string();
            let findings = PackageList::from_json("packages.json", json.as_bytes()).expect_err(entry);
            assert_eq!((findings[0].line, findings[0].column), (1, 22), "{entry}");
        }
    }

    #[test]
    fn what_stands_twice_is_a_warning_and_counts_once() {
        let list = PackageList::from_text("packages.txt", b"httpd\nnginx\nhttpd\n").unwrap();
        assert_eq!(list.packages.len(), 2);
        let [warning] = &list.warnings[..] else { panic!("{:?}", list.warnings) };
        assert_eq!((warning.level, warning.line, warning.code), (Level::Warning, 3, "packages-duplicate"));
    }

    #[test]
    fn wrong_files_are_named_with_what_to_do() {
        for (json, code, says) in [
            ("", "packages-json", "EOF"),
            ("[]", "packages-json", "packages"),
            ("{\"packages\":\"httpd\"}", "packages-json", "sequence"),
            ("{\"packages\":[1]}", "packages-entry", "string"),
            ("{\"packages\":[\"a\"],\"packages\":[]}", "packages-json", "duplicate field"),
            ("{\"packages\":[\"a\"]} x", "packages-json", "more text"),
            ("{\"packages\":[]}", "packages-empty", "at least one"),
        ] {
            let findings = PackageList::from_json("mirror/packages.json", json.as_bytes()).expect_err(json);
            assert_eq!(findings[0].code, code, "{json}");
            assert!(findings[0].message.contains(says), "{json}: {}", findings[0]);
        }
        let code = |bytes: &[u8]| PackageList::from_text("packages.txt", bytes).unwrap_err()[0].code;
        assert_eq!(code(b"# nothing\n"), "packages-empty");
        assert_eq!(code(&[b'a', 0xff]), "packages-encoding");
        assert_eq!(code(&vec![b'a'; LARGEST_LIST + 1]), "packages-too-large");
        let many: String = (0..=MOST_PACKAGES).map(|n| format!("p{n}\n")).collect();
        assert_eq!(code(many.as_bytes()), "packages-too-many");
        let lines = "; rm\n".repeat(1000);
        assert!(PackageList::from_text("packages.txt", lines.as_bytes()).unwrap_err().len() <= 100);
    }
}
