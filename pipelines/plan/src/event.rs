//! What a delivery says, typed.
//!
//! Parsing never fails on what GitHub may add tomorrow: unknown events and actions become
//! [`Event::Other`], unknown fields are passed over. It does fail, naming the path inside
//! the JSON, when a field that mergeyard acts on is missing or of another type.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use mergeyard_types::{CommitSha, GitRef, NameError, RepoName, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Ping,
    PullRequest(Box<PullRequest>),
    Push(Push),
    Tag(Push),
    Release(Release),
    Deployment(Deployment),
    /// The wish names the repository; the rest is what the server remembers of it.
    Asked {
        forge: Forge,
        repository: Repository,
        asked: Asked,
    },
    Rehearsed {
        repository: Repository,
        rehearsal: Rehearsal,
    },
    Other {
        repository: Option<Repository>,
        event: String,
        action: Option<String>,
    },
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

    /// Whether `when: {event: …}` means this event by `listed`. A merged pull request was
    /// closed as well, so files written for `pull_request_closed` go on to see it.
    pub fn is(self, listed: EventKind) -> bool {
        self == listed || (self == EventKind::PullRequestMerged && listed == EventKind::PullRequestClosed)
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
    pub ssh_url: Option<String>,
    pub html_url: Option<String>,
    pub default_branch: Option<String>,
    pub private: bool,
}

impl Repository {
    /// One of which nothing but its name is known.
    pub fn named(name: RepoName) -> Self {
        Self {
            id: None,
            name,
            clone_url: None,
            ssh_url: None,
            html_url: None,
            default_branch: None,
            private: false,
        }
    }
}

/// Who did something, as the forge knows them. Whoever writes a commit chooses the name in it;
/// nobody chooses an account's id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    pub id: Option<i64>,
    pub login: String,
    pub avatar: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    pub kind: EventKind,
    /// GitHub's word for what happened, such as `synchronize`.
    pub action: String,
    pub repository: Repository,
    pub number: u64,
    pub title: String,
    /// Who opened it.
    pub author: Account,
    pub html_url: Option<String>,
    pub base: GitRef,
    pub base_commit: CommitSha,
    pub head: Head,
    pub labels: Vec<String>,
    pub milestone: String,
    pub draft: bool,
    /// Changes with whatever happens to it, so it tells two happenings apart.
    pub updated: String,
    /// Only a merged pull request has one. GitHub also fills `merge_commit_sha` when a
    /// pull request is closed unmerged: that is a trial merge, and not taken over.
    pub merge: Option<Merge>,
}

/// What a pull request brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub branch: String,
    pub commit: CommitSha,
    /// The repository it comes from, by its id, and the id of whom that belongs to. `None` when
    /// that repository was deleted.
    pub repository: Option<(i64, Option<i64>)>,
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
    /// `None` when the reference is new.
    pub before: Option<CommitSha>,
    /// `None` when the reference was deleted.
    pub after: Option<CommitSha>,
    /// When it was pushed, in seconds since 1970, where the sender says so.
    pub pushed: Option<i64>,
    /// Whether history was replaced rather than continued.
    pub forced: bool,
    /// The branch a tag was made on, where the sender says so.
    pub base_branch: Option<String>,
    pub author: Account,
    pub title: String,
    /// `None` where the sender lists none, or not all.
    pub files: Option<Vec<String>>,
    pub url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub repository: Repository,
    pub tag: GitRef,
    /// The branch or commit the tag was made from.
    pub target: String,
    pub title: String,
    pub prerelease: bool,
    pub author: Account,
    pub html_url: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    pub repository: Repository,
    pub id: i64,
    pub commit: CommitSha,
    /// A branch, a tag or a commit, as it was asked for.
    pub wanted: String,
    pub environment: String,
    pub task: String,
    pub description: String,
    pub author: Account,
    pub url: Option<String>,
}

/// A run that was asked for here: by a schedule, or by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub kind: AskedKind,
    pub repository: RepoName,
    /// Without one it is the default branch.
    #[serde(rename = "ref")]
    pub git_ref: Option<GitRef>,
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// A token's name, the command line's user, or nobody.
    #[serde(default)]
    pub who: String,
    /// Of the schedule.
    #[serde(default)]
    pub name: String,
    /// Tells two wishes apart: when the schedule was due, or anything unique.
    pub occasion: String,
}

