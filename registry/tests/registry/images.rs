//! Small images as the clients make them.

use mergeyard_types::Digest;
use serde_json::json;

use crate::yard::{Yard, sha256};

pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The config of an image; `label` makes it another image.
pub(crate) fn config(label: &str) -> String {
    let labels = json!({"org.opencontainers.image.version": label});
    json!({"os": "linux", "architecture": "amd64", "config": {"Labels": labels}, "rootfs": {"type": "layers"}})
        .to_string()
}

pub(crate) fn manifest(media_type: &str, config: &[u8], layers: &[&[u8]]) -> String {
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": sha256(bytes), "size": bytes.len()});
    let layers: Vec<_> =
        layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect();
    let config = descriptor("application/vnd.oci.image.config.v1+json", config);
    json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}).to_string()
}

pub(crate) fn index(media_type: &str, children: &[(&str, &str)]) -> String {
    let child = |(os, json): &(&str, &str)| {
        let platform = json!({"os": os, "architecture": "amd64"});
        json!({"mediaType": IMAGE, "digest": sha256(json.as_bytes()), "size": json.len(), "platform": platform})
    };
    let children: Vec<_> = children.iter().map(child).collect();
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children}).to_string()
}

/// Pushes the blobs of an image and returns its manifest, which is not pushed.
pub(crate) async fn blobs(yard: &Yard, name: &str, label: &str) -> String {
    let (config, layer) = (config(label), b"the one layer".as_slice());
    yard.push_blob(name, config.as_bytes()).await;
    yard.push_blob(name, layer).await;
    manifest(IMAGE, config.as_bytes(), &[layer])
}

/// Pushes a whole image under a tag.
pub(crate) async fn push(yard: &Yard, name: &str, tag: &str) -> Digest {
    let json = blobs(yard, name, tag).await;
    let answer = yard.put_manifest(name, tag, IMAGE, &json).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    sha256(json.as_bytes())
}
