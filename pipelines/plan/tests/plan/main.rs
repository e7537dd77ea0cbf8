//! The planner from outside: what a delivery says, what is decided about it, how a run
//! goes on, and what no input may do.

mod built;
mod change;
mod decide;
mod documentation;
mod event;
mod findings;
mod flow;
mod gather;
mod hostile;
mod include;
mod matrix;
mod reading;
mod render;
mod rerun;
mod run;
mod scenarios;
mod schema;
mod substitute;
mod untrusted;
mod uses;
mod values;
mod when;
mod workflows;

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use mergeyard_plan::event::{Event, EventError};
use serde_json::{Value, json};

const MERGE: &str = "1111111111111111111111111111111111111111";
const HEAD: &str = "2222222222222222222222222222222222222222";
const BASE: &str = "3333333333333333333333333333333333333333";
const ZEROS: &str = "0000000000000000000000000000000000000000";

fn github(event: &str, payload: &Value) -> Result<Event, EventError> {
    Event::from_github(event, payload.to_string().as_bytes())
}

fn git(payload: &Value) -> Result<Event, EventError> {
    Event::from_git(payload.to_string().as_bytes())
}

/// `pull_request` #7, as `action` leaves it: open.
fn pull(action: &str) -> Value {
    let open = with(with(merged(), "/action", json!(action)), "/pull_request/merged", json!(false));
    with(with(open, "/pull_request/merged_at", Value::Null), "/pull_request/merge_commit_sha", Value::Null)
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
            "draft": false,
            "labels": [{"name": "bug"}],
            "milestone": {"title": "v1"},
            "updated_at": "2026-03-01T12:00:01Z",
            "head": {"ref": "feature", "sha": HEAD, "repo": {"id": 1, "full_name": "acme/clock", "owner": {"id": 2}}},
            "base": {"ref": "develop", "sha": BASE},
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
        "head_commit": {"id": MERGE, "message": "Tell the time\n\nand the date", "url": "https://git.example.org/c"},
        "commits": [
            {"added": ["b", "a"], "removed": [], "modified": ["README.md"]},
            {"added": [], "removed": ["a"], "modified": []},
        ],
        "repository": repository(),
        "sender": {"login": "ada", "id": 3},
    })
}

/// The body of `POST /hooks/git`.
fn git_push() -> Value {
    json!({"repository": "acme/clock", "ref": "refs/heads/develop", "before": ZEROS, "after": MERGE})
}

/// A release of the tag `v1`, made from `develop`.
fn release() -> Value {
    json!({
        "action": "published",
        "release": {
            "tag_name": "v1",
            "name": "The first",
            "target_commitish": "develop",
            "prerelease": true,
            "author": {"login": "grace", "id": 5, "avatar_url": "https://git.example.org/grace.png"},
            "html_url": "https://git.example.org/acme/clock/releases/v1",
        },
        "repository": repository(),
    })
}

fn deployment(wanted: &str) -> Value {
    json!({
        "action": "created",
        "deployment": {
            "id": 42, "sha": MERGE, "ref": wanted, "environment": "production", "task": "deploy",
            "description": null, "creator": {"login": "grace", "id": 5}, "url": "https://api.example.org/42",
        },
        "repository": repository(),
    })
}

/// What the scheduler, or a person, asked for.
fn asked(kind: &str, git_ref: &str) -> Event {
    let wish = json!({
        "kind": kind, "repository": "acme/clock", "ref": git_ref, "inputs": {"speed": "fast"}, "who": "robin",
        "name": "nightly", "occasion": "1",
    });
    Event::from_mergeyard(wish.to_string().as_bytes()).unwrap()
}

fn repository() -> Value {
    json!({
        "id": 1,
        "full_name": "acme/clock",
        "clone_url": "https://git.example.org/acme/clock.git",
        "ssh_url": "git@git.example.org:acme/clock.git",
        "html_url": "https://git.example.org/acme/clock",
        "default_branch": "develop",
        "private": true,
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
