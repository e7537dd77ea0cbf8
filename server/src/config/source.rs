//! Where the configuration comes from, and how a mistake in it is pointed at.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::raw::RawConfig;

/// Variables with this prefix are keys: `MERGEYARD_GITHUB__TOKEN` is `github.token`.
const PREFIX: &str = "MERGEYARD_";

/// Variables that speak to the command line, not to the configuration.
const NOT_KEYS: [&str; 2] = ["MERGEYARD_CONFIG", "MERGEYARD_LOG"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}{}", unread(source, path))]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Placed(Place),
    #[error("environment: {variable}: {message}")]
    Environment { variable: String, message: String },
    #[error("configuration: `{key}` {why}")]
    Value { key: String, why: String },
    #[error(
        "no webhook secret is configured, so nothing could prove where a webhook comes from: set \
         `github.webhook_secret` in mergeyard.toml or MERGEYARD_GITHUB__WEBHOOK_SECRET"
    )]
    NoSecret,
}

impl ConfigError {
    pub(super) fn value(key: &str, why: &str) -> Self {
        Self::Value { key: key.to_owned(), why: why.to_owned() }
    }
}

/// What to do about a file that cannot be read.
fn unread(why: &std::io::Error, path: &Path) -> String {
    use std::io::ErrorKind;
    match why.kind() {
        ErrorKind::NotFound => ": name the configuration with --config or MERGEYARD_CONFIG".to_owned(),
        ErrorKind::IsADirectory => {
            format!(": name the file in it, such as {}", path.join("mergeyard.toml").display())
        }
        ErrorKind::PermissionDenied => ": run this as a user who may, such as the server's".to_owned(),
        ErrorKind::InvalidData => ": write it anew as UTF-8, as `iconv -t UTF-8` does".to_owned(),
        _ => String::new(),
    }
}

/// A mistake with its line.
#[derive(Debug)]
pub struct Place {
    file: PathBuf,
    line: usize,
    column: usize,
    text: String,
    message: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, text, message } = self;
        writeln!(f, "{}:{line}:{column}: {message}", file.display())?;
        writeln!(f, "{line:>5} | {text}")?;
        write!(f, "      | {:>column$}", "^")
    }
}

/// The configuration as it was written, with what is needed to say where.
pub(super) struct Written {
    pub(super) raw: RawConfig,
    /// What relative paths are relative to.
    pub(super) folder: PathBuf,
    pub(super) origin: Origin,
}

/// Where the keys stand: in the file, or over it in the environment.
#[derive(Default)]
pub(super) struct Origin {
    file: Option<(PathBuf, String)>,
    variables: Vec<Variable>,
}

struct Variable {
    name: String,
    /// `["github", "token"]`.
    keys: Vec<String>,
}

pub(super) fn read(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Written, ConfigError> {
    let mut table = Table::new();
    let mut folder = std::env::current_dir().unwrap_or_default();
    let mut origin = Origin::default();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let wrong = |error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            ConfigError::Placed(place(path, &text, at, advice(error.message())))
        };
        // Read on its own first: only here a mistake still has a line.
        toml::from_str::<RawConfig>(&text).map_err(wrong)?;
        table = text.parse().map_err(wrong)?;
        if let Some(parent) = path.parent() {
            folder = folder.join(parent);
        }
        origin.file = Some((path.to_owned(), text));
    }
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix(PREFIX).filter(|_| !NOT_KEYS.contains(&name.as_str())) {
            let keys: Vec<String> = key.to_ascii_lowercase().split("__").map(str::to_owned).collect();
            set(&mut table, &keys, scalar(&name, &value)?);
            origin.variables.push(Variable { name, keys });
        }
    }
    let raw = typed(table).map_err(|(path, message)| origin.of_a_variable(&path, &message))?;
    Ok(Written { raw, folder, origin })
}

pub(super) fn read_table(table: Table) -> Result<Written, ConfigError> {
    let raw = typed(table).map_err(|(key, message)| ConfigError::Value { key, why: advice(&message) })?;
    let folder = std::env::current_dir().unwrap_or_default();
    Ok(Written { raw, folder, origin: Origin::default() })
}

