//! A commit as a working copy: its files and a `.git` that git works with, as one tar archive.
//!
//! Nothing is checked out on a disk of ours. The files come out of the object database as they
//! are, so no hook, filter or attribute of the repository does anything; `.git` is put together from
//! a pack that git cut out of the mirror, an index, and a configuration that names the remote
//! without its credential.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use git2::{ObjectType, Repository, TreeEntry};
use mergeyard_types::{CommitSha, GitRef, RepoName, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{
    Commit, Ended, Entry, Fetch, GitCache, GitError, Offered, Remote, blocking,
    commit::{is_symlink, oid},
    context::{Archive, Chunks, Context, other, stream_of},
    last_line, local,
    mirror::Mirror,
    no_program,
};

/// Tags of the remote in the mirror, apart from what keeps commits.
const TAGS: &str = "refs/mergeyard/tags/";

/// What of a commit's history the working copy has, and where it goes.
#[derive(Debug, Clone)]
pub struct CheckoutSpec {
    /// Commits of history; `None` is all of it.
    pub depth: Option<u32>,
    pub tags: bool,
    /// The folder in the archive, without slashes at its ends; `""` is the archive's root.
    pub folder: String,
}

/// The attribute of a file that Git LFS keeps.
const LFS: &[u8] = b"filter=lfs";

/// A working copy that is ready to be sent.
pub struct Checkout {
    commit: Commit,
    spec: CheckoutSpec,
    git: GitFolder,
}

/// Everything below `.git`.
struct GitFolder {
    folder: tempfile::TempDir,
    head: String,
    config: String,
    packed_refs: String,
}

impl GitCache {
    /// As [`GitCache::fetch`], with as much history as asked for, put together for sending.
    pub async fn checkout(
        &self,
        repo: &RepoName,
        remote: &Remote,
        commit: CommitSha,
        hints: &[GitRef],
        spec: CheckoutSpec,
        cancel: &CancellationToken,
    ) -> Result<Checkout, GitError> {
        let found = self.fetch(repo, remote, commit, hints, cancel).await?;
        let mirror = self.mirror(repo);
        let _one_at_a_time = self.locks.lock(repo).await;
        let fetch = Fetch { cache: self, mirror: &mirror, remote, commit, hints, cancel };
        fetch.history(&spec).await.map_err(|e| super::without_token(e, remote))?;
        let git = fetch.git_folder(&spec, &found).await?;
        Ok(Checkout { commit: found, spec, git })
    }
}

impl Fetch<'_> {
    /// Brings what the mirror lacks of the history and the tags.
    async fn history(&self, spec: &CheckoutSpec) -> Result<(), GitError> {
        let (mirror, commit, depth) = (Arc::clone(self.mirror), self.commit, spec.depth);
        if !blocking(move || reaches(&mirror, commit, depth)).await? {
            let how = depth.map_or("--unshallow".to_owned(), |depth| format!("--depth={depth}"));
            let exact = format!("+{0}:refs/mergeyard/commits/{0}", self.commit);
            let whats = std::iter::once(exact).chain(self.hints.iter().map(GitRef::to_string));
            for what in whats {
                if let Offered::Yes = self.git(&[how.clone(), what]).await? {
                    break;
                }
            }
        }
        if spec.tags {
            let how = spec.depth.map_or("--update-shallow".to_owned(), |depth| format!("--depth={depth}"));
            self.git(&[how, format!("+refs/tags/*:{TAGS}*")]).await?;
        }
        Ok(())
    }

    async fn git_folder(&self, spec: &CheckoutSpec, commit: &Commit) -> Result<GitFolder, GitError> {
        let root = self.cache.root.clone();
        let folder = blocking(move || empty_repository(&root)).await?;
        self.cut_out(folder.path(), spec).await?;
        let branch = self.hints.iter().find_map(GitRef::branch_name).map(str::to_owned);
        let (url, commit, tags) = (self.remote.url.to_string(), commit.clone(), spec.tags);
        blocking(move || GitFolder::new(folder, branch.as_deref(), &url, &commit, tags)).await
    }

    /// Lets git copy exactly the wanted objects out of the mirror into `folder`.
    async fn cut_out(&self, folder: &Path, spec: &CheckoutSpec) -> Result<(), GitError> {
        let mirror = std::path::absolute(&self.mirror.path).map_err(|e| local(&self.mirror.path, &e))?;
        let mirror = mirror.display().to_string();
        let fixed = ["fetch", "--quiet", "--no-tags", "--no-auto-maintenance", "--no-write-fetch-head"];
        let depth = spec.depth.map(|depth| format!("--depth={depth}"));
        let exact = format!("+{}:refs/mergeyard/head", self.commit);
        let tags = format!("+{TAGS}*:{TAGS}*");
        let mut args = [fixed.as_slice(), &["--update-shallow"]].concat();
        args.extend(depth.as_deref());
        args.extend(["--", mirror.as_str(), exact.as_str()]);
        if spec.tags {
            args.push(&tags);
        }
        let limits = &self.cache.limits;
        let (room, time) = (limits.max_pack_bytes, limits.fetch_timeout);
        match self.cache.program.run(folder, &args, None, room, time, self.cancel).await {
            Ok(Ended::Success) => Ok(()),
            Ok(Ended::Failure(said)) => Err(self.mirror.corrupt(last_line(&said))),
            Ok(Ended::Timeout) => Err(GitError::Timeout { repo: self.mirror.repo.clone(), after: time }),
            Ok(Ended::Cancelled) => Err(GitError::Cancelled),
            Err(e) => Err(no_program(&e)),
        }
    }
}

