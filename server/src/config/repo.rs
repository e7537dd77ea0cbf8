//! `[[repo]]`: who may start what, and when by itself.

use croner::{Cron, parser::CronParser};
use mergeyard_plan::{
    event::EventKind,
    policy::{Forks, Policy, Trust},
};
use mergeyard_types::{GitRef, RepoName, Timestamp};

use super::{
    ConfigError,
    raw::{RawCron, RawRepo},
    source::nearest,
};

/// A run that starts by the clock.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub repo: RepoName,
    pub name: String,
    /// As it was written.
    pub expression: String,
    /// Without one it is the default branch.
    pub branch: Option<GitRef>,
    cron: Cron,
}

impl Schedule {
    /// The first time after `now`, in UTC. `None` when there is none, as of the 30th of February.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let now = jiff::Timestamp::from_millisecond(now.0).ok()?.to_zoned(jiff::tz::TimeZone::UTC);
        let next = self.cron.find_next_occurrence(&now.datetime(), false).ok()?;
        let next = next.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Timestamp(next.timestamp().as_millisecond()))
    }
}

pub(super) fn policy(at: usize, raw: &RawRepo) -> Result<Policy, ConfigError> {
    let wrong = |key: &str, why: &str| ConfigError::value(&format!("repo[{at}]{key}"), why);
    let mut policy = Policy::new(&raw.name, &raw.branches).map_err(|error| wrong("", &error.to_string()))?;
    policy.id = raw.id;
    policy.clone_url = raw.clone_url.clone();
    policy.supersede = raw.supersede;
    policy.trust = trust(&raw.trusted).map_err(|why| wrong(".trusted", &why))?;
    policy.events = events(&raw.events).map_err(|why| wrong(".events", &why))?;
    policy.forks = match raw.forks.as_deref() {
        None | Some("approve") => Forks::Approve,
        Some("ignore") => Forks::Ignore,
        Some(other) => return Err(wrong(".forks", &unknown(other, "an answer", &["approve", "ignore"]))),
    };
    Ok(policy)
}

pub(super) fn schedules(at: usize, raw: &RawRepo) -> Result<Vec<Schedule>, ConfigError> {
    let mut schedules: Vec<Schedule> = Vec::new();
    for (nth, cron) in raw.cron.iter().enumerate() {
        let schedule = schedule(&raw.name, cron).and_then(|schedule| {
            match schedules.iter().any(|other| other.name == schedule.name) {
                true => Err(format!("has the name `{}` of another one; give it its own", schedule.name)),
                false => Ok(schedule),
            }
        });
        let wrong = |why: String| ConfigError::value(&format!("repo[{at}].cron[{nth}]"), &why);
        schedules.push(schedule.map_err(wrong)?);
    }
    Ok(schedules)
}

fn schedule(repo: &str, raw: &RawCron) -> Result<Schedule, String> {
    let RawCron { name, schedule, branch } = raw;
    let repo = repo
        .parse()
        .map_err(|_| format!("belongs to the pattern `{repo}`; write a `[[repo]]` for the one repository"))?;
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err("needs a `name` of 1 to 100 characters".to_owned());
    }
    let cron = CronParser::new().parse(schedule).map_err(|error| {
        format!("has a `schedule` that is none: {error}; write one such as \"0 4 * * 1-5\"")
    })?;
    let branch = branch.as_deref().map(GitRef::branch).transpose().map_err(|error| error.to_string())?;
    Ok(Schedule { repo, name: name.clone(), expression: schedule.clone(), branch, cron })
}

fn trust(words: &[String]) -> Result<Trust, String> {
    let mut trust = Trust::default();
    for word in words {
        match word.as_str() {
            "security" => trust.security = true,
            "network" => trust.network = true,
            "volumes" => trust.volumes = true,
            other => return Err(unknown(other, "a right", &["security", "network", "volumes"])),
        }
    }
    Ok(trust)
}

pub(super) fn events(words: &[String]) -> Result<Vec<EventKind>, String> {
    let known = EventKind::ALL.map(EventKind::as_str);
    words.iter().map(|word| word.parse().map_err(|_| unknown(word, "an event", &known))).collect()
}

pub(super) fn unknown(word: &str, what: &str, known: &[&str]) -> String {
    let nearest = nearest(word, known.iter().copied()).unwrap_or_default();
    format!(
        "names `{word}`, which is not {what}; the nearest is `{nearest}`, and there are: {}",
        known.join(", ")
    )
}
