//! Lists of runs: of all repositories and of one.

use askama::{Template, filters::Safe};
use axum::extract::{Path, State};
use mergeyard_types::{RepoName, RunId};
use url::Url;

use super::{Answer, Filter, Page, Pages, Query, Rows, Shell, asked, badge::Badge, named, page};
use crate::store::{Due, RunRow};

const PAGE: u32 = 50;

/// A run with what a page adds to it.
pub(super) struct Listed {
    pub(super) run: RunRow,
    pub(super) badge: Safe<Badge>,
    source: Option<Url>,
}

impl From<RunRow> for Listed {
    fn from(run: RunRow) -> Self {
        let source = run.source_url.as_deref().and_then(web_address);
        Self { badge: Badge::of(run.state), source, run }
    }
}

impl Listed {
    pub(super) fn title(&self) -> &str {
        if self.run.title.trim().is_empty() { "(no title)" } else { &self.run.title }
    }

    pub(super) fn commit_url(&self) -> Option<String> {
        self.source.as_ref().map(|source| format!("{source}/commit/{}", self.run.commit))
    }

    /// A file of the run's commit.
    pub(super) fn file_url(&self, file: &str) -> Option<String> {
        let mut url = self.source.clone()?;
        url.path_segments_mut().ok()?.extend(["blob", &self.run.commit.to_string()]).extend(file.split('/'));
        Some(url.into())
    }

    pub(super) fn pull_url(&self) -> Option<String> {
        let number = self.run.number?;
        self.source.as_ref().map(|source| format!("{source}/pull/{number}"))
    }
}

/// Only addresses of the web become links, and none takes somebody's password along.
/// `Display` of the result has no slash at its end.
fn web_address(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok()?;
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let plain = url.username().is_empty() && url.password().is_none();
    if !web || !plain || url.path().len() < 2 {
        return None;
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').trim_end_matches(".git").to_owned();
    url.set_path(&path);
    Some(url)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_web_become_links() {
        let link = |text: &str| web_address(text).map(|url| url.to_string());
        assert_eq!(link("https://github.com/acme/clock").unwrap(), "https://github.com/acme/clock");
        assert_eq!(link("http://git.example.org/a/b.git/").unwrap(), "http://git.example.org/a/b");
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc",
            "https://u:p@h/a/b",
            "//h/a",
            "https://h",
            "",
        ] {
            assert_eq!(link(bad), None, "{bad}");
        }
    }
}
