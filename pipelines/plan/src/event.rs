//! What a delivery says, typed.
//!
//! Parsing never fails on what GitHub may add tomorrow: unknown events and actions become
//! [`Event::Other`], unknown fields are passed over. It does fail, naming the path inside
//! the JSON, when a field that mergeyard acts on is missing or of another type.

use std::{fmt, str::FromStr};

use mergeyard_types::{CommitSha, GitRef, RepoName, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Ping,
    PullRequestClosed(PullRequest),
    Push(Push),
    Tag(Push),
    Release { repository: Repository, tag: String },
    Other { repository: Option<Repository>, event: String, action: Option<String> },
}

/// The events of the pipeline language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Push,
    PullRequest,
    PullRequestClosed,
    PullRequestMetadata,
    /// A `pull_request_closed` whose pull request was merged.
    PullRequestMerged,
    Tag,
    Release,
    Deployment,
    Cron,
    Manual,
}

impl EventKind {
    pub const ALL: [EventKind; 10] = [
        EventKind::Push,
        EventKind::PullRequest,
        EventKind::PullRequestClosed,
        EventKind::PullRequestMetadata,
        EventKind::PullRequestMerged,
        EventKind::Tag,
        EventKind::Release,
        EventKind::Deployment,
        EventKind::Cron,
        EventKind::Manual,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Push => "push",
            EventKind::PullRequest => "pull_request",
            EventKind::PullRequestClosed => "pull_request_closed",
            EventKind::PullRequestMetadata => "pull_request_metadata",
            EventKind::PullRequestMerged => "pull_request_merged",
            EventKind::Tag => "tag",
            EventKind::Release => "release",
            EventKind::Deployment => "deployment",
            EventKind::Cron => "cron",
            EventKind::Manual => "manual",
        }
    }

    pub fn is_pull_request(self) -> bool {
        matches!(
            self,
            EventKind::PullRequest
                | EventKind::PullRequestClosed
                | EventKind::PullRequestMetadata
                | EventKind::PullRequestMerged
        )
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an event of the pipeline language")]
pub struct EventKindError(String);

impl FromStr for EventKind {
    type Err = EventKindError;

    fn from_str(text: &str) -> Result<Self, EventKindError> {
        EventKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| EventKindError(text.to_owned()))
    }
}

/// Where a repository lives. Servers other than GitHub have no pull requests and no
/// repository ids, so a push is the only thing they can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forge {
    Github,
    Git,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The id outlives renames and transfers; plain git servers have none.
    pub id: Option<i64>,
    pub name: RepoName,
    pub clone_url: Option<String>,
    pub html_url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    pub repository: Repository,
    pub number: u64,
    pub title: String,
    pub author: String,
    pub html_url: Option<String>,
    pub base: GitRef,
    /// Only a merged pull request has one. GitHub also fills `merge_commit_sha` when a
    /// pull request is closed unmerged: that is a trial merge, and not taken over.
    pub merge: Option<Merge>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    pub commit: CommitSha,
    pub at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    pub forge: Forge,
    pub repository: Repository,
    pub git_ref: GitRef,
    /// `None` when the reference was deleted.
    pub after: Option<CommitSha>,
    pub author: String,
    pub title: String,
}

#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("the payload of event `{event}` does not read as GitHub writes it: `{path}`: {why}")]
    Shape { event: String, path: String, why: String },
}

impl Event {
    /// Reads a GitHub delivery: `event` is the header `X-GitHub-Event`.
    pub fn from_github(event: &str, payload: &[u8]) -> Result<Self, EventError> {
        match event {
            "ping" => Ok(Event::Ping),
            "pull_request" => pull_request(event, payload),
            "push" => push(event, payload),
            "release" => release(event, payload),
            _ => other(event, payload),
        }
    }

    /// Reads the body of `POST /hooks/git`.
    pub fn from_git(payload: &[u8]) -> Result<Self, EventError> {
        let raw: RawGitPush = parse("push", payload)?;
        let title = raw.message.unwrap_or_else(|| format!("push to {}", raw.git_ref));
        Ok(push_or_tag(Push {
            forge: Forge::Git,
            repository: Repository { id: None, name: raw.repository, clone_url: None, html_url: None },
            git_ref: raw.git_ref,
            after: Some(raw.after).filter(|sha| !sha.is_zero()),
            author: one_line(&raw.author.unwrap_or_default()),
            title: one_line(&title),
        }))
    }

    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Event::Ping => None,
            Event::PullRequestClosed(pull) => Some(&pull.repository),
            Event::Push(push) | Event::Tag(push) => Some(&push.repository),
            Event::Release { repository, .. } => Some(repository),
            Event::Other { repository, .. } => repository.as_ref(),
        }
    }

    /// The event's name in the pipeline language.
    pub fn name(&self) -> &str {
        match self {
            Event::Ping => "ping",
            Event::PullRequestClosed(PullRequest { merge: Some(_), .. }) => "pull_request_merged",
            Event::PullRequestClosed(_) => "pull_request_closed",
            Event::Push(_) => "push",
            Event::Tag(_) => "tag",
            Event::Release { .. } => "release",
            Event::Other { event, .. } => event,
        }
    }
}

