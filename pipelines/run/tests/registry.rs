//! Asking a real registry over TLS, and saying what is wrong when something is.

#[path = "support/registry.rs"]
mod registry;

use axum::{Router, http::StatusCode};
use mergeyard_run::registry_client::{RegistryAccess, RegistryClient, RegistryError};
use mergeyard_types::{ImageName, Secret, Version};
use registry::{Certificate, Registry};

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
