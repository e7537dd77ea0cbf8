//! The schema for editors and the reader come from one table; these hold them together.

use std::collections::BTreeSet;

use mergeyard_plan::spec::{Limits, read, schema};
use serde_json::{Value, json};

/// Where a key of this definition stands in a file.
const FRAMES: [(&str, &str); 14] = [
    ("", "steps: {a: {image: x}}\nKEY: ~\n"),
    ("step", "steps: {a: {image: x, KEY: ~}}\n"),
    ("service", "steps: {a: {image: x}}\nservices: {s: {image: x, KEY: ~}}\n"),
    ("clone", "steps: {a: {image: x}}\nclone: {s: {image: x, KEY: ~}}\n"),
    ("when", "steps: {a: {image: x, when: {KEY: ~}}}\n"),
    ("constraint", "steps: {a: {image: x, when: {ref: {KEY: ~}}}}\n"),
    ("paths", "steps: {a: {image: x, when: {path: {KEY: ~}}}}\n"),
    ("need", "steps: {a: {image: x}}\ndepends_on: {KEY: ~}\n"),
    ("step_need", "steps: {a: {image: x, depends_on: {KEY: ~}}}\n"),
    ("workspace", "steps: {a: {image: x}}\nworkspace: {KEY: ~}\n"),
    ("concurrency", "steps: {a: {image: x}}\nconcurrency: {KEY: ~}\n"),
    ("input", "steps: {a: {image: x}}\ninputs: {i: {KEY: ~}}\n"),
    ("ready", "steps: {a: {image: x, ready: {KEY: ~}}}\n"),
    ("docker", "steps: {a: {image: x, backend_options: {docker: {KEY: ~}}}}\n"),
];

fn unknown(frame: &str, key: &str) -> bool {
    // A frame may have the key already; then it is known anyway.
    let text = frame.replace("KEY", key);
    read("build.yml", &text, &Limits::default())
        .findings
        .iter()
        .any(|finding| finding.code == "pipeline-unknown-key")
}

fn keys(definition: &Value) -> Vec<String> {
    definition["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_reader_knows_each_key_of_the_schema_and_no_other() {
    let schema = schema();
    for (name, frame) in FRAMES {
        let definition = if name.is_empty() { &schema } else { &schema["$defs"][name] };
        assert_eq!(definition["additionalProperties"], false, "{name}");
        for key in keys(definition) {
            assert!(!unknown(frame, &key), "{name}: the schema has `{key}`, the reader does not know it");
        }
        assert!(unknown(frame, "zzz"), "{name}");
        assert!(!unknown(frame, "x-zzz"), "{name}");
    }
    let framed: BTreeSet<_> = FRAMES.iter().map(|(name, _)| *name).chain(["backend_options"]).collect();
    let defined: BTreeSet<_> =
        schema["$defs"].as_object().unwrap().keys().map(String::as_str).chain([""]).collect();
    assert_eq!(framed, defined, "each definition is looked at here");
}

#[test]
fn the_schema_is_whole() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let text = schema.to_string();
    for reference in text.split("#/$defs/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schema["$defs"][name].is_object(), "{name}");
    }
    for key in ["steps", "services", "when", "matrix", "include", "inputs", "approve", "concurrency"] {
        assert!(schema["properties"][key]["description"].is_string(), "{key}");
    }
    assert_eq!(schema["properties"]["branches"]["deprecated"], true);
    let step = &schema["$defs"]["step"];
    assert_eq!(
        step["properties"]["uses"]["examples"],
        serde_json::json!(["image", "yum-mirror", "ansible", "rollout"])
    );
    let rollout = step["allOf"].as_array().unwrap().last().unwrap();
    assert_eq!(rollout["if"]["properties"]["uses"]["const"], "rollout");
    assert!(rollout["then"]["properties"]["with"]["properties"]["health"]["description"].is_string());
    let events = schema["$defs"]["when"]["properties"]["event"].to_string();
    assert!(events.contains("pull_request_merged") && events.contains("\"cron\""), "{events}");
}

#[test]
fn what_the_reader_refuses_by_its_form_an_editor_refuses_too() {
    let schema = schema();
    let of = |name: &str, key: &str| schema["$defs"][name]["properties"][key]["anyOf"][0].clone();
    assert_eq!(of("step", "retry"), json!({"type": "integer", "minimum": 0, "maximum": 10}));
    assert_eq!(of("step", "approve")["pattern"], "\\S");
    assert_eq!(schema["properties"]["approve"]["anyOf"][0]["pattern"], "\\S");
    let required = |key: &str| json!({"required": [key]});
    assert_eq!(schema["$defs"]["step"]["oneOf"], json!([required("image"), required("uses")]));
    assert_eq!(schema["$defs"]["ready"]["oneOf"], json!([required("command"), required("port")]));
    assert_eq!(schema["$defs"]["service"]["required"], json!(["image"]));
    for beside in ["service", "clone"] {
        assert_eq!(schema["$defs"][beside]["not"], required("uses"), "{beside}");
    }
    let matrix = &schema["properties"]["matrix"]["anyOf"][0];
    assert_eq!(matrix["additionalProperties"]["type"], "array");
    assert_eq!(schema["anyOf"][0]["properties"]["steps"]["not"]["enum"], json!([[], {}, null]));
    for refused in [
        "steps: []",
        "steps: {a: {image: x, retry: 11}}",
        "steps: {a: {commands: x}}",
        "steps: {a: {image: x, uses: image}}",
        "steps: {a: {image: x, approve: ' '}}",
        "steps: {a: {image: x, ready: {}}}",
        "steps: {a: {image: x}}\nservices: {b: {commands: x}}",
        "steps: {a: {image: x}}\nclone: {b: {uses: image}}",
    ] {
        assert!(read("build.yml", refused, &Limits::default()).workflow.is_none(), "{refused}");
    }
}
