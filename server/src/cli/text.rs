//! Words for people on a terminal.

use std::{fmt::Display, io::Write, time::Duration};

use mergeyard_types::Timestamp;

/// A line for whoever still listens: work goes on, and is cleared away, when nobody does any more.
pub(super) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// As `println!`, by [`say`].
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::text::say(format_args!($($words)*)) };
}

/// `2026-01-31 12:00:00Z`.
pub(super) fn time(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => at.0.to_string(),
    }
}

/// `840 ms`, `1.2 s`, `3 m 05 s`.
pub(super) fn duration(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} m {:02} s", seconds / 60, seconds % 60),
    }
}

/// Text from outside, without the power to move a terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `1 tag`, `2 tags`.
pub(crate) fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// `840 bytes`, `1.2 MB`, `3.4 GB`.
pub(super) fn size(bytes: u64) -> String {
    let unit = |power: u32| bytes as f64 / f64::from(10u32.pow(power));
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", unit(3)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", unit(6)),
        _ => format!("{:.1} GB", unit(9)),
    }
}
