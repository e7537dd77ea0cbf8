//! What a delivery says.

use std::{collections::BTreeMap, path::Path};

use mergeyard_plan::event::{
    Account, Deployment, Event, EventKind, Forge, Head, Merge, PullRequest, Push, Release, Repository,
};
use mergeyard_types::{GitRef, Timestamp};
use serde_json::{Value, json};

use crate::{
    BASE, HEAD, MERGE, ZEROS, asked, deployment, git, git_push, github, merged, pull, push, release, with,
    without,
};

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
            "pull_request.labeled" => "pull_request_metadata",
            "push" | "push.1" => "tag",
            _ => header,
        };
        assert_eq!(event.name(), expected, "{file}");
        let typed = event.kind().is_some() || event == Event::Ping;
        assert_eq!(matches!(event, Event::Other { .. }), !typed, "{file}");
        says_what_github_wrote(&event, file, expected);
        read += 1;
    }
    assert!(read > 0, "{} is empty", folder.display());
}

/// What stands in the payloads of GitHub's documentation.
fn says_what_github_wrote(event: &Event, file: &str, name: &str) {
    match event {
        Event::Push(push) | Event::Tag(push) => {
            assert_eq!(push.after.is_none(), name == "tag", "{file}: both tag payloads are deletions");
            let files = (name == "push").then(|| vec!["README.md".to_owned()]);
            assert_eq!((&push.files, push.author.id), (&files, Some(21_031_067)), "{file}");
        }
        Event::PullRequest(pull) if pull.number == 2 => {
            assert_eq!(pull.head.branch, "changes", "{file}");
            assert_eq!(
                (pull.author.id, pull.base.as_str()),
                (Some(21_031_067), "refs/heads/master"),
                "{file}"
            );
            assert!(pull.head.repository.is_none_or(|(id, _)| Some(id) == pull.repository.id), "{file}");
        }
        Event::Release(release) => {
            assert_eq!(
                (release.tag.as_str(), release.title.as_str()),
                ("refs/tags/0.0.1", "0.0.1"),
                "{file}"
            );
            assert_eq!((release.target.as_str(), release.prerelease), ("master", false), "{file}");
        }
        _ => {}
    }
}

#[test]
fn a_merged_pull_request_says_which_commit_and_when() {
    let expected = PullRequest {
        kind: EventKind::PullRequestMerged,
        action: "closed".to_owned(),
        repository: clock(),
        number: 7,
        title: "Tell the time".to_owned(),
        author: ada(),
        html_url: Some("https://git.example.org/acme/clock/pull/7".to_owned()),
        base: GitRef::branch("develop").unwrap(),
        base_commit: BASE.parse().unwrap(),
        head: Head {
            branch: "feature".to_owned(),
            commit: HEAD.parse().unwrap(),
            repository: Some((1, Some(2))),
        },
        labels: vec!["bug".to_owned()],
        milestone: "v1".to_owned(),
        draft: false,
        updated: "2026-03-01T12:00:01Z".to_owned(),
        merge: Some(Merge { commit: MERGE.parse().unwrap(), at: Timestamp(1_772_366_400_000) }),
    };
    assert_eq!(github("pull_request", &merged()).unwrap(), Event::PullRequest(Box::new(expected)));
}

#[test]
fn what_happens_to_a_pull_request_is_one_of_three_events() {
    for (action, expected) in [
        ("opened", EventKind::PullRequest),
        ("reopened", EventKind::PullRequest),
        ("synchronize", EventKind::PullRequest),
        ("ready_for_review", EventKind::PullRequest),
        ("closed", EventKind::PullRequestClosed),
        ("labeled", EventKind::PullRequestMetadata),
        ("unlabeled", EventKind::PullRequestMetadata),
        ("edited", EventKind::PullRequestMetadata),
        ("milestoned", EventKind::PullRequestMetadata),
        ("converted_to_draft", EventKind::PullRequestMetadata),
    ] {
        let read = pulled(&pull(action));
        assert_eq!((read.kind, read.action.as_str(), read.merge), (expected, action, None));
    }
}

#[test]
fn what_is_merged_was_closed_too_and_nothing_else_is_two_things() {
    for kind in EventKind::ALL {
        for listed in EventKind::ALL {
            let both = (kind, listed) == (EventKind::PullRequestMerged, EventKind::PullRequestClosed);
            assert_eq!(kind.is(listed), kind == listed || both, "{kind} as {listed}");
        }
    }
}

#[test]
fn a_pull_request_closed_unmerged_takes_over_no_trial_merge() {
    let closed = with(merged(), "/pull_request/merged", json!(false));
    assert_eq!((pulled(&closed).kind, pulled(&closed).merge), (EventKind::PullRequestClosed, None));
    // Neither is missed where there is none.
    assert_eq!(pulled(&pull("closed")).merge, None);
}

