//! The sample repository is real git, and the same on every machine.

use git2::{FileMode, ObjectType, Repository};
use mergeyard_plan::event::Event;
use mergeyard_server::sample::{SampleMerge, SampleRepository, payload};

const FILES: &[(&str, &[u8])] =
    &[("clock/backend/Dockerfile", b"FROM debian:bookworm-slim\n"), ("clock/backend/spec.json", b"{}\n")];

fn sample(folder: &tempfile::TempDir) -> (SampleRepository, SampleMerge) {
    let path = folder.path().join("clock.git");
    SampleRepository::create(&path, "acme/clock".parse().unwrap(), FILES).unwrap()
}

#[test]
fn the_merge_is_a_real_one_and_holds_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let (sample, merge) = sample(&folder);
    let git = Repository::open_bare(sample.path()).unwrap();
    let commit = git.find_reference("refs/heads/develop").unwrap().peel_to_commit().unwrap();
    let parents: Vec<_> = commit.parent_ids().map(|id| id.to_string()).collect();
    assert_eq!(commit.id().to_string(), merge.merge.to_string());
    assert_eq!(parents, [merge.base.to_string(), merge.head.to_string()]);
    assert_eq!(git.refname_to_id("refs/heads/clock").unwrap().to_string(), merge.head.to_string());
    assert_eq!(git.head().unwrap().name(), Ok("refs/heads/develop"));
    assert_eq!(commit.tree_id().to_string(), merge.tree.to_string());
    assert_eq!(commit.time().seconds() * 1000, merge.merged_at.0);

    let tree = commit.tree().unwrap();
    for (path, content) in FILES {
        let blob = tree.get_path(path.as_ref()).unwrap().to_object(&git).unwrap();
        assert_eq!(blob.as_blob().unwrap().content(), *content);
    }
    assert!(tree.get_name("README.md").is_some());
    assert_eq!(merge.added, ["clock/backend/Dockerfile", "clock/backend/spec.json"]);
    assert_eq!((merge.number, merge.additions, merge.deletions), (1, 2, 0));
}

#[test]
fn the_same_files_make_the_same_commits() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((mut first, merge), (mut second, same)) = (sample(&one), sample(&two));
    assert_eq!(merge, same);
    let change: &[(&str, &[u8])] = &[("clock/backend/spec.json", b"{\"a\":1}\n")];
    assert_eq!(first.merge_change("Change", change).unwrap(), second.merge_change("Change", change).unwrap());
}

#[test]
fn further_changes_build_on_the_last_merge_and_are_numbered() {
    let folder = tempfile::tempdir().unwrap();
    let (mut sample, first) = sample(&folder);
    let second = sample.merge_change("Bump", &[("clock/backend/spec.json", b"{\"a\":1}\n")]).unwrap();
    assert_eq!((second.number, second.base), (2, first.merge));
    assert_eq!(
        (&second.added[..], &second.modified[..]),
        (&[][..], &["clock/backend/spec.json".to_owned()][..])
    );
    assert!(second.merged_at > first.merged_at);

    let third = sample
        .merge_update("Link", |git, tree| {
            tree.upsert("secret", git.blob(b"/etc/passwd")?, FileMode::Link)
                .remove("clock/backend/Dockerfile");
            Ok(())
        })
        .unwrap();
    assert_eq!((third.number, &third.removed[..]), (3, &["clock/backend/Dockerfile".to_owned()][..]));
    let git = Repository::open_bare(sample.path()).unwrap();
    let tree =
        git.find_commit(git2::Oid::from_str(&third.merge.to_string()).unwrap()).unwrap().tree().unwrap();
    let link = tree.get_name("secret").unwrap();
    assert_eq!((link.kind(), link.filemode()), (Some(ObjectType::Blob), i32::from(FileMode::Link)));
}

#[test]
fn a_folder_that_holds_a_repository_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (sample, _) = sample(&folder);
    let error = SampleRepository::create(sample.path(), "acme/clock".parse().unwrap(), FILES).unwrap_err();
    assert!(error.to_string().contains("clock.git"), "{error}");
}

#[test]
fn the_payload_tells_of_the_repository_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (sample, merge) = sample(&folder);
    let payload = payload::merged_pull_request(&sample.hosted(), &merge);
    let body = serde_json::to_vec(&payload).unwrap();
    let Event::PullRequest(pull) = Event::from_github("pull_request", &body).unwrap() else { panic!() };
    let merged = pull.merge.unwrap();
    assert_eq!((merged.commit, merged.at), (merge.merge, merge.merged_at));
    let clone_url = pull.repository.clone_url.unwrap();
    let path = clone_url.strip_prefix("file://").unwrap();
    let git = Repository::open_bare(path).unwrap();
    assert!(git.find_commit(git2::Oid::from_str(&merged.commit.to_string()).unwrap()).is_ok());
    assert_eq!(payload["pull_request"]["changed_files"], 2);
    assert!(body.len() > 20_000, "github's own has some 30 KB, ours {}", body.len());
}
