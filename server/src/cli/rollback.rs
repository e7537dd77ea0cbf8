//! `mergeyard rollback TARGET`: begun here, done by the server, followed to its end.

use std::{collections::BTreeMap, time::Duration};

use mergeyard_types::{RunId, State, StepId, TargetName, Timestamp};

use super::{
    Failed,
    cancel::open,
    operator,
    text::{plain, say},
};
use crate::{
    called,
    config::Config,
    store::{RunPage, Store, Wanted},
};

/// How often it is looked how the run goes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A server that runs begins within a second.
const PATIENCE: u32 = 20;

#[derive(clap::Args)]
pub(super) struct Args {
    target: TargetName,
    /// What to go back to: a digest that was proven there, or how its digits begin [default: what was
    /// live before]
    #[arg(long, value_name = "DIGEST")]
    to: Option<String>,
    /// What of the target, where there are several; what one playbook made live goes back together
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Begin it, and do not wait for its end
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn rollback(config: Config, args: Args) -> Result<(), Failed> {
    let Args { target, to, service, no_wait } = args;
    if config.rules.target(&target).is_none() {
        let known: Vec<String> =
            config.rules.targets.iter().map(|known| format!("`{}`", known.target.name)).collect();
        let there = if known.is_empty() { "none is configured".to_owned() } else { known.join(", ") };
        return Err(Failed::Usage(format!("there is no target `{target}`: {there}").into()));
    }
    let store = open(&config).await?;
    let wanted = Wanted { service, to };
    let begun = store.rollback(&target, &wanted, &operator(), Timestamp::now()).await?;
    let rollback = begun.map_err(|why| Failed::Work(Box::new(why)))?;
    say(plain(&called::rollback(&rollback)));
    if no_wait { Ok(()) } else { follow(&store, rollback.run).await }
}

/// Says how each step goes, until the run is over.
async fn follow(store: &Store, run: RunId) -> Result<(), Failed> {
    let mut said = BTreeMap::new();
    let mut looks = 0;
    loop {
        let page = store.run_page(run).await?;
        let page = page.ok_or_else(|| Failed::work(format!("run {run} is gone")))?;
        tell(&page, &mut said);
        if page.run.state.is_final() {
            return if page.run.state == State::Success { Ok(()) } else { Err(Failed::Told) };
        }
        looks += 1;
        if looks == PATIENCE && page.run.started.is_none() {
            say(
                "it waits; a server that runs with this configuration begins it, and leaving here does not stop it",
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn tell(page: &RunPage, said: &mut BTreeMap<StepId, (State, Option<String>)>) {
    for step in page.workflows.iter().flat_map(|workflow| &workflow.steps) {
        let now = (step.state, step.why.clone());
        if said.get(&step.id) == Some(&now) {
            continue;
        }
        let why = step.why.as_ref().or_else(|| step.outputs.get("summary"));
        let why = why.map(|why| format!(": {}", plain(why))).unwrap_or_default();
        say(format_args!("{} {}{why}", plain(&step.name), step.state));
        said.insert(step.id, now);
    }
}
