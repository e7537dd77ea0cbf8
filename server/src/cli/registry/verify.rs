//! `mergeyard registry verify`: reads everything again.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use mergeyard_registry::{Fault, Progress, Verified, Verifying};
use serde::Deserialize;
use serde_json::json;

use super::reach::Reached;
use crate::cli::{Failed, Format, text};

#[derive(Args)]
pub(in crate::cli) struct Verify {
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Progress(Progress),
    Fault(Fault),
    Verified(Verified),
    Error(String),
}

pub(super) async fn verify(file: Option<PathBuf>, asked: Verify) -> Result<(), Failed> {
    let report = Arc::new(Mutex::new(Report::new(asked.format)));
    let sum = match Reached::open(file)? {
        Reached::Running(running) => {
            let mut sum = None;
            let each = |line| {
                let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                match line {
                    Line::Progress(progress) => report.progress(&progress),
                    Line::Fault(fault) => report.fault(&fault),
                    Line::Verified(verified) => sum = Some(verified),
                    Line::Error(error) => return Err(Failed::work(error)),
                }
                Ok(())
            };
            running.lines("/v2/_mergeyard/upkeep/verify", each).await?;
            let stopped = "the registry stopped before everything was read; run this again";
            sum.ok_or_else(|| Failed::work(stopped))?
        }
        Reached::Directory(registry) => {
            let report = report.clone();
            let tell = move |what: Verifying<'_>| {
                let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                match what {
                    Verifying::Progress(progress) => report.progress(&progress),
                    Verifying::Fault(fault) => report.fault(fault),
                }
            };
            registry.verify(tell).await?
        }
    };
    report.lock().unwrap_or_else(PoisonError::into_inner).end(&sum)
}

/// What is shown: faults as they are found, how far it has come on a terminal, the sum.
struct Report {
    format: Format,
    faults: Vec<Fault>,
    /// The percentage that stands on the terminal.
    shown: Option<u64>,
    has_terminal: bool,
}

impl Report {
    fn new(format: Format) -> Self {
        Self { format, faults: Vec::new(), shown: None, has_terminal: std::io::stderr().is_terminal() }
    }

    fn progress(&mut self, progress: &Progress) {
        let percent = (progress.bytes * 100).checked_div(progress.of_bytes).unwrap_or(100).min(100);
        if self.has_terminal && self.shown != Some(percent) {
            let (bytes, of_bytes) = (text::size(progress.bytes), text::size(progress.of_bytes));
            eprint!("\r\x1b[K{percent:3} %  {bytes} of {of_bytes}");
            let _ = std::io::stderr().flush();
            self.shown = Some(percent);
        }
    }

    fn fault(&mut self, fault: &Fault) {
        self.clear();
        if self.format == Format::Text {
            say!("{fault}");
        }
        self.faults.push(fault.clone());
    }

    fn clear(&mut self) {
        if self.shown.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }

    fn end(&mut self, sum: &Verified) -> Result<(), Failed> {
        self.clear();
        let Verified { contents, bytes, faults } = sum;
        match self.format {
            Format::Json => {
                let document = json!({"contents": contents, "bytes": bytes, "faults": self.faults});
                say!("{}", serde_json::to_string_pretty(&document)?);
            }
            Format::Text => {
                let (contents, bytes) = (text::count(*contents, "content"), text::size(*bytes));
                say!("read {contents}, {bytes}: {}", text::count(*faults, "fault"));
            }
        }
        match faults {
            0 => Ok(()),
            _ => Err(Failed::Told),
        }
    }
}
