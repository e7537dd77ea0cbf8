//! Just enough HTTP/1.1 for a container that answers small GET requests: one request a connection, a
//! fixed number of threads, and limits on what a client may send and how long it may take. Backend and
//! frontend are separate build contexts, so this file is in both folders, byte for byte the same.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How many clients are served at once; further ones wait in the kernel's queue.
const THREADS: usize = 64;
/// A request line and its headers; this server has no use for more.
const MAX_HEAD: usize = 8 * 1024;
/// From accepting a connection to its last byte, so that slow clients cannot hold all threads.
const DEADLINE: Duration = Duration::from_secs(5);

pub struct Response {
    pub status: &'static str,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Response {
    pub fn text(status: &'static str, body: impl Into<String>) -> Self {
        Response {
            status,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn to_bytes(&self, with_body: bool) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n",
            self.status,
            self.content_type,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head += &format!("{}: {}\r\n", name, value);
        }
        head += "\r\n";
        if with_body {
            head += &self.body;
        }
        head.into_bytes()
    }
}

/// Answers requests until the process ends. `route` gets the path, without the query.
pub fn serve(listener: TcpListener, route: impl Fn(&str) -> Response + Send + Sync + 'static) {
    let listener = Arc::new(listener);
    let route = Arc::new(route);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (listener, route) = (listener.clone(), route.clone());
            thread::spawn(move || loop {
                match listener.accept() {
                    // A client that went away or dawdled is its own loss; the next one is waiting.
                    Ok((stream, _)) => drop(answer(stream, route.as_ref())),
                    // Out of file descriptors, most likely: give other threads time to close some.
                    Err(_) => thread::sleep(Duration::from_millis(50)),
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
}

fn answer(mut stream: TcpStream, route: &impl Fn(&str) -> Response) -> io::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let head = read_until(&mut stream, deadline, MAX_HEAD, ends_head)?;
    let (response, with_body) = match head.as_deref().map(parse) {
        Some(Some(("GET", path))) => (route(path), true),
        Some(Some(("HEAD", path))) => (route(path), false),
        Some(Some(_)) => return refuse(stream, deadline, "405 Method Not Allowed", "only GET and HEAD\n"),
        Some(None) => return refuse(stream, deadline, "400 Bad Request", "not an HTTP/1 request\n"),
        None => return refuse(stream, deadline, "431 Request Header Fields Too Large", "request too large\n"),
    };
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&response.to_bytes(with_body))
}

/// Says no, then reads a little of what may still come: closing a connection with unread bytes would
/// reset it, and the client might never see the answer.
fn refuse(mut stream: TcpStream, deadline: Instant, status: &'static str, why: &str) -> io::Result<()> {
    let mut refusal = Response::text(status, why);
    refusal.headers.push(("Allow", "GET, HEAD".to_string()));
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&refusal.to_bytes(true))?;
    stream.shutdown(Shutdown::Write)?;
    let patience = deadline.min(Instant::now() + Duration::from_millis(500));
    read_until(&mut stream, patience, 8 * MAX_HEAD, |_| false).map(drop)
}

/// Reads until `complete` is content or the other side closes; `None` when that takes more than `limit` bytes.
pub fn read_until(
    stream: &mut TcpStream,
    deadline: Instant,
    limit: usize,
    complete: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    let mut received = Vec::new();
    let mut chunk = [0; 1024];
    while !complete(&received) {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        received.extend_from_slice(&chunk[..count]);
        if received.len() > limit {
            return Ok(None);
        }
    }
    Ok(Some(received))
}

/// The time left, or an error when there is none: a timeout of zero would mean "for ever" to a socket.
pub fn remaining(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

pub fn ends_head(received: &[u8]) -> bool {
    received.windows(4).any(|window| window == b"\r\n\r\n")
}

/// Method and path of a request's first line.
fn parse(head: &[u8]) -> Option<(&str, &str)> {
    let end = head.iter().position(|&byte| byte == b'\r')?;
    let line = std::str::from_utf8(&head[..end]).ok()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return None;
    }
    let path = target.split('?').next()?;
    Some((method, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_gives_method_and_path_without_the_query() {
        assert_eq!(parse(b"GET /clock?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(("GET", "/clock")));
    }

    #[test]
    fn what_is_no_request_line_is_refused() {
        for line in ["", "\r\n", "GET\r\n", "GET clock HTTP/1.1\r\n", "GET / HTTP/2\r\n", "GET / HTTP/1.1 x\r\n"] {
            assert_eq!(parse(line.as_bytes()), None, "{:?}", line);
        }
        assert_eq!(parse(b"GET /\xff HTTP/1.1\r\n"), None);
    }

    #[test]
    fn a_head_response_announces_the_length_of_the_body_it_leaves_out() {
        let bytes = Response::text("200 OK", "12345").to_bytes(false);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"), "{}", text);
    }
}