/// An event that is only played, for `mergeyard run` and `mergeyard plan`: what would happen with
/// this commit if it had come this way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rehearsal {
    pub kind: EventKind,
    pub repository: RepoName,
    /// A branch, or for the events that have one a tag.
    #[serde(rename = "ref")]
    pub git_ref: GitRef,
    pub branch: String,
    pub commit: CommitSha,
    /// What changed files are counted from.
    pub before: Option<CommitSha>,
    pub title: String,
    pub author: String,
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// The one workflow that is wanted, with what it depends on.
    pub only: Option<String>,
}

impl Rehearsal {
    /// The number that its pull request has, when it plays one.
    pub const PULL_REQUEST: u64 = 1;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AskedKind {
    Cron,
    Manual,
}

impl AskedKind {
    pub fn event(self) -> EventKind {
        match self {
            AskedKind::Cron => EventKind::Cron,
            AskedKind::Manual => EventKind::Manual,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("the payload of event `{event}` does not read as {}: `{path}`: {why}", written(.event))]
    Shape { event: String, path: String, why: String },
}

/// What is told by whoever runs a plain git server.
const GIT: &str = "push of a git server";

fn written(event: &str) -> &'static str {
    match event {
        "mergeyard" => "mergeyard writes it",
        GIT => "`{\"repository\", \"ref\", \"before\", \"after\"}`",
        _ => "GitHub writes it",
    }
}

impl Event {
    /// Reads a GitHub delivery: `event` is the header `X-GitHub-Event`.
    pub fn from_github(event: &str, payload: &[u8]) -> Result<Self, EventError> {
        match event {
            "ping" => Ok(Event::Ping),
            "pull_request" => pull_request(event, payload),
            "push" => push(event, payload),
            "release" => release(event, payload),
            "deployment" => deployment(event, payload),
            _ => other(event, payload),
        }
    }

    /// Reads the body of `POST /hooks/git`.
    pub fn from_git(payload: &[u8]) -> Result<Self, EventError> {
        let raw: RawGitPush = parse(GIT, payload)?;
        let title = raw.message.unwrap_or_else(|| format!("push to {}", raw.git_ref));
        Ok(push_or_tag(Push {
            forge: Forge::Git,
            repository: Repository::named(raw.repository),
            git_ref: raw.git_ref,
            before: Some(raw.before).filter(|sha| !sha.is_zero()),
            after: Some(raw.after).filter(|sha| !sha.is_zero()),
            pushed: None,
            forced: false,
            base_branch: None,
            author: Account { login: one_line(&raw.author.unwrap_or_default()), ..Account::default() },
            title: one_line(&title),
            files: None,
            url: None,
        }))
    }

    /// Reads what the scheduler, the command line or the API wrote as a delivery of its own.
    pub fn from_mergeyard(payload: &[u8]) -> Result<Self, EventError> {
        if let Some(rehearsal) = parse::<RawRehearsed>("mergeyard", payload)?.rehearsal {
            let repository = Repository::named(rehearsal.repository.clone());
            return Ok(Event::Rehearsed { repository, rehearsal });
        }
        let asked: Asked = parse("mergeyard", payload)?;
        Ok(Event::Asked { forge: Forge::Git, repository: Repository::named(asked.repository.clone()), asked })
    }

    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Event::Ping => None,
            Event::PullRequest(pull) => Some(&pull.repository),
            Event::Push(push) | Event::Tag(push) => Some(&push.repository),
            Event::Release(release) => Some(&release.repository),
            Event::Deployment(deployment) => Some(&deployment.repository),
            Event::Asked { repository, .. } | Event::Rehearsed { repository, .. } => Some(repository),
            Event::Other { repository, .. } => repository.as_ref(),
        }
    }

    /// What it is in the pipeline language; `None` for what that has no word for.
    pub fn kind(&self) -> Option<EventKind> {
        match self {
            Event::PullRequest(pull) => Some(pull.kind),
            Event::Push(_) => Some(EventKind::Push),
            Event::Tag(_) => Some(EventKind::Tag),
            Event::Release(_) => Some(EventKind::Release),
            Event::Deployment(_) => Some(EventKind::Deployment),
            Event::Asked { asked, .. } => Some(asked.kind.event()),
            Event::Rehearsed { rehearsal, .. } => Some(rehearsal.kind),
            Event::Ping | Event::Other { .. } => None,
        }
    }

    /// The event's name: in the pipeline language, or else as its sender calls it.
    pub fn name(&self) -> &str {
        match (self.kind(), self) {
            (Some(kind), _) => kind.as_str(),
            (None, Event::Other { event, .. }) => event,
            (None, _) => "ping",
        }
    }
}

