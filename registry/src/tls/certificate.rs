//! What a certificate says, read for people and for decisions.
//!
//! Whether it is *believed* is another question, see [`super::trust`].

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use mergeyard_types::Timestamp;
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate: {0}")]
pub struct Unreadable(String);

/// One certificate, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// The host names and addresses it is for, each in one spelling.
    pub names: BTreeSet<String>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_authority: bool,
    pub is_self_signed: bool,
}

impl Certificate {
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let parsed = parse(der)?;
        let time = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().saturating_mul(1000));
        Ok(Self {
            subject: title(parsed.subject()),
            issuer: title(parsed.issuer()),
            names: names_of(&parsed),
            not_before: time(parsed.validity().not_before),
            not_after: time(parsed.validity().not_after),
            is_authority: parsed.is_ca(),
            is_self_signed: parsed.subject() == parsed.issuer() && parsed.verify_signature(None).is_ok(),
        })
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.not_after <= now
    }

    pub fn is_from_the_future(&self, now: Timestamp) -> bool {
        now < self.not_before
    }

    /// Whole days until it ends, zero once it has.
    pub fn days_left(&self, now: Timestamp) -> u64 {
        self.not_after.since(now).as_secs() / DAY.as_secs()
    }

    pub fn ends_within(&self, time: Duration, now: Timestamp) -> bool {
        self.not_after <= now.plus(time)
    }
}

/// The certificates of a PEM text, in its order.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unreadable> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Unreadable(error.to_string()))
}

/// As any client decides it, wildcards and all.
pub fn is_for(der: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host.trim_matches(['[', ']'])) else { return false };
    ParsedCertificate::try_from(der).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// Whether `der` carries the signature of `issuer`.
pub fn is_signed_by(der: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok(parsed), Ok(issuer)) = (parse(der), parse(issuer)) else { return false };
    parsed.issuer() == issuer.subject() && parsed.verify_signature(Some(issuer.public_key())).is_ok()
}

/// One spelling per name or address.
pub(crate) fn canonical(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Unreadable> {
    parse_x509_certificate(der).map(|(_, parsed)| parsed).map_err(|error| Unreadable(error.to_string()))
}

/// The common name where there is one: the rest only makes sentences long.
fn title(name: &x509_parser::x509::X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}

fn names_of(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let address = |bytes: &[u8]| match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(canonical(name)),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}
