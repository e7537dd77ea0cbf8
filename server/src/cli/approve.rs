//! `mergeyard approve RUN [GATE|WORKFLOW[/STEP]]`.

use mergeyard_plan::run::Answer;
use mergeyard_types::{RunId, Timestamp};

use super::{Failed, cancel::open, operator, text};
use crate::{called, config::Config, store::Answered};

#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(value_parser = text::run)]
    run: RunId,
    /// Which question: the gate's name, the workflow's, or WORKFLOW/STEP [default: the only one]
    #[arg(value_name = "GATE|WORKFLOW[/STEP]")]
    what: Option<String>,
    /// Refuse it
    #[arg(long)]
    reject: bool,
    /// Let pull requests from forks of this account start without a question from now on
    #[arg(long, conflicts_with = "reject")]
    trust_account: bool,
}

pub(super) async fn approve(config: Config, args: Args) -> Result<(), Failed> {
    let Args { run, what, reject, trust_account } = args;
    let store = open(&config).await?;
    let questions = store.questions(run).await?;
    if questions.is_empty() && store.run_page(run).await?.is_none() {
        return Err(Failed::work(format!("there is no run {run}")));
    }
    let question = called::question(&questions, what.as_deref()).map_err(Failed::work)?;
    let (who, now) = (operator(), Timestamp::now());
    if trust_account && store.trust_account(run, &who, now).await? != Some(true) {
        return Err(Failed::work(format!("run {run} does not say which account caused it")));
    }
    match store.answer(run, question.scope(), Answer { approved: !reject, who }, now).await? {
        Answered::Taken(_) => {}
        Answered::NothingAsked => return Err(Failed::work("somebody else has answered already")),
        Answered::NoSuchRun => return Err(Failed::work(format!("there is no run {run}"))),
    }
    let answer = if reject { "rejected" } else { "approved" };
    say!("{} is {answer} (gate `{}`)", text::plain(&question.place()), text::plain(&question.gate));
    Ok(())
}
