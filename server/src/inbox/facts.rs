//! What a plan needs to know beside the event: git's, the database's and this server's part.

use mergeyard_plan::{
    change::Change,
    event::{Event, Forge},
    facts::{Facts, System},
    gather::{self, CommitObject, Known},
};
use mergeyard_run::git::{Commit, Remote};
use mergeyard_types::{RunId, Timestamp};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Fault, changed::Changed};
use crate::yard::{Settings, Yard};

/// What others are asked for. The built-in pipeline does not depend on the default branch, and seldom
/// on what changed, so nobody is asked for them on its behalf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Nothing,
    /// Which files changed.
    Files,
    All,
}

pub(super) async fn facts(
    yard: &Yard,
    event: &Event,
    change: &Change<'_>,
    (remote, commit): (&Remote, &Commit),
    (number, now): (RunId, Timestamp),
    ask: Ask,
) -> Result<Facts, Fault> {
    let made = commit.made().await?;
    let files = match ask {
        Ask::Nothing => None,
        Ask::Files | Ask::All => Changed { yard, change, remote, commit, made: &made }.files(event).await,
    };
    let default_branch = match ask {
        Ask::All => default_branch(yard, change, remote).await?,
        Ask::Nothing | Ask::Files => change.repository.default_branch.clone().unwrap_or_default(),
    };
    let previous = yard.store.previous(&change.known_as, &change.branch).await?;
    let settings = &yard.settings;
    let known = Known {
        system: system(settings, &yard.rules().pipelines.platform),
        forge_url: forge_url(settings, change.forge, remote),
        clone_url: remote.url.to_string(),
        default_branch,
        number,
        url: settings.run_url(number),
        now,
        commit: CommitObject {
            author: made.author,
            email: made.email,
            message: made.message,
            time: Some(made.time),
        },
        files,
        previous: previous.map(|run| (run.pipeline, run.commit)),
    };
    Ok(gather::facts(event, change, known))
}

/// Only GitHub's payloads name it; everybody else is asked.
pub(super) async fn default_branch(
    yard: &Yard,
    change: &Change<'_>,
    remote: &Remote,
) -> Result<String, Fault> {
    if let Some(branch) = &change.repository.default_branch {
        return Ok(branch.clone());
    }
    let repo = &change.repository.name;
    let tip = yard.executor.git().tip(repo, remote, None, &CancellationToken::new()).await?;
    Ok(tip.and_then(|tip| tip.git_ref.branch_name().map(str::to_owned)).unwrap_or_default())
}

fn system(settings: &Settings, platform: &str) -> System {
    System {
        name: "mergeyard".to_owned(),
        url: settings.public_url.to_string().trim_end_matches('/').to_owned(),
        host: settings.public_url.host_str().unwrap_or_default().to_owned(),
        platform: platform.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: settings.machine.clone(),
    }
}

fn forge_url(settings: &Settings, forge: Forge, remote: &Remote) -> String {
    let site = |url: &Url| url.origin().ascii_serialization();
    match forge {
        Forge::Github => settings.forge_url.clone(),
        Forge::Git => {
            let url = remote.url.as_str().parse::<Url>().ok();
            url.filter(|url| matches!(url.scheme(), "http" | "https")).as_ref().map(site).unwrap_or_default()
        }
    }
}
