//! A stock client pushes and pulls.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Output,
};

use flate2::{Compression, write::GzEncoder};
use mergeyard_registry::{Authority, Config};
use mergeyard_types::Digest;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    images::{self, IMAGE},
    tls::Served,
    yard::{SECRET, files, name, sha256, tag},
};

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_an_image_in_and_out_again_unchanged() {
    let served = Served::start(Config::default());
    let work = served.yard.directory.path();
    let (layout, back) = (work.join("layout"), work.join("back"));
    let digest = write_layout(&layout);
    let certificates = certificates(work, "right", &served.ca());
    let image = format!("docker://{}/acme/clock:0.1.0", served.address);
    let credentials = format!("robot:{SECRET}");

    let to = ["--dest-cert-dir", &certificates, "--dest-creds", &credentials];
    let pushed = skopeo(work, &to, &format!("oci:{}:0.1.0", layout.display()), &image).await;
    assert!(pushed.status.success(), "{pushed:?}");
    let stored = served.yard.registry.manifest(&name("acme/clock"), &tag("0.1.0")).await.unwrap().unwrap();
    assert_eq!(stored.digest, digest);

    let from = ["--src-cert-dir", &certificates, "--src-creds", &credentials];
    let pulled = skopeo(work, &from, &image, &format!("oci:{}:0.1.0", back.display())).await;
    assert!(pulled.status.success(), "{pulled:?}");
    assert_eq!(blobs(&layout), blobs(&back));
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_refuses_another_authority_and_is_told_what_an_immutable_tag_is() {
    let served = Served::start(Config::default());
    let work = served.yard.directory.path();
    let layout = work.join("layout");
    write_layout(&layout);
    images::push(&served.yard, "acme/clock", "0.1.0").await;
    let (source, image) =
        (format!("oci:{}:0.1.0", layout.display()), format!("docker://{}/acme/clock:0.1.0", served.address));
    let credentials = format!("robot:{SECRET}");

    let elsewhere = Authority::open(&work.join("elsewhere"), &["127.0.0.1".to_owned()]).unwrap();
    let wrong = certificates(work, "wrong", &elsewhere.ca_path());
    let refused =
        skopeo(work, &["--dest-cert-dir", &wrong, "--dest-creds", &credentials], &source, &image).await;
    assert!(!refused.status.success());
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("x509: certificate signed by unknown authority"), "{error}");

    let right = certificates(work, "right", &served.ca());
    let denied =
        skopeo(work, &["--dest-cert-dir", &right, "--dest-creds", &credentials], &source, &image).await;
    assert!(!denied.status.success());
    let error = String::from_utf8_lossy(&denied.stderr);
    assert!(error.contains("raise the version in spec.json"), "{error}");
}

pub(crate) async fn skopeo(work: &Path, options: &[&str], from: &str, to: &str) -> Output {
    let policy = work.join("policy.json");
    fs::write(&policy, json!({"default": [{"type": "insecureAcceptAnything"}]}).to_string()).unwrap();
    let mut skopeo = Command::new("skopeo");
    skopeo.arg("--policy").arg(&policy).arg("copy").args(options).args([from, to]).env("HOME", work);
    skopeo.output().await.expect("skopeo is missing: scripts/setup.sh installs it")
}

/// A folder as skopeo wants it: the authority under a name that ends with `.crt`.
pub(crate) fn certificates(work: &Path, folder: &str, ca: &Path) -> String {
    let folder = work.join(folder);
    fs::create_dir(&folder).unwrap();
    fs::copy(ca, folder.join("ca.crt")).unwrap();
    folder.display().to_string()
}

/// An OCI image layout with one image of one gzipped layer.
pub(crate) fn write_layout(layout: &Path) -> Digest {
    write_layout_of(layout, 5)
}

/// … whose layer is made of this byte.
pub(crate) fn write_layout_of(layout: &Path, byte: u8) -> Digest {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let (content, mut header) = (vec![byte; 3 << 20], tar::Header::new_gnu());
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "clock", content.as_slice()).unwrap();
    let layer = tar.into_inner().unwrap().finish().unwrap();
    let diff = sha256(&gunzip(&layer));
    let mut config: Value = serde_json::from_str(&images::config("0.1.0")).unwrap();
    config["rootfs"]["diff_ids"] = json!([diff]);
    let config = config.to_string();
    let manifest = images::manifest(IMAGE, config.as_bytes(), &[&layer]);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for bytes in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        fs::File::create(blobs.join(sha256(bytes).hex())).unwrap().write_all(bytes).unwrap();
    }
    let digest = sha256(manifest.as_bytes());
    let annotations = json!({"org.opencontainers.image.ref.name": "0.1.0"});
    let entry =
        json!({"mediaType": IMAGE, "digest": digest, "size": manifest.len(), "annotations": annotations});
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string())
        .unwrap();
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string()).unwrap();
    digest
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut plain).unwrap();
    plain
}

pub(crate) fn blobs(layout: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let root = layout.join("blobs");
    files(&root).unwrap().into_iter().map(|path| (path.clone(), fs::read(root.join(path)).unwrap())).collect()
}
