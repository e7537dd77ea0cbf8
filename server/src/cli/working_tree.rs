//! The working tree of a repository, as a commit that nobody else sees.
//!
//! `mergeyard run` and `mergeyard plan` look at what lies in the folder, committed or not. It is
//! written as a commit into a bare repository of its own, which borrows everything older from
//! the real one; the real one is only read. Ignored files stay out, as they do on a server.

use std::path::{Path, PathBuf};

use git2::{
    ErrorCode, Index, IndexAddOption, ObjectType, Oid, Repository, RepositoryInitOptions, Signature, Tree,
};
use mergeyard_types::{CommitSha, RepoName};
use url::Url;

#[derive(Debug, thiserror::Error)]
pub(super) enum WorkingTreeError {
    #[error("cannot {what} {path}")]
    Git { what: &'static str, path: PathBuf, source: git2::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0} is a bare repository; name a folder with files")]
    Bare(PathBuf),
}

/// What lies in a folder, ready to be fetched.
#[derive(Debug)]
pub(super) struct WorkingTree {
    /// The bare repository with the commit.
    pub(super) repository: PathBuf,
    pub(super) name: RepoName,
    pub(super) branch: String,
    pub(super) commit: CommitSha,
    /// What the changes are counted from: the last commit, or the one before it when nothing has
    /// changed since. None in a folder without history.
    pub(super) before: Option<CommitSha>,
    pub(super) message: String,
    pub(super) author: String,
    /// Whether there is more than what is committed.
    pub(super) changed: bool,
}

impl WorkingTree {
    /// Looks at the repository that `folder` is in, or at `folder` itself when it is in none, and
    /// keeps what it finds in the new folder `place`.
    pub(super) fn look(folder: &Path, place: &Path) -> Result<Self, WorkingTreeError> {
        let folder = folder
            .canonicalize()
            .map_err(|source| WorkingTreeError::Read { path: folder.to_owned(), source })?;
        let git = |what, path: &Path| {
            let path = path.to_owned();
            move |source| WorkingTreeError::Git { what, path, source }
        };
        let real = match Repository::discover(&folder) {
            Ok(real) => Some(real),
            Err(error) if error.code() == ErrorCode::NotFound => None,
            Err(error) => return Err(git("read the repository of", &folder)(error)),
        };
        let root = match &real {
            Some(real) => real.workdir().ok_or_else(|| WorkingTreeError::Bare(folder.clone()))?.to_owned(),
            None => folder.clone(),
        };
        let copy = borrow(real.as_ref(), place)?;
        let written = write(real.as_ref(), &copy, &root).map_err(git("take in the files of", &root))?;
        Ok(Self {
            name: real.as_ref().and_then(origin).unwrap_or_else(|| name_of(&root)),
            repository: place.to_owned(),
            branch: written.branch,
            commit: written.commit,
            before: written.before,
            message: written.message,
            author: written.author,
            changed: written.changed,
        })
    }
}

impl WorkingTree {
    /// The text of a file, as it was taken in.
    pub(super) fn text_of(&self, path: &str) -> Option<String> {
        let copy = Repository::open_bare(&self.repository).ok()?;
        let commit = copy.find_commit(Oid::from_str(&self.commit.to_string()).ok()?).ok()?;
        let entry = commit.tree().ok()?.get_path(Path::new(path)).ok()?;
        Some(String::from_utf8_lossy(copy.find_blob(entry.id()).ok()?.content()).into_owned())
    }
}

/// A bare repository at `place` that finds in its objects also those of the real one.
fn borrow(real: Option<&Repository>, place: &Path) -> Result<Repository, WorkingTreeError> {
    let mut options = RepositoryInitOptions::new();
    options.bare(true).mkpath(true).external_template(false);
    let made = Repository::init_opts(place, &options);
    let failed = |source| WorkingTreeError::Git { what: "make a copy at", path: place.to_owned(), source };
    let copy = made.map_err(failed)?;
    let Some(real) = real else { return Ok(copy) };
    let write = |name: &str, content: &[u8]| {
        let path = place.join(name);
        std::fs::write(&path, content).map_err(|source| WorkingTreeError::Read { path, source })
    };
    let objects = real.commondir().join("objects");
    write("objects/info/alternates", format!("{}\n", objects.display()).as_bytes())?;
    // Where the real history ends, the copy's does too.
    if let Ok(shallow) = std::fs::read(real.commondir().join("shallow")) {
        write("shallow", &shallow)?;
    }
    Repository::open_bare(place).map_err(failed)
}

struct Written {
    branch: String,
    commit: CommitSha,
    before: Option<CommitSha>,
    message: String,
    author: String,
    changed: bool,
}

fn write(real: Option<&Repository>, copy: &Repository, root: &Path) -> Result<Written, git2::Error> {
    let head = match real.map(Repository::head) {
        Some(Ok(head)) => Some(copy.find_commit(head.peel_to_commit()?.id())?),
        _ => None,
    };
    let branch = real.and_then(branch).unwrap_or_else(|| "main".to_owned());
    let tree = files(copy, root, head.as_ref().map(git2::Commit::tree).transpose()?.as_ref())?;
    let unchanged = head.as_ref().filter(|head| head.tree_id() == tree.id());
    let (commit, before) = match (unchanged, &head) {
        (Some(head), _) => (head.id(), head.parent_id(0).ok()),
        (None, Some(head)) => {
            // What is not committed yet continues the last commit, with its words and its author.
            let id =
                copy.commit(None, &head.author(), &head.committer(), text(head.message()), &tree, &[head])?;
            (id, Some(head.id()))
        }
        (None, None) => {
            let nobody = Signature::now("mergeyard run", "mergeyard@localhost")?;
            (copy.commit(None, &nobody, &nobody, "The working tree", &tree, &[])?, None)
        }
    };
    copy.reference(&format!("refs/heads/{branch}"), commit, true, "the working tree")?;
    copy.set_head(&format!("refs/heads/{branch}"))?;
    let message = text(copy.find_commit(commit)?.message()).to_owned();
    let author = text(copy.find_commit(commit)?.author().name()).to_owned();
    let changed = unchanged.is_none();
    Ok(Written { branch, commit: sha(commit), before: before.map(sha), message, author, changed })
}

/// The files of `root` that are not ignored, as a tree.
fn files<'r>(copy: &'r Repository, root: &Path, head: Option<&Tree<'_>>) -> Result<Tree<'r>, git2::Error> {
    let mut index = Index::new()?;
    copy.set_workdir(root, false)?;
    copy.set_index(&mut index)?;
    if let Some(head) = head {
        index.read_tree(head)?;
    }
    // A repository within this one is its own affair, as for `git add`; libgit2 would take it for a file.
    let pass_over =
        &mut |path: &Path, _: &[u8]| i32::from(path.as_os_str().as_encoded_bytes().ends_with(b"/"));
    index.update_all(["*"], Some(pass_over))?;
    index.add_all(["*"], IndexAddOption::DEFAULT, Some(pass_over))?;
    let id = index.write_tree()?;
    copy.find_object(id, Some(ObjectType::Tree))?.peel_to_tree()
}

fn branch(real: &Repository) -> Option<String> {
    let head = real.find_reference("HEAD").ok()?;
    let target = head.symbolic_target().ok().flatten()?;
    target.strip_prefix("refs/heads/").map(str::to_owned)
}

/// `owner/name` from where the repository was cloned.
fn origin(real: &Repository) -> Option<RepoName> {
    let remote = real.find_remote("origin").ok()?;
    let url = remote.url().ok()?.to_owned();
    // `git@host:owner/name.git` is no URL, but its path is behind the colon.
    let path = match Url::parse(&url) {
        Ok(url) => url.path().to_owned(),
        Err(_) => url.rsplit(':').next()?.to_owned(),
    };
    let mut parts = path.trim_end_matches('/').trim_end_matches(".git").rsplit('/');
    let (name, owner) = (parts.next()?, parts.next()?);
    format!("{owner}/{name}").parse().ok()
}

fn name_of(root: &Path) -> RepoName {
    let folder = root.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let name: String = folder.chars().map(plain).collect();
    format!("local/{name}")
        .parse()
        .unwrap_or_else(|_| "local/repository".parse().expect("a name that is written here is one"))
}

fn text<E>(text: Result<&str, E>) -> &str {
    text.unwrap_or_default()
}

fn sha(id: Oid) -> CommitSha {
    let mut bytes = [0; 20];
    bytes.copy_from_slice(&id.as_bytes()[..20]);
    CommitSha::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn commit(git: &Repository, message: &str) -> Oid {
        let mut index = git.index().unwrap();
        index.add_all(["*"], IndexAddOption::DEFAULT, None).unwrap();
        index.write().unwrap();
        let tree = git.find_tree(index.write_tree().unwrap()).unwrap();
        let author = Signature::now("robin", "robin@example.org").unwrap();
        let parent = git.head().ok().and_then(|head| head.peel_to_commit().ok());
        let parents: Vec<_> = parent.iter().collect();
        git.commit(Some("HEAD"), &author, &author, message, &tree, &parents).unwrap()
    }

    fn entry(tree: &WorkingTree, path: &str) -> Option<String> {
        let git = Repository::open_bare(&tree.repository).unwrap();
        let commit = git.find_commit(Oid::from_str(&tree.commit.to_string()).unwrap()).unwrap();
        let entry = commit.tree().unwrap().get_path(Path::new(path)).ok()?;
        Some(String::from_utf8(git.find_blob(entry.id()).unwrap().content().to_vec()).unwrap())
    }

    fn repository(root: &Path) -> Repository {
        let mut options = RepositoryInitOptions::new();
        options.initial_head("topic").external_template(false);
        let git = Repository::init_opts(root, &options).unwrap();
        git.remote("origin", "git@github.com:acme/clock.git").unwrap();
        git
    }

    #[test]
    fn what_is_not_committed_is_seen_and_what_is_ignored_is_not() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let git = repository(root.path());
        for (path, content) in [("kept", "one"), ("gone", "one"), (".gitignore", "secret\n")] {
            write(root.path(), path, content);
        }
        let head = commit(&git, "Begin\n\nwith words");
        write(root.path(), "kept", "two");
        write(root.path(), "deep/new", "new");
        write(root.path(), "secret", "hunter2");
        std::fs::remove_file(root.path().join("gone")).unwrap();

        let tree = WorkingTree::look(&root.path().join("deep"), &place.path().join("copy")).unwrap();
        assert_eq!((tree.name.as_str(), tree.branch.as_str()), ("acme/clock", "topic"));
        assert_eq!((tree.before, tree.changed), (Some(sha(head)), true));
        assert_eq!((tree.message.as_str(), tree.author.as_str()), ("Begin\n\nwith words", "robin"));
        assert_eq!(entry(&tree, "kept").as_deref(), Some("two"));
        assert_eq!(entry(&tree, "deep/new").as_deref(), Some("new"));
        assert_eq!((entry(&tree, "gone"), entry(&tree, "secret")), (None, None));
        let unknown = git.find_commit(Oid::from_str(&tree.commit.to_string()).unwrap());
        assert!(unknown.is_err(), "the real repository was written to");
    }

