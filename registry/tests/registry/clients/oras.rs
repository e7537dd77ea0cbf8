use std::fs;

use mergeyard_registry::Config;
use serde_json::Value;
use tokio::process::Command;

use super::{Desk, done, told};
use crate::{images, yard::SECRET};

const INVENTORY: &str = "application/vnd.example.inventory+json";
const REPORT: &str = "application/vnd.example.report";

impl Desk {
    fn oras(&self, arguments: &[&str]) -> Command {
        let mut oras = self.newer("oras");
        oras.args(arguments);
        oras
    }

    async fn oras_login(&self) {
        let address = self.served.address.to_string();
        let login = self.oras(&["login", "--username", "robot", "--password-stdin", &address]);
        assert!(told(login, SECRET).await.contains("Login Succeeded"));
    }

    /// Digests and types of what oras finds about an image.
    async fn discovered(&self, arguments: &[&str]) -> Vec<(String, String)> {
        let found = done(self.oras(&[&["discover", "--format", "json"], arguments].concat())).await;
        let found: Value = serde_json::from_str(&found).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let entry = |entry: &Value| (text(&entry["digest"]), text(&entry["artifactType"]));
        found["manifests"].as_array().unwrap().iter().map(entry).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_attaches_to_an_image_discovers_and_copies_it_with_all_that_refers_to_it() {
    let desk = Desk::new(Config::default());
    desk.oras_login().await;
    images::push(&desk.served.yard, "acme/clock", "0.1.0").await;
    let image = desk.image("acme/clock:0.1.0");
    assert_eq!(desk.discovered(&[&image]).await, []);
    for (artifact_type, file) in [(INVENTORY, "inventory.json"), (REPORT, "report.txt")] {
        fs::write(desk.home.join(file), artifact_type).unwrap();
        done(desk.oras(&["attach", "--artifact-type", artifact_type, &image, file])).await;
    }
    let all = desk.discovered(&[&image]).await;
    assert_eq!(all.len(), 2);
    let inventories = desk.discovered(&["--artifact-type", INVENTORY, &image]).await;
    let [(inventory, _)] = inventories.as_slice() else { panic!("{inventories:?}") };
    assert!(all.contains(&inventories[0]), "{all:?}");
    // It used the registry's own list: no tag was made in its place.
    assert_eq!(done(desk.oras(&["repo", "tags", &desk.image("acme/clock")])).await, "0.1.0\n");

    let reference = desk.image(&format!("acme/clock@{inventory}"));
    done(desk.oras(&["pull", "--output", "pulled", &reference])).await;
    assert_eq!(fs::read_to_string(desk.home.join("pulled/inventory.json")).unwrap(), INVENTORY);

    let copy = desk.image("acme/copy:0.1.0");
    done(desk.oras(&["copy", "--recursive", &image, &copy])).await;
    let mut copied = desk.discovered(&[&copy]).await;
    copied.sort();
    let mut expected = all;
    expected.sort();
    assert_eq!(copied, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_pushes_and_pulls_an_artifact_that_is_no_image_and_deletes_it() {
    let desk = Desk::new(Config::default());
    desk.oras_login().await;
    let artifact = desk.image("acme/papers:1");
    fs::write(desk.home.join("report.txt"), "all is well").unwrap();
    done(desk.oras(&["push", "--artifact-type", REPORT, &artifact, "report.txt:text/plain"])).await;
    let manifest: Value =
        serde_json::from_str(&done(desk.oras(&["manifest", "fetch", &artifact])).await).unwrap();
    assert_eq!(
        (&manifest["artifactType"], &manifest["layers"][0]["mediaType"]),
        (&REPORT.into(), &"text/plain".into())
    );
    done(desk.oras(&["pull", "--output", "pulled", &artifact])).await;
    assert_eq!(fs::read_to_string(desk.home.join("pulled/report.txt")).unwrap(), "all is well");
    done(desk.oras(&["manifest", "delete", "--force", &artifact])).await;
    assert_eq!(desk.stored("acme/papers", "1").await, None);
}
