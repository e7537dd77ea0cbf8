//! Webhook payloads in GitHub's own shape, about a sample repository.
//!
//! Every field GitHub sends is there ("Webhook events and payloads"), also those mergeyard
//! never reads: what accepts these payloads is proven on the real form and size. The
//! hundreds of links are built from the few rules they follow.

use mergeyard_types::{CommitSha, RepoName, Timestamp};
use serde_json::{Map, Value, json};

use super::repository::{AUTHOR, SampleMerge};

/// The sample's stand-in for github.com and its API; nothing answers there.
const SITE: &str = "https://git.example.org";
const API: &str = "https://api.git.example.org";

/// When everything that has no better date was made.
const FOUNDED: &str = "2023-11-06T08:30:00Z";

/// A repository as payloads describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostedRepository {
    /// Stays the same when the repository is renamed.
    pub id: i64,
    pub name: RepoName,
    pub clone_url: String,
    pub default_branch: String,
}

/// `pull_request`, `closed`, and merged.
pub fn merged_pull_request(repository: &HostedRepository, merge: &SampleMerge) -> Value {
    let merged = json!({
        "merged": true,
        "merged_at": time(merge.merged_at),
        "merged_by": user(AUTHOR.0),
        "mergeable": null,
        "rebaseable": null,
        "mergeable_state": "unknown",
    });
    closed(repository, merge, merged)
}

/// `pull_request`, `closed`, and not merged. GitHub leaves the commit of its trial merge in
/// `merge_commit_sha`, and so does this.
pub fn closed_pull_request(repository: &HostedRepository, merge: &SampleMerge) -> Value {
    let unmerged = json!({
        "merged": false,
        "merged_at": null,
        "merged_by": null,
        "mergeable": true,
        "rebaseable": true,
        "mergeable_state": "clean",
    });
    closed(repository, merge, unmerged)
}

/// `pull_request` while it is open, as `action` (`opened`, `synchronize`, `labeled` …) leaves it.
pub fn open_pull_request(repository: &HostedRepository, merge: &SampleMerge, action: &str) -> Value {
    let open = json!({
        "state": "open",
        "closed_at": null,
        "merged": false,
        "merged_at": null,
        "merged_by": null,
        "merge_commit_sha": null,
        "mergeable": null,
        "rebaseable": null,
        "mergeable_state": "unknown",
    });
    let mut payload = closed(repository, merge, open);
    payload["action"] = action.into();
    if action == "synchronize" {
        payload["before"] = json!(merge.base);
        payload["after"] = json!(merge.head);
    }
    payload
}

/// The same pull request, proposed by `login` from a fork of their own.
pub fn from_fork(mut payload: Value, login: &str) -> Value {
    let name = payload["repository"]["name"].as_str().unwrap_or_default().to_owned();
    let owner = user(login);
    let fork = json!({
        "id": 1_000_000 + owner["id"].as_i64().unwrap_or_default(),
        "full_name": format!("{login}/{name}"),
        "owner": owner,
        "fork": true,
    });
    payload["pull_request"]["user"] = owner.clone();
    payload["pull_request"]["author_association"] = "NONE".into();
    payload["pull_request"]["head"]["user"] = owner.clone();
    merged_into(&mut payload["pull_request"]["head"]["repo"], fork);
    payload["sender"] = owner;
    payload
}

/// The `push` to the base branch that a merge makes.
pub fn push(repository: &HostedRepository, merge: &SampleMerge) -> Value {
    let page = page(&repository.name);
    let message = format!("Merge pull request #{}\n\n{}", merge.number, merge.title);
    let merged = commit(repository, merge, merge.merge, &message);
    json!({
        "ref": format!("refs/heads/{}", merge.base_branch),
        "before": merge.base,
        "after": merge.merge,
        "created": false,
        "deleted": false,
        "forced": false,
        "base_ref": null,
        "compare": format!("{page}/compare/{}...{}", merge.base.short(), merge.merge.short()),
        "commits": [commit(repository, merge, merge.head, &merge.title), merged],
        "head_commit": merged,
        "repository": pushed_repository(repository, merge.merged_at),
        "pusher": { "name": AUTHOR.0, "email": AUTHOR.1 },
        "sender": user(AUTHOR.0),
    })
}