#[test]
fn a_head_repository_or_author_that_is_gone_is_not_missed() {
    let payload = with(merged(), "/pull_request/head/repo", Value::Null);
    assert_eq!(pulled(&payload).head.repository, None);
    for payload in
        [with(merged(), "/pull_request/user", Value::Null), without(merged(), "/pull_request/user")]
    {
        assert_eq!((pulled(&payload).author.login.as_str(), pulled(&payload).author.id), ("ghost", None));
    }
    let Event::Push(push) = github("push", &with(push(), "/sender", Value::Null)).unwrap() else { panic!() };
    assert_eq!(push.author.login, "ghost");
}

#[test]
fn a_push_names_its_commit_and_its_files_and_a_deletion_none() {
    let plain = Push {
        forge: Forge::Github,
        repository: clock(),
        git_ref: GitRef::branch("develop").unwrap(),
        before: None,
        after: Some(MERGE.parse().unwrap()),
        pushed: None,
        forced: false,
        base_branch: None,
        author: ada(),
        title: "Tell the time".to_owned(),
        files: Some(["README.md", "a", "b"].map(str::to_owned).to_vec()),
        url: Some("https://git.example.org/c".to_owned()),
    };
    assert_eq!(github("push", &push()).unwrap(), Event::Push(plain.clone()));

    // What was replaced is not in the list of what is new.
    let forced = Push { forced: true, files: None, before: Some(BASE.parse().unwrap()), ..plain.clone() };
    let payload = with(with(push(), "/forced", json!(true)), "/before", json!(BASE));
    assert_eq!(github("push", &payload).unwrap(), Event::Push(forced));

    // Other events write the same field as a date.
    for (at, pushed) in [(json!(1_784_000_000), Some(1_784_000_000)), (json!("2026-07-14T03:33:20Z"), None)] {
        let payload = with(push(), "/repository/pushed_at", at);
        let Event::Push(told) = github("push", &payload).unwrap() else { panic!() };
        assert_eq!(told.pushed, pushed);
    }

    let deleted = with(with(push(), "/after", json!(ZEROS)), "/head_commit", Value::Null);
    let Event::Push(unmarked) = github("push", &without(deleted.clone(), "/deleted")).unwrap() else {
        panic!()
    };
    assert_eq!(unmarked.after, None);
    let git_ref: GitRef = "refs/tags/v1".parse().unwrap();
    let deletion = Push { after: None, title: String::new(), files: None, url: None, git_ref, ..plain };
    let deleted = with(with(deleted, "/deleted", json!(true)), "/ref", json!("refs/tags/v1"));
    assert_eq!(github("push", &deleted).unwrap(), Event::Tag(deletion));
}

#[test]
fn an_annotated_tag_is_the_commit_it_is_about() {
    let tagged = with(with(push(), "/ref", json!("refs/tags/v1")), "/after", json!(BASE));
    let tagged = with(tagged, "/base_ref", json!("refs/heads/develop"));
    let Event::Tag(tag) = github("push", &tagged).unwrap() else { panic!() };
    assert_eq!((tag.after, tag.base_branch.as_deref()), (Some(MERGE.parse().unwrap()), Some("develop")));
}

#[test]
fn a_list_that_github_cuts_short_is_no_list() {
    let commits = |count| json!(vec![json!({"added": ["a"]}); count]);
    let files = |payload: &Value| match github("push", payload).unwrap() {
        Event::Push(push) => push.files,
        other => panic!("{other:?}"),
    };
    assert_eq!(files(&with(push(), "/commits", commits(2047))), Some(vec!["a".to_owned()]));
    assert_eq!(files(&with(push(), "/commits", commits(2048))), None);
    let many: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
    assert_eq!(files(&with(push(), "/commits", json!([{"modified": many}]))), None);
    assert_eq!(files(&without(push(), "/commits")), Some(vec![]));
}

#[test]
fn a_release_is_made_when_it_is_published() {
    let expected = Release {
        repository: clock(),
        tag: "refs/tags/v1".parse().unwrap(),
        target: "develop".to_owned(),
        title: "The first".to_owned(),
        prerelease: true,
        author: Account { avatar: "https://git.example.org/grace.png".to_owned(), ..grace() },
        html_url: Some("https://git.example.org/acme/clock/releases/v1".to_owned()),
    };
    assert_eq!(github("release", &release()).unwrap(), Event::Release(expected));
    let unnamed = github("release", &with(release(), "/release/name", json!(""))).unwrap();
    assert!(matches!(unnamed, Event::Release(Release { title, .. }) if title == "v1"));
    let drafted = github("release", &with(release(), "/action", json!("created"))).unwrap();
    assert_eq!((drafted.kind(), drafted.name()), (None, "release"));
    let error =
        github("release", &with(release(), "/release/tag_name", json!("-x"))).unwrap_err().to_string();
    assert!(error.contains("`release.tag_name`"), "{error}");
}

