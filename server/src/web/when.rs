//! Times and durations as people read them.

use std::{fmt, time::Duration};

use mergeyard_types::Timestamp;

/// Markup: a point in time, as seen from `now`: `3 min ago`, the exact time on top of it.
pub(super) struct When {
    pub(super) at: Timestamp,
    pub(super) now: Timestamp,
}

/// Markup: from `since` until `until`, or until now and going on.
pub(super) struct Took {
    pub(super) since: Timestamp,
    pub(super) until: Option<Timestamp>,
    pub(super) now: Timestamp,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = exact(self.at);
        write!(f, r#"<time datetime="{exact}" title="{exact}">{}</time>"#, distance(self.at, self.now))
    }
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = duration(self.until.unwrap_or(self.now).since(self.since));
        match self.until {
            Some(_) => write!(f, r#"<span class="took">{time}</span>"#),
            None => write!(f, r#"<span class="took" data-since="{}">{time}</span>"#, self.since.0),
        }
    }
}

/// `2026-11-21T08:40:00.123Z`
pub(super) fn exact(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| format!("{} ms", at.0), |time| format!("{time:.3}"))
}

/// `0.4s`, `12s`, `1m 12s`, `2h 03m`
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", time.as_millis() as f64 / 1000.0),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

fn distance(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.since(now).max(now.since(at)).as_secs();
    let (number, unit) = match seconds {
        0..5 => return "just now".to_owned(),
        5..60 => (seconds, "s"),
        60..3600 => (seconds / 60, "min"),
        3600..86_400 => (seconds / 3600, "h"),
        86_400..172_800 => (1, "day"),
        172_800..2_592_000 => (seconds / 86_400, "days"),
        _ => return exact(at).chars().take(10).collect(),
    };
    if at > now { format!("in {number} {unit}") } else { format!("{number} {unit} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_precise_as_a_person_needs() {
        let cases =
            [(40, "0.0s"), (9_940, "9.9s"), (12_900, "12s"), (72_000, "1m 12s"), (7_380_000, "2h 03m")];
        for (millis, shown) in cases {
            assert_eq!(duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn distances_go_both_ways_and_become_dates() {
        let now = Timestamp(1_795_250_400_000);
        let cases = [
            (0, "just now"),
            (-42_000, "42 s ago"),
            (-180_000, "3 min ago"),
            (-90_000_000, "1 day ago"),
            (30_000, "in 30 s"),
            (-90 * 86_400_000, "2026-08-23"),
        ];
        for (offset, shown) in cases {
            assert_eq!(distance(Timestamp(now.0 + offset), now), shown);
        }
    }

    #[test]
    fn times_outside_the_calendar_are_still_shown() {
        assert_eq!(exact(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(exact(Timestamp(i64::MAX)), format!("{} ms", i64::MAX));
    }
}