/// Whether the mirror has the commit's history as deep as wanted, or as deep as it goes.
fn reaches(mirror: &Mirror, commit: CommitSha, depth: Option<u32>) -> Result<bool, GitError> {
    let shallow = std::fs::read_to_string(mirror.path.join("shallow")).unwrap_or_default();
    if depth == Some(1) || shallow.is_empty() {
        return Ok(true);
    }
    let cut: std::collections::HashSet<&str> = shallow.lines().collect();
    let git = mirror.open()?;
    let mut level = vec![oid(commit)];
    let mut seen = std::collections::HashSet::new();
    let mut deep = 1;
    while !level.is_empty() && depth.is_none_or(|depth| deep < depth) {
        if level.iter().any(|id| cut.contains(id.to_string().as_str())) {
            return Ok(false);
        }
        let mut parents = Vec::new();
        for id in level {
            let found = git.find_commit(id).map_err(|e| mirror.corrupt(e.message()))?;
            parents.extend(found.parent_ids().filter(|parent| seen.insert(*parent)));
        }
        level = parents;
        deep += 1;
    }
    Ok(true)
}

fn empty_repository(root: &Path) -> Result<tempfile::TempDir, GitError> {
    let folder =
        tempfile::Builder::new().prefix("checkout-").tempdir_in(root).map_err(|e| local(root, &e))?;
    let mut options = git2::RepositoryInitOptions::new();
    options.bare(true).external_template(false).initial_head("refs/heads/none");
    let made = Repository::init_opts(folder.path(), &options);
    made.map_err(|e| GitError::Local(format!("cannot make {}: {}", folder.path().display(), e.message())))?;
    Ok(folder)
}

impl GitFolder {
    fn new(
        folder: tempfile::TempDir,
        branch: Option<&str>,
        url: &str,
        commit: &Commit,
        tags: bool,
    ) -> Result<Self, GitError> {
        let broken =
            |e: git2::Error| GitError::Local(format!("cannot put the checkout together: {}", e.message()));
        let git = Repository::open_bare(folder.path()).map_err(broken)?;
        let tree = git.find_commit(oid(commit.sha())).and_then(|found| found.tree()).map_err(broken)?;
        let mut index = git2::Index::open(&folder.path().join("index")).map_err(broken)?;
        index.read_tree(&tree).and_then(|()| index.write()).map_err(broken)?;
        let mut refs = Vec::new();
        if let Some(branch) = branch {
            refs.push((format!("refs/heads/{branch}"), commit.sha().to_string()));
            refs.push((format!("refs/remotes/origin/{branch}"), commit.sha().to_string()));
        }
        if tags {
            for tag in git.references_glob(&format!("{TAGS}*")).map_err(broken)? {
                let tag = tag.map_err(broken)?;
                if let (Ok(name), Some(id)) = (tag.name(), tag.target()) {
                    refs.push((format!("refs/tags/{}", &name[TAGS.len()..]), id.to_string()));
                }
            }
        }
        refs.sort();
        let packed_refs = refs.into_iter().map(|(name, id)| format!("{id} {name}\n")).collect();
        let head = branch.map_or(commit.sha().to_string(), |branch| format!("ref: refs/heads/{branch}"));
        Ok(Self { folder, head: format!("{head}\n"), config: config(url, branch), packed_refs })
    }

    /// The files of the folder as they are, and where they lie below `.git`.
    fn files(&self) -> io::Result<Vec<(String, std::path::PathBuf)>> {
        let mut files = Vec::new();
        for name in ["index", "shallow"] {
            let path = self.folder.path().join(name);
            if path.exists() {
                files.push((name.to_owned(), path));
            }
        }
        for file in std::fs::read_dir(self.folder.path().join("objects/pack"))? {
            let file = file?;
            files.push((format!("objects/pack/{}", file.file_name().to_string_lossy()), file.path()));
        }
        Ok(files)
    }
}

fn config(url: &str, branch: Option<&str>) -> String {
    let mut config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n\
         [remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
        quoted(url)
    );
    if let Some(branch) = branch {
        let section = quoted(branch);
        let merge = quoted(&format!("refs/heads/{branch}"));
        config.push_str(&format!("[branch {section}]\n\tremote = origin\n\tmerge = {merge}\n"));
    }
    config
}

/// As git's configuration quotes text.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

