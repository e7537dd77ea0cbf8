//! `mergeyard plan`: what would run, wait or be skipped, and why. No engine is needed.

use std::path::PathBuf;

use mergeyard_plan::{
    event::{Event, EventKind},
    finding::Level,
    workflows::Plan,
};
use serde_json::json;

use super::{
    Failed, Format,
    rehearsal::{self, Stage},
    text,
};

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

pub(super) async fn plan(args: Args, config: Option<PathBuf>) -> Result<(), Failed> {
    let Args { rehearsal, payload, format } = args;
    let event = payload.map(read).transpose()?;
    let stage = Stage::set(rehearsal, config.as_deref(), toml::Table::new(), false).await?;
    let kind = event.as_ref().and_then(Event::kind).unwrap_or(stage.rehearsal.kind);
    let planned = stage.plan(event).await;
    let told = planned.map(|planned| tell(&stage, kind, planned, format));
    stage.server.stop().await;
    if told? { Ok(()) } else { Err(Failed::Told) }
}

/// Says what would run; `false` when the files have errors.
fn tell(stage: &Stage, kind: EventKind, planned: Result<Plan, String>, format: Format) -> bool {
    let plan = match (planned, format) {
        (Ok(plan), _) => plan,
        (Err(why), Format::Json) => {
            say!("{:#}", json!({ "event": kind, "workflows": [], "why": why }));
            return true;
        }
        (Err(why), Format::Text) => {
            say!("event {kind}\n\nnothing would run: {}", text::plain(&why));
            return true;
        }
    };
    let found = stage.shown(&plan.findings);
    match format {
        Format::Json => {
            say!("{:#}", plan.explain());
            eprint!("{found}");
        }
        Format::Text if found.is_empty() => text::say(plan.text().trim_end()),
        Format::Text => say!("{}\n{}", plan.text(), found.trim_end()),
    }
    plan.findings.iter().all(|finding| finding.level != Level::Error)
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
    let is_told = |value: &serde_json::Value| value.is_object() || value.is_string();
    let event = MARKS.iter().find(|(key, _)| json.get(key).is_some_and(is_told)).map(|(_, event)| *event);
    let event = event.ok_or_else(|| {
        wrong(
            "it is none of the payloads that start something: pull_request, push, release, deployment"
                .to_owned(),
        )
    })?;
    Event::from_github(event, &bytes).map_err(|error| wrong(error.to_string()))
}
