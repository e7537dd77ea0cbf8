//! What an engine does with a registry, as fast as this program can do it: the same requests in the
//! same order, over connections that are kept.

use bytes::Bytes;
use futures_util::stream;
use mergeyard_types::Digest;
use reqwest::{Body, Response, StatusCode, header};
use sha2::{Digest as _, Sha256};

use crate::Failed;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// How much of a layer engines hand to the connection at once.
const PIECE: usize = 32 << 10;

/// How many pieces of what is pulled may wait until they are hashed.
const PIECES: usize = 16;

pub(super) struct Client {
    pub(super) http: reqwest::Client,
    pub(super) base: String,
    pub(super) password: String,
}

/// Content with its name; what many have in common lies in memory once.
#[derive(Clone)]
pub(super) struct Blob {
    head: Bytes,
    tail: Bytes,
    pub(super) digest: Digest,
}

impl Blob {
    pub(super) fn new(head: Bytes, tail: Bytes) -> Self {
        let hash = Sha256::new_with_prefix(&head).chain_update(&tail).finalize();
        Self { head, tail, digest: Digest::Sha256(hash.into()) }
    }

    pub(super) fn size(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    fn body(&self) -> Body {
        let head = std::iter::once(self.head.clone());
        let tail = self.tail.clone();
        let tail = (0..tail.len()).step_by(PIECE).map(move |at| tail.slice(at..tail.len().min(at + PIECE)));
        Body::wrap_stream(stream::iter(head.chain(tail).map(Ok::<_, std::io::Error>)))
    }
}

impl Client {
    /// Whether the repository has this blob, which is the first question about each.
    pub(super) async fn has(&self, name: &str, blob: &Blob) -> Result<bool, Failed> {
        let answer = self.ask(reqwest::Method::HEAD, &format!("{name}/blobs/{}", blob.digest)).send().await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(format!("asked for a blob, the registry answered {status}").into()),
        }
    }

    /// Asked for, started, streamed, ended: four requests, as engines make them.
    pub(super) async fn push(&self, name: &str, blob: &Blob) -> Result<(), Failed> {
        if self.has(name, blob).await? {
            return Ok(());
        }
        let started = self.ask(reqwest::Method::POST, &format!("{name}/blobs/uploads/")).send().await?;
        let address = next(expect(started, StatusCode::ACCEPTED).await?)?;
        let patch = self.http.patch(address).basic_auth("mergeyard", Some(&self.password));
        let patch = patch.header(header::CONTENT_TYPE, "application/octet-stream").body(blob.body());
        let mut address = next(expect(patch.send().await?, StatusCode::ACCEPTED).await?)?;
        address.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let put = self.http.put(address).basic_auth("mergeyard", Some(&self.password));
        expect(put.header(header::CONTENT_LENGTH, 0).send().await?, StatusCode::CREATED).await?;
        Ok(())
    }

    pub(super) async fn mount(&self, name: &str, from: &str, blob: &Blob) -> Result<(), Failed> {
        let path = format!("{name}/blobs/uploads/?mount={}&from={from}", blob.digest);
        let mounted = self.ask(reqwest::Method::POST, &path).header(header::CONTENT_LENGTH, 0).send().await?;
        expect(mounted, StatusCode::CREATED).await?;
        Ok(())
    }

    /// Reads a blob to its end and believes none of it.
    pub(super) async fn pull(&self, name: &str, blob: &Blob) -> Result<(), Failed> {
        let path = format!("{name}/blobs/{}", blob.digest);
        let mut answer = expect(self.ask(reqwest::Method::GET, &path).send().await?, StatusCode::OK).await?;
        // On a thread of its own, or this program would be what is measured.
        let (pieces, mut arrived) = tokio::sync::mpsc::channel::<Bytes>(PIECES);
        let hashed = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            while let Some(piece) = arrived.blocking_recv() {
                hash.update(&piece);
            }
            Digest::Sha256(hash.finalize().into())
        });
        while let Some(piece) = answer.chunk().await? {
            pieces.send(piece).await?;
        }
        drop(pieces);
        is(hashed.await?, blob.digest, &path)
    }

    /// Whether the repository has this manifest, which an engine asks last.
    pub(super) async fn has_manifest(&self, name: &str, tag: &str) -> Result<(), Failed> {
        let head = self.ask(reqwest::Method::HEAD, &format!("{name}/manifests/{tag}"));
        expect(head.header(header::ACCEPT, MANIFEST).send().await?, StatusCode::OK).await?;
        Ok(())
    }

    pub(super) async fn push_manifest(&self, name: &str, tag: &str, manifest: &Blob) -> Result<(), Failed> {
        let put = self.ask(reqwest::Method::PUT, &format!("{name}/manifests/{tag}"));
        let put = put.header(header::CONTENT_TYPE, MANIFEST).body(manifest.head.clone());
        expect(put.send().await?, StatusCode::CREATED).await?;
        Ok(())
    }

    pub(super) async fn pull_manifest(&self, name: &str, tag: &str, manifest: &Blob) -> Result<(), Failed> {
        let path = format!("{name}/manifests/{tag}");
        let get = self.ask(reqwest::Method::GET, &path).header(header::ACCEPT, MANIFEST);
        let bytes = expect(get.send().await?, StatusCode::OK).await?.bytes().await?;
        is(Digest::Sha256(Sha256::digest(&bytes).into()), manifest.digest, &path)
    }

    fn ask(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/v2/{path}", self.base);
        self.http.request(method, url).basic_auth("mergeyard", Some(&self.password))
    }
}

fn is(read: Digest, pushed: Digest, path: &str) -> Result<(), Failed> {
    match read == pushed {
        true => Ok(()),
        false => Err(format!("{path} is not what was pushed").into()),
    }
}

/// Where the upload goes on.
fn next(answer: Response) -> Result<reqwest::Url, Failed> {
    let location = answer.headers().get(header::LOCATION).ok_or("the registry names no Location")?;
    Ok(answer.url().join(location.to_str()?)?)
}

async fn expect(answer: Response, wanted: StatusCode) -> Result<Response, Failed> {
    match answer.status() {
        status if status == wanted => Ok(answer),
        status => {
            let path = answer.url().path().to_owned();
            Err(format!("{path}: {status} instead of {wanted}: {}", answer.text().await?).into())
        }
    }
}