#[test]
fn a_deployment_says_what_goes_where() {
    let expected = Deployment {
        repository: clock(),
        id: 42,
        commit: MERGE.parse().unwrap(),
        wanted: "main".to_owned(),
        environment: "production".to_owned(),
        task: "deploy".to_owned(),
        description: "deploy to production".to_owned(),
        author: grace(),
        url: Some("https://api.example.org/42".to_owned()),
    };
    assert_eq!(github("deployment", &deployment("main")).unwrap(), Event::Deployment(expected));
}

#[test]
fn what_is_asked_for_here_reads_back() {
    let Event::Asked { asked: wish, repository, .. } = asked("manual", "refs/heads/main") else { panic!() };
    assert_eq!(wish.inputs, BTreeMap::from([("speed".to_owned(), "fast".to_owned())]));
    assert_eq!((repository.name.as_str(), wish.who.as_str()), ("acme/clock", "robin"));
    let again = Event::from_mergeyard(&serde_json::to_vec(&wish).unwrap()).unwrap();
    assert_eq!(again, asked("manual", "refs/heads/main"));
    let error = Event::from_mergeyard(br#"{"kind":"daily"}"#).unwrap_err().to_string();
    assert!(error.contains("as mergeyard writes it: `kind`"), "{error}");
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
    // What was changed last was the merge, where nobody says when that was.
    let dated = with(merged(), "/pull_request/merged_at", Value::Null);
    let Event::PullRequest(pull) = github("pull_request", &dated).unwrap() else { panic!() };
    assert_eq!(pull.merge.unwrap().at.0, 1_772_366_401_000);
    let undated = with(dated, "/pull_request/updated_at", Value::Null);
    let error = github("pull_request", &undated).unwrap_err().to_string();
    assert!(error.contains("`pull_request.merged_at`: it is missing although"), "{error}");
    let error = github("push", &json!(["refs/heads/main"])).unwrap_err().to_string();
    assert!(error.ends_with("`.`: it is no object"), "{error}");
    let error = github("push", &without(push(), "/repository")).unwrap_err().to_string();
    assert!(error.contains("missing field `repository`"), "{error}");
}

#[test]
fn any_git_server_can_say_that_a_branch_moved() {
    let plain = Push {
        forge: Forge::Git,
        repository: Repository::named("acme/clock".parse().unwrap()),
        git_ref: GitRef::branch("develop").unwrap(),
        before: None,
        after: Some(MERGE.parse().unwrap()),
        pushed: None,
        forced: false,
        base_branch: None,
        author: Account::default(),
        title: "push to refs/heads/develop".to_owned(),
        files: None,
        url: None,
    };
    assert_eq!(git(&git_push()).unwrap(), Event::Push(plain.clone()));

    let full =
        with(with(git_push(), "/message", json!("Tell the time\n")), "/author", json!("ada\u{1b}[31m\n"));
    let author = Account { login: "ada[31m".to_owned(), ..Account::default() };
    let expected = Push { title: "Tell the time".to_owned(), author, ..plain.clone() };
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
    let pull = pulled(&payload);
    assert!(pull.title.starts_with("[31mred") && pull.title.len() <= 300, "{}", pull.title);

    let error =
        github("pull_request", &with(merged(), "/pull_request", json!(endless))).unwrap_err().to_string();
    assert!(error.len() < 500, "{} bytes of error", error.len());
}

fn pulled(payload: &Value) -> PullRequest {
    match github("pull_request", payload).unwrap() {
        Event::PullRequest(pull) => *pull,
        other => panic!("{other:?}"),
    }
}

fn ada() -> Account {
    Account { id: Some(3), login: "ada".to_owned(), avatar: String::new() }
}

fn grace() -> Account {
    Account { id: Some(5), login: "grace".to_owned(), avatar: String::new() }
}

fn clock() -> Repository {
    Repository {
        id: Some(1),
        clone_url: Some("https://git.example.org/acme/clock.git".to_owned()),
        ssh_url: Some("git@git.example.org:acme/clock.git".to_owned()),
        html_url: Some("https://git.example.org/acme/clock".to_owned()),
        default_branch: Some("develop".to_owned()),
        private: true,
        ..Repository::named("acme/clock".parse().unwrap())
    }
}
