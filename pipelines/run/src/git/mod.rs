//! From a commit's name to its files, without a checkout.
//!
//! Each repository has a bare mirror that holds exactly the commits that were asked for,
//! each kept alive by `refs/mergeyard/commits/<sha>`. The `git` program fetches into it;
//! libgit2 reads from it. Files are read out of the object database, so nothing in a commit
//! can be executed or followed: not a hook, a filter, a submodule or a symbolic link.

mod commit;
mod context;
mod error;
mod ignore;
mod program;
mod remote;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use git2::Oid;
use mergeyard_types::{CommitSha, GitRef, RepoName};
use tokio_util::sync::CancellationToken;

pub use commit::{Commit, Entry, ImageFolder};
pub use context::Context;
pub use error::GitError;
pub use remote::{Remote, RemoteUrl, RemoteUrlError};

use crate::keyed_lock::KeyedLock;
use commit::oid;
use program::{Ended, GitProgram};

/// What one repository may cost. All of it is configuration.
#[derive(Debug, Clone)]
pub struct GitLimits {
    /// For everything that is tried for one commit, together.
    pub fetch_timeout: Duration,
    /// What one fetch may write: it protects the disk.
    pub max_pack_bytes: u64,
    /// Files and folders in one commit: it protects time and memory while reading.
    pub max_tree_entries: usize,
    /// One file in a build's context: it protects memory, because git stores files whole.
    pub max_blob_bytes: u64,
    /// A `Dockerfile` or `spec.json` that is larger is not read.
    pub max_text_bytes: u64,
}

impl Default for GitLimits {
    fn default() -> Self {
        Self {
            fetch_timeout: Duration::from_secs(300),
            max_pack_bytes: 2 << 30,
            max_tree_entries: 200_000,
            max_blob_bytes: 512 << 20,
            max_text_bytes: 1 << 20,
        }
    }
}

pub struct GitCache {
    root: PathBuf,
    limits: Arc<GitLimits>,
    program: GitProgram,
    locks: KeyedLock<RepoName>,
    mirrors: Mutex<HashMap<RepoName, Arc<Mirror>>>,
}

/// What this process knows about one mirror beyond what is on the disk.
#[derive(Debug)]
struct Mirror {
    path: PathBuf,
    repo: RepoName,
    /// Something in it could not be read; the next fetch begins with an empty one.
    suspect: AtomicBool,
    /// The commits somebody holds: they are not pruned.
    held: Mutex<Vec<Weak<CommitSha>>>,
}

impl GitCache {
    pub fn new(root: PathBuf, limits: GitLimits) -> Result<Self, GitError> {
        let program = GitProgram::new(&root).map_err(|e| local(&root, &e))?;
        Ok(Self {
            root,
            limits: Arc::new(limits),
            program,
            locks: KeyedLock::default(),
            mirrors: Mutex::default(),
        })
    }

    /// The commit, from the mirror when it is there, otherwise from the remote. `hints` are
    /// the references that led to it, for servers that do not hand out a commit by its name.
    pub async fn fetch(
        &self,
        repo: &RepoName,
        remote: &Remote,
        commit: CommitSha,
        hints: &[GitRef],
        cancel: &CancellationToken,
    ) -> Result<Commit, GitError> {
        if let Some(why) = remote.url.needs_permission().filter(|_| !remote.allow_file) {
            return Err(GitError::Refused(format!("{}: {why}", remote.url)));
        }
        let mirror = self.mirror(repo);
        let _one_at_a_time = tokio::select! {
            guard = self.locks.lock(repo) => guard,
            () = cancel.cancelled() => return Err(GitError::Cancelled),
        };
        let fetch = Fetch { cache: self, mirror: &mirror, remote, commit, hints, cancel };
        let whole = tokio::time::timeout(self.limits.fetch_timeout, async {
            match fetch.run().await {
                Err(GitError::Corrupt { why, .. }) => {
                    tracing::warn!(%repo, why, "damaged mirror thrown away, fetching anew");
                    mirror.suspect.store(true, Ordering::Relaxed);
                    fetch.run().await
                }
                done => done,
            }
        });
        let timeout = || GitError::Timeout { repo: repo.clone(), after: self.limits.fetch_timeout };
        whole.await.unwrap_or_else(|_| Err(timeout())).map_err(|e| without_token(e, remote))
    }

    /// Forgets all but the `keep` newest commits of a mirror and gives their space back.
    /// Commits that somebody still holds stay.
    pub async fn prune(&self, repo: &RepoName, keep: usize) -> Result<(), GitError> {
        let mirror = self.mirror(repo);
        let _one_at_a_time = self.locks.lock(repo).await;
        let forgotten = blocking({
            let mirror = Arc::clone(&mirror);
            move || mirror.forget_old(keep)
        })
        .await?;
        if forgotten == 0 {
            return Ok(());
        }
        let never = CancellationToken::new();
        let gc = ["gc", "--quiet", "--prune=now"];
        let (room, time) = (self.limits.max_pack_bytes.saturating_mul(4), self.limits.fetch_timeout);
        match self.program.run(&mirror.path, &gc, None, room, time, &never).await {
            Ok(Ended::Success) => Ok(()),
            Ok(Ended::Failure(why)) => Err(mirror.corrupt(last_line(&why))),
            Ok(Ended::Timeout | Ended::Cancelled) => {
                Err(GitError::Timeout { repo: repo.clone(), after: self.limits.fetch_timeout })
            }
            Err(e) => Err(no_program(&e)),
        }
    }

