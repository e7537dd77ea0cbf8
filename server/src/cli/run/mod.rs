//! `mergeyard run`: the pipelines of a working tree, as the server would run them.
//!
//! It is the server, on a data directory of its own that is gone afterwards: the working tree
//! becomes a commit, the event a delivery, and from there on nothing knows the difference. Only
//! the registry is another one, so nothing of it reaches anybody.

mod board;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use mergeyard_plan::run::Answer;
use mergeyard_run::engine::{Engine, EngineError};
use mergeyard_types::{RunId, State, StepId, Timestamp};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Failed, Format,
    rehearsal::{self, Stage},
    text,
};
use crate::{
    store::{ApprovalRow, DeliveryState, RunPage},
    yard::Yard,
};
use board::Board;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    rehearsal: rehearsal::Args,
    /// Open this gate without asking; may be given several times
    #[arg(long, value_name = "GATE")]
    approve: Vec<String>,
    /// A secret, from the environment variable of that name in upper case; may be given several times
    #[arg(long, value_name = "NAME")]
    secret: Vec<String>,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The container engine
    #[arg(long, default_value = "unix:///var/run/docker.sock", value_name = "ADDRESS")]
    engine: String,
}

/// The stage is new, so its first run is the only one.
const RUN: RunId = RunId(1);

/// What nobody announces is looked for this often.
const TICK: Duration = Duration::from_millis(50);

pub(super) async fn run(args: Args, config: Option<PathBuf>) -> Result<(), Failed> {
    let Args { rehearsal, approve, secret, format, engine } = args;
    let further = configuration(&secret, &engine)?;
    // From here on what was begun is taken back first.
    let mut stops = Stops::listen()?;
    is_there(&engine).await?;
    let stage = Stage::set(rehearsal, config.as_deref(), further, true).await?;
    let terminal = std::io::stdout().is_terminal();
    let board = match format {
        Format::Json => Board::silent(),
        Format::Text if terminal => Board::moving(),
        Format::Text => Board::plain(),
    };
    let changed = if stage.tree.changed { ", with what is not committed" } else { "" };
    let commit = stage.tree.commit.short();
    board.tell(&format!("{} at {commit}{changed}, event {}", stage.tree.name, stage.rehearsal.kind));
    let asks = terminal && std::io::stdin().is_terminal() && format == Format::Text;
    let mut play = Play { board, read: BTreeMap::new(), answered: BTreeSet::new(), approve, asks };
    let played = match stage.plan(None).await {
        // The errors of a file end its workflow; what only warns nobody would hear of.
        Ok(Ok(plan)) => {
            play.board.pause(|| eprint!("{}", stage.shown(&plan.findings)));
            play.play(&stage, &mut stops).await
        }
        Ok(Err(_)) => play.play(&stage, &mut stops).await,
        Err(failed) => Err(failed),
    };
    let yard = stage.server.yard.clone();
    stage.server.stop().await;
    if let Err(error) = yard.executor.vacate().await {
        eprintln!("warning: not all that this run had in the engine could be removed: {error}");
    }
    finish(played?, format, &play.board)
}

