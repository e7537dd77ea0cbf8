//! `mergeyard deliveries list|show|replay|reconcile`.

use clap::Subcommand;
use mergeyard_types::{DeliveryId, RepoName, Timestamp};
use serde_json::json;

use super::{Failed, Format, cancel::open, complain, text};
use crate::{
    config::Config,
    github::{Github, GithubSettings},
    missed::Reconciler,
    payload,
    store::{DeliveryRow, Store},
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// The newest deliveries and what became of each
    List {
        #[arg(long, default_value_t = 20, value_parser = text::rows)]
        limit: u32,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// One delivery: its verdict, its run, and with --body what was sent
    Show {
        id: DeliveryId,
        #[arg(long)]
        body: bool,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Decide a delivery once more, as if it had just arrived
    Replay { id: DeliveryId },
    /// Ask GitHub for deliveries that never arrived, and to send them again
    Reconcile {
        /// Only this repository [default: every configured one]
        repo: Option<RepoName>,
    },
}

pub(super) async fn deliveries(config: Config, command: Command) -> Result<(), Failed> {
    let store = open(&config).await?;
    match command {
        Command::List { limit, format } => list(&store, limit, format).await,
        Command::Show { id, body: true, .. } => body(&store, &id).await,
        Command::Show { id, format, .. } => show(&store, &id, format).await,
        Command::Replay { id } => replay(&store, &id).await,
        Command::Reconcile { repo } => reconcile(&config, store, repo).await,
    }
}

async fn list(store: &Store, limit: u32, format: Format) -> Result<(), Failed> {
    let rows = store.deliveries(None, limit).await?;
    if format == Format::Json {
        let rows: Vec<_> = rows.iter().map(document).collect();
        say!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if rows.is_empty() {
        say!("nothing was received yet; `mergeyard hook add OWNER/REPO` makes GitHub send");
    }
    for row in rows {
        let verdict = row.verdict.as_deref().unwrap_or("waits to be decided");
        say!(
            "{}  {:36}  {:7}  {:14}  {}",
            text::time(row.received),
            row.id,
            row.state.as_str(),
            row.event,
            text::plain(verdict)
        );
    }
    Ok(())
}

async fn show(store: &Store, id: &DeliveryId, format: Format) -> Result<(), Failed> {
    let row = store.delivery(id).await?.ok_or_else(|| unknown(id))?;
    if format == Format::Json {
        say!("{}", serde_json::to_string_pretty(&document(&row))?);
        return Ok(());
    }
    let run = row.run.map_or_else(|| "none".to_owned(), |run| run.to_string());
    let lines = [
        ("delivery", row.id.to_string()),
        ("event", row.event.clone()),
        ("repository", row.repo.clone().unwrap_or_else(|| "none".to_owned())),
        ("received", text::time(row.received)),
        ("size", format!("{} bytes", row.body_size)),
        ("state", row.state.as_str().to_owned()),
        ("verdict", row.verdict.clone().unwrap_or_else(|| "waits to be decided".to_owned())),
        ("attempts", row.attempts.to_string()),
        ("run", run),
    ];
    for (name, value) in lines {
        say!("{name:>10}  {}", text::plain(&value));
    }
    Ok(())
}

async fn body(store: &Store, id: &DeliveryId) -> Result<(), Failed> {
    use std::io::Write;
    store.delivery(id).await?.ok_or_else(|| unknown(id))?;
    let kept = store.delivery_body(id).await?;
    let kept = kept
        .ok_or_else(|| Failed::work(format!("the body of {id} is past its retention time and was let go")))?;
    Ok(std::io::stdout().write_all(&payload::decompress(&kept)?)?)
}

async fn replay(store: &Store, id: &DeliveryId) -> Result<(), Failed> {
    store.delivery(id).await?.ok_or_else(|| unknown(id))?;
    if !store.replay(id, Timestamp::now()).await? {
        return Err(Failed::work(format!(
            "the body of {id} is past its retention time, so it cannot be decided again"
        )));
    }
    say!("{id} is decided again within a second of a server running");
    Ok(())
}

async fn reconcile(config: &Config, store: Store, repo: Option<RepoName>) -> Result<(), Failed> {
    let token = config.github.token.clone();
    let token =
        token.ok_or_else(|| Failed::work("no `github.token` is configured, so GitHub cannot be asked"))?;
    let settings = GithubSettings::new(config.github.api_url.clone(), Some(token));
    let github = Github::new(GithubSettings { ca: config.github.ca.clone(), ..settings })?;
    let reconciler = Reconciler {
        store: &store,
        github: &github,
        hook_url: config.http.hook_url(),
        now: Timestamp::now(),
    };
    let repos = match repo {
        Some(repo) => vec![repo],
        None => reconciler.repositories(&config.rules).await?,
    };
    let mut failed = 0;
    let asked = repos.len();
    for repo in repos {
        let done = match reconciler.reconcile(&repo).await {
            Ok(done) => done,
            Err(error) => {
                say!("{repo}: not compared");
                complain(&error);
                failed += 1;
                continue;
            }
        };
        say!(
            "{repo}: {} deliveries at GitHub, {} never arrived and are sent again",
            done.looked_at,
            done.asked_again.len()
        );
        for id in done.asked_again {
            say!("  {id}");
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failed::work(format!("{failed} of {asked} repositories could not be compared"))),
    }
}

fn unknown(id: &DeliveryId) -> Failed {
    Failed::work(format!("there is no delivery {id}; `mergeyard deliveries list` shows the newest"))
}

fn document(row: &DeliveryRow) -> serde_json::Value {
    json!({
        "delivery": row.id,
        "source": row.source.as_str(),
        "event": row.event,
        "repository": row.repo,
        "received": row.received.0,
        "size": row.body_size,
        "state": row.state.as_str(),
        "verdict": row.verdict,
        "attempts": row.attempts,
        "replays": row.replays,
        "run": row.run,
    })
}
