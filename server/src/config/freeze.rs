//! Freeze windows: when a target takes no deployments.

use mergeyard_types::Timestamp;
use serde::Deserialize;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const WEEK: i64 = 7 * DAY;

/// 1970-01-05, the first Monday that is counted.
const FIRST_MONDAY: i64 = 4 * DAY;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

const FORMS: &str = "write {from = \"Fri 16:00\", to = \"Mon 07:00\"} for every week, in UTC, or \
                     {from = \"2030-12-20T00:00:00Z\", to = \"2031-01-02T00:00:00Z\"} for once";

/// The windows of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freeze(Vec<Window>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    /// Milliseconds since the week began, on Monday in UTC; `to` may lie in the next week.
    Weekly {
        from: i64,
        to: i64,
    },
    Once {
        from: i64,
        to: i64,
    },
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct RawWindow {
    from: String,
    to: String,
}

impl Freeze {
    pub(super) fn read(windows: &[RawWindow]) -> Result<Self, String> {
        let freeze = Self(windows.iter().map(Window::read).collect::<Result<_, _>>()?);
        match freeze.until(Timestamp(FIRST_MONDAY)).is_some_and(|until| until.0 - FIRST_MONDAY >= 2 * WEEK) {
            true => Err("leaves no minute of the week for a deployment".to_owned()),
            false => Ok(freeze),
        }
    }

    /// When the freeze ends that it is now; windows that touch are one. `None` when there is none.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let mut at = now.0;
        // Each window of a week is met twice at most before two weeks are over.
        for _ in 0..=2 * self.0.len() + 2 {
            match self.0.iter().filter_map(|window| window.end(at)).max() {
                Some(end) => at = end,
                None => break,
            }
        }
        (at > now.0).then_some(Timestamp(at))
    }
}

impl Window {
    fn read(raw: &RawWindow) -> Result<Self, String> {
        let RawWindow { from, to } = raw;
        let wrong = |what: &str| format!("has `{}`, which is no time; {FORMS}", what.escape_debug());
        if let (Some(from), Some(to)) = (weekly(from), weekly(to)) {
            return match to - from {
                0 => Err(format!("begins when it ends; {FORMS}")),
                length if length < 0 => Ok(Window::Weekly { from, to: to + WEEK }),
                _ => Ok(Window::Weekly { from, to }),
            };
        }
        let once = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
        match (once(from), once(to)) {
            (Some(from), Some(to)) if from < to => Ok(Window::Once { from, to }),
            (Some(_), Some(_)) => Err(format!("ends before it begins; {FORMS}")),
            (None, _) if weekly(from).is_none() => Err(wrong(from)),
            _ => Err(wrong(to)),
        }
    }

    /// When it ends, if `at` is in it.
    fn end(self, at: i64) -> Option<i64> {
        match self {
            Window::Once { from, to } => (from..to).contains(&at).then_some(to),
            Window::Weekly { from, to } => {
                let monday = at - (at - FIRST_MONDAY).rem_euclid(WEEK);
                // It may have begun in the week before.
                let mut starts = [monday, monday - WEEK].into_iter();
                starts.find(|start| (start + from..start + to).contains(&at)).map(|start| start + to)
            }
        }
    }
}

/// `Fri 16:00` as milliseconds since Monday.
fn weekly(text: &str) -> Option<i64> {
    let (day, time) = text.trim().split_once(' ')?;
    let day = DAYS.iter().position(|known| day.eq_ignore_ascii_case(known))?;
    let (hours, minutes) = time.trim().split_once(':')?;
    let number = |text: &str, below: i64| {
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok())??;
        (text.len() == 2 && number < below).then_some(number)
    };
    Some(i64::try_from(day).ok()? * DAY + (number(hours, 24)? * 60 + number(minutes, 60)?) * MINUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(windows: &[(&str, &str)]) -> Result<Freeze, String> {
        let raw = |(from, to): &(&str, &str)| RawWindow { from: (*from).to_owned(), to: (*to).to_owned() };
        Freeze::read(&windows.iter().map(raw).collect::<Vec<_>>())
    }

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn a_week_end_is_frozen_from_friday_to_monday() {
        let freeze = freeze(&[("Fri 16:00", "mon 07:00")]).unwrap();
        // 2030-01-04 is a Friday.
        let end = Some(at("2030-01-07T07:00:00Z"));
        for inside in ["2030-01-04T16:00:00Z", "2030-01-06T23:59:59Z", "2030-01-07T06:59:59.999Z"] {
            assert_eq!(freeze.until(at(inside)), end, "{inside}");
        }
        for outside in ["2030-01-04T15:59:59.999Z", "2030-01-07T07:00:00Z", "2030-01-02T00:00:00Z"] {
            assert_eq!(freeze.until(at(outside)), None, "{outside}");
        }
    }

    #[test]
    fn windows_that_touch_are_one() {
        let windows = [("Fri 16:00", "Mon 00:00"), ("2030-01-07T00:00:00Z", "2030-01-09T12:00:00Z")];
        let freeze = freeze(&windows).unwrap();
        assert_eq!(freeze.until(at("2030-01-05T00:00:00Z")), Some(at("2030-01-09T12:00:00Z")));
    }

    #[test]
    fn what_is_no_window_is_refused_with_one_that_is() {
        for (from, to) in [
            ("Friday 16:00", "Mon 07:00"),
            ("Fri 24:00", "Mon 07:00"),
            ("Fri 1:00", "Mon 07:00"),
            ("Fri 16:00", "2030-01-01T00:00:00Z"),
            ("Fri 16:00", "Fri 16:00"),
            ("2030-01-02T00:00:00Z", "2030-01-01T00:00:00Z"),
            ("", "\u{1b}[31m"),
        ] {
            let why = freeze(&[(from, to)]).unwrap_err();
            assert!(why.contains("Fri 16:00\", to") && !why.contains('\u{1b}'), "{why}");
        }
        let always = freeze(&[("Mon 00:00", "Fri 00:00"), ("Thu 12:00", "Mon 00:00")]).unwrap_err();
        assert!(always.contains("no minute of the week"), "{always}");
    }
}