/// The configuration, or the key that is wrong and what serde says of it.
fn typed(table: Table) -> Result<RawConfig, (String, String)> {
    serde_path_to_error::deserialize(Value::Table(table))
        .map_err(|error| (error.path().to_string(), error.inner().message().to_owned()))
}

fn set(table: &mut Table, keys: &[String], value: Value) {
    let Some((last, path)) = keys.split_last() else { return };
    let mut at = table;
    for part in path {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            // A secret written as text in the file gives way to `…__FILE` in the environment.
            *entry = Value::Table(Table::new());
        }
        let Value::Table(next) = entry else { unreachable!("made a table above") };
        at = next;
    }
    at.insert(last.to_owned(), value);
}

/// Lists, tables and booleans are written as in TOML; anything else is text.
fn scalar(name: &str, value: &str) -> Result<Value, ConfigError> {
    match value {
        "true" => Ok(Value::Boolean(true)),
        "false" => Ok(Value::Boolean(false)),
        _ if value.starts_with(['[', '{']) => {
            let table: Table = format!("value = {value}").parse().map_err(|_| ConfigError::Environment {
                variable: name.to_owned(),
                message: "begins like a list or table but is not written as TOML".to_owned(),
            })?;
            Ok(table.get("value").cloned().unwrap_or(Value::Boolean(false)))
        }
        _ => Ok(Value::String(value.to_owned())),
    }
}

impl Origin {
    /// A mistake about a key, with the variable or the line that has it.
    pub(super) fn point(&self, error: ConfigError) -> ConfigError {
        let ConfigError::Value { key, why } = &error else { return error };
        if let Some(Variable { name, .. }) = self.variable(key) {
            return ConfigError::Environment { variable: name.clone(), message: format!("`{key}` {why}") };
        }
        let Some((file, text)) = &self.file else { return error };
        match find(text, key) {
            Some(at) => ConfigError::Placed(place(file, text, at, format!("`{key}` {why}"))),
            None => error,
        }
    }

    /// The variable that sets this key, what it stands in, or a part of it.
    fn variable(&self, key: &str) -> Option<&Variable> {
        let names: Vec<&str> = parts(key).filter(|part| part.parse::<usize>().is_err()).collect();
        self.variables.iter().find(|variable| variable.keys.iter().zip(&names).all(|(a, b)| a == b))
    }

    /// What is wrong and was not in the file alone was brought by a variable.
    fn of_a_variable(&self, key: &str, message: &str) -> ConfigError {
        let quoted = message.split('`').nth(1).unwrap_or_default();
        let inner = match key {
            "." => quoted.to_owned(),
            _ => format!("{key}.{quoted}"),
        };
        let variable = self.variable(&inner).or_else(|| self.variable(key));
        let variable = variable.map_or_else(|| "a variable".to_owned(), |variable| variable.name.clone());
        let is_in_list = key.contains('[');
        let message = if message.starts_with("missing field") {
            let other = format!("{PREFIX}{}", inner.replace('.', "__").to_ascii_uppercase());
            let how = if is_in_list { "write it there".to_owned() } else { format!("set {other}") };
            format!("`{key}` needs the key `{quoted}` too; {how}")
        } else if is_in_list && !message.starts_with("unknown field") {
            format!("`{key}`: {}", advice(message))
        } else if message.ends_with("expected a table") {
            let each = format!("each key in a variable of its own, {variable}__KEY");
            format!("{}; write {{KEY = \"VALUE\"}}, or {each}", advice(message))
        } else {
            advice(message)
        };
        ConfigError::Environment { variable, message }
    }
}

/// `repo[0].cron[1]` is `repo`, `0`, `cron`, `1`.
fn parts(key: &str) -> impl Iterator<Item = &str> {
    key.split(['.', '[', ']']).filter(|part| !part.is_empty())
}

