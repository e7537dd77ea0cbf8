//! Where the configuration comes from, and how a mistake in it is pointed at.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::raw::RawConfig;

/// Variables with this prefix are keys: `MERGEYARD_GITHUB__TOKEN` is `github.token`.
const PREFIX: &str = "MERGEYARD_";

/// Variables that speak to the command line, not to the configuration.
const NOT_KEYS: [&str; 2] = ["MERGEYARD_CONFIG", "MERGEYARD_LOG"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Toml(Place),
    #[error("environment: {message}")]
    Environment { message: String },
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

/// The configuration, and the folder its relative paths are relative to.
pub(super) fn read(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(RawConfig, PathBuf), ConfigError> {
    let mut table = Table::new();
    let mut folder = std::env::current_dir().unwrap_or_default();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        // Read on its own first: only here a mistake still has a line.
        toml::from_str::<RawConfig>(&text).map_err(|error| ConfigError::Toml(place(path, &text, &error)))?;
        table = text.parse().map_err(|error| ConfigError::Toml(place(path, &text, &error)))?;
        if let Some(parent) = path.parent() {
            folder = folder.join(parent);
        }
    }
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix(PREFIX).filter(|_| !NOT_KEYS.contains(&name.as_str())) {
            set(&mut table, &name, key, &value)?;
        }
    }
    Ok((typed(table)?, folder))
}

pub(super) fn read_table(table: Table) -> Result<(RawConfig, PathBuf), ConfigError> {
    Ok((typed(table)?, std::env::current_dir().unwrap_or_default()))
}

fn typed(table: Table) -> Result<RawConfig, ConfigError> {
    Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| ConfigError::Environment { message: advice(error.message()) })
}

fn set(table: &mut Table, name: &str, key: &str, value: &str) -> Result<(), ConfigError> {
    let key = key.to_ascii_lowercase();
    let mut path: Vec<&str> = key.split("__").collect();
    let Some(last) = path.pop() else { return Ok(()) };
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
    at.insert(last.to_owned(), scalar(name, value)?);
    Ok(())
}

/// Lists, tables and booleans are written as in TOML; anything else is text.
fn scalar(name: &str, value: &str) -> Result<Value, ConfigError> {
    match value {
        "true" => Ok(Value::Boolean(true)),
        "false" => Ok(Value::Boolean(false)),
        _ if value.starts_with(['[', '{']) => {
            let table: Table = format!("value = {value}").parse().map_err(|_| ConfigError::Environment {
                message: format!("{name} begins like a list or table but is not written as TOML"),
            })?;
            Ok(table.get("value").cloned().unwrap_or(Value::Boolean(false)))
        }
        _ => Ok(Value::String(value.to_owned())),
    }
}

fn place(file: &Path, text: &str, error: &toml::de::Error) -> Place {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = text.get(..at).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line_text = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    Place {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        text: shown(line_text),
        message: advice(error.message()),
    }
}

/// The line as it may be shown: a value beside a key that sounds secret is not repeated.
fn shown(line: &str) -> String {
    let Some((key, _)) = line.split_once('=') else { return line.to_owned() };
    let name = key.trim().to_ascii_lowercase();
    let secret = ["secret", "token", "password"].iter().any(|word| name.contains(word)) || name == "key";
    if secret { format!("{key}= …") } else { line.to_owned() }
}

/// Adds the nearest known key to serde's "unknown field".
fn advice(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
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
