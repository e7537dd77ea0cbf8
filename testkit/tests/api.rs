//! The API for programs: its document is walked, and every operation it names is called.

use std::collections::BTreeSet;

use mergeyard_server::workers::Worker;
use mergeyard_testkit::yard::{TestYard, service};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::deployments;

/// A yard with a run that waits, a run that is over, and a token that may do everything.
async fn busy() -> (TestYard, String) {
    let yard = TestYard::new().await;
    yard.send("d-1", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let token = yard.token("walker", "admin").await;
    (yard, token)
}

/// Leaves a second run that waits to be worked on.
async fn start_second(yard: &mut TestYard) {
    let files = service("backend", "0.2.0", "two");
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(path, text)| (path.as_str(), text.as_slice())).collect();
    let second = yard.sample.merge_change("Raise the backend", &files).unwrap();
    yard.send("d-2", "pull_request", &yard.merged(&second)).await;
    assert!(Worker::Inbox.turn(yard.yard()).await.unwrap());
}

#[tokio::test]
async fn every_operation_of_the_document_answers_as_the_document_says() {
    let mut yard = deployments::rollouts().await;
    deployments::merge(&yard, "d-1", &yard.first).await;
    yard.settle().await;
    for (id, version) in [("d-2", "0.2.0"), ("d-3", "0.3.0")] {
        let merge = deployments::raise(&mut yard, version);
        deployments::merge(&yard, id, &merge).await;
        match id {
            "d-2" => yard.settle().await,
            // The last one waits.
            _ => assert!(Worker::Inbox.turn(yard.yard()).await.unwrap()),
        }
    }
    assert!(!Worker::Drift.turn(yard.yard()).await.unwrap());
    let token = yard.token("walker", "admin").await;
    let document = yard.get("/api/v1/openapi.json", None).await.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut called = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{} {path}", method.to_uppercase());
            let (concrete, body) = example(&place);
            assert_parameters_are_named(path, operation);
            let method: Method = method.to_uppercase().parse().unwrap();
            let mut request = yard.http().request(method.clone(), yard.url(&concrete));
            if operation.get("security").is_some() {
                let nobody = yard.http().request(method.clone(), yard.url(&concrete)).send().await.unwrap();
                assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED, "{place} without a token");
                check(&document, operation, &place, nobody).await;
                request = request.bearer_auth(&token);
            } else {
                assert_eq!(method, Method::GET, "{place} changes something and needs no token");
            }
            if let Some(body) = body {
                request = request.json(&body);
            }
            let response = request.send().await.unwrap();
            // Nothing waits in this yard; what an answer does is told where something does.
            let unasked = place.ends_with("approvals") && response.status() == StatusCode::CONFLICT;
            // Nothing was deployed either.
            let unknown = place.ends_with("rollback") && response.status() == StatusCode::NOT_FOUND;
            assert!(unasked || unknown || response.status().is_success(), "{place}: {}", response.status());
            check(&document, operation, &place, response).await;
            called.insert(place);
        }
    }
    assert_eq!(called.len(), 19, "{called:#?}");
    yard.settle().await;
    yard.close().await;
}

/// An address at which an operation has something to do, and what to send there.
fn example(place: &str) -> (String, Option<Value>) {
    let path = match place {
        "GET /api/v1/deliveries/{id}" => "/api/v1/deliveries/d-1",
        "GET /api/v1/runs/{id}/events" => "/api/v1/runs/1/events",
        "GET /api/v1/steps/{id}/log" => "/api/v1/steps/1/log?format=text",
        "POST /api/v1/runs/{id}/approvals" => {
            return ("/api/v1/runs/1/approvals".to_owned(), Some(json!({ "answer": "approve" })));
        }
        "POST /api/v1/runs/{id}/cancel" => "/api/v1/runs/3/cancel",
        "GET /api/v1/targets/{name}" => "/api/v1/targets/clock-vm",
        "POST /api/v1/targets/{name}/rollback" => "/api/v1/targets/clock-vm/rollback",
        "POST /api/v1/repos/{owner}/{name}/runs" => "/api/v1/repos/acme/clock/runs",
        other => return general(other),
    };
    let body = place.starts_with("POST").then(|| json!({}));
    (path.to_owned(), body)
}

fn general(place: &str) -> (String, Option<Value>) {
    let (method, path) = place.split_once(' ').unwrap();
    let body = (method == "POST" && path.ends_with("/rerun")).then(|| json!({}));
    (path.replace("{id}", "1"), body)
}

fn assert_parameters_are_named(path: &str, operation: &Value) {
    let in_path = path.matches('{').count();
    let named = operation["parameters"].as_array().into_iter().flatten();
    assert_eq!(named.filter(|parameter| parameter["in"] == "path").count(), in_path, "{path}");
    assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{path}");
}

