//! `examples/clock` on a real virtual machine: a merge becomes images, the playbook brings them live,
//! a kill of the server in the middle changes nothing about that, what is broken is taken back, and
//! one command puts back what was live before.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mergeyard_server::sample::SampleMerge;
use mergeyard_testkit::{
    process::{self, Process, free_port, program, seen, tool},
    yard::borrowed,
};
use serde_json::Value;

use super::{Files, RealYard, bridge::Bridge, is_final, remove_images, set, step, text};

/// An emulated machine that shares two cores with a compiler takes its time.
pub(super) const LONGEST: Duration = Duration::from_secs(20 * 60);

/// Between two looks of somebody who has the page open.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The page is asked over a real network, by somebody who waits a little.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// One machine at a time, or neither gets far.
pub(super) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn the_clock_goes_live_on_a_virtual_machine_and_stays_there_whatever_is_merged() {
    let _turn = TURN.lock().await;
    let mut vm = Vm::boot().await;
    let mut yard = RealYard::with(example(&vm), |config| vm.configure(config)).await;
    vm.let_in(&yard).await;
    vm.is_up().await;

    yard.announce("live", &yard.first).await;
    let run = finished(&yard, 1).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}\n{}", deploy_log(&yard, &run).await);
    assert!(vm.page(&yard, "/").await.contains("<h1>Clock</h1>"));
    assert!(vm.time(&yard).await > 1e9);
    assert_eq!(vm.containers().await, ["clock-backend", "clock-frontend"]);

    let newer =
        changed(&mut yard, "frontend", "0.2.0", "index.html", ("<h1>Clock</h1>", "<h1>New clock</h1>"));
    yard.announce("newer", &newer).await;
    said(&yard, 2, "See what runs").await;
    yard.kill().await;
    yard.start().await;
    let run = finished(&yard, 2).await;
    assert_eq!(run["run"]["state"], "success", "{run:#}\n{}", deploy_log(&yard, &run).await);
    assert!(vm.page(&yard, "/").await.contains("<h1>New clock</h1>"));
    assert_eq!(vm.containers().await, ["clock-backend", "clock-frontend"]);

    let live = vm.images().await;
    let broken = changed(
        &mut yard,
        "backend",
        "0.2.0",
        "Dockerfile",
        (r#"ENTRYPOINT ["clock-backend"]"#, r#"ENTRYPOINT ["false"]"#),
    );
    yard.announce("broken", &broken).await;
    let run = tokio::select! {
        run = finished(&yard, 3) => run,
        missed = vm.watched(&yard) => panic!("the page did not answer: {missed}"),
    };
    let log = deploy_log(&yard, &run).await;
    assert_eq!(run["run"]["state"], "failure", "{run:#}\n{log}");
    assert!(
        log.contains("its program ended at once") && log.contains("putting back clock-backend@"),
        "{log}"
    );
    assert_eq!(vm.images().await, live);
    assert_eq!(vm.containers().await, ["clock-backend", "clock-frontend"]);
    assert!(vm.time(&yard).await > 1e9);

    let said = yard.mergeyard(&["rollback", "clock-vm", "--no-wait"]).await.good();
    let run = finished(&yard, 4).await;
    assert_eq!(run["run"]["state"], "success", "{said}\n{run:#}\n{}", deploy_log(&yard, &run).await);
    assert!(vm.page(&yard, "/").await.contains("<h1>Clock</h1>"), "{said}");
    assert_ne!(vm.images().await, live, "{said}");
    assert_eq!(vm.containers().await, ["clock-backend", "clock-frontend"]);
    assert!(vm.time(&yard).await > 1e9);

    yard.engine_is_clean().await;
    yard.stop().await;
    vm.off().await;
}

/// The machine, where containers reach it, and a registry where it reaches that.
struct Vm {
    bridge: Bridge,
    ssh: u16,
    http: u16,
    registry: u16,
    folder: PathBuf,
    known_hosts: tempfile::NamedTempFile,
    machine: Option<Process>,
}

