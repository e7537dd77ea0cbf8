//! One repository's mirror on the disk: which commits it keeps, and whether it can be trusted.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use git2::Oid;
use mergeyard_types::{CommitSha, RepoName};

use super::{
    GitError, GitLimits,
    commit::{oid, walk},
    local,
};

/// What this process knows about one mirror beyond what is on the disk.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) path: PathBuf,
    pub(super) repo: RepoName,
    /// Something in it could not be read; the next fetch begins with an empty one.
    suspect: AtomicBool,
    /// The commits somebody holds: they are not pruned.
    held: Mutex<Vec<Weak<CommitSha>>>,
}

impl Mirror {
    pub(super) fn new(path: PathBuf, repo: RepoName) -> Self {
        Self { path, repo, suspect: AtomicBool::new(false), held: Mutex::default() }
    }

    /// Is the commit here? Makes the mirror when there is none, and anew when it is broken.
    pub(super) fn open_or_init(&self, commit: CommitSha, _: &GitLimits) -> Result<bool, GitError> {
        if self.suspect.swap(false, Ordering::Relaxed) && self.path.exists() {
            std::fs::remove_dir_all(&self.path).map_err(|e| local(&self.path, &e))?;
        }
        self.sweep_partial_packs();
        sweep_locks(&self.path);
        if !self.path.exists() {
            let mut options = git2::RepositoryInitOptions::new();
            options.bare(true).external_template(false).initial_head("refs/heads/none");
            git2::Repository::init_opts(&self.path, &options).map_err(|e| {
                GitError::Local(format!("cannot make the mirror {}: {}", self.path.display(), e.message()))
            })?;
            return Ok(false);
        }
        let git = self.open()?;
        match git.find_commit(oid(commit)).and_then(|found| found.tree().map(drop)) {
            Ok(()) => self.keep(&git, commit).map(|()| true),
            Err(e) if e.code() == git2::ErrorCode::NotFound => self.not_here(&git, commit),
            Err(e) => Err(self.corrupt(e.message())),
        }
    }

    /// After a fetch: the commit, counted against the limits before anybody relies on it.
    pub(super) fn open_fetched(&self, commit: CommitSha, limits: &GitLimits) -> Result<bool, GitError> {
        let git = self.open()?;
        let Ok(found) = git.find_commit(oid(commit)) else { return Ok(false) };
        let tree = found.tree().map_err(|e| self.corrupt(e.message()))?;
        if let Err(over) = walk(self, &git, &tree, limits, &mut |_, _, _| Ok(())) {
            self.forget(&git, commit);
            return Err(over);
        }
        self.keep(&git, commit).map(|()| true)
    }

    pub(super) fn open(&self) -> Result<git2::Repository, GitError> {
        git2::Repository::open_bare(&self.path).map_err(|e| self.corrupt(e.message()))
    }

    /// A reference to an object that is missing means that the mirror lost it.
    fn not_here(&self, git: &git2::Repository, commit: CommitSha) -> Result<bool, GitError> {
        match git.find_reference(&kept_as(commit)) {
            Ok(_) => Err(self.corrupt("a commit that was kept is missing")),
            Err(_) => Ok(false),
        }
    }

    fn keep(&self, git: &git2::Repository, commit: CommitSha) -> Result<(), GitError> {
        let name = kept_as(commit);
        if git.refname_to_id(&name).is_ok_and(|id| id == oid(commit)) {
            return Ok(());
        }
        let kept = git.reference(&name, oid(commit), true, "");
        kept.map(drop).map_err(|e| {
            GitError::Local(format!("cannot keep commit {commit} of {}: {}", self.repo, e.message()))
        })
    }

    fn forget(&self, git: &git2::Repository, commit: CommitSha) {
        if let Ok(mut reference) = git.find_reference(&kept_as(commit)) {
            let _ = reference.delete();
        }
        // What was fetched for it must not stay on the disk either.
        self.suspect.store(true, Ordering::Relaxed);
    }

    pub(super) fn forget_old(&self, keep: usize) -> Result<usize, GitError> {
        if !self.path.exists() {
            return Ok(0);
        }
        let git = self.open()?;
        let held = self.held();
        let broken = |e: git2::Error| self.corrupt(e.message());
        let mut commits: Vec<(i64, Oid, String)> = Vec::new();
        for name in git.references_glob("refs/mergeyard/commits/*").map_err(broken)?.names() {
            let name = name.map_err(broken)?.to_owned();
            let id = git.refname_to_id(&name).map_err(broken)?;
            let when = git.find_commit(id).map_or(0, |commit| commit.time().seconds());
            commits.push((when, id, name));
        }
        commits.sort_by(|a, b| b.cmp(a));
        let mut forgotten = 0;
        for (_, _, name) in commits.into_iter().skip(keep).filter(|(_, id, _)| !held.contains(id)) {
            git.find_reference(&name).and_then(|mut reference| reference.delete()).map_err(broken)?;
            forgotten += 1;
        }
        Ok(forgotten)
    }

    /// Remembers that somebody works with `commit`, as long as the returned handle lives.
    pub(super) fn hold(&self, commit: CommitSha) -> Arc<CommitSha> {
        let handle = Arc::new(commit);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|commit| commit.strong_count() > 0);
        held.push(Arc::downgrade(&handle));
        handle
    }

    /// The next fetch begins with an empty mirror.
    pub(super) fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    fn held(&self) -> Vec<Oid> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|commit| commit.strong_count() > 0);
        held.iter().filter_map(Weak::upgrade).map(|commit| oid(*commit)).collect()
    }

    /// Half a pack is of no use to anybody, and git does not clean it up when it is stopped.
    /// Returns the size of the largest.
    pub(super) fn sweep_partial_packs(&self) -> u64 {
        let mut largest = 0;
        let Ok(files) = std::fs::read_dir(self.path.join("objects/pack")) else { return 0 };
        for file in files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("tmp_")) {
            largest = largest.max(file.metadata().map_or(0, |data| data.len()));
            let _ = std::fs::remove_file(file.path());
        }
        largest
    }

    pub(super) fn corrupt(&self, why: impl Into<String>) -> GitError {
        self.suspect.store(true, Ordering::Relaxed);
        GitError::Corrupt { repo: self.repo.clone(), why: why.into() }
    }
}

/// A git that was killed, by us or with the machine, leaves its lock files, and every later
/// git would wait for their owner. We are the only one at work in this mirror, so they have none.
fn sweep_locks(folder: &Path) {
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "lock") {
            let _ = std::fs::remove_file(&path);
        } else if file.file_type().is_ok_and(|kind| kind.is_dir()) && !path.ends_with("objects") {
            sweep_locks(&path);
        }
    }
}

fn kept_as(commit: CommitSha) -> String {
    format!("refs/mergeyard/commits/{commit}")
}
