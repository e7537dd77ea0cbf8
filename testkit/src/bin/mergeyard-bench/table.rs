//! What was measured, for people.

use std::time::Duration;

/// Rows of text under a title; the first column is words, the others are figures.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|column| (*column).to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).filter_map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match at {
                    0 => line += &format!("  {cell:<width$}"),
                    _ => line += &format!("  {cell:>width$}"),
                }
            }
            println!("{}", line.trim_end());
        }
    }
}

/// What this project wants to be, and whether it was so just now.
#[derive(Default)]
pub(crate) struct Aims(Vec<(bool, String, String)>);

impl Aims {
    pub(crate) fn add(&mut self, met: bool, aim: impl Into<String>, measured: impl Into<String>) {
        self.0.push((met, aim.into(), measured.into()));
    }

    pub(crate) fn print(&self) {
        println!("\naims");
        let mut table = Table::new(&["aim", "measured", ""]);
        for (met, aim, measured) in &self.0 {
            let verdict = if *met { "met" } else { "MISSED" };
            table.row([aim.clone(), measured.clone(), verdict.to_owned()]);
        }
        table.print();
    }
}

/// Zero when nothing was measured.
pub(crate) fn percentile<T: Ord + Copy + Default>(values: &mut [T], percent: f64) -> T {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    let at = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(at.saturating_sub(1).min(last)).copied().unwrap_or_default()
}

pub(crate) fn median<T: Ord + Copy + Default>(values: &[T]) -> T {
    percentile(&mut values.to_vec(), 50.0)
}

pub(crate) fn millis(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

pub(crate) fn ratio(this: f64, other: f64) -> String {
    if other > 0.0 { format!("{:.2}×", this / other) } else { "–".to_owned() }
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}
