//! Lists of runs: of all repositories and of one.

use askama::{Template, filters::Safe};
use axum::extract::{Path, State};
use mergeyard_types::{RepoName, RunId};

use super::{
    Answer, Filter, Page, Pages, Query, Rows, Shell, asked, badge::Badge, named, page, source::Source,
};
use crate::store::{Due, RunRow};

const PAGE: u32 = 50;

/// A run with what a page adds to it.
pub(super) struct Listed {
    pub(super) run: RunRow,
    pub(super) badge: Safe<Badge>,
    source: Source,
}

impl From<RunRow> for Listed {
    fn from(run: RunRow) -> Self {
        let source = Source::of(run.source_url.as_deref());
        Self { badge: Badge::of(run.state), source, run }
    }
}

impl Listed {
    pub(super) fn title(&self) -> &str {
        if self.run.title.trim().is_empty() { "(no title)" } else { &self.run.title }
    }

    pub(super) fn commit_url(&self) -> Option<String> {
        self.source.commit(self.run.commit)
    }

    /// A file of the run's commit.
    pub(super) fn file_url(&self, file: &str) -> Option<String> {
        self.source.file(self.run.commit, file)
    }

    pub(super) fn pull_url(&self) -> Option<String> {
        self.source.pull(self.run.number)
    }
}

#[derive(Template)]
#[template(path = "runs.html")]
struct Runs {
    shell: Shell,
    repo: Option<RepoName>,
    runs: Rows<Listed>,
    /// Of the repository, when it is the page of one.
    schedules: Vec<Due>,
    first: bool,
    /// The list's address, for the link to its next page.
    path: String,
}

pub(super) async fn runs(State(pages): State<Pages>, query: Query<Filter>) -> Page {
    let filter = asked(query)?;
    let repo = filter.repo.as_deref().filter(|repo| !repo.is_empty()).map(str::parse).transpose();
    let repo: Option<RepoName> = repo.map_err(|error| Answer::BadRequest(format!("{error}")))?;
    let path = repo.as_ref().map_or_else(|| "/runs?".to_owned(), |repo| format!("/runs?repo={repo}&"));
    list(&pages, repo, filter.before, path, Vec::new()).await
}

pub(super) async fn repo(State(pages): State<Pages>, Path(name): Path<String>, query: Query<Filter>) -> Page {
    let repo: RepoName = named(name.trim_end_matches('/'))?;
    let path = format!("/repos/{repo}?");
    let is_of = |due: &Due| due.repo.as_str().eq_ignore_ascii_case(repo.as_str());
    let schedules = pages.store.schedules().await?.into_iter().filter(is_of).collect();
    list(&pages, Some(repo), asked(query)?.before, path, schedules).await
}

async fn list(
    pages: &Pages,
    repo: Option<RepoName>,
    before: Option<i64>,
    path: String,
    schedules: Vec<Due>,
) -> Page {
    let runs = pages.store.runs(repo.as_ref(), before.map(RunId), PAGE + 1).await?;
    let runs = Rows::new(runs.into_iter().map(Listed::from).collect(), PAGE, |listed| listed.run.id.0);
    let shell = Shell::new(pages, "runs");
    page(&Runs { shell, repo, runs, schedules, first: before.is_none(), path })
}