/// What a new webhook says first.
pub fn ping(repository: &HostedRepository, hook_id: u64, address: &str) -> Value {
    let hook = format!("{}/hooks/{hook_id}", api(&repository.name));
    json!({
        "zen": "Say it once, and say where.",
        "hook_id": hook_id,
        "hook": {
            "type": "Repository",
            "id": hook_id,
            "name": "web",
            "active": true,
            "events": ["pull_request", "push"],
            "config": { "content_type": "json", "insecure_ssl": "0", "url": address },
            "created_at": FOUNDED,
            "updated_at": FOUNDED,
            "url": hook,
            "test_url": format!("{hook}/test"),
            "ping_url": format!("{hook}/pings"),
            "deliveries_url": format!("{hook}/deliveries"),
            "last_response": { "code": null, "status": "unused", "message": null },
        },
        "repository": repository_object(repository, FOUNDED),
        "sender": user(AUTHOR.0),
    })
}

fn closed(repository: &HostedRepository, merge: &SampleMerge, outcome: Value) -> Value {
    let at = time(merge.merged_at);
    json!({
        "action": "closed",
        "number": merge.number,
        "pull_request": pull_request(repository, merge, &at, outcome),
        "repository": repository_object(repository, &at),
        "sender": user(AUTHOR.0),
    })
}

fn pull_request(repository: &HostedRepository, merge: &SampleMerge, at: &str, outcome: Value) -> Value {
    let number = merge.number;
    let (api, page) = (api(&repository.name), format!("{}/pull/{number}", page(&repository.name)));
    let (pull, issue) = (format!("{api}/pulls/{number}"), format!("{api}/issues/{number}"));
    let links = pull_links(&api, &pull, &issue, merge.head);
    let mut pull_request = json!({
        "id": 90_000 + number,
        "node_id": format!("PR_sample{number}"),
        "url": pull,
        "html_url": page,
        "diff_url": format!("{page}.diff"),
        "patch_url": format!("{page}.patch"),
        "issue_url": issue,
        "number": number,
        "state": "closed",
        "locked": false,
        "active_lock_reason": null,
        "draft": false,
        "title": merge.title,
        "body": "What this changes is told by its commits.",
        "user": user(AUTHOR.0),
        "author_association": "OWNER",
        "created_at": time(Timestamp(merge.merged_at.0 - 60_000)),
        "updated_at": at,
        "closed_at": at,
        "merge_commit_sha": merge.merge,
        "assignee": null,
        "assignees": [],
        "requested_reviewers": [],
        "requested_teams": [],
        "labels": [],
        "milestone": null,
        "auto_merge": null,
        "head": side(repository, &merge.head_branch, merge.head, at),
        "base": side(repository, &merge.base_branch, merge.base, at),
        "comments": 0,
        "review_comments": 0,
        "maintainer_can_modify": false,
        "commits": merge.commits,
        "additions": merge.additions,
        "deletions": merge.deletions,
        "changed_files": merge.added.len() + merge.modified.len() + merge.removed.len(),
    });
    let mut related =
        json!({ "self": { "href": pull }, "html": { "href": page }, "issue": { "href": issue } });
    for (name, address) in links {
        pull_request[format!("{name}_url")] = address.as_str().into();
        related[name] = json!({ "href": address });
    }
    pull_request["_links"] = related;
    merged_into(&mut pull_request, outcome);
    pull_request
}

