//! `mergeyard target check`.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use mergeyard_run::target::{Reach, Target};
use mergeyard_types::TargetName;

use crate::{
    cli::{Failed, Format},
    config::Config,
    doctor::{Level, report, target::examine},
};

#[derive(Args)]
pub(in crate::cli) struct Check {
    /// The name of a [[target]]
    name: TargetName,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) async fn check(config: &Config, asked: Check) -> Result<(), Failed> {
    let Some(configured) = config.rules.target(&asked.name) else {
        return Err(Failed::Usage(unknown(config, &asked.name).into()));
    };
    let target = &configured.target;
    let findings = examine(target, &config.engine.host).await;
    let mut out = io::stdout().lock();
    match asked.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &findings)?;
            writeln!(out)?;
        }
        Format::Text => {
            let colour =
                io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            write!(out, "{}", report(&title(target), &findings, colour))?;
        }
    }
    match findings.iter().any(|finding| finding.level == Level::Error) {
        true => Err(Failed::Told),
        false => Ok(()),
    }
}

fn title(target: &Target) -> String {
    match &target.reach {
        Reach::Local => format!("{} (the machine of the engine)", target.name),
        Reach::Ssh(ssh) => format!("{} ({}@{} port {})", target.name, ssh.user, ssh.address, ssh.port),
    }
}

fn unknown(config: &Config, name: &TargetName) -> String {
    let known: Vec<String> =
        config.rules.targets.iter().map(|known| format!("`{}`", known.target.name)).collect();
    match known.is_empty() {
        true => format!("there is no target `{name}`: the configuration has no [[target]] at all"),
        false => format!("there is no target `{name}`; the configuration has {}", known.join(", ")),
    }
}
