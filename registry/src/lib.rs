//! A private OCI distribution registry, and the TLS authority behind it, as a library.
//!
//! It stores images so that what a client was promised is on the disk, a version keeps meaning
//! what it meant, and a repository shows nothing it was not given. It knows nothing of GitHub,
//! databases or pipelines: the server hands it a directory, accounts and a listener.

mod access;
mod config;
mod durable;
mod endpoints;
mod error;
mod event;
mod listen;
mod manifest;
mod mirror;
mod route;
mod serve;
mod store;
pub mod tls;
mod unread;
mod upkeep;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use mergeyard_types::{Digest, ImageName, Timestamp, Version};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

pub use access::{
    Account, Denied, FailedAttempts, Grant, GrantError, Identity, NewRobot, Right, Robot, RobotError,
    RobotName, RobotNameError, Robots, ScopeError, SecretHash,
};
pub use config::{Config, Limits, Mirror, Repository, Retention, Rules, Tags};
pub use endpoints::router;
pub use error::Error;
pub use event::{Act, Content, Event};
pub use listen::serve_app;
pub use manifest::Manifest;
pub use mirror::UpstreamError;
pub use route::{Reference, Route, RouteError};
pub use serve::serve;
pub use store::lists::Tagged;
pub use tls::{authority::Authority, certificates::Certificates};
pub use upkeep::{
    AskInUse, Care,
    collect::{Collected, Collection, Removal},
    verify::{Fault, Progress, Verified, Verifying},
};

use access::Access;
use manifest::Document;
use mirror::Mirrors;
use store::{Store, found, upload::Uploads};
use upkeep::{collect::Collector, verify::Verifier};

/// A registry on one directory. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    store: Arc<Store>,
    uploads: Arc<Uploads>,
    mirrors: Arc<Mirrors>,
    config: Arc<Config>,
    access: Arc<Access>,
    events: broadcast::Sender<Event>,
    in_use: Arc<RwLock<Option<AskInUse>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the registry in {} is served by another process: stop it, or give this one another directory", .0.display())]
    InUse(PathBuf),
    #[error("cannot open the registry in {}", root.display())]
    Storage { root: PathBuf, source: io::Error },
    #[error("the mirror `{prefix}` cannot be used: {why}")]
    Mirror { prefix: ImageName, why: String },
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    pub uploads: usize,
    pub temporary_files: usize,
}