fn pull_links(api: &str, pull: &str, issue: &str, head: CommitSha) -> [(&'static str, String); 5] {
    [
        ("commits", format!("{pull}/commits")),
        ("review_comments", format!("{pull}/comments")),
        ("review_comment", format!("{api}/pulls/comments{{/number}}")),
        ("comments", format!("{issue}/comments")),
        ("statuses", format!("{api}/statuses/{head}")),
    ]
}

/// One of the two branches of a pull request.
fn side(repository: &HostedRepository, branch: &str, sha: CommitSha, at: &str) -> Value {
    let owner = repository.name.owner();
    let mut full = repository_object(repository, at);
    let settings = json!({
        "allow_squash_merge": true,
        "allow_merge_commit": true,
        "allow_rebase_merge": true,
        "allow_auto_merge": false,
        "allow_update_branch": false,
        "delete_branch_on_merge": false,
        "use_squash_pr_title_as_default": false,
        "squash_merge_commit_message": "COMMIT_MESSAGES",
        "squash_merge_commit_title": "COMMIT_OR_PR_TITLE",
        "merge_commit_message": "PR_TITLE",
        "merge_commit_title": "MERGE_MESSAGE",
    });
    merged_into(&mut full, settings);
    json!({ "label": format!("{owner}:{branch}"), "ref": branch, "sha": sha, "user": user(owner), "repo": full })
}

/// The commit on the branch and its merge hold the same tree.
fn commit(repository: &HostedRepository, merge: &SampleMerge, sha: CommitSha, message: &str) -> Value {
    let person = json!({ "name": AUTHOR.0, "email": AUTHOR.1, "username": AUTHOR.0 });
    json!({
        "id": sha,
        "tree_id": merge.tree,
        "distinct": true,
        "message": message,
        "timestamp": time(merge.merged_at),
        "url": format!("{}/commit/{sha}", page(&repository.name)),
        "author": person,
        "committer": person,
        "added": merge.added,
        "removed": merge.removed,
        "modified": merge.modified,
    })
}

/// A push describes its repository a little differently: times in seconds, the owner with
/// an address, the page where others have the API.
fn pushed_repository(repository: &HostedRepository, at: Timestamp) -> Value {
    let mut pushed = repository_object(repository, &time(at));
    let differences = json!({
        "url": page(&repository.name),
        "created_at": at.0 / 1000,
        "pushed_at": at.0 / 1000,
        "stargazers": 0,
        "master_branch": repository.default_branch,
    });
    merged_into(&mut pushed, differences);
    merged_into(&mut pushed["owner"], json!({ "name": repository.name.owner(), "email": AUTHOR.1 }));
    pushed
}

fn repository_object(repository: &HostedRepository, at: &str) -> Value {
    let HostedRepository { id, name, clone_url, default_branch } = repository;
    let (api, page) = (api(name), page(name));
    let mut object = json!({
        "id": id,
        "node_id": format!("R_sample{id}"),
        "name": name.name(),
        "full_name": name,
        "private": false,
        "owner": user(name.owner()),
        "html_url": page,
        "description": "A clock, and what it takes to run it",
        "fork": false,
        "url": api,
        "created_at": FOUNDED,
        "updated_at": at,
        "pushed_at": at,
        "git_url": format!("git://git.example.org/{name}.git"),
        "ssh_url": format!("git@git.example.org:{name}.git"),
        "clone_url": clone_url,
        "svn_url": page,
        "homepage": null,
        "mirror_url": null,
        "language": "Rust",
        "license": {
            "key": "apache-2.0",
            "name": "Apache License 2.0",
            "spdx_id": "Apache-2.0",
            "url": format!("{API}/licenses/apache-2.0"),
            "node_id": "L_sample1",
        },
        "topics": [],
        "custom_properties": {},
        "visibility": "public",
        "default_branch": default_branch,
    });
    for count in [
        "size",
        "stargazers_count",
        "watchers_count",
        "forks_count",
        "open_issues_count",
        "forks",
        "open_issues",
        "watchers",
    ] {
        object[count] = 0.into();
    }
    for on in ["has_issues", "has_projects", "has_downloads", "has_wiki", "allow_forking"] {
        object[on] = true.into();
    }
    for off in
        ["has_pages", "has_discussions", "archived", "disabled", "is_template", "web_commit_signoff_required"]
    {
        object[off] = false.into();
    }
    merged_into(&mut object, links(&api, &REPOSITORY_LINKS));
    object
}

/// Where an address is not the name of its field without `_url`, it stands behind it.
const REPOSITORY_LINKS: [(&str, &str); 36] = [
    ("archive", "/{archive_format}{/ref}"),
    ("assignees", "/assignees{/user}"),
    ("blobs", "/git/blobs{/sha}"),
    ("branches", "/branches{/branch}"),
    ("collaborators", "/collaborators{/collaborator}"),
    ("comments", "/comments{/number}"),
    ("commits", "/commits{/sha}"),
    ("compare", "/compare/{base}...{head}"),
    ("contents", "/contents/{+path}"),
    ("contributors", ""),
    ("deployments", ""),
    ("downloads", ""),
    ("events", ""),
    ("forks", ""),
    ("git_commits", "/git/commits{/sha}"),
    ("git_refs", "/git/refs{/sha}"),
    ("git_tags", "/git/tags{/sha}"),
    ("hooks", ""),
    ("issue_comment", "/issues/comments{/number}"),
    ("issue_events", "/issues/events{/number}"),
    ("issues", "/issues{/number}"),
    ("keys", "/keys{/key_id}"),
    ("labels", "/labels{/name}"),
    ("languages", ""),
    ("merges", ""),
    ("milestones", "/milestones{/number}"),
    ("notifications", "/notifications{?since,all,participating}"),
    ("pulls", "/pulls{/number}"),
    ("releases", "/releases{/id}"),
    ("stargazers", ""),
    ("statuses", "/statuses/{sha}"),
    ("subscribers", ""),
    ("subscription", ""),
    ("tags", ""),
    ("teams", ""),
    ("trees", "/git/trees{/sha}"),
];

const USER_LINKS: [(&str, &str); 9] = [
    ("events", "/events{/privacy}"),
    ("followers", ""),
    ("following", "/following{/other_user}"),
    ("gists", "/gists{/gist_id}"),
    ("organizations", "/orgs"),
    ("received_events", ""),
    ("repos", ""),
    ("starred", "/starred{/owner}{/repo}"),
    ("subscriptions", ""),
];

fn user(login: &str) -> Value {
    let id: u64 = login.bytes().fold(1000, |id, byte| (id * 31 + u64::from(byte)) % 1_000_000);
    let api = format!("{API}/users/{login}");
    let mut user = json!({
        "login": login,
        "id": id,
        "node_id": format!("U_sample{id}"),
        "avatar_url": format!("{SITE}/avatars/{id}"),
        "gravatar_id": "",
        "url": api,
        "html_url": format!("{SITE}/{login}"),
        "type": "User",
        "site_admin": false,
    });
    merged_into(&mut user, links(&api, &USER_LINKS));
    user
}

fn links(base: &str, rules: &[(&str, &str)]) -> Value {
    let link = |(name, path): &(&str, &str)| {
        let path = if path.is_empty() { format!("/{name}") } else { (*path).to_owned() };
        (format!("{name}_url"), Value::String(format!("{base}{path}")))
    };
    Value::Object(rules.iter().map(link).collect::<Map<_, _>>())
}

fn merged_into(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

fn api(name: &RepoName) -> String {
    format!("{API}/repos/{name}")
}

fn page(name: &RepoName) -> String {
    format!("{SITE}/{name}")
}

fn time(at: Timestamp) -> String {
    let seconds = at.0.div_euclid(1000);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| FOUNDED.to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use mergeyard_plan::event::{Event, EventKind, PullRequest};
    use mergeyard_types::TreeId;

    use super::*;

    fn repository() -> HostedRepository {
        let name = "acme/clock".parse().unwrap();
        HostedRepository {
            id: 7001,
            name,
            clone_url: "file:///srv/clock.git".into(),
            default_branch: "develop".into(),
        }
    }

    fn merge() -> SampleMerge {
        SampleMerge {
            number: 4,
            title: "Wind the clock".into(),
            base_branch: "develop".into(),
            head_branch: "clock".into(),
            base: CommitSha::new([1; 20]),
            head: CommitSha::new([2; 20]),
            merge: CommitSha::new([3; 20]),
            merged_at: Timestamp(1_704_186_120_000),
            commits: 1,
            additions: 12,
            deletions: 3,
            tree: TreeId::new([4; 20]),
            added: vec!["spring.rs".into()],
            modified: vec!["README.md".into()],
            removed: vec![],
        }
    }

    fn event(name: &str, payload: &Value) -> Event {
        Event::from_github(name, &serde_json::to_vec(payload).unwrap()).unwrap()
    }

    #[test]
    fn a_merged_pull_request_is_read_as_one() {
        let Event::PullRequest(pull) = event("pull_request", &merged_pull_request(&repository(), &merge()))
        else {
            panic!("not a pull request")
        };
        let PullRequest { repository: read, number, title, base, merge: Some(merged), .. } = *pull else {
            panic!("not merged")
        };
        assert_eq!((number, title.as_str(), base.branch_name()), (4, "Wind the clock", Some("develop")));
        assert_eq!((merged.commit, merged.at), (merge().merge, merge().merged_at));
        assert_eq!((read.id, read.clone_url.as_deref()), (Some(7001), Some("file:///srv/clock.git")));
    }

    #[test]
    fn a_closed_pull_request_has_a_merge_commit_and_was_not_merged() {
        let payload = closed_pull_request(&repository(), &merge());
        assert_eq!(payload["pull_request"]["merge_commit_sha"], json!(merge().merge));
        let Event::PullRequest(pull) = event("pull_request", &payload) else { panic!("not a pull request") };
        assert_eq!((pull.kind, pull.merge), (EventKind::PullRequestClosed, None));
    }

    #[test]
    fn an_open_pull_request_is_read_as_what_happened_to_it_and_a_fork_as_one() {
        let payload = open_pull_request(&repository(), &merge(), "opened");
        let Event::PullRequest(pull) = event("pull_request", &payload) else { panic!("not a pull request") };
        assert_eq!((pull.kind, pull.head.commit), (EventKind::PullRequest, merge().head));
        assert_eq!(pull.head.repository.map(|(id, _)| id), pull.repository.id);
        let Event::PullRequest(fork) = event("pull_request", &from_fork(payload, "mallory")) else {
            panic!()
        };
        let (id, owner) = fork.head.repository.unwrap();
        assert_ne!(Some(id), fork.repository.id);
        assert_eq!((owner, fork.author.login.as_str()), (fork.author.id, "mallory"));
    }

    #[test]
    fn a_push_names_the_commit_after_it() {
        let Event::Push(read) = event("push", &push(&repository(), &merge())) else { panic!("not a push") };
        assert_eq!(read.after, Some(merge().merge));
        assert_eq!(read.git_ref.branch_name(), Some("develop"));
    }

    // What a real payload may have and ours does not, or has otherwise, and why.
    const NONE: &str = "ours holds a sentence where that one holds null, or the other way round";
    const EMPTY: &str = "ours lists none";
    const APP: &str = "only webhooks of a GitHub App have it";
    type Allowances = &'static [(&'static str, &'static str)];
    const MERGED: Allowances = &[
        (".pull_request.body", NONE),
        (".repository.description", NONE),
        (".pull_request.head.repo.description", NONE),
        (".pull_request.base.repo.description", NONE),
    ];
    const CLOSED: Allowances = &[
        (".repository.description", NONE),
        (".pull_request.head.repo.description", NONE),
        (".pull_request.base.repo.description", NONE),
        (".repository.license", NONE),
        (".pull_request.head.repo.license", NONE),
        (".pull_request.base.repo.license", NONE),
        (".repository.language", NONE),
        (".pull_request.head.repo.language", NONE),
        (".pull_request.base.repo.language", NONE),
        (".pull_request.labels[]", EMPTY),
        (".pull_request.assignees[]", EMPTY),
        (".pull_request.assignee", NONE),
        (".pull_request.milestone", NONE),
        (".pull_request.requested_reviewers[]", EMPTY),
        (".installation", APP),
    ];
    const PUSH: Allowances =
        &[(".repository.description", NONE), (".repository.license", NONE), (".installation", APP)];
    const PING: Allowances = &[(".repository.description", NONE), (".repository.license", NONE)];

    #[test]
    fn every_field_of_githubs_own_payloads_is_there_with_its_type() {
        let fixtures = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures/github"));
        let (repository, merge) = (repository(), merge());
        for (file, ours, allowances) in [
            ("pull_request.merged.json", merged_pull_request(&repository, &merge), MERGED),
            ("pull_request.closed.json", closed_pull_request(&repository, &merge), CLOSED),
            ("pull_request.opened.json", open_pull_request(&repository, &merge, "opened"), CLOSED),
            ("pull_request.synchronize.json", open_pull_request(&repository, &merge, "synchronize"), CLOSED),
            ("push.with-new-branch.json", push(&repository, &merge), PUSH),
            ("ping.json", ping(&repository, 1, "https://ci.example.org/hooks/github"), PING),
        ] {
            let Ok(text) = std::fs::read_to_string(fixtures.join(file)) else {
                eprintln!("skipped: {file} is not at {}", fixtures.display());
                continue;
            };
            let (theirs, ours) = (fields(&serde_json::from_str(&text).unwrap()), fields(&ours));
            let allowed = |path: &str| allowances.iter().any(|(prefix, _)| path.starts_with(prefix));
            let missing: Vec<_> = theirs.difference(&ours).filter(|(path, _)| !allowed(path)).collect();
            assert!(missing.is_empty(), "{file}: {missing:#?}");
        }
    }

    fn fields(value: &Value) -> BTreeSet<(String, &'static str)> {
        fn walk(value: &Value, path: String, found: &mut BTreeSet<(String, &'static str)>) {
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            match value {
                Value::Object(fields) => {
                    fields.iter().for_each(|(name, field)| walk(field, format!("{path}.{name}"), found))
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, format!("{path}[]"), found)),
                _ => {}
            }
            found.insert((path, kind));
        }
        let mut found = BTreeSet::new();
        walk(value, String::new(), &mut found);
        found
    }
}
