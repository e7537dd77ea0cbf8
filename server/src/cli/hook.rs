//! `mergeyard hook add|check OWNER/REPO`.

use clap::Subcommand;
use mergeyard_types::RepoName;
use url::Url;

use super::Failed;
use crate::{
    config::Config,
    github::{Github, GithubSettings, HookOutcome, HookWanted, tunnel},
};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Create the webhook, or repair it
    Add { repo: RepoName },
    /// Say what is wrong with the webhook, and change nothing
    Check { repo: RepoName },
}

pub(super) async fn hook(config: Config, command: Command) -> Result<(), Failed> {
    let token = config.github.token.clone();
    let token = token.ok_or_else(|| {
        Failed::work(
            "no `github.token` is configured: make one with permission for webhooks (admin:repo_hook)",
        )
    })?;
    let settings = GithubSettings::new(config.github.api_url.clone(), Some(token));
    let github = Github::new(GithubSettings { ca: config.github.ca.clone(), ..settings })?;
    let (Command::Add { repo } | Command::Check { repo }) = &command;
    let wanted = HookWanted::new(address(&config).await?, secret(&config, repo)?)?;
    match command {
        Command::Add { repo } => add(&github, &repo, &wanted).await,
        Command::Check { repo } => check(&github, &repo, &wanted).await,
    }
}

async fn add(github: &Github, repo: &RepoName, wanted: &HookWanted) -> Result<(), Failed> {
    match github.ensure_hook(repo, wanted).await? {
        HookOutcome::Created(id) => say!("created webhook {id} of {repo}: it sends to {}", wanted.url()),
        HookOutcome::AlreadyRight(id) => say!("webhook {id} of {repo} is right; its secret was set anew"),
        HookOutcome::Repaired { id, differences } => {
            say!("repaired webhook {id} of {repo}:");
            differences.iter().for_each(|difference| say!("  {difference}"));
        }
    }
    Ok(())
}

async fn check(github: &Github, repo: &RepoName, wanted: &HookWanted) -> Result<(), Failed> {
    let check = github.check_hook(repo, wanted).await?;
    check.notes.iter().for_each(|note| say!("note: {note}"));
    if check.differences.is_empty() {
        say!("the webhook of {repo} is right");
        return Ok(());
    }
    check.differences.iter().for_each(|difference| say!("wrong: {difference}"));
    Err(Failed::work(format!("the webhook of {repo} needs repair: `mergeyard hook add {repo}`")))
}

/// The public address from the configuration, or the tunnel's when that one is not public.
async fn address(config: &Config) -> Result<Url, Failed> {
    if config.http.has_public_url {
        return Ok(config.http.hook_url());
    }
    let public = tunnel::public_address(&config.github.ngrok_url, config.http.listen.port()).await?;
    Ok(crate::config::Http { public_url: public, ..config.http.clone() }.hook_url())
}

/// The secret that speaks for this repository.
fn secret(config: &Config, repo: &RepoName) -> Result<mergeyard_types::Secret, Failed> {
    use crate::store::Source;
    let current =
        config.rules.secrets.iter().filter(|secret| secret.until.is_none() && secret.is_for(Source::Github));
    let ours = current.into_iter().find(|secret| config.rules.speaks_for(secret, repo));
    ours.map(|secret| secret.value.clone()).ok_or_else(|| {
        Failed::work(format!("no webhook secret is configured for {repo}; set `github.webhook_secret`"))
    })
}
