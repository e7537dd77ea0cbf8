//! Which event is about a commit to act on, and that every "no" is a sentence a person can act on.

use mergeyard_plan::{
    change::{At, Change, Fork, Identity, change},
    event::{Event, EventKind, Forge},
    policy::{Forks, Policies, Policy},
};
use mergeyard_types::{CommitSha, GitRef, Timestamp};
use serde_json::{Value, json};

use crate::{
    BASE, HEAD, MERGE, ZEROS, asked, deployment, git, git_push, github, merged, pull, push, release, with,
};

#[test]
fn only_what_the_operator_configured_starts_anything() {
    let policies = Policies(vec![policy("acme/clock", &["develop", "release/*"]), policy("lab/*", &[])]);
    let base = |branch: &str| with(merged(), "/pull_request/base/ref", json!(branch));
    let named = |name: &str| with(merged(), "/repository/full_name", json!(name));
    let git_ref = |name: &str| git(&with(git_push(), "/ref", json!(name))).unwrap();
    let pulled = |payload: &Value| github("pull_request", payload).unwrap();
    for (event, expected) in [
        (pulled(&merged()), Ok("develop")),
        (pulled(&base("release/1")), Ok("release/1")),
        (pulled(&named("Acme/Clock")), Ok("develop")),
        (pulled(&named("lab/anything")), Ok("develop")),
        (git(&git_push()).unwrap(), Ok("develop")),
        (github("push", &push()).unwrap(), Ok("develop")),
        (pulled(&pull("opened")), Ok("develop")),
        (pulled(&pull("closed")), Ok("develop")),
        // A tag is on no branch, and what was asked for here needs no leave.
        (git_ref("refs/tags/v1"), Ok("")),
        (asked("manual", "refs/heads/main"), Ok("")),
        (
            pulled(&base("main")),
            Err("branch `main` is not among the branches configured for acme/clock: develop, release/*"),
        ),
        (
            github("deployment", &deployment("main")).unwrap(),
            Err("branch `main` is not among the branches configured for acme/clock: develop, release/*"),
        ),
        (
            pulled(&named("acme/other")),
            Err(
                "repository acme/other is not configured; add `[[repo]]` with `name = \"acme/other\"` to mergeyard.toml",
            ),
        ),
        (
            github("push", &with(push(), "/after", json!(ZEROS))).unwrap(),
            Err("`refs/heads/develop` was deleted"),
        ),
        (git(&with(git_push(), "/after", json!(ZEROS))).unwrap(), Err("`refs/heads/develop` was deleted")),
        (git_ref("refs/notes/commits"), Err("`refs/notes/commits` is neither a branch nor a tag")),
        (
            pulled(&with(merged(), "/action", json!("teleported"))),
            Err("event `pull_request` with action `teleported` starts nothing here"),
        ),
        (
            github("fork", &json!({"repository": crate::repository()})).unwrap(),
            Err("event `fork` starts nothing here"),
        ),
        (github("meta", &json!({})).unwrap(), Err("event `meta` names no repository")),
        (Event::Ping, Err("event `ping` names no repository")),
    ] {
        let said = change(&event, &policies, &Identity::default());
        assert_eq!(said.as_ref().map(|change| change.branch.as_str()).map_err(String::as_str), expected);
    }
}

