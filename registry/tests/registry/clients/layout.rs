//! OCI image layouts on the disk, as the source and the target of copies.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use mergeyard_types::Digest;
use serde_json::{Value, json};

use crate::{
    images::{self, IMAGE, INDEX},
    yard::{files, sha256},
};

/// A layout with one image of one gzipped layer.
pub(crate) fn write_image(layout: &Path) -> Digest {
    write_image_for(layout, "amd64")
}

/// … which for another architecture is another image.
pub(crate) fn write_image_for(layout: &Path, architecture: &str) -> Digest {
    let manifest = image(layout, architecture);
    write_index(layout, IMAGE, &manifest)
}

/// A layout with an index of an image for each platform.
pub(super) fn write_platforms(layout: &Path, architectures: &[&str]) -> Digest {
    let descriptor = |architecture: &&str| {
        let manifest = image(layout, architecture);
        let platform = json!({"os": "linux", "architecture": architecture});
        json!({"mediaType": IMAGE, "digest": sha256(manifest.as_bytes()), "size": manifest.len(), "platform": platform})
    };
    let manifests: Vec<Value> = architectures.iter().map(descriptor).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
    write_blob(layout, index.as_bytes());
    write_index(layout, INDEX, &index)
}

/// Every blob of a layout with its name.
pub(crate) fn blobs(layout: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let root = layout.join("blobs");
    files(&root).unwrap().into_iter().map(|path| (path.clone(), fs::read(root.join(path)).unwrap())).collect()
}

fn image(layout: &Path, architecture: &str) -> String {
    let layer = layer(architecture);
    let mut plain = Vec::new();
    GzDecoder::new(layer.as_slice()).read_to_end(&mut plain).unwrap();
    let mut config: Value = serde_json::from_str(&images::config("0.1.0")).unwrap();
    config["architecture"] = json!(architecture);
    config["rootfs"]["diff_ids"] = json!([sha256(&plain)]);
    let config = config.to_string();
    let manifest = images::manifest(IMAGE, config.as_bytes(), &[&layer]);
    for bytes in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        write_blob(layout, bytes);
    }
    manifest
}

fn layer(content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let (content, mut header) = (content.repeat(1 << 19), tar::Header::new_gnu());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "clock", content.as_bytes()).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

fn write_blob(layout: &Path, bytes: &[u8]) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(sha256(bytes).hex()), bytes).unwrap();
}

fn write_index(layout: &Path, media_type: &str, manifest: &str) -> Digest {
    let digest = sha256(manifest.as_bytes());
    let annotations = json!({"org.opencontainers.image.ref.name": "0.1.0"});
    let entry = json!({"mediaType": media_type, "digest": digest, "size": manifest.len(), "annotations": annotations});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string()).unwrap();
    digest
}