    #[test]
    fn a_repository_within_it_is_passed_over() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let git = repository(root.path());
        write(root.path(), "file", "one");
        commit(&git, "one");
        for (name, commits) in [("empty", false), ("vendored", true)] {
            let within = repository(&root.path().join(name));
            write(&root.path().join(name), "within", "two");
            if commits {
                commit(&within, "two");
            }
        }
        let tree = WorkingTree::look(root.path(), &place.path().join("copy")).unwrap();
        assert_eq!(entry(&tree, "file").as_deref(), Some("one"));
        assert_eq!((entry(&tree, "empty/within"), entry(&tree, "vendored/within")), (None, None));
    }

    #[test]
    fn without_changes_it_is_the_last_commit_itself() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let git = repository(root.path());
        write(root.path(), "file", "one");
        let first = commit(&git, "one");
        write(root.path(), "file", "two");
        let second = commit(&git, "two");
        let tree = WorkingTree::look(root.path(), &place.path().join("copy")).unwrap();
        assert_eq!((tree.commit, tree.before), (sha(second), Some(sha(first))));
        assert!(!tree.changed);
    }

    #[test]
    fn a_folder_without_history_is_fine_too() {
        let (root, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(root.path(), "file", "one");
        let tree = WorkingTree::look(root.path(), &place.path().join("copy")).unwrap();
        assert_eq!((tree.before, tree.branch.as_str()), (None, "main"));
        assert!(tree.name.as_str().starts_with("local/"), "{}", tree.name);
        assert_eq!(entry(&tree, "file").as_deref(), Some("one"));
    }
}
