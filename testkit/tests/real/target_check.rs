//! `mergeyard target check`, as an operator uses it while a target is set up.

use std::path::{Path, PathBuf};

use mergeyard_testkit::{
    process::{self, Process, Said, bounded, free_port},
    sshd::{Sshd, make_key},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::ssh::{control_folder, nobody_authenticated, nothing_is_left};

/// A configuration with one target, which is being set up.
struct Setup {
    folder: TempDir,
    target: toml::Table,
}

impl Setup {
    fn of(port: u16, user: &str, key: &Path) -> Self {
        let mut target = toml::Table::new();
        target.insert("name".to_owned(), "clock-vm".into());
        target.insert("address".to_owned(), "127.0.0.1".into());
        target.insert("port".to_owned(), i64::from(port).into());
        target.insert("user".to_owned(), user.into());
        let key = toml::Table::from_iter([("file".to_owned(), key.to_str().unwrap().into())]);
        target.insert("key".to_owned(), key.into());
        Self { folder: tempfile::tempdir().unwrap(), target }
    }

    fn set(&mut self, line: &str) {
        self.target.extend(line.parse::<toml::Table>().unwrap());
    }

    fn file(&self) -> PathBuf {
        let mut config: toml::Table =
            "[github]\nwebhook_secret = \"the-secret-of-this-check\"".parse().unwrap();
        config.insert("target".to_owned(), vec![toml::Value::from(self.target.clone())].into());
        let file = self.folder.path().join("mergeyard.toml");
        std::fs::write(&file, config.to_string()).unwrap();
        file
    }

    async fn check(&self, more: &[&str]) -> Said {
        self.check_named("clock-vm", more).await
    }

    async fn check_named(&self, name: &str, more: &[&str]) -> Said {
        let mut command = process::mergeyard();
        process::run(command.args(["target", "check", name]).args(more).arg("--config").arg(self.file()))
            .await
    }

    /// The findings: what was looked at, how it is, and what it says.
    async fn findings(&self, code: i32) -> Vec<(String, String, Value)> {
        let said = self.check(&["--format", "json"]).await;
        assert_eq!(said.status.code(), Some(code), "{said}");
        let Value::Array(all) = serde_json::from_str(&said.stdout).unwrap() else { panic!("{said}") };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.into_iter().map(|one| (text(&one["check"]), text(&one["level"]), one)).collect()
    }
}

fn levels(findings: &[(String, String, Value)]) -> Vec<(&str, &str)> {
    findings.iter().map(|(check, level, _)| (check.as_str(), level.as_str())).collect()
}

#[tokio::test]
async fn an_operator_is_led_from_a_new_machine_to_a_target() {
    let mut sshd = Sshd::start().await;
    let mut setup = Setup::of(sshd.port(), &sshd.target().user, &sshd.path("key"));

    let said = setup.check(&[]).await;
    assert_eq!(said.status.code(), Some(1), "{said}");
    let line = format!("host_key = \"{}\"", sshd.host_key());
    assert!(said.stdout.contains(&line) && said.stdout.contains("ssh-keygen -lf"), "{said}");
    assert!(said.stdout.contains("not pinned yet") && !said.stdout.contains("login"), "{said}");
    nobody_authenticated(&sshd);

    setup.set(&line);
    // The machine of the tests has an engine and Python, so it is a target for everything but a mirror.
    let said = setup.check(&[]).await;
    assert!(said.status.success(), "{said}");
    for word in ["is let in", "Docker ", "Python 3", "are free in", "everything is as it should be"] {
        assert!(said.stdout.contains(word), "{word}: {said}");
    }

    setup.set("engine = \"/nowhere/docker.sock\"");
    let findings = setup.findings(0).await;
    let expected = [
        ("connection", "ok"),
        ("host key", "ok"),
        ("login", "ok"),
        ("engine", "warning"),
        ("python3", "ok"),
        ("disk", "ok"),
    ];
    assert_eq!(levels(&findings), expected, "{findings:?}");

    // A folder below a file is one that nobody can write to, not even root.
    setup.set("mirror = { root = \"/etc/hostname/mirror\", url = \"https://mirror.example.org/\" }");
    let findings = setup.findings(1).await;
    let checks: Vec<&str> = findings.iter().map(|(check, ..)| check.as_str()).collect();
    assert_eq!(checks[3..], ["dnf", "createrepo_c", "rpmkeys", "root", "disk"], "{findings:?}");
    assert_eq!(findings[6].1, "error", "{findings:?}");

    sshd.change_host_key().await;
    let findings = setup.findings(1).await;
    assert_eq!(levels(&findings), [("connection", "ok"), ("host key", "error")], "{findings:?}");
    assert!(findings[1].2["message"].as_str().unwrap().contains("may be an attack"), "{findings:?}");
    nobody_authenticated(&sshd);
}

#[tokio::test]
async fn what_keeps_a_target_closed_is_told_with_what_opens_it() {
    let sshd = Sshd::start().await;
    let stranger = sshd.path("stranger");
    make_key(&stranger).await;
    let user = sshd.target().user;
    let mut setup = Setup::of(sshd.port(), &user, &stranger);
    setup.set(&format!("host_key = \"{}\"", sshd.host_key()));
    let findings = setup.findings(1).await;
    assert_eq!(
        levels(&findings),
        [("connection", "ok"), ("host key", "ok"), ("login", "error")],
        "{findings:?}"
    );
    let fix = findings[2].2["fix"].as_str().unwrap().to_owned();
    assert!(fix.contains(&format!("~{user}/.ssh/authorized_keys")), "{fix}");
    sshd.authorize(fix.lines().last().unwrap());
    assert_eq!(setup.findings(0).await[2].1, "ok");

    setup.set(&format!("port = {}", free_port()));
    let findings = setup.findings(1).await;
    assert_eq!(levels(&findings), [("connection", "error")], "{findings:?}");
    assert!(findings[0].2["message"].as_str().unwrap().contains("Connection refused"), "{findings:?}");

    let said = setup.check_named("clock", &[]).await.failed(2);
    assert!(said.contains("there is no target `clock`; the configuration has `clock-vm`"), "{said}");
}

#[tokio::test]
async fn a_check_that_is_killed_while_it_waits_leaves_nothing() {
    let sshd = Sshd::start().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let mut setup = Setup::of(port, &sshd.target().user, &sshd.path("key"));
    setup.set(&format!("host_key = \"{}\"", sshd.host_key()));
    let mut command = process::mergeyard();
    command.args(["target", "check", "clock-vm", "--config"]).arg(setup.file());
    let check = Process::start("mergeyard target check", &mut command);
    let _connection = bounded("a connection", mute.accept()).await.unwrap();
    let folder = control_folder(port).await;
    assert!(folder.is_dir());
    check.kill().await;
    nothing_is_left(&folder).await;
}
