//! Which manifests refer to another: its signatures, attestations, bills of materials.

use std::fmt;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, header};
use mergeyard_types::{Digest, ImageName, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::Call;
use crate::{
    error::{Error, insert},
    manifest::Referrer,
    store::{Link, Store},
};

const INDEX: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

#[derive(Deserialize)]
struct Asked {
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    /// Where the page before this one ended; only ever set by our own `Link`.
    last: Option<String>,
}

/// Some referrers, and after which of them there are more.
struct Found {
    referrers: Vec<Referrer>,
    more_after: Option<Place>,
}

/// A place in the order of referrers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    pushed: Timestamp,
    digest: String,
}

impl Place {
    fn of(link: &Link) -> Self {
        Self { pushed: link.touched, digest: link.digest.to_string() }
    }

    /// As it stands in a `Link`. What is none begins the list.
    fn parse(text: &str) -> Option<Self> {
        let (pushed, digest) = text.split_once('-')?;
        Some(Self { pushed: Timestamp(pushed.parse().ok()?), digest: digest.to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pushed.0, self.digest)
    }
}

impl Call<'_> {
    /// A subject nobody refers to, and one that is not here yet, have none: both are an empty list.
    pub(super) async fn referrers(&self, name: ImageName, subject: Digest) -> Result<Response, Error> {
        let asked: Asked = self.query()?;
        let Found { referrers, more_after } = self.find(&name, subject, &asked).await?;
        let index = json!({"schemaVersion": 2, "mediaType": INDEX.to_str().ok(), "manifests": referrers});
        let mut response = Body::from(index.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, INDEX);
        let mut filter = String::new();
        if let Some(artifact_type) = &asked.artifact_type {
            headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
            let encoded: String = url::form_urlencoded::byte_serialize(artifact_type.as_bytes()).collect();
            filter = format!("&artifactType={encoded}");
        }
        if let Some(last) = more_after {
            let next = format!("</v2/{name}/referrers/{subject}?last={last}{filter}>; rel=\"next\"");
            insert(headers, header::LINK, next);
        }
        Ok(response)
    }

    /// As many as a page may have entries, and as fit into what a client accepts as a manifest.
    async fn find(&self, name: &ImageName, subject: Digest, asked: &Asked) -> Result<Found, Error> {
        let limits = self.registry.config.limits.clone();
        let last = asked.last.as_deref().and_then(Place::parse);
        let (name, wanted) = (name.clone(), asked.artifact_type.clone());
        let find = move |store: &Store| {
            let mut room = limits.manifest_bytes;
            let mut found = Found { referrers: Vec::new(), more_after: None };
            let mut before = None;
            for link in store.referrers(&name, &subject)? {
                let place = Place::of(&link);
                if last.as_ref().is_some_and(|last| place <= *last) {
                    continue;
                }
                let referrer = store.referrer(&name, &subject, &link.digest)?;
                let Some((referrer, size)) = referrer else { continue };
                if wanted.is_some() && referrer.artifact_type != wanted {
                    continue;
                }
                if !found.referrers.is_empty()
                    && (size > room || found.referrers.len() >= limits.page_entries)
                {
                    found.more_after = before;
                    break;
                }
                room = room.saturating_sub(size);
                found.referrers.push(referrer);
                before = Some(place);
            }
            Ok(found)
        };
        self.registry.read(find).await
    }
}
