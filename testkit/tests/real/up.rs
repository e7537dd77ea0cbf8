//! `examples/clock/up.sh`: the clock with one command, for somebody who is not root. Then libvirt
//! boots the machine.

use std::{os::unix::fs::MetadataExt, path::Path, process::Stdio};

use mergeyard_testkit::process::{free_port, program, tool};
use tokio::process::Command;

use super::{engine, remove_images, vm};

/// Who has no rights on any machine.
const NOBODY: u32 = 65534;

#[tokio::test]
async fn one_command_brings_the_clock_up_changes_nothing_the_second_time_and_forgets_it() {
    let _turn = vm::TURN.lock().await;
    let place = Place::new().await;

    let said = place.up(&[]).await;
    assert!(said.contains("booting by libvirt"), "{said}");
    assert!(place.clock().await > 1e9, "{said}");
    let booted = place.booted().await;

    let said = place.up(&[]).await;
    assert!(said.contains("changed=0") && !said.contains("booting"), "{said}");
    assert_eq!(place.booted().await, booted, "it is the same machine");

    let said = place.up(&["--forget"]).await;
    assert_eq!(place.good("virsh -q -c qemu:///session list --all").await.trim(), "", "{said}");
    assert!(!place.folder.path().join("state").exists(), "{said}");
}

/// A copy of the example, in a folder that is all that somebody has.
struct Place {
    folder: tempfile::TempDir,
    ssh: u16,
    http: u16,
    registry: u16,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = Self { folder, ssh: free_port(), http: free_port(), registry: free_port() };
        let script = r#"
            cp -r "$EXAMPLE" "$PLACE/clock"
            rm -rf "$PLACE/clock/.state"
            mkdir -p "$PLACE/state/vm" "$PLACE/run"
            cp "$PROGRAM" "$PLACE/mergeyard"
            cp --sparse=always "$MADE"/{disk.img,vmlinuz,initrd.img,host_key.pub,id_ed25519,complete} "$PLACE/state/vm"
            chmod 700 "$PLACE/run"
            chown -R "$NOBODY" "$PLACE"
        "#;
        let mut copy = tool("bash");
        copy.args(["-euc", script]).env("PLACE", place.folder.path()).env("NOBODY", NOBODY.to_string());
        copy.env("EXAMPLE", vm::example_folder()).env("PROGRAM", program()).env("MADE", vm::made());
        finished(&mut copy).await;
        place
    }

    /// What it says, on both ways.
    async fn up(&self, arguments: &[&str]) -> String {
        let mut words = vec!["nice", "-n", "5", "bash", "clock/up.sh"];
        words.extend(arguments);
        finished(&mut self.command(&words)).await
    }

    async fn good(&self, script: &str) -> String {
        finished(&mut self.command(&["bash", "-euc", script])).await
    }

    async fn clock(&self) -> f64 {
        let url = format!("http://127.0.0.1:{}/clock", self.http);
        self.good(&format!("curl -sSf --max-time 60 {url}")).await.parse().expect("a timestamp")
    }

    async fn booted(&self) -> String {
        self.good("ssh -F state/ssh_config clock cat /proc/sys/kernel/random/boot_id").await
    }

    /// A program of somebody who may use the engine, and nothing else of this machine.
    fn command(&self, words: &[&str]) -> Command {
        let folder = self.folder.path();
        let socket = engine();
        let socket = Path::new(socket.trim_start_matches("unix://"));
        let group = std::fs::metadata(socket).expect("the engine's socket").gid();
        let mut command = tool("setpriv");
        command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}"));
        command.arg(format!("--groups={group}")).arg("--no-new-privs").args(words);
        command.current_dir(folder).env_clear();
        for name in ["PATH", "DOCKER_HOST", "LANG"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.env("HOME", folder).env("XDG_RUNTIME_DIR", folder.join("run"));
        command.env("CLOCK_STATE", folder.join("state")).env("CLOCK_MERGEYARD", folder.join("mergeyard"));
        command.env("CLOCK_SSH_PORT", self.ssh.to_string()).env("CLOCK_HTTP_PORT", self.http.to_string());
        command.env("CLOCK_REGISTRY_PORT", self.registry.to_string());
        // A machine that does not boot is what it tells of, before anybody stops listening.
        command.env("CLOCK_BOOT_SECONDS", (vm::LONGEST / 2).as_secs().to_string());
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Ends whatever a test that failed has left, which is all that nobody runs from this folder.
        let script = r#"
            virsh -q -c qemu:///session destroy clock
            kill $(cat state/registry.pid run/libvirt/libvirtd.pid)
        "#;
        let mut end = self.command(&["bash", "-c", script]);
        let _ = end.as_std_mut().stdout(Stdio::null()).stderr(Stdio::null()).status();
        remove_images(&format!("127.0.0.1:{}/*", self.registry));
    }
}

/// What a good end said, on both ways.
async fn finished(command: &mut Command) -> String {
    let said = tempfile::NamedTempFile::new().expect("a temporary file");
    let both = |said: &tempfile::NamedTempFile| said.as_file().try_clone().expect("the file stays open");
    command.stdin(Stdio::null()).stdout(both(&said)).stderr(both(&said)).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let end = tokio::time::timeout(vm::LONGEST, child.wait()).await;
    let text =
        String::from_utf8_lossy(&std::fs::read(said.path()).expect("the file can be read")).into_owned();
    let end = end.unwrap_or_else(|_| panic!("waited in vain for the end of {command:?}\n{text}"));
    assert!(end.is_ok_and(|end| end.success()), "{command:?}\n{text}");
    text
}
