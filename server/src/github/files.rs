//! Which files a pull request changes.

use http::Method;
use mergeyard_types::RepoName;
use serde::Deserialize;

use super::{Github, GithubError, error::Task};

const PERMISSION: &str = "the token needs `Pull requests: read` (fine-grained) or the scope `repo` (classic, private repositories)";

/// GitHub lists so many files of a pull request and then stops without a word.
const MOST_FILES: usize = 3000;

const PAGE: usize = 100;

#[derive(Deserialize)]
struct ChangedFile {
    filename: String,
    /// What a renamed file was called before.
    previous_filename: Option<String>,
}

impl Github {
    /// `None` when they are so many that GitHub does not list them all.
    pub async fn changed_files(
        &self,
        repo: &RepoName,
        number: u64,
    ) -> Result<Option<Vec<String>>, GithubError> {
        let what = format!("list the files of pull request #{number} of {repo}");
        let task = Task { what, permission: PERMISSION };
        let (mut files, mut listed) = (Vec::new(), 0);
        for page in 1..=MOST_FILES / PAGE {
            let route = format!("/repos/{repo}/pulls/{number}/files?per_page={PAGE}&page={page}");
            let answer = self.call(&task, Method::GET, &route, None).await?;
            let found: Vec<ChangedFile> = answer.read(&task)?;
            let last = found.len() < PAGE;
            listed += found.len();
            for file in found {
                files.extend(file.previous_filename);
                files.push(file.filename);
            }
            if last {
                return Ok((listed < MOST_FILES).then_some(files));
            }
        }
        Ok(None)
    }
}
