//! Who may see and do what.

use http::StatusCode;

use crate::{
    images,
    yard::{SECRET, Yard, basic, sha256},
};

#[tokio::test]
async fn without_a_proven_name_there_is_one_answer_and_it_asks_for_one() {
    let yard = Yard::new();
    images::push(&yard, "acme/clock", "1").await;
    let challenge = |answer: &crate::yard::Answer| {
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"mergeyard\", charset=\"UTF-8\"");
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
        answer.refused(401, "UNAUTHORIZED")
    };
    let mut messages = Vec::new();
    for path in ["/v2/", "/v2/acme/clock/manifests/1", "/v2/acme/none/manifests/1", "/v2/_catalog"] {
        messages.push(challenge(&yard.ask("GET", path).by_nobody().send().await));
    }
    for value in
        [basic("robot", "wrong"), basic("nobody", SECRET), "Bearer x".to_owned(), "Basic %".to_owned()]
    {
        let ask = yard.ask("GET", "/v2/").by_nobody().header("authorization", &value);
        messages.push(challenge(&ask.send().await));
    }
    messages.dedup();
    assert_eq!(messages.len(), 1);
    assert_eq!(yard.get("/v2/").await.status, StatusCode::OK);
    assert_eq!(yard.get("/v2").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_one_may_not_read_is_not_there_and_what_one_may_not_write_is_denied() {
    let yard = Yard::new();
    images::push(&yard, "secret/clock", "1").await;
    let blob = sha256(b"the one layer");
    for path in [
        "/v2/secret/clock/manifests/1".to_owned(),
        "/v2/secret/clock/tags/list".to_owned(),
        format!("/v2/secret/clock/blobs/{blob}"),
        "/v2/secret/none/tags/list".to_owned(),
    ] {
        for account in ["acme", "reader"] {
            yard.ask("GET", &path).by(account).send().await.refused(404, "NAME_UNKNOWN");
        }
    }
    for path in ["/v2/secret/clock/blobs/uploads/", "/v2/acme/clock/blobs/uploads/"] {
        yard.ask("POST", path).by("reader").send().await.refused(403, "DENIED");
    }
    yard.ask("PUT", "/v2/acme/clock/manifests/1").by("reader").send().await.refused(403, "DENIED");
    yard.ask("DELETE", "/v2/acme/clock/manifests/1").by("acme").send().await.refused(403, "DENIED");
}

#[tokio::test]
async fn a_blob_is_read_and_mounted_only_where_its_reader_has_rights() {
    let yard = Yard::new();
    let hidden = yard.push_blob("secret/clock", b"hidden").await;
    let open = yard.push_blob("acme/one", b"open").await;
    let read = format!("/v2/acme/two/blobs/{hidden}");
    yard.ask("GET", &read).by("acme").send().await.refused(404, "BLOB_UNKNOWN");

    let mount = |digest, from: &str| {
        let path = format!("/v2/acme/two/blobs/uploads/?mount={digest}&from={from}");
        yard.ask("POST", &path).by("acme").send()
    };
    for from in ["secret/clock", "acme/none", "../secret/clock", ""] {
        let answer = mount(hidden, from).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert!(answer.header("location").starts_with("/v2/acme/two/blobs/uploads/"));
    }
    yard.ask("GET", &read).by("acme").send().await.refused(404, "BLOB_UNKNOWN");

    let mounted = mount(open, "acme/one").await;
    assert_eq!(
        (mounted.status.as_u16(), mounted.header("location")),
        (201, format!("/v2/acme/two/blobs/{open}").as_str())
    );
    assert_eq!(yard.ask("GET", mounted.header("location")).by("acme").send().await.body, b"open");
    // Once it is there, nobody has to say where it came from.
    let again =
        yard.ask("POST", &format!("/v2/acme/two/blobs/uploads/?mount={open}")).by("acme").send().await;
    assert_eq!(again.status, 201);
    mount_is_checked(&yard).await;
}

async fn mount_is_checked(yard: &Yard) {
    let path = "/v2/acme/two/blobs/uploads/?mount=sha256:x&from=acme/one";
    yard.ask("POST", path).send().await.refused(400, "DIGEST_INVALID");
}
