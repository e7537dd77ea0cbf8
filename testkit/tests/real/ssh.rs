//! A target over SSH: real sshd, the real programs of OpenSSH, and hosts that are not what they were.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mergeyard_run::{
    StepFault,
    log::{DEFAULT_LOG_BYTES, LogSink, Masker, Stream},
    ssh::{Agent, Hear, Patience, Program, Session, SshError},
    target::Ssh,
};
use mergeyard_testkit::{
    process::{self, Signal, free_port, tool, until},
    sshd::{Sshd, make_key},
};
use mergeyard_types::Secret;
use rustix::process::Pid;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener, UnixStream},
};

/// A host that says nothing is given up soon.
const SHORT: Patience = Patience { connect: Duration::from_secs(2), silence: Duration::from_secs(3) };

fn sh(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

async fn run(session: &Session, program: Program) -> Result<mergeyard_run::ssh::Ended, SshError> {
    session.run(&program, Hear::Nobody).await
}

/// The error of a login that must not come about.
async fn refused(ssh: &Ssh) -> SshError {
    match Session::open_with(ssh, &SHORT).await {
        Ok(_) => panic!("{}:{} was logged in at", ssh.address, ssh.port),
        Err(error) => error,
    }
}

fn folder_of(session: &Session) -> PathBuf {
    session.agent().socket().parent().unwrap().to_owned()
}

/// Command lines of this machine that hold `text`.
fn processes_with(text: &str) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(text)).collect()
}

/// Waits until no process works with the folder, and the folder is gone.
pub(super) async fn nothing_is_left(folder: &Path) {
    let name = folder.to_str().unwrap();
    let gone = async || (processes_with(name).is_empty() && !folder.exists()).then_some(());
    until(&format!("the end of everything in {name}"), gone).await;
}

#[tokio::test]
async fn a_program_of_the_target_gets_its_words_and_is_heard_to_its_end() {
    let sshd = Sshd::start().await;
    // As a key may look that went through a variable or another system's editor.
    let mut target = sshd.target();
    target.key = Secret::new(target.key.expose().trim_end().replace('\n', "\r\n"));
    let session = Session::open(&target).await.unwrap();

    let canary = sshd.path("injected");
    let nasty =
        [format!("; touch {0}", canary.display()), format!("$(touch {0})`touch {0}`", canary.display())];
    let nasty = [nasty, ["' || \"\\ *\n".to_owned(), "vim; rm -rf ~ #".to_owned()]].concat();
    let printed = run(&session, Program::new("printf").args(["%s|"]).args(nasty.clone())).await.unwrap();
    assert_eq!(printed.answer().unwrap(), nasty.join("|") + "|");
    assert!(!canary.exists(), "a word was read as a command");

    let (log, mut lines) = LogSink::channel(Masker::new(&[Secret::new("s3cret-word")]), DEFAULT_LOG_BYTES);
    let script = sh("sort; echo 's3cret-word is no room left' >&2; exit 28").stdin("b\na\n");
    let ended = session.run(&script, Hear::Log(&log)).await.unwrap();
    assert_eq!((ended.code, ended.stdout.as_ref()), (28, b"a\nb\n".as_slice()));
    drop(log);
    let mut heard = Vec::new();
    while let Some(line) = lines.recv().await {
        heard.push((line.stream, line.text));
    }
    heard.sort_by_key(|(stream, _)| *stream == Stream::Stderr);
    let said = |stream, text: &str| (stream, text.to_owned());
    let expected = [
        said(Stream::Stdout, "a"),
        said(Stream::Stdout, "b"),
        said(Stream::Stderr, "******** is no room left"),
    ];
    assert_eq!(heard, expected);
    let fault = StepFault::from(ended.good().unwrap_err());
    assert!(matches!(fault, StepFault::Exited { code: 28, .. }), "{fault:?}");
    assert!(
        fault.to_string().contains("`sh` ended with exit code 28")
            && fault.to_string().contains("no room left")
    );

    // What a program may end with that ssh ends with too, and what has no exit code at all.
    let (own_255, killed) = tokio::join!(run(&session, sh("exit 255")), run(&session, sh("kill -KILL $$")));
    assert_eq!((own_255.unwrap().code, killed.unwrap().code), (255, 137));
    let much = run(&session, sh("head -c 3000000 /dev/zero").keep(10)).await.unwrap();
    assert_eq!((much.stdout.len(), much.is_cut), (10, true));
    assert!(much.answer().unwrap_err().to_string().contains("answered more than 10 bytes"));

    let logins = sshd.process().said().matches("Accepted publickey").count();
    assert_eq!(logins, 1, "everything goes through one connection");
    let folder = folder_of(&session);
    session.close().await;
    assert!(processes_with(folder.to_str().unwrap()).is_empty());
    nothing_is_left(&folder).await;
}

