//! A commit at hand: its folders and files, read out of the object database.

use std::sync::Arc;

use git2::{ErrorCode, ObjectType, Oid, Repository, Tree, TreeEntry};
use mergeyard_types::{CommitSha, Timestamp, TreeId};
use tokio_util::sync::CancellationToken;

use super::{Context, GitError, GitLimits, blocking, mirror::Mirror};
use crate::StepFault;

/// Deeper folders are refused: it protects the stack and the length of paths.
const MAX_DEPTH: usize = 128;

/// A fetched commit. While one exists, pruning leaves the commit alone.
#[derive(Debug, Clone)]
pub struct Commit {
    sha: Arc<CommitSha>,
    pub(super) mirror: Arc<Mirror>,
    limits: Arc<GitLimits>,
}

/// A folder that holds both a `Dockerfile` and a `spec.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFolder {
    /// `""` for the root, otherwise without slashes at its ends.
    pub path: String,
    pub tree: TreeId,
    pub dockerfile: Entry,
    pub spec: Entry,
}

/// What stands in the tree under a file's name. Only a real file has content here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Blob(Vec<u8>),
    /// Its size in bytes; it was not read.
    TooLarge(u64),
    /// Never followed: it may lead anywhere.
    Symlink,
    /// A folder or a submodule.
    Other,
}

impl Commit {
    pub(super) fn new(mirror: &Arc<Mirror>, sha: CommitSha, limits: Arc<GitLimits>) -> Self {
        let sha = mirror.hold(sha);
        Self { sha, mirror: Arc::clone(mirror), limits }
    }

    pub fn sha(&self) -> CommitSha {
        *self.sha
    }

    /// When the commit was made, by its committer's clock.
    pub async fn time(&self) -> Result<Timestamp, GitError> {
        self.read(|commit, git, _| Ok(Timestamp(commit.found(git)?.time().seconds().saturating_mul(1000))))
            .await
    }

    /// Every folder with both a `Dockerfile` and a `spec.json`, in the order of their paths.
    pub async fn image_folders(&self) -> Result<Vec<ImageFolder>, GitError> {
        self.read(|commit, git, root| {
            let mut folders = Vec::new();
            if let Some(folder) = commit.image_folder(git, "", root)? {
                folders.push(folder);
            }
            walk(&commit.mirror, git, root, &commit.limits, &mut |path, entry, tree| {
                if let Some(tree) = tree.filter(|_| entry.kind() == Some(ObjectType::Tree)) {
                    folders.extend(commit.image_folder(git, path, tree)?);
                }
                Ok(())
            })?;
            folders.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(folders)
        })
        .await
    }

    /// One file of the commit, `None` when nothing stands there.
    pub async fn entry(&self, path: &str) -> Result<Option<Entry>, GitError> {
        let path = path.to_owned();
        self.read(move |commit, git, root| match root.get_path(std::path::Path::new(&path)) {
            Ok(entry) => commit.read_entry(git, &entry).map(Some),
            Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
            Err(e) => Err(commit.mirror.corrupt(e.message())),
        })
        .await
    }

    /// A file that has to be there. `what` is what a file is that is too large for it.
    pub(crate) async fn required(&self, path: &str, what: &str) -> Result<Vec<u8>, StepFault> {
        let why = match self.entry(path).await? {
            Some(Entry::Blob(bytes)) => return Ok(bytes),
            Some(Entry::TooLarge(size)) => format!("has {size} bytes, which is too large for {what}"),
            Some(Entry::Symlink) => "is a symbolic link; commit the file itself".to_owned(),
            Some(Entry::Other) => "is not a file".to_owned(),
            None => format!("is not in commit {}", self.sha().short()),
        };
        Err(StepFault::Failure(format!("{path} {why}")))
    }

    /// The files directly in `folder` that `wanted` asks for by their name, in the order of their
    /// names. Nothing stands there, or not a folder: no files.
    pub async fn entries(
        &self,
        folder: &str,
        wanted: fn(&str) -> bool,
    ) -> Result<Vec<(String, Entry)>, GitError> {
        let folder = folder.to_owned();
        self.read(move |commit, git, root| {
            let found = match root.get_path(std::path::Path::new(&folder)) {
                Ok(found) if found.kind() == Some(ObjectType::Tree) => found,
                Ok(_) => return Ok(Vec::new()),
                Err(e) if e.code() == ErrorCode::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(commit.mirror.corrupt(e.message())),
            };
            let tree = git.find_tree(found.id()).map_err(|e| commit.mirror.corrupt(e.message()))?;
            let mut entries = Vec::new();
            for entry in &tree {
                let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
                if wanted(&name) {
                    entries.push((name, commit.read_entry(git, &entry)?));
                }
            }
            Ok(entries)
        })
        .await
    }

    /// The build context: the folder as a tar archive, as a stream.
    pub fn tar(&self, folder: &str, cancel: &CancellationToken) -> Context {
        Context::start(self.clone(), folder.to_owned(), cancel.clone())
    }

    pub(super) fn limits(&self) -> &GitLimits {
        &self.limits
    }

    pub(super) fn open(&self) -> Result<Repository, GitError> {
        self.mirror.open()
    }