impl Registry {
    /// Opens or creates the registry under `root`, alone: a second process is refused. What a
    /// crash left behind is removed; uploads that can be resumed are kept.
    pub fn open(root: &Path, config: Config) -> Result<Self, OpenError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse(root.to_owned()),
            _ => OpenError::Storage { root: root.to_owned(), source },
        };
        let store = Store::open(root).map_err(failed)?;
        let uploads = Uploads::load(&store).map_err(failed)?;
        uploads.remove_of(&store, |name| config.mirror(name).is_some()).map_err(failed)?;
        let (store, uploads, config) = (Arc::new(store), Arc::new(uploads), Arc::new(config));
        let access = Access::open(&store.paths, &config).map_err(failed)?;
        let mirrors = Mirrors::new(&config, &store, &uploads)?;
        let registry = Self {
            store,
            uploads,
            mirrors: Arc::new(mirrors),
            config,
            access: Arc::new(access),
            events: broadcast::Sender::new(event::BACKLOG),
            in_use: Arc::default(),
        };
        // Nobody else has the directory, so every temporary file in it is an orphan of a crash.
        registry.remove_temporary_files(|_| true).map_err(failed)?;
        registry.sweep_blocking(Timestamp::now()).map_err(failed)?;
        Ok(registry)
    }

    /// Replaces all accounts that are not robots'; requests that are let in already go on.
    pub fn set_accounts(&self, accounts: Vec<Account>) {
        self.access.set_accounts(accounts);
    }

    /// Pushes, pulls and deletions from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Removes uploads that nobody continues, and temporary files of writes that failed.
    pub async fn sweep(&self, now: Timestamp) -> Result<Swept, Error> {
        let registry = self.clone();
        blocking(move || Ok(registry.sweep_blocking(now)?)).await
    }

    /// Removes what no rule, manifest or running machine keeps, while clients push and pull. It ends
    /// soon after nobody waits for it any more.
    pub async fn collect(
        &self,
        asked: Collection,
        mut tell: impl FnMut(&Removal) + Send + 'static,
    ) -> Result<Collected, Error> {
        let registry = self.clone();
        let abandoned = CancellationToken::new();
        let _guard = abandoned.clone().drop_guard();
        blocking(move || {
            let mut tell = |removal: &Removal| {
                if !asked.dry_run {
                    registry.announce(removal);
                }
                tell(removal);
            };
            let collector = Collector {
                store: &registry.store,
                config: &registry.config,
                asked: &asked,
                abandoned: &abandoned,
                tell: &mut tell,
            };
            Ok(collector.run()?)
        })
        .await
    }

    fn announce(&self, removal: &Removal) {
        let (name, content) = match removal {
            Removal::Tag { name, tag, digest } => {
                (name, Content::Manifest { tag: Some(tag.clone()), digest: *digest })
            }
            Removal::Manifest { name, digest } => (name, Content::Manifest { tag: None, digest: *digest }),
            Removal::Blob { name, digest } => (name, Content::Blob(*digest)),
            Removal::Content { .. } => return,
        };
        self.tell(Event { act: Act::Deleted, name: name.clone(), content, by: "retention".to_owned() });
    }

    /// Reads everything again, and takes what is damaged out of sight. It ends soon after nobody
    /// waits for it any more.
    pub async fn verify(
        &self,
        mut tell: impl FnMut(Verifying<'_>) + Send + 'static,
    ) -> Result<Verified, Error> {
        let registry = self.clone();
        let abandoned = CancellationToken::new();
        let _guard = abandoned.clone().drop_guard();
        blocking(move || {
            let verifier = Verifier {
                store: &registry.store,
                config: &registry.config,
                abandoned: &abandoned,
                tell: &mut tell,
                found: Verified::default(),
            };
            Ok(verifier.run()?)
        })
        .await
    }

    pub async fn repositories(&self) -> Result<Vec<ImageName>, Error> {
        self.read(|store| store.repositories()).await
    }

    pub async fn tags(&self, name: &ImageName) -> Result<Vec<Version>, Error> {
        let name = name.clone();
        self.read(move |store| store.tags(&name)).await
    }

    /// The tags of a repository with what they mean, the newest first.
    pub async fn newest_tags(&self, name: &ImageName) -> Result<Vec<Tagged>, Error> {
        let name = name.clone();
        self.read(move |store| store.newest_tags(&name)).await
    }

    pub async fn manifest(&self, name: &ImageName, tag: &Version) -> Result<Option<Manifest>, Error> {
        let (name, reference) = (name.clone(), Reference::Tag(tag.clone()));
        self.read(move |store| store.manifest(&name, &reference)).await
    }

    /// The digest a tag points at and the labels of its image; of an index, those of the first platform.
    pub async fn labels(
        &self,
        name: &ImageName,
        tag: &Version,
    ) -> Result<Option<(Digest, BTreeMap<String, String>)>, Error> {
        let (name, tag, config) = (name.clone(), tag.clone(), self.config.clone());
        self.read(move |store| labels(store, &name, tag, &config.limits)).await
    }

    fn tell(&self, event: Event) {
        // Nobody listening is not an error.
        let _ = self.events.send(event);
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        blocking(move || Ok(read(&store)?)).await
    }

    fn sweep_blocking(&self, now: Timestamp) -> io::Result<Swept> {
        let age = self.config.limits.upload_age;
        let uploads = self.uploads.sweep(&self.store, age, now)?;
        let temporary_files = self.remove_temporary_files(|touched| now.since(touched) >= age)?;
        Ok(Swept { uploads, temporary_files })
    }

    fn remove_temporary_files(&self, stale: impl Fn(Timestamp) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(self.store.paths.incoming())? {
            let entry = entry?;
            // A write that ends meanwhile takes its file away itself.
            let Some(metadata) = found(entry.metadata())? else { continue };
            if stale(metadata.modified()?.into()) && found(fs::remove_file(entry.path()))?.is_some() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn labels(
    store: &Store,
    name: &ImageName,
    tag: Version,
    limits: &Limits,
) -> io::Result<Option<(Digest, BTreeMap<String, String>)>> {
    let Some(tagged) = store.manifest(name, &Reference::Tag(tag))? else { return Ok(None) };
    let digest = tagged.digest;
    let mut document = Document::stored(&tagged)?;
    if let Some(first) = document.first_platform() {
        match store.manifest(name, &Reference::Digest(first.digest))? {
            Some(image) => document = Document::stored(&image)?,
            None => return Ok(Some((digest, BTreeMap::new()))),
        }
    }
    let config = match document.config() {
        Some(config) => store.small_blob(name, &config.digest, limits)?,
        None => None,
    };
    // A config of another kind than an image's has no labels, and that is no error.
    let image: ImageConfig = config.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    Ok(Some((digest, image.config.and_then(|config| config.labels).unwrap_or_default())))
}

#[derive(Deserialize, Default)]
struct ImageConfig {
    config: Option<ContainerConfig>,
}

#[derive(Deserialize)]
struct ContainerConfig {
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

/// Runs what blocks on a thread that may block. It starts at once and runs to its end, also when
/// nobody waits for it any more.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> impl Future<Output = Result<T, Error>> + Send {
    let task = tokio::task::spawn_blocking(work);
    async move { task.await? }
}
