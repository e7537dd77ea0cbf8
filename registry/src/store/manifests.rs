//! Manifests: pushed when everything they refer to is there, named, listed with their subjects, removed.

use std::{fs, io};

use bytes::Bytes;
use mergeyard_types::{Digest, ImageName, Version};

use super::{FILE_MODE, Link, Store, entries, found, line};
use crate::{
    config::Rules,
    durable::{self, Staged},
    error::Error,
    manifest::{Document, Manifest, Referrer, attached_to},
    route::Reference,
};

impl Store {
    /// Stores a manifest and, when it has one, its tag. Two pushes of one tag are decided one
    /// after the other; the content is written before that, where it is visible to nobody.
    pub(crate) fn put_manifest(
        &self,
        name: &ImageName,
        tag: Option<&Version>,
        manifest: &Manifest,
        document: &Document,
        rules: &Rules,
    ) -> Result<(), Error> {
        let _stays = self.lock(name).rely();
        let may_move = |tag| rules.mutable_tags.contains(tag) || attached_to(tag).is_some();
        let tagging = tag.map(|tag| Tagging { tag, may_move: may_move(tag) });
        self.check_references(name, document)?;
        self.check_tag(name, tagging, &manifest.digest)?;
        if self.paths.manifest_link(name, &manifest.digest).exists() {
            return self.name_manifest(name, tagging, manifest, document);
        }
        let size = manifest.bytes.len() as u64;
        self.quotas.charge(name, size, rules.quota, || self.measure(name))?;
        let named = self.name_manifest(name, tagging, manifest, document);
        if named.is_err() {
            self.quotas.forget(name);
        }
        named
    }

    /// Stores a manifest of a mirror. What it refers to is fetched when it is asked for, and
    /// upstream alone decides what a tag means.
    pub(crate) fn put_mirrored_manifest(
        &self,
        name: &ImageName,
        tag: Option<&Version>,
        manifest: &Manifest,
        document: &Document,
    ) -> Result<(), Error> {
        let _stays = self.lock(name).rely();
        let tagging = tag.map(|tag| Tagging { tag, may_move: true });
        self.name_manifest(name, tagging, manifest, document)
    }

    /// Gives a manifest its names, for who holds the lock to rely on links.
    fn name_manifest(
        &self,
        name: &ImageName,
        tagging: Option<Tagging<'_>>,
        manifest: &Manifest,
        document: &Document,
    ) -> Result<(), Error> {
        let staged = self.stage_names(name, tagging, manifest)?;
        let claim = self.blobs.claim(&manifest.digest);
        self.blobs.put(&claim, &manifest.digest, &manifest.bytes)?;
        self.list_referrer(name, manifest, document)?;
        let _deciding = tagging.map(|tagging| self.decide(name, tagging.tag));
        let decision = self.check_tag(name, tagging, &manifest.digest)?;
        let _counted = self.lock(name).count_push();
        self.link_manifest(name, manifest, staged.link)?;
        match (tagging, decision) {
            (None, _) => Ok(()),
            (Some(_), TagIs::Same) => Ok(durable::sync_directory(&self.paths.tags(name))?),
            (Some(Tagging { tag, .. }), TagIs::Other) => {
                let line = staged.tag.map_or_else(|| self.stage(&manifest.digest.to_string()), Ok)?;
                Ok(line.place(&self.paths.tag(name, tag))?)
            }
        }
    }

    /// Sends the names that are not there yet on their way to the disk, ahead of the content that
    /// has to be there first.
    fn stage_names(
        &self,
        name: &ImageName,
        tagging: Option<Tagging<'_>>,
        manifest: &Manifest,
    ) -> io::Result<StagedNames> {
        let is_tagged = match tagging {
            Some(Tagging { tag, .. }) => self.tag(name, tag)? == Some(manifest.digest),
            None => true,
        };
        let is_linked = self.paths.manifest_link(name, &manifest.digest).exists();
        Ok(StagedNames {
            link: (!is_linked).then(|| self.stage(&manifest.media_type)).transpose()?,
            tag: (!is_tagged).then(|| self.stage(&manifest.digest.to_string())).transpose()?,
        })
    }

    fn stage(&self, line: &str) -> io::Result<Staged> {
        Staged::new(&self.paths.incoming(), line.as_bytes(), FILE_MODE)
    }

    /// Under the lock an existing link is whole, and the media type it was first pushed with stays.
    fn link_manifest(&self, name: &ImageName, manifest: &Manifest, staged: Option<Staged>) -> io::Result<()> {
        let _linking = self.linking(name, &manifest.digest);
        let link = self.paths.manifest_link(name, &manifest.digest);
        match link.exists() {
            // A process that was killed may have named it and not waited for the disk.
            true => durable::sync_directory(&self.paths.manifests(name).join(manifest.digest.algorithm())),
            false => staged.map_or_else(|| self.stage(&manifest.media_type), Ok)?.place(&link),
        }
    }

    /// Written before the manifest's own link: an entry without one is not shown, and a manifest
    /// whose client was told "201" is never missing from the list.
    fn list_referrer(&self, name: &ImageName, manifest: &Manifest, document: &Document) -> io::Result<()> {
        let Some(subject) = document.subject() else { return Ok(()) };
        let path = self.paths.referrer(name, &subject, &manifest.digest);
        if path.exists() {
            return Ok(());
        }
        let entry = serde_json::to_vec(&document.as_referrer(manifest))?;
        durable::write(&self.paths.incoming(), &path, &entry, FILE_MODE)
    }

