//! What a delivery says.

use std::path::Path;

use mergeyard_plan::event::{Event, Forge, Merge, PullRequest, Push, Repository};
use mergeyard_types::{GitRef, Timestamp};
use serde_json::{Value, json};

use crate::{MERGE, ZEROS, git, git_push, github, merged, push, with, without};

/// GitHub's own payloads are read from beside the project where they are.
#[test]
fn githubs_own_payloads_read_as_what_they_are() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/github");
    let Ok(files) = std::fs::read_dir(&folder) else {
        return eprintln!("skipped: there are no payloads at {}", folder.display());
    };
    let mut read = 0;
    for file in files {
        let path = file.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let Some(stem) = file.strip_suffix(".json") else { continue };
        let header = stem.split('.').next().unwrap();
        let event = Event::from_github(header, &std::fs::read(&path).unwrap());
        let event = event.unwrap_or_else(|error| panic!("{file}: {error}"));
        let expected = match stem {
            "pull_request.merged" => "pull_request_merged",
            "pull_request.closed" => "pull_request_closed",
            "push" | "push.1" => "tag",
            _ => header,
        };
        assert_eq!(event.name(), expected, "{file}");
        let typed = matches!(expected, "ping" | "push" | "tag" | "release") || expected.ends_with("ed");
        assert_eq!(matches!(event, Event::Other { .. }), !typed, "{file}");
        if let Event::Push(push) | Event::Tag(push) = &event {
            assert_eq!(push.after.is_none(), expected == "tag", "{file}: both tag payloads are deletions");
        }
        read += 1;
    }
    assert!(read > 0, "{} is empty", folder.display());
}

#[test]
fn a_merged_pull_request_says_which_commit_and_when() {
    let expected = PullRequest {
        repository: clock(),
        number: 7,
        title: "Tell the time".to_owned(),
        author: "ada".to_owned(),
        html_url: Some("https://git.example.org/acme/clock/pull/7".to_owned()),
        base: GitRef::branch("develop").unwrap(),
        merge: Some(Merge { commit: MERGE.parse().unwrap(), at: Timestamp(1_772_366_400_000) }),
    };
    assert_eq!(github("pull_request", &merged()).unwrap(), Event::PullRequestClosed(expected));
}

#[test]
fn a_pull_request_closed_unmerged_takes_over_no_trial_merge() {
    let closed = with(merged(), "/pull_request/merged", json!(false));
    let event = github("pull_request", &closed).unwrap();
    assert_eq!(event.name(), "pull_request_closed");
    assert!(matches!(event, Event::PullRequestClosed(PullRequest { merge: None, .. })));
    // Neither is missed where there is none.
    let closed = with(
        with(closed, "/pull_request/merge_commit_sha", Value::Null),
        "/pull_request/merged_at",
        Value::Null,
    );
    assert!(github("pull_request", &closed).is_ok());
}

#[test]
fn a_head_repository_or_author_that_is_gone_is_not_missed() {
    let payload = with(merged(), "/pull_request/head/repo", Value::Null);
    assert_eq!(github("pull_request", &payload).unwrap().name(), "pull_request_merged");
    for payload in
        [with(merged(), "/pull_request/user", Value::Null), without(merged(), "/pull_request/user")]
    {
        let Event::PullRequestClosed(pull) = github("pull_request", &payload).unwrap() else {
            panic!("{payload}")
        };
        assert_eq!(pull.author, "ghost");
    }
    let Event::Push(push) = github("push", &with(push(), "/sender", Value::Null)).unwrap() else { panic!() };
    assert_eq!(push.author, "ghost");
}

#[test]
fn a_push_names_its_commit_and_a_deletion_none() {
    let plain = Push {
        forge: Forge::Github,
        repository: clock(),
        git_ref: GitRef::branch("develop").unwrap(),
        after: Some(MERGE.parse().unwrap()),
        author: "ada".to_owned(),
        title: "Tell the time".to_owned(),
    };
    assert_eq!(github("push", &push()).unwrap(), Event::Push(plain.clone()));

    let deleted = with(with(push(), "/after", json!(ZEROS)), "/head_commit", Value::Null);
    let deletion = Push { after: None, title: String::new(), ..plain };
    for payload in [with(deleted.clone(), "/deleted", json!(true)), without(deleted, "/deleted")] {
        assert_eq!(github("push", &payload).unwrap(), Event::Push(deletion.clone()));
        let git_ref: GitRef = "refs/tags/v1".parse().unwrap();
        let tag = github("push", &with(payload, "/ref", json!("refs/tags/v1"))).unwrap();
        assert_eq!(tag, Event::Tag(Push { git_ref, ..deletion.clone() }));
    }
}