#[tokio::test]
async fn an_unknown_host_key_is_shown_for_a_person_to_pin_and_nothing_is_sent() {
    let sshd = Sshd::start().await;
    let error = refused(&sshd.unpinned()).await;
    let said = error.to_string();
    let print = process::run(tool("ssh-keygen").arg("-lf").arg(sshd.path("host_key.pub"))).await.good();
    assert!(said.contains(print.split(' ').nth(1).unwrap()), "{said}");
    assert!(said.ends_with(&format!("\nhost_key = \"{}\"", sshd.host_key())), "{said}");
    assert!(matches!(StepFault::from(error), StepFault::Error { retry: false, .. }));
    sshd.process().says("Connection closed by").await;
    nobody_authenticated(&sshd);

    // What it says is what opens it.
    let line = said.lines().last().unwrap().trim_start_matches("host_key = ").trim_matches('"').to_owned();
    let session = Session::open(&Ssh { host_key: Some(line), ..sshd.unpinned() }).await.unwrap();
    assert_eq!(run(&session, sh("echo in")).await.unwrap().answer().unwrap(), "in\n");
}

#[tokio::test]
async fn a_changed_host_key_ends_the_connection_before_authentication() {
    let mut sshd = Sshd::start().await;
    let target = sshd.target();
    sshd.change_host_key().await;
    let error = refused(&target).await;
    assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("differs from the pinned") && said.contains("may be an attack"), "{said}");
    assert!(said.contains(&format!("host_key = \"{}\"", sshd.host_key())), "{said}");
    sshd.process().says("Connection closed by").await;
    nobody_authenticated(&sshd);
}

/// As soon as a client has so much as named its user, sshd's words about it do too.
pub(super) fn nobody_authenticated(sshd: &Sshd) {
    let log = sshd.process().said();
    for word in ["user ", "publickey", "Accepted", "Failed", "Postponed"] {
        assert!(!log.contains(word), "authentication was attempted:\n{log}");
    }
}

#[tokio::test]
async fn a_key_that_does_not_open_the_door_is_named_and_why() {
    let sshd = Sshd::start().await;
    let of_key = |text: String| Ssh { key: Secret::new(text), ..sshd.target() };
    make_key(&sshd.path("other")).await;
    let other = std::fs::read_to_string(sshd.path("other")).unwrap();
    let error = refused(&of_key(other)).await;
    assert!(matches!(error, SshError::LoginRefused { .. }), "{error:?}");
    assert!(error.to_string().contains("authorized_keys") && !error.is_transient(), "{error}");

    let mut protect = tool("ssh-keygen");
    protect.args(["-q", "-p", "-N", "correct horse", "-f"]).arg(sshd.path("other"));
    process::run(&mut protect).await.good();
    let protected = std::fs::read_to_string(sshd.path("other")).unwrap();
    let error = refused(&of_key(protected)).await.to_string();
    assert!(error.contains("protected by a passphrase"), "{error}");
    let error = refused(&of_key("no key at all".to_owned())).await.to_string();
    assert!(error.contains("no private key that OpenSSH can read"), "{error}");
}

