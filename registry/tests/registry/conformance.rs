//! The distribution specification 1.1.1, requirement by requirement, where no other story tells it.
//!
//! Each story names the section it reads. `scripts/conformance.sh` runs the specification's own
//! suite; this is what the text asks for beyond it.

use base64::{Engine, engine::general_purpose::STANDARD};
use mergeyard_types::Digest;
use serde_json::{Value, json};

use crate::{
    images::{self, IMAGE, INDEX},
    yard::{Answer, Yard, sha256, sha512},
};

/// The identifiers of the section "Error Codes".
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// "Checking if content exists in the registry", end-2 and end-3.
#[tokio::test]
async fn whether_content_exists_is_told_without_the_content() {
    let yard = Yard::new();
    let image = images::push(&yard, "acme/clock", "1").await;
    let layer = sha256(b"the one layer");
    for (path, digest) in [
        (format!("blobs/{layer}"), layer),
        (format!("manifests/{image}"), image),
        ("manifests/1".to_owned(), image),
    ] {
        let path = format!("/v2/acme/clock/{path}");
        let (head, get) = (yard.ask("HEAD", &path).send().await, yard.get(&path).await);
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.header("docker-content-digest"), digest.to_string());
        for header in ["content-length", "content-type", "docker-content-digest"] {
            assert_eq!(head.header(header), get.header(header), "{path}");
        }
        assert_eq!(head.header("content-length"), get.body.len().to_string());
    }
    let none = sha256(b"none");
    for path in [format!("blobs/{none}"), format!("manifests/{none}"), "manifests/none".to_owned()] {
        assert_eq!(yard.ask("HEAD", &format!("/v2/acme/clock/{path}")).send().await.status, 404);
    }
}

/// "Pulling blobs": ranges as RFC 9110 has them.
#[tokio::test]
async fn a_part_of_a_blob_is_what_the_range_says_as_far_as_there_is_any() {
    let yard = Yard::new();
    let bytes: Vec<u8> = (0..2048).map(|n| (n % 251) as u8).collect();
    let path = format!("/v2/a/blobs/{}", yard.push_blob("a", &bytes).await);
    for (range, part) in
        [("500-1499", 500..1500), ("500-", 500..2048), ("-500", 1548..2048), ("2000-5000", 2000..2048)]
    {
        let answer = yard.ask("GET", &path).header("range", &format!("bytes={range}")).send().await;
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {}-{}/2048", part.start, part.end - 1));
        assert_eq!(answer.header("content-length"), part.len().to_string());
        assert!(answer.body == bytes[part], "{range}");
    }
    for range in ["500-0", "5000-10000", "2048-", "-0"] {
        let answer = yard.ask("GET", &path).header("range", &format!("bytes={range}")).send().await;
        answer.refused(416, "SIZE_INVALID");
        assert_eq!(answer.header("content-range"), "bytes */2048");
    }
}

/// "Pushing blobs", "Mounting a blob", "Pushing Manifests": end-4a to end-7 and end-11.
#[tokio::test]
async fn every_location_can_be_pulled_from() {
    let yard = Yard::new();
    let put = |upload: String, digest: Digest, rest: &'static str| {
        let yard = &yard;
        async move { yard.ask("PUT", &format!("{upload}?digest={digest}")).body(rest).send().await }
    };
    let pulled = async |answer: Answer, bytes: &[u8]| {
        assert_eq!(answer.status, 201, "{answer:?}");
        let got = yard.get(answer.header("location")).await;
        assert!(got.status == 200 && got.body == bytes, "{got:?}");
    };
    for digest in [sha256(b"in one piece"), sha512(b"in one piece")] {
        let post = yard.ask("POST", &format!("/v2/a/blobs/uploads/?digest={digest}")).body("in one piece");
        pulled(post.send().await, b"in one piece").await;
        pulled(put(yard.start("b").await, digest, "in one piece").await, b"in one piece").await;

        let upload = yard.start("c").await;
        let patched = yard.ask("PATCH", &upload).body("in one ").send().await;
        let next = patched.header("location").to_owned();
        pulled(put(next, digest, "piece").await, b"in one piece").await;

        let mount = format!("/v2/d/blobs/uploads/?mount={digest}&from=a");
        pulled(yard.ask("POST", &mount).send().await, b"in one piece").await;
    }
    let json = images::blobs(&yard, "e", "1").await;
    for reference in
        ["1".to_owned(), sha256(json.as_bytes()).to_string(), sha512(json.as_bytes()).to_string()]
    {
        pulled(yard.put_manifest("e", &reference, IMAGE, &json).await, json.as_bytes()).await;
    }
}

