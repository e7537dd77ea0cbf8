//! No input makes the planner panic, and nothing of it reaches people at length or with
//! control characters.

use mergeyard_plan::{
    change::{Identity, change},
    decide::{Decision, File, Folder, Published, Verdict, candidates, decide},
    event::{Event, EventError},
    policy::{Policies, Policy},
    service::Service,
};
use mergeyard_types::{Digest, TreeId};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};

use crate::{built::on, git_push, merged, push, with};

/// Longer than any honest sentence here, shorter than what fills a page.
const LONGEST_SENTENCE: usize = 2000;

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(event in "[a-z_]{0,12}|push|pull_request|release|ping", bytes in vec(any::<u8>(), 0..200)) {
        follow(Event::from_github(&event, &bytes))?;
        follow(Event::from_git(&bytes))?;
        if let Err(finding) = Service::parse("spec.json", &bytes) {
            is_a_sentence(&finding.to_string())?;
        }
    }

    #[test]
    fn nothing_inside_a_payload_makes_reading_panic(
        which in 0..PAYLOADS.len(), at in any::<Index>(), value in junk(), more in (any::<Index>(), junk()),
    ) {
        let (event, payload) = PAYLOADS[which];
        let payload = replaced(replaced(payload(), at, value), more.0, more.1);
        follow(read(event, payload.to_string().as_bytes()))?;
    }

    #[test]
    fn a_damaged_payload_is_read_or_refused(
        which in 0..PAYLOADS.len(), damage in vec((any::<Index>(), any::<u8>()), 1..4), cut in any::<Index>(),
    ) {
        let (event, payload) = PAYLOADS[which];
        let mut bytes = payload().to_string().into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        follow(read(event, &bytes))?;
        follow(read(event, &bytes[..cut.index(bytes.len())]))?;
    }

    #[test]
    fn no_specification_makes_deciding_panic(files in vec((file(), file(), "[a-z/]{0,8}", 0..3usize), 0..4)) {
        let folders: Vec<Folder> = files
            .iter()
            .map(|(dockerfile, spec, path, _)| Folder {
                path: path.clone(),
                tree: TreeId::new([1; 20]),
                dockerfile: dockerfile.clone(),
                spec: spec.clone(),
            })
            .collect();
        let published: Vec<Published> = files.iter().map(|(.., published)| match published {
            0 => Published::Nothing,
            1 => Published::Unknown,
            _ => Published::Image { digest: Digest::Sha256([2; 32]), tree: None },
        }).collect();
        let event = read("pull_request", merged().to_string().as_bytes()).unwrap();
        let policies = everyone();
        let change = change(&event, &policies, &Identity::default()).unwrap().known().unwrap();
        match decide(&change, &on(change.event), (&candidates(&folders), &[]), &published) {
            Decision::Ignore(why) => is_a_sentence(&why)?,
            Decision::Run(run) => {
                prop_assert_eq!(run.workflows.len(), folders.len());
                for workflow in run.workflows {
                    prop_assert_eq!(workflow.steps.is_empty(), workflow.verdict != Verdict::Run);
                    if let Verdict::Skip(why) | Verdict::Refuse(why) = workflow.verdict {
                        is_a_sentence(&why)?;
                    }
                }
            }
        }
    }
}

/// Nesting ends in an error long before the stack does.
#[test]
fn depth_is_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (event, _) in PAYLOADS {
        let text = format!(r#"{{"action":"closed","repository":{deep},"pull_request":{deep}}}"#);
        assert!(read(event, text.as_bytes()).is_err(), "{event}");
    }
    let spec = format!(r#"{{"service":{deep}}}"#);
    assert!(Service::parse("spec.json", spec.as_bytes()).is_err());
}

type Payload = (&'static str, fn() -> Value);

/// `git` stands for the body of `POST /hooks/git`.
const PAYLOADS: [Payload; 7] = [
    ("pull_request", merged),
    ("pull_request", || crate::pull("labeled")),
    ("push", push),
    ("git", git_push),
    ("release", crate::release),
    ("deployment", || crate::deployment("main")),
    ("teleport", || json!({"action": "done", "repository": crate::repository()})),
];

fn read(event: &str, payload: &[u8]) -> Result<Event, EventError> {
    if event == "git" { Event::from_git(payload) } else { Event::from_github(event, payload) }
}

/// Whatever was read goes on to the next step, and whatever is said about it is looked at.
fn follow(event: Result<Event, EventError>) -> Result<(), TestCaseError> {
    let event = match event {
        Ok(event) => event,
        Err(error) => return is_a_sentence(&error.to_string()),
    };
    let policies = everyone();
    match change(&event, &policies, &Identity::default()) {
        Err(why) => is_a_sentence(&why),
        Ok(change) => {
            is_one_line(&change.branch)?;
            is_one_line(&change.occasion)?;
            is_one_line(&change.title)?;
            is_one_line(&change.author)
        }
    }
}

fn is_a_sentence(text: &str) -> Result<(), TestCaseError> {
    prop_assert!(!text.is_empty() && text.len() <= LONGEST_SENTENCE, "{} bytes", text.len());
    is_one_line(text)
}

fn is_one_line(text: &str) -> Result<(), TestCaseError> {
    prop_assert!(!text.contains(char::is_control), "{:?}", text);
    Ok(())
}

fn everyone() -> Policies {
    Policies(vec![Policy::new("*", &[]).unwrap()])
}

fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "refs/(heads|tags|notes)/\\PC{0,9}".prop_map(Value::from),
        "[0-9a-f]{38,41}".prop_map(Value::from),
        "(.|\n){0,6}\u{1b}\\[31m(.|\n){0,6}".prop_map(Value::from),
        Just(Value::from("x".repeat(100_000))),
        Just(json!([[], {}])),
        Just(json!({"full_name": "a/b", "id": 1, "ref": "x"})),
    ]
}

fn file() -> impl Strategy<Value = File> {
    prop_oneof![
        vec(any::<u8>(), 0..60).prop_map(File::Text),
        ("\\PC{0,9}|[a-c]", "\\PC{0,9}|[1-3]")
            .prop_map(|(name, version)| json!({"service": {"name": name, "version": version}}))
            .prop_map(|spec| File::Text(spec.to_string().into())),
        junk().prop_map(|value| File::Text(json!({"service": value}).to_string().into())),
        (any::<String>(), "1|[a-z]")
            .prop_map(|(key, value)| { File::Text(format!("{{{0}:1,{0}:{value}}}", json!(key)).into()) }),
        Just(File::Text("x".repeat(70_000).into())),
        any::<u64>().prop_map(File::TooLarge),
        Just(File::Symlink),
        Just(File::NotAFile),
    ]
}

/// `payload` with `value` in one of its places.
fn replaced(payload: Value, at: Index, value: Value) -> Value {
    let mut pointers = Vec::new();
    places(&payload, "", &mut pointers);
    if pointers.is_empty() { value } else { with(payload, at.get::<String>(&pointers), value) }
}

fn places(value: &Value, pointer: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let pointer = format!("{pointer}/{key}");
        places(value, &pointer, found);
        found.push(pointer);
    }
}