/// Where in the file a key stands, or what it is missing from.
fn find(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut value = DeValue::Table(document.into_inner());
    for part in parts(key) {
        let next = match &value {
            DeValue::Table(table) => table
                .iter()
                .find(|(name, _)| name.get_ref() == part)
                .map(|(name, value)| (name.span().start, value)),
            DeValue::Array(list) => {
                let nth = part.parse().ok().and_then(|nth: usize| list.get(nth));
                nth.map(|value| (value.span().start, value))
            }
            _ => None,
        };
        let Some((at, inner)) = next else { break };
        found = Some(at);
        value = inner.get_ref().clone();
    }
    found
}

fn place(file: &Path, text: &str, at: usize, message: String) -> Place {
    let at = at.min(text.len());
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line_text = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    Place {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        text: shown(line_text),
        message,
    }
}

/// The line as it may be shown: what follows a key that sounds secret is not repeated.
fn shown(line: &str) -> String {
    let secret = |before: &str| {
        let key = before.trim_end().rsplit([' ', '\t', ',', '{', '.', '"']).find(|word| !word.is_empty());
        let key = key.unwrap_or_default().to_ascii_lowercase();
        ["secret", "token", "password"].iter().any(|word| key.contains(word))
            || ["key", "value"].contains(&key.as_str())
    };
    let mut ends = line.match_indices('=').map(|(at, _)| at);
    if let Some(at) = ends.find(|at| secret(&line[..*at])) {
        return format!("{}= …", &line[..at]);
    }
    match line.split_once("://") {
        Some((scheme, login)) if login.contains('@') => format!("{scheme}://…"),
        _ => line.to_owned(),
    }
}

/// What serde says, in words for people: the nearest known key, and never a value.
fn advice(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        return kinds(found, expected);
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return message.to_owned();
    }
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    match nearest(unknown, quoted) {
        Some(nearest) => format!("unknown key `{unknown}`; the nearest known key is `{nearest}`"),
        None => format!("unknown key `{unknown}`"),
    }
}

fn kinds(found: &str, expected: &str) -> String {
    let found = match found.split(' ').next() {
        Some("string") => "text",
        Some("boolean") => "`true` or `false`",
        Some("map") => "a table",
        Some("sequence") => "a list",
        _ => "a number",
    };
    match expected {
        "a boolean" => "expected `true` or `false`".to_owned(),
        "a sequence" => format!("expected a list such as [\"a\", \"b\"], not {found}"),
        "i64" | "u64" | "u32" | "u16" | "usize" => format!("expected a whole number, not {found}"),
        "path string" => format!("expected a path, not {found}"),
        expected => format!("expected {expected}, not {found}"),
    }
}