    fn mirror(&self, repo: &RepoName) -> Arc<Mirror> {
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            // `%` cannot stand in a repository's name, so no two names share a folder.
            let path = self.root.join(format!("{}.git", repo.as_str().replace('/', "%")));
            Arc::new(Mirror {
                path,
                repo: repo.clone(),
                suspect: AtomicBool::new(false),
                held: Mutex::default(),
            })
        };
        Arc::clone(mirrors.entry(repo.clone()).or_insert_with(fresh))
    }
}

/// One attempt to get one commit.
struct Fetch<'a> {
    cache: &'a GitCache,
    mirror: &'a Arc<Mirror>,
    remote: &'a Remote,
    commit: CommitSha,
    hints: &'a [GitRef],
    cancel: &'a CancellationToken,
}

impl Fetch<'_> {
    async fn run(&self) -> Result<Commit, GitError> {
        if let Some(commit) = self.look(Mirror::open_or_init).await? {
            return Ok(commit);
        }
        for way in self.ways() {
            match self.git(&way).await? {
                Offered::Yes => {
                    if let Some(commit) = self.look(Mirror::open_fetched).await? {
                        return Ok(commit);
                    }
                }
                Offered::No => {}
            }
        }
        Err(GitError::CommitGone { repo: self.mirror.repo.clone(), commit: self.commit })
    }

    /// The cheapest first: the commit alone by its name; the tips of the references that
    /// led to it; their whole history.
    fn ways(&self) -> Vec<[String; 2]> {
        let (shallow, whole) = ("--depth=1".to_owned(), "--unshallow".to_owned());
        let exact = format!("+{0}:refs/mergeyard/commits/{0}", self.commit);
        let mut ways = vec![[shallow.clone(), exact]];
        // Without a name on our side: names that other commits were found under may not fit together.
        ways.extend(self.hints.iter().map(|hint| [shallow.clone(), hint.to_string()]));
        ways.extend(self.hints.iter().map(|hint| [whole.clone(), hint.to_string()]));
        ways
    }

    async fn git(&self, [depth, what]: &[String; 2]) -> Result<Offered, GitError> {
        let fixed = ["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance"];
        let also = ["--no-write-fetch-head", "--update-shallow"];
        // A mirror without shallow commits has nothing to complete; git would complain.
        let depth =
            Some(depth.as_str()).filter(|d| *d != "--unshallow" || self.mirror.path.join("shallow").exists());
        let from = ["--", self.remote.url.as_str(), what];
        let args: Vec<&str> = fixed.into_iter().chain(also).chain(depth).chain(from).collect();
        let limits = &self.cache.limits;
        let program = &self.cache.program;
        let ended = program.run(
            &self.mirror.path,
            &args,
            Some(self.remote),
            limits.max_pack_bytes,
            limits.fetch_timeout,
            self.cancel,
        );
        match ended.await {
            Ok(Ended::Success) => Ok(Offered::Yes),
            // A limit of the system kills the program that writes, so nobody says a word about it.
            Ok(Ended::Failure(_)) if self.mirror.sweep_partial_packs() + 512 >= limits.max_pack_bytes => {
                Err(self.limit())
            }
            Ok(Ended::Failure(said)) => self.why(&said),
            Ok(Ended::Timeout) => {
                Err(GitError::Timeout { repo: self.mirror.repo.clone(), after: limits.fetch_timeout })
            }
            Ok(Ended::Cancelled) => Err(GitError::Cancelled),
            Err(e) => Err(no_program(&e)),
        }
    }

    /// Sorts git's complaint. Its words are stable under `LC_ALL=C`; what is not known is a network fault.
    fn why(&self, said: &str) -> Result<Offered, GitError> {
        let repo = self.mirror.repo.clone();
        let why = last_line(said);
        let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if any(&[
            "not our ref",
            "unadvertised object",
            "find remote ref",
            "no such remote ref",
            "does not support shallow",
        ]) {
            return Ok(Offered::No);
        }
        Err(if any(&["File too large", "File size limit"]) {
            self.limit()
        } else if any(&[
            "error: 301",
            "error: 302",
            "error: 303",
            "error: 307",
            "error: 308",
            "unable to update url base from redirection",
        ]) {
            GitError::Refused(format!(
                "{} redirects elsewhere; redirects are not followed because the credential would follow too: configure the new address as `clone_url`",
                self.remote.url
            ))
        } else if any(&[
            "SSL certificate problem",
            "server certificate verification failed",
            "SSL: no alternative certificate",
        ]) {
            GitError::Refused(format!("{} does not prove who it is: {why}", self.remote.url))
        } else if any(&[
            "Authentication failed",
            "could not read Username",
            "error: 401",
            "error: 403",
            "terminal prompts disabled",
            "Permission denied",
            "Host key verification failed",
        ]) {
            GitError::Auth { repo, why }
        } else if any(&["not found", "does not exist", "does not appear to be a git repository"]) {
            GitError::Auth { repo, why: format!("the repository was not found ({why})") }
        } else if any(&[
            "bad object refs/mergeyard",
            "object file",
            "is corrupt",
            "inflate:",
            "pack has bad object",
            "shallow file has changed",
            "missing blob",
            "missing tree",
            "missing commit",
            "unable to read tree",
            "not a git repository: '.'",
        ]) {
            GitError::Corrupt { repo, why }
        } else if any(&["No space left", "unable to create temporary", "Permission denied"]) {
            GitError::Local(format!("cannot write the mirror {}: {why}", self.mirror.path.display()))
        } else if any(&["Operation too slow"]) {
            GitError::Timeout { repo, after: Duration::from_secs(20) }
        } else {
            GitError::Network { repo, why }
        })
    }

    fn limit(&self) -> GitError {
        let mib = self.cache.limits.max_pack_bytes as f64 / (1 << 20) as f64;
        GitError::Limit {
            what: format!("what {} sends for commit {}", self.mirror.repo, self.commit),
            limit: format!("{mib} MiB (git.max_pack_bytes)"),
        }
    }

    async fn look(
        &self,
        open: fn(&Mirror, CommitSha, &GitLimits) -> Result<bool, GitError>,
    ) -> Result<Option<Commit>, GitError> {
        let (mirror, commit, limits) = (Arc::clone(self.mirror), self.commit, Arc::clone(&self.cache.limits));
        blocking(move || {
            let there = open(&mirror, commit, &limits)?;
            Ok(there.then(|| Commit::new(&mirror, commit, limits)))
        })
        .await
    }
}