/// "POST then PUT": a session has an id that no other has.
#[tokio::test]
async fn each_upload_is_a_session_of_its_own() {
    let yard = Yard::new();
    let (one, two) = (yard.start("a").await, yard.start("a").await);
    let id = |upload: &str| upload.rsplit('/').next().unwrap().parse::<uuid::Uuid>().unwrap();
    assert_ne!(id(&one), id(&two));
    yard.ask("PATCH", &one).body("only in the first").send().await;
    assert_eq!(yard.get(&one).await.header("range"), "0-16");
    let digest = sha256(b"second");
    let put = yard.ask("PUT", &format!("{two}?digest={digest}")).body("second").send().await;
    assert_eq!(put.status, 201);
}

/// "Pushing a blob in chunks", end-13: what a client does after a 416.
#[tokio::test]
async fn after_a_chunk_in_the_wrong_place_the_upload_says_where_to_go_on() {
    let yard = Yard::new();
    let mut upload = yard.start("a").await;
    let bytes: Vec<u8> = (0..300).map(|n| n as u8).collect();
    for at in [0, 100, 200] {
        // The one after the next comes first.
        let early = yard.ask("PATCH", &upload).header("content-range", "250-259").body(vec![0; 10]);
        early.send().await.refused(416, "BLOB_UPLOAD_INVALID");
        let status = yard.get(&upload).await;
        assert_eq!(status.status, 204);
        let chunk = yard
            .ask("PATCH", status.header("location"))
            .header("content-range", &format!("{at}-{}", at + 99))
            .body(bytes[at..at + 100].to_vec());
        let taken = chunk.send().await;
        assert_eq!((taken.status.as_u16(), taken.header("range")), (202, format!("0-{}", at + 99).as_str()));
        upload = taken.header("location").to_owned();
    }
    let digest = sha256(&bytes);
    assert_eq!(yard.ask("PUT", &format!("{upload}?digest={digest}")).send().await.status, 201);
    assert!(yard.get(&format!("/v2/a/blobs/{digest}")).await.body == bytes);
}

/// Nothing says that a blob has bytes.
#[tokio::test]
async fn the_empty_blob_is_a_blob() {
    let yard = Yard::new();
    for (upload, digest) in [(yard.start("a").await, sha256(b"")), (yard.start("a").await, sha512(b""))] {
        assert_eq!(yard.ask("PUT", &format!("{upload}?digest={digest}")).send().await.status, 201);
        let path = format!("/v2/a/blobs/{digest}");
        assert_eq!(yard.ask("HEAD", &path).send().await.header("content-length"), "0");
        let got = yard.get(&path).await;
        assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
    }
}

/// "Pushing Manifests", end-7: exact bytes, parameters of the type ignored, four megabytes, no layers,
/// and fields that a later specification may have.
#[tokio::test]
async fn manifests_of_every_lawful_shape_are_taken_and_kept_as_they_are() {
    let yard = Yard::new();
    let plain: Value = serde_json::from_str(&images::blobs(&yard, "a", "1").await).unwrap();
    let image = plain.to_string();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut manifest = plain.clone();
        change(&mut manifest);
        manifest.to_string()
    };
    let unnamed = with(&|m| drop(m.as_object_mut().unwrap().remove("mediaType")));
    let no_layers = with(&|m| m["layers"] = json!([]));
    let embedded = with(&|m| m["config"]["data"] = json!(STANDARD.encode(images::config("1"))));
    let later = with(&|m| {
        m["notYetSpecified"] = json!({"deep": [1, null]});
        m["layers"][0]["notYetSpecified"] = json!("aGVsbG8=");
    });
    let artifact = with(&|m| m["artifactType"] = json!("application/vnd.example"));
    let noted = with(&|m| m["annotations"] = json!({"note": "x".repeat(3_900_000)}));
    let largest = format!("{image}{}", " ".repeat((4 << 20) - image.len()));
    for json in [&image, &unnamed, &no_layers, &embedded, &later, &artifact, &noted, &largest] {
        kept(&yard, IMAGE, json).await;
    }
    let index = images::index(INDEX, &[("linux", &image), ("windows", &no_layers)]);
    let empty = images::index(INDEX, &[]);
    let nested = images::index(INDEX, &[]).replace(
        "\"manifests\":[]",
        &format!(
            "\"manifests\":{}",
            json!([{"mediaType": INDEX, "digest": sha256(index.as_bytes()), "size": index.len()}])
        ),
    );
    for json in [&index, &empty, &nested] {
        kept(&yard, INDEX, json).await;
    }
}

async fn kept(yard: &Yard, media_type: &str, json: &str) {
    let digest = sha256(json.as_bytes()).to_string();
    let pushed = yard.put_manifest("a", &digest, &format!("{media_type}; charset=utf-8"), json).await;
    assert_eq!(
        (pushed.status.as_u16(), pushed.header("docker-content-digest")),
        (201, digest.as_str()),
        "{pushed:?}"
    );
    let pulled = yard.get(&format!("/v2/a/manifests/{digest}")).await;
    assert_eq!(pulled.header("content-type"), media_type);
    assert!(pulled.body == json.as_bytes());
}