/// What an action on a pull request is in the pipeline language. A draft that becomes ready
/// is looked at as if it were opened then. Closing is one of two, which only the merge tells.
fn kind_of(action: &str) -> Option<EventKind> {
    match action {
        "opened" | "reopened" | "synchronize" | "ready_for_review" => Some(EventKind::PullRequest),
        "closed" => Some(EventKind::PullRequestClosed),
        "labeled"
        | "unlabeled"
        | "edited"
        | "milestoned"
        | "demilestoned"
        | "assigned"
        | "unassigned"
        | "converted_to_draft"
        | "locked"
        | "unlocked"
        | "review_requested"
        | "review_request_removed" => Some(EventKind::PullRequestMetadata),
        _ => None,
    }
}

fn pull_request(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    let action = parse::<RawAction>(event, payload)?.action.unwrap_or_default();
    let Some(kind) = kind_of(&action) else { return other(event, payload) };
    let raw: RawPullRequest = parse(event, payload)?;
    let pull = raw.pull_request;
    let base = GitRef::branch(&pull.base.name)
        .map_err(|why| shape(event, "pull_request.base.ref", &why.to_string()))?;
    let merge = match kind {
        EventKind::PullRequestClosed => merge(event, &pull)?,
        _ => None,
    };
    let of = |repo: RawHeadRepository| (repo.id, repo.owner.and_then(|owner| owner.id));
    Ok(Event::PullRequest(Box::new(PullRequest {
        kind: if merge.is_some() { EventKind::PullRequestMerged } else { kind },
        action,
        repository: raw.repository.into(),
        number: pull.number,
        title: one_line(&pull.title),
        author: account(pull.user),
        html_url: pull.html_url,
        base,
        base_commit: pull.base.sha,
        head: Head {
            branch: one_line(&pull.head.name),
            commit: pull.head.sha,
            repository: pull.head.repo.map(of),
        },
        labels: pull.labels.iter().take(MOST_LABELS).map(|label| one_line(&label.name)).collect(),
        milestone: one_line(&pull.milestone.map(|milestone| milestone.title).unwrap_or_default()),
        draft: pull.draft,
        updated: one_line(&pull.updated_at.unwrap_or_default()),
        merge,
    })))
}

/// GitHub allows a hundred; more are not looked at.
const MOST_LABELS: usize = 100;

fn merge(event: &str, pull: &RawPull) -> Result<Option<Merge>, EventError> {
    if !pull.merged {
        return Ok(None);
    }
    let missing = |path: &str| shape(event, path, "it is missing although `merged` is true");
    let commit = pull.merge_commit_sha.ok_or_else(|| missing("pull_request.merge_commit_sha"))?;
    // Who speaks like GitHub may leave out what says the same.
    let (path, at) = match (&pull.merged_at, &pull.updated_at) {
        (Some(at), _) => ("pull_request.merged_at", at),
        (None, Some(at)) => ("pull_request.updated_at", at),
        (None, None) => return Err(missing("pull_request.merged_at")),
    };
    let at = timestamp(at).map_err(|why| shape(event, path, &why))?;
    Ok(Some(Merge { commit, at }))
}

