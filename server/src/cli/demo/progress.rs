//! Each step of the demo with its time.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Instant,
};

use mergeyard_types::StepId;

use super::super::{Failed, Format, text};
use crate::{store::RunPage, yard::Yard};

pub(super) struct Progress {
    text: bool,
    colour: bool,
    timings: BTreeMap<&'static str, u64>,
    begun: Instant,
}

impl Progress {
    pub(super) fn new(format: Format) -> Self {
        let text = format == Format::Text;
        Self {
            text,
            colour: text && std::io::stdout().is_terminal(),
            timings: BTreeMap::new(),
            begun: Instant::now(),
        }
    }

    /// Whether a person watches, who wants to see the log while it grows.
    pub(super) fn is_live(&self) -> bool {
        self.text
    }

    pub(super) async fn step<T>(
        &mut self,
        name: &'static str,
        done: &str,
        work: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        let begun = Instant::now();
        let result = work.await;
        let time = begun.elapsed();
        self.timings.insert(name, time.as_millis() as u64);
        if self.text {
            let (mark, colour, said) = match &result {
                Ok(_) => ("✓", "\x1b[32m", done),
                Err(_) => ("✗", "\x1b[31m", name),
            };
            let (on, off) = if self.colour { (colour, "\x1b[0m") } else { ("", "") };
            say!("{on}{mark}{off} {said:<52} {:>9}", text::duration(time));
            let _ = std::io::stdout().flush();
        }
        result
    }

    pub(super) fn timings(&self) -> BTreeMap<&'static str, u64> {
        let mut timings = self.timings.clone();
        timings.insert("total", self.begun.elapsed().as_millis() as u64);
        timings
    }
}

/// Prints what the steps of a run have said since the last time.
pub(super) async fn show_logs(
    yard: &Yard,
    page: &RunPage,
    show: bool,
    shown: &mut BTreeMap<StepId, u64>,
) -> Result<(), Failed> {
    const PIECE: usize = 64 * 1024;
    for workflow in page.workflows.iter().filter(|_| show) {
        for step in &workflow.steps {
            let from = shown.entry(step.id).or_default();
            let piece = yard.logs.read(step.run, step.id, *from, PIECE).await?;
            *from = piece.next;
            for (_, line) in piece.lines {
                say!(
                    "    {:>9} │ {}",
                    workflow.axis.as_deref().unwrap_or(&workflow.name),
                    text::plain(&line.text)
                );
            }
        }
    }
    Ok(())
}
