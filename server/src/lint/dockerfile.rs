//! The rules for Dockerfiles that hold without hadolint: what makes a build break, drift, or hand out
//! what it should not.

use mergeyard_plan::finding::{Finding, Level};
use parse_dockerfile::{
    CmdInstruction, Command, Dockerfile, EntrypointInstruction, FromInstruction, Instruction, RunInstruction,
    Source, Stage,
};

/// Words that call something a secret, at the end of a name.
const SECRET_WORDS: [&str; 8] =
    ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "API_KEY", "APIKEY", "PRIVATE_KEY", "ACCESS_KEY"];

/// Everything.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    let mut check = Check::new(file, text);
    match parse_dockerfile::parse(check.text) {
        Ok(dockerfile) => check.all(&dockerfile),
        Err(error) => check.refuse(&error),
    }
    check.findings
}

/// Only what hadolint does not look for.
pub(super) fn secrets(file: &str, text: &str) -> Vec<Finding> {
    let mut check = Check::new(file, text);
    if let Ok(dockerfile) = parse_dockerfile::parse(check.text) {
        check.secrets(&dockerfile);
    }
    check.findings
}

struct Check<'t> {
    file: &'t str,
    text: &'t str,
    findings: Vec<Finding>,
}

impl<'t> Check<'t> {
    fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text: text.trim_start_matches('\u{feff}'), findings: Vec::new() }
    }

    fn all(&mut self, dockerfile: &Dockerfile<'_>) {
        let stages: Vec<Stage<'_, '_>> = dockerfile.stages().collect();
        for (at, stage) in stages.iter().enumerate() {
            self.base(stage.from, &stages[..at]);
            self.only_one(stage.instructions);
            for instruction in stage.instructions {
                match instruction {
                    Instruction::Run(run) => self.apt(run),
                    Instruction::Add(add) => add.src.iter().for_each(|source| self.remote(source)),
                    _ => {}
                }
            }
        }
        if let Some(last) = stages.last() {
            self.user(last);
        }
        self.secrets(dockerfile);
    }

    fn refuse(&mut self, error: &parse_dockerfile::Error) {
        let line = error.line().max(1);
        // Of the place only the line is told reliably.
        let text = self.text.lines().nth(line - 1).unwrap_or_default();
        let column = text.chars().take_while(|c| c.is_whitespace()).count() + 1;
        let message = format!("{error:#}; the engine would refuse the file");
        self.findings.push(Finding::error(self.file, "dockerfile-syntax", message).at(line, column));
    }

    fn base(&mut self, from: &FromInstruction<'_>, earlier: &[Stage<'_, '_>]) {
        let image = from.image.value.as_ref();
        let is_stage = |stage: &Stage<'_, '_>| {
            stage.from.as_.as_ref().is_some_and(|(_, name)| name.value.eq_ignore_ascii_case(image))
        };
        // What an argument holds is not known before the build.
        if image == "scratch" || image.contains(['$', '@']) || earlier.iter().any(is_stage) {
            return;
        }
        let name = image.rsplit('/').next().unwrap_or(image);
        match name.split_once(':') {
            None => {
                let what = format!(
                    "`{image}` names no version, so each build may start from another; write `{image}:TAG`"
                );
                self.warn(from.image.span.start, "dockerfile-base-untagged", what);
            }
            Some((_, "latest")) => {
                let what = format!("`{image}` is another image tomorrow; name a version");
                self.warn(from.image.span.start, "dockerfile-base-latest", what);
            }
            Some(_) => {}
        }
    }

    /// Of several, the engine takes the last without a word.
    fn only_one(&mut self, instructions: &[Instruction<'_>]) {
        let (mut cmds, mut entrypoints) = (Vec::new(), Vec::new());
        for instruction in instructions {
            match instruction {
                Instruction::Cmd(CmdInstruction { cmd, .. }) => cmds.push(cmd.span.start),
                Instruction::Entrypoint(EntrypointInstruction { entrypoint, .. }) => {
                    entrypoints.push(entrypoint.span.start);
                }
                _ => {}
            }
        }
        for (keyword, code, places) in [
            ("CMD", "dockerfile-several-cmd", cmds),
            ("ENTRYPOINT", "dockerfile-several-entrypoint", entrypoints),
        ] {
            for at in places.iter().rev().skip(1) {
                self.warn(
                    *at,
                    code,
                    format!("a later `{keyword}` of this stage replaces this one; take it out"),
                );
            }
        }
    }

    fn apt(&mut self, run: &RunInstruction<'_>) {
        let mut script = match &run.arguments {
            Command::Shell(shell) => shell.value.to_owned(),
            Command::Exec(words) => {
                words.value.iter().map(|word| word.value.as_ref()).collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        };
        for document in &run.here_docs {
            script.push('\n');
            script.push_str(&document.value);
        }
        let script = script.replace("\\\n", " ").replace("\\\r\n", " ");
        let at = run.run.span.start;
        let mut installs = false;
        for command in script.split([';', '\n', '&', '|']) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let is_apt = words.iter().any(|word| matches!(*word, "apt-get" | "apt"));
            if !is_apt || !words.contains(&"install") {
                continue;
            }
            installs = true;
            if !words.iter().any(|word| says_yes(word)) {
                self.warn(
                    at,
                    "dockerfile-apt-yes",
                    "`apt-get install` without `-y` asks, and nobody answers in a build".to_owned(),
                );
            }
        }
        // A cache mount keeps the lists out of the image as well.
        let keeps_lists = || {
            let mounted = run.options.iter().filter_map(|option| option.value.as_ref());
            let mounted = mounted.into_iter().any(|value| value.value.contains("/var/lib/apt"));
            !mounted && !script.contains("/var/lib/apt/lists")
        };
        if installs && keeps_lists() {
            let what = "the lists of packages stay in the image; end with `&& rm -rf /var/lib/apt/lists/*`";
            self.warn(at, "dockerfile-apt-lists", what.to_owned());
        }
    }

    fn remote(&mut self, source: &Source<'_>) {
        if let Source::Path(path) = source
            && (path.value.starts_with("http://") || path.value.starts_with("https://"))
        {
            let what = "what an address holds may change with every build; fetch it in a `RUN` that checks its digest";
            self.warn(path.span.start, "dockerfile-add-remote", what.to_owned());
        }
    }

    fn user(&mut self, last: &Stage<'_, '_>) {
        let mut users = last.instructions.iter().filter_map(|instruction| match instruction {
            Instruction::User(user) => Some(user),
            _ => None,
        });
        match users.next_back() {
            None => self.warn(
                last.from.from.span.start,
                "dockerfile-no-user",
                "the image runs as its base does, which is mostly root; add `USER` with an unprivileged one"
                    .to_owned(),
            ),
            Some(user) => {
                let name = user.arguments.value.split(':').next().unwrap_or_default().trim();
                if matches!(name, "root" | "0") {
                    let what = "the image runs as root; end with an unprivileged `USER`";
                    self.warn(user.user.span.start, "dockerfile-root-user", what.to_owned());
                }
            }
        }
    }

    fn secrets(&mut self, dockerfile: &Dockerfile<'_>) {
        for instruction in &dockerfile.instructions {
            let (keyword, at, arguments) = match instruction {
                Instruction::Arg(arg) => ("ARG", arg.arg.span.start, &arg.arguments.value),
                Instruction::Env(env) => ("ENV", env.env.span.start, &env.arguments.value),
                _ => continue,
            };
            let words = arguments.split_whitespace().enumerate();
            let names = words
                .filter(|(at, word)| *at == 0 || keyword == "ARG" || word.contains('='))
                .map(|(_, word)| word.split('=').next().unwrap_or_default());
            for name in names.filter(|name| is_called_secret(name)) {
                let what = format!(
                    "the value of `{keyword} {name}` stays in the image's history for everyone who pulls it; mount it with `RUN --mount=type=secret`"
                );
                self.warn(at, "dockerfile-secret", what);
            }
        }
    }

    fn warn(&mut self, at: usize, code: &'static str, message: String) {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let finding = Finding::error(self.file, code, message).at(line, column);
        self.findings.push(Finding { level: Level::Warning, ..finding });
    }
}