/// What was most likely meant.
pub(super) fn nearest<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known.max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = std::env::temp_dir().join(format!("mergeyard-config-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("mergeyard.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::write(folder.join("token"), "from-a-file\n").unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::load(Some(&file), environment);
        std::fs::remove_dir_all(folder).unwrap();
        config
    }

    const SECRET: &str = "[github]\nwebhook_secret = \"0123456789abcdef\"\n";

    #[test]
    fn an_unknown_key_is_shown_on_its_line_with_the_nearest_known_one() {
        let error = load("data_dir = \"/tmp\"\n\n[http]\nlisten_on = \"127.0.0.1:1\"\n", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("mergeyard.toml:4:1: unknown key `listen_on`; the nearest known key is `listen`"),
            "{error}"
        );
        assert!(error.contains("4 | listen_on = "), "{error}");
    }

    #[test]
    fn without_a_secret_nothing_starts() {
        assert!(matches!(load("", &[]), Err(ConfigError::NoSecret)));
        let error = load("[github]\nwebhook_secret = \"short\"\n", &[]).unwrap_err().to_string();
        assert!(error.contains("fewer than 16"), "{error}");
    }

    #[test]
    fn a_mistake_beside_a_secret_does_not_show_it() {
        let error = load("[github]\ntoken = \"hunter2hunter2\" x\n", &[]).unwrap_err().to_string();
        assert!(error.contains(":2:") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_environment_goes_over_the_file_and_secrets_come_from_files() {
        let config = load(
            SECRET,
            &[
                ("MERGEYARD_GITHUB__TOKEN__FILE", "token"),
                ("MERGEYARD_ENGINE__PARALLEL", "7"),
                ("MERGEYARD_ENGINE__MEMORY_MB", "512"),
                ("MERGEYARD_REGISTRY__REQUESTS_PER_MINUTE", "600"),
                ("MERGEYARD_REGISTRY__REPOSITORY", r#"[{name = "acme/*", keep_last = 3}]"#),
                ("MERGEYARD_REPO", r#"[{name = "acme/*", branches = ["develop"]}]"#),
                ("MERGEYARD_LOG", "debug"),
                ("HOME", "/root"),
            ],
        )
        .unwrap();
        assert_eq!(config.github.token.unwrap().expose(), "from-a-file");
        assert_eq!((config.engine.parallel, config.engine.memory), (7, Some(512 << 20)));
        let crate::config::Registry::Embedded(registry) = &config.registry else { panic!("it is embedded") };
        assert_eq!(registry.config.limits.requests_per_minute.unwrap().get(), 600);
        assert_eq!(registry.config.rules(&"acme/a".parse().unwrap()).retention.keep_last, Some(3));
        assert_eq!(config.rules.policies.0.len(), 1);
        let error = load(SECRET, &[("MERGEYARD_HTTP__LISTN", "x")]).unwrap_err().to_string();
        assert!(error.contains("unknown key `listn`; the nearest known key is `listen`"), "{error}");
    }

    #[test]
    fn a_wrong_variable_is_named_with_what_to_write_and_without_its_value() {
        for (name, value, expected) in [
            (
                "MERGEYARD_HTTP__LISTEN",
                "hunter2",
                "no IP address with a port; write one such as 127.0.0.1:8088",
            ),
            ("MERGEYARD_HTTP__PUBLIC_URL", "hunter2", "write one such as https://ci.example.org"),
            ("MERGEYARD_REGISTRY__EMBEDDED", "hunter2", "expected `true` or `false`"),
            ("MERGEYARD_ENGINE__PARALLEL", "hunter2", "expected a whole number from 0 on, such as 4"),
            (
                "MERGEYARD_HTTP",
                "hunter2",
                "expected a table, not text; write {KEY = \"VALUE\"}, or each key in a variable of its own, MERGEYARD_HTTP__KEY",
            ),
            ("MERGEYARD_REPO", "hunter2", "expected a list such as [\"a\", \"b\"], not text"),
            (
                "MERGEYARD_REPO",
                "[{name = \"a/b\", id = \"hunter2\"}]",
                "`repo[0].id`: expected a whole number, not text",
            ),
            ("MERGEYARD_REPO", "[\"hunter2\"]", "`repo[0]`: expected a table, not text"),
            ("MERGEYARD_REPO", "[{id = 1}]", "`repo[0]` needs the key `name` too; write it there"),
            ("MERGEYARD_REPO", "[hunter2", "begins like a list or table but is not written as TOML"),
            ("MERGEYARD_DATA_DIR", "true", "expected a path, not `true` or `false`"),
            (
                "MERGEYARD_GITHUB__TOKEN",
                "true",
                "expected a string, {file = \"…\"} or {env = \"…\"}, not `true` or `false`",
            ),
            (
                "MERGEYARD_HTTP__TLS__CERT",
                "hunter2",
                "`http.tls` needs the key `key` too; set MERGEYARD_HTTP__TLS__KEY",
            ),
            ("MERGEYARD_HTP__LISTEN", "hunter2", "unknown key `htp`; the nearest known key is `http`"),
            (
                "MERGEYARD_GITHUB__WEBHOOK_SECRET",
                "hunter2",
                "`github.webhook_secret` has fewer than 16 characters",
            ),
            ("MERGEYARD_GITHUB__TOKEN__FILE", "none", "`github.token` cannot be read from "),
        ] {
            // What is right beside it is not blamed.
            let right = ("MERGEYARD_GITHUB__NGROK_URL", "http://127.0.0.1:1");
            let error = load(SECRET, &[right, (name, value)]).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("environment: {name}: ")) && error.contains(expected),
                "{error}"
            );
            assert!(!error.contains("hunter2") && !error.contains("Raw"), "{error}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_meant_is_shown_on_its_line() {
        let two = "[[repo]]\nname = \"acme/a\"\n\n[[repo]]\n";
        for (text, expected) in [
            (
                "[github]\nwebhook_secret = \"short\"\n",
                "mergeyard.toml:2:1: `github.webhook_secret` has fewer than 16",
            ),
            (
                "github.token = {env = \"MERGEYARD_NO_SUCH\"}\n",
                ":1:8: `github.token` is to come from the variable MERGEYARD_NO_SUCH, which is not set; set it",
            ),
            ("[secrets]\nkey = {file = \"none\"}\n", ":2:1: `secrets.key` cannot be read from "),
            (
                &format!("{two}name = \"acme/b\"\n  targets = [\"vm\"]\n"),
                ":6:3: `repo[1].targets` names `vm`",
            ),
            (
                &format!("{two}name = \"acme/b\"\nevents = [\"pussh\"]\n"),
                ":6:1: `repo[1].events` names `pussh`",
            ),
            (
                &format!("{two}name = \"acme/b\"\n[[repo.cron]]\nname = \"n\"\nschedule = \"no\"\n"),
                ":6:1: `repo[1].cron[0]` has a `schedule`",
            ),
            (
                "repo = [{name = \"acme/a\"}, {name = \"acme/b\", forks = \"no\"}]\n",
                ":1:46: `repo[1].forks` names `no`",
            ),
            (
                "[[target]]\nname = \"a\"\nkind = \"local\"\n\n[[target]]\nname = \"vm\"\naddress = \"a\"\n",
                ":5:1: `target[1].user` is missing",
            ),
            ("[registry]\nembedded = false\n", ":1:2: `registry.host` is missing"),
            ("[registry]\nca = \"a\"\n", ":2:1: `registry.ca` is for another registry"),
            ("[[secret]]\nname = \"a\"\nvalue = \"hunter2\"\n", ":1:1: `secret[0]` must say whose"),
            ("secret = [{value = \"hunter2\", name = \"a\"}]\n", ":1:11: `secret[0]` must say whose"),
        ] {
            let text = format!("{text}[git]\nwebhook_secret = \"0123456789abcdef\"\n");
            let error = load(&text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}\n{error}");
            assert!(
                error.contains(" | ") && !error.contains("hunter2") && !error.contains("short\""),
                "{error}"
            );
        }
    }

    #[test]
    fn what_could_never_work_is_refused_with_what_does() {
        let repo = |keys: &str| format!("{SECRET}[[repo]]\n{keys}\n");
        for (text, expected) in [
            (
                repo("name = \"x\""),
                ":4:1: `repo[0].name` is `x`, which no repository has; write OWNER/NAME, or a pattern such as OWNER/* or **",
            ),
            (repo("name = \"a b/*\""), ":4:1: `repo[0].name` is `a b/*`, which no repository has"),
            (repo("name = \"[x\""), ":4:1: `repo[0].name` has `[x` is not a pattern"),
            (repo("name = \"a/b\"\nbranches = [\"[x\"]"), ":5:1: `repo[0].branches` has "),
            (
                repo("name = \"a/b\"\nclone_url = \"https://me:hunter2@a/{nam}\""),
                ":5:1: `repo[0].clone_url` has `{nam}`, which stands for nothing; there are {owner} and {name}",
            ),
            (
                format!("{SECRET}[engine]\nhost = \"foo://bar\""),
                ":4:1: `engine.host` is `foo://bar`, which is no address of an engine; write unix:///PATH, tcp://HOST:PORT, http://HOST:PORT or https://HOST:PORT",
            ),
            (
                format!("{SECRET}[pipelines]\nplatform = \"x\""),
                ":4:1: `pipelines.platform` is `x`, which is no platform; write OS/ARCH, such as linux/amd64",
            ),
        ] {
            let error = load(&text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{expected}\n{error}");
        }
        for name in ["a/b", "a/b/c", "*", "**", "acme*", "{acme,other}/*", "[a-c]/clock-?", "A_1/*.x"] {
            let url = "clone_url = \"https://git.example.org/{owner}/{name}.git\"";
            load(&repo(&format!("name = \"{name}\"\n{url}")), &[]).unwrap();
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_what_to_do() {
        let folder = std::env::temp_dir().join(format!("mergeyard-config-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let bytes = folder.join("bytes.toml");
        std::fs::write(&bytes, [0xff, 0xfe]).unwrap();
        for (path, expected) in [
            (folder.join("none.toml"), "none.toml: name the configuration with --config or MERGEYARD_CONFIG"),
            (folder.clone(), "/mergeyard.toml"),
            (bytes, "bytes.toml: write it anew as UTF-8"),
        ] {
            let error = Config::load(Some(&path), std::iter::empty()).unwrap_err().to_string();
            assert!(error.starts_with("cannot read ") && error.contains(expected), "{error}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_repository_says_what_it_may_and_when_it_starts_by_itself() {
        let text = format!(
            "{SECRET}[[repo]]\nname = \"acme/clock\"\ntrusted = [\"network\"]\nevents = [\"push\"]\nforks = \"ignore\"\n\
             [[repo.cron]]\nname = \"nightly\"\nschedule = \"0 4 * * *\"\nbranch = \"main\"\n\
             [pipelines]\nmatrix_limit = 9\nlabels = {{ gpu = \"yes\" }}\nplatform = \"linux/arm64\"\n"
        );
        let rules = load(&text, &[]).unwrap().rules;
        let policy = &rules.policies.0[0];
        assert!(policy.trust.network && !policy.trust.security && !policy.trust.volumes);
        assert_eq!(
            (policy.events(), policy.forks),
            ("push".to_owned(), mergeyard_plan::policy::Forks::Ignore)
        );
        assert_eq!((rules.pipelines.matrix_limit, rules.pipelines.platform.as_str()), (9, "linux/arm64"));
        let schedule = &rules.schedules[0];
        assert_eq!(schedule.branch.as_ref().unwrap().as_str(), "refs/heads/main");
        // 2030-01-01 00:00, and the last minute before it is due: each leads to 04:00.
        let due = mergeyard_types::Timestamp(1_893_470_400_000);
        for now in [1_893_456_000_000, 1_893_470_399_999] {
            assert_eq!(schedule.next(mergeyard_types::Timestamp(now)), Some(due));
        }
        assert_eq!(schedule.next(due), Some(mergeyard_types::Timestamp(due.0 + 24 * 3600 * 1000)));
    }

    #[test]
    fn a_word_that_means_nothing_is_shown_with_the_nearest_that_does() {
        for (keys, expected) in [
            (
                "trusted = [\"volume\"]",
                "`repo[0].trusted` names `volume`, which is not a right; the nearest is `volumes`",
            ),
            ("events = [\"pull_requests\"]", "the nearest is `pull_request`"),
            (
                "forks = \"aprove\"",
                "`repo[0].forks` names `aprove`, which is not an answer; the nearest is `approve`",
            ),
            (
                "cron = [{name = \"n\", schedule = \"every day\"}]",
                "`repo[0].cron[0]` has a `schedule` that is none",
            ),
            (
                "cron = [{name = \"n\", schedule = \"@daily\"}, {name = \"n\", schedule = \"@daily\"}]",
                "`repo[0].cron[1]` has the name `n`",
            ),
        ] {
            let error = load(&format!("{SECRET}[[repo]]\nname = \"acme/clock\"\n{keys}\n"), &[])
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
        let pattern = format!(
            "{SECRET}[[repo]]\nname = \"acme/*\"\ncron = [{{name = \"n\", schedule = \"@daily\"}}]\n"
        );
        assert!(load(&pattern, &[]).unwrap_err().to_string().contains("the pattern `acme/*`"));
    }

    #[test]
    fn an_external_registry_needs_all_of_its_keys() {
        let text = format!("{SECRET}[registry]\nembedded = false\nhost = \"registry.example.org:5000\"\n");
        let error = load(&text, &[]).unwrap_err().to_string();
        assert!(error.contains("`registry.username` is missing"), "{error}");
    }
}
