//! The planner from outside: what a delivery says, what is decided about it, how a run
//! goes on, and what no input may do.

mod decide;
mod event;
mod findings;
mod hostile;
mod include;
mod matrix;
mod reading;
mod render;
mod run;
mod schema;
mod substitute;
mod untrusted;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use mergeyard_plan::event::{Event, EventError};
use serde_json::{Value, json};

const MERGE: &str = "1111111111111111111111111111111111111111";
const ZEROS: &str = "0000000000000000000000000000000000000000";

fn github(event: &str, payload: &Value) -> Result<Event, EventError> {
    Event::from_github(event, payload.to_string().as_bytes())
}

fn git(payload: &Value) -> Result<Event, EventError> {
    Event::from_git(payload.to_string().as_bytes())
}

/// `pull_request`, closed by merging #7 into `develop`.
fn merged() -> Value {
    json!({
        "action": "closed",
        "number": 7,
        "pull_request": {
            "number": 7,
            "title": "Tell the time\nin two lines",
            "user": {"login": "ada", "id": 3},
            "html_url": "https://git.example.org/acme/clock/pull/7",
            "head": {"ref": "feature", "repo": {"full_name": "ada/clock"}},
            "base": {"ref": "develop"},
            "merged": true,
            "merged_at": "2026-03-01T12:00:00Z",
            "merge_commit_sha": MERGE,
        },
        "repository": repository(),
        "sender": {"login": "grace"},
    })
}

fn push() -> Value {
    json!({
        "ref": "refs/heads/develop",
        "before": ZEROS,
        "after": MERGE,
        "deleted": false,
        "head_commit": {"id": MERGE, "message": "Tell the time\n\nand the date"},
        "repository": repository(),
        "sender": {"login": "ada"},
    })
}

/// The body of `POST /hooks/git`.
fn git_push() -> Value {
    json!({"repository": "acme/clock", "ref": "refs/heads/develop", "before": ZEROS, "after": MERGE})
}

fn repository() -> Value {
    json!({
        "id": 1,
        "full_name": "acme/clock",
        "clone_url": "https://git.example.org/acme/clock.git",
        "html_url": "https://git.example.org/acme/clock",
    })
}

/// `payload` with another value at a JSON pointer; a key that was not there is added.
fn with(mut payload: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    payload.pointer_mut(parent).unwrap()[key] = value;
    payload
}

fn without(mut payload: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    payload.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    payload
}

/// What this thread has computed so far. Unlike a clock on the wall it does not count other
/// programs, so a limit on it holds on a busy machine; where the kernel does not tell, it is one.
fn cpu_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let of_thread = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = of_thread.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| START.elapsed(), Duration::from_nanos)
}
