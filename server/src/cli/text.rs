//! Words for people on a terminal.

use std::{fmt::Display, io::Write, time::Duration};

use mergeyard_types::{RunId, Timestamp};

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

/// What a person writes for a run.
pub(super) fn run(text: &str) -> Result<RunId, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(RunId(number)),
        _ => Err("write the number of a run, such as 12: the address of its page ends with it".to_owned()),
    }
}

/// How many rows of a list.
pub(super) fn rows(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=1000) => Ok(number),
        _ => Err("write how many rows to list, from 1 to 1000".to_owned()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_is_refused_with_what_is() {
        assert_eq!((run("12"), rows("1000")), (Ok(RunId(12)), Ok(1000)));
        for bad in ["abc", "", "0", "-1", "99999999999999999999", "run-12"] {
            assert!(run(bad).unwrap_err().contains("the number of a run"), "{bad}");
        }
        for bad in ["abc", "", "0", "1001", "-1"] {
            assert!(rows(bad).unwrap_err().contains("from 1 to 1000"), "{bad}");
        }
    }
}
