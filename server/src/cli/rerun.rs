//! `mergeyard rerun RUN`.

use mergeyard_plan::run::Rerun;
use mergeyard_types::{RunId, Timestamp};

use super::{Failed, cancel::open, text};
use crate::{called, config::Config};

#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(value_parser = text::run)]
    run: RunId,
    /// Only what failed, and what relies on it
    #[arg(long)]
    failed: bool,
    /// From this step on: its id, WORKFLOW/STEP, or its name where only one has it
    #[arg(long, value_name = "STEP", conflicts_with = "failed")]
    from: Option<String>,
}

pub(super) async fn rerun(config: Config, args: Args) -> Result<(), Failed> {
    let Args { run, failed, from } = args;
    let store = open(&config).await?;
    let what = match from {
        Some(step) => {
            let page = store.run_page(run).await?;
            let page = page.ok_or_else(|| Failed::work(format!("there is no run {run}")))?;
            Rerun::From(called::step(&page, &step).map_err(Failed::work)?)
        }
        None if failed => Rerun::Failed,
        None => Rerun::All,
    };
    let repeated = store.rerun(run, what, Timestamp::now()).await?;
    let new = called::repeated(run, repeated).map_err(Failed::work)?;
    say!("run {new} repeats run {run}");
    Ok(())
}
