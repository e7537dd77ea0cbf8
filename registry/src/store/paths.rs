//! The layout on disk, in one place, so that what a crash can leave behind is read off one table.
//!
//! | path under the root                             | what it holds                                        | written |
//! | ----------------------------------------------- | ---------------------------------------------------- | ------- |
//! | `lock`                                          | nothing; locked by the one process that serves it    | once |
//! | `content/<algorithm>/<hex>`                     | the bytes with that digest, once for all repositories| rename of a synced file |
//! | `repositories/<name>/_blobs/<algorithm>/<hex>`  | nothing; the repository may read that content        | created empty |
//! | `repositories/<name>/_manifests/<algorithm>/<hex>` | the media type of that manifest of the repository | rename of a synced file |
//! | `repositories/<name>/_referrers/<algorithm>/<hex>/<algorithm>-<hex>` | of that subject: the descriptor of a manifest that refers to it | rename of a synced file |
//! | `repositories/<name>/_tags/<tag>`               | the digest the tag points at                         | rename of a synced file |
//! | `uploads/<uuid>/repository`                     | the name of the repository that is uploaded to       | when the upload starts |
//! | `uploads/<uuid>/data`                           | the bytes received; its length is the upload's offset| appended to |
//! | `incoming/<uuid>`                               | a small file before its rename                       | then renamed away |
//! | `quarantine/<algorithm>-<hex>`                  | bytes that no longer have that digest, for a person  | rename |
//! | `collected`, `verified`                         | nothing; their times are those of the last full pass | touched |
//! | `access/token-key`                              | the key tokens are signed with                       | once, rename of a synced file |
//! | `access/robots.json`                            | the robots: rights, and hashes of their secrets      | rename of a synced file |
//! | `access/lock`                                   | nothing; locked by a command that changes robots     | once |
//! | `access/incoming/<uuid>`                        | the next `robots.json` before its rename             | then renamed away |
//!
//! A reader looks at `repositories` first and at `content` second, a writer fills them in the
//! opposite order, and everything in either arrives by one `rename` or one `create`: whatever
//! instant the power fails at, what is visible is whole. Whoever removes goes the reader's way: the
//! tag, then the manifest, then the links to blobs, and content when nothing in `repositories` names
//! it. `uploads` and `incoming` are never read from by a pull; what is stale in them is swept.
//!
//! The time of a link under `_blobs` says when a client was last told that the repository has the
//! blob: as long as a push may take, it counts on that.
//!
//! `content` is one flat folder per algorithm: the file systems in use index their directories,
//! and a fan-out would cost one more directory to sync on each push. A folder beginning with `_`
//! cannot clash with a nested repository, because the specification's names never do.

use std::path::{Path, PathBuf};

use mergeyard_types::{Digest, ImageName, Version};
use uuid::Uuid;

#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn content(&self, algorithm: &str) -> PathBuf {
        self.root.join("content").join(algorithm)
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.content(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    fn repository(&self, name: &ImageName) -> PathBuf {
        self.repositories().join(name.as_str())
    }

    pub(crate) fn blob_link(&self, name: &ImageName, digest: &Digest) -> PathBuf {
        self.blob_links(name).join(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn blob_links(&self, name: &ImageName) -> PathBuf {
        self.repository(name).join("_blobs")
    }

    pub(crate) fn manifests(&self, name: &ImageName) -> PathBuf {
        self.repository(name).join("_manifests")
    }

    pub(crate) fn manifest_link(&self, name: &ImageName, digest: &Digest) -> PathBuf {
        self.manifests(name).join(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn referrers(&self, name: &ImageName, subject: &Digest) -> PathBuf {
        self.repository(name).join("_referrers").join(subject.algorithm()).join(subject.hex())
    }

    pub(crate) fn referrer(&self, name: &ImageName, subject: &Digest, digest: &Digest) -> PathBuf {
        self.referrers(name, subject).join(format!("{}-{}", digest.algorithm(), digest.hex()))
    }

    pub(crate) fn tags(&self, name: &ImageName) -> PathBuf {
        self.repository(name).join("_tags")
    }

    pub(crate) fn tag(&self, name: &ImageName, tag: &Version) -> PathBuf {
        self.tags(name).join(tag.as_str())
    }

    pub(crate) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(crate) fn upload(&self, id: Uuid) -> PathBuf {
        self.uploads().join(id.to_string())
    }

    pub(crate) fn upload_repository(&self, id: Uuid) -> PathBuf {
        self.upload(id).join("repository")
    }

    pub(crate) fn upload_data(&self, id: Uuid) -> PathBuf {
        self.upload(id).join("data")
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(crate) fn collected(&self) -> PathBuf {
        self.root.join("collected")
    }

    pub(crate) fn verified(&self) -> PathBuf {
        self.root.join("verified")
    }

    pub(crate) fn token_key(&self) -> PathBuf {
        self.root.join("access/token-key")
    }

    pub(crate) fn robots(&self) -> PathBuf {
        self.root.join("access/robots.json")
    }

    pub(crate) fn access_lock(&self) -> PathBuf {
        self.root.join("access/lock")
    }

    pub(crate) fn access_incoming(&self) -> PathBuf {
        self.root.join("access/incoming")
    }
}
