//! A bare git repository that grows by merged pull requests.
//!
//! Authors and times are fixed, so the same files give the same commits on every machine:
//! transcripts and snapshots can name them.

use std::path::{Path, PathBuf};

use git2::{Delta, Diff, DiffFile, FileMode, Oid, Repository, Signature, Time, build::TreeUpdateBuilder};
use mergeyard_types::{CommitSha, RepoName, Timestamp, TreeId};

use super::payload::HostedRepository;

/// Pull requests are merged into this branch.
pub(super) const BASE_BRANCH: &str = "develop";

/// 2024-01-02 09:00:00 UTC, when the first commit was made. Each further one is a minute later.
const FIRST_COMMIT: i64 = 1_704_186_000;

/// What the sample's author is called in commits and payloads.
pub(super) const AUTHOR: (&str, &str) = ("robin", "robin@example.org");

#[derive(Debug, thiserror::Error)]
#[error("the sample repository {} cannot be {what}", path.display())]
pub struct SampleError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: git2::Error,
}

#[derive(Debug, Clone)]
pub struct SampleRepository {
    path: PathBuf,
    name: RepoName,
    merges: u64,
}

/// One merged pull request, as the repository and the payload tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleMerge {
    pub number: u64,
    pub title: String,
    pub base_branch: String,
    pub head_branch: String,
    /// The tip of the base branch before the merge.
    pub base: CommitSha,
    pub head: CommitSha,
    pub merge: CommitSha,
    /// What the merge commit holds.
    pub tree: TreeId,
    pub merged_at: Timestamp,
    pub commits: u64,
    pub additions: u64,
    pub deletions: u64,
    pub added: Vec<String>,
    pub modified: Vec<String>,
    pub removed: Vec<String>,
}

impl SampleRepository {
    /// A new bare repository at `path`, which must not hold one yet: a README on `develop`,
    /// and pull request 1, merged, that brought `files`.
    pub fn create(
        path: &Path,
        name: RepoName,
        files: &[(&str, &[u8])],
    ) -> Result<(Self, SampleMerge), SampleError> {
        let mut sample = Self { path: path.to_owned(), name, merges: 0 };
        sample.init().map_err(|source| sample.error("created", source))?;
        let merge = sample.merge_branch("clock", "Add the clock", files)?;
        Ok((sample, merge))
    }

    /// One more merged pull request, from a branch of its own, that adds or replaces `files`.
    pub fn merge_change(&mut self, title: &str, files: &[(&str, &[u8])]) -> Result<SampleMerge, SampleError> {
        let branch = format!("change-{}", self.merges + 1);
        self.merge_branch(&branch, title, files)
    }

    /// A pull request that stays open: a branch of its own that adds or replaces `files`. Nothing
    /// was merged, so the commit of its merge is the branch's.
    pub fn branch_change(
        &mut self,
        title: &str,
        files: &[(&str, &[u8])],
    ) -> Result<SampleMerge, SampleError> {
        let branch = format!("change-{}", self.merges + 1);
        let add_files = |git: &Repository, tree: &mut TreeUpdateBuilder| add(git, tree, files);
        self.propose(&branch, title, add_files, false).map_err(|source| self.error("changed", source))
    }

