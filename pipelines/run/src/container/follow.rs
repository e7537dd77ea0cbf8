//! A container from its start to its end: what it says, as it says it, and how it ended.
//!
//! Whoever starts a container listens to it from before its start. The engine's own log of it is
//! for who comes later: while the engine takes a container down, it answers nobody who asks for
//! that log, and of a program that ends at once this is all its time.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use bollard::{
    container::{AttachContainerResults, LogOutput},
    errors::Error,
    models::{ContainerWaitResponse, EventMessage},
    query_parameters::{
        AttachContainerOptionsBuilder, EventsOptionsBuilder, LogsOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures_util::{Stream as Frames, StreamExt};
use mergeyard_types::Timestamp;

use super::script::{Epilogue, Told};
use crate::{
    StepFault,
    engine::Engine,
    log::{LogSink, Stream},
};

/// After its end a container has nothing more to say; an engine that does not end its log within
/// this never will.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Seconds back from now, by a clock that may not be the engine's.
const EARLIER_EVENTS: i64 = 600;

/// What the engine's file spends on each piece of output besides the text.
const BYTES_PER_RECORD: u64 = 80;

/// How the init process says that there is no program to start.
const NO_PROGRAM: &[u8] = b"[FATAL tini";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Exited {
        code: i64,
        no_program: bool,
        /// What its script told at its end.
        told: Option<Told>,
    },
    /// It said more than it may.
    TooMuch,
    /// Somebody removed it.
    Removed,
}

/// A container that was not started yet, listened to.
pub(super) struct Heard(AttachContainerResults);

pub(super) async fn listen(engine: &Engine, container: &str) -> Result<Heard, StepFault> {
    let options = AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
    let attached = engine.docker().await?.attach_container(container, Some(options)).await;
    Ok(Heard(engine.checked("attach to the container", attached).await?))
}

/// Reads a container's output from its beginning and returns when it has ended. One that was
/// started earlier is read from the engine's log.
pub(super) async fn follow(
    engine: &Engine,
    container: &str,
    heard: Option<Heard>,
    epilogue: &Epilogue,
    most_bytes: u64,
    log: &LogSink,
) -> Result<End, StepFault> {
    let docker = engine.docker().await?;
    let died = HashMap::from([("container", vec![container]), ("event", vec!["die"])]);
    // It may have died before anybody listened.
    let since = (Timestamp::now().0 / 1000 - EARLIER_EVENTS).to_string();
    let options = EventsOptionsBuilder::new().filters(&died).since(&since).build();
    let mut deaths = docker.events(Some(options));
    let has_times = heard.is_none();
    // The other direction stays open, because closing it may be heard as going away.
    let (mut frames, _input) = match heard {
        Some(Heard(AttachContainerResults { output, input })) => (output, Some(input)),
        None => {
            let options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).timestamps(true);
            (docker.logs(container, Some(options.build())).boxed(), None)
        }
    };
    let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
    let mut waiting = docker.wait_container(container, Some(options));
    let mut output = Output {
        log,
        epilogue,
        has_times,
        most_bytes,
        bytes: 0,
        held: Vec::new(),
        no_program: false,
        told: None,
    };
    let (mut code, mut silent, mut no_events) = (None, false, false);
    loop {
        if let Some(code) = code.filter(|_| silent || output.told.is_some()) {
            output.end().await;
            return Ok(End::Exited { code, no_program: output.no_program, told: output.told });
        }
        tokio::select! {
            event = deaths.next(), if !no_events && code.is_none() => match event.map(|event| event.ok().and_then(death)) {
                Some(Some(exit)) => code = Some(exit),
                // Waiting tells it as well, a little later.
                _ => no_events = true,
            },
            frame = frames.next(), if !silent => match frame {
                Some(Ok(frame)) => {
                    if !output.take(frame).await {
                        return Ok(End::TooMuch);
                    }
                }
                Some(Err(Error::DockerResponseServerError { status_code: 404 | 409, .. })) => return Ok(End::Removed),
                Some(Err(e)) => return Err(engine.error("read a container's log", &e).await.into()),
                None => silent = true,
            },
            exit = exit_code(engine, &mut waiting), if code.is_none() => match exit? {
                Some(exit) => code = Some(exit),
                None => return Ok(End::Removed),
            },
            () = tokio::time::sleep(LAST_WORDS), if code.is_some() => silent = true,
        }
    }
}

