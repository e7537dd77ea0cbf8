//! What happens in the registry, told to whoever listens in the same process.

use mergeyard_types::{Digest, ImageName, Version};

/// Listeners that fall behind lose the oldest; what must not be lost is read from the registry.
pub(crate) const BACKLOG: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A manifest was stored durably; `tag` is missing when it was pushed by digest alone.
    Pushed { name: ImageName, tag: Option<Version>, digest: Digest, by: String },
    /// A manifest was read; `tag` is missing when it was asked for by digest.
    Pulled { name: ImageName, tag: Option<Version>, digest: Digest, by: String },
}