#[test]
fn what_github_adds_tomorrow_is_other() {
    for (event, payload, action) in [
        ("pull_request", with(merged(), "/action", json!("teleported")), Some("teleported")),
        ("pull_request", without(merged(), "/action"), None),
        ("merge_group", with(merged(), "/action", json!("checks_requested")), Some("checks_requested")),
        ("teleport", without(push(), "/sender"), None),
    ] {
        let expected = Event::Other {
            repository: Some(clock()),
            event: event.to_owned(),
            action: action.map(str::to_owned),
        };
        assert_eq!(github(event, &payload).unwrap(), expected);
    }
    for payload in [json!({}), json!({"repository": null, "zen": [1, {"x": null}]})] {
        let expected = Event::Other { repository: None, event: "teleport".to_owned(), action: None };
        assert_eq!(github("teleport", &payload).unwrap(), expected);
    }
    let release =
        json!({"action": "published", "release": {"tag_name": "v1"}, "repository": crate::repository()});
    let expected = Event::Release { repository: clock(), tag: "v1".to_owned() };
    assert_eq!(github("release", &release).unwrap(), expected);
}

#[test]
fn a_wrong_type_is_named_by_its_path() {
    for (event, payload, pointer, wrong) in [
        ("pull_request", merged(), "/action", json!(5)),
        ("pull_request", merged(), "/pull_request", json!([])),
        ("pull_request", merged(), "/pull_request/number", json!("7")),
        ("pull_request", merged(), "/pull_request/number", json!(-7)),
        ("pull_request", merged(), "/pull_request/title", Value::Null),
        ("pull_request", merged(), "/pull_request/user/login", json!(3)),
        ("pull_request", merged(), "/pull_request/merged", json!("yes")),
        ("pull_request", merged(), "/pull_request/merged_at", json!("yesterday")),
        ("pull_request", merged(), "/pull_request/merged_at", Value::Null),
        ("pull_request", merged(), "/pull_request/merge_commit_sha", Value::Null),
        ("pull_request", merged(), "/pull_request/merge_commit_sha", json!("HEAD")),
        ("pull_request", merged(), "/pull_request/base/ref", json!("-x")),
        ("pull_request", merged(), "/pull_request/base/ref", json!(["develop"])),
        ("pull_request", merged(), "/repository/id", json!("1")),
        ("pull_request", merged(), "/repository/full_name", json!("../clock")),
        ("push", push(), "/ref", json!("develop")),
        ("push", push(), "/after", json!(1)),
        ("push", push(), "/deleted", json!("no")),
        ("push", push(), "/head_commit/message", json!({})),
        ("teleport", push(), "/repository/full_name", json!(true)),
    ] {
        let path = pointer[1..].replace('/', ".");
        let error = github(event, &with(payload, pointer, wrong.clone())).expect_err(&path).to_string();
        let expected =
            format!("the payload of event `{event}` does not read as GitHub writes it: `{path}`: ");
        assert!(error.starts_with(&expected), "{wrong} at {path}: {error}");
    }
    let error = github("push", &without(push(), "/repository")).unwrap_err().to_string();
    assert!(error.contains("missing field `repository`"), "{error}");
}

#[test]
fn any_git_server_can_say_that_a_branch_moved() {
    let plain = Push {
        forge: Forge::Git,
        repository: Repository {
            id: None,
            name: "acme/clock".parse().unwrap(),
            clone_url: None,
            html_url: None,
        },
        git_ref: GitRef::branch("develop").unwrap(),
        after: Some(MERGE.parse().unwrap()),
        author: String::new(),
        title: "push to refs/heads/develop".to_owned(),
    };
    assert_eq!(git(&git_push()).unwrap(), Event::Push(plain.clone()));

    let full =
        with(with(git_push(), "/message", json!("Tell the time\n")), "/author", json!("ada\u{1b}[31m\n"));
    let expected = Push { title: "Tell the time".to_owned(), author: "ada[31m".to_owned(), ..plain.clone() };
    assert_eq!(git(&full).unwrap(), Event::Push(expected));

    let deleted = git(&with(git_push(), "/after", json!(ZEROS))).unwrap();
    assert_eq!(deleted, Event::Push(Push { after: None, ..plain }));
    assert_eq!(git(&with(git_push(), "/ref", json!("refs/tags/v1"))).unwrap().name(), "tag");

    for key in ["/repository", "/ref", "/before", "/after"] {
        let error = git(&without(git_push(), key)).unwrap_err().to_string();
        assert!(error.contains(&format!("missing field `{}`", &key[1..])), "{error}");
        assert!(
            git(&with(git_push(), key, json!("-x")))
                .unwrap_err()
                .to_string()
                .contains(&format!("`{}`", &key[1..]))
        );
    }
}

#[test]
fn what_is_shown_to_people_is_one_short_line() {
    let endless = "x".repeat(100_000);
    let payload = with(merged(), "/pull_request/title", json!(format!("\u{1b}[31mred{endless}")));
    let Event::PullRequestClosed(pull) = github("pull_request", &payload).unwrap() else {
        panic!("{payload}")
    };
    assert!(pull.title.starts_with("[31mred") && pull.title.len() <= 300, "{}", pull.title);

    let error =
        github("pull_request", &with(merged(), "/pull_request", json!(endless))).unwrap_err().to_string();
    assert!(error.len() < 500, "{} bytes of error", error.len());
}

fn clock() -> Repository {
    Repository {
        id: Some(1),
        name: "acme/clock".parse().unwrap(),
        clone_url: Some("https://git.example.org/acme/clock.git".to_owned()),
        html_url: Some("https://git.example.org/acme/clock".to_owned()),
    }
}
