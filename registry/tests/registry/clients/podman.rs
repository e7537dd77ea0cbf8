//! Podman and Buildah, each with a storage of its own that goes with the test.

use std::fs;

use mergeyard_registry::Config;
use serde_json::json;
use tokio::process::Command;

use super::{Desk, done, told};
use crate::yard::SECRET;

impl Desk {
    /// Whole copies in place of stacked file systems, which need more than a container often has.
    fn storage(&self, program: &str) -> Command {
        let mut command = self.command(program);
        command.arg("--root").arg(self.home.join("storage")).arg("--runroot").arg(self.home.join("run"));
        command.args(["--storage-driver", "vfs"]);
        if program == "podman" {
            command.arg("--tmpdir").arg(self.home.join("tmp"));
            command.args(["--events-backend", "none", "--cgroup-manager", "cgroupfs"]);
        }
        command
    }

    fn transfer(&self, program: &str, verb: &str, image: &str) -> Command {
        let policy = self.home.join("policy.json");
        fs::write(&policy, json!({"default": [{"type": "insecureAcceptAnything"}]}).to_string()).unwrap();
        let mut command = self.storage(program);
        command.arg(verb).arg("--signature-policy").arg(policy);
        command.args(["--cert-dir", &self.certificates(), image]);
        command
    }

    async fn images(&self, program: &str) -> String {
        let mut images = self.storage(program);
        images.args(["images", "--quiet", "--no-trunc"]);
        done(images).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_and_buildah_log_in_push_and_pull() {
    for program in ["podman", "buildah"] {
        let desk = Desk::new(Config::default());
        let mut login = desk.storage(program);
        login.args(["login", "--cert-dir", &desk.certificates(), "--username", "robot", "--password-stdin"]);
        login.arg(desk.served.address.to_string());
        assert!(told(login, SECRET).await.contains("Login Succeeded"));

        let (context, image) = (desk.home.join("context"), desk.image("acme/clock:0.1.0"));
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /one\nCOPY Dockerfile /two\n")
            .unwrap();
        let mut build = desk.storage(program);
        build.args(["build", "--isolation", "chroot", "--layers", "--tag", &image]).arg(&context);
        done(build).await;
        done(desk.transfer(program, "push", &image)).await;
        let digest = desk.stored("acme/clock", "0.1.0").await.expect("it was pushed");

        let before = desk.images(program).await;
        let mut forget = desk.storage(program);
        forget.args(["rmi", "--all", "--force"]);
        done(forget).await;
        assert_eq!(desk.images(program).await, "");
        done(desk.transfer(program, "pull", &desk.image(&format!("acme/clock@{digest}")))).await;
        let after = desk.images(program).await;
        assert!(!after.is_empty() && before.contains(after.trim()), "{before} {after}");
    }
}