fn pull_request(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    let action: RawAction = parse(event, payload)?;
    if action.action.as_deref() != Some("closed") {
        return other(event, payload);
    }
    let raw: RawClosed = parse(event, payload)?;
    let shape = |path: &str, why: String| EventError::Shape {
        event: event.into(),
        path: path.into(),
        why: one_line(&why),
    };
    let pull = raw.pull_request;
    let merge = if pull.merged {
        let commit = pull.merge_commit_sha.ok_or_else(|| {
            shape("pull_request.merge_commit_sha", "it is missing although `merged` is true".into())
        })?;
        let at = pull.merged_at.ok_or_else(|| {
            shape("pull_request.merged_at", "it is missing although `merged` is true".into())
        })?;
        Some(Merge { commit, at: timestamp(&at).map_err(|why| shape("pull_request.merged_at", why))? })
    } else {
        None
    };
    Ok(Event::PullRequestClosed(PullRequest {
        repository: raw.repository.into(),
        number: pull.number,
        title: one_line(&pull.title),
        author: login(pull.user),
        html_url: pull.html_url,
        base: GitRef::branch(&pull.base.name)
            .map_err(|why| shape("pull_request.base.ref", why.to_string()))?,
        merge,
    }))
}

fn push(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    let raw: RawPush = parse(event, payload)?;
    Ok(push_or_tag(Push {
        forge: Forge::Github,
        repository: raw.repository.into(),
        git_ref: raw.git_ref,
        after: Some(raw.after).filter(|sha| !sha.is_zero() && !raw.deleted),
        author: login(raw.sender),
        title: one_line(&raw.head_commit.map(|c| c.message).unwrap_or_default()),
    }))
}

/// GitHub shows an account that is gone as `ghost`.
fn login(user: Option<RawUser>) -> String {
    user.map_or_else(|| "ghost".to_owned(), |user| one_line(&user.login))
}

fn push_or_tag(push: Push) -> Event {
    if push.git_ref.tag_name().is_some() { Event::Tag(push) } else { Event::Push(push) }
}

fn release(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    let raw: RawRelease = parse(event, payload)?;
    Ok(Event::Release { repository: raw.repository.into(), tag: raw.release.tag_name })
}

fn other(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    let raw: RawOther = parse(event, payload)?;
    Ok(Event::Other {
        repository: raw.repository.map(Into::into),
        event: event.to_owned(),
        action: raw.action.map(|action| one_line(&action)),
    })
}

fn parse<'de, T: Deserialize<'de>>(event: &str, payload: &'de [u8]) -> Result<T, EventError> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let shape = |path: &str, why: &serde_json::Error| EventError::Shape {
        event: event.to_owned(),
        path: one_line(path),
        why: one_line(&why.to_string()),
    };
    let read = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| shape(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| shape(".", &error))?;
    Ok(read)
}

/// What a sender wrote is shown in one line, also on terminals, so it is cut to a short
/// one without control characters here, once.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 300;
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

fn timestamp(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Ok(Timestamp(time.as_millisecond()))
}

#[derive(Deserialize)]
struct RawAction {
    action: Option<String>,
}

#[derive(Deserialize)]
struct RawOther {
    action: Option<String>,
    repository: Option<RawRepository>,
}

#[derive(Deserialize)]
struct RawRepository {
    id: i64,
    full_name: RepoName,
    clone_url: Option<String>,
    html_url: Option<String>,
}

impl From<RawRepository> for Repository {
    fn from(raw: RawRepository) -> Self {
        let RawRepository { id, full_name, clone_url, html_url } = raw;
        Self { id: Some(id), name: full_name, clone_url, html_url }
    }
}

#[derive(Deserialize)]
struct RawClosed {
    pull_request: RawPull,
    repository: RawRepository,
}

#[derive(Deserialize)]
struct RawPull {
    number: u64,
    title: String,
    user: Option<RawUser>,
    html_url: Option<String>,
    base: RawBranch,
    merged: bool,
    merged_at: Option<String>,
    merge_commit_sha: Option<CommitSha>,
}

#[derive(Deserialize)]
struct RawBranch {
    #[serde(rename = "ref")]
    name: String,
}

#[derive(Deserialize)]
struct RawUser {
    login: String,
}

#[derive(Deserialize)]
struct RawPush {
    #[serde(rename = "ref")]
    git_ref: GitRef,
    after: CommitSha,
    #[serde(default)]
    deleted: bool,
    repository: RawRepository,
    sender: Option<RawUser>,
    head_commit: Option<RawCommit>,
}

#[derive(Deserialize)]
struct RawCommit {
    message: String,
}

#[derive(Deserialize)]
struct RawRelease {
    release: RawTagName,
    repository: RawRepository,
}

#[derive(Deserialize)]
struct RawTagName {
    tag_name: String,
}

#[derive(Deserialize)]
struct RawGitPush {
    repository: RepoName,
    #[serde(rename = "ref")]
    git_ref: GitRef,
    #[serde(rename = "before")]
    _before: CommitSha,
    after: CommitSha,
    message: Option<String>,
    author: Option<String>,
}