/// Each kind of event with the commit its work is read from, and what leads there.
#[test]
fn each_event_says_which_commit_it_is_about() {
    let sha = |text: &str| At::Commit(text.parse().unwrap());
    let tip = |name: &str| At::Tip(Some(name.parse().unwrap()));
    let pulled = |payload: &Value| github("pull_request", payload).unwrap();
    let tag = with(push(), "/ref", json!("refs/tags/v1"));
    for (event, kind, at, hint, occasion) in [
        (pulled(&merged()), EventKind::PullRequestMerged, sha(MERGE), "refs/heads/develop", ""),
        (
            pulled(&pull("closed")),
            EventKind::PullRequestClosed,
            sha(HEAD),
            "refs/pull/7/head",
            "#7/closed/2026-03-01T12:00:01Z",
        ),
        (
            pulled(&pull("opened")),
            EventKind::PullRequest,
            sha(HEAD),
            "refs/pull/7/head",
            "#7/opened/2026-03-01T12:00:01Z",
        ),
        (
            pulled(&pull("labeled")),
            EventKind::PullRequestMetadata,
            sha(HEAD),
            "refs/pull/7/head",
            "#7/labeled/2026-03-01T12:00:01Z",
        ),
        (
            github("push", &push()).unwrap(),
            EventKind::Push,
            sha(MERGE),
            "refs/heads/develop",
            "refs/heads/develop",
        ),
        (
            github("push", &with(with(push(), "/before", json!(BASE)), "/repository/pushed_at", json!(5)))
                .unwrap(),
            EventKind::Push,
            sha(MERGE),
            "refs/heads/develop",
            &format!("refs/heads/develop/{BASE}/5"),
        ),
        (github("push", &tag).unwrap(), EventKind::Tag, sha(MERGE), "refs/tags/v1", "refs/tags/v1"),
        // A plain git server names the tag's own object, so the tag is asked what it leads to.
        (
            git(&with(git_push(), "/ref", json!("refs/tags/v1"))).unwrap(),
            EventKind::Tag,
            tip("refs/tags/v1"),
            "refs/tags/v1",
            "refs/tags/v1",
        ),
        (
            github("release", &release()).unwrap(),
            EventKind::Release,
            tip("refs/tags/v1"),
            "refs/tags/v1",
            "refs/tags/v1",
        ),
        (
            github("deployment", &deployment("main")).unwrap(),
            EventKind::Deployment,
            sha(MERGE),
            "refs/heads/main",
            "42",
        ),
        (
            github("deployment", &deployment(MERGE)).unwrap(),
            EventKind::Deployment,
            sha(MERGE),
            "refs/heads/develop",
            "42",
        ),
        (
            asked("cron", "refs/heads/main"),
            EventKind::Cron,
            tip("refs/heads/main"),
            "refs/heads/main",
            "nightly/1",
        ),
        (
            asked("manual", "refs/heads/main"),
            EventKind::Manual,
            tip("refs/heads/main"),
            "refs/heads/main",
            "nightly/1",
        ),
    ] {
        let policies = Policies(vec![policy("acme/clock", &[])]);
        let change = change(&event, &policies, &Identity::default()).unwrap();
        assert_eq!(
            (change.event, &change.commit, change.occasion.as_str()),
            (kind, &at, occasion),
            "{event:?}"
        );
        let hints: Vec<&str> = change.hints.iter().map(GitRef::as_str).collect();
        assert_eq!(hints, [hint], "{event:?}");
        assert_eq!(change.known().is_some(), matches!(at, At::Commit(_)));
    }
}

#[test]
fn the_default_branch_is_known_once_it_was_asked_for() {
    let policies = Policies(vec![policy("acme/clock", &[])]);
    let event = Event::from_mergeyard(
        json!({"kind": "manual", "repository": "acme/clock", "ref": null, "occasion": "x"})
            .to_string()
            .as_bytes(),
    )
    .unwrap();
    let open = change(&event, &policies, &Identity::default()).unwrap();
    assert_eq!(open.commit, At::Tip(None));
    let found: Change<'_> = open.at(BASE.parse().unwrap(), Some(GitRef::branch("trunk").unwrap()));
    assert_eq!((found.branch.as_str(), found.hints.len()), ("trunk", 1));
    assert_eq!(found.commit, BASE.parse::<CommitSha>().unwrap());
}

/// The push and the pull request event of one merge are two events, whichever comes first; told
/// by two webhooks, each is still one.
#[test]
fn one_merge_is_one_occasion_of_each_event() {
    let policies = Policies(vec![policy("acme/clock", &[])]);
    let key = |event: &Event| {
        let change = change(event, &policies, &Identity::default()).unwrap().known().unwrap();
        (change.commit, change.event, change.occasion)
    };
    let (merge, push) = (merge(), github("push", &push()).unwrap());
    assert_eq!(key(&merge).0, key(&push).0);
    assert_ne!(key(&merge), key(&push));
    let again = with(merged(), "/pull_request/updated_at", json!("2026-03-02T00:00:00Z"));
    assert_eq!(key(&merge), key(&github("pull_request", &again).unwrap()));
    // A label that is set, taken away and set again is three occasions.
    let labelled =
        |at: &str| github("pull_request", &with(pull("labeled"), "/pull_request/updated_at", json!(at)));
    assert_ne!(key(&labelled("1").unwrap()), key(&labelled("2").unwrap()));

    let merge = change(&merge, &policies, &Identity::default()).unwrap();
    assert_eq!((merge.number, merge.merged_at), (Some(7), Some(Timestamp(1_772_366_400_000))));
    let event = git(&git_push()).unwrap();
    let pushed = change(&event, &policies, &Identity::default()).unwrap();
    assert_eq!((pushed.number, pushed.merged_at, pushed.forge), (None, None, Forge::Git));
}

#[test]
fn the_operator_says_which_events_count() {
    let mut only = policy("acme/clock", &[]);
    only.events = vec![EventKind::PullRequestClosed, EventKind::Tag];
    let policies = Policies(vec![only]);
    let said = |event: Event| change(&event, &policies, &Identity::default()).map(|change| change.event);
    assert_eq!(
        said(github("push", &push()).unwrap()).unwrap_err(),
        "event `push` is not among the events configured for acme/clock: pull_request_closed, tag"
    );
    // Who merges closes, too.
    assert_eq!(said(merge()), Ok(EventKind::PullRequestMerged));
    assert_eq!(said(asked("cron", "refs/heads/main")), Ok(EventKind::Cron));
}

