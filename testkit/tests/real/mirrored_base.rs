//! An image to build on that only the server's own mirror reaches, with all that lies between: the
//! configuration, the embedded registry, somebody else's registry behind it, and the engine.

use mergeyard_testkit::process::{self, tool};

use super::{RealYard, borrowed, built_from, external_registry::DebianRegistry, remove_images, states};

/// A name that no machine has.
const UPSTREAM: &str = "upstream.invalid";

/// An image in the foreign registry, and nowhere else.
async fn publish(registry: &DebianRegistry, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /base\n").unwrap();
    let mut build = tool("docker");
    process::run(build.args(["build", "--quiet", "--tag", name]).arg(folder.path())).await.good();
    let mut copy = tool("skopeo");
    copy.args(["--insecure-policy", "copy", "--dest-creds", &registry.login(), "--dest-cert-dir"]);
    copy.arg(registry.trusted()).arg(format!("docker-daemon:{name}:latest"));
    process::run(copy.arg(format!("docker://{}/base/{name}:1", registry.host()))).await.good();
    remove_images(name);
}

#[tokio::test]
async fn images_are_built_on_one_that_only_the_mirror_reaches_also_when_upstream_is_gone() {
    let mut registry = DebianRegistry::new().await;
    let name = format!("mirrored-{}", uuid::Uuid::new_v4().simple());
    publish(&registry, &name).await;
    let base = format!("{UPSTREAM}/base/{name}:1");
    let dockerfile = format!("FROM {base}\nCOPY content /content\n");
    let mut yard = RealYard::with(built_from("backend", "0.1.0", &dockerfile, "mirrored"), |config| {
        let text = format!(
            r#"
            name = "{UPSTREAM}"
            revalidate_seconds = 0
            upstream = "https://{}"
            username = "mergeyard"
            password = {{ file = "{}" }}
            ca = "{}"
            "#,
            registry.host(),
            registry.path("password").display(),
            registry.path("ca.pem").display(),
        );
        let mirror = toml::Value::Table(text.parse().unwrap());
        let ours = config["registry"].as_table_mut().unwrap();
        ours.insert("mirror".to_owned(), vec![mirror].into());
    })
    .await;
    yard.announce("m-1", &yard.first).await;
    let first = yard.finished(1).await;
    let forget = |port: u16| {
        remove_images(&base);
        remove_images(&format!("127.0.0.1:{port}/{base}"));
    };
    forget(yard.registry);
    assert_eq!(states(&first), ["backend: success"], "{first:#}");

    registry.stop().await;
    let raised = built_from("backend", "0.2.0", &dockerfile, "mirrored again");
    let second = yard.sample.merge_change("Raise the backend", &borrowed(&raised)).unwrap();
    yard.announce("m-2", &second).await;
    let run = yard.finished(2).await;
    forget(yard.registry);
    assert_eq!(states(&run), ["backend: success"], "{run:#}");
    assert!(yard.server().said().contains("mirror: served without asking upstream"));
    yard.stop().await;
}
