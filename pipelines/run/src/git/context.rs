//! The build context: one folder of a commit as a tar archive, straight from the object
//! database to the engine. Nothing is written to a disk on the way, and the same tree
//! always makes the same bytes.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use git2::{ObjectType, Repository, TreeEntry};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Commit, GitError, commit::is_symlink, ignore::Ignore};
use crate::StepFault;

const CHUNK: usize = 64 * 1024;

/// Chunks made ahead of the engine: it bounds memory when the engine is slow.
const CHUNKS_IN_FLIGHT: usize = 8;

/// The archive as a stream; dropping it stops whoever makes it.
pub struct Context {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
}

impl Context {
    pub(super) fn start(commit: Commit, folder: String, cancel: CancellationToken) -> Self {
        stream_of(move |out| archive(&commit, &folder, out, &cancel))
    }
}

/// What `make` writes, made on a thread that may block.
pub(super) fn stream_of(make: impl FnOnce(Chunks) -> io::Result<()> + Send + 'static) -> Context {
    let (sender, chunks) = mpsc::channel(CHUNKS_IN_FLIGHT);
    tokio::task::spawn_blocking(move || {
        let out = Chunks { sender: sender.clone(), chunk: BytesMut::new() };
        if let Err(e) = make(out) {
            // Nobody is left to tell when the receiver is gone.
            let _ = sender.blocking_send(Err(e));
        }
    });
    Context { chunks }
}

impl Stream for Context {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_recv(cx)
    }
}

fn archive(commit: &Commit, folder: &str, out: Chunks, cancel: &CancellationToken) -> io::Result<()> {
    let git = commit.open().map_err(other)?;
    let tree = commit.folder(&git, folder).map_err(other)?;
    let time = commit.found(&git).map_err(other)?.time().seconds();
    let rules = |name| tree.get_name(name).filter(|e| e.kind() == Some(ObjectType::Blob) && !is_symlink(e));
    let ignore = match rules("Dockerfile.dockerignore").or_else(|| rules(".dockerignore")) {
        Some(file) => {
            Ignore::parse(&String::from_utf8_lossy(&small_blob(commit, &git, &file).map_err(other)?))
        }
        None => Ignore::default(),
    };
    let mut archive =
        Archive { tar: tar::Builder::new(out), mtime: u64::try_from(time).unwrap_or(0), commit, git: &git };
    let mut visit = |path: &str, entry: &TreeEntry<'_>, _: Option<&git2::Tree<'_>>| {
        if cancel.is_cancelled() {
            return Err(GitError::Cancelled);
        }
        if ignore.excludes(path) {
            return Ok(());
        }
        archive.append(path, entry)
    };
    commit.walk(&git, &tree, &mut visit).map_err(other)?;
    let mut out = archive.tar.into_inner()?;
    out.flush()
}

pub(super) struct Archive<'a> {
    pub(super) tar: tar::Builder<Chunks>,
    pub(super) mtime: u64,
    pub(super) commit: &'a Commit,
    pub(super) git: &'a Repository,
}

impl Archive<'_> {
    pub(super) fn append(&mut self, path: &str, entry: &TreeEntry<'_>) -> Result<(), GitError> {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(self.mtime);
        let written = match entry.kind() {
            Some(ObjectType::Tree) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                self.data(&mut header, &format!("{path}/"), &[])
            }
            Some(ObjectType::Blob) if is_symlink(entry) => {
                let target = self.content(path, entry)?;
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                self.tar.append_link(&mut header, path, String::from_utf8_lossy(&target).as_ref())
            }
            Some(ObjectType::Blob) => {
                let content = self.content(path, entry)?;
                let executable = entry.filemode() == i32::from(git2::FileMode::BlobExecutable);
                header.set_mode(if executable { 0o755 } else { 0o644 });
                self.data(&mut header, path, &content)
            }
            // A submodule: git keeps only its name here, and we fetch nothing else.
            _ => Ok(()),
        };
        written.map_err(|e| {
            GitError::Refused(format!("`{}` cannot be sent to the engine: {e}", path.escape_debug()))
        })
    }

    fn data(&mut self, header: &mut tar::Header, path: &str, content: &[u8]) -> io::Result<()> {
        header.set_size(content.len() as u64);
        self.tar.append_data(header, path, content)
    }

    fn content(&self, path: &str, entry: &TreeEntry<'_>) -> Result<Vec<u8>, GitError> {
        let (size, limit) =
            (self.commit.blob_size(self.git, entry.id())?, self.commit.limits().max_blob_bytes);
        if size > limit {
            let what = format!("`{path}` with {size} bytes");
            return Err(GitError::Limit {
                what,
                limit: format!("{limit} bytes for one file (git.max_blob_bytes)"),
            });
        }
        self.commit.blob(self.git, entry.id())
    }
}

fn small_blob(commit: &Commit, git: &Repository, entry: &TreeEntry<'_>) -> Result<Vec<u8>, GitError> {
    let (size, limit) = (commit.blob_size(git, entry.id())?, commit.limits().max_text_bytes);
    if size > limit {
        return Err(GitError::Limit {
            what: format!(".dockerignore with {size} bytes"),
            limit: format!("{limit} bytes"),
        });
    }
    commit.blob(git, entry.id())
}

/// Carries the cause through the stream's error type; [`Context::cause`] gets it back.
pub(super) fn other(error: GitError) -> io::Error {
    io::Error::other(error)
}

impl Context {
    /// The error of ours inside an error of the stream.
    pub fn cause(error: &io::Error) -> Option<&GitError> {
        error.get_ref()?.downcast_ref()
    }
}

/// Remembers why a context ended early.
#[derive(Clone, Default)]
pub(crate) struct Cause(Arc<Mutex<Option<GitError>>>);

impl Cause {
    pub(crate) fn watch<C>(&self, context: C) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
    where
        C: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let seen = self.clone();
        context.inspect(move |chunk| {
            if let Some(cause) = chunk.as_ref().err().and_then(Context::cause) {
                *seen.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause.clone());
            }
        })
    }

    pub(crate) fn take(&self) -> Option<StepFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(StepFault::from)
    }
}

/// Collects small writes into chunks and waits when the engine is slow.
pub struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: BytesMut,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = self.chunk.split().freeze();
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::other("the engine stopped listening"))
    }
}