    pub(super) fn found<'r>(&self, git: &'r Repository) -> Result<git2::Commit<'r>, GitError> {
        git.find_commit(oid(*self.sha)).map_err(|e| self.mirror.corrupt(e.message()))
    }

    /// The tree of `folder`; a folder that is not there is the caller's mistake, not damage.
    pub(super) fn folder<'r>(&self, git: &'r Repository, folder: &str) -> Result<Tree<'r>, GitError> {
        let root = self.found(git)?.tree().map_err(|e| self.mirror.corrupt(e.message()))?;
        if folder.is_empty() {
            return Ok(root);
        }
        let missing = || GitError::Refused(format!("commit {} has no folder `{folder}`", self.sha));
        let entry = root.get_path(std::path::Path::new(folder)).map_err(|_| missing())?;
        if entry.kind() != Some(ObjectType::Tree) {
            return Err(missing());
        }
        git.find_tree(entry.id()).map_err(|e| self.mirror.corrupt(e.message()))
    }

    pub(super) fn walk(
        &self,
        git: &Repository,
        tree: &Tree<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), GitError> {
        walk(&self.mirror, git, tree, &self.limits, visit)
    }

    pub(super) fn blob(&self, git: &Repository, id: Oid) -> Result<Vec<u8>, GitError> {
        let blob = git.find_blob(id).map_err(|e| self.mirror.corrupt(e.message()))?;
        Ok(blob.content().to_vec())
    }

    pub(super) fn blob_size(&self, git: &Repository, id: Oid) -> Result<u64, GitError> {
        let header = git.odb().and_then(|odb| odb.read_header(id));
        header.map(|(size, _)| size as u64).map_err(|e| self.mirror.corrupt(e.message()))
    }

    fn image_folder(
        &self,
        git: &Repository,
        path: &str,
        tree: &Tree<'_>,
    ) -> Result<Option<ImageFolder>, GitError> {
        let (Some(dockerfile), Some(spec)) = (tree.get_name("Dockerfile"), tree.get_name("spec.json")) else {
            return Ok(None);
        };
        Ok(Some(ImageFolder {
            path: path.to_owned(),
            tree: tree_id(tree.id()),
            dockerfile: self.read_entry(git, &dockerfile)?,
            spec: self.read_entry(git, &spec)?,
        }))
    }

    fn read_entry(&self, git: &Repository, entry: &TreeEntry<'_>) -> Result<Entry, GitError> {
        if is_symlink(entry) {
            return Ok(Entry::Symlink);
        }
        if entry.kind() != Some(ObjectType::Blob) {
            return Ok(Entry::Other);
        }
        match self.blob_size(git, entry.id())? {
            size if size > self.limits.max_text_bytes => Ok(Entry::TooLarge(size)),
            _ => self.blob(git, entry.id()).map(Entry::Blob),
        }
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Commit, &Repository, &Tree<'_>) -> Result<T, GitError> + Send + 'static,
    ) -> Result<T, GitError> {
        let commit = self.clone();
        blocking(move || {
            let git = commit.open()?;
            let root = commit.folder(&git, "")?;
            work(&commit, &git, &root)
        })
        .await
    }
}

/// Sees each entry with its path and, for a folder, its tree.
pub(super) type Visit<'a> = dyn FnMut(&str, &TreeEntry<'_>, Option<&Tree<'_>>) -> Result<(), GitError> + 'a;

/// Every entry below `tree`, folders before what is in them, submodules as entries without content.
pub(super) fn walk(
    mirror: &Mirror,
    git: &Repository,
    tree: &Tree<'_>,
    limits: &GitLimits,
    visit: &mut Visit<'_>,
) -> Result<(), GitError> {
    let mut left = limits.max_tree_entries;
    walk_below(mirror, git, tree, "", 0, limits, &mut left, visit)
}

#[allow(clippy::too_many_arguments, reason = "the recursion carries its place with it")]
fn walk_below(
    mirror: &Mirror,
    git: &Repository,
    tree: &Tree<'_>,
    folder: &str,
    depth: usize,
    limits: &GitLimits,
    left: &mut usize,
    visit: &mut Visit<'_>,
) -> Result<(), GitError> {
    if depth > MAX_DEPTH {
        let what =
            format!("the depth of `{}` in {}", folder.chars().take(80).collect::<String>(), mirror.repo);
        return Err(GitError::Limit { what, limit: format!("{MAX_DEPTH} folders") });
    }
    for entry in tree {
        *left = left.checked_sub(1).ok_or_else(|| GitError::Limit {
            what: format!("the number of files in {}", mirror.repo),
            limit: format!("{} (git.max_tree_entries)", limits.max_tree_entries),
        })?;
        let name = String::from_utf8_lossy(entry.name_bytes());
        let path = if folder.is_empty() { name.into_owned() } else { format!("{folder}/{name}") };
        if entry.kind() == Some(ObjectType::Tree) {
            let below = git.find_tree(entry.id()).map_err(|e| mirror.corrupt(e.message()))?;
            visit(&path, &entry, Some(&below))?;
            walk_below(mirror, git, &below, &path, depth + 1, limits, left, visit)?;
        } else {
            visit(&path, &entry, None)?;
        }
    }
    Ok(())
}

pub(super) fn is_symlink(entry: &TreeEntry<'_>) -> bool {
    entry.filemode() == i32::from(git2::FileMode::Link)
}

pub(super) fn oid(commit: CommitSha) -> Oid {
    Oid::from_bytes(commit.bytes()).unwrap_or(Oid::ZERO_SHA1)
}

fn tree_id(id: Oid) -> TreeId {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(&id.as_bytes()[..20]);
    TreeId::new(bytes)
}
