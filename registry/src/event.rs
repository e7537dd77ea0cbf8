//! What happens in the registry, told to whoever listens in the same process.

use mergeyard_types::{Digest, ImageName, Version};

/// Listeners that fall behind lose the oldest; what must not be lost is read from the registry.
pub(crate) const BACKLOG: usize = 1024;

/// One push, pull or delete that was done, and durably where it changed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub act: Act,
    pub name: ImageName,
    pub content: Content,
    /// The account that did it; `anonymous` without one, `retention` when a rule did.
    pub by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Pushed,
    Pulled,
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Blob(Digest),
    /// `tag` is missing when it was named by digest alone; with it, a deletion took only the tag away.
    Manifest {
        tag: Option<Version>,
        digest: Digest,
    },
}
