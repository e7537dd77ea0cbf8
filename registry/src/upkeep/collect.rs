//! Garbage collection while clients push and pull.
//!
//! A push is several requests, and only its last one, the manifest, says what all the others were
//! for. Four things keep a collection from taking away what a push relies on:
//!
//! - A blob that no manifest needs is left alone as long as a push may take, counted from when a
//!   client last heard that it is there ([`Store::promise_blob`]).
//! - What is concluded from a repository's manifests is acted upon under the repository's lock, and
//!   only if no manifest was pushed since.
//! - A manifest gets its names under the same lock, shared.
//! - Content is removed when no repository has a link to it, and nobody claimed it since before the
//!   links were read ([`Blobs::begin_collection`](crate::store::blobs::Blobs::begin_collection)).
//!
//! Each kind of name is removed durably before what it leads to: a power cut leaves garbage, never
//! a name that leads nowhere.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    sync::PoisonError,
    time::Duration,
};

use mergeyard_types::{Digest, ImageName, Timestamp, Version};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::unless;
use crate::{
    config::{Config, Retention},
    durable,
    manifest::{Document, attached_to},
    store::{Link, Store, blobs::DigestSet, found, lists::Tagged},
};

/// How often a repository is looked at anew because somebody pushed to it meanwhile, before pushes
/// to it have to wait.
const UNDISTURBED_TRIES: u32 = 3;

/// What a collection is to do.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Manifests that run somewhere, whatever the rules say about their tags. When that is not
    /// known, no rule removes a tag or manifest.
    pub in_use: Option<HashSet<Digest>>,
    pub now: Timestamp,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// One thing that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "removed", rename_all = "lowercase")]
pub enum Removal {
    /// By the repository's rules.
    Tag { name: ImageName, tag: Version, digest: Digest },
    /// No tag leads to it any more.
    Manifest { name: ImageName, digest: Digest },
    /// No manifest of the repository needs it.
    Blob { name: ImageName, digest: Digest },
    /// No repository has it.
    Content { digest: Digest, size: u64 },
}

/// What a collection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Collected {
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    pub contents: u64,
    pub bytes: u64,
}

impl Collected {
    fn count(&mut self, removal: &Removal) {
        match removal {
            Removal::Tag { .. } => self.tags += 1,
            Removal::Manifest { .. } => self.manifests += 1,
            Removal::Blob { .. } => self.blobs += 1,
            Removal::Content { size, .. } => {
                self.contents += 1;
                self.bytes += size;
            }
        }
    }
}

pub(crate) struct Collector<'a> {
    pub(crate) store: &'a Store,
    pub(crate) config: &'a Config,
    pub(crate) asked: &'a Collection,
    pub(crate) abandoned: &'a CancellationToken,
    pub(crate) tell: &'a mut dyn FnMut(&Removal),
}

/// What is to go from one repository.
#[derive(Default)]
struct Doomed {
    tags: Vec<(Version, Digest)>,
    manifests: Vec<Digest>,
    blobs: Vec<Digest>,
}

/// What becomes of a repository's tags.
#[derive(Default)]
struct Judged {
    kept: Vec<Digest>,
    gone: Vec<(Version, Digest)>,
}

