//! Pushing blobs: in one request, in one stream, or in chunks.

use std::{ops::RangeInclusive, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, StatusCode, header};
use mergeyard_types::{Digest, ImageName};
use serde::Deserialize;
use uuid::Uuid;

use super::{CONTENT_DIGEST, Call};
use crate::{
    Registry,
    access::Right,
    blocking,
    error::{Error, insert, received},
    event::{Act, Content},
    store::upload::{Algorithm, Upload, Writer},
};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

#[derive(Deserialize)]
struct Start {
    /// The whole blob is in this request's body.
    digest: Option<String>,
    /// This blob is perhaps stored already, …
    mount: Option<String>,
    /// … in this repository.
    from: Option<String>,
    #[serde(rename = "digest-algorithm")]
    algorithm: Option<String>,
}

#[derive(Deserialize)]
struct Finish {
    digest: Option<String>,
}

impl Call<'_> {
    pub(super) async fn start_upload(&self, name: ImageName, body: Body) -> Result<Response, Error> {
        let start: Start = self.query()?;
        if let Some(mount) = &start.mount
            && let Some(response) = self.mount(&name, mount.parse()?, start.from.as_deref()).await?
        {
            return Ok(response);
        }
        let digest: Option<Digest> = start.digest.as_deref().map(str::parse).transpose()?;
        let algorithm = match (&digest, start.algorithm.as_deref()) {
            (Some(digest), _) => Algorithm::of(digest),
            (None, Some("sha512")) => Algorithm::Sha512,
            (None, _) => Algorithm::Sha256,
        };
        let upload = self.open(name, algorithm).await?;
        let Some(digest) = digest else { return Ok(accepted(&upload, StatusCode::ACCEPTED)) };
        let _unannounced = Unannounced { registry: self.registry.clone(), id: upload.id };
        self.push_whole(upload, digest, body).await
    }

    /// Uses a blob that is stored already, when this account could have pulled it from there.
    async fn mount(
        &self,
        name: &ImageName,
        digest: Digest,
        from: Option<&str>,
    ) -> Result<Option<Response>, Error> {
        let from = from.and_then(|from| from.parse::<ImageName>().ok());
        let source = from.filter(|from| self.identity.may(Right::Pull, from));
        let (registry, target) = (self.registry.clone(), name.clone());
        let mounted = blocking(move || {
            let store = &registry.store;
            if store.promise_blob(&target, &digest)?.is_some() {
                return Ok(true);
            }
            match source {
                Some(source) if store.promise_blob(&source, &digest)?.is_some() => {
                    store.mount_blob(&target, &digest, registry.config.rules(&target).quota)
                }
                _ => Ok(false),
            }
        });
        if !mounted.await? {
            return Ok(None);
        }
        self.tell(Act::Pushed, name.clone(), Content::Blob(digest));
        Ok(Some(created(name, &digest)))
    }

    async fn open(&self, name: ImageName, algorithm: Algorithm) -> Result<Arc<Upload>, Error> {
        let registry = self.registry.clone();
        let limits = self.registry.config.clone();
        blocking(move || registry.uploads.start(&registry.store, name, algorithm, &limits.limits)).await
    }

    async fn push_whole(&self, upload: Arc<Upload>, digest: Digest, body: Body) -> Result<Response, Error> {
        let writer = upload.write(&self.registry.store, None).await?;
        let writer = self.receive(writer, body).await?;
        self.commit(writer, upload.name.clone(), digest).await?;
        Ok(created(&upload.name, &digest))
    }

    pub(super) fn upload_status(&self, name: ImageName, id: Uuid) -> Result<Response, Error> {
        let upload = self.registry.uploads.find(&name, id)?;
        Ok(accepted(&upload, StatusCode::NO_CONTENT))
    }

    pub(super) async fn append_chunk(
        &self,
        name: ImageName,
        id: Uuid,
        body: Body,
    ) -> Result<Response, Error> {
        let upload = self.registry.uploads.find(&name, id)?;
        let writer = upload.write(&self.registry.store, None).await?;
        drop(self.receive(writer, body).await?);
        Ok(accepted(&upload, StatusCode::ACCEPTED))
    }

    pub(super) async fn finish_upload(
        &self,
        name: ImageName,
        id: Uuid,
        body: Body,
    ) -> Result<Response, Error> {
        let finish: Finish = self.query()?;
        let digest: Digest = finish.digest.ok_or(Error::DigestMissing)?.parse()?;
        let upload = self.registry.uploads.find(&name, id)?;
        let writer = upload.write(&self.registry.store, Some(Algorithm::of(&digest))).await?;
        let writer = self.receive(writer, body).await?;
        self.commit(writer, name.clone(), digest).await?;
        Ok(created(&name, &digest))
    }

    pub(super) async fn cancel_upload(&self, name: ImageName, id: Uuid) -> Result<Response, Error> {
        let upload = self.registry.uploads.find(&name, id)?;
        // Waits for its turn, so that no writer is left with a file that is gone.
        let writer = upload.write(&self.registry.store, None).await?;
        self.discard(id).await?;
        drop(writer);
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    async fn discard(&self, id: Uuid) -> Result<(), Error> {
        let registry = self.registry.clone();
        blocking(move || Ok(registry.uploads.remove(&registry.store, id)?)).await
    }

    /// Appends the body, which must continue the upload where it stands and be as long as announced.
    async fn receive(&self, writer: Writer, body: Body) -> Result<Writer, Error> {
        let offset = writer.offset();
        let announced = self.header(header::CONTENT_RANGE).map(content_range).transpose()?;
        if let Some(range) = &announced
            && *range.start() != offset
        {
            let location = writer.location();
            return Err(Error::OutOfOrder { start: *range.start(), offset, location });
        }
        let writer = self.receive_within(writer, body).await?;
        let end = announced.map(|range| range.end().saturating_add(1));
        if end.is_some_and(|end| end != writer.offset()) {
            blocking(move || Ok(writer.truncate(offset)?)).await?;
            return Err(Error::SizeInvalid);
        }
        Ok(writer)
    }

    /// Ends an upload early that would not be taken in the end.
    async fn receive_within(&self, writer: Writer, body: Body) -> Result<Writer, Error> {
        let (name, most) = (writer.name().clone(), self.registry.config.limits.blob_bytes);
        let Some(quota) = self.registry.config.rules(&name).quota else {
            return writer.receive(body, most).await;
        };
        let (registry, repository) = (self.registry.clone(), name.clone());
        let left = blocking(move || {
            registry.store.quotas.left(&repository, quota, || registry.store.measure(&repository))
        });
        let left = left.await?;
        match writer.receive(body, left.min(most)).await {
            Err(Error::BlobSize(limit)) if limit < most => {
                Err(Error::Quota { name, quota, used: quota - left })
            }
            received => received,
        }
    }

    async fn commit(&self, writer: Writer, name: ImageName, digest: Digest) -> Result<(), Error> {
        let registry = self.registry.clone();
        let target = name.clone();
        let commit = move || {
            let quota = registry.config.rules(&target).quota;
            writer.commit(&registry.store, &registry.uploads, &digest, quota)
        };
        blocking(commit).await?;
        self.tell(Act::Pushed, name, Content::Blob(digest));
        Ok(())
    }
}