    fn check_references(&self, name: &ImageName, document: &Document) -> Result<(), Error> {
        let unknown = |digest: Digest| Error::ManifestBlobUnknown { name: name.clone(), digest };
        let same = |stored: u64, claimed: u64, digest: Digest| match stored == claimed {
            true => Ok(()),
            false => Err(Error::ManifestInvalid(format!("{digest} has {stored} bytes, not {claimed}"))),
        };
        for blob in document.blobs() {
            let stored = self.blob_size(name, &blob.digest)?.ok_or_else(|| unknown(blob.digest))?;
            same(stored, blob.size, blob.digest)?;
        }
        for child in document.children() {
            let link = self.paths.manifest_link(name, &child.digest);
            // Build caches are indexes whose entries are layers, not manifests.
            let stored = match self.content_size(&link, &child.digest)? {
                None => self.blob_size(name, &child.digest)?,
                some => some,
            };
            same(stored.ok_or_else(|| unknown(child.digest))?, child.size, child.digest)?;
        }
        Ok(())
    }

    fn check_tag(
        &self,
        name: &ImageName,
        tagging: Option<Tagging<'_>>,
        digest: &Digest,
    ) -> Result<TagIs, Error> {
        let Some(Tagging { tag, may_move }) = tagging else { return Ok(TagIs::Other) };
        match self.tag(name, tag)? {
            Some(published) if published == *digest => Ok(TagIs::Same),
            Some(digest) if !may_move => {
                Err(Error::TagImmutable { name: name.clone(), tag: tag.clone(), digest })
            }
            Some(_) | None => Ok(TagIs::Other),
        }
    }

    /// Takes a tag away; what it named stays. Says what that was.
    pub(crate) fn delete_tag(&self, name: &ImageName, tag: &Version) -> io::Result<Option<Digest>> {
        let _deciding = self.decide(name, tag);
        let Some(digest) = self.tag(name, tag)? else { return Ok(None) };
        Ok(durable::remove(&self.paths.tag(name, tag))?.then_some(digest))
    }

    /// Takes a manifest away, and the tags that point at it.
    pub(crate) fn delete_manifest(&self, name: &ImageName, digest: &Digest) -> io::Result<bool> {
        let _nobody_relies_on_it = self.lock(name).remove();
        for tag in self.tags(name)? {
            if self.tag(name, &tag)? == Some(*digest) {
                durable::remove(&self.paths.tag(name, &tag))?;
            }
        }
        self.unlink_manifest(name, digest)
    }

    /// For who holds the lock to remove links.
    pub(crate) fn unlink_manifest(&self, name: &ImageName, digest: &Digest) -> io::Result<bool> {
        let manifest = self.manifest(name, &Reference::Digest(*digest))?;
        self.quotas.forget(name);
        let removed = durable::remove(&self.paths.manifest_link(name, digest))?;
        // The entry goes last: without its manifest it is not shown.
        let subject = manifest.map(|manifest| Document::stored(&manifest)).transpose()?;
        if let Some(subject) = subject.and_then(|document| document.subject()) {
            durable::remove(&self.paths.referrer(name, &subject, digest))?;
            // Fails as long as others refer to the subject.
            let _ = fs::remove_dir(self.paths.referrers(name, &subject));
        }
        Ok(removed)
    }

    pub(crate) fn manifest(&self, name: &ImageName, reference: &Reference) -> io::Result<Option<Manifest>> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.tag(name, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let Some(media_type) = line(&self.paths.manifest_link(name, &digest))? else { return Ok(None) };
        let Some(blob) = self.blobs.open(&digest)? else { return Ok(None) };
        Ok(Some(Manifest { digest, media_type, bytes: Bytes::from(blob.read_all()?) }))
    }

    /// What a manifest of the repository refers to.
    pub(crate) fn document(&self, name: &ImageName, digest: &Digest) -> io::Result<Option<Document>> {
        let manifest = self.manifest(name, &Reference::Digest(*digest))?;
        manifest.map(|manifest| Document::stored(&manifest)).transpose()
    }

    pub(crate) fn tag(&self, name: &ImageName, tag: &Version) -> io::Result<Option<Digest>> {
        let path = self.paths.tag(name, tag);
        let Some(text) = line(&path)? else { return Ok(None) };
        let broken =
            |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
        text.trim().parse().map(Some).map_err(broken)
    }

    /// The manifests that refer to a subject, in the order in which they were pushed: some clients
    /// take the last for the one that counts.
    pub(crate) fn referrers(&self, name: &ImageName, subject: &Digest) -> io::Result<Vec<Link>> {
        let directory = self.paths.referrers(name, subject);
        let mut referrers = Vec::new();
        for entry in entries(&directory)? {
            let Ok(digest) = entry.replacen('-', ":", 1).parse() else { continue };
            let modified =
                found(fs::metadata(directory.join(&entry)).and_then(|metadata| metadata.modified()))?;
            let Some(modified) = modified.filter(|_| self.paths.manifest_link(name, &digest).exists()) else {
                continue;
            };
            referrers.push(Link { digest, touched: modified.into() });
        }
        referrers.sort_by_cached_key(|link| (link.touched, link.digest.to_string()));
        Ok(referrers)
    }

    /// How a manifest refers to its subject, and how many bytes it takes to say it.
    pub(crate) fn referrer(
        &self,
        name: &ImageName,
        subject: &Digest,
        digest: &Digest,
    ) -> io::Result<Option<(Referrer, usize)>> {
        let Some(entry) = found(fs::read(self.paths.referrer(name, subject, digest)))? else {
            return Ok(None);
        };
        Ok(Some((serde_json::from_slice(&entry)?, entry.len())))
    }
}

/// The tag a manifest is to get, and whether it may be one that named another.
#[derive(Clone, Copy)]
struct Tagging<'a> {
    tag: &'a Version,
    may_move: bool,
}

/// A manifest's names before they are given to it.
struct StagedNames {
    link: Option<Staged>,
    tag: Option<Staged>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagIs {
    Same,
    Other,
}
