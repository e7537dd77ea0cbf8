//! BuildKit's progress as lines: each piece of work gets a number when it begins, its
//! output carries the number, and it says its time when it is done.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};

use crate::log::{LogSink, LogWriter, Stream, seconds};

pub(super) struct Progress {
    log: LogSink,
    vertexes: HashMap<String, Seen>,
    next: usize,
}

struct Seen {
    number: usize,
    name: String,
    done: bool,
    stdout: LogWriter,
    stderr: LogWriter,
}

impl Progress {
    pub(super) fn new(log: &LogSink) -> Self {
        Self { log: log.clone(), vertexes: HashMap::new(), next: 1 }
    }

    pub(super) async fn update(&mut self, status: StatusResponse) {
        let StatusResponse { vertexes, statuses: _, logs, warnings } = status;
        let (ended, begun): (Vec<_>, Vec<_>) = vertexes.into_iter().partition(|v| v.completed.is_some());
        for vertex in &begun {
            self.begin(vertex).await;
        }
        for log in logs {
            self.output(log).await;
        }
        for vertex in ended {
            self.begin(&vertex).await;
            self.end(vertex).await;
        }
        for warning in warnings {
            self.log.note(&format!("warning: {}", String::from_utf8_lossy(&warning.short))).await;
        }
    }

    /// What is still held back when the build is over.
    pub(super) async fn finish(self) {
        for seen in self.vertexes.into_values() {
            seen.stdout.finish().await;
            seen.stderr.finish().await;
        }
    }

    async fn begin(&mut self, vertex: &Vertex) {
        if vertex.started.is_none() && !vertex.cached || self.vertexes.contains_key(&vertex.digest) {
            return;
        }
        let number = self.next;
        self.next += 1;
        let prefix = format!("#{number} ");
        let seen = Seen {
            number,
            name: vertex.name.clone(),
            done: false,
            stdout: self.log.writer(Stream::Stdout, prefix.clone()),
            stderr: self.log.writer(Stream::Stderr, prefix),
        };
        self.vertexes.insert(vertex.digest.clone(), seen);
        self.log.note(&format!("#{number} {}", vertex.name)).await;
    }

    async fn output(&mut self, log: VertexLog) {
        let Some(seen) = self.vertexes.get_mut(&log.vertex) else { return };
        let writer = if log.stream == 2 { &mut seen.stderr } else { &mut seen.stdout };
        writer.write(&log.msg).await;
    }

    async fn end(&mut self, vertex: Vertex) {
        let Some(seen) = self.vertexes.get_mut(&vertex.digest) else { return };
        if std::mem::replace(&mut seen.done, true) {
            return;
        }
        let number = seen.number;
        let stdout =
            std::mem::replace(&mut seen.stdout, self.log.writer(Stream::Stdout, format!("#{number} ")));
        let stderr =
            std::mem::replace(&mut seen.stderr, self.log.writer(Stream::Stderr, format!("#{number} ")));
        stdout.finish().await;
        stderr.finish().await;
        let line = if !vertex.error.is_empty() {
            format!("#{number} {} failed: {}", seen.name, vertex.error)
        } else if vertex.cached {
            format!("#{number} CACHED")
        } else {
            format!("#{number} done {}", seconds(took(&vertex)))
        };
        self.log.note(&line).await;
    }
}

fn took(vertex: &Vertex) -> Duration {
    let time = |seconds: i64, nanos: i32| -> SystemTime {
        UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0))
    };
    let started = vertex.started.as_ref().map(|t| time(t.seconds, t.nanos));
    let completed = vertex.completed.as_ref().map(|t| time(t.seconds, t.nanos));
    let took = completed.zip(started).and_then(|(end, start)| end.duration_since(start).ok());
    took.unwrap_or_default()
}
