//! Manifests and tags of an upstream registry, as fresh as was asked for.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use mergeyard_types::{Digest, ImageName, Version};
use reqwest::Response;
use tokio::time::Instant;

use super::{
    PullThrough, UpstreamError,
    beliefs::{Belief, Turn},
    upstream::Answer,
};
use crate::{
    blocking,
    error::Error,
    manifest::{Document, Manifest},
    route::Reference,
    store::upload::Algorithm,
};

/// While upstream is out, a tag is not asked for at each pull: a build with ten base images would
/// wait for ten time-outs.
const OUTAGE_PAUSE: Duration = Duration::from_secs(30);

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// All kinds that can be stored; without them old registries answer with schema version 1.
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);

/// How a copy compares with upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// Upstream cannot say whether it still has the same.
    Stale,
}

impl PullThrough {
    /// Makes sure that the copy of a manifest is here and as fresh as it must be. `upstream_name`
    /// is what upstream calls repository `name`.
    pub(crate) async fn refresh(
        &self,
        name: &ImageName,
        upstream_name: &ImageName,
        reference: &Reference,
    ) -> Result<Freshness, Error> {
        let copied = Copied { copy: self, name, upstream_name, reference };
        // What has its digest for a name is never out of date.
        if matches!(reference, Reference::Digest(_)) && copied.stored().await?.is_some() {
            return Ok(Freshness::Fresh);
        }
        let mut turn = self.beliefs.turn(name, reference).await;
        let stored = copied.stored().await?;
        match (reference, stored) {
            (Reference::Digest(_), Some(_)) => Ok(Freshness::Fresh),
            (Reference::Digest(_), None) => copied.fetch().await.map(|()| Freshness::Fresh),
            (Reference::Tag(tag), stored) => copied.revalidate(&mut turn, tag, stored).await,
        }
    }
}

/// One manifest of a mirror, under the name it was asked for.
struct Copied<'a> {
    copy: &'a PullThrough,
    name: &'a ImageName,
    upstream_name: &'a ImageName,
    reference: &'a Reference,
}

impl Copied<'_> {
    async fn revalidate(
        &self,
        turn: &mut Turn<'_>,
        tag: &Version,
        stored: Option<Digest>,
    ) -> Result<Freshness, Error> {
        if let Some(freshness) = turn.believed().filter(|_| stored.is_some()) {
            return Ok(freshness);
        }
        turn.believe(None);
        let (freshness, time) = match (self.compare(stored).await, stored) {
            (Ok(()), _) => (Freshness::Fresh, self.copy.mirror.revalidate),
            (Err(Error::Upstream(outage)), Some(digest)) if outage.is_outage() => {
                let (mirror, tag) = (self.copy.mirror.prefix.as_str(), format!("{}:{tag}", self.name));
                tracing::warn!(mirror, tag, %digest, "mirror: served without asking upstream: {outage}");
                (Freshness::Stale, self.copy.mirror.revalidate.min(OUTAGE_PAUSE))
            }
            (Err(gone @ Error::ManifestUnknown { .. }), Some(_)) => {
                // Otherwise the next outage would bring it back.
                self.forget(tag).await?;
                return Err(gone);
            }
            (Err(error), _) => return Err(error),
        };
        turn.believe(Some(Belief { freshness, until: Instant::now() + time }));
        Ok(freshness)
    }

    /// Asks upstream for the digest alone, and for the manifest when it is another.
    async fn compare(&self, stored: Option<Digest>) -> Result<(), Error> {
        if let Some(digest) = stored
            && self.upstream_digest().await? == Some(digest)
        {
            return Ok(());
        }
        self.fetch().await
    }

    /// `None`: upstream does not say it without sending the manifest.
    async fn upstream_digest(&self) -> Result<Option<Digest>, Error> {
        match self.ask(Method::HEAD).await {
            Ok(response) => Ok(claimed_digest(&response)),
            Err(Error::Upstream(UpstreamError::Status {
                status: StatusCode::METHOD_NOT_ALLOWED, ..
            })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self) -> Result<(), Error> {
        let (upstream, what) = (&self.copy.upstream, self.to_string());
        let response = self.ask(Method::GET).await?;
        let claimed = claimed_digest(&response);
        let media_type = response.headers().get(header::CONTENT_TYPE).cloned();
        let bytes = upstream.body(response, self.copy.limits.manifest_bytes, &what).await?;
        let (manifest, document) =
            self.checked(media_type, claimed, bytes).map_err(|why| upstream.broken(&what, &why))?;
        let (store, name, tag) = (self.copy.store.clone(), self.name.clone(), self.tag());
        blocking(move || store.put_mirrored_manifest(&name, tag.as_ref(), &manifest, &document)).await
    }

    fn checked(
        &self,
        media_type: Option<HeaderValue>,
        claimed: Option<Digest>,
        bytes: Bytes,
    ) -> Result<(Manifest, Document), String> {
        let header = media_type.as_ref().and_then(|value| value.to_str().ok());
        let (document, media_type) = Document::parse(header, &bytes)?;
        let wanted = match self.reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => claimed,
        };
        let digest = wanted.map_or(Algorithm::Sha256, |digest| Algorithm::of(&digest)).digest(&bytes);
        match wanted {
            Some(wanted) if wanted != digest => Err(format!("its digest is {digest}, not {wanted}")),
            _ => Ok((Manifest { digest, media_type: media_type.to_owned(), bytes }, document)),
        }
    }

    async fn ask(&self, method: Method) -> Result<Response, Error> {
        let path = match self.reference {
            Reference::Tag(tag) => format!("manifests/{tag}"),
            Reference::Digest(digest) => format!("manifests/{digest}"),
        };
        let headers = HeaderMap::from_iter([(header::ACCEPT, ACCEPT)]);
        let answer =
            self.copy.upstream.ask(method, self.upstream_name, &path, headers, Answer::Small).await?;
        answer.ok_or_else(|| Error::ManifestUnknown {
            name: self.name.clone(),
            reference: self.reference.clone(),
        })
    }

    async fn stored(&self) -> Result<Option<Digest>, Error> {
        let (store, name, reference) = (self.copy.store.clone(), self.name.clone(), self.reference.clone());
        let stored = blocking(move || Ok(store.manifest(&name, &reference)?)).await?;
        Ok(stored.map(|manifest| manifest.digest))
    }

    async fn forget(&self, tag: &Version) -> Result<(), Error> {
        let (store, name, tag) = (self.copy.store.clone(), self.name.clone(), tag.clone());
        blocking(move || Ok(store.delete_tag(&name, &tag).map(drop)?)).await
    }

    fn tag(&self) -> Option<Version> {
        match self.reference {
            Reference::Tag(tag) => Some(tag.clone()),
            Reference::Digest(_) => None,
        }
    }
}

impl std::fmt::Display for Copied<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.upstream_name, self.reference)
    }
}

fn claimed_digest(response: &Response) -> Option<Digest> {
    response.headers().get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}
