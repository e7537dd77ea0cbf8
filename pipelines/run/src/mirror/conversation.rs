//! The program that works on the mirror, and what is said with it.
//!
//! It is written in Python because dnf is, so whatever has dnf has all that it needs. It is sent
//! each time, whole, on the standard input of the `python3` there: nothing has to be installed, and
//! both sides are always of one version. Names of packages travel the same way, as data.

use std::{collections::BTreeMap, process::ExitStatus, time::Duration};

use mergeyard_types::Digest;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    StepFault,
    log::{LogSink, Stream},
};

/// The modules of the program, each before those that use it.
const PROGRAM: [(&str, &str); 4] = [
    ("link", include_str!("program/link.py")),
    ("layout", include_str!("program/layout.py")),
    ("upstream", include_str!("program/upstream.py")),
    ("main", include_str!("program/main.py")),
];

/// Runs its argument in the first Python that has dnf: the system's own is not always the first in
/// the path. No part of this comes from anywhere else.
const FIND_PYTHON: &str = r#"
for python in python3 /usr/bin/python3 /usr/libexec/platform-python; do
  if "$python" -I -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("dnf") is None)' 2>/dev/null; then
    exec "$python" -I -c "$1"
  fi
done
echo 'the mirror has no python3 with the module dnf; install dnf and python3-dnf there' >&2
exit 1
"#;

/// The program ends, and with it its lock, when it hears nothing for a minute.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// One document of the program; a closure of 100,000 packages is a quarter of this.
const MOST_DOCUMENT: u64 = 64 << 20;

/// Of what the program complained, the end says most.
const MOST_COMPLAINTS: usize = 8 * 1024;

/// What is asked of the program.
#[derive(Debug, Serialize)]
pub(super) struct Request<'a> {
    #[serde(flatten)]
    pub(super) work: Work,
    pub(super) root: &'a str,
    /// Names of repositories; empty: all that are enabled.
    pub(super) upstreams: &'a [String],
    pub(super) keep: usize,
    /// Whoever waits for the lock is told.
    pub(super) holder: String,
}

#[derive(Debug, Serialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub(super) enum Work {
    Update {
        packages: Vec<String>,
    },
    Check {
        packages: Vec<String>,
    },
    /// The hexadecimal digits of a snapshot's digest.
    Rollback {
        snapshot: String,
    },
}

/// What the program has to say.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Document {
    Say(String),
    Ready(Ready),
    Done(String),
    Failed(String),
}

/// A snapshot that is complete on the mirror's disk, or, of a check, what would be one.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    pub(super) digest: Option<Digest>,
    /// What is served now.
    pub(super) before: Option<Digest>,
    /// What each entry of the list stands for.
    pub(super) entries: BTreeMap<String, Vec<String>>,
    pub(super) packages: Vec<Package>,
    pub(super) removed: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Package {
    /// `name-epoch:version-release.arch`.
    pub(super) name: String,
    /// Below the mirror's URL.
    pub(super) file: String,
    pub(super) size: u64,
    /// Not served now with this content.
    pub(super) new: bool,
}

/// What the program does when it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Serve the new snapshot.
    Switch,
    /// Serve the one before again.
    Back,
    /// Let go of what is too old, and end.
    Keep,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Order::Switch => "switch",
            Order::Back => "back",
            Order::Keep => "keep",
        }
    }
}

/// What [`Conversation::with`] expects to talk with.
pub(super) fn program() -> (&'static str, [&'static str; 4]) {
    ("sh", ["-c", FIND_PYTHON, "sh", include_str!("program/boot.py")])
}

/// Ends the program when it is dropped, wherever the program stands.
pub(super) struct Conversation {
    child: Child,
    /// Closing it closes the program's standard input.
    orders: Option<mpsc::Sender<String>>,
    documents: BufReader<ChildStdout>,
    complaints: JoinHandle<String>,
    log: LogSink,
}

/// Why the program does not go on.
pub(super) enum Silence {
    Failed(String),
    /// It, or the way to it, did not say why.
    Ended {
        status: ExitStatus,
        stderr: String,
    },
    /// What came is no document of ours.
    Garbled(String),
}

impl Conversation {
    pub(super) fn with(mut child: Child, request: &Request<'_>, log: &LogSink) -> Result<Self, StepFault> {
        let sent = serde_json::json!({ "program": PROGRAM, "request": request }).to_string();
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(StepFault::lasting("the mirror's program has no input or output"));
        };
        let (orders, told) = mpsc::channel(4);
        tokio::spawn(speak(stdin, sent, told));
        let complaints = tokio::spawn(listen(stderr, log.clone()));
        let (documents, log) = (BufReader::new(stdout), log.clone());
        Ok(Self { child, orders: Some(orders), documents, complaints, log })
    }

    pub(super) async fn ready(&mut self) -> Result<Ready, Silence> {
        match self.document().await? {
            Document::Ready(ready) => Ok(ready),
            other => Err(unexpected(&other)),
        }
    }

    /// Tells the program to do something, and waits until it is done.
    pub(super) async fn order(&mut self, order: Order) -> Result<(), Silence> {
        if let Some(orders) = &self.orders {
            // A program that has ended says more by its end.
            let _ = orders.send(format!("{}\n", order.word())).await;
        }
        match self.document().await? {
            Document::Done(done) if done == order.word() => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn document(&mut self) -> Result<Document, Silence> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.documents).take(MOST_DOCUMENT).read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(1..)) || line.last() != Some(&b'\n') {
                return Err(self.end().await);
            }
            match serde_json::from_slice(&line) {
                Ok(Document::Say(text)) => self.log.note(&text).await,
                Ok(Document::Failed(why)) => {
                    // It ends now, and what it complained of may still be on its way.
                    self.end().await;
                    return Err(Silence::Failed(why));
                }
                Ok(document) => return Ok(document),
                Err(error) => return Err(Silence::Garbled(error.to_string())),
            }
        }
    }

    async fn end(&mut self) -> Silence {
        self.orders = None;
        let stderr = (&mut self.complaints).await.unwrap_or_default();
        let status = self.child.wait().await.unwrap_or_default();
        Silence::Ended { status, stderr }
    }
}

fn unexpected(document: &Document) -> Silence {
    let shown: String = format!("{document:?}").chars().take(200).collect();
    Silence::Garbled(format!("it was not its turn to say {shown}"))
}

/// Everything that the program reads. It ends with the conversation.
async fn speak(mut stdin: ChildStdin, sent: String, mut told: mpsc::Receiver<String>) {
    let mut next = Some(format!("{sent}\n"));
    while let Some(text) = next {
        // A program that does not read any more has ended, and says more by its end.
        if stdin.write_all(text.as_bytes()).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
        next = match tokio::time::timeout(HEARTBEAT, told.recv()).await {
            Ok(order) => order,
            Err(_) => Some("\n".to_owned()),
        };
    }
}

/// All that the program complains about goes to the log; the end of it is handed back.
async fn listen(mut stderr: ChildStderr, log: LogSink) -> String {
    let mut log = log.writer(Stream::Stderr, "");
    let (mut last, mut chunk) = (Vec::new(), Vec::with_capacity(16 * 1024));
    while let Ok(1..) = stderr.read_buf(&mut chunk).await {
        log.write(&chunk).await;
        last.append(&mut chunk);
        last.drain(..last.len().saturating_sub(MOST_COMPLAINTS));
    }
    log.finish().await;
    String::from_utf8_lossy(&last).trim().to_owned()
}
