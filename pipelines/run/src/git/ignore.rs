//! `.dockerignore`, as `docker build` understands it: one pattern a line, the last that
//! matches decides, `!` takes back, a folder's pattern covers what is in it.

use globset::{Glob, GlobBuilder, GlobMatcher};

/// More patterns than this are not read: each is tried on each path.
const MAX_PATTERNS: usize = 2000;

#[derive(Debug, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    matcher: GlobMatcher,
    excludes: bool,
}

impl Ignore {
    /// A line that is no pattern is skipped: the engine would complain about the whole
    /// build, but a context that is too large harms less than one that is missing.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.trim_start_matches('\u{feff}');
        Self { rules: text.lines().filter_map(Rule::parse).take(MAX_PATTERNS).collect() }
    }

    pub(super) fn excludes(&self, path: &str) -> bool {
        // The engine needs these two, whatever they say about themselves.
        if matches!(path, "Dockerfile" | ".dockerignore") {
            return false;
        }
        let deciding = self.rules.iter().rev().find(|rule| rule.matches(path));
        deciding.is_some_and(|rule| rule.excludes)
    }
}

impl Rule {
    fn parse(line: &str) -> Option<Rule> {
        if line.starts_with('#') {
            return None;
        }
        let line = line.trim();
        let (excludes, pattern) = match line.strip_prefix('!') {
            Some(pattern) => (false, pattern.trim()),
            None => (true, line),
        };
        let pattern = clean(pattern)?;
        Some(Rule { matcher: glob(&pattern)?.compile_matcher(), excludes })
    }

    fn matches(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        parents.chain([path]).any(|part| self.matcher.is_match(part))
    }
}

/// What Go's `filepath.Clean` leaves of a pattern, below the folder.
fn clean(pattern: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    // `.` alone names the folder itself, which is always sent.
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn glob(pattern: &str) -> Option<Glob> {
    // Braces are ordinary characters here.
    let pattern = pattern.replace('{', "[{]").replace('}', "[}]");
    GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(rules: &str, paths: &[&str]) -> Vec<String> {
        let ignore = Ignore::parse(rules);
        paths.iter().filter(|path| !ignore.excludes(path)).map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn patterns_mean_what_docker_build_makes_of_them() {
        let paths = [
            "Dockerfile",
            "a.log",
            "sub/a.log",
            "target/x",
            "target/deep/y",
            "sub/target/z",
            "keep.md",
            "README.md",
        ];
        assert_eq!(
            kept("*.log", &paths),
            ["Dockerfile", "sub/a.log", "target/x", "target/deep/y", "sub/target/z", "keep.md", "README.md"]
        );
        assert_eq!(
            kept("**/*.log\n/target/\n", &paths),
            ["Dockerfile", "sub/target/z", "keep.md", "README.md"]
        );
        assert_eq!(kept("**/target", &paths), ["Dockerfile", "a.log", "sub/a.log", "keep.md", "README.md"]);
        assert_eq!(
            kept("*.md\n!README.md", &paths),
            ["Dockerfile", "a.log", "sub/a.log", "target/x", "target/deep/y", "sub/target/z", "README.md"]
        );
        assert_eq!(
            kept("target\n!target/deep", &paths),
            ["Dockerfile", "a.log", "sub/a.log", "target/deep/y", "sub/target/z", "keep.md", "README.md"]
        );
    }

    #[test]
    fn a_later_line_wins_and_the_dockerfile_is_always_sent() {
        assert_eq!(kept("!a\n*\n", &["Dockerfile", ".dockerignore", "a"]), ["Dockerfile", ".dockerignore"]);
        assert_eq!(kept("*\n!a\n", &["a", "b", "a/c"]), ["a", "a/c"]);
    }

    #[test]
    fn odd_lines_are_read_as_docker_reads_them() {
        assert_eq!(
            kept(
                "# comment\n\n  .  \n./x/../y\n../z\nb?r\n[ab]c\na{1,2}\n",
                &["y", "z", "bar", "ac", "a1", "a{1,2}", "# comment"]
            ),
            ["a1", "# comment"]
        );
        assert_eq!(kept("\u{feff}x\r\n", &["x"]), Vec::<String>::new());
    }
}