/// An upload whose address its client is never told: when the one request that fills it ends or
/// breaks off, nobody can continue it.
struct Unannounced {
    registry: Registry,
    id: Uuid,
}

impl Drop for Unannounced {
    fn drop(&mut self) {
        let (registry, id) = (self.registry.clone(), self.id);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = registry.uploads.remove(&registry.store, id) {
                tracing::warn!("cannot remove upload {id}, it will expire: {error}");
            }
        });
    }
}

/// `<first>-<last>`, as the specification writes it; older clients write `bytes <first>-<last>/<size>`.
fn content_range(text: &str) -> Result<RangeInclusive<u64>, Error> {
    let refused = || Error::ContentRange(text.chars().take(80).collect());
    let range = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let range = range.split('/').next().unwrap_or(range);
    let (first, last) = range.split_once('-').ok_or_else(refused)?;
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| refused());
    let range = number(first)?..=number(last)?;
    if range.is_empty() { Err(refused()) } else { Ok(range) }
}

fn accepted(upload: &Upload, status: StatusCode) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    insert(headers, header::LOCATION, upload.location());
    insert(headers, header::RANGE, received(upload.offset()));
    insert(headers, UPLOAD_ID, upload.id.to_string());
    response
}

fn created(name: &ImageName, digest: &Digest) -> Response {
    let mut response = StatusCode::CREATED.into_response();
    insert(response.headers_mut(), header::LOCATION, format!("/v2/{name}/blobs/{digest}"));
    insert(response.headers_mut(), CONTENT_DIGEST, digest.to_string());
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_content_range_is_read_as_the_specification_and_as_old_clients_write_it() {
        for text in ["3-7", "bytes 3-7/*", "bytes=3-7", "bytes 3-7/100"] {
            assert_eq!(content_range(text).unwrap(), 3..=7, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_content_range_is_a_range_or_refused(
            text in "(bytes[ =]?)?[0-9]{0,21}-?[0-9]{0,21}(/[0-9*]{0,3})?|\\PC{0,40}",
        ) {
            match content_range(&text) {
                Ok(range) => prop_assert!(range.start() <= range.end()),
                Err(error) => prop_assert!(matches!(error, Error::ContentRange(_))),
            }
        }
    }
}
