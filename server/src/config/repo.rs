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
    let has = |key: &'static str| move |error| wrong(key, &format!("has {error}"));
    Policy::new(&raw.name, &[]).map_err(has(".name"))?;
    if !can_name(&raw.name) {
        let why = "which no repository has; write OWNER/NAME, or a pattern such as OWNER/* or **";
        return Err(wrong(".name", &format!("is `{}`, {why}", raw.name.escape_debug())));
    }
    if let Some(word) = raw.clone_url.as_deref().and_then(unknown_placeholder) {
        let why = "which stands for nothing; there are {owner} and {name}";
        return Err(wrong(".clone_url", &format!("has `{}`, {why}", word.escape_debug())));
    }
    let mut policy = Policy::new(&raw.name, &raw.branches).map_err(has(".branches"))?;
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

/// Whether some repository could have this name, or match this pattern.
fn can_name(pattern: &str) -> bool {
    let is_wild = |byte: u8| matches!(byte, b'*' | b'?' | b'[' | b']' | b'{' | b'}' | b',' | b'!' | b'^');
    match pattern.bytes().any(is_wild) {
        true => pattern
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_./\\".contains(&byte) || is_wild(byte)),
        false => pattern.parse::<RepoName>().is_ok(),
    }
}

/// The first `{…}` that no part of a repository's name is written for.
fn unknown_placeholder(url: &str) -> Option<&str> {
    let braces = url.match_indices('{').filter_map(|(at, _)| url[at..].split_inclusive('}').next());
    braces.into_iter().find(|word| word.ends_with('}') && !["{owner}", "{name}"].contains(word))
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
    let named = |word: &String| event(word).map_err(|why| format!("names `{}`: {why}", word.escape_debug()));
    words.iter().map(named).collect()
}

/// An event by its word, here and on the command line.
pub(crate) fn event(word: &str) -> Result<EventKind, String> {
    let known = EventKind::ALL.map(EventKind::as_str);
    word.parse().map_err(|_| format!("there is no such event; {}", choice(word, &known)))
}

pub(super) fn unknown(word: &str, what: &str, known: &[&str]) -> String {
    format!("names `{}`, which is not {what}; {}", word.escape_debug(), choice(word, known))
}

fn choice(word: &str, known: &[&str]) -> String {
    let nearest = nearest(word, known.iter().copied()).unwrap_or_default();
    format!("the nearest is `{nearest}`, and there are: {}", known.join(", "))
}
