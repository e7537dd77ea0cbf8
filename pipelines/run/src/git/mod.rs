//! From a commit's name to its files, without a checkout.
//!
//! Each repository has a bare mirror that holds exactly the commits that were asked for,
//! each kept alive by `refs/mergeyard/commits/<sha>`. The `git` program fetches into it;
//! libgit2 reads from it. Files are read out of the object database, so nothing in a commit
//! can be executed or followed: not a hook, a filter, a submodule or a symbolic link.

mod checkout;
mod commit;
mod complaint;
mod context;
mod error;
mod history;
mod ignore;
mod mirror;
mod program;
mod remote;
mod tip;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mergeyard_types::{CommitSha, GitRef, RepoName};
use tokio_util::sync::CancellationToken;

pub use checkout::{Checkout, CheckoutSpec};
pub use commit::{Commit, Entry, ImageFolder};
pub(crate) use context::Cause;
pub use context::{Chunks, Context};
pub use error::GitError;
pub use history::Made;
pub use remote::{Remote, RemoteUrl, RemoteUrlError};
pub use tip::Tip;

use crate::keyed_lock::KeyedLock;
use complaint::{Complaint, last_line};
use mirror::Mirror;
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
        remote.check()?;
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
                    mirror.suspect();
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
            Arc::new(Mirror::new(path, repo.clone()))
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

    fn why(&self, said: &str) -> Result<Offered, GitError> {
        let (repo, why) = (self.mirror.repo.clone(), last_line(said));
        let url = &self.remote.url;
        Err(match Complaint::read(said) {
            Complaint::NoSuchThing => return Ok(Offered::No),
            Complaint::TooLarge => self.limit(),
            Complaint::Redirect => GitError::Refused(format!(
                "{url} redirects elsewhere; redirects are not followed because the credential would follow too: configure the new address as `clone_url`"
            )),
            Complaint::Certificate => GitError::Refused(format!("{url} does not prove who it is: {why}")),
            Complaint::Disk => {
                GitError::Local(format!("cannot write the mirror {}: {why}", self.mirror.path.display()))
            }
            Complaint::NotAllowed => GitError::Auth { repo, why },
            Complaint::NoRepository => {
                GitError::Auth { repo, why: format!("the repository was not found ({why})") }
            }
            Complaint::Damage => GitError::Corrupt { repo, why },
            Complaint::TooSlow => GitError::Timeout { repo, after: program::TOO_SLOW_FOR },
            Complaint::Other => GitError::Network { repo, why },
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

fn local(path: &Path, error: &std::io::Error) -> GitError {
    GitError::Local(format!("cannot use {}: {error}", path.display()))
}

fn no_program(error: &std::io::Error) -> GitError {
    GitError::Local(format!("cannot run the git program: {error}; install git"))
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
