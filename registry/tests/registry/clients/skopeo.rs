use std::{fs, path::Path, process::Output};

use mergeyard_registry::{Authority, Config};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Desk, at_home, certificates, credentials, done, ended, layout, refused};
use crate::{
    images::{self, IMAGE},
    yard::sha512,
};

/// Copies an image for whoever has a home.
pub(crate) async fn copy(home: &Path, options: &[&str], from: &str, to: &str) -> Output {
    ended(skopeo(home, "copy", &[options, &[from, to]].concat())).await
}

fn skopeo(home: &Path, subcommand: &str, arguments: &[&str]) -> Command {
    let policy = home.join("policy.json");
    fs::write(&policy, json!({"default": [{"type": "insecureAcceptAnything"}]}).to_string()).unwrap();
    let mut skopeo = at_home(home, "skopeo");
    skopeo.arg("--policy").arg(&policy).arg(subcommand).args(arguments);
    skopeo
}

impl Desk {
    fn skopeo(&self, subcommand: &str, arguments: &[&str]) -> Command {
        skopeo(&self.home, subcommand, arguments)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_an_image_and_an_index_of_platforms_in_and_out_again_unchanged() {
    let desk = Desk::new(Config::default());
    let (certificates, credentials) = (desk.certificates(), credentials());
    let to = ["--all", "--dest-cert-dir", &certificates, "--dest-creds", &credentials];
    let from = ["--all", "--src-cert-dir", &certificates, "--src-creds", &credentials];
    for (repository, platforms) in [("acme/clock", &[][..]), ("acme/clocks", &["amd64", "arm64", "s390x"])] {
        let (source, back) = (desk.home.join(repository), desk.home.join(format!("{repository}-back")));
        let digest = match platforms {
            [] => layout::write_image(&source),
            platforms => layout::write_platforms(&source, platforms),
        };
        let image = format!("docker://{}", desk.image(&format!("{repository}:0.1.0")));
        let pushed = format!("oci:{}:0.1.0", source.display());
        done(desk.skopeo("copy", &[&to[..], &[&pushed, &image]].concat())).await;
        assert_eq!(desk.stored(repository, "0.1.0").await, Some(digest));
        let pulled = format!("oci:{}:0.1.0", back.display());
        done(desk.skopeo("copy", &[&from[..], &[&image, &pulled]].concat())).await;
        assert!(layout::blobs(&source) == layout::blobs(&back));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_what_sha512_names_lists_tags_and_deletes() {
    let desk = Desk::new(Config::default());
    let yard = &desk.served.yard;
    let json = images::blobs(yard, "acme/clock", "1").await;
    let long = sha512(json.as_bytes());
    assert_eq!(yard.put_manifest("acme/clock", &long.to_string(), IMAGE, &json).await.status, 201);
    for version in ["1", "2"] {
        assert_eq!(yard.put_manifest("acme/clock", version, IMAGE, &json).await.status, 201);
    }
    let (certificates, credentials) = (desk.certificates(), credentials());
    let access = ["--cert-dir", &certificates, "--creds", &credentials];
    let repository = format!("docker://{}", desk.image("acme/clock"));

    let raw =
        done(desk.skopeo("inspect", &[&access[..], &["--raw", &format!("{repository}@{long}")]].concat()));
    assert_eq!(raw.await, json);
    let listed = done(desk.skopeo("list-tags", &[&access[..], &[&repository]].concat())).await;
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap()["Tags"], json!(["1", "2"]));

    // It deletes the manifest that the tag points at, and so all its tags.
    done(desk.skopeo("delete", &[&access[..], &[&format!("{repository}:1")]].concat())).await;
    assert_eq!((desk.stored("acme/clock", "1").await, desk.stored("acme/clock", "2").await), (None, None));
    assert_eq!(yard.get(&format!("/v2/acme/clock/manifests/{long}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_refuses_another_authority_and_is_told_what_an_immutable_tag_is() {
    let desk = Desk::new(Config::default());
    let source = desk.home.join("layout");
    layout::write_image(&source);
    images::push(&desk.served.yard, "acme/clock", "0.1.0").await;
    let (source, image) =
        (format!("oci:{}:0.1.0", source.display()), format!("docker://{}", desk.image("acme/clock:0.1.0")));
    let copy = |folder: &str| {
        desk.skopeo("copy", &["--dest-cert-dir", folder, "--dest-creds", &credentials(), &source, &image])
    };
    let elsewhere = Authority::open(&desk.home.join("elsewhere"), &["127.0.0.1".to_owned()]).unwrap();
    let error = refused(copy(&certificates(&desk.home, "wrong", &elsewhere.ca_path()))).await;
    assert!(error.contains("x509: certificate signed by unknown authority"), "{error}");
    let error = refused(copy(&desk.certificates())).await;
    assert!(error.contains("raise the version in spec.json"), "{error}");
}