#[test]
fn a_fork_is_the_word_of_whoever_could_change_it() {
    let forked = |repo: Value| with(pull("synchronize"), "/pull_request/head/repo", repo);
    let of = |payload: &Value| {
        let policies = Policies(vec![policy("acme/clock", &[])]);
        change(&github("pull_request", payload).unwrap(), &policies, &Identity::default()).unwrap().fork
    };
    let fork = |accounts: &[i64], unknown| Some(Fork { accounts: accounts.to_vec(), unknown });
    assert_eq!(of(&pull("opened")), None, "a branch of the repository itself");
    assert_eq!(of(&forked(json!({"id": 9, "owner": {"id": 3}}))), fork(&[3], false), "ada's own");
    assert_eq!(
        of(&forked(json!({"id": 9, "owner": {"id": 4}}))),
        fork(&[3, 4], false),
        "another's, proposed by ada"
    );
    assert_eq!(of(&forked(Value::Null)), fork(&[3], true), "deleted");
    let ghost = with(forked(json!({"id": 9, "owner": {"id": 4}})), "/pull_request/user", Value::Null);
    assert_eq!(of(&ghost), fork(&[4], true));
    let taken = with(merged(), "/pull_request/head/repo", json!({"id": 9, "owner": {"id": 4}}));
    assert_eq!(of(&taken), None, "merged, and so the repository's own");

    let mut never = policy("acme/clock", &[]);
    never.forks = Forks::Ignore;
    let policies = Policies(vec![never]);
    let event = github("pull_request", &forked(Value::Null)).unwrap();
    let why = change(&event, &policies, &Identity::default()).unwrap_err();
    assert_eq!(why, "it comes from a fork, and `forks` of acme/clock says to ignore those");
}

#[test]
fn the_first_policy_that_matches_holds() {
    let mut first = policy("acme/clock", &[]);
    first.supersede = false;
    let policies = Policies(vec![first, policy("acme/*", &["none"])]);
    assert!(!change(&merge(), &policies, &Identity::default()).unwrap().policy.supersede);
}

#[test]
fn a_policy_follows_the_repository_and_not_its_name() {
    const STRANGER: &str = "acme/clock is another repository than before (id 1, was 9) and inherits nothing; \
                            if it is yours, add `id = 1` to its `[[repo]]`";
    let plain = policy("acme/clock", &[]);
    let pinned = |name: &str, id| {
        let mut policy = policy(name, &[]);
        policy.id = Some(id);
        policy
    };
    let old = || policy("acme/old", &["develop"]);
    // Today the repository with id 1 is called acme/clock. What is configured, the name id 1
    // was accepted under, the id that had the name acme/clock: the policy it gets.
    for (configured, name_of_id, id_of_name, expected) in [
        (vec![plain.clone()], None, None, Ok("acme/clock")),
        (vec![plain.clone()], Some("acme/clock"), Some(1), Ok("acme/clock")),
        // Renamed: the policy goes with it, also when there is one for the new name.
        (vec![old()], Some("acme/old"), None, Ok("acme/old")),
        (vec![plain.clone(), old()], Some("acme/old"), Some(9), Ok("acme/old")),
        // Renamed after its policy was removed: it has none to bring along.
        (vec![plain.clone()], Some("acme/old"), None, Ok("acme/clock")),
        (vec![plain.clone()], Some("acme/old"), Some(9), Err(STRANGER)),
        // New under an old name: inherits nothing, until the operator pins its id.
        (vec![plain.clone()], None, Some(9), Err(STRANGER)),
        (vec![pinned("acme/clock", 1)], None, Some(9), Ok("acme/clock")),
        (vec![pinned("acme/clock", 9)], None, None, Err(STRANGER)),
        (vec![pinned("acme/clock", 9)], Some("acme/clock"), Some(1), Err(STRANGER)),
        // Its old name was pinned to the new repository there; it goes by its new one.
        (vec![pinned("acme/old", 9), plain], Some("acme/old"), None, Ok("acme/clock")),
    ] {
        let policies = Policies(configured);
        let identity = Identity { name_of_id: name_of_id.map(|name| name.parse().unwrap()), id_of_name };
        let event = merge();
        let said = change(&event, &policies, &identity);
        let said = said.as_ref().map(|change| change.known_as.as_str()).map_err(String::as_str);
        assert_eq!(said, expected, "{identity:?}");
    }
}

fn policy(name: &str, branches: &[&str]) -> Policy {
    let branches: Vec<String> = branches.iter().map(|branch| (*branch).to_owned()).collect();
    Policy::new(name, &branches).unwrap()
}

fn merge() -> Event {
    github("pull_request", &merged()).unwrap()
}