impl Checkout {
    /// What git keeps elsewhere than in this repository, for people.
    pub async fn left_out(&self) -> Result<Vec<&'static str>, GitError> {
        let mut left_out = Vec::new();
        if self.commit.entry(".gitmodules").await?.is_some() {
            left_out.push("submodules are not fetched, their folders are empty");
        }
        if let Some(Entry::Blob(attributes)) = self.commit.entry(".gitattributes").await?
            && attributes.windows(LFS.len()).any(|part| part == LFS)
        {
            left_out.push("files of Git LFS are not fetched, their pointers stand for them");
        }
        Ok(left_out)
    }

    /// The archive as a stream, after the folders that lead to the checkout and `before`, which is made
    /// by the caller. Dropping it stops whoever makes it.
    pub fn tar(
        self,
        before: impl FnOnce(&mut tar::Builder<Chunks>) -> io::Result<()> + Send + 'static,
        cancel: &CancellationToken,
    ) -> Context {
        let cancel = cancel.clone();
        stream_of(move |out| {
            let mut tar = tar::Builder::new(out);
            before(&mut tar)?;
            self.archive(tar, &cancel)
        })
    }

    fn archive(self, tar: tar::Builder<Chunks>, cancel: &CancellationToken) -> io::Result<()> {
        let Checkout { commit, spec, git: folder } = self;
        let git = commit.open().map_err(other)?;
        let root = commit.folder(&git, "").map_err(other)?;
        // Build programs compare times: what is checked out now is newer than what any cache was made from.
        let mtime = u64::try_from(Timestamp::now().0 / 1000).unwrap_or(0);
        let mut archive = Archive { tar, mtime, commit: &commit, git: &git };
        let prefix = archive.folders(&spec.folder)?;
        let mut visit = |path: &str, entry: &TreeEntry<'_>, _: Option<&git2::Tree<'_>>| {
            if cancel.is_cancelled() {
                return Err(GitError::Cancelled);
            }
            if is_git_folder(path) {
                let path = path.escape_debug();
                return Err(GitError::Refused(format!("`{path}` of the commit would be git's own folder")));
            }
            archive.append(&format!("{prefix}{path}"), entry)?;
            // A submodule is an empty folder until somebody brings it.
            if entry.kind() == Some(ObjectType::Commit) && !is_symlink(entry) {
                archive.folder(&format!("{prefix}{path}/")).map_err(|e| GitError::Local(e.to_string()))?;
            }
            Ok(())
        };
        commit.walk(&git, &root, &mut visit).map_err(other)?;
        folder.append(&mut archive, &prefix)?;
        archive.tar.into_inner()?.flush()
    }
}

/// No tree that git itself made has such an entry.
fn is_git_folder(path: &str) -> bool {
    path.split('/').any(|part| part.eq_ignore_ascii_case(".git") || part == ".." || part == ".")
}

impl GitFolder {
    fn append(&self, archive: &mut Archive<'_>, prefix: &str) -> io::Result<()> {
        for folder in ["", "objects/", "objects/pack/", "objects/info/", "refs/", "refs/heads/", "refs/tags/"]
        {
            archive.folder(&format!("{prefix}.git/{folder}"))?;
        }
        for (name, text) in
            [("HEAD", &self.head), ("config", &self.config), ("packed-refs", &self.packed_refs)]
        {
            archive.file(&format!("{prefix}.git/{name}"), text.len() as u64, text.as_bytes())?;
        }
        for (name, path) in self.files()? {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            archive.file(&format!("{prefix}.git/{name}"), size, file)?;
        }
        Ok(())
    }
}

impl Archive<'_> {
    /// The folders that lead to `folder`; what is in it begins with what is returned.
    fn folders(&mut self, folder: &str) -> io::Result<String> {
        let mut path = String::new();
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            path.push_str(part);
            path.push('/');
            self.folder(&path)?;
        }
        Ok(path)
    }

    fn folder(&mut self, path: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_mtime(self.mtime);
        header.set_size(0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    fn file(&mut self, path: &str, size: u64, content: impl io::Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(self.mtime);
        header.set_size(size);
        self.tar.append_data(&mut header, path, content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one_that_git_reads_whatever_the_names_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let (url, branch) = ("https://git.example.org/a;b#c.git", r#"odd"name"#);
        std::fs::write(&path, config(url, Some(branch))).unwrap();
        let config = git2::Config::open(&path).unwrap();
        assert_eq!(config.get_string("remote.origin.url").unwrap(), url);
        assert_eq!(
            config.get_string(&format!("branch.{branch}.merge")).unwrap(),
            format!("refs/heads/{branch}")
        );
    }

    #[test]
    fn no_entry_of_a_commit_lands_in_gits_own_folder() {
        for bad in [".git", "a/.GIT/hooks", "../x", "a/./b"] {
            assert!(is_git_folder(bad), "{bad}");
        }
        for good in [".github/x", "a.git/b", ".gitignore", "..a"] {
            assert!(!is_git_folder(good), "{good}");
        }
    }
}
