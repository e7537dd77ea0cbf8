//! What is decided, and that every "no" is a sentence a person can act on.

use std::time::Duration;

use mergeyard_plan::{
    action::{Action, ImageAction},
    change::{Identity, change},
    decide::{
        Candidate, Decision, File, Folder, MOST_IMAGES, PlannedRun, PlannedStep, PlannedWorkflow, Published,
        Verdict, candidates, decide,
    },
    event::{Event, EventKind, Forge},
    policy::{Policies, Policy},
    rules::{StepRules, WorkflowRules},
};
use mergeyard_types::{Digest, GitRef, Timestamp, TreeId};
use serde_json::Value;

use crate::{MERGE, built::on, github, merged};

const DIGEST: Digest = Digest::Sha256([0xd1; 32]);

#[test]
fn a_plan_leaves_no_choice_open() {
    let mut folder = folder("backend", SPEC);
    folder.tree = tree(7);
    let expected = PlannedRun {
        id: None,
        forge: Forge::Github,
        repo: "acme/clock".parse().unwrap(),
        known_as: "acme/clock".parse().unwrap(),
        clone_url: Some("https://git.example.org/acme/clock.git".to_owned()),
        source_url: Some("https://git.example.org/acme/clock".to_owned()),
        event: "pull_request_merged".to_owned(),
        branch: "develop".to_owned(),
        commit: MERGE.parse().unwrap(),
        hints: vec![GitRef::branch("develop").unwrap()],
        merged_at: Some(Timestamp(1_772_366_400_000)),
        title: "Tell the time".to_owned(),
        author: "ada".to_owned(),
        number: Some(7),
        supersede: true,
        occasion: String::new(),
        facts: serde_json::to_value(on(EventKind::PullRequestMerged).remembered()).unwrap(),
        account: None,
        fork: false,
        hold: None,
        rerun_of: None,
        workflows: vec![PlannedWorkflow {
            name: "image".to_owned(),
            axis: Some("backend".to_owned()),
            verdict: Verdict::Run,
            rules: WorkflowRules::default(),
            steps: vec![PlannedStep {
                verdict: Verdict::Run,
                rules: StepRules::default(),
                name: "image".to_owned(),
                action: Action::Image(ImageAction {
                    folder: "backend".to_owned(),
                    name: "clock".parse().unwrap(),
                    version: "1.0".parse().unwrap(),
                    tree: tree(7),
                }),
                timeout: Duration::from_secs(1800),
                retry: 3,
                serial: Some("image/clock".to_owned()),
            }],
        }],
    };
    assert_eq!(decided(&candidates(&[folder]), &[Published::Nothing]), Decision::Run(Box::new(expected)));
}