impl Vm {
    async fn boot() -> Self {
        let folder = made();
        let bridge = Bridge::new();
        let (ssh, http, registry) = (free_port(), free_port(), free_port());
        // An emulated processor takes all it gets, and other tests wait for answers of their own.
        let mut boot = tool("nice");
        boot.args(["-n", "5", "bash"])
            .arg(example_folder().join("vm/boot.sh"))
            .arg(&folder)
            .env("CLOCK_FORGET", "yes");
        boot.env("CLOCK_ADDRESS", &bridge.address);
        boot.env("CLOCK_SSH_PORT", ssh.to_string()).env("CLOCK_HTTP_PORT", http.to_string());
        let machine = Process::start("the virtual machine", &mut boot);
        let known_hosts = tempfile::NamedTempFile::new().expect("a temporary file");
        let vm = Self { bridge, ssh, http, registry, folder, known_hosts, machine: Some(machine) };
        let line = format!("[{}]:{} {}", vm.bridge.address, vm.ssh, vm.host_key());
        std::fs::write(vm.known_hosts.path(), line).expect("the file can be written");
        vm
    }

    fn host_key(&self) -> String {
        std::fs::read_to_string(self.folder.join("host_key.pub")).expect("the machine's key is known")
    }

    /// The registry is where the machine reaches it, and the machine is a target.
    fn configure(&self, config: &mut toml::Table) {
        set(config, "registry", "listen", format!("{}:{}", self.bridge.address, self.registry));
        let mut target = toml::Table::new();
        target.insert("name".into(), "clock-vm".into());
        target.insert("address".into(), self.bridge.address.clone().into());
        target.insert("port".into(), i64::from(self.ssh).into());
        target.insert("user".into(), "root".into());
        target.insert("host_key".into(), self.host_key().trim().into());
        let key = self.folder.join("id_ed25519").display().to_string();
        target.insert("key".into(), toml::Table::from_iter([("file".to_owned(), key.into())]).into());
        config.insert("target".into(), vec![toml::Value::from(target)].into());
        let repo = config["repo"].as_array_mut().expect("a list")[0].as_table_mut().expect("a table");
        repo.insert("targets".into(), vec![toml::Value::from("clock-vm")].into());
    }

    /// A robot for the machine's engine, whose secret only the server's playbooks get.
    async fn let_in(&self, yard: &RealYard) {
        let create = ["registry", "robot", "create", "clock", "--pull", "clock-*", "--format", "json"];
        let made: Value = serde_json::from_str(&yard.mergeyard(&create).await.good()).expect("JSON");
        yard.secret("clock_registry_password", text(&made["secret"])).await;
    }

    async fn is_up(&self) {
        let up = seen(async || self.ssh("true").await.status.success().then_some(()));
        let up = tokio::time::timeout(LONGEST, up).await;
        let said = self.machine.as_ref().map(Process::said).unwrap_or_default();
        up.unwrap_or_else(|_| panic!("nobody can log in to the machine:\n{said}"));
    }

    async fn ssh(&self, command: &str) -> process::Said {
        let mut ssh = tool("ssh");
        ssh.args([
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "LogLevel=ERROR",
        ]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", self.known_hosts.path().display()));
        ssh.arg("-i").arg(self.folder.join("id_ed25519")).args(["-p", &self.ssh.to_string()]);
        process::run(ssh.arg(format!("root@{}", self.bridge.address)).arg(command)).await
    }

    async fn containers(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .ssh("docker ps --all --format '{{.Names}}'")
            .await
            .good()
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    async fn images(&self) -> String {
        self.ssh(
            "docker inspect --format '{{.Config.Image}} {{.State.Running}}' clock-backend clock-frontend",
        )
        .await
        .good()
    }

    async fn look(&self, yard: &RealYard, path: &str) -> Result<String, reqwest::Error> {
        let url = format!("http://{}:{}{path}", self.bridge.address, self.http);
        let answer = yard.http.get(url).timeout(LONGEST_LOOK).send().await?.error_for_status()?;
        answer.text().await
    }

    async fn page(&self, yard: &RealYard, path: &str) -> String {
        self.look(yard, path).await.expect("the page answers")
    }

    async fn time(&self, yard: &RealYard) -> f64 {
        self.page(yard, "/clock").await.parse().expect("a timestamp")
    }

    /// Somebody who has the page open. Returns when it fails once.
    async fn watched(&self, yard: &RealYard) -> String {
        let mut looks = 0;
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            for path in ["/", "/clock"] {
                if let Err(error) = self.look(yard, path).await {
                    return format!("{error}, after {looks} good looks");
                }
            }
            looks += 1;
        }
    }

    async fn off(&mut self) {
        self.machine.take().expect("it runs").kill().await;
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        drop(self.machine.take());
        let host = format!("{}:{}", self.bridge.address, self.registry);
        remove_images(&format!("{host}/*"));
        // The server tells the engine of its authority, and a registry of this name never comes again.
        let _ = std::fs::remove_dir_all(Path::new("/etc/docker/certs.d").join(host));
    }
}

/// Where `scripts/setup.sh --tests` keeps the machine.
pub(super) fn made() -> PathBuf {
    let target = program().parent().and_then(Path::parent).expect("it lies in target/PROFILE");
    let folder = target.join("clock-vm");
    assert!(
        folder.join("complete").is_file(),
        "{} is missing; run scripts/setup.sh --tests",
        folder.display()
    );
    folder
}

pub(super) fn example_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/clock")
}