fn push(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    let raw: RawPush = parse(event, payload)?;
    let head = raw.head_commit;
    // An annotated tag is an object of its own, and `after` names that one.
    let tagged = head.as_ref().and_then(|head| head.id).filter(|_| raw.git_ref.tag_name().is_some());
    let branch = |name: String| name.strip_prefix("refs/heads/").map(str::to_owned);
    Ok(push_or_tag(Push {
        forge: Forge::Github,
        pushed: raw.repository.pushed_at.as_ref().and_then(serde_json::Value::as_i64),
        repository: raw.repository.into(),
        before: raw.before.filter(|sha| !sha.is_zero()),
        after: Some(tagged.unwrap_or(raw.after)).filter(|sha| !sha.is_zero() && !raw.deleted),
        forced: raw.forced,
        base_branch: raw.base_ref.and_then(branch).filter(|_| raw.git_ref.tag_name().is_some()),
        author: account(raw.sender),
        url: head.as_ref().and_then(|head| head.url.clone()),
        title: one_line(&head.map(|head| head.message).unwrap_or_default()),
        files: if raw.forced || raw.deleted { None } else { pushed_files(&raw.commits) },
        git_ref: raw.git_ref,
    }))
}

/// What the commits of a push touched, unless GitHub left some of it out.
fn pushed_files(commits: &[RawPushedCommit]) -> Option<Vec<String>> {
    // "Webhook events and payloads": a push lists so many commits, and a commit so many files.
    const MOST_COMMITS: usize = 2048;
    const MOST_FILES: usize = 3000;
    if commits.len() >= MOST_COMMITS {
        return None;
    }
    let mut files = BTreeSet::new();
    for RawPushedCommit { added, removed, modified } in commits {
        if added.len() + removed.len() + modified.len() >= MOST_FILES {
            return None;
        }
        files.extend([added, removed, modified].into_iter().flatten().cloned());
    }
    Some(files.into_iter().collect())
}

/// GitHub shows an account that is gone as `ghost`.
fn account(user: Option<RawUser>) -> Account {
    let ghost = || Account { login: "ghost".to_owned(), ..Account::default() };
    user.map_or_else(ghost, |RawUser { id, login, avatar_url }| Account {
        id,
        login: one_line(&login),
        avatar: one_line(&avatar_url.unwrap_or_default()),
    })
}

fn push_or_tag(push: Push) -> Event {
    if push.git_ref.tag_name().is_some() { Event::Tag(push) } else { Event::Push(push) }
}

/// A release is announced several times while it is written; it is made when it is published.
fn release(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    if parse::<RawAction>(event, payload)?.action.as_deref() != Some("published") {
        return other(event, payload);
    }
    let RawRelease { release, repository } = parse(event, payload)?;
    let tag = format!("refs/tags/{}", release.tag_name).parse();
    Ok(Event::Release(Release {
        repository: repository.into(),
        tag: tag.map_err(|why: NameError| shape(event, "release.tag_name", &why.to_string()))?,
        target: one_line(&release.target_commitish.unwrap_or_default()),
        title: one_line(&release.name.filter(|name| !name.is_empty()).unwrap_or(release.tag_name)),
        prerelease: release.prerelease,
        author: account(release.author),
        html_url: release.html_url,
    }))
}

fn deployment(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    if parse::<RawAction>(event, payload)?.action.as_deref() != Some("created") {
        return other(event, payload);
    }
    let RawDeploymentEvent { deployment, repository } = parse(event, payload)?;
    let title = deployment.description.filter(|text| !text.is_empty());
    Ok(Event::Deployment(Deployment {
        repository: repository.into(),
        id: deployment.id,
        commit: deployment.sha,
        wanted: one_line(&deployment.wanted),
        description: one_line(&title.unwrap_or_else(|| format!("deploy to {}", deployment.environment))),
        environment: one_line(&deployment.environment),
        task: one_line(&deployment.task.unwrap_or_default()),
        author: account(deployment.creator),
        url: deployment.url,
    }))
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
    // A list would be taken for the values of all fields, in some order.
    if payload.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(shape(event, ".", "it is no object"));
    }
    let mut json = serde_json::Deserializer::from_slice(payload);
    let read = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| shape(event, &error.path().to_string(), &error.inner().to_string()))?;
    json.end().map_err(|error| shape(event, ".", &error.to_string()))?;
    Ok(read)
}

