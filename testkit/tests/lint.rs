//! `mergeyard lint`, the real program on real files.

use std::{fs, path::Path};

use mergeyard_testkit::process::{Said, mergeyard, run, tool};
use serde_json::Value;
use tempfile::TempDir;

const PIPELINE: &str = "steps:\n  - name: build\n    image: debian:12\n    commands:\n      - make\n";

struct Tree(TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = tree.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        tree
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where hadolint is not to be found.
    async fn lint(&self, arguments: &[&str]) -> Said {
        self.lint_with("/nowhere", arguments).await
    }

    async fn lint_with(&self, path: &str, arguments: &[&str]) -> Said {
        run(mergeyard().arg("lint").args(arguments).env("PATH", path).current_dir(self.path())).await
    }

    async fn json(&self, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
        let said = self.lint(&[&["--format", "json"], arguments].concat()).await;
        (said.status.code(), serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said}")))
    }
}

fn codes(found: &[Value]) -> Vec<(&str, &str)> {
    found.iter().map(|f| (f["file"].as_str().unwrap(), f["code"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn actions_are_checked_against_the_tree_and_targets_are_nobodys_business_here() {
    const DEPLOY: &str = "steps:\n  - {name: image, uses: image, with: {folder: web}}\n  \
        - {name: live, uses: rollout, with: {target: clock-vm, image: web, port: 80, health: /}}\n  \
        - {name: packages, uses: yum-mirror}\n";
    let spec = r#"{"service":{"name":"web","version":"1.0.0"}}"#;
    let files = [
        (".mergeyard/deploy.yml", DEPLOY),
        ("web/spec.json", spec),
        ("web/Dockerfile", "FROM scratch\nUSER 1000\n"),
    ];
    let tree = Tree::new(&files);
    for arguments in [&["."][..], &[".mergeyard/deploy.yml"]] {
        let (code, found) = tree.json(arguments).await;
        assert_eq!((code, found.len()), (Some(0), 0), "{found:#?}");
    }
    let wrong = DEPLOY.replace("health: /", "health: /, publish: [a]").replace("folder: web", "folder: wed");
    let (code, found) =
        Tree::new(&[(".mergeyard/deploy.yml", &wrong), files[1], files[2]]).json(&["."]).await;
    let places: Vec<_> = found.iter().map(|found| (found["line"].as_u64(), found["code"].as_str())).collect();
    assert_eq!(code, Some(1));
    assert_eq!(places, [(Some(2), Some("uses-image")), (Some(3), Some("uses-with"))], "{found:#?}");
}

#[tokio::test]
async fn a_good_tree_has_no_findings_and_says_how_much_was_looked_at() {
    let tree = Tree::new(&[
        (".mergeyard/build.yml", PIPELINE),
        ("web/Dockerfile", "FROM debian:12\nUSER 1000\n"),
        ("web/spec.json", "\u{feff}{\"service\":{\"name\":\"web\",\r\n\"version\":\"1\"}}\r\n"),
        ("mirror/packages.txt", "httpd\nnginx-1.24*\n"),
        ("mirror/packages.json", "{\"packages\":[\"httpd\"]}"),
    ]);
    let said = tree.lint(&[]).await;
    assert_eq!(
        (said.status.code(), said.stdout.trim()),
        (Some(0), "5 files checked, nothing found"),
        "{said}"
    );
    assert!(said.stderr.contains("built-in rules, which are fewer: hadolint is not installed"), "{said}");
    assert_eq!(tree.json(&[]).await, (Some(0), vec![]));
}

#[tokio::test]
async fn findings_have_exactly_the_keys_of_the_contract_in_order_of_their_places() {
    let tree = Tree::new(&[
        ("b/packages.txt", "httpd\n$(id)\nhttpd\n"),
        ("a/spec.json", "{\"service\":{\"name\":\"a\",\"version\":4}}"),
        ("a/Dockerfile", "FROM debian\nUSER 1000\n"),
        (".mergeyard/build.yml", "steps:\n  - name: build\n    imag: debian:12\n"),
    ]);
    let (code, found) = tree.json(&[]).await;
    assert_eq!(code, Some(1));
    for finding in &found {
        let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
        let mut wanted = ["code", "column", "file", "level", "line", "message"];
        wanted.sort_unstable();
        let mut keys: Vec<&str> = keys.into_iter().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, wanted);
        assert!(["error", "warning"].contains(&finding["level"].as_str().unwrap()));
    }
    let files: Vec<&str> = codes(&found).iter().map(|(file, _)| *file).collect();
    assert!(files.is_sorted(), "{files:?}");
    assert!(codes(&found).contains(&("a/spec.json", "spec-json")), "{found:#?}");
    assert!(codes(&found).contains(&("a/Dockerfile", "dockerfile-base-untagged")), "{found:#?}");
    assert!(codes(&found).contains(&("b/packages.txt", "packages-entry")), "{found:#?}");
    assert!(codes(&found).contains(&(".mergeyard/build.yml", "pipeline-unknown-key")), "{found:#?}");
    let no_image = found.iter().find(|finding| finding["code"] == "pipeline-no-image").expect("a finding");
    assert_eq!((no_image["line"].as_u64(), no_image["level"].as_str()), (Some(2), Some("error")));
}

#[tokio::test]
async fn the_text_form_shows_the_line_and_a_caret() {
    let tree = Tree::new(&[("packages.txt", "httpd\n  $(id)\n")]);
    let said = tree.lint(&[]).await;
    assert_eq!(said.status.code(), Some(1), "{said}");
    let lines: Vec<&str> = said.stdout.lines().collect();
    let shown = lines.iter().position(|line| line.ends_with("|   $(id)")).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(lines[shown + 1].find('^'), lines[shown].find('$'), "{said}");
    assert!(
        said.stdout.contains("packages.txt:2:3") && said.stdout.contains("1 error, 0 warnings"),
        "{said}"
    );
}

#[tokio::test]
async fn warnings_alone_are_good() {
    let tree = Tree::new(&[("Dockerfile", "FROM debian:12\nARG API_TOKEN\n")]);
    let (code, found) = tree.json(&[]).await;
    assert_eq!(code, Some(0));
    assert_eq!(codes(&found), [("Dockerfile", "dockerfile-no-user"), ("Dockerfile", "dockerfile-secret")]);
}

#[tokio::test]
async fn what_git_ignores_is_left_out_and_links_are_not_followed() {
    let tree = Tree::new(&[
        (".gitignore", "build/\n"),
        ("build/spec.json", "{"),
        (".git/spec.json", "{"),
        ("src/packages.txt", "httpd\n"),
    ]);
    std::os::unix::fs::symlink("/etc", tree.path().join("link")).unwrap();
    std::os::unix::fs::symlink("../build/spec.json", tree.path().join("src/spec.json")).unwrap();
    assert_eq!(tree.json(&[]).await, (Some(0), vec![]));
    let (code, found) = tree.json(&["build/spec.json"]).await;
    assert_eq!(
        (code, codes(&found)),
        (Some(1), vec![("build/spec.json", "spec-json")]),
        "what is named is checked"
    );
}

#[tokio::test]
async fn pipelines_of_one_repository_are_checked_together_with_what_they_include() {
    let tree = Tree::new(&[
        (".mergeyard/build.yml", PIPELINE),
        (
            ".mergeyard/deploy.yml",
            "depends_on: [biuld]\nsteps:\n  - name: deploy\n    image: debian:12\n    commands: [make]\n",
        ),
        (
            "other/.mergeyard.yml",
            "include: ci/steps.yml\nsteps:\n  - name: b\n    image: debian:12\n    commands: [make]\n",
        ),
        ("other/ci/steps.yml", "steps:\n  - name: a\n    imag: x\n"),
        (
            "cycle/.woodpecker.yml",
            "steps:\n  a: {image: x, commands: [y], depends_on: [b]}\n  b: {image: x, commands: [y], depends_on: [a]}\n",
        ),
    ]);
    let (code, found) = tree.json(&[]).await;
    assert_eq!(code, Some(1));
    let files: Vec<&str> = codes(&found).iter().map(|(file, _)| *file).collect();
    for file in ["other/ci/steps.yml", "cycle/.woodpecker.yml"] {
        assert!(files.contains(&file), "{file}: {found:#?}");
    }
    assert!(!files.contains(&".mergeyard/build.yml"), "{found:#?}");
}

#[tokio::test]
async fn files_that_no_tool_should_choke_on_are_named_findings() {
    let tree = Tree::new(&[
        ("empty/spec.json", ""),
        ("twice/spec.json", "{\"service\":{\"name\":\"a\",\"version\":\"1\"},\"service\":1}"),
    ]);
    for (path, bytes) in [
        ("encoding/spec.json", &b"{\xff"[..]),
        ("encoding/Dockerfile", b"FROM \xff\n"),
        ("encoding/packages.txt", b"\xff"),
        ("encoding/.mergeyard.yml", b"\xff"),
    ] {
        fs::create_dir_all(tree.path().join(path).parent().unwrap()).unwrap();
        fs::write(tree.path().join(path), bytes).unwrap();
    }
    fs::create_dir(tree.path().join("large")).unwrap();
    for name in ["spec.json", "Dockerfile", "packages.json", ".mergeyard.yml"] {
        // Holes cost no disk.
        fs::File::create(tree.path().join("large").join(name)).unwrap().set_len(1 << 30).unwrap();
    }
    let (code, found) = tree.json(&[]).await;
    assert_eq!(code, Some(1));
    for wanted in [
        ("empty/spec.json", "spec-empty"),
        ("twice/spec.json", "spec-json"),
        ("encoding/spec.json", "spec-encoding"),
        ("encoding/Dockerfile", "file-encoding"),
        ("encoding/packages.txt", "packages-encoding"),
        ("encoding/.mergeyard.yml", "yaml-encoding"),
        ("large/spec.json", "spec-too-large"),
        ("large/Dockerfile", "file-too-large"),
        ("large/packages.json", "packages-too-large"),
        ("large/.mergeyard.yml", "yaml-size"),
    ] {
        assert!(codes(&found).contains(&wanted), "{wanted:?}: {found:#?}");
    }
}

#[tokio::test]
async fn asked_for_wrongly_it_exits_with_two() {
    let tree = Tree::new(&[("notes.txt", "x")]);
    for (path, says) in [("nothing", "cannot read nothing"), ("notes.txt", "no kind of file that is checked")]
    {
        let said = tree.lint(&[path]).await.failed(2);
        assert!(said.contains(says), "{said}");
    }
    assert!(tree.lint(&[]).await.good().contains("nothing to check here"));
}

#[tokio::test]
async fn the_real_hadolint_is_used_where_it_is_installed() {
    let hadolint = tool("hadolint");
    let folder = Path::new(hadolint.as_std().get_program()).parent().unwrap().display().to_string();
    let tree = Tree::new(&[
        ("-x.Dockerfile", "FROM debian\nRUN cd /x\nENV DB_PASSWORD=hunter22\n"),
        ("broken/Dockerfile", "FROM debian:12\nHELLO\n"),
    ]);
    let said = tree.lint_with(&folder, &["--format", "json"]).await;
    assert!(said.stderr.contains("Dockerfiles were checked by hadolint"), "{said}");
    assert_eq!(said.status.code(), Some(1), "{said}");
    let found: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    for wanted in [
        ("-x.Dockerfile", "DL3006"),
        ("-x.Dockerfile", "DL3003"),
        ("-x.Dockerfile", "dockerfile-secret"),
        ("broken/Dockerfile", "DL1000"),
    ] {
        assert!(codes(&found).contains(&wanted), "{wanted:?}: {found:#?}");
    }
    assert!(!said.to_string().contains("hunter22"), "{said}");
    let text = tree.lint_with(&folder, &[]).await.stdout;
    assert!(text.contains("1 | FROM debian") && text.contains("DL3006"), "{text}");
}