/// The example as it lies in the checkout, with the port that leads to the machine's port 80.
fn example(vm: &Vm) -> Files {
    let root = example_folder();
    let mut files = Vec::new();
    let mut folders = [".mergeyard", "ansible", "backend", "frontend"].map(|name| root.join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the example is there") {
            let path = entry.expect("a readable folder").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name =
                        path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                    files.push((name, std::fs::read(&path).expect("a readable file")));
                }
            }
        }
    }
    let deliver = files.iter_mut().find(|(name, _)| name == ".mergeyard/deliver.yml").expect("its pipeline");
    replace(&mut deliver.1, ("http://{address}/clock", &format!("http://{{address}}:{}/clock", vm.http)));
    files
}

fn replace(content: &mut Vec<u8>, (then, now): (&str, &str)) {
    let old = std::str::from_utf8(content).expect("text");
    assert!(old.contains(then), "the example has no `{then}` any more");
    *content = old.replace(then, now).into_bytes();
}

/// One half of the clock with another version and another text in one of its files.
fn changed(
    yard: &mut RealYard,
    half: &str,
    version: &str,
    file: &str,
    replaced: (&str, &str),
) -> SampleMerge {
    let mut content = std::fs::read(example_folder().join(half).join(file)).expect("the example is there");
    replace(&mut content, replaced);
    let spec = format!(r#"{{"service":{{"name":"clock-{half}","version":"{version}"}}}}"#);
    let files = vec![(format!("{half}/{file}"), content), (format!("{half}/spec.json"), spec.into_bytes())];
    yard.sample.merge_change(&format!("{half} {version}"), &borrowed(&files)).expect("a merge")
}

async fn finished(yard: &RealYard, run: u64) -> Value {
    follow(yard, run, "its end", is_final).await
}

async fn follow(yard: &RealYard, run: u64, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let watch = seen(async || yard.watch(run, &holds, &mut last).await);
    let seen = tokio::time::timeout(LONGEST, watch).await;
    seen.unwrap_or_else(|_| panic!("waited in vain for run {run}: {what}; it is {last:#}"))
}

/// Returns when the playbook has come to a task.
async fn said(yard: &RealYard, run: u64, task: &str) {
    let running = |run: &Value| {
        let steps = run["workflows"].as_array().into_iter().flatten().flat_map(|w| w["steps"].as_array());
        steps.flatten().any(|step| step["name"] == "deploy" && step["state"] == "running")
    };
    let document = follow(yard, run, "the playbook's start", running).await;
    let there = seen(async || deploy_log(yard, &document).await.contains(task).then_some(()));
    let there = tokio::time::timeout(LONGEST, there).await;
    assert!(there.is_ok(), "the playbook never came to `{task}`");
}

async fn deploy_log(yard: &RealYard, run: &Value) -> String {
    yard.log_of(step(run, "deliver", "deploy")).await
}
