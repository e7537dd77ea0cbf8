//! Reading everything again: whether disks have kept what clients were promised.
//!
//! Content whose bytes no longer have its digest is taken out of sight, so that nobody pulls it and
//! the next push of the same content puts it right. A collection or a push may go on meanwhile: only
//! what is still named after it was found missing is a fault.

use std::io;

use mergeyard_types::{Digest, ImageName, Version};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::unless;
use crate::{
    config::Config,
    durable,
    store::{
        Store,
        blobs::Blob,
        upload::{Algorithm, Hasher},
    },
};

/// One read: large enough for the disk to be the slow part.
const READ_BYTES: usize = 1 << 20;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "lowercase")]
pub enum Fault {
    /// The bytes are others than they were; they lie in `quarantine` now.
    Damaged { digest: Digest },
    /// The disk does not give the bytes back.
    Unreadable { digest: Digest, why: String },
    /// A repository names content that is not there.
    Missing { name: ImageName, digest: Digest },
    /// A manifest needs a blob or manifest that its repository does not have.
    Incomplete { name: ImageName, manifest: Digest, needs: Digest },
    /// A tag leads to a manifest that its repository does not have.
    Dangling { name: ImageName, tag: Version, digest: Digest },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Damaged { digest } => {
                write!(f, "{digest} is damaged and was put into quarantine: push an image that has it again")
            }
            Fault::Unreadable { digest, why } => write!(f, "{digest} cannot be read: {why}"),
            Fault::Missing { name, digest } => {
                write!(f, "`{name}` has lost {digest}: push an image that has it again")
            }
            Fault::Incomplete { name, manifest, needs } => {
                write!(f, "manifest {manifest} of `{name}` needs {needs}, which is not there: push it again")
            }
            Fault::Dangling { name, tag, digest } => {
                write!(f, "`{name}:{tag}` leads to {digest}, which is not there: push it again")
            }
        }
    }
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    pub contents: u64,
    pub of_contents: u64,
    pub bytes: u64,
    pub of_bytes: u64,
}

/// Told while it goes on.
#[derive(Debug)]
pub enum Verifying<'a> {
    Progress(Progress),
    Fault(&'a Fault),
}

/// What a verification came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verified {
    pub contents: u64,
    pub bytes: u64,
    pub faults: u64,
}

pub(crate) struct Verifier<'a> {
    pub(crate) store: &'a Store,
    pub(crate) config: &'a Config,
    pub(crate) abandoned: &'a CancellationToken,
    pub(crate) tell: &'a mut dyn FnMut(Verifying<'_>),
    pub(crate) found: Verified,
}

impl Verifier<'_> {
    pub(crate) fn run(mut self) -> io::Result<Verified> {
        self.contents()?;
        for name in self.store.names()? {
            unless(self.abandoned)?;
            self.names(&name)?;
        }
        durable::stamp(&self.store.paths.verified())?;
        Ok(self.found)
    }

    fn fault(&mut self, fault: &Fault) {
        self.found.faults += 1;
        (self.tell)(Verifying::Fault(fault));
    }

    fn contents(&mut self) -> io::Result<()> {
        let mut progress = Progress::default();
        for kept in self.store.blobs.all() {
            progress.of_contents += 1;
            progress.of_bytes += kept?.size;
        }
        for kept in self.store.blobs.all() {
            unless(self.abandoned)?;
            let digest = kept?.digest;
            // What was collected meanwhile is nobody's loss.
            let Some(blob) = self.store.blobs.open(&digest)? else { continue };
            self.content(&digest, &blob, &mut progress)?;
            progress.contents += 1;
            (self.tell)(Verifying::Progress(progress));
        }
        self.found.contents = progress.contents;
        self.found.bytes = progress.bytes;
        Ok(())
    }

    fn content(&mut self, digest: &Digest, blob: &Blob, progress: &mut Progress) -> io::Result<()> {
        let fault = match self.hash(digest, blob, progress) {
            Ok(actual) if actual == *digest => return Ok(()),
            Ok(_) => Fault::Damaged { digest: *digest },
            Err(error) => Fault::Unreadable { digest: *digest, why: error.to_string() },
        };
        // What was interrupted has not been read.
        unless(self.abandoned)?;
        if self.store.blobs.quarantine(digest, blob)? {
            self.fault(&fault);
        }
        Ok(())
    }

    fn hash(&mut self, digest: &Digest, blob: &Blob, progress: &mut Progress) -> io::Result<Digest> {
        let mut hasher = Hasher::new(Algorithm::of(digest));
        let mut buffer = vec![0; READ_BYTES];
        let mut offset = 0;
        loop {
            unless(self.abandoned)?;
            match blob.read_at(offset, &mut buffer)? {
                0 => return Ok(hasher.finish()),
                read => {
                    hasher.update(&buffer[..read]);
                    offset += read as u64;
                    progress.bytes += read as u64;
                    (self.tell)(Verifying::Progress(*progress));
                }
            }
        }
    }

    fn names(&mut self, name: &ImageName) -> io::Result<()> {
        let store = self.store;
        for link in store.blob_links(name)? {
            let is_named = || store.paths.blob_link(name, &link.digest).exists();
            if store.blobs.size(&link.digest)?.is_none() && is_named() {
                self.fault(&Fault::Missing { name: name.clone(), digest: link.digest });
            }
        }
        for link in store.manifest_links(name)? {
            self.manifest(name, &link.digest)?;
        }
        for tag in store.tags(name)? {
            let Some(digest) = store.tag(name, &tag)? else { continue };
            let leads_nowhere = || !store.paths.manifest_link(name, &digest).exists();
            if leads_nowhere() && store.tag(name, &tag)? == Some(digest) {
                self.fault(&Fault::Dangling { name: name.clone(), tag, digest });
            }
        }
        Ok(())
    }

    fn manifest(&mut self, name: &ImageName, manifest: &Digest) -> io::Result<()> {
        let store = self.store;
        let is_named = || store.paths.manifest_link(name, manifest).exists();
        let Some(document) = store.document(name, manifest)? else {
            if is_named() {
                self.fault(&Fault::Missing { name: name.clone(), digest: *manifest });
            }
            return Ok(());
        };
        // A mirror fetches what a manifest needs when somebody asks for it.
        if self.config.mirror(name).is_some() {
            return Ok(());
        }
        for needed in document.blobs().chain(document.children()) {
            let has = |digest: &Digest| {
                store.paths.blob_link(name, digest).exists()
                    || store.paths.manifest_link(name, digest).exists()
            };
            if !has(&needed.digest) && is_named() {
                let (manifest, needs) = (*manifest, needed.digest);
                self.fault(&Fault::Incomplete { name: name.clone(), manifest, needs });
            }
        }
        Ok(())
    }
}