impl Collector<'_> {
    pub(crate) fn run(mut self) -> io::Result<Collected> {
        let _alone = self.store.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Collected::default();
        let mut gone = HashMap::new();
        for name in self.store.names()? {
            unless(self.abandoned)?;
            let doomed = match self.asked.dry_run {
                true => self.doomed(&name)?,
                false => self.clear(&name)?,
            };
            self.report(&name, &doomed, &mut sum);
            if self.asked.dry_run {
                let Doomed { manifests, blobs, .. } = doomed;
                gone.insert(name, manifests.into_iter().chain(blobs).collect());
            }
        }
        self.contents(&gone, &mut sum)?;
        if !self.asked.dry_run {
            durable::stamp(&self.store.paths.collected())?;
        }
        Ok(sum)
    }

    fn report(&mut self, name: &ImageName, doomed: &Doomed, sum: &mut Collected) {
        let Doomed { tags, manifests, blobs } = doomed;
        let tag = |(tag, digest): &(Version, Digest)| Removal::Tag {
            name: name.clone(),
            tag: tag.clone(),
            digest: *digest,
        };
        let manifest = |digest: &Digest| Removal::Manifest { name: name.clone(), digest: *digest };
        let blob = |digest: &Digest| Removal::Blob { name: name.clone(), digest: *digest };
        let all = tags.iter().map(tag).chain(manifests.iter().map(manifest)).chain(blobs.iter().map(blob));
        for removal in all {
            sum.count(&removal);
            (self.tell)(&removal);
        }
    }

    /// Removes from one repository what no rule and no manifest keeps.
    fn clear(&self, name: &ImageName) -> io::Result<Doomed> {
        let lock = self.store.lock(name);
        for _ in 0..UNDISTURBED_TRIES {
            let pushes = lock.pushes();
            let doomed = self.doomed(name)?;
            let _nobody_relies_on_it = lock.remove();
            if lock.pushes() == pushes {
                return self.remove(name, doomed);
            }
        }
        let _nobody_relies_on_it = lock.remove();
        self.remove(name, self.doomed(name)?)
    }

    /// Under the lock. Asking for a blob changes no manifest, so the promises are looked at again.
    fn remove(&self, name: &ImageName, mut doomed: Doomed) -> io::Result<Doomed> {
        let paths = &self.store.paths;
        self.store.quotas.forget(name);
        if !doomed.tags.is_empty() {
            for (tag, _) in &doomed.tags {
                found(fs::remove_file(paths.tag(name, tag)))?;
            }
            durable::sync_directory(&paths.tags(name))?;
        }
        for digest in &doomed.manifests {
            self.store.unlink_manifest(name, digest)?;
        }
        let mut removed = Vec::new();
        for digest in doomed.blobs {
            let link = paths.blob_link(name, &digest);
            let touched = found(fs::metadata(&link).and_then(|metadata| metadata.modified()))?;
            if touched.is_some_and(|at| self.may_go(at.into())) {
                // Not synced: a link that comes back leads to nothing, which is a blob that is not there.
                found(fs::remove_file(link))?;
                removed.push(digest);
            }
        }
        doomed.blobs = removed;
        Ok(doomed)
    }

    /// Has the push that this may have been part of ended?
    fn may_go(&self, touched: Timestamp) -> bool {
        self.asked.now.since(touched) >= self.config.limits.upload_age
    }

    fn is_in_use(&self, digest: &Digest) -> bool {
        self.asked.in_use.as_ref().is_some_and(|in_use| in_use.contains(digest))
    }

    fn doomed(&self, name: &ImageName) -> io::Result<Doomed> {
        let keep_all = Retention::default();
        let retention = match self.asked.in_use {
            Some(_) => &self.config.rules(name).retention,
            None => &keep_all,
        };
        let links = self.store.manifest_links(name)?;
        let mut documents = HashMap::new();
        let mut is_whole = true;
        for link in &links {
            match self.store.document(name, &link.digest)? {
                Some(document) => {
                    documents.insert(link.digest, document);
                }
                None => is_whole = false,
            }
        }
        let Judged { kept, gone } = self.judge_tags(name, retention, &documents)?;
        let live = self.live(retention, &links, &kept, &documents);
        let manifests: Vec<Digest> =
            links.iter().map(|link| link.digest).filter(|digest| !live.contains(digest)).collect();
        let mut needed = DigestSet::default();
        for document in live.iter().filter_map(|digest| documents.get(digest)) {
            document.blobs().chain(document.children()).for_each(|d| needed.insert(&d.digest));
        }
        // What a manifest needs that cannot be read is not known, so everything may be needed.
        let blobs = match is_whole {
            true => self.store.blob_links(name)?,
            false => Vec::new(),
        };
        let blobs =
            blobs.into_iter().filter(|link| self.may_go(link.touched) && !needed.contains(&link.digest));
        Ok(Doomed { tags: gone, manifests, blobs: blobs.map(|link| link.digest).collect() })
    }

    fn judge_tags(
        &self,
        name: &ImageName,
        retention: &Retention,
        documents: &HashMap<Digest, Document>,
    ) -> io::Result<Judged> {
        let tags = self.store.newest_tags(name)?;
        if !retention.limits_tags() {
            let kept = tags.into_iter().map(|tagged| tagged.digest).collect();
            return Ok(Judged { kept, gone: Vec::new() });
        }
        let (attached, own): (Vec<_>, Vec<_>) =
            tags.into_iter().partition(|tagged| attached_to(&tagged.tag).is_some());
        let runs = |digest: &Digest| {
            let children = documents.get(digest).into_iter().flat_map(|document| document.children());
            self.is_in_use(digest) || children.into_iter().any(|child| self.is_in_use(&child.digest))
        };
        let keep = |(rank, tagged): (usize, &Tagged)| {
            retention.keep_last.is_some_and(|most| rank < most)
                || retention.keep_for.is_some_and(|age| self.asked.now.since(tagged.pushed) < age)
                || retention.keep_tags.contains(&tagged.tag)
                || runs(&tagged.digest)
        };
        let keep: Vec<bool> = own.iter().enumerate().map(keep).collect();
        let (mut kept, mut gone) = (HashSet::new(), Vec::new());
        for (tagged, keep) in own.into_iter().zip(keep) {
            match keep {
                true => _ = kept.insert(tagged.digest),
                false => gone.push((tagged.tag, tagged.digest)),
            }
        }
        // A signature is worth as much as what it signs; one of something that is not here stays.
        for tagged in attached {
            let subject = attached_to(&tagged.tag);
            match subject.is_some_and(|subject| documents.contains_key(&subject) && !kept.contains(&subject))
            {
                true => gone.push((tagged.tag, tagged.digest)),
                false => _ = kept.insert(tagged.digest),
            }
        }
        Ok(Judged { kept: kept.into_iter().collect(), gone })
    }

    /// The manifests that stay: what tags and running machines lead to, what refers to those, and
    /// what is too young to be judged.
    fn live(
        &self,
        retention: &Retention,
        links: &[Link],
        kept: &[Digest],
        documents: &HashMap<Digest, Document>,
    ) -> HashSet<Digest> {
        let upload_age = self.config.limits.upload_age;
        let Some(age) = retention.untagged_for(upload_age) else {
            return links.iter().map(|link| link.digest).collect();
        };
        let is_young = |link: &&Link| self.asked.now.since(link.touched) < age;
        let in_use = links.iter().map(|link| link.digest).filter(|digest| self.is_in_use(digest));
        let young = links.iter().filter(is_young).map(|link| link.digest);
        let mut referrers: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (digest, document) in documents {
            if let Some(subject) = document.subject() {
                referrers.entry(subject).or_default().push(*digest);
            }
        }
        let mut open: Vec<Digest> = kept.iter().copied().chain(in_use).chain(young).collect();
        let mut live = HashSet::new();
        while let Some(digest) = open.pop() {
            if live.insert(digest) {
                let children = documents.get(&digest).into_iter().flat_map(|document| document.children());
                open.extend(children.map(|child| child.digest));
                open.extend(referrers.get(&digest).into_iter().flatten());
            }
        }
        live
    }

    /// Removes content that nothing names. In a dry run the links that would be `gone` are none.
    fn contents(
        &mut self,
        gone: &HashMap<ImageName, HashSet<Digest>>,
        sum: &mut Collected,
    ) -> io::Result<()> {
        let collection = self.store.blobs.begin_collection();
        let mut named = DigestSet::default();
        for name in self.store.names()? {
            unless(self.abandoned)?;
            let gone = gone.get(&name);
            let goes = |digest: &Digest| gone.is_some_and(|gone| gone.contains(digest));
            let links = self.store.blob_links(&name)?.into_iter().chain(self.store.manifest_links(&name)?);
            links.filter(|link| !goes(&link.digest)).for_each(|link| named.insert(&link.digest));
        }
        for kept in self.store.blobs.all() {
            unless(self.abandoned)?;
            let kept = kept?;
            if !named.contains(&kept.digest) && (self.asked.dry_run || collection.remove(&kept.digest)?) {
                let removal = Removal::Content { digest: kept.digest, size: kept.size };
                sum.count(&removal);
                (self.tell)(&removal);
            }
        }
        Ok(())
    }
}

impl Retention {
    fn limits_tags(&self) -> bool {
        self.keep_last.is_some() || self.keep_for.is_some()
    }

    /// Removing tags frees nothing unless what they led to goes as well; and what was just pushed
    /// may be part of a push that has not come to its tag.
    fn untagged_for(&self, push: Duration) -> Option<Duration> {
        match self.untagged_for {
            Some(age) => Some(age.max(push)),
            None => self.limits_tags().then_some(push),
        }
    }
}