#[test]
fn each_folder_with_both_files_is_one_point_and_the_root_is_none() {
    let folders = [folder("", SPEC), folder("web", r#"{"service":{"name":"web","version":"1"}}"#)];
    let planned = workflows(&folders, &[Published::Nothing, Published::Nothing]);
    let points: Vec<_> = planned.iter().map(|w| (w.axis.as_deref(), w.steps.len(), &w.verdict)).collect();
    assert_eq!(points, [(None, 1, &Verdict::Run), (Some("web"), 1, &Verdict::Run)]);
}

#[test]
fn a_commit_without_images_or_with_too_many_starts_nothing() {
    for (count, expected) in [
        (0, "commit 11111111 has no folder with both a Dockerfile and a spec.json"),
        (
            MOST_IMAGES + 1,
            "commit 11111111 has 101 folders with a Dockerfile and a spec.json, more than the 100 allowed",
        ),
    ] {
        let published = vec![Published::Nothing; count];
        assert_eq!(decided(&numbered(count), &published), Decision::Ignore(expected.to_owned()));
    }
    let published = vec![Published::Nothing; MOST_IMAGES];
    assert!(matches!(decided(&numbered(MOST_IMAGES), &published), Decision::Run(_)));
}

#[test]
fn an_event_that_the_built_in_pipeline_does_not_name_starts_nothing() {
    let policies = Policies(vec![policy("acme/clock", &[])]);
    let event = pull(&merged());
    let change = change(&event, &policies, &Identity::default()).unwrap().known().unwrap();
    let images = candidates(&[folder("", SPEC)]);
    let decision = decide(&change, &on(EventKind::Tag), (&images, &[]), &[Published::Nothing]);
    assert_eq!(
        decision,
        Decision::Ignore(
            "no workflow runs on this `tag`: `image`: the event is `tag`, and it runs on \
             `pull_request_merged, push` (image.yml:9)"
                .to_owned()
        )
    );
}

/// One folder `web` that asks for clock:1.0 from tree 0101…
#[test]
fn a_published_version_is_never_built_again() {
    let image = |tree| Published::Image { digest: DIGEST, tree };
    for (published, expected) in [
        (Published::Nothing, Verdict::Run),
        (Published::Unknown, Verdict::Run),
        (
            image(Some(tree(1))),
            Verdict::Skip(format!(
                "unchanged: clock:1.0 is already published from the same files as {DIGEST}"
            )),
        ),
        (
            image(Some(tree(2))),
            refuse(
                "clock:1.0 is already published from other files (tree 02020202); raise service.version in web/spec.json",
            ),
        ),
        (
            image(None),
            refuse("clock:1.0 is already published from other files; raise service.version in web/spec.json"),
        ),
    ] {
        let planned = workflows(&[folder("web", SPEC)], std::slice::from_ref(&published));
        assert_eq!(planned[0].verdict, expected, "{published:?}");
        assert_eq!(planned[0].steps.is_empty(), expected != Verdict::Run, "{published:?}");
    }
    let planned = workflows(&[folder("", SPEC)], &[image(None)]);
    let expected = "clock:1.0 is already published from other files; raise service.version in spec.json";
    assert_eq!(planned[0].verdict, refuse(expected));
}

#[test]
fn a_broken_file_is_refused_by_name_and_its_neighbour_is_built() {
    let text = |text: &[u8]| File::Text(text.to_owned());
    let spec = |spec: File| Folder { spec, ..folder("web", SPEC) };
    let dockerfile = |dockerfile: File| Folder { dockerfile, ..folder("web", SPEC) };
    const SHAPE: &str = r#"write `{"service":{"name":"apache","version":"0.4.0"}}`"#;
    for (folder, expected) in [
        (
            dockerfile(File::Symlink),
            "web/Dockerfile: it is a symbolic link, which is never followed; commit the file itself"
                .to_owned(),
        ),
        (dockerfile(File::NotAFile), "web/Dockerfile: it is not a file; commit a regular file".to_owned()),
        (
            spec(File::Symlink),
            "web/spec.json: it is a symbolic link, which is never followed; commit the file itself"
                .to_owned(),
        ),
        (
            spec(File::TooLarge(1 << 30)),
            "web/spec.json: 1073741824 bytes are too many for this file".to_owned(),
        ),
        (spec(text(b"")), format!("web/spec.json: the file is empty; {SHAPE}")),
        (spec(text(b"{\xff}")), "web/spec.json: byte 1 is not UTF-8; save the file as UTF-8".to_owned()),
        (
            spec(text(br#"{"service":{"name":"clock"}}"#)),
            format!("web/spec.json:1:27: `service`: missing field `version`; {SHAPE}"),
        ),
        (
            spec(text(b"{\r\n \"service\": {\"name\": \"clock\", \"version\": \"1 2\"}\r\n}")),
            format!(
                "web/spec.json:2:47: `service.version`: `1 2` is no version: it must be letters, digits, `_`, `.` and \
                 `-`, and not begin with `.` or `-`; {SHAPE}"
            ),
        ),
    ] {
        let neighbour = self::folder("backend", r#"{"service":{"name":"backend","version":"1"}}"#);
        let planned = workflows(&[folder, neighbour], &[Published::Nothing, Published::Nothing]);
        assert_eq!((&planned[0].verdict, planned[0].steps.len()), (&refuse(&expected), 0));
        assert_eq!((&planned[1].verdict, planned[1].steps.len()), (&Verdict::Run, 1));
    }
}

#[test]
fn two_folders_cannot_ask_for_one_image() {
    let unchanged = Published::Image { digest: DIGEST, tree: Some(tree(1)) };
    for first in [Published::Nothing, unchanged] {
        let folders = [folder("", SPEC), folder("a", SPEC), folder("b", SPEC)];
        let planned = workflows(&folders, &[first, Published::Nothing, Published::Unknown]);
        assert!(!matches!(planned[0].verdict, Verdict::Refuse(_)));
        let sentence = |folder: &str| {
            refuse(&format!(
                "spec.json and {folder}/spec.json both ask for clock:1.0; give one of them another name or version"
            ))
        };
        assert_eq!((&planned[1].verdict, &planned[2].verdict), (&sentence("a"), &sentence("b")));
        assert!(planned[1].steps.is_empty() && planned[2].steps.is_empty());
    }
    let newer = r#"{"service":{"name":"clock","version":"1.1"}}"#;
    let planned =
        workflows(&[folder("a", SPEC), folder("b", newer)], &[Published::Nothing, Published::Nothing]);
    assert_eq!((&planned[0].verdict, &planned[1].verdict), (&Verdict::Run, &Verdict::Run));
}

const SPEC: &str = r#"{"service":{"name":"clock","version":"1.0"}}"#;

fn policy(name: &str, branches: &[&str]) -> Policy {
    let branches: Vec<String> = branches.iter().map(|&branch| branch.to_owned()).collect();
    Policy::new(name, &branches).unwrap()
}

fn pull(payload: &Value) -> Event {
    github("pull_request", payload).unwrap()
}

fn tree(byte: u8) -> TreeId {
    TreeId::new([byte; 20])
}

fn folder(path: &str, spec: &str) -> Folder {
    let (dockerfile, spec) = (File::Text(b"FROM scratch\n".to_vec()), File::Text(spec.into()));
    Folder { path: path.to_owned(), tree: tree(1), dockerfile, spec }
}

fn numbered(count: usize) -> Vec<Candidate> {
    let spec = |n| format!(r#"{{"service":{{"name":"image-{n}","version":"1"}}}}"#);
    candidates(&(0..count).map(|n| folder(&format!("folder-{n}"), &spec(n))).collect::<Vec<_>>())
}

fn refuse(sentence: &str) -> Verdict {
    Verdict::Refuse(sentence.to_owned())
}

/// What is decided about the merge of [`merged`].
fn decided(candidates: &[Candidate], published: &[Published]) -> Decision {
    let policies = Policies(vec![policy("acme/clock", &[])]);
    let event = pull(&merged());
    let change = change(&event, &policies, &Identity::default()).unwrap().known().unwrap();
    decide(&change, &on(change.event), (candidates, &[]), published)
}

fn workflows(folders: &[Folder], published: &[Published]) -> Vec<PlannedWorkflow> {
    match decided(&candidates(folders), published) {
        Decision::Run(run) => run.workflows,
        Decision::Ignore(why) => panic!("{why}"),
    }
}
