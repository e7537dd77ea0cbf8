//! What a reference leads to right now, asked from the remote without fetching anything.

use mergeyard_types::{CommitSha, GitRef, RepoName};
use tokio_util::sync::CancellationToken;

use super::{Ended, Fetch, GitCache, GitError, Remote, no_program, without_token};

/// Where a reference points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    pub git_ref: GitRef,
    /// Of an annotated tag the commit it is about, not the tag's own object.
    pub commit: CommitSha,
}

impl GitCache {
    /// The tip of `git_ref`, or of the remote's default branch. `None` when the remote has none.
    pub async fn tip(
        &self,
        repo: &RepoName,
        remote: &Remote,
        git_ref: Option<&GitRef>,
        cancel: &CancellationToken,
    ) -> Result<Option<Tip>, GitError> {
        self.tip_of(repo, remote, git_ref, cancel).await.map_err(|error| without_token(error, remote))
    }

    async fn tip_of(
        &self,
        repo: &RepoName,
        remote: &Remote,
        git_ref: Option<&GitRef>,
        cancel: &CancellationToken,
    ) -> Result<Option<Tip>, GitError> {
        remote.check()?;
        let wanted = git_ref.map_or("HEAD", GitRef::as_str);
        let peeled = format!("{wanted}^{{}}");
        let args = ["ls-remote", "--quiet", "--symref", "--", remote.url.as_str(), wanted, &peeled];
        let timeout = self.limits.fetch_timeout;
        let (ended, answer) =
            self.program.ask(&self.root, &args, remote, timeout, cancel).await.map_err(|e| no_program(&e))?;
        match ended {
            Ended::Success => Ok(read(&answer, git_ref)),
            Ended::Timeout => Err(GitError::Timeout { repo: repo.clone(), after: timeout }),
            Ended::Cancelled => Err(GitError::Cancelled),
            Ended::Failure(said) => {
                let mirror = self.mirror(repo);
                let fetch = Fetch {
                    cache: self,
                    mirror: &mirror,
                    remote,
                    commit: CommitSha::new([0; 20]),
                    hints: &[],
                    cancel,
                };
                fetch.why(&said).map(|_| None)
            }
        }
    }
}

/// Lines of `ref: refs/heads/main<tab>HEAD` and `<id><tab><name>`.
fn read(answer: &str, git_ref: Option<&GitRef>) -> Option<Tip> {
    let lines: Vec<(&str, &str)> = answer.lines().filter_map(|line| line.split_once('\t')).collect();
    let git_ref = match git_ref {
        Some(git_ref) => git_ref.clone(),
        None => lines.iter().find_map(|(what, _)| what.strip_prefix("ref: ")?.parse().ok())?,
    };
    let id_of = |name: &str| lines.iter().find(|(_, of)| *of == name)?.0.parse::<CommitSha>().ok();
    let peeled = format!("{git_ref}^{{}}");
    // The line of `HEAD` is what the reference it stands for leads to.
    let head = || lines.iter().filter(|(_, of)| *of == "HEAD").find_map(|(id, _)| id.parse().ok());
    let commit = id_of(&peeled).or_else(|| id_of(git_ref.as_str())).or_else(head)?;
    Some(Tip { git_ref, commit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotated_tag_leads_to_its_commit_and_head_to_a_branch() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let tag: GitRef = "refs/tags/v1".parse().unwrap();
        let answer = format!("{one}\trefs/tags/v1\n{two}\trefs/tags/v1^{{}}\n");
        assert_eq!(read(&answer, Some(&tag)).unwrap().commit.to_string(), two);
        let tip = read(&format!("ref: refs/heads/main\tHEAD\n{one}\tHEAD\n"), None).unwrap();
        assert_eq!((tip.git_ref.as_str(), tip.commit.to_string()), ("refs/heads/main", one));
        assert_eq!(read("", Some(&tag)), None);
        assert_eq!(read("warning: remote HEAD refers to nothing\n", None), None);
    }
}
