//! `mergeyard secret set|list|rm`. A value never stands on a command line, where every user of the
//! machine could read it.

use std::{
    io::{self, IsTerminal, Read},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use mergeyard_plan::event::EventKind;
use mergeyard_types::{RepoName, Secret, Timestamp};
use serde_json::json;

use super::{Failed, Format, cancel::open, of_this_user, text};
use crate::{
    config::{Config, event},
    data_dir::DataDir,
    secrets::{KeySource, LARGEST_VALUE, Listed, Rule, Scope, SecretName, Secrets, check_value, unmaskable},
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Keep a secret for pipelines; the value is read from standard input or a file
    ///
    /// Without --repo and --org it is for every repository. The nearest wins: a repository's own, then
    /// its organisation's, then everybody's.
    Set {
        name: SecretName,
        #[command(flatten)]
        scope: ScopeArgs,
        /// Only for this event; may be repeated [default: all but those of pull requests]
        #[arg(long = "event", value_name = "EVENT", value_parser = event)]
        events: Vec<EventKind>,
        /// Only for plugins of this image; may be repeated [default: every image]
        #[arg(long = "image", value_name = "IMAGE")]
        images: Vec<String>,
        /// Read the value from this file, to its last byte [default: standard input, without its last line end]
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// The secrets and who may have each, never a value
    List {
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Forget a secret
    Rm {
        name: SecretName,
        #[command(flatten)]
        scope: ScopeArgs,
    },
}

#[derive(Args)]
pub(super) struct ScopeArgs {
    /// Of one repository, OWNER/NAME
    #[arg(long, conflicts_with = "org")]
    repo: Option<RepoName>,
    /// Of all repositories of one owner
    #[arg(long, value_parser = Scope::organisation)]
    org: Option<Scope>,
}

impl ScopeArgs {
    fn scope(self) -> Scope {
        match self {
            Self { repo: Some(repo), .. } => Scope::repository(&repo),
            Self { org: Some(org), .. } => org,
            _ => Scope::Global,
        }
    }
}

pub(super) async fn secret(config: Config, command: Command) -> Result<(), Failed> {
    let data = DataDir::existing(&config.data_dir)?;
    // A key made by another user would lock the server out.
    of_this_user(&config.data_dir)?;
    let store = open(&config).await?;
    let keys = KeySource::new(config.master_key.clone(), &data);
    let secrets = Secrets { store, keys, rules: config.rules.into() };
    match command {
        Command::Set { name, scope, events, images, file } => {
            set(&secrets, &scope.scope(), &name, Rule { events, images }, file.as_deref()).await
        }
        Command::List { format } => list(&secrets, format).await,
        Command::Rm { name, scope } => remove(&secrets, &scope.scope(), &name).await,
    }
}

async fn set(
    secrets: &Secrets,
    scope: &Scope,
    name: &SecretName,
    rule: Rule,
    file: Option<&Path>,
) -> Result<(), Failed> {
    let value = value(file)?;
    check_value(value.expose()).map_err(|why| Failed::Usage(why.into()))?;
    if let Some(why) = unmaskable(value.expose()) {
        eprintln!("warning: {why}");
    }
    secrets.set(scope, name, rule, &value, Timestamp::now()).await?;
    say!("secret `{name}` of {scope} is set");
    if secrets.rules.pipeline_secrets.iter().any(|other| other.scope == *scope && other.name == *name) {
        eprintln!("warning: the configuration names a secret `{name}` of {scope} too, and that one is used");
    }
    Ok(())
}

async fn list(secrets: &Secrets, format: Format) -> Result<(), Failed> {
    let listed = secrets.list().await?;
    if format == Format::Json {
        let listed: Vec<_> = listed.iter().map(document).collect();
        say!("{}", serde_json::to_string_pretty(&listed)?);
        return Ok(());
    }
    if listed.is_empty() {
        say!("there are no secrets; `mergeyard secret set NAME --repo OWNER/NAME` keeps one");
    }
    for secret in listed {
        let Listed { scope, name, rule, updated } = secret;
        let since = updated.map_or_else(|| "from the configuration".to_owned(), text::time);
        let events = words(rule.events.iter().map(|event| event.as_str()), "all but pull requests");
        let images = words(rule.images.iter().map(String::as_str), "every image");
        say!("{:24}  {name:24}  {since:22}  {events}; {}", scope.to_string(), text::plain(&images));
    }
    Ok(())
}

async fn remove(secrets: &Secrets, scope: &Scope, name: &SecretName) -> Result<(), Failed> {
    if secrets.store.remove_secret(&scope.word(), name.as_str()).await? {
        say!("secret `{name}` of {scope} is forgotten");
        return Ok(());
    }
    let configured = secrets.rules.pipeline_secrets.iter().any(|s| s.scope == *scope && s.name == *name);
    Err(Failed::work(match configured {
        true => format!("secret `{name}` of {scope} stands in the configuration; take it out there"),
        false => format!("there is no secret `{name}` of {scope}; `mergeyard secret list` shows them"),
    }))
}

fn value(file: Option<&Path>) -> Result<Secret, Failed> {
    let named =
        |what: &str, error: &dyn std::fmt::Display| Failed::work(format!("cannot read {what}: {error}"));
    if let Some(path) = file {
        let what = path.display().to_string();
        let file = std::fs::File::open(path).map_err(|error| named(&what, &error))?;
        return limited(file).map(Secret::new).map_err(|error| named(&what, &error));
    }
    if io::stdin().is_terminal() {
        eprintln!("type the value and end it with Ctrl-D on a line of its own:");
    }
    let mut value = limited(io::stdin().lock()).map_err(|error| named("the value", &error))?;
    // `echo` ends with one, and no password does.
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    Ok(Secret::new(value))
}

/// One byte too many is enough to refuse the rest. What is not UTF-8 is refused without being shown.
fn limited(from: impl Read) -> io::Result<String> {
    let mut value = String::new();
    from.take(LARGEST_VALUE as u64 + 3).read_to_string(&mut value)?;
    Ok(value)
}

fn document(secret: &Listed) -> serde_json::Value {
    let Listed { scope, name, rule, updated } = secret;
    let (repository, organisation) = match scope {
        Scope::Global => (None, None),
        Scope::Organisation(name) => (None, Some(name)),
        Scope::Repository(name) => (Some(name), None),
    };
    json!({
        "name": name.as_str(),
        "repository": repository,
        "organisation": organisation,
        "events": rule.events,
        "images": rule.images,
        "source": if updated.is_some() { "database" } else { "configuration" },
        "updated": updated.map(|at| at.0),
    })
}

fn words<'a>(words: impl Iterator<Item = &'a str>, none: &str) -> String {
    let words: Vec<&str> = words.collect();
    if words.is_empty() { none.to_owned() } else { words.join(", ") }
}