enum Offered {
    Yes,
    /// The server has no such thing under that name; another way may work.
    No,
}

impl Mirror {
    /// Is the commit here? Makes the mirror when there is none, and anew when it is broken.
    fn open_or_init(&self, commit: CommitSha, _: &GitLimits) -> Result<bool, GitError> {
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
    fn open_fetched(&self, commit: CommitSha, limits: &GitLimits) -> Result<bool, GitError> {
        let git = self.open()?;
        let Ok(found) = git.find_commit(oid(commit)) else { return Ok(false) };
        let tree = found.tree().map_err(|e| self.corrupt(e.message()))?;
        if let Err(over) = commit::walk(self, &git, &tree, limits, &mut |_, _, _| Ok(())) {
            self.forget(&git, commit);
            return Err(over);
        }
        self.keep(&git, commit).map(|()| true)
    }

    fn open(&self) -> Result<git2::Repository, GitError> {
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

    fn forget_old(&self, keep: usize) -> Result<usize, GitError> {
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

    fn held(&self) -> Vec<Oid> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|commit| commit.strong_count() > 0);
        held.iter().filter_map(Weak::upgrade).map(|commit| oid(*commit)).collect()
    }

    /// Half a pack is of no use to anybody, and git does not clean it up when it is stopped.
    /// Returns the size of the largest.
    fn sweep_partial_packs(&self) -> u64 {
        let mut largest = 0;
        let Ok(files) = std::fs::read_dir(self.path.join("objects/pack")) else { return 0 };
        for file in files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("tmp_")) {
            largest = largest.max(file.metadata().map_or(0, |data| data.len()));
            let _ = std::fs::remove_file(file.path());
        }
        largest
    }

    fn corrupt(&self, why: impl Into<String>) -> GitError {
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

fn local(path: &Path, error: &std::io::Error) -> GitError {
    GitError::Local(format!("cannot use {}: {error}", path.display()))
}

fn no_program(error: &std::io::Error) -> GitError {
    GitError::Local(format!("cannot run the git program: {error}; install git"))
}

/// Of what git said, the line that says why: the last `fatal` or `error`, else the last.
fn last_line(said: &str) -> String {
    let marked = said.lines().rev().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let remote = said.lines().find(|line| line.starts_with("remote: ") && line.len() > 8);
    let line = marked.or_else(|| said.lines().next_back()).unwrap_or("git ended without a word");
    let line = line.trim_start_matches("fatal: ").trim_start_matches("error: ");
    let whole = remote.map_or_else(|| line.to_owned(), |remote| format!("{line} ({remote})"));
    whole.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// Whatever git quoted, the token is not in it.
fn without_token(error: GitError, remote: &Remote) -> GitError {
    let masker = crate::log::Masker::new(&remote.token);
    let clean = |text: String| masker.mask(&text);
    match error {
        GitError::Auth { repo, why } => GitError::Auth { repo, why: clean(why) },
        GitError::Network { repo, why } => GitError::Network { repo, why: clean(why) },
        GitError::Corrupt { repo, why } => GitError::Corrupt { repo, why: clean(why) },
        GitError::Refused(why) => GitError::Refused(clean(why)),
        GitError::Local(why) => GitError::Local(clean(why)),
        other => other,
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(stopped) => Err(GitError::Local(format!("reading the repository stopped: {stopped}"))),
    }
}
