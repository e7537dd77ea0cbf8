//! Asking a real registry over TLS, and saying what is wrong when something is.

#[path = "support/registry.rs"]
mod registry;

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Response, StatusCode, Uri},
};
use axum_server::tls_rustls::RustlsConfig;
use mergeyard_run::registry_client::{RegistryAccess, RegistryClient, RegistryError};
use mergeyard_types::{ImageName, Secret, Version};
use registry::{Certificate, Registry, certificates};

fn clock() -> (ImageName, Version) {
    ("clock".parse().unwrap(), "1".parse().unwrap())
}

async fn ask(access: RegistryAccess) -> Result<bool, RegistryError> {
    let (name, version) = clock();
    Ok(RegistryClient::new(access)?.published(&name, &version).await?.is_some())
}

#[tokio::test]
async fn what_is_not_published_is_none_and_a_wrong_password_is_said() {
    let registry = Registry::start().await;
    assert!(!ask(registry.access()).await.unwrap());
    let error =
        ask(RegistryAccess { password: Secret::new("wrong"), ..registry.access() }).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }) && !error.is_transient());
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn each_fault_of_a_certificate_has_its_own_sentence() {
    let expired = Registry::start_with(Certificate::Expired).await;
    let error = ask(expired.access()).await.unwrap_err();
    assert!(matches!(error, RegistryError::CertificateExpired { .. }), "{error:?}");

    let other = Registry::start_with(Certificate::ForAnotherHost).await;
    let error = ask(other.access()).await.unwrap_err();
    assert!(matches!(error, RegistryError::CertificateForAnotherHost { .. }), "{error:?}");

    let good = Registry::start().await;
    for ca_pem in [Some(other.ca.clone()), None] {
        let error = ask(RegistryAccess { ca_pem, ..good.access() }).await.unwrap_err();
        assert!(matches!(error, RegistryError::UnknownAuthority { .. }), "{error:?}");
        assert!(!error.is_transient());
    }
    let error = ask(RegistryAccess { ca_pem: Some(b"no pem".to_vec()), ..good.access() }).await.unwrap_err();
    assert!(matches!(error, RegistryError::Ca(_)), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_is_not_there_or_speaks_no_tls_is_unreachable() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let access = |host: String| RegistryAccess {
        host: host.parse().unwrap(),
        ca_pem: None,
        username: "u".to_owned(),
        password: Secret::new("p"),
    };
    let error = ask(access(format!("127.0.0.1:{port}"))).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }) && error.is_transient(), "{error:?}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(
        async move { axum::serve(listener, Router::new().fallback(|| async { StatusCode::OK })).await },
    );
    let error = ask(access(host)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. } | RegistryError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn each_fault_of_an_answer_is_told_and_only_what_may_pass_is_tried_again() {
    let access = faulty_registry().await;
    let client = RegistryClient::new(access).unwrap();
    let fault = async |name: &str| {
        client.published(&name.parse().unwrap(), &"1".parse().unwrap()).await.expect_err(name)
    };
    for name in ["denied", "forbidden"] {
        let error = fault(name).await;
        assert!(matches!(error, RegistryError::Unauthorized { .. }), "{name}: {error:?}");
        assert!(!error.is_transient(), "{name}");
    }
    let error = fault("busy").await;
    let wait = Some(Duration::from_secs(7));
    assert!(
        matches!(error, RegistryError::TooManyRequests { retry_after, .. } if retry_after == wait),
        "{error:?}"
    );
    assert!(error.is_transient());
    for (name, code, passes) in [("down", 500, true), ("away", 503, true), ("odd", 418, false)] {
        let error = fault(name).await;
        assert!(matches!(error, RegistryError::Status { status, .. } if status == code), "{name}: {error:?}");
        assert_eq!(error.is_transient(), passes, "{name}");
    }
    let error = fault("reset").await;
    assert!(matches!(error, RegistryError::Unreachable { .. }) && error.is_transient(), "{error:?}");
    for (name, said) in [
        ("lied", "its content is not sha256:"),
        ("swapped", "its content is not sha256:"),
        ("bare", "its configuration is missing"),
        ("large", "it is larger than 4 MiB"),
        ("html", "expected value"),
    ] {
        let error = fault(name).await;
        assert!(
            matches!(&error, RegistryError::Broken { why, .. } if why.contains(said)),
            "{name}: {error:?}"
        );
        assert!(error.is_transient(), "{name}");
    }
}

/// A registry that answers for each image with another fault.
async fn faulty_registry() -> RegistryAccess {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), "127.0.0.1", Certificate::Good).await;
    // The client's choice too; whoever comes first makes it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let file = |name: &str| dir.path().join(name);
    let tls = RustlsConfig::from_pem_file(file("server.crt"), file("server.key")).await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let app = Router::new().fallback(async |uri: Uri| faulty_answer(uri.path()));
    let server = axum_server::from_tcp_rustls(listener, tls).unwrap();
    tokio::spawn(server.serve(app.into_make_service()));
    RegistryAccess {
        host: host.parse().unwrap(),
        ca_pem: Some(std::fs::read(file("ca.crt")).unwrap()),
        username: "u".to_owned(),
        password: Secret::new("p"),
    }
}

fn faulty_answer(path: &str) -> Response<Body> {
    let parts: Vec<&str> = path.trim_start_matches("/v2/").split('/').collect();
    let answer = Response::builder();
    let status = |code: u16| Response::builder().status(code).body(Body::empty());
    let other = format!("sha256:{}", "0".repeat(64));
    let manifest = Body::from(format!(r#"{{"config":{{"digest":"{other}"}},"layers":[]}}"#));
    match parts[..] {
        ["denied", ..] => status(401),
        ["forbidden", ..] => status(403),
        ["busy", ..] => answer.status(429).header("Retry-After", "7").body(Body::empty()),
        ["down", ..] => status(500),
        ["away", ..] => status(503),
        ["odd", ..] => status(418),
        ["reset", ..] => answer.body(broken_off()),
        ["lied", ..] => answer.header("Docker-Content-Digest", other).body(manifest),
        ["swapped" | "bare", "manifests", _] => answer.body(manifest),
        ["swapped", ..] => answer.body("{}".into()),
        ["large", ..] => answer.body(vec![b' '; (4 << 20) + 1].into()),
        ["html", ..] => answer.body("<html>".into()),
        _ => status(404),
    }
    .unwrap()
}

/// The beginning of a body, and then the end of its connection.
fn broken_off() -> Body {
    let pieces = [Ok(Bytes::from_static(b"{\"config\":")), Err(std::io::Error::other("reset"))];
    Body::from_stream(futures_util::stream::iter(pieces))
}
