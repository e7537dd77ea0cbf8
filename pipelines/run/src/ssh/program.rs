//! One program on the target, from its start to its exit code.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{Session, SshError, local, quote};
use crate::log::{LogSink, LogWriter, Stream};

/// Enough for answers that are read as a whole; a log is told as it comes.
const KEEP: usize = 1024 * 1024;

/// Of what a program complains about, the end says most.
const KEEP_STDERR: usize = 8 * 1024;

/// A program of the target, with exactly these arguments whatever is in them.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    args: Vec<String>,
    stdin: Option<Bytes>,
    limit: Duration,
    keep: usize,
}

impl Program {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), args: Vec::new(), stdin: None, limit: Duration::from_secs(60), keep: KEEP }
    }

    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// What it reads; nothing unless told.
    pub fn stdin(mut self, input: impl Into<Bytes>) -> Self {
        self.stdin = Some(input.into());
        self
    }

    /// How long it may take: a minute unless told.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How much of its standard output is handed back: 1 MiB unless told.
    pub fn keep(mut self, bytes: usize) -> Self {
        self.keep = bytes;
        self
    }
}

/// Who else hears a program while it runs.
#[derive(Clone, Copy)]
pub enum Hear<'a> {
    Nobody,
    /// All it says.
    Log(&'a LogSink),
    /// Its standard error; its standard output is an answer for the caller.
    Complaints(&'a LogSink),
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub code: i32,
    /// From its beginning, as far as it is kept.
    pub stdout: Bytes,
    /// Whether there was more.
    pub is_cut: bool,
    /// Its end, as far as it is kept.
    pub stderr: String,
    address: String,
    program: String,
}

impl Ended {
    /// Any exit code but 0 is an error that says what the program complained about.
    pub fn good(self) -> Result<Ended, SshError> {
        match self.code {
            0 => Ok(self),
            code => Err(SshError::Exited {
                address: self.address,
                program: self.program,
                code,
                stderr: self.stderr.trim().to_owned(),
            }),
        }
    }

    /// The whole standard output of a program that ended well.
    pub fn answer(self) -> Result<String, SshError> {
        let Ended { stdout, is_cut, address, program, .. } = self.good()?;
        let size = stdout.len();
        match String::from_utf8(stdout.into()) {
            _ if is_cut => {
                let why = format!("answered more than {size} bytes");
                Err(SshError::Answer { address, program, why })
            }
            Err(_) => Err(SshError::Answer { address, program, why: "did not answer in UTF-8".to_owned() }),
            Ok(text) => Ok(text),
        }
    }
}

impl Session {
    /// Runs a program to its end. When this is dropped, the program's pipes close, and it ends when its
    /// time is up at the latest.
    pub async fn run(&self, program: &Program, hear: Hear<'_>) -> Result<Ended, SshError> {
        let Program { name, args, stdin, limit, keep } = program;
        let mut command = self.ssh(name, args, Some(*limit))?;
        if stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let lacking = |error| SshError::lacking("ssh", &error);
        let mut child = command.spawn().map_err(lacking)?;
        let (pipe, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut out, mut err) = (First::new(*keep), Last::new(KEEP_STDERR));
        let (out_log, err_log) = match hear {
            Hear::Nobody => (None, None),
            Hear::Log(log) => (Some(log.writer(Stream::Stdout, "")), Some(log.writer(Stream::Stderr, ""))),
            Hear::Complaints(log) => (None, Some(log.writer(Stream::Stderr, ""))),
        };
        let write = async {
            if let (Some(mut pipe), Some(input)) = (pipe, stdin) {
                // A program may end without having read everything; its exit code says how.
                let _ = pipe.write_all(input).await;
            }
        };
        let work = async {
            let stdout = follow(stdout, out_log, |chunk| out.add(chunk));
            let stderr = follow(stderr, err_log, |chunk| err.add(chunk));
            tokio::join!(write, stdout, stderr);
            child.wait().await.map_err(lacking)
        };
        let status = tokio::time::timeout(*limit, work).await.map_err(|_| SshError::TimedOut {
            what: format!("`{}` on {}", quote::shown(name), self.to()),
            after: *limit,
        })??;
        let stderr = String::from_utf8_lossy(&err.bytes).into_owned();
        let code = self.exit_code(status, &stderr).await?;
        Ok(Ended {
            code,
            stdout: out.bytes.freeze(),
            is_cut: out.is_cut,
            stderr,
            address: self.to().to_string(),
            program: quote::shown(name),
        })
    }

    /// Starts a program that is talked with while it runs. It has to end by itself when its pipes close,
    /// which they do with the child: it has no other limit there.
    pub(crate) fn start(&self, program: &Program) -> Result<Child, SshError> {
        let Program { name, args, .. } = program;
        self.ssh(name, args, None)?
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| SshError::lacking("ssh", &error))
    }

    fn ssh(&self, name: &str, args: &[String], limit: Option<Duration>) -> Result<Command, SshError> {
        let line = quote::line(name, args, limit)?;
        let mut command = local::command("ssh");
        command.args(self.client()).args(["--", self.to().address(), &line]).kill_on_drop(true);
        Ok(command)
    }

    /// How the program of an `ssh` ended, unless it was the connection that did.
    pub(crate) async fn exit_code(&self, status: ExitStatus, stderr: &str) -> Result<i32, SshError> {
        match status.code() {
            // ssh ends with 255 when it could not do its part, and so may the program.
            Some(255) if !self.is_alive().await => Err(self.lost().await),
            Some(255) if stderr.contains("mux_client_request_session:") => {
                let said =
                    "it refuses another session on this connection, see MaxSessions in its sshd_config";
                Err(SshError::Lost { address: self.to().to_string(), said: said.to_owned() })
            }
            Some(code) => Ok(code),
            None => Err(self.lost().await),
        }
    }
}

async fn follow(
    pipe: Option<impl AsyncRead + Unpin>,
    mut log: Option<LogWriter>,
    mut keep: impl FnMut(&[u8]),
) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = BytesMut::with_capacity(16 * 1024);
    // A pipe breaks only with its program, whose end tells more.
    while let Ok(1..) = pipe.read_buf(&mut chunk).await {
        keep(&chunk);
        if let Some(log) = &mut log {
            log.write(&chunk).await;
        }
        chunk.clear();
    }
    if let Some(log) = log {
        log.finish().await;
    }
}

/// The beginning of an output.
struct First {
    bytes: BytesMut,
    most: usize,
    is_cut: bool,
}

impl First {
    fn new(most: usize) -> Self {
        Self { bytes: BytesMut::new(), most, is_cut: false }
    }

    fn add(&mut self, chunk: &[u8]) {
        let room = (self.most - self.bytes.len()).min(chunk.len());
        self.bytes.extend_from_slice(&chunk[..room]);
        self.is_cut |= room < chunk.len();
    }
}

/// The end of an output.
struct Last {
    bytes: Vec<u8>,
    most: usize,
}

impl Last {
    fn new(most: usize) -> Self {
        Self { bytes: Vec::new(), most }
    }

    fn add(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        let over = self.bytes.len().saturating_sub(self.most);
        self.bytes.drain(..over);
    }
}
