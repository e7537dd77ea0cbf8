//! The command line, used wrongly: it says what to do, and makes nothing by looking.

use std::path::PathBuf;

use mergeyard_testkit::process::{Said, mergeyard, run};
use tempfile::TempDir;

/// A folder with a configuration whose data directory no server ever made.
struct Mistyped(TempDir);

impl Mistyped {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = "data_dir = 'dta'\n[github]\nwebhook_secret = '0123456789abcdef'\n\
                      [[target]]\nname = 'here'\nkind = 'local'\n[engine]\nhost = 'unix:///nowhere.sock'\n";
        std::fs::write(folder.path().join("mergeyard.toml"), config).unwrap();
        Self(folder)
    }

    fn data_dir(&self) -> PathBuf {
        self.0.path().join("dta")
    }

    async fn asked(&self, arguments: &str) -> Said {
        run(mergeyard().args(arguments.split(' ')).current_dir(self.0.path())).await
    }
}

#[tokio::test]
async fn a_mistyped_data_directory_is_named_and_not_made() {
    let place = Mistyped::new();
    for arguments in [
        "deliveries list",
        "deployments",
        "token list",
        "target list",
        "cancel 1",
        "approve 1",
        "rerun 1",
        "rollback here",
        "secret list",
        "secret rm a",
        "secret set a",
        "registry robot list",
        "registry robot revoke a",
    ] {
        let said = place.asked(arguments).await.failed(1);
        let named = format!("there is no data directory {}; has a server run", place.data_dir().display());
        assert!(said.contains(&named), "{arguments}: {said}");
        assert!(!place.data_dir().exists(), "`{arguments}` made it");
    }
    std::fs::write(place.data_dir(), "").unwrap();
    let said = place.asked("secret list").await.failed(1);
    assert!(said.contains("/dta is no directory; set another `data_dir`"), "{said}");
}

#[tokio::test]
async fn a_wrong_word_is_answered_with_the_right_ones() {
    let place = Mistyped::new();
    for (arguments, expected) in [
        ("approve abc", "write the number of a run, such as 12"),
        ("rerun x", "write the number of a run, such as 12"),
        ("cancel 0", "write the number of a run, such as 12"),
        ("deployments --limit abc", "write how many rows to list, from 1 to 1000"),
        (
            "secret set ev --event pussh",
            "there is no such event; the nearest is `push`, and there are: push,",
        ),
        ("token list --config none.toml", "cannot read none.toml: name the configuration with --config"),
    ] {
        let said = place.asked(arguments).await.failed(2);
        assert!(said.contains(expected), "{arguments}: {said}");
    }
    let said = place.asked("target check here").await;
    assert!(said.stdout.contains("no engine answers at unix:///nowhere.sock"), "{said}");
}
