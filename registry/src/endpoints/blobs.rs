//! Reading blobs, whole or in part.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderValue, Method, StatusCode, header};
use mergeyard_types::{Digest, ImageName};

use super::{Call, etag, identify};
use crate::{
    blocking,
    error::{Error, insert},
    event::{Act, Content},
    mirror::Found,
};

/// One read: large enough that handing it to a thread costs nothing against the disk and TLS.
const READ_BYTES: u64 = 256 << 10;

impl Call<'_> {
    pub(super) async fn get_blob(&self, name: ImageName, digest: Digest) -> Result<Response, Error> {
        let (source, size) = self.find_blob(&name, digest).await?;
        if self.has(&digest) {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            identify(&mut response, &digest);
            return Ok(response);
        }
        let part = self.range(&digest, size)?;
        let bytes = part.clone().unwrap_or(0..size);
        let length = bytes.end - bytes.start;
        let body = match source {
            Some(source) => {
                self.tell(Act::Pulled, name, Content::Blob(digest));
                match source {
                    Found::Here(blob) => Body::from_stream(read(blob.into_file(), bytes)),
                    Found::Arriving(blob) => Body::from_stream(blob.read(bytes)),
                }
            }
            None => Body::empty(),
        };
        let mut response = Response::new(body);
        identify(&mut response, &digest);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, length.into());
        if let Some(part) = part {
            insert(headers, header::CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }

    pub(super) async fn delete_blob(&self, name: ImageName, digest: Digest) -> Result<Response, Error> {
        let (registry, target) = (self.registry.clone(), name.clone());
        if !blocking(move || registry.store.delete_blob(&target, &digest)).await? {
            return Err(Error::BlobUnknown { name, digest });
        }
        self.tell(Act::Deleted, name, Content::Blob(digest));
        Ok(StatusCode::ACCEPTED.into_response())
    }

    /// A blob to read and its size; for HEAD the size alone, which opens nothing and starts no download.
    async fn find_blob(&self, name: &ImageName, digest: Digest) -> Result<(Option<Found>, u64), Error> {
        let (wanted, mirror) = (name.clone(), self.registry.mirrors.of(name));
        let unknown = || Error::BlobUnknown { name: name.clone(), digest };
        if self.parts.method == Method::HEAD {
            let stored = self.registry.read(move |store| store.promise_blob(&wanted, &digest)).await?;
            let size = match (stored, mirror) {
                (Some(size), _) => size,
                (None, Some((copy, there))) => copy.blob_size(name, &there, &digest).await?,
                (None, None) => return Err(unknown()),
            };
            return Ok((None, size));
        }
        let stored = self.registry.read(move |store| store.blob(&wanted, &digest)).await?;
        let (found, size) = match (stored, mirror) {
            (Some(blob), _) => {
                let size = blob.size;
                (Found::Here(blob), size)
            }
            (None, Some((copy, there))) => copy.blob(name, &there, &digest).await?,
            (None, None) => return Err(unknown()),
        };
        Ok((Some(found), size))
    }

    fn range(&self, digest: &Digest, size: u64) -> Result<Option<Range<u64>>, Error> {
        let same = |given: &str| given == etag(digest);
        match self.header(header::RANGE) {
            Some(text) if self.header(header::IF_RANGE).is_none_or(same) => parse_range(text, size),
            _ => Ok(None),
        }
    }
}

/// One range of `Range: bytes=…` (RFC 9110, section 14.1.2). Several, or another unit, may be
/// ignored, and are: the whole blob is then the answer.
fn parse_range(text: &str, size: u64) -> Result<Option<Range<u64>>, Error> {
    let outside = Error::Range { size };
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) => first..size.min(last.saturating_add(1)),
        (Some(first), None) if last.trim().is_empty() => first..size,
        (None, Some(count)) if first.trim().is_empty() => size.saturating_sub(count)..size,
        _ => return Ok(None),
    };
    if range.start >= range.end { Err(outside) } else { Ok(Some(range)) }
}

/// Reads on a thread that may block, one piece per demand of the connection, straight into the
/// memory that is sent.
fn read(file: File, bytes: Range<u64>) -> impl Stream<Item = Result<Bytes, Error>> {
    stream::try_unfold((file, bytes), |(mut file, rest)| async move {
        if rest.is_empty() {
            return Ok(None);
        }
        blocking(move || {
            let length = READ_BYTES.min(rest.end - rest.start);
            let mut piece = Vec::with_capacity(length as usize);
            file.seek(SeekFrom::Start(rest.start))?;
            file.by_ref().take(length).read_to_end(&mut piece)?;
            if piece.len() as u64 != length {
                return Err(Error::Storage(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(Some((Bytes::from(piece), (file, rest.start + length..rest.end))))
        })
        .await
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_cut_to_the_blob_or_refused() {
        for (text, expected) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=3-", Some(3..10)),
            ("bytes=3-5", Some(3..6)),
            ("bytes=3-18446744073709551615", Some(3..10)),
            ("bytes=-4", Some(6..10)),
            ("bytes=-400", Some(0..10)),
            ("bytes=0-1,3-4", None),
            ("items=0-1", None),
            ("bytes=x", None),
            ("bytes=-", None),
        ] {
            assert_eq!(parse_range(text, 10).unwrap(), expected, "{text}");
        }
        for text in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=5-3"] {
            assert!(matches!(parse_range(text, 10), Err(Error::Range { size: 10 })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_is_a_part_of_the_blob(
            text in "(bytes=)?[0-9]{0,20}-?[0-9]{0,20}|\\PC{0,40}",
            size: u64,
        ) {
            match parse_range(&text, size) {
                Ok(Some(range)) => prop_assert!(range.start < range.end && range.end <= size),
                Ok(None) => {}
                Err(error) => prop_assert_eq!(error.code(), "SIZE_INVALID"),
            }
        }
    }
}
