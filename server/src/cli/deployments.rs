//! `mergeyard deployments [TARGET]`.

use mergeyard_types::TargetName;

use super::{Failed, Format, cancel::open, text};
use crate::{api, config::Config, store::Deployed};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only to this target [default: to all]
    target: Option<TargetName>,
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    #[arg(long, default_value_t = 20, value_parser = text::rows)]
    limit: u32,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) async fn deployments(config: Config, args: Args) -> Result<(), Failed> {
    let Args { target, service, limit, format } = args;
    let store = open(&config).await?;
    let rows = store.deployed(target.as_ref(), service.as_deref(), None, limit).await?;
    if format == Format::Json {
        say!("{}", serde_json::to_string_pretty(&rows.iter().map(api::Deployment::of).collect::<Vec<_>>())?);
        return Ok(());
    }
    if rows.is_empty() {
        say!("nothing was deployed{}", target.map(|name| format!(" to {name}")).unwrap_or_default());
    }
    for one in &rows {
        let row = &one.row;
        let before = row.before.map(|before| format!("{} -> ", before.short())).unwrap_or_default();
        say!(
            "{}  {:11}  {}  {}  {before}{}  run {}  {}",
            text::time(row.started),
            row.state,
            row.target,
            text::plain(&row.service),
            edition(one),
            row.run,
            text::plain(row.health.as_deref().unwrap_or_default()).trim_end()
        );
    }
    Ok(())
}

/// `0.2.0 1f2e3d4c5b6a`, or the digest alone.
pub(super) fn edition(one: &Deployed) -> String {
    let version = one.version.as_ref().map(|version| format!("{version} ")).unwrap_or_default();
    format!("{version}{}", one.row.digest.short())
}
