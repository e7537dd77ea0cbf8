//! `mergeyard registry robot create|list|rotate|revoke`: accounts for programs.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Subcommand;
use mergeyard_registry::{Grant, NewRobot, Right, Robot, RobotError, RobotName, Robots};
use mergeyard_types::{Secret, Timestamp};
use serde_json::{Value, json};

use super::configured;
use crate::{
    cli::{Failed, Format, of_this_user, text},
    config::{Embedded, Registry, RegistryAlone},
    data_dir::DataDir,
};

#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// Make a robot and show its secret, this once
    ///
    /// A pattern is a repository such as acme/clock, those directly below acme/* or all below acme/**.
    /// Whoever pushes also looks at what is there, and wants --pull for the same pattern.
    Create {
        name: RobotName,
        /// Repositories it may pull from; may be repeated
        #[arg(long, value_name = "PATTERN")]
        pull: Vec<String>,
        /// Repositories it may push to; may be repeated
        #[arg(long, value_name = "PATTERN")]
        push: Vec<String>,
        /// Repositories it may delete from; may be repeated
        #[arg(long, value_name = "PATTERN")]
        delete: Vec<String>,
        /// How long it is good, such as 90d or 12h [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires: Option<Duration>,
        /// What it is for, for whoever reads the list
        #[arg(long)]
        description: Option<String>,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// The robots and what each may do
    List {
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Give a robot another secret; the one it had is void at once
    Rotate {
        name: RobotName,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Take a robot away; its secret and its tokens are void at once
    Revoke { name: RobotName },
}

pub(super) fn robot(command: Command, file: Option<PathBuf>) -> Result<(), Failed> {
    let is_first = matches!(command, Command::Create { .. });
    let site = Site::open(file, is_first)?;
    match command {
        Command::Create { name, pull, push, delete, expires, description, format } => {
            let grants = grants([(Right::Pull, pull), (Right::Push, push), (Right::Delete, delete)])?;
            let now = Timestamp::now();
            let expires = expires.map(|time| now.plus(time));
            let new = NewRobot { name: name.clone(), grants, expires, description };
            let secret = site.robots.create(new, now).map_err(failed)?;
            site.show(&name, &secret, format)
        }
        Command::List { format } => list(&site.robots.list()?, format),
        Command::Rotate { name, format } => {
            let secret = site.robots.rotate(&name)?;
            site.show(&name, &secret, format)
        }
        Command::Revoke { name } => {
            site.robots.revoke(&name)?;
            say!("`{name}` is revoked: its next request is refused");
            Ok(())
        }
    }
}

/// The robots of the configured registry, and what clients call it.
struct Site {
    robots: Robots,
    host: String,
}

impl Site {
    /// The first robot may be made before anything was served.
    fn open(file: Option<PathBuf>, may_make: bool) -> Result<Self, Failed> {
        let RegistryAlone { data_dir, registry, .. } = configured(file)?;
        let Registry::Embedded(config) = registry else {
            let why = "`registry.embedded` is false: robots are made where that registry is served";
            return Err(Failed::Usage(why.into()));
        };
        let data = if may_make { DataDir::open(&data_dir)? } else { DataDir::existing(&data_dir)? };
        of_this_user(&data_dir)?;
        Ok(Self { robots: Robots::open(&data.registry()), host: host(&config) })
    }

    fn show(&self, name: &RobotName, secret: &Secret, format: Format) -> Result<(), Failed> {
        let (host, secret) = (&self.host, secret.expose());
        match format {
            Format::Json => {
                let document = json!({"name": name, "secret": secret, "registry": host});
                say!("{}", serde_json::to_string_pretty(&document)?);
            }
            Format::Text => {
                say!("the secret of `{name}`, which is not shown again:\n\n  {secret}\n");
                say!(
                    "log in with it when asked for the password:\n\n  docker login --username {name} {host}"
                );
            }
        }
        Ok(())
    }
}

/// The name clients use, or the address; one that means every address is reached from here.
fn host(config: &Embedded) -> String {
    match (&config.host, config.listen) {
        (Some(host), _) => host.to_string(),
        (None, listen) if listen.ip().is_unspecified() => format!("localhost:{}", listen.port()),
        (None, listen) => listen.to_string(),
    }
}

/// One grant for each pattern, with all rights that were asked for on it.
fn grants(asked: [(Right, Vec<String>); 3]) -> Result<Vec<Grant>, Failed> {
    let mut rights = BTreeMap::<String, Vec<Right>>::new();
    for (right, patterns) in asked {
        for pattern in patterns {
            rights.entry(pattern).or_default().push(right);
        }
    }
    let grants = rights.iter().map(|(pattern, rights)| Grant::new(pattern, rights));
    grants.collect::<Result<_, _>>().map_err(|error| Failed::Usage(Box::new(error)))
}

fn failed(error: RobotError) -> Failed {
    match error {
        RobotError::Grants | RobotError::Description => Failed::Usage(Box::new(error)),
        error => error.into(),
    }
}

fn list(robots: &[Robot], format: Format) -> Result<(), Failed> {
    if format == Format::Json {
        let robots: Vec<_> = robots.iter().map(document).collect();
        say!("{}", serde_json::to_string_pretty(&robots)?);
        return Ok(());
    }
    if robots.is_empty() {
        say!("there are no robots; `mergeyard registry robot create NAME --pull 'acme/**'` makes one");
    }
    let now = Timestamp::now();
    for robot in robots {
        let expires = match robot.expires {
            None => "for good".to_owned(),
            Some(end) if end <= now => format!("expired {}", text::time(end)),
            Some(end) => format!("until {}", text::time(end)),
        };
        let description = robot.description.as_deref().map(text::plain).unwrap_or_default();
        say!("{:24}  {:30}  {description}", robot.name.as_str(), expires);
        for grant in &robot.grants {
            say!("  {:16}  {}", rights(grant).join(","), grant.repositories());
        }
    }
    Ok(())
}

fn document(robot: &Robot) -> Value {
    let grant = |grant: &Grant| json!({"repositories": grant.repositories(), "rights": rights(grant)});
    json!({
        "name": robot.name,
        "grants": robot.grants.iter().map(grant).collect::<Vec<_>>(),
        "created": robot.created.0,
        "expires": robot.expires.map(|end| end.0),
        "description": robot.description,
    })
}

fn rights(grant: &Grant) -> Vec<String> {
    grant.rights().iter().map(Right::to_string).collect()
}

/// `90d`, `12h`, `2w`; a day is 24 hours.
pub(in crate::cli) fn time(text: &str) -> Result<Duration, String> {
    let wrong = |_| format!("`{text}` is not a time such as 90d or 12h");
    let span: jiff::Span = text.parse().map_err(wrong)?;
    let time = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(wrong)?;
    match Duration::try_from(time) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err(format!("`{text}` is no time in the future")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_days_and_hours_and_lies_ahead() {
        for (text, hours) in [("90d", 2160), ("12h", 12), ("2w", 336), ("1d 2h", 26)] {
            assert_eq!(time(text), Ok(Duration::from_secs(hours * 60 * 60)), "{text}");
        }
        for bad in ["", "90", "soon", "0d", "-1d", "3 months", "99999999999999d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rights_on_one_pattern_are_one_grant() {
        let asked = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let grants = grants([
            (Right::Pull, asked(&["acme/**", "base/*"])),
            (Right::Push, asked(&["acme/**"])),
            (Right::Delete, Vec::new()),
        ]);
        let grants: Vec<_> = grants.ok().unwrap().iter().map(document_of).collect();
        assert_eq!(grants, ["acme/**: pull,push", "base/*: pull"]);
    }

    fn document_of(grant: &Grant) -> String {
        format!("{}: {}", grant.repositories(), rights(grant).join(","))
    }
}
