//! `mergeyard plan`: what would run, wait or be skipped, and why. No engine is needed.

use std::path::PathBuf;

use mergeyard_plan::event::Event;

use super::{
    Failed, Format,
    rehearsal::{self, Stage},
};
use crate::inbox;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    rehearsal: rehearsal::Args,
    /// A webhook's payload as GitHub sends it, in the place of a played event
    #[arg(long, value_name = "FILE", conflicts_with = "event")]
    payload: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) async fn plan(args: Args) -> Result<(), Failed> {
    let Args { rehearsal, payload, format } = args;
    let event = payload.map(read).transpose()?;
    let stage = Stage::set(rehearsal, toml::Table::new(), false).await?;
    let planned = inbox::rehearse(&stage.server.yard, event, &stage.rehearsal).await;
    stage.server.stop().await;
    let plan = planned.map_err(Failed::work)?;
    match format {
        Format::Json => println!("{:#}", plan.explain()),
        Format::Text => print!("{}", plan.text()),
    }
    if plan.findings.iter().any(|finding| finding.level == mergeyard_plan::finding::Level::Error) {
        return Err(Failed::Told);
    }
    Ok(())
}

/// A payload does not name its event, but each has what no other has.
fn read(file: PathBuf) -> Result<Event, Failed> {
    const MARKS: [(&str, &str); 4] = [
        ("pull_request", "pull_request"),
        ("release", "release"),
        ("deployment", "deployment"),
        ("after", "push"),
    ];
    let wrong = |why: String| Failed::Usage(format!("{}: {why}", file.display()).into());
    let bytes = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let event = MARKS.iter().find(|(key, _)| json.get(key).is_some()).map(|(_, event)| *event);
    let event = event.ok_or_else(|| {
        wrong(
            "it is none of the payloads that start something: pull_request, push, release, deployment"
                .to_owned(),
        )
    })?;
    Event::from_github(event, &bytes).map_err(|error| wrong(error.to_string()))
}
