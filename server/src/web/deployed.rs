//! A deployment as pages show it: on its target's page, in lists, and on the page of its run.

use askama::filters::Safe;
use mergeyard_types::{Digest, Version};

use super::{badge::Badge, source::Source};
use crate::store::Deployed;

/// A deployment with what a page adds to it.
pub(super) struct Shown {
    pub(super) one: Deployed,
    pub(super) badge: Safe<Badge>,
    /// It is what ought to be live now.
    pub(super) is_live: bool,
    source: Source,
}

impl From<Deployed> for Shown {
    fn from(one: Deployed) -> Self {
        let source = Source::of(one.source_url.as_deref());
        Self { badge: Badge::of(one.row.state), is_live: false, source, one }
    }
}

impl Shown {
    pub(super) fn live(self, is_live: bool) -> Self {
        Self { is_live, ..self }
    }

    pub(super) fn commit_url(&self) -> Option<String> {
        self.source.commit(self.one.row.commit)
    }

    pub(super) fn pull_url(&self) -> Option<String> {
        self.source.pull(self.one.row.number)
    }

    /// The image, where its name says more than the service's.
    pub(super) fn image(&self) -> Option<&str> {
        let image = self.one.row.image.as_ref()?.as_str();
        (image != self.one.row.service).then_some(image)
    }

    pub(super) fn after(&self) -> Edition {
        Edition { version: self.one.version.clone(), digest: self.one.row.digest }
    }

    pub(super) fn before(&self) -> Option<Edition> {
        let digest = self.one.row.before?;
        Some(Edition { version: self.one.version_before.clone(), digest })
    }

    /// The same was put there once more.
    pub(super) fn is_same(&self) -> bool {
        self.one.row.before == Some(self.one.row.digest)
    }
}

/// What was live at one time.
pub(super) struct Edition {
    pub(super) version: Option<Version>,
    pub(super) digest: Digest,
}
