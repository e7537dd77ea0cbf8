//! Whom a client believes, and whether a chain leads there.

use std::{path::Path, sync::Arc, time::Duration};

use mergeyard_types::Timestamp;
use rustls::{
    CertificateError, Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, UnixTime},
    server::ParsedCertificate,
};

use super::certificate::Certificate;

/// A set of authorities.
#[derive(Debug, Clone)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Those that the programs of this machine trust without being told.
    pub fn system() -> Self {
        Self::of(&rustls_native_certs::load_native_certs().certs)
    }

    /// Those of one bundle, as distributions keep it.
    pub fn bundle(file: &Path) -> Self {
        Self::of(&rustls_native_certs::load_certs_from_paths(Some(file), None).certs)
    }

    /// Any certificate can be an anchor, also one that another has signed. What cannot be read is
    /// left out: it would verify nothing.
    pub fn of(certificates: &[CertificateDer<'static>]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        Self(Arc::new(roots))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For a client's configuration.
    pub fn store(&self) -> Arc<RootCertStore> {
        self.0.clone()
    }

    /// Whether a client with these authorities believes the chain, at a time when its first
    /// certificate is valid: being too old or for another name are questions of their own.
    pub fn verify(&self, chain: &[CertificateDer<'static>], now: Timestamp) -> Result<(), Error> {
        let (leaf, between) =
            chain.split_first().ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let read = Certificate::read(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let at = now.0.min(read.not_after.0.saturating_sub(1000)).max(read.not_before.0);
        let at = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(at).unwrap_or(0)));
        let algorithms = provider().signature_verification_algorithms.all;
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.0, between, at, algorithms)
    }
}

/// Named here instead of installed for the process, so that no test and no other library decides it.
pub(crate) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
