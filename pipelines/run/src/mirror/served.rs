//! The mirror as its clients see it, which is the only proof that an update arrived.

use std::{collections::HashMap, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use mergeyard_types::Digest;
use reqwest::{Response, StatusCode, header};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::{
    conversation::{Package, Ready},
    metadata::{self, Listed},
};
use crate::{fault::root_cause, target::Mirror};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A web server may look at the link once a second only.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

const MOST_REPOMD: usize = 1 << 20;
const MOST_PRIMARY: usize = 256 << 20;

/// Packages asked for at once.
const AT_ONCE: usize = 8;

/// What a mirror serves.
pub struct Served {
    http: reqwest::Client,
    url: Url,
}

impl Served {
    /// A message says what is wrong with the target's `ca`.
    pub fn by(mirror: &Mirror) -> Result<Self, String> {
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::limited(3))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .no_proxy();
        if let Some(pem) = &mirror.ca_pem {
            let wrong = |why: String| format!("the mirror's `ca` holds no usable certificate: {why}");
            let certs = reqwest::Certificate::from_pem_bundle(pem).map_err(|e| wrong(root_cause(&e)))?;
            if certs.is_empty() {
                return Err(wrong("there is no `BEGIN CERTIFICATE` in it".to_owned()));
            }
            http = http.tls_certs_only(certs);
        }
        let mut url = mirror.url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", mirror.url.path()));
        }
        Ok(Self { http: http.build().map_err(|e| root_cause(&e))?, url })
    }

    /// Which snapshot is served: the digest of its `repomd.xml`. `None`: there is none yet.
    pub async fn digest(&self) -> Result<Option<Digest>, String> {
        Ok(self.repomd().await?.map(|bytes| digest(&bytes)))
    }

    /// Reads back that exactly this snapshot is served, complete. Says what was seen, or what was not.
    pub(super) async fn prove(&self, wanted: &Digest, ready: &Ready) -> Result<String, String> {
        let repomd = self.repomd_of(wanted).await?;
        let part = metadata::primary(&repomd)
            .map_err(|why| format!("{} is broken: {why}", self.shown("repodata/repomd.xml")))?;
        let primary = self.get(&part.href, MOST_PRIMARY).await?;
        let primary = primary.ok_or_else(|| format!("{} is not there", self.shown(&part.href)))?;
        if digest(&primary) != part.digest {
            return Err(format!("{} is not what repomd.xml names", self.shown(&part.href)));
        }
        let listed = tokio::task::spawn_blocking(move || metadata::packages(&primary)).await;
        let listed = listed.map_err(|e| e.to_string())?;
        let listed = listed.map_err(|why| format!("{} is broken: {why}", self.shown(&part.href)))?;
        is_complete(ready, &listed)?;
        let new: Vec<_> = ready.packages.iter().filter(|package| package.new).collect();
        let asked: Vec<_> = new.iter().map(|package| self.is_there(package)).collect();
        futures_util::stream::iter(asked).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(format!(
            "{} serves {wanted}, which lists {}; {} of them are new, and there",
            self.url,
            super::packages(ready.packages.len()),
            new.len()
        ))
    }

    async fn repomd_of(&self, wanted: &Digest) -> Result<Bytes, String> {
        let mut tries = 0;
        loop {
            let read = self.repomd().await;
            tries += 1;
            let why = match read {
                Ok(Some(bytes)) if digest(&bytes) == *wanted => return Ok(bytes),
                Ok(Some(bytes)) => format!("{} serves {}, not {wanted}", self.url, digest(&bytes)),
                Ok(None) => format!("{} is not there", self.shown("repodata/repomd.xml")),
                Err(why) => why,
            };
            if tries == TRIES {
                return Err(why);
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }

    async fn repomd(&self) -> Result<Option<Bytes>, String> {
        self.get("repodata/repomd.xml", MOST_REPOMD).await
    }

    async fn is_there(&self, package: &Package) -> Result<(), String> {
        let at = self.at(&package.file)?;
        let answer = self.http.head(at.clone()).send().await.map_err(|e| self.unreachable(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{at} is answered {}", answer.status()));
        }
        let size = answer.headers().get(header::CONTENT_LENGTH);
        match size.and_then(|size| size.to_str().ok()?.parse::<u64>().ok()) {
            Some(size) if size == package.size => Ok(()),
            Some(size) => Err(format!("{at} has {size} bytes, where {} should be", package.size)),
            None => Err(format!("{at} is served without its size (Content-Length)")),
        }
    }

    /// A file of the mirror, `None` when there is none.
    async fn get(&self, file: &str, most: usize) -> Result<Option<Bytes>, String> {
        let at = self.at(file)?;
        let ask = self.http.get(at.clone()).header(header::CACHE_CONTROL, "no-cache");
        let answer = ask.send().await.map_err(|e| self.unreachable(&e))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(format!("{at} is answered {status}")),
        }
        let body = body(answer, most).await.map_err(|why| format!("{at}: {why}"))?;
        Ok(Some(body))
    }

    fn at(&self, file: &str) -> Result<Url, String> {
        let at = self.url.join(file).map_err(|e| format!("`{file}` is no place on {}: {e}", self.url))?;
        match at.as_str().starts_with(self.url.as_str()) {
            true => Ok(at),
            false => Err(format!("`{file}` leads away from {}", self.url)),
        }
    }

    fn shown(&self, file: &str) -> String {
        format!("{}{file}", self.url)
    }

    fn unreachable(&self, error: &reqwest::Error) -> String {
        format!("{} does not answer: {}", self.url, root_cause(error))
    }
}

/// Every package that belongs to the snapshot is listed as it is, and so every entry of the list is met.
fn is_complete(ready: &Ready, listed: &HashMap<String, Listed>) -> Result<(), String> {
    for Package { name, file, size, new: _ } in &ready.packages {
        match listed.get(name) {
            Some(Listed { href, size: found }) if href == file && found == size => {}
            Some(Listed { href, size: found }) => {
                return Err(format!("{name} is listed as {href} of {found} bytes, not as {file} of {size}"));
            }
            None => return Err(format!("{name} is not listed")),
        }
    }
    for (entry, packages) in &ready.entries {
        if packages.is_empty() || packages.iter().any(|name| !listed.contains_key(name)) {
            return Err(format!("the entry `{entry}` is not met"));
        }
    }
    Ok(())
}

async fn body(mut answer: Response, most: usize) -> Result<Bytes, String> {
    let mut all = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| root_cause(&e))? {
        if all.len() + chunk.len() > most {
            return Err(format!("it is larger than {most} bytes"));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256::digest(bytes).into())
}
