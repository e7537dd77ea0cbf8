//! `mergeyard trigger OWNER/REPO`: a run that a person asks for.

use mergeyard_types::{RepoName, Timestamp};

use super::{Failed, cancel::open, operator};
use crate::{api, asked, config::Config};

#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "OWNER/REPO")]
    repo: RepoName,
    /// [default: the repository's default branch]
    #[arg(long)]
    branch: Option<String>,
    /// What the pipelines' `inputs` ask for; may be repeated
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = input)]
    inputs: Vec<(String, String)>,
}

pub(super) async fn trigger(config: Config, args: Args) -> Result<(), Failed> {
    let Args { repo, branch, inputs } = args;
    if config.rules.policies.of(&repo).is_none() {
        let why = format!("repository {repo} is not configured; add `[[repo]]` with `name = \"{repo}\"`");
        return Err(Failed::Usage(why.into()));
    }
    let store = open(&config).await?;
    let wish = api::wish(repo, branch.as_deref(), inputs.into_iter().collect(), &operator())
        .map_err(|why| Failed::Usage(why.into()))?;
    let delivery = asked::delivery(&wish, Timestamp::now());
    let id = delivery.id.clone();
    store.receive(delivery).await?;
    say!("{id} is decided within a second of a server running; `mergeyard deliveries show {id}` says how");
    Ok(())
}

fn input(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