#[tokio::test]
async fn a_host_that_accepts_and_says_nothing_is_given_up() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sshd = Sshd::start().await;
    let target = Ssh { port: mute.local_addr().unwrap().port(), ..sshd.target() };
    let begun = Instant::now();
    let accepted = async {
        let connection = mute.accept().await.unwrap().0;
        (connection, control_folder(target.port).await)
    };
    let (error, (_connection, folder)) = tokio::join!(refused(&target), accepted);
    assert!(matches!(error, SshError::TimedOut { .. }) && error.is_transient(), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    nothing_is_left(&folder).await;

    let nobody = Ssh { port: free_port(), ..sshd.target() };
    let error = refused(&nobody).await;
    assert!(matches!(error, SshError::Unreachable { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

/// The folder of the connection that goes to a port.
pub(super) async fn control_folder(port: u16) -> PathBuf {
    let look = async || {
        let line =
            processes_with(&format!(" -p {port} ")).into_iter().find(|line| line.contains("ControlPath="))?;
        let path = line.split_once("ControlPath=")?.1.split(' ').next()?;
        Some(Path::new(path).parent()?.to_owned())
    };
    until("a connection to the port", look).await
}

#[tokio::test]
async fn a_connection_that_breaks_or_falls_silent_ends_its_programs() {
    for (signal, patience) in [(Signal::KILL, Patience::default()), (Signal::STOP, SHORT)] {
        let sshd = Sshd::start().await;
        let session = Session::open_with(&sshd.target(), &patience).await.unwrap();
        let folder = folder_of(&session);
        let (log, mut lines) = LogSink::channel(Masker::default(), DEFAULT_LOG_BYTES);
        let program = endless().within(process::PATIENCE);
        let cut = async {
            let pid = pid_of(&lines.recv().await.unwrap().text);
            sshd.signal_connections(signal);
            pid
        };
        let (lost, pid) = tokio::join!(session.run(&program, Hear::Log(&log)), cut);
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        let lost = lost.unwrap_err();
        assert!(matches!(lost, SshError::Lost { .. }) && lost.is_transient(), "{signal:?}: {lost:?}");
        let after = run(&session, sh("echo again")).await.unwrap_err();
        assert!(matches!(after, SshError::Lost { .. }), "no other connection is made: {after:?}");
        sshd.signal_connections(Signal::KILL);
        drop(session);
        nothing_is_left(&folder).await;
    }
}

#[tokio::test]
async fn a_program_that_takes_too_long_or_is_given_up_leaves_nothing() {
    let sshd = Sshd::start().await;
    let session = Session::open(&sshd.target()).await.unwrap();
    let folder = folder_of(&session);
    let (log, mut lines) = LogSink::channel(Masker::default(), DEFAULT_LOG_BYTES);
    let mut pids = Vec::new();

    let hasty = endless().within(Duration::from_secs(1));
    let error = session.run(&hasty, Hear::Log(&log)).await.unwrap_err();
    pids.push(pid_of(&lines.recv().await.unwrap().text));
    assert!(matches!(error, SshError::TimedOut { .. }), "{error:?}");
    assert!(error.to_string().contains("`sh` on 127.0.0.1 port"), "{error}");
    assert_eq!(run(&session, sh("echo on")).await.unwrap().answer().unwrap(), "on\n");

    let dropped = endless().within(Duration::from_secs(3));
    tokio::select! {
        ended = session.run(&dropped, Hear::Log(&log)) => panic!("{ended:?}"),
        line = lines.recv() => pids.push(pid_of(&line.unwrap().text)),
    }
    drop(session);
    assert!(!folder.exists());
    nothing_is_left(&folder).await;
    for pid in pids {
        let gone = async || rustix::process::test_kill_process(pid).is_err().then_some(());
        until("the end of the program on the target", gone).await;
    }
}

/// Says its process id, and goes on.
fn endless() -> Program {
    sh("echo $$; exec tail -f /dev/null")
}

fn pid_of(line: &str) -> Pid {
    Pid::from_raw(line.parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a_socket_of_the_target_is_reached_through_the_connection() {
    let sshd = Sshd::start().await;
    let session = Session::open(&sshd.target()).await.unwrap();
    let remote = sshd.path("engine.sock");
    let listener = UnixListener::bind(&remote).unwrap();
    let local = session.forward(remote.to_str().unwrap()).await.unwrap();
    let serve = async {
        let mut connection = listener.accept().await.unwrap().0;
        connection.write_all(b"pong").await.unwrap();
    };
    let ask = async {
        let mut answer = String::new();
        UnixStream::connect(&local).await.unwrap().read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (answer, ()) = tokio::join!(ask, serve);
    assert_eq!(answer, "pong");
    for bad in ["engine.sock", "/a:/b", "/a b", "-o"] {
        assert!(session.forward(bad).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn the_agent_of_a_target_opens_no_other_door() {
    let (sshd, other) = tokio::join!(Sshd::start(), Sshd::start());
    let agent = Agent::start(&sshd.target()).await.unwrap();
    // The same key would be let in there.
    other.authorize(agent.public_key());
    let known = sshd.path("known_hosts");
    let lines = [&sshd, &other].map(|host| format!("[127.0.0.1]:{} {}\n", host.port(), host.host_key()));
    std::fs::write(&known, lines.concat()).unwrap();
    let ssh = async |host: &Sshd, identity: &str| {
        let mut ssh = tool("ssh");
        ssh.args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .args(["-i", identity, "-p", &host.port().to_string(), "127.0.0.1", "echo in"])
            .env("SSH_AUTH_SOCK", agent.socket());
        process::run(&mut ssh).await
    };
    assert_eq!(ssh(&sshd, "none").await.good(), "in\n");
    let refused = ssh(&other, "none").await.failed(255);
    assert!(refused.contains("Permission denied (publickey)"), "{refused}");
    assert_eq!(ssh(&other, sshd.path("key").to_str().unwrap()).await.good(), "in\n");
    let folder = agent.socket().parent().unwrap().to_owned();
    agent.end().await;
    nothing_is_left(&folder).await;
}
