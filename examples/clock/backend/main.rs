//! The clock's backend: `GET /clock` answers the time as a unix timestamp with microseconds.
//!
//! CLOCK_LISTEN        address and port to listen on (0.0.0.0:8080)
//! CLOCK_ALLOW_ORIGIN  the web origin whose pages may read the clock directly (none)

mod http;

use http::Response;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};
use std::{env, process};

fn main() {
    let listen = env::var("CLOCK_LISTEN").unwrap_or_else(|_| "0.0.0.0:8080".to_string());
    let allow_origin = env::var("CLOCK_ALLOW_ORIGIN").ok().filter(|origin| !origin.is_empty());
    if let Some(origin) = allow_origin.iter().find(|origin| origin.chars().any(char::is_control)) {
        fail(format!("CLOCK_ALLOW_ORIGIN is {:?}; a web origin has no control characters", origin));
    }
    let listener = TcpListener::bind(&listen)
        .unwrap_or_else(|error| fail(format!("cannot listen on CLOCK_LISTEN={}: {}", listen, error)));
    println!("clock-backend listens on {}", listen);
    http::serve(listener, move |path| route(path, allow_origin.as_deref()));
}

fn fail(message: String) -> ! {
    eprintln!("clock-backend: {}", message);
    process::exit(2)
}

fn route(path: &str, allow_origin: Option<&str>) -> Response {
    match path {
        "/clock" => {
            // A machine whose clock is before 1970 shows 1970.
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let mut response = Response::text("200 OK", timestamp(now));
            if let Some(origin) = allow_origin {
                response.headers.push(("Access-Control-Allow-Origin", origin.to_string()));
                response.headers.push(("Vary", "Origin".to_string()));
            }
            response
        }
        "/healthz" => Response::text("200 OK", "ok\n"),
        _ => Response::text("404 Not Found", "try /clock\n"),
    }
}

/// As text, because a 64-bit float is just too coarse to promise the last digit.
fn timestamp(since_epoch: Duration) -> String {
    format!("{}.{:06}", since_epoch.as_secs(), since_epoch.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_has_six_digits_after_the_point() {
        assert_eq!(timestamp(Duration::new(1_763_712_000, 1_234_999)), "1763712000.001234");
    }

    #[test]
    fn the_clock_is_a_float_near_now() {
        let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let shown: f64 = route("/clock", None).body.parse().unwrap();
        assert!(shown >= before - 0.001 && shown < before + 60.0, "{} after {}", shown, before);
    }

    #[test]
    fn only_the_configured_origin_may_read_the_clock() {
        assert!(route("/clock", None).headers.is_empty());
        let headers = route("/clock", Some("https://example.org")).headers;
        assert_eq!(headers[0], ("Access-Control-Allow-Origin", "https://example.org".to_string()));
    }

    #[test]
    fn other_paths_are_not_found() {
        assert_eq!(route("/", None).status, "404 Not Found");
        assert_eq!(route("/healthz", None).status, "200 OK");
    }
}
