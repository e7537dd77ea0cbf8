//! The facts of a run, gathered from its event and from what else is known.
//!
//! The event says what happened, git what the commit says about itself, the configuration what
//! this server is, the database which run went before. Only this place knows which of
//! them each fact comes from.

use mergeyard_types::{RunId, Timestamp};

use crate::{
    change::Change,
    event::{Account, Event, EventKind, Forge, PullRequest},
    facts::{Commit, Facts, ForgeFacts, PipelineFacts, PullRequestFacts, Repo, System},
};

/// What is known about a change from elsewhere than its event.
#[derive(Debug, Clone)]
pub struct Known {
    pub system: System,
    /// Where the forge is looked at with a browser, without a slash at its end.
    pub forge_url: String,
    /// Where git was told to fetch from.
    pub clone_url: String,
    pub default_branch: String,
    pub number: RunId,
    /// Of the run's page.
    pub url: String,
    pub now: Timestamp,
    pub commit: CommitObject,
    /// `None` when nobody knows.
    pub files: Option<Vec<String>>,
    pub previous: Option<(PipelineFacts, Commit)>,
}

/// What a commit says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitObject {
    pub author: String,
    pub email: String,
    pub message: String,
    pub time: Option<Timestamp>,
}

pub fn facts(event: &Event, change: &Change<'_>, known: Known) -> Facts {
    let Known { system, forge_url, clone_url, default_branch, number, url, now, commit, files, previous } =
        known;
    let repository = &change.repository;
    let page = repository.html_url.clone().unwrap_or_default();
    let inputs = match event {
        Event::Asked { asked, .. } => asked.inputs.clone(),
        Event::Rehearsed { rehearsal, .. } => rehearsal.inputs.clone(),
        _ => Default::default(),
    };
    let kind = match change.forge {
        Forge::Github => "github",
        Forge::Git => "git",
    };
    let mut pipeline = PipelineFacts {
        number,
        parent: None,
        event: change.event,
        event_reason: String::new(),
        url,
        forge_url: String::new(),
        deploy_target: String::new(),
        deploy_task: String::new(),
        release_title: String::new(),
        release_pre: false,
        created: now,
        started: None,
        finished: None,
        status: String::new(),
        files,
        author: change.author.clone(),
        avatar: String::new(),
        reruns: 0,
        cron: String::new(),
    };
    let mut about = about_commit(change, commit, &page);
    match event {
        Event::PullRequest(pull) => told_by_pull_request(pull, &mut pipeline, &mut about),
        Event::Push(push) | Event::Tag(push) => {
            pipeline.forge_url = push.url.clone().unwrap_or_default();
            told_by(&push.author, &mut pipeline, &mut about);
        }
        Event::Release(release) => {
            pipeline.forge_url = release.html_url.clone().unwrap_or_default();
            pipeline.release_title = release.title.clone();
            pipeline.release_pre = release.prerelease;
            about.prerelease = release.prerelease;
            told_by(&release.author, &mut pipeline, &mut about);
        }
        Event::Deployment(deployment) => {
            pipeline.forge_url = deployment.url.clone().unwrap_or_default();
            pipeline.deploy_target = deployment.environment.clone();
            pipeline.deploy_task = deployment.task.clone();
            told_by(&deployment.author, &mut pipeline, &mut about);
        }
        Event::Asked { asked, .. } if change.event == EventKind::Cron => pipeline.cron = asked.name.clone(),
        Event::Rehearsed { .. } if change.event.is_pull_request() => played_pull_request(change, &mut about),
        Event::Asked { .. } | Event::Rehearsed { .. } | Event::Ping | Event::Other { .. } => {}
    }
    if pipeline.forge_url.is_empty() {
        pipeline.forge_url = about.url.clone();
    }
    Facts {
        system,
        forge: ForgeFacts { kind: kind.to_owned(), url: forge_url },
        repo: Repo {
            name: repository.name.clone(),
            remote_id: repository.id,
            url: page,
            clone_url,
            clone_ssh_url: repository.ssh_url.clone().unwrap_or_default(),
            default_branch,
            private: repository.private,
            trust: change.policy.trust,
        },
        pipeline,
        commit: about,
        previous,
        local: matches!(event, Event::Rehearsed { .. }),
        inputs,
    }
}

fn about_commit(change: &Change<'_>, commit: CommitObject, page: &str) -> Commit {
    let CommitObject { author, email, message, time } = commit;
    let git_ref = change.git_ref.as_ref();
    Commit {
        sha: change.commit,
        url: if page.is_empty() { String::new() } else { format!("{page}/commit/{}", change.commit) },
        git_ref: git_ref.map(ToString::to_string).unwrap_or_default(),
        refspec: String::new(),
        message,
        branch: change.branch.clone(),
        timestamp: time,
        author,
        author_email: email,
        author_avatar: String::new(),
        tag: git_ref.and_then(|git_ref| git_ref.tag_name()).unwrap_or_default().to_owned(),
        source_branch: String::new(),
        target_branch: String::new(),
        pull_request: None,
        prerelease: false,
    }
}

/// The language's author is the account that did it; who the commit names may be anybody.
fn told_by(account: &Account, pipeline: &mut PipelineFacts, commit: &mut Commit) {
    if !account.login.is_empty() {
        commit.author = account.login.clone();
    }
    pipeline.avatar = account.avatar.clone();
    commit.author_avatar = account.avatar.clone();
}

fn played_pull_request(change: &Change<'_>, commit: &mut Commit) {
    let branch = &change.branch;
    commit.refspec = format!("{branch}:{branch}");
    (commit.source_branch, commit.target_branch) = (branch.clone(), branch.clone());
    commit.pull_request = Some(PullRequestFacts {
        number: change.number.unwrap_or_default(),
        merged: change.event == EventKind::PullRequestMerged,
        ..PullRequestFacts::default()
    });
}

fn told_by_pull_request(pull: &PullRequest, pipeline: &mut PipelineFacts, commit: &mut Commit) {
    told_by(&pull.author, pipeline, commit);
    pipeline.event_reason = pull.action.clone();
    pipeline.forge_url = pull.html_url.clone().unwrap_or_default();
    let base = pull.base.branch_name().unwrap_or_default();
    commit.refspec = format!("{}:{base}", pull.head.branch);
    commit.source_branch = pull.head.branch.clone();
    commit.target_branch = base.to_owned();
    commit.pull_request = Some(PullRequestFacts {
        number: pull.number,
        labels: pull.labels.clone(),
        milestone: pull.milestone.clone(),
        draft: pull.draft,
        from_fork: pull.head.repository.map(|(id, _)| id) != pull.repository.id,
        merged: pull.merge.is_some(),
    });
}
