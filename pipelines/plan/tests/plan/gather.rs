//! What the facts of a run say, by the event that started it.

use mergeyard_plan::{
    change::{Identity, change},
    event::{Event, EventKind},
    facts::{Facts, PullRequestFacts, Remembered, System},
    gather::{CommitObject, Known, facts},
    policy::{Policies, Policy},
};
use mergeyard_types::{CommitSha, RunId, Timestamp};
use serde_json::{Value, json};

use crate::{HEAD, MERGE, asked, deployment, git, git_push, github, merged, pull, push, release, with};

fn known() -> Known {
    Known {
        system: System {
            name: "mergeyard".to_owned(),
            url: "https://ci.example.org".to_owned(),
            host: "ci.example.org".to_owned(),
            platform: "linux/amd64".to_owned(),
            version: "1".to_owned(),
            machine: "yard".to_owned(),
        },
        forge_url: "https://git.example.org".to_owned(),
        clone_url: "https://git.example.org/acme/clock.git".to_owned(),
        default_branch: "develop".to_owned(),
        number: RunId(12),
        url: "https://ci.example.org/runs/12".to_owned(),
        now: Timestamp(5),
        commit: CommitObject {
            author: "Robin".to_owned(),
            email: "robin@example.org".to_owned(),
            message: "Tell the time\n\nand the date".to_owned(),
            time: Some(Timestamp(4)),
        },
        files: Some(vec!["a".to_owned()]),
        previous: None,
    }
}

fn gathered(event: &Event) -> Facts {
    let policies = Policies(vec![Policy::new("*", &[]).unwrap()]);
    let change = change(event, &policies, &Identity::default()).unwrap();
    let commit: CommitSha = MERGE.parse().unwrap();
    let change = match change.clone().known() {
        Some(change) => change,
        None => change.at(commit, None),
    };
    facts(event, &change, known())
}

fn pulled(payload: &Value) -> Facts {
    gathered(&github("pull_request", payload).unwrap())
}

#[test]
fn a_pull_request_tells_where_it_comes_from_and_goes_to() {
    let Facts { pipeline, commit, repo, forge, .. } = pulled(&pull("synchronize"));
    assert_eq!((pipeline.event, pipeline.event_reason.as_str()), (EventKind::PullRequest, "synchronize"));
    assert_eq!((pipeline.number, pipeline.url.as_str()), (RunId(12), "https://ci.example.org/runs/12"));
    assert_eq!(pipeline.forge_url, "https://git.example.org/acme/clock/pull/7");
    assert_eq!((commit.sha.to_string().as_str(), commit.git_ref.as_str()), (HEAD, "refs/pull/7/head"));
    assert_eq!((commit.refspec.as_str(), commit.branch.as_str()), ("feature:develop", "develop"));
    assert_eq!((commit.source_branch.as_str(), commit.target_branch.as_str()), ("feature", "develop"));
    assert_eq!((commit.author.as_str(), commit.author_email.as_str()), ("ada", "robin@example.org"));
    assert_eq!((repo.remote_id, repo.private, forge.kind.as_str()), (Some(1), true, "github"));
    let expected = PullRequestFacts {
        number: 7,
        labels: vec!["bug".to_owned()],
        milestone: "v1".to_owned(),
        ..PullRequestFacts::default()
    };
    assert_eq!(commit.pull_request, Some(expected));
}

#[test]
fn a_merge_is_told_as_one_and_a_fork_as_a_fork() {
    let Facts { pipeline, commit, .. } = pulled(&merged());
    assert_eq!((pipeline.event, pipeline.event_reason.as_str()), (EventKind::PullRequestMerged, "closed"));
    assert_eq!((commit.sha.to_string().as_str(), commit.git_ref.as_str()), (MERGE, "refs/heads/develop"));
    assert!(commit.pull_request.is_some_and(|pull| pull.merged && !pull.from_fork));
    for repo in [json!({"id": 9, "owner": {"id": 4}}), Value::Null] {
        let facts = pulled(&with(pull("opened"), "/pull_request/head/repo", repo));
        assert!(facts.commit.pull_request.unwrap().from_fork);
    }
}

#[test]
fn each_other_event_adds_what_only_it_knows() {
    let pushed = gathered(&github("push", &push()).unwrap());
    assert_eq!(
        (pushed.pipeline.forge_url.as_str(), pushed.commit.branch.as_str()),
        ("https://git.example.org/c", "develop")
    );
    assert_eq!(pushed.commit.url, format!("https://git.example.org/acme/clock/commit/{MERGE}"));
    assert_eq!(pushed.commit.message, "Tell the time\n\nand the date");

    let tag = gathered(&github("push", &with(push(), "/ref", json!("refs/tags/v1"))).unwrap());
    assert_eq!((tag.commit.tag.as_str(), tag.commit.branch.as_str()), ("v1", ""));

    let release = gathered(&github("release", &release()).unwrap());
    assert_eq!((release.pipeline.release_title.as_str(), release.pipeline.release_pre), ("The first", true));
    assert_eq!((release.commit.tag.as_str(), release.commit.prerelease), ("v1", true));
    assert_eq!(release.pipeline.avatar, "https://git.example.org/grace.png");

    let deployed = gathered(&github("deployment", &deployment("main")).unwrap()).pipeline;
    assert_eq!((deployed.deploy_target.as_str(), deployed.deploy_task.as_str()), ("production", "deploy"));

    let nightly = gathered(&asked("cron", "refs/heads/main"));
    assert_eq!((nightly.pipeline.cron.as_str(), nightly.commit.branch.as_str()), ("nightly", "main"));
    let manual = gathered(&asked("manual", "refs/heads/main"));
    assert_eq!((manual.pipeline.cron.as_str(), manual.inputs["speed"].as_str()), ("", "fast"));

    let plain = gathered(&git(&git_push()).unwrap());
    assert_eq!((plain.forge.kind.as_str(), plain.commit.author.as_str()), ("git", "Robin"));
    assert_eq!((plain.commit.url.as_str(), plain.repo.remote_id), ("", None));
}

#[test]
fn what_is_remembered_of_a_run_reads_back_without_its_files() {
    let facts = pulled(&merged());
    let text = serde_json::to_string(&facts.remembered()).unwrap();
    let Remembered { pipeline, commit } = serde_json::from_str(&text).unwrap();
    assert_eq!((pipeline.files, commit), (None, facts.commit));
}
