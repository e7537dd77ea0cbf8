//! `mergeyard target list`.

use mergeyard_types::Timestamp;

use crate::{
    api,
    cli::{Failed, Format, cancel::open, deployments::edition, text},
    config::Config,
    store::Seen,
    targets::{self, Condition, Service, Standing},
};

pub(super) async fn list(config: &Config, format: Format) -> Result<(), Failed> {
    let store = open(config).await?;
    let all = targets::all(&store, &config.rules, Timestamp::now()).await?;
    if format == Format::Json {
        say!("{}", serde_json::to_string_pretty(&api::Targets::of(&all))?);
        return Ok(());
    }
    if all.is_empty() {
        say!("no targets are configured; a `[[target]]` in the configuration defines one");
    }
    for standing in &all {
        tell(standing);
    }
    Ok(())
}

fn tell(standing: &Standing) {
    let reach = standing.defined.as_ref().map(|defined| targets::reach(&defined.target));
    say!("{}  {}", standing.name, reach.as_deref().unwrap_or("no longer defined"));
    if let Some(until) = standing.frozen_until {
        say!("  frozen until {}", text::time(until));
    }
    for service in &standing.services {
        let live = service.live.as_ref().map_or_else(|| "nothing proven yet".to_owned(), edition);
        let condition = service.condition();
        let mut line = format!("  {:11}  {:20}  {live}", condition.as_str(), text::plain(&service.name));
        if let Some(said) = said(service, condition) {
            line += &format!("  {}", text::plain(&said));
        }
        say!("{}", line.trim_end());
    }
    for row in &standing.waiting {
        let why = row.why.as_deref().unwrap_or("waits for its turn");
        say!("  {:11}  run {} of {}: {}", "waiting", row.run, row.repo, text::plain(why));
    }
}

/// What is to be known besides that it is live.
fn said(service: &Service, condition: Condition) -> Option<String> {
    let newest = || {
        let row = &service.newest.as_ref()?.row;
        let health = row.health.as_deref().map(|health| format!(": {health}")).unwrap_or_default();
        Some(format!("run {} {}{health}", row.run, row.state))
    };
    match condition {
        Condition::Deploying | Condition::Unknown | Condition::Nothing => newest(),
        Condition::Drifted | Condition::Unreachable => {
            let drift = service.drift.as_ref()?;
            let since = text::time(drift.since);
            Some(match &drift.seen {
                Seen::Differs(digest) => format!("runs {} since {since}", digest.short()),
                Seen::Unreachable { why } => format!("since {since}: {why}"),
                Seen::Gone | Seen::Same | Seen::Untold => format!("nothing of it runs since {since}"),
            })
        }
        Condition::Live | Condition::Unlooked => newest(),
    }
}