/// Trying again is for servers; who waits in front of a terminal is told at once.
async fn is_there(engine: &str) -> Result<(), Failed> {
    match Engine::connect(engine).await {
        Err(EngineError::Unreachable { why, .. }) => Err(Failed::work(format!(
            "no engine answers at {engine} ({why}): start it with `systemctl start docker`, or name another with `--engine`; `mergeyard plan` needs none"
        ))),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// What asks this command to stop. One that comes while nobody listens for it is kept.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn configuration(secrets: &[String], engine: &str) -> Result<toml::Table, Failed> {
    let mut table = toml::Table::new();
    table.insert("engine".to_owned(), toml::Table::from_iter([("host".to_owned(), engine.into())]).into());
    let mut list: Vec<toml::Value> = Vec::new();
    for name in secrets {
        let variable = name.to_ascii_uppercase();
        let value = std::env::var(&variable).map_err(|_| {
            Failed::Usage(
                format!("secret `{name}` is to come from the variable {variable}, which is not set").into(),
            )
        })?;
        let mut secret = toml::Table::new();
        secret.insert("name".to_owned(), name.as_str().into());
        secret.insert("value".to_owned(), value.into());
        secret.insert("global".to_owned(), true.into());
        list.push(secret.into());
    }
    table.insert("secret".to_owned(), list.into());
    Ok(table)
}

/// How it came out: a run, or the reason why there is none.
type Played = Result<RunPage, String>;

struct Play {
    board: Board,
    /// How far each log has been shown.
    read: BTreeMap<StepId, u64>,
    answered: BTreeSet<i64>,
    approve: Vec<String>,
    /// Whether a person can be asked.
    asks: bool,
}

impl Play {
    /// Has the event run to its end. Interrupted once, it cancels what runs; twice, it goes.
    async fn play(&mut self, stage: &Stage, stops: &mut Stops) -> Result<Played, Failed> {
        let yard = &stage.server.yard;
        yard.store.receive(stage.delivery()?).await?;
        yard.wake.inbox.notify_one();
        let mut changes = yard.changes.subscribe();
        let (mut stopping, mut cancelled) = (false, false);
        loop {
            changes.borrow_and_update();
            if let Some(why) = nothing(yard).await? {
                return Ok(Err(why));
            }
            if let Some(page) = yard.store.run_page(RUN).await? {
                self.follow(yard, &page).await?;
                if page.run.state.is_final() {
                    return Ok(Ok(page));
                }
                // Asked to stop before there was a run, this is the first chance to cancel it.
                if stopping && !cancelled {
                    yard.store.cancel_run(RUN, "interrupted", Timestamp::now()).await?;
                    yard.wake.steps.notify_waiters();
                    cancelled = true;
                }
                if !stopping {
                    self.answer(yard).await?;
                }
            }
            tokio::select! {
                _ = tokio::time::timeout(TICK, changes.changed()) => {}
                () = stops.next() => {
                    if stopping {
                        return Err(Failed::work("interrupted"));
                    }
                    stopping = true;
                    self.board.tell("stopping; once more to leave at once");
                }
            }
        }
    }

    /// Shows states and what was said since the last look, in that order: a step's line appears
    /// before its log, and its end after it.
    async fn follow(&mut self, yard: &Yard, page: &RunPage) -> Result<(), Failed> {
        const PIECE: usize = 256 * 1024;
        for workflow in &page.workflows {
            for step in &workflow.steps {
                self.board.begin(workflow, step);
                let read = self.read.entry(step.id).or_default();
                loop {
                    let piece = yard.logs.read(step.run, step.id, *read, PIECE).await?;
                    if piece.lines.is_empty() {
                        break;
                    }
                    *read = piece.next;
                    for (_, line) in &piece.lines {
                        self.board.line(workflow, step, line);
                    }
                }
                self.board.end(workflow, step);
            }
        }
        Ok(())
    }

    /// Answers the gates that are asked about: as the command line said, as the person says, or no.
    async fn answer(&mut self, yard: &Yard) -> Result<(), Failed> {
        for question in yard.store.questions(RUN).await? {
            if question.answer.is_some() || !self.answered.insert(question.id) {
                continue;
            }
            let approved =
                self.approve.contains(&question.gate) || (self.asks && ask(&self.board, &question)?);
            if !approved && !self.asks {
                let gate = text::plain(&question.gate);
                self.board.tell(&format!(
                    "{} waits for `{gate}`, and nobody can be asked: give --approve {gate}",
                    question.place()
                ));
            }
            let answer = Answer { approved, who: "the command line".to_owned() };
            yard.store.answer(RUN, question.scope(), answer, Timestamp::now()).await?;
            yard.wake.steps.notify_waiters();
        }
        Ok(())
    }
}

/// A delivery that started nothing says why.
async fn nothing(yard: &Yard) -> Result<Option<String>, Failed> {
    let row = yard.store.deliveries(None, 1).await?.into_iter().next();
    let verdict = |row: crate::store::DeliveryRow| row.verdict.unwrap_or_default();
    match row {
        Some(row) if row.state == DeliveryState::Ignored => Ok(Some(verdict(row))),
        Some(row) if row.state == DeliveryState::Dead => Err(Failed::work(verdict(row))),
        _ => Ok(None),
    }
}

fn ask(board: &Board, question: &ApprovalRow) -> Result<bool, Failed> {
    board.pause(|| {
        print!(
            "{} waits for approval `{}`: go on? [y/N] ",
            text::plain(&question.place()),
            text::plain(&question.gate)
        );
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    })
}

fn finish(played: Played, format: Format, board: &Board) -> Result<(), Failed> {
    let (state, document) = match &played {
        Ok(page) => (page.run.state, document(page)),
        Err(_) => (State::Skipped, json!({"status": State::Skipped, "workflows": []})),
    };
    match (format, &played) {
        (Format::Json, _) => say!("{document:#}"),
        (Format::Text, Err(why)) => say!("nothing to run: {}", text::plain(why)),
        (Format::Text, Ok(page)) => summary(page, board),
    }
    if matches!(state, State::Success | State::Skipped) { Ok(()) } else { Err(Failed::Told) }
}

fn summary(page: &RunPage, board: &Board) {
    text::say("");
    for workflow in &page.workflows {
        let axis = workflow.axis.as_deref().map(|axis| format!("/{axis}")).unwrap_or_default();
        let why = workflow.why.as_deref().map(|why| format!(": {}", text::plain(why))).unwrap_or_default();
        let mark = board.mark(workflow.state);
        say!("{mark} {}{axis} {}{why}", workflow.name, workflow.state);
    }
    let took = page.run.started.zip(page.run.finished).map(|(from, to)| text::duration(to.since(from)));
    say!("{} in {}", page.run.state, took.unwrap_or_else(|| "no time".to_owned()));
}

/// The form of `--format json`.
fn document(page: &RunPage) -> Value {
    let workflows = page.workflows.iter().map(|workflow| {
        let steps = workflow.steps.iter().map(|step| {
            json!({"name": step.name, "status": step.state, "exit_code": step.exit_code, "why": step.why})
        });
        let mut entry = json!({
            "name": workflow.name,
            "status": workflow.state,
            "why": workflow.why,
            "steps": steps.collect::<Vec<_>>(),
        });
        if let Some(axis) = &workflow.axis {
            entry["axis"] = json!(axis);
        }
        entry
    });
    json!({"status": page.run.state, "workflows": workflows.collect::<Vec<_>>()})
}
