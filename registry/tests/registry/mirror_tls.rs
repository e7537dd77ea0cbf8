//! Upstream registries whose certificate is not to be trusted: nothing is taken from them, and the
//! sentence says which of the reasons it is.

use std::sync::Arc;

use mergeyard_registry::Mirror;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, pem::PemObject},
};

use crate::{
    images::{self, IMAGE},
    scripted::{ALWAYS, Scripted, manifest, mirroring},
    yard::Yard,
};

const TAG: &str = "/v2/hub/clock/manifests/1";

fn issuer() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn tls(certificate: &rcgen::Certificate, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key);
    Arc::new(config.unwrap())
}

fn image() -> String {
    images::manifest(IMAGE, b"config", &[b"layer"])
}

/// An upstream with this certificate, and what the authority that is trusted is.
fn upstream(certificate: &rcgen::Certificate, key: &KeyPair, trusted: String) -> Scripted {
    Scripted::with_tls(tls(certificate, key), trusted, |_| manifest(IMAGE, &image()))
}

async fn refusal(upstream: &Scripted) -> String {
    let yard = Yard::with(upstream.config(ALWAYS));
    let why = yard.get(TAG).await.refused(502, "UNAVAILABLE");
    assert!(yard.registry.repositories().await.unwrap().is_empty());
    assert!(why.contains(&upstream.address.to_string()), "{why}");
    assert!(upstream.story().is_empty(), "a request reached an upstream that is not trusted");
    why
}

#[tokio::test(flavor = "multi_thread")]
async fn each_certificate_that_is_not_to_be_trusted_is_refused_in_its_own_words() {
    let authority = issuer();
    let key = KeyPair::generate().unwrap();
    let signed = |params: CertificateParams| params.signed_by(&key, &authority).unwrap();
    let ca = || authority.pem();

    let good = upstream(&signed(params("127.0.0.1")), &key, ca());
    assert_eq!(Yard::with(good.config(ALWAYS)).get(TAG).await.status, 200);

    let mut expired = params("127.0.0.1");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let why = refusal(&upstream(&signed(expired), &key, ca())).await;
    assert!(why.contains("has expired"), "{why}");

    let mut early = params("127.0.0.1");
    early.not_before = rcgen::date_time_ymd(2999, 1, 1);
    let why = refusal(&upstream(&signed(early), &key, ca())).await;
    assert!(why.contains("is not valid yet"), "{why}");

    let why = refusal(&upstream(&signed(params("registry.example.org")), &key, ca())).await;
    assert!(why.contains("is for another host name"), "{why}");

    let why = refusal(&upstream(&signed(params("127.0.0.1")), &key, issuer().pem())).await;
    assert!(why.contains("signed by an authority that is not known here"), "{why}");

    let own = params("127.0.0.1").self_signed(&key).unwrap();
    let why = refusal(&upstream(&own, &key, ca())).await;
    assert!(why.contains("is self-signed"), "{why}");

    let mut both = params("127.0.0.1");
    both.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let both = both.self_signed(&key).unwrap();
    let why = refusal(&upstream(&both, &key, both.pem())).await;
    assert!(why.contains("an authority's own, used as a server's"), "{why}");

    // Without an authority of its own, those the system trusts are asked.
    let unknown = upstream(&signed(params("127.0.0.1")), &key, ca());
    let mirror = Mirror { ca_pem: None, ..unknown.mirror(ALWAYS) };
    let why = Yard::with(mirroring(mirror)).get(TAG).await.refused(502, "UNAVAILABLE");
    assert!(why.contains("signed by an authority that is not known here"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_outlives_the_certificate_of_its_upstream() {
    let authority = issuer();
    let key = KeyPair::generate().unwrap();
    let good = params("127.0.0.1").signed_by(&key, &authority).unwrap();
    let first = upstream(&good, &key, authority.pem());
    let yard = Yard::with(first.config(ALWAYS));
    assert_eq!(yard.get(TAG).await.status, 200);
    // The same registry, as another server that took its name.
    let mut mirror = first.mirror(ALWAYS);
    first.stop().await;
    let taken = upstream(&params("127.0.0.1").self_signed(&key).unwrap(), &key, authority.pem());
    mirror.upstream = taken.mirror(ALWAYS).upstream;
    let yard = yard.restart_with(mirroring(mirror)).await;
    let stale = yard.get(TAG).await;
    assert_eq!(stale.body, image().into_bytes());
    assert!(stale.headers.contains_key("warning"));
}
