//! Reading and pushing manifests.

use std::error::Error as _;

use axum::{
    body::{Body, to_bytes},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::LengthLimitError;
use mergeyard_types::{ImageName, Version};

use super::{CONTENT_DIGEST, Call, identify};
use crate::{
    blocking,
    error::{Error, insert},
    event::{Act, Content},
    manifest::{Document, Manifest},
    mirror::Freshness,
    route::Reference,
    store::{Store, upload::Algorithm},
};

/// Tells the client that the registry lists what it pushed as a referrer.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// A copy that upstream could not be asked about (RFC 7234, section 5.5.1).
const STALE: HeaderValue = HeaderValue::from_static("110 - \"upstream cannot be asked, this is the copy\"");

impl Call<'_> {
    /// `Accept` decides nothing: a repository has one manifest under a reference, and a client
    /// that cannot read its type says so better than a "not found" would.
    pub(super) async fn get_manifest(
        &self,
        name: ImageName,
        reference: Reference,
    ) -> Result<Response, Error> {
        let freshness = match self.registry.mirrors.of(&name) {
            Some((copy, upstream_name)) => copy.refresh(&name, &upstream_name, &reference).await?,
            None => Freshness::Fresh,
        };
        let (wanted, by) = (name.clone(), reference.clone());
        let manifest = self.registry.read(move |store| store.manifest(&wanted, &by)).await?;
        let tag = reference_tag(&reference);
        let manifest = manifest.ok_or_else(|| Error::ManifestUnknown { name: name.clone(), reference })?;
        let digest = manifest.digest;
        let mut response = match self.has(&digest) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => self.show(manifest),
        };
        identify(&mut response, &digest);
        if freshness == Freshness::Stale {
            response.headers_mut().insert(header::WARNING, STALE);
        }
        if self.parts.method == Method::GET {
            self.tell(Act::Pulled, name, Content::Manifest { tag, digest });
        }
        Ok(response)
    }

    fn show(&self, manifest: Manifest) -> Response {
        let length = manifest.bytes.len();
        let body = if self.parts.method == Method::HEAD { Bytes::new() } else { manifest.bytes };
        let mut response = Response::new(Body::from(body));
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        insert(response.headers_mut(), header::CONTENT_TYPE, manifest.media_type);
        response
    }

    pub(super) async fn put_manifest(
        &self,
        name: ImageName,
        reference: Reference,
        body: Body,
    ) -> Result<Response, Error> {
        let bytes = self.small_body(body).await?;
        let content_type = self.header(header::CONTENT_TYPE);
        let (document, media_type) = Document::parse(content_type, &bytes).map_err(Error::ManifestInvalid)?;
        let algorithm = match &reference {
            Reference::Digest(digest) => Algorithm::of(digest),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = algorithm.digest(&bytes);
        if let Reference::Digest(expected) = reference
            && expected != digest
        {
            return Err(Error::DigestMismatch { expected: expected.into(), actual: digest.into() });
        }
        let tag = reference_tag(&reference);
        let manifest = Manifest { digest, media_type: media_type.to_owned(), bytes };
        let subject = document.subject();
        self.store(name.clone(), tag.clone(), manifest, document).await?;
        let mut response = StatusCode::CREATED.into_response();
        if let Some(subject) = subject {
            insert(response.headers_mut(), SUBJECT, subject.to_string());
        }
        insert(response.headers_mut(), header::LOCATION, format!("/v2/{name}/manifests/{digest}"));
        insert(response.headers_mut(), CONTENT_DIGEST, digest.to_string());
        self.tell(Act::Pushed, name, Content::Manifest { tag, digest });
        Ok(response)
    }

    async fn small_body(&self, body: Body) -> Result<Bytes, Error> {
        let limit = self.registry.config.limits.manifest_bytes;
        to_bytes(body, limit).await.map_err(|error| match error.source() {
            Some(source) if source.is::<LengthLimitError>() => Error::ManifestSize(limit),
            _ => Error::Cut(error),
        })
    }

    async fn store(
        &self,
        name: ImageName,
        tag: Option<Version>,
        manifest: Manifest,
        document: Document,
    ) -> Result<(), Error> {
        let registry = self.registry.clone();
        let store = move || {
            let rules = registry.config.rules(&name);
            registry.store.put_manifest(&name, tag.as_ref(), &manifest, &document, rules)
        };
        blocking(store).await
    }

    /// A tag alone, or a manifest with the tags that point at it.
    pub(super) async fn delete_manifest(
        &self,
        name: ImageName,
        reference: Reference,
    ) -> Result<Response, Error> {
        let (target, wanted) = (name.clone(), reference.clone());
        let deleted = move |store: &Store| match &wanted {
            Reference::Tag(tag) => store.delete_tag(&target, tag),
            Reference::Digest(digest) => Ok(store.delete_manifest(&target, digest)?.then_some(*digest)),
        };
        let deleted = self.registry.read(deleted).await?;
        let tag = reference_tag(&reference);
        let digest = deleted.ok_or_else(|| Error::ManifestUnknown { name: name.clone(), reference })?;
        self.tell(Act::Deleted, name, Content::Manifest { tag, digest });
        Ok(StatusCode::ACCEPTED.into_response())
    }
}

fn reference_tag(reference: &Reference) -> Option<Version> {
    match reference {
        Reference::Tag(tag) => Some(tag.clone()),
        Reference::Digest(_) => None,
    }
}