fn shape(event: &str, path: &str, why: &str) -> EventError {
    EventError::Shape { event: event.to_owned(), path: one_line(path), why: one_line(why) }
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
struct RawRehearsed {
    rehearsal: Option<Rehearsal>,
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
    ssh_url: Option<String>,
    html_url: Option<String>,
    default_branch: Option<String>,
    #[serde(default)]
    private: bool,
    /// A number where a push is told, and a date elsewhere.
    pushed_at: Option<serde_json::Value>,
}

impl From<RawRepository> for Repository {
    fn from(raw: RawRepository) -> Self {
        let RawRepository {
            id,
            full_name,
            clone_url,
            ssh_url,
            html_url,
            default_branch,
            private,
            pushed_at: _,
        } = raw;
        let default_branch = default_branch.map(|branch| one_line(&branch));
        Self { id: Some(id), name: full_name, clone_url, ssh_url, html_url, default_branch, private }
    }
}

#[derive(Deserialize)]
struct RawPullRequest {
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
    head: RawHead,
    #[serde(default)]
    labels: Vec<RawLabel>,
    milestone: Option<RawMilestone>,
    #[serde(default)]
    draft: bool,
    updated_at: Option<String>,
    #[serde(default)]
    merged: bool,
    merged_at: Option<String>,
    merge_commit_sha: Option<CommitSha>,
}

#[derive(Deserialize)]
struct RawBranch {
    #[serde(rename = "ref")]
    name: String,
    sha: CommitSha,
}

#[derive(Deserialize)]
struct RawHead {
    #[serde(rename = "ref")]
    name: String,
    sha: CommitSha,
    repo: Option<RawHeadRepository>,
}

#[derive(Deserialize)]
struct RawHeadRepository {
    id: i64,
    owner: Option<RawOwner>,
}

#[derive(Deserialize)]
struct RawOwner {
    id: Option<i64>,
}

#[derive(Deserialize)]
struct RawLabel {
    name: String,
}

#[derive(Deserialize)]
struct RawMilestone {
    title: String,
}

#[derive(Deserialize)]
struct RawUser {
    id: Option<i64>,
    login: String,
    avatar_url: Option<String>,
}

#[derive(Deserialize)]
struct RawPush {
    #[serde(rename = "ref")]
    git_ref: GitRef,
    before: Option<CommitSha>,
    after: CommitSha,
    base_ref: Option<String>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    forced: bool,
    repository: RawRepository,
    sender: Option<RawUser>,
    head_commit: Option<RawCommit>,
    #[serde(default)]
    commits: Vec<RawPushedCommit>,
}

#[derive(Deserialize)]
struct RawCommit {
    id: Option<CommitSha>,
    message: String,
    url: Option<String>,
}

#[derive(Deserialize)]
struct RawPushedCommit {
    #[serde(default)]
    added: Vec<String>,
    #[serde(default)]
    removed: Vec<String>,
    #[serde(default)]
    modified: Vec<String>,
}

#[derive(Deserialize)]
struct RawRelease {
    release: RawReleased,
    repository: RawRepository,
}

#[derive(Deserialize)]
struct RawReleased {
    tag_name: String,
    target_commitish: Option<String>,
    name: Option<String>,
    #[serde(default)]
    prerelease: bool,
    author: Option<RawUser>,
    html_url: Option<String>,
}

#[derive(Deserialize)]
struct RawDeploymentEvent {
    deployment: RawDeployment,
    repository: RawRepository,
}

#[derive(Deserialize)]
struct RawDeployment {
    id: i64,
    sha: CommitSha,
    #[serde(rename = "ref")]
    wanted: String,
    environment: String,
    task: Option<String>,
    description: Option<String>,
    creator: Option<RawUser>,
    url: Option<String>,
}

#[derive(Deserialize)]
struct RawGitPush {
    repository: RepoName,
    #[serde(rename = "ref")]
    git_ref: GitRef,
    before: CommitSha,
    after: CommitSha,
    message: Option<String>,
    author: Option<String>,
}
