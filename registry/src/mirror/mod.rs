//! Copies of upstream registries, made as they are asked for, so that builds survive an outage or a
//! rate limit of what they stand on.
//!
//! Below a mirror's prefix nothing is pushed: a manifest is fetched when it is asked for and kept,
//! a tag is believed for a while and then compared with upstream, a blob is downloaded once however
//! many clients wait for it. Whatever is kept has the digest it is kept under and lies where pushed
//! content lies, so that pulling, rights and deletion need not know of mirrors. One thing differs: a
//! manifest of a mirror may refer to blobs and manifests that nobody has asked for yet.

mod arriving;
mod beliefs;
mod blobs;
mod download;
mod fault;
mod manifests;
mod tokens;
mod upstream;

use std::sync::Arc;

use http::{Method, Uri};
use mergeyard_types::ImageName;
use serde::Deserialize;

use crate::{
    OpenError,
    config::{Config, Limits, Mirror},
    error::Error,
    route::Route,
    store::{Store, upload::Uploads},
};

pub(crate) use blobs::Found;
pub use fault::UpstreamError;
pub(crate) use manifests::Freshness;

use beliefs::Beliefs;
use blobs::Downloads;
use upstream::Upstream;

/// All mirrors of a registry.
pub(crate) struct Mirrors(Vec<PullThrough>);

/// One upstream and the copies of it.
pub(crate) struct PullThrough {
    mirror: Mirror,
    upstream: Arc<Upstream>,
    store: Arc<Store>,
    uploads: Arc<Uploads>,
    limits: Arc<Limits>,
    beliefs: Beliefs,
    downloads: Downloads,
}

/// What containerd adds to names without a registry when it asks a mirror.
#[derive(Deserialize)]
struct Namespace {
    ns: Option<String>,
}

impl Mirrors {
    pub(crate) fn new(
        config: &Config,
        store: &Arc<Store>,
        uploads: &Arc<Uploads>,
    ) -> Result<Self, OpenError> {
        let limits = Arc::new(config.limits.clone());
        let pull_through = |mirror: &Mirror| {
            let upstream = Upstream::new(mirror, &limits)
                .map_err(|why| OpenError::Mirror { prefix: mirror.prefix.clone(), why })?;
            Ok(PullThrough {
                mirror: mirror.clone(),
                upstream: Arc::new(upstream),
                store: store.clone(),
                uploads: uploads.clone(),
                limits: limits.clone(),
                beliefs: Beliefs::default(),
                downloads: Downloads::default(),
            })
        };
        Ok(Self(config.mirrors.iter().map(pull_through).collect::<Result<_, _>>()?))
    }

    /// The mirror a repository belongs to, and what upstream calls the repository.
    pub(crate) fn of(&self, name: &ImageName) -> Option<(&PullThrough, ImageName)> {
        self.0.iter().find_map(|copy| Some((copy, copy.mirror.upstream_name(name)?)))
    }

    /// Refuses to push below a mirror's prefix.
    pub(crate) fn allow(&self, method: &Method, route: &Route) -> Result<(), Error> {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::DELETE);
        match route.name().filter(|_| !reads).and_then(|name| Some((name, self.of(name)?))) {
            Some((name, (copy, _))) => {
                Err(Error::Mirrored { name: name.clone(), upstream: copy.upstream.host().to_owned() })
            }
            None => Ok(()),
        }
    }

    /// `/v2/library/debian/…?ns=docker.io` is how containerd asks a mirror for `docker.io/library/debian`.
    pub(crate) fn resolve(&self, mut route: Route, uri: &Uri) -> Route {
        if self.0.is_empty() {
            return route;
        }
        let query = axum::extract::Query::<Namespace>::try_from_uri(uri);
        let Some(namespace) = query.ok().and_then(|query| query.0.ns) else { return route };
        let named = |copy: &&PullThrough| copy.mirror.prefix.as_str() == namespace;
        if let (Some(copy), Some(name)) = (self.0.iter().find(named), route.name_mut())
            && copy.mirror.upstream_name(name).is_none()
            && let Ok(prefixed) = format!("{namespace}/{name}").parse()
        {
            *name = prefixed;
        }
        route
    }
}
