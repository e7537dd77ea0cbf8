//! Which endpoint of the distribution specification a path means.
//!
//! A repository's name has any number of parts, so no router's pattern fits `/v2/<a/b/c>/blobs/…`:
//! one catch-all and this pure function decide, reading the path from its right end. Nothing is
//! percent-decoded, because nothing the specification allows needs encoding; a `%` is therefore
//! always somebody's trick or mistake.

use http::Method;
use mergeyard_types::{Digest, DigestError, ImageName, NameError, Version};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: does this server speak the specification, and does it know me?
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/_mergeyard/upkeep/<task>`, an extension as the specification lets registries have
    Upkeep(Task),
    /// `/v2/<name>/tags/list`
    Tags { name: ImageName },
    /// `/v2/<name>/manifests/<reference>`
    Manifest { name: ImageName, reference: Reference },
    /// `/v2/<name>/blobs/<digest>`
    Blob { name: ImageName, digest: Digest },
    /// `/v2/<name>/referrers/<digest>`
    Referrers { name: ImageName, subject: Digest },
    /// `/v2/<name>/blobs/uploads/`
    Uploads { name: ImageName },
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload { name: ImageName, id: Uuid },
}

/// What an operator may have done while the registry serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Collect,
    Verify,
}

/// How a manifest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    Tag(Version),
    Digest(Digest),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the path holds a character or an empty part that no repository name has")]
    Characters,
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A tag that cannot exist: asked for, it is merely not there; pushed, it is refused.
    #[error("{source}")]
    Tag { source: NameError, asked: bool },
    #[error("an upload's id is the one the registry gave in `Location`")]
    UploadId,
    #[error("this registry has no such endpoint")]
    Unknown,
}

impl Route {
    pub fn parse(method: &Method, path: &str) -> Result<Self, RouteError> {
        let Some(rest) = path.strip_prefix("/v2") else { return Err(RouteError::Unknown) };
        let rest = match rest.strip_prefix('/') {
            Some("") => return Ok(Route::Base),
            None if rest.is_empty() => return Ok(Route::Base),
            None => return Err(RouteError::Unknown),
            Some(rest) => rest,
        };
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            ["_catalog"] => Ok(Route::Catalog),
            ["_mergeyard", "upkeep", "collect"] => Ok(Route::Upkeep(Task::Collect)),
            ["_mergeyard", "upkeep", "verify"] => Ok(Route::Upkeep(Task::Verify)),
            [name @ .., "tags", "list"] => Ok(Route::Tags { name: join(name)? }),
            [name @ .., "manifests", reference] => {
                Ok(Route::Manifest { name: join(name)?, reference: Reference::parse(method, reference)? })
            }
            [name @ .., "referrers", subject] => {
                Ok(Route::Referrers { name: join(name)?, subject: subject.parse()? })
            }
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                Ok(Route::Uploads { name: join(name)? })
            }
            [name @ .., "blobs", "uploads", id] => {
                let name = join(name)?;
                Ok(Route::Upload { name, id: Uuid::try_parse(id).map_err(|_| RouteError::UploadId)? })
            }
            [name @ .., "blobs", digest] => Ok(Route::Blob { name: join(name)?, digest: digest.parse()? }),
            parts if parts.iter().all(|part| is_plain(part)) => Err(RouteError::Unknown),
            _ => Err(RouteError::Characters),
        }
    }

    /// The repository it is about.
    pub fn name(&self) -> Option<&ImageName> {
        match self {
            Route::Base | Route::Catalog | Route::Upkeep(_) => None,
            Route::Tags { name }
            | Route::Manifest { name, .. }
            | Route::Blob { name, .. }
            | Route::Referrers { name, .. }
            | Route::Uploads { name }
            | Route::Upload { name, .. } => Some(name),
        }
    }

    pub(crate) fn name_mut(&mut self) -> Option<&mut ImageName> {
        match self {
            Route::Base | Route::Catalog | Route::Upkeep(_) => None,
            Route::Tags { name }
            | Route::Manifest { name, .. }
            | Route::Blob { name, .. }
            | Route::Referrers { name, .. }
            | Route::Uploads { name }
            | Route::Upload { name, .. } => Some(name),
        }
    }
}

impl Reference {
    fn parse(method: &Method, text: &str) -> Result<Self, RouteError> {
        if text.contains(':') {
            return Ok(Reference::Digest(text.parse()?));
        }
        let asked = matches!(*method, Method::GET | Method::HEAD);
        if text.contains('%') {
            return Err(RouteError::Characters);
        }
        text.parse().map(Reference::Tag).map_err(|source| RouteError::Tag { source, asked })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reference::Tag(tag) => write!(f, ":{tag}"),
            Reference::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

fn join(parts: &[&str]) -> Result<ImageName, NameError> {
    parts.join("/").parse()
}

fn is_plain(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:+-".contains(&b);
    !part.is_empty() && !part.starts_with("..") && part.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> Digest {
        Digest::Sha256([0xab; 32])
    }

    #[test]
    fn each_endpoint_is_found_however_deep_or_oddly_named_the_repository_is() {
        for text in
            ["clock", "acme/clock", "a/b/c/d/e/f", "blobs/uploads", "tags/list", "manifests", "a/blobs"]
        {
            let name: ImageName = text.parse().unwrap();
            let id = Uuid::from_u128(7);
            let tag = Reference::Tag("0.4.0".parse().unwrap());
            for (path, route) in [
                (format!("/v2/{text}/tags/list"), Route::Tags { name: name.clone() }),
                (
                    format!("/v2/{text}/manifests/0.4.0"),
                    Route::Manifest { name: name.clone(), reference: tag },
                ),
                (
                    format!("/v2/{text}/manifests/{}", digest()),
                    Route::Manifest { name: name.clone(), reference: Reference::Digest(digest()) },
                ),
                (
                    format!("/v2/{text}/blobs/{}", digest()),
                    Route::Blob { name: name.clone(), digest: digest() },
                ),
                (format!("/v2/{text}/blobs/uploads/"), Route::Uploads { name: name.clone() }),
                (format!("/v2/{text}/blobs/uploads"), Route::Uploads { name: name.clone() }),
                (format!("/v2/{text}/blobs/uploads/{id}"), Route::Upload { name: name.clone(), id }),
            ] {
                assert_eq!(Route::parse(&Method::GET, &path), Ok(route), "{path}");
            }
        }
        for path in ["/v2", "/v2/"] {
            assert_eq!(Route::parse(&Method::GET, path), Ok(Route::Base));
        }
        assert_eq!(Route::parse(&Method::GET, "/v2/_catalog"), Ok(Route::Catalog));
    }

    #[test]
    fn what_is_no_name_is_refused_and_what_is_no_endpoint_is_not_found() {
        let long = format!("/v2/{}/tags/list", "a".repeat(300));
        let name = |path: &str| {
            let parsed = Route::parse(&Method::GET, path);
            assert!(
                matches!(parsed, Err(RouteError::Name(_) | RouteError::Characters)),
                "{path:?}: {parsed:?}"
            );
        };
        for path in [
            "/v2/../../etc/passwd",
            "/v2/..",
            "/v2/../tags/list",
            "/v2/a/../b/tags/list",
            "/v2/%2e%2e/%2e%2e/etc/passwd",
            "/v2/%2e%2e%2fx/tags/list",
            "/v2/a%00/tags/list",
            "/v2/a\0/tags/list",
            "/v2/a/manifests/%2e%2e",
            "/v2/Clock/tags/list",
            "/v2/_catalog/tags/list",
            "/v2//tags/list",
            "/v2/tags/list",
            "/v2/a//b/tags/list",
            "/v2/é/tags/list",
            &long,
        ] {
            name(path);
        }
        for path in ["/v2/a", "/v2/a/b/c", "/v1/", "/v20/", "/", "", "/v2/a/tags"] {
            assert_eq!(Route::parse(&Method::GET, path), Err(RouteError::Unknown), "{path}");
        }
        assert!(matches!(
            Route::parse(&Method::GET, "/v2/a/blobs/sha256:../../etc/passwd"),
            Err(RouteError::Characters | RouteError::Name(_) | RouteError::Digest(_))
        ));
        for path in ["/v2/a/blobs/md5:00", "/v2/a/referrers/x"] {
            assert!(matches!(Route::parse(&Method::GET, path), Err(RouteError::Digest(_))), "{path}");
        }
        assert_eq!(Route::parse(&Method::PUT, "/v2/a/blobs/uploads/7"), Err(RouteError::UploadId));
        let tag = |method| Route::parse(&method, "/v2/a/manifests/.hidden");
        assert!(matches!(tag(Method::GET), Err(RouteError::Tag { asked: true, .. })));
        assert!(matches!(tag(Method::PUT), Err(RouteError::Tag { asked: false, .. })));
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic_and_no_route_leads_outside(path in "(/v2)?(/(\\PC{0,6}|\\.\\.|%2e%2e|blobs|uploads|manifests|tags|list|[a-z]{1,3})){0,7}") {
            if let Ok(route) = Route::parse(&Method::GET, &path)
                && let Some(name) = route.name()
            {
                prop_assert!(name.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with(['.', '_'])));
                prop_assert!(!path.contains('%'));
            }
        }
    }
}