/// "Pulling manifests": a tag has at most 128 characters, a name its grammar.
#[tokio::test]
async fn names_and_tags_are_those_of_the_grammar() {
    let yard = Yard::new();
    for name in ["a", "0/1", "a.b_c__d-e---f/g", &"a".repeat(200)] {
        images::push(&yard, name, "1").await;
        assert_eq!(yard.get(&format!("/v2/{name}/tags/list")).await.json()["name"], name);
    }
    for name in ["a..b", "a___b", "-a", "a-", "a/", "a//b", "_a", "a.-b"] {
        yard.get(&format!("/v2/{name}/tags/list")).await.refused(400, "NAME_INVALID");
    }
    let json = images::blobs(&yard, "a", "1").await;
    for tag in ["_", "A", "0.1-x_Y", "v", &"t".repeat(128)] {
        assert_eq!(yard.put_manifest("a", tag, IMAGE, &json).await.status, 201, "{tag}");
        assert_eq!(yard.get(&format!("/v2/a/manifests/{tag}")).await.status, 200);
    }
    for tag in [".a", "-a", &"t".repeat(129)] {
        yard.put_manifest("a", tag, IMAGE, &json).await.refused(400, "MANIFEST_INVALID");
        yard.get(&format!("/v2/a/manifests/{tag}")).await.refused(404, "MANIFEST_UNKNOWN");
    }
}

/// "Listing Tags", end-8: `last` is a tag, not itself part of the answer, with or without `n`.
#[tokio::test]
async fn a_list_of_tags_goes_on_after_the_last_one_seen() {
    let yard = Yard::new();
    let json = images::blobs(&yard, "a", "1").await;
    for tag in ["a", "b", "c", "d"] {
        yard.put_manifest("a", tag, IMAGE, &json).await;
    }
    for (query, tags, more) in [
        ("", json!(["a", "b", "c", "d"]), false),
        ("?n=4", json!(["a", "b", "c", "d"]), false),
        ("?n=9&last=b", json!(["c", "d"]), false),
        ("?n=1&last=b", json!(["c"]), true),
        ("?last=bb", json!(["c", "d"]), false),
        ("?last=d", json!([]), false),
        ("?n=0&last=a", json!([]), false),
    ] {
        let answer = yard.get(&format!("/v2/a/tags/list{query}")).await;
        assert_eq!((&answer.json()["tags"], answer.headers.contains_key("link")), (&tags, more), "{query}");
    }
    assert_eq!(yard.ask("DELETE", "/v2/a/manifests/b").send().await.status, 202);
    assert_eq!(yard.get("/v2/a/tags/list").await.json()["tags"], json!(["a", "c", "d"]));
}

/// "Error Codes": whatever is refused is refused in one form, with a code of the table.
#[tokio::test]
async fn every_refusal_has_the_form_and_a_code_of_the_table() {
    let yard = Yard::new();
    let (image, none) = (images::push(&yard, "a", "1").await, sha256(b"none"));
    let upload = yard.start("a").await;
    let requests = [
        ("GET", "/v2/a/manifests/none".to_owned(), 404),
        ("GET", format!("/v2/a/blobs/{none}"), 404),
        ("GET", "/v2/none/tags/list".to_owned(), 404),
        ("GET", "/v2/a/manifests/sha256:short".to_owned(), 400),
        ("GET", "/v2/a/referrers/sha256:short".to_owned(), 400),
        ("GET", "/v2/A/tags/list".to_owned(), 400),
        ("GET", "/v2/a/blobs/uploads/none".to_owned(), 404),
        ("GET", "/v2/a/tags/list?n=x".to_owned(), 400),
        ("GET", "/v2/nothing".to_owned(), 404),
        ("POST", "/v2/a/tags/list".to_owned(), 405),
        ("PUT", "/v2/a/manifests/2".to_owned(), 400),
        ("PUT", format!("{upload}?digest={none}"), 400),
        ("DELETE", "/v2/a/manifests/none".to_owned(), 404),
        ("DELETE", format!("/v2/a/manifests/{none}"), 404),
        ("DELETE", format!("/v2/none/manifests/{image}"), 404),
        ("DELETE", format!("/v2/a/blobs/{none}"), 404),
        ("DELETE", format!("/v2/none/blobs/{none}"), 404),
        ("DELETE", format!("/v2/a/blobs/{}", sha256(b"the one layer")), 405),
    ];
    for (method, path, status) in requests {
        let answer = yard.ask(method, &path).send().await;
        assert_eq!(answer.status, status, "{method} {path} {answer:?}");
        assert_eq!(answer.header("content-type"), "application/json");
        for error in answer.json()["errors"].as_array().expect("a list of errors") {
            assert!(CODES.contains(&error["code"].as_str().unwrap()), "{error}");
            assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        }
    }
}
