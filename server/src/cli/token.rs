//! `mergeyard token create|list|revoke`.

use std::time::Duration;

use clap::Subcommand;
use mergeyard_types::Timestamp;
use serde_json::json;

use super::{Failed, Format, cancel::open, registry::time, text};
use crate::{
    api,
    config::Config,
    store::{Role, Store, TokenRow},
};

/// More than this nobody reads.
const LISTED: u32 = 1000;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a token of the API and show it, this once
    Create {
        /// What it is for; the log and answers to gates name it
        #[arg(value_parser = name)]
        name: String,
        /// read, approve (also answers gates, starts, repeats and stops runs) or admin (everything)
        #[arg(long)]
        role: Role,
        /// How long it is good, such as 90d or 12h [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = time)]
        expires: Option<Duration>,
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// The tokens, when each was used and until when it is good
    List {
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Take a token away; its next request is refused and its streams end
    Revoke {
        #[arg(value_parser = name)]
        name: String,
    },
}

pub(super) async fn token(config: Config, command: Command) -> Result<(), Failed> {
    let store = open(&config).await?;
    match command {
        Command::Create { name, role, expires, format } => create(&store, &name, role, expires, format).await,
        Command::List { format } => list(&store, format).await,
        Command::Revoke { name } => revoke(&store, &name).await,
    }
}

async fn create(
    store: &Store,
    name: &str,
    role: Role,
    expires: Option<Duration>,
    format: Format,
) -> Result<(), Failed> {
    let token = api::new_token()?;
    let now = Timestamp::now();
    let expires = expires.map(|time| now.plus(time));
    if !store.add_token(name, &api::token_hash(&token), role, expires, now).await? {
        let why = format!("there is a token `{name}` already; revoke it first, or choose another name");
        return Err(Failed::work(why));
    }
    match format {
        Format::Json => {
            let expires = expires.map(|end| end.0);
            let document = json!({ "name": name, "role": role, "expires": expires, "token": token.expose() });
            say!("{}", serde_json::to_string_pretty(&document)?);
        }
        Format::Text => {
            say!("token `{name}`, which is not shown again:\n\n  {}\n", token.expose());
            say!("send it as `Authorization: Bearer TOKEN`");
        }
    }
    Ok(())
}

async fn list(store: &Store, format: Format) -> Result<(), Failed> {
    let tokens = store.tokens(None, LISTED).await?;
    if format == Format::Json {
        let tokens: Vec<_> = tokens.iter().map(document).collect();
        say!("{}", serde_json::to_string_pretty(&tokens)?);
        return Ok(());
    }
    if tokens.is_empty() {
        say!("there are no tokens; `mergeyard token create NAME --role read` makes one");
    }
    let now = Timestamp::now();
    for token in tokens {
        let validity = match (token.revoked, token.expires) {
            (Some(at), _) => format!("revoked {}", text::time(at)),
            (None, Some(end)) if end <= now => format!("expired {}", text::time(end)),
            (None, Some(end)) => format!("until {}", text::time(end)),
            (None, None) => "until it is revoked".to_owned(),
        };
        let used =
            token.used.map_or_else(|| "never used".to_owned(), |at| format!("used {}", text::time(at)));
        say!("{:24}  {:8}  {validity:29}  {used}", token.name, token.role);
    }
    Ok(())
}

async fn revoke(store: &Store, name: &str) -> Result<(), Failed> {
    if !store.revoke_token(name, Timestamp::now()).await? {
        let why = format!("there is no token `{name}` in force; `mergeyard token list` shows them");
        return Err(Failed::work(why));
    }
    say!("`{name}` is revoked: its next request is refused");
    Ok(())
}

fn document(token: &TokenRow) -> serde_json::Value {
    json!({
        "name": token.name,
        "role": token.role,
        "created": token.created.0,
        "expires": token.expires.map(|at| at.0),
        "used": token.used.map(|at| at.0),
        "revoked": token.revoked.map(|at| at.0),
    })
}

/// Names stand in logs and beside answers to gates.
fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match text.len() {
        1..=64 if text.bytes().all(plain) => Ok(text.to_owned()),
        _ => Err("write up to 64 letters, digits, `-`, `_` or `.`".to_owned()),
    }
}
