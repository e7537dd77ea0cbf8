//! What the operator decides about the registry.

use std::{num::NonZeroU32, time::Duration};

use globset::{Glob, GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use mergeyard_types::{ImageName, Secret, Version};
use url::Url;

/// Everything has a default that suits one machine.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Rules by repository: the first whose pattern fits holds. Where none fits, the defaults do.
    pub repositories: Vec<Repository>,
    /// Upstream registries that are kept a copy of as they are asked for.
    pub mirrors: Vec<Mirror>,
    pub limits: Limits,
}

impl Config {
    /// The rules of one repository.
    pub fn rules(&self, name: &ImageName) -> &Rules {
        static DEFAULT: Rules = Rules::DEFAULT;
        let fits = |repository: &&Repository| repository.name.is_match(name.as_str());
        self.repositories.iter().find(fits).map_or(&DEFAULT, |repository| &repository.rules)
    }

    /// The upstream a repository is a copy of.
    pub fn mirror(&self, name: &ImageName) -> Option<&Mirror> {
        self.mirrors.iter().find(|mirror| mirror.upstream_name(name).is_some())
    }
}

/// Rules for every repository whose name fits a pattern: `*` stays within one part of the name,
/// `**` does not.
#[derive(Debug, Clone)]
pub struct Repository {
    name: GlobMatcher,
    pub rules: Rules,
}

impl Repository {
    pub fn new(name: &str, rules: Rules) -> Result<Self, globset::Error> {
        Ok(Self { name: repositories(name)?, rules })
    }
}

/// What holds in one repository. By default versions are immutable, nobody reads without an
/// account, and nothing is ever removed.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Tags that may be pointed at other content, such as `latest`. Every other tag is immutable:
    /// what was deployed under a version stays what that version means.
    pub mutable_tags: Tags,
    pub anonymous_pull: bool,
    /// How many bytes of blobs and manifests the repository may refer to.
    pub quota: Option<u64>,
    pub retention: Retention,
}

impl Rules {
    const DEFAULT: Self = Self {
        mutable_tags: Tags(None),
        anonymous_pull: false,
        quota: None,
        retention: Retention { keep_last: None, keep_for: None, keep_tags: Tags(None), untagged_for: None },
    };
}

impl Default for Rules {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which tags garbage collection leaves. With neither `keep_last` nor `keep_for` every tag stays; with
/// either, a tag stays that any of the rules keeps, or whose content is in use.
#[derive(Debug, Clone, Default)]
pub struct Retention {
    /// The tags pushed last.
    pub keep_last: Option<usize>,
    /// Tags pushed no longer ago than this.
    pub keep_for: Option<Duration>,
    /// Tags that always stay.
    pub keep_tags: Tags,
    /// Manifests that no tag leads to are removed after this time; without it they stay.
    pub untagged_for: Option<Duration>,
}

/// Patterns of tags.
#[derive(Debug, Clone, Default)]
pub struct Tags(Option<GlobSet>);

impl Tags {
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern)?);
        }
        Ok(Self(Some(set.build()?)))
    }

    pub fn contains(&self, tag: &Version) -> bool {
        self.0.as_ref().is_some_and(|set| set.is_match(tag.as_str()))
    }
}

/// An upstream registry whose repositories appear below a prefix, and are kept.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// `docker.io` makes `docker.io/library/debian` here what is `library/debian` there.
    pub prefix: ImageName,
    pub upstream: Url,
    pub login: Option<(String, Secret)>,
    /// The only authority that is trusted; without one, those the system trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// How long a tag is believed before upstream is asked again.
    pub revalidate: Duration,
}

impl Mirror {
    /// What upstream calls this repository, when it is one of upstream's.
    pub fn upstream_name(&self, name: &ImageName) -> Option<ImageName> {
        name.as_str().strip_prefix(self.prefix.as_str())?.strip_prefix('/')?.parse().ok()
    }
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Protects memory: a manifest is the one thing that is held whole.
    pub manifest_bytes: usize,
    /// Protects the disk from one endless upload.
    pub blob_bytes: u64,
    /// Protects memory (about half a megabyte for each that is being received) and the disk.
    pub open_uploads: usize,
    /// Protects the disk from uploads that nobody will finish.
    pub upload_age: Duration,
    /// Protects the pages and lists from being built whole for a client that asks for `n=2147483648`.
    pub page_entries: usize,
    /// Protects the disk and the other clients from one account; without it none is counted.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Protects secrets from being tried out from one address.
    pub failed_logins_per_minute: NonZeroU32,
    /// Protects file descriptors and memory from too many clients at once.
    pub connections: usize,
    /// Protects the other clients from one address that takes all connections.
    pub connections_per_address: usize,
    /// Protects connections from clients that send a request head, or shake hands, one byte at a time.
    pub header_time: Duration,
    /// Protects connections from clients that have gone quiet, in either direction. Longer than the
    /// slowest sync of a blob, during which an honest client hears nothing.
    pub idle_time: Duration,
    /// Bounds how long a stopping server waits for transfers to end.
    pub shutdown_time: Duration,
    /// Bounds how long a pull waits for an upstream registry that does not answer at all.
    pub upstream_connect_time: Duration,
    /// Protects pulls from an upstream registry that trickles: a small answer is whole within this
    /// time, and of a blob some comes within it.
    pub upstream_idle_time: Duration,
    /// Protects an upstream registry that stumbles from being asked again at once; doubles each time.
    pub upstream_backoff: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            blob_bytes: 64 << 30,
            open_uploads: 512,
            upload_age: Duration::from_secs(24 * 60 * 60),
            page_entries: 1000,
            requests_per_minute: None,
            failed_logins_per_minute: const { NonZeroU32::new(30).unwrap() },
            connections: 1024,
            connections_per_address: 512,
            header_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(120),
            shutdown_time: Duration::from_secs(10),
            upstream_connect_time: Duration::from_secs(10),
            upstream_idle_time: Duration::from_secs(30),
            upstream_backoff: Duration::from_millis(500),
        }
    }
}

/// The one meaning of a pattern of repository names.
pub(crate) fn repositories(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    Ok(GlobBuilder::new(pattern).literal_separator(true).build()?.compile_matcher())
}