/// `-y`, `-qy`, `--yes`.
fn says_yes(word: &str) -> bool {
    let short = word.strip_prefix('-').filter(|flags| !flags.starts_with('-'));
    matches!(word, "--yes" | "--assume-yes") || short.is_some_and(|flags| flags.contains('y'))
}

fn is_called_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    // A file's name is where a secret is, not what it is.
    SECRET_WORDS.iter().any(|word| name.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<(&'static str, usize)> {
        let mut found: Vec<_> =
            check("Dockerfile", text).into_iter().map(|finding| (finding.code, finding.line)).collect();
        found.sort();
        found
    }

    #[test]
    fn a_careful_file_has_no_findings() {
        let text = "# syntax=docker/dockerfile:1\nARG VERSION=12\nFROM debian:$VERSION AS build\nRUN apt-get update \\\n && apt-get install -qy gcc \\\n && rm -rf /var/lib/apt/lists/*\n\
                    RUN --mount=type=cache,target=/var/lib/apt apt-get install -y make\n\
                    ADD https.txt /\nENV PATH=/app TOKEN_FILE=/run/secrets/token\n\
                    FROM build\nFROM scratch\nCOPY --from=build /app /app\nUSER 10001:10001\nCMD [\"/app\"]\n";
        assert_eq!(codes(text), []);
        assert_eq!(codes("FROM r.example.org:5000/base@sha256:00\nUSER app\n"), []);
    }

    #[test]
    fn each_rule_names_its_line() {
        for (text, wanted) in [
            ("FROM debian\nUSER a\n", ("dockerfile-base-untagged", 1)),
            ("FROM r.example.org:5000/base\nUSER a\n", ("dockerfile-base-untagged", 1)),
            ("FROM debian:latest\nUSER a\n", ("dockerfile-base-latest", 1)),
            ("FROM debian:12\n", ("dockerfile-no-user", 1)),
            ("FROM debian:12\nUSER a\nUSER root\n", ("dockerfile-root-user", 3)),
            ("FROM debian:12\nUSER a\nADD https://example.org/x /x\n", ("dockerfile-add-remote", 3)),
            (
                "FROM debian:12\nUSER a\nRUN apt-get install gcc; rm -r /var/lib/apt/lists\n",
                ("dockerfile-apt-yes", 3),
            ),
            ("FROM debian:12\nUSER a\nRUN <<X\napt-get install -y gcc\nX\n", ("dockerfile-apt-lists", 3)),
            ("FROM debian:12\nUSER a\nCMD a\nCMD b\n", ("dockerfile-several-cmd", 3)),
            ("FROM debian:12\nUSER a\nENTRYPOINT a\nENTRYPOINT b\n", ("dockerfile-several-entrypoint", 3)),
            ("FROM debian:12\nUSER a\nARG npm_token\n", ("dockerfile-secret", 3)),
            ("FROM debian:12\nUSER a\nENV A=1 DB_PASSWORD=x\n", ("dockerfile-secret", 3)),
            ("FROM debian:12\nUSER a\n  HELLO x\n", ("dockerfile-syntax", 3)),
            ("RUN true\n", ("dockerfile-syntax", 1)),
            ("", ("dockerfile-syntax", 1)),
        ] {
            assert_eq!(codes(text), [wanted], "{text}");
        }
    }

    #[test]
    fn a_value_is_never_shown() {
        let said = format!("{:?}", check("Dockerfile", "FROM debian:12\nUSER a\nENV TOKEN=hunter22\n"));
        assert!(said.contains("dockerfile-secret") && !said.contains("hunter22"), "{said}");
    }
}
