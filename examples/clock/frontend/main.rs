//! The clock's frontend: serves the page, and hands the page's `GET /clock` on to the backend, so that
//! the browser talks to one origin only.
//!
//! CLOCK_LISTEN   address and port to listen on (0.0.0.0:8080)
//! CLOCK_BACKEND  host and port of the backend (clock-backend:8080)

mod http;

use http::Response;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use std::{env, process};

/// The page asks every second, so an answer later than this is of no use to it.
const BACKEND_DEADLINE: Duration = Duration::from_secs(2);
/// A timestamp and its headers; a backend that sends more is not the clock.
const MAX_BACKEND_RESPONSE: usize = 4 * 1024;
/// The page uses nothing but its own two files and `/clock`.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                                       img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn main() {
    let listen = env::var("CLOCK_LISTEN").unwrap_or_else(|_| "0.0.0.0:8080".to_string());
    let backend = env::var("CLOCK_BACKEND").unwrap_or_else(|_| "clock-backend:8080".to_string());
    let listener = TcpListener::bind(&listen).unwrap_or_else(|error| {
        eprintln!("clock-frontend: cannot listen on CLOCK_LISTEN={}: {}", listen, error);
        process::exit(2)
    });
    println!("clock-frontend listens on {} and asks {}", listen, backend);
    http::serve(listener, move |path| route(path, &backend));
}

fn route(path: &str, backend: &str) -> Response {
    match path {
        "/" => file("text/html; charset=utf-8", include_str!("index.html")),
        "/style.css" => file("text/css; charset=utf-8", include_str!("style.css")),
        "/clock.js" => file("text/javascript; charset=utf-8", include_str!("clock.js")),
        "/clock" => ask(backend).unwrap_or_else(|error| {
            eprintln!("clock-frontend: {} does not tell the time: {}", backend, error);
            Response::text("502 Bad Gateway", "backend unreachable\n")
        }),
        "/healthz" => Response::text("200 OK", "ok\n"),
        _ => Response::text("404 Not Found", "not here\n"),
    }
}

fn file(content_type: &'static str, body: &str) -> Response {
    Response {
        content_type,
        headers: vec![("Content-Security-Policy", CONTENT_SECURITY_POLICY.to_string())],
        ..Response::text("200 OK", body)
    }
}

fn ask(backend: &str) -> io::Result<Response> {
    let deadline = Instant::now() + BACKEND_DEADLINE;
    let mut stream = connect(backend, deadline)?;
    stream.set_write_timeout(Some(http::remaining(deadline)?))?;
    write!(stream, "GET /clock HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", backend)?;
    let answer = http::read_until(&mut stream, deadline, MAX_BACKEND_RESPONSE, |_| false)?;
    answer
        .as_deref()
        .and_then(timestamp)
        .map(|time| Response::text("200 OK", time))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "its answer is not a unix timestamp"))
}

fn connect(backend: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in backend.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, http::remaining(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The backend's word is passed on only when it is a number: the page trusts this origin.
fn timestamp(answer: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?;
    let time: f64 = body.parse().ok()?;
    Some(body).filter(|_| status == "200" && time.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_passed_on_as_it_is() {
        assert_eq!(timestamp(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n1763712000.123456"), Some("1763712000.123456"));
    }

    #[test]
    fn anything_else_is_not() {
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<script>",
            "HTTP/1.1 200 OK\r\n\r\nNaN",
            "HTTP/1.1 500 No\r\n\r\n1763712000.1",
            "1763712000.1",
        ] {
            assert_eq!(timestamp(answer.as_bytes()), None, "{:?}", answer);
        }
    }

    #[test]
    fn a_backend_that_is_not_there_is_a_calm_502() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap().to_string();
        drop(listener);
        assert_eq!(route("/clock", &nobody).status, "502 Bad Gateway");
    }

    #[test]
    fn the_page_names_only_files_that_are_served() {
        let page = include_str!("index.html");
        let paths: Vec<_> = page.split("=\"/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(paths, ["style.css", "clock.js", "clock"]);
        for path in paths {
            assert_ne!(route(&format!("/{}", path), "").status, "404 Not Found", "{}", path);
        }
    }
}