/// That the document knows this answer: its status, its type and its shape.
async fn check(document: &Value, operation: &Value, place: &str, response: reqwest::Response) {
    let status = response.status();
    let described = &operation["responses"][status.as_str()];
    assert!(described.is_object(), "{place} answers {status}, which the document does not know");
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let kind = kind.split(';').next().unwrap();
    let content = &described["content"][kind];
    assert!(content.is_object(), "{place} answers with {kind}, which the document does not know");
    if kind.ends_with("json") {
        let body: Value = response.json().await.unwrap();
        let mismatch = mismatch(document, &content["schema"], &body);
        assert_eq!(mismatch, None, "{place}: {body:#}");
    }
}

/// Where a value is not what its schema says; also where it says more.
fn mismatch(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = document.pointer(name.strip_prefix('#').unwrap());
        return mismatch(document, target.unwrap_or_else(|| panic!("{name} leads nowhere")), value);
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut properties = serde_json::Map::new();
        for part in parts {
            let part = resolved(document, part);
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        }
        return mismatch(document, &json!({ "type": "object", "properties": properties }), value);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let fits = options.iter().any(|option| mismatch(document, option, value).is_none());
        return (!fits).then(|| format!("{value} is none of {schema}"));
    }
    if let Some(words) = schema["enum"].as_array() {
        return (!words.contains(value)).then(|| format!("{value} is none of {words:?}"));
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        other => return Some(format!("{other} is no type: {schema}")),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.contains(&kind) {
        return Some(format!("{value} is not {kinds:?}"));
    }
    match value {
        Value::Array(items) => items.iter().find_map(|item| mismatch(document, &schema["items"], item)),
        Value::Object(object) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing =
                required.filter(|key| !object.contains_key(*key)).map(|key| format!("`{key}` is missing"));
            let wrong = object.iter().filter_map(|(key, value)| {
                let schema = schema["properties"].get(key).or(schema.get("additionalProperties"));
                let schema = schema.filter(|schema| schema.is_object());
                match schema {
                    None => Some(format!("`{key}` is not in the document")),
                    Some(schema) => mismatch(document, schema, value).map(|why| format!("`{key}`: {why}")),
                }
            });
            missing.chain(wrong).next()
        }
        _ => None,
    }
}

fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str() {
        Some(name) => document.pointer(name.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let (mut yard, _) = busy().await;
    start_second(&mut yard).await;
    let first = yard.get("/api/v1/runs?limit=1", None).await.body;
    assert_eq!((&first["items"][0]["id"], &first["next"]), (&json!(2), &json!(2)));
    let second = yard.get("/api/v1/runs?limit=1&before=2", None).await.body;
    assert_eq!((&second["items"][0]["id"], &second["next"]), (&json!(1), &Value::Null));
    let other = yard.get("/api/v1/runs?repository=acme/other", None).await.body;
    assert_eq!(other["items"], json!([]));
    let deliveries = yard.get("/api/v1/deliveries?limit=1", None).await.body;
    assert_eq!(deliveries["items"][0]["delivery"], "d-2");
    let before = deliveries["next"].as_i64().unwrap();
    let deliveries = yard.get(&format!("/api/v1/deliveries?limit=1&before={before}"), None).await.body;
    assert_eq!((&deliveries["items"][0]["delivery"], &deliveries["next"]), (&json!("d-1"), &Value::Null));
    yard.settle().await;
    yard.close().await;
}

#[tokio::test]
async fn what_does_not_read_is_a_problem_document() {
    let (yard, token) = busy().await;
    for (path, status) in [
        ("/api/v1/runs?limit=0", StatusCode::BAD_REQUEST),
        ("/api/v1/runs?limit=201", StatusCode::BAD_REQUEST),
        ("/api/v1/runs?limit=x", StatusCode::BAD_REQUEST),
        ("/api/v1/runs?befor=1", StatusCode::BAD_REQUEST),
        ("/api/v1/runs?repository=acme", StatusCode::BAD_REQUEST),
        ("/api/v1/runs/x", StatusCode::NOT_FOUND),
        ("/api/v1/runs/999", StatusCode::NOT_FOUND),
        ("/api/v1/runs/%ff", StatusCode::NOT_FOUND),
        ("/api/v1/runs/999/steps", StatusCode::NOT_FOUND),
        ("/api/v1/runs/999/events", StatusCode::NOT_FOUND),
        ("/api/v1/deliveries/d-9", StatusCode::NOT_FOUND),
        ("/api/v1/targets/none", StatusCode::NOT_FOUND),
        ("/api/v1/targets/A%20B", StatusCode::NOT_FOUND),
        ("/api/v1/deployments/9", StatusCode::NOT_FOUND),
        ("/api/v1/deployments/x", StatusCode::NOT_FOUND),
        ("/api/v1/deployments?target=A", StatusCode::BAD_REQUEST),
        ("/api/v1/deployments?targt=a", StatusCode::BAD_REQUEST),
        ("/api/v1/deployments/events?target=none", StatusCode::NOT_FOUND),
        ("/api/v1/nothing", StatusCode::NOT_FOUND),
        ("/api/v1/runs/1/cancel", StatusCode::METHOD_NOT_ALLOWED),
        ("POST /api/v1/runs/1/events", StatusCode::METHOD_NOT_ALLOWED),
        ("POST /api/v1/steps/1/search", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let request = match path.strip_prefix("POST ") {
            Some(path) => yard.http().post(yard.url(path)),
            None => yard.http().get(yard.url(path)),
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(
            (&problem["type"], &problem["status"]),
            (&json!("about:blank"), &json!(status.as_u16())),
            "{path}"
        );
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{path}");
    }
    let post = |body: String, kind: &'static str| {
        let request = yard.http().post(yard.url("/api/v1/runs/1/cancel")).bearer_auth(&token);
        request.header("content-type", kind).body(body).send()
    };
    for (body, kind, status) in [
        ("{", "application/json", StatusCode::BAD_REQUEST),
        ("{\"why\":1}", "application/json", StatusCode::BAD_REQUEST),
        ("{\"wy\":\"x\"}", "application/json", StatusCode::BAD_REQUEST),
        ("{} {}", "application/json", StatusCode::BAD_REQUEST),
        ("[\"because\"]", "application/json", StatusCode::BAD_REQUEST),
        ("{\"why\":\"a\\nb\"}", "application/json", StatusCode::BAD_REQUEST),
        ("why=x", "application/x-www-form-urlencoded", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("{}", "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ] {
        assert_eq!(post(body.to_owned(), kind).await.unwrap().status(), status, "{body}");
    }
    let large = post(format!("{{\"why\":\"{}\"}}", "x".repeat(300_000)), "application/json").await.unwrap();
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(yard.get("/api/v1/runs/1", None).await.body["state"], "success");
    yard.close().await;
}

#[tokio::test]
async fn a_run_is_repeated_and_started_by_hand_over_the_api_and_the_command_line() {
    let (yard, _) = busy().await;
    let token = yard.token("release", "approve").await;
    let failed = yard.post("/api/v1/runs/1/rerun", Some(&token), &json!({ "failed": true })).await;
    assert_eq!(failed.status, StatusCode::CONFLICT, "{failed:?}");
    assert!(failed.body["detail"].as_str().unwrap().contains("nothing in run 1 failed"));
    let unknown = yard.post("/api/v1/runs/1/rerun", Some(&token), &json!({ "from": "deploy" })).await;
    assert!(unknown.body["detail"].as_str().unwrap().contains("no step called `deploy`"), "{unknown:?}");
    let all = yard.post("/api/v1/runs/1/rerun", Some(&token), &json!({})).await;
    assert_eq!((all.status, &all.body["id"]), (StatusCode::CREATED, &json!(2)), "{all:?}");
    yard.settle().await;
    let said = yard.command_line(&["rerun", "1"], "").await.good();
    assert_eq!(said.trim(), "run 3 repeats run 1");
    let said = yard.command_line(&["rerun", "99"], "").await.failed(1);
    assert!(said.contains("there is no run 99"), "{said}");
    let inputs = json!({ "branch": "develop", "inputs": { "target": "staging" } });
    let started = yard.post("/api/v1/repos/acme/clock/runs", Some(&token), &inputs).await;
    assert_eq!(started.status, StatusCode::ACCEPTED, "{started:?}");
    let id = started.body["delivery"].as_str().unwrap();
    let delivery = yard.get(&format!("/api/v1/deliveries/{id}"), None).await.body;
    assert_eq!((&delivery["source"], &delivery["event"]), (&json!("mergeyard"), &json!("manual")));
    let said = yard.command_line(&["trigger", "acme/clock", "--input", "a=b"], "").await.good();
    assert!(said.contains("mergeyard deliveries show manual-"), "{said}");
    let strange = yard.post("/api/v1/repos/acme/other/runs", Some(&token), &json!({})).await;
    assert_eq!(strange.status, StatusCode::NOT_FOUND);
    let bad =
        yard.post("/api/v1/repos/acme/clock/runs", Some(&token), &json!({ "inputs": { "a b": "" } })).await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    let ours = json!({ "inputs": { "CI_COMMIT_BRANCH": "release" } });
    let bad = yard.post("/api/v1/repos/acme/clock/runs", Some(&token), &ours).await;
    assert!(bad.body["detail"].as_str().unwrap().contains("which no input replaces"), "{bad:?}");
    for _ in 0..2 {
        yard.settle().await;
    }
    yard.close().await;
}

#[tokio::test]
async fn a_run_without_a_question_says_so() {
    let (yard, token) = busy().await;
    assert_eq!(yard.get("/api/v1/runs/1/approvals", None).await.body, json!([]));
    let answer = json!({ "answer": "approve" });
    let nothing = yard.post("/api/v1/runs/1/approvals", Some(&token), &answer).await;
    assert_eq!(nothing.status, StatusCode::CONFLICT);
    assert_eq!(nothing.body["detail"], "nothing in this run waits for an answer");
    let both = json!({ "answer": "reject", "trust_account": true });
    assert_eq!(
        yard.post("/api/v1/runs/1/approvals", Some(&token), &both).await.status,
        StatusCode::BAD_REQUEST
    );
    let said = yard.command_line(&["approve", "1"], "").await.failed(1);
    assert!(said.contains("nothing in this run waits for an answer"), "{said}");
    assert!(yard.command_line(&["approve", "9"], "").await.failed(1).contains("there is no run 9"));
    yard.close().await;
}