/// The exit code in an event about a container's end.
fn death(event: EventMessage) -> Option<i64> {
    event.actor?.attributes?.get("exitCode")?.parse().ok()
}

/// `None` when there is no such container any more.
async fn exit_code<W>(engine: &Engine, waiting: &mut W) -> Result<Option<i64>, StepFault>
where
    W: Frames<Item = Result<ContainerWaitResponse, Error>> + Unpin,
{
    match waiting.next().await {
        Some(Ok(exit)) => Ok(Some(exit.status_code)),
        Some(Err(Error::DockerContainerWaitError { code, .. })) => Ok(Some(code)),
        Some(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Ok(None),
        Some(Err(e)) => Err(engine.error("wait for a container", &e).await.into()),
        None => Err(StepFault::transient("the engine stopped while the container ran")),
    }
}

struct Output<'a> {
    log: &'a LogSink,
    epilogue: &'a Epilogue,
    /// Whether each piece begins with the time it was said at.
    has_times: bool,
    most_bytes: u64,
    bytes: u64,
    /// The end of the last piece, which may be the beginning of the last words.
    held: Vec<u8>,
    no_program: bool,
    told: Option<Told>,
}

impl Output<'_> {
    /// False when it was too much.
    async fn take(&mut self, frame: LogOutput) -> bool {
        let (stream, bytes) = match frame {
            LogOutput::StdErr { message } => (Stream::Stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => (Stream::Stdout, message),
            LogOutput::StdIn { .. } => return true,
        };
        let (at, text) = if self.has_times { stamped(&bytes) } else { (Timestamp::now(), &*bytes) };
        let mut text = Cow::Borrowed(text);
        if stream == Stream::Stdout {
            if !self.held.is_empty() {
                text = [&std::mem::take(&mut self.held), &*text].concat().into();
            }
            let whole = text.len() - self.epilogue.begun(&text);
            self.held.extend_from_slice(&text[whole..]);
            match &mut text {
                Cow::Borrowed(text) => *text = &text[..whole],
                Cow::Owned(text) => text.truncate(whole),
            }
        }
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            self.take_line(at, stream, line).await;
        }
        self.bytes <= self.most_bytes
    }

    async fn take_line(&mut self, at: Timestamp, stream: Stream, mut line: &[u8]) {
        if let Some((before, told)) = self.epilogue.strip(line) {
            line = before;
            self.told = Some(told);
        }
        self.no_program |= line.starts_with(NO_PROGRAM);
        self.log.raw_at(at, stream, line).await;
        self.bytes += line.len() as u64 + BYTES_PER_RECORD;
    }

    /// What was held back was no beginning of anything.
    async fn end(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.log.raw_at(Timestamp::now(), Stream::Stdout, &held).await;
    }
}

/// The time that the engine puts before each piece of output, and the piece.
fn stamped(bytes: &[u8]) -> (Timestamp, &[u8]) {
    let parsed = bytes.iter().position(|byte| *byte == b' ').and_then(|space| {
        let time: jiff::Timestamp = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        Some((Timestamp(time.as_millisecond()), &bytes[space + 1..]))
    });
    parsed.unwrap_or_else(|| (Timestamp::now(), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_output_comes_with_its_time() {
        let (at, text) = stamped(b"2026-11-21T15:52:21.123456789Z  two words\n");
        assert_eq!((at, text), (Timestamp(1_795_276_341_123), b" two words\n".as_slice()));
        assert_eq!(stamped(b"no time").1, b"no time");
    }
}
