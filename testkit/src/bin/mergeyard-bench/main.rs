//! `scripts/bench.sh`, the half that measures.
//!
//! Every figure stands beside the same work done without mergeyard, on the same machine in
//! the same minute, because only their ratio means anything on another machine. The server
//! is the real program in a process of its own. No figure fails anything: this only ends
//! badly when something does not work.

mod deploy;
mod ingest;
mod load;
mod logs;
mod pages;
mod plan;
mod process;
mod publish;
mod registry;
mod seed;
mod steps;
mod table;

use std::{
    error::Error,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use tokio::process::Command;

use table::{Aims, millis, percentile};

type Failed = Box<dyn Error + Send + Sync>;

/// Measures mergeyard beside what it takes the place of
#[derive(Parser)]
struct Args {
    /// The parts to run; all of them when none is named
    parts: Vec<Part>,
    /// Shorter, and without a million runs: to see that everything works
    #[arg(long)]
    quick: bool,
    /// The server's program, built for release
    #[arg(long)]
    mergeyard: PathBuf,
    /// A folder on the disk that is to be measured; what is made in it is removed
    #[arg(long)]
    work: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Webhooks received
    Ingest,
    /// From a merge to a digest in the registry
    Publish,
    /// From a merge to a version that is live
    Deploy,
    /// Memory, start-up and pages with many past runs
    Pages,
    /// The plan of 500 steps in 50 workflows
    Plan,
    /// Images pushed to the registry and pulled from it
    Registry,
    /// Steps of a workflow, beside containers typed by hand
    Steps,
    /// Lines from a step to a browser, and a million of them
    Logs,
}

/// What every part works with.
struct Bench {
    mergeyard: PathBuf,
    folder: PathBuf,
    quick: bool,
}

fn main() -> ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match logs::speaks() {
        Some(folder) => tokio::runtime::Runtime::new()
            .map_err(Failed::from)
            .and_then(|runtime| runtime.block_on(logs::serve(folder))),
        // One thread: what this program does is to disturb the measured ones as little as possible.
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failed::from)
            .and_then(|runtime| runtime.block_on(run(Args::parse()))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failed> {
    let Args { parts, quick, mergeyard, work } = args;
    std::fs::create_dir_all(&work)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&work)?;
    let bench = Bench { mergeyard: mergeyard.canonicalize()?, folder: folder.path().canonicalize()?, quick };
    println!("{}", machine(&bench.folder)?);
    let mut aims = Aims::default();
    let asked = |part| parts.is_empty() || parts.contains(&part);
    if asked(Part::Ingest) {
        ingest::run(&bench, &mut aims).await?;
    }
    if asked(Part::Publish) {
        publish::run(&bench, &mut aims).await?;
    }
    if asked(Part::Deploy) {
        deploy::run(&bench, &mut aims).await?;
    }
    if asked(Part::Pages) {
        pages::run(&bench, &mut aims).await?;
    }
    if asked(Part::Plan) {
        plan::run(&bench, &mut aims)?;
    }
    if asked(Part::Registry) {
        registry::run(&bench, &mut aims).await?;
    }
    if asked(Part::Steps) {
        steps::run(&bench, &mut aims).await?;
    }
    if asked(Part::Logs) {
        logs::run(&bench, &mut aims).await?;
    }
    aims.print();
    Ok(())
}

/// What the figures depend on most: the processors, and how long the disk takes to promise.
fn machine(folder: &Path) -> Result<String, Failed> {
    let processors = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    let mut file = File::create(folder.join("probe"))?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let begin = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    Ok(format!(
        "{processors} processors (load {load} before the start), 4 KiB made durable in {} on this disk",
        millis(percentile(&mut times, 50.0))
    ))
}

impl Bench {
    /// The server's program, whatever the environment says about another one.
    fn mergeyard(&self) -> Command {
        let mut command = Command::new(&self.mergeyard);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MERGEYARD_")) {
            command.env_remove(name);
        }
        command
    }

    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// How long to look away between two looks at something that is about to happen.
const BLINK: Duration = Duration::from_millis(1);

/// Waits for something another process does.
async fn until<T, F>(what: &str, patience: Duration, mut look: impl FnMut() -> F) -> Result<T, Failed>
where
    F: Future<Output = Result<Option<T>, Failed>>,
{
    let begin = Instant::now();
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if begin.elapsed() > patience {
            return Err(format!("{what} did not happen in {} s", patience.as_secs()).into());
        }
        tokio::time::sleep(BLINK).await;
    }
}