    /// The same with whatever git can hold: links, executables, files taken away.
    pub fn merge_update(
        &mut self,
        title: &str,
        update: impl FnOnce(&Repository, &mut TreeUpdateBuilder) -> Result<(), git2::Error>,
    ) -> Result<SampleMerge, SampleError> {
        let branch = format!("change-{}", self.merges + 1);
        self.propose(&branch, title, update, true).map_err(|source| self.error("changed", source))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &RepoName {
        &self.name
    }

    /// The repository as a payload describes it, to be fetched from this very folder.
    pub fn hosted(&self) -> HostedRepository {
        let clone_url = url::Url::from_file_path(&self.path)
            .map_or_else(|()| self.path.display().to_string(), String::from);
        HostedRepository { id: 7001, name: self.name.clone(), clone_url, default_branch: BASE_BRANCH.into() }
    }

    fn merge_branch(
        &mut self,
        branch: &str,
        title: &str,
        files: &[(&str, &[u8])],
    ) -> Result<SampleMerge, SampleError> {
        let add_files = |git: &Repository, tree: &mut TreeUpdateBuilder| add(git, tree, files);
        self.propose(branch, title, add_files, true).map_err(|source| self.error("changed", source))
    }

    fn init(&self) -> Result<(), git2::Error> {
        let mut options = git2::RepositoryInitOptions::new();
        options.bare(true).mkpath(true).no_reinit(true).external_template(false).initial_head(BASE_BRANCH);
        let git = Repository::init_opts(&self.path, &options)?;
        let readme = format!("# {}\n\nA sample repository.\n", self.name.name());
        let mut tree = TreeUpdateBuilder::new();
        tree.upsert("README.md", git.blob(readme.as_bytes())?, FileMode::Blob);
        let empty = git.find_tree(git.treebuilder(None)?.write()?)?;
        let tree = git.find_tree(tree.create_updated(&git, &empty)?)?;
        let author = signature(0)?;
        git.commit(Some(&reference(BASE_BRANCH)), &author, &author, "Begin", &tree, &[])?;
        Ok(())
    }

    fn propose(
        &mut self,
        branch: &str,
        title: &str,
        update: impl FnOnce(&Repository, &mut TreeUpdateBuilder) -> Result<(), git2::Error>,
        merge: bool,
    ) -> Result<SampleMerge, git2::Error> {
        let git = Repository::open_bare(&self.path)?;
        let number = self.merges + 1;
        let minute = i64::try_from(2 * self.merges).unwrap_or(i64::MAX);
        let base = git.find_reference(&reference(BASE_BRANCH))?.peel_to_commit()?;
        let mut changes = TreeUpdateBuilder::new();
        update(&git, &mut changes)?;
        let tree = git.find_tree(changes.create_updated(&git, &base.tree()?)?)?;
        let diff = git.diff_tree_to_tree(Some(&base.tree()?), Some(&tree), None)?;
        let stats = diff.stats()?;

        let author = signature(minute + 1)?;
        let head = git.commit(Some(&reference(branch)), &author, &author, title, &tree, &[&base])?;
        let head = git.find_commit(head)?;
        let merger = signature(minute + 2)?;
        let message =
            format!("Merge pull request #{number} from {}/{branch}\n\n{title}\n", self.name.owner());
        let parents = [&base, &head];
        let merge = match merge {
            true => git.commit(Some(&reference(BASE_BRANCH)), &merger, &merger, &message, &tree, &parents)?,
            false => head.id(),
        };
        self.merges = number;
        Ok(SampleMerge {
            number,
            title: title.to_owned(),
            base_branch: BASE_BRANCH.to_owned(),
            head_branch: branch.to_owned(),
            base: CommitSha::new(id(base.id())),
            head: CommitSha::new(id(head.id())),
            merge: CommitSha::new(id(merge)),
            tree: TreeId::new(id(tree.id())),
            merged_at: Timestamp(merger.when().seconds() * 1000),
            commits: 1,
            additions: stats.insertions() as u64,
            deletions: stats.deletions() as u64,
            added: paths(&diff, Delta::Added),
            modified: paths(&diff, Delta::Modified),
            removed: paths(&diff, Delta::Deleted),
        })
    }

    fn error(&self, what: &'static str, source: git2::Error) -> SampleError {
        SampleError { what, path: self.path.clone(), source }
    }
}

fn add(git: &Repository, tree: &mut TreeUpdateBuilder, files: &[(&str, &[u8])]) -> Result<(), git2::Error> {
    for (path, content) in files {
        tree.upsert(*path, git.blob(content)?, FileMode::Blob);
    }
    Ok(())
}

fn reference(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

fn signature(minute: i64) -> Result<Signature<'static>, git2::Error> {
    Signature::new(AUTHOR.0, AUTHOR.1, &Time::new(FIRST_COMMIT + 60 * minute, 0))
}

fn paths(diff: &Diff, kind: Delta) -> Vec<String> {
    let path = |file: DiffFile| file.path().map(|path| path.display().to_string());
    diff.deltas().filter(|delta| delta.status() == kind).filter_map(|delta| path(delta.new_file())).collect()
}

fn id(oid: Oid) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(&oid.as_bytes()[..20]);
    bytes
}
