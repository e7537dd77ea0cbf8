//! The real program as a process of its own, and other real programs beside it.
//!
//! What a signal, a crash or a command line does can only be seen from outside. Nothing here
//! waits for a time: a test waits for what a process says or for its end, up to a bound
//! after which it fails and tells what was said.

use std::{
    fmt,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::watch,
};

pub use rustix::process::Signal;

/// A condition that is not met by then will never be. It is long, because builds of many
/// tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How often something is looked at that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The binary under test, which lies beside the folder of this test binary.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let this = std::env::current_exe().expect("a test binary has a path");
        let folder = this.parent().and_then(Path::parent).expect("it lies in target/PROFILE/deps");
        let program = folder.join("mergeyard");
        if !program.exists() {
            build();
        }
        assert!(program.exists(), "{} was not built", program.display());
        program
    })
}

fn build() {
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--package", "mergeyard-server", "--bin", "mergeyard"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.expect("cargo runs").success(), "cargo could not build mergeyard");
}

/// The binary under test, whatever the environment says about another one.
pub fn mergeyard() -> Command {
    undisturbed(Command::new(program()))
}

/// The same, on a machine that gives it no more than so many descriptors.
pub fn mergeyard_with_descriptors(most: usize) -> Command {
    let mut command = tool("prlimit");
    command.arg(format!("--nofile={most}:{most}")).arg(program());
    undisturbed(command)
}

fn undisturbed(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MERGEYARD_")) {
        command.env_remove(name);
    }
    command
}

/// Another program, which this machine must have.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = path.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file());
    Command::new(found.unwrap_or_else(|| panic!("{name} is missing; run scripts/setup.sh --tests")))
}

/// A port of loopback that nothing listens on. It is below the range from which the kernel
/// takes ports for outgoing connections, so it stays free until it is used, and again after.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(next) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Looks until there is something to see.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    bounded(what, seen(look)).await
}

/// The same without a bound, for who has more to tell when it does not come.
pub async fn seen<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        match look().await {
            Some(seen) => return seen,
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

pub async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// What a good end said.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// What an end with this exit code said.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self.stderr
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}{}", self.status, self.stdout, self.stderr)
    }
}

/// Runs a program to its end.
pub async fn run(command: &mut Command) -> Said {
    run_with(command, "").await
}

/// Runs a program to its end, with this to read.
pub async fn run_with(command: &mut Command, input: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let what = format!("the end of {command:?}");
    let talk = async {
        let mut child = command.spawn()?;
        // A program that does not care to read has closed its end, which is no fault.
        let _ = child.stdin.take().expect("it was asked for").write_all(input.as_bytes()).await;
        child.wait_with_output().await
    };
    let output = bounded(&what, talk).await;
    let output = output.unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A process that runs until it is told otherwise, and dies with the test.
pub struct Process {
    name: String,
    child: Child,
    lines: watch::Receiver<Vec<String>>,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (sender, lines) = watch::channel(Vec::new());
        listen(child.stdout.take(), sender.clone());
        listen(child.stderr.take(), sender);
        Self { name: name.to_owned(), child, lines }
    }

    /// Everything said so far.
    pub fn said(&self) -> String {
        self.lines.borrow().join("\n")
    }

    /// The first line that holds `text`.
    pub async fn says(&self, text: &str) -> String {
        let mut lines = self.lines.clone();
        let find = |lines: &Vec<String>| lines.iter().find(|line| line.contains(text)).cloned();
        let said = tokio::time::timeout(PATIENCE, lines.wait_for(|lines| find(lines).is_some())).await;
        let said = said.ok().and_then(|lines| find(&*lines.ok()?));
        said.unwrap_or_else(|| panic!("{} did not say `{text}` but:\n{}", self.name, self.said()))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).expect("a child can be signalled");
    }

    /// What the kernel tells about it, such as `status` or `fd`.
    pub fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.id().as_raw_nonzero()).into()
    }

    pub fn id(&self) -> Pid {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        pid.unwrap_or_else(|| panic!("{} has ended already:\n{}", self.name, self.said()))
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{} does not end:\n{}", self.name, self.said()));
        ended.expect("a child can be waited for")
    }

    /// Ends it as `kill -9` does; it is gone when this returns.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }
}

/// Keeps every line, so that the pipe never fills and nothing said is lost.
fn listen(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, lines: watch::Sender<Vec<String>>) {
    let pipe = pipe.expect("it was asked for");
    tokio::spawn(async move {
        let mut read = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = read.next_line().await {
            lines.send_modify(|lines| lines.push(line));
        }
    });
}
