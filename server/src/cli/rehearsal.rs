//! An event played on a working tree: what `mergeyard run` and `mergeyard plan` have in common.
//!
//! Both are the server itself, on a data directory that is gone afterwards, told to fetch from
//! the working tree. So what they say and do is what the server would.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::ValueHint;
use mergeyard_plan::{
    environment,
    event::{Event, EventKind, Rehearsal},
    finding::Finding,
    workflows::Plan,
};
use mergeyard_types::GitRef;
use serde_json::json;
use uuid::Uuid;

use super::{
    Failed,
    home::Home,
    working_tree::{WorkingTree, WorkingTreeError},
};
use crate::{
    config::Config,
    inbox, payload,
    serve::{self, Parts, Server},
    store::{Delivery, Source},
};

#[derive(clap::Args)]
#[group(id = "rehearsal")]
pub(super) struct Args {
    /// The repository, or a folder in it
    #[arg(default_value = ".", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    /// The event that the pipelines see [default: push]
    #[arg(long, value_name = "EVENT")]
    event: Option<EventKind>,
    /// The tag that the events `tag` and `release` are about
    #[arg(long, default_value = "v0.0.0", value_name = "TAG")]
    tag: String,
    /// Only this workflow, with what it depends on
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// An input of the event `manual`
    #[arg(long, value_name = "NAME=VALUE")]
    input: Vec<String>,
    /// What the pipelines may ask for: security, network, volumes
    #[arg(long, value_name = "TRUST", value_delimiter = ',')]
    trusted: Vec<String>,
}

/// A working tree, and a server that knows nothing else.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) tree: WorkingTree,
    pub(super) rehearsal: Rehearsal,
    _home: Home,
}

impl Stage {
    /// `further` is added to the configuration, and what the file `operators` says of pipelines holds.
    /// Without `workers` nothing that is received is run.
    pub(super) async fn set(
        args: Args,
        operators: Option<&Path>,
        further: toml::Table,
        workers: bool,
    ) -> Result<Self, Failed> {
        let home = Home::new("run")?;
        let (folder, place) = (args.dir.clone(), home.path().join("tree.git"));
        let tree =
            tokio::task::spawn_blocking(move || WorkingTree::look(&folder, &place)).await?.map_err(wrong)?;
        let rehearsal = rehearsal(&args, &tree)?;
        let mut config = configuration(&args, &home, &tree, further)?;
        if let Some(file) = operators {
            config.rules.pipelines =
                Config::pipelines(file).map_err(|error| Failed::Usage(Box::new(error)))?;
        }
        let parts = Parts { workers, caches_of: Some(owner_of_caches(&home)?), ..Parts::default() };
        let server = Server::start(config, parts).await?;
        Ok(Self { server, tree, rehearsal, _home: home })
    }

    /// What would run. Used wrongly, where a workflow was asked for that would not.
    pub(super) async fn plan(&self, event: Option<Event>) -> Result<Result<Plan, String>, Failed> {
        let planned = inbox::rehearse(&self.server.yard, event, &self.rehearsal).await;
        match planned.map_err(Failed::work)? {
            Err(why) if self.rehearsal.only.is_some() => Err(Failed::Usage(why.into())),
            planned => Ok(planned),
        }
    }

    /// Findings with the lines they are about.
    pub(super) fn shown(&self, findings: &[Finding]) -> String {
        let show = |finding: &Finding| finding.render(&self.tree.text_of(&finding.file).unwrap_or_default());
        findings.iter().map(show).collect::<Vec<_>>().join("\n")
    }

    /// The event as a delivery, which goes the way of all deliveries.
    pub(super) fn delivery(&self) -> Result<Delivery, Failed> {
        let body = serde_json::to_vec(&json!({ "rehearsal": self.rehearsal }))?;
        Ok(Delivery {
            id: "rehearsal".parse()?,
            source: Source::Mergeyard,
            event: self.rehearsal.kind.as_str().to_owned(),
            content_type: "application/json".to_owned(),
            repo: Some(self.rehearsal.repository.clone()),
            body_size: body.len(),
            body: payload::compress(&body),
            received: self.server.yard.clock.now(),
            ignored: None,
        })
    }
}

/// A folder that is not there was named wrongly.
fn wrong(error: WorkingTreeError) -> Failed {
    let named = match &error {
        WorkingTreeError::Read { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        WorkingTreeError::Bare(_) => true,
        WorkingTreeError::Git { .. } => false,
    };
    if named { Failed::Usage(Box::new(error)) } else { error.into() }
}

fn rehearsal(args: &Args, tree: &WorkingTree) -> Result<Rehearsal, Failed> {
    let kind = args.event.unwrap_or(EventKind::Push);
    let git_ref = match kind {
        EventKind::Tag | EventKind::Release => format!("refs/tags/{}", args.tag).parse(),
        _ => GitRef::branch(&tree.branch),
    };
    Ok(Rehearsal {
        kind,
        repository: tree.name.clone(),
        git_ref: git_ref.map_err(|error| Failed::Usage(Box::new(error)))?,
        branch: tree.branch.clone(),
        commit: tree.commit,
        before: tree.before,
        title: tree.message.lines().next().unwrap_or_default().to_owned(),
        author: tree.author.clone(),
        inputs: inputs(&args.input)?,
        only: args.workflow.clone(),
    })
}

/// The same for each run of one person on one machine, whose engine may be another's as well. The
/// data directory cannot tell it, because each run has a new one.
fn owner_of_caches(home: &Home) -> std::io::Result<String> {
    let user = std::fs::metadata(home.path())?.uid();
    Ok(format!("local-{user}@{}", serve::machine()))
}

fn inputs(given: &[String]) -> Result<BTreeMap<String, String>, Failed> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, _)) if environment::is_reserved(name) => {
            Err(Failed::Usage(format!("the input `{name}` {}", environment::RESERVED).into()))
        }
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failed::Usage(format!("`--input {text}` has no value: write NAME=VALUE").into())),
    };
    given.iter().map(pair).collect()
}

fn configuration(
    args: &Args,
    home: &Home,
    tree: &WorkingTree,
    further: toml::Table,
) -> Result<Config, Failed> {
    let table = |pairs: &[(&str, &str)]| {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), toml::Value::from(*value));
        toml::Table::from_iter(pairs.iter().map(pair))
    };
    let mut repo = table(&[("name", "**"), ("clone_url", &format!("file://{}", tree.repository.display()))]);
    repo.insert("trusted".to_owned(), args.trusted.clone().into());
    let mut config = table(&[("data_dir", &home.path().join("data").display().to_string())]);
    // Nobody but this command sends anything, and nobody else is to find it.
    let secret = Uuid::new_v4().simple().to_string();
    config.insert("github".to_owned(), table(&[("webhook_secret", &secret)]).into());
    for listener in ["http", "registry"] {
        config.insert(listener.to_owned(), table(&[("listen", "127.0.0.1:0")]).into());
    }
    config.insert("repo".to_owned(), vec![toml::Value::from(repo)].into());
    config.extend(further);
    Config::from_table(config).map_err(|error| Failed::Usage(Box::new(error)))
}
