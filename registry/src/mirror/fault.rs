//! What goes wrong at an upstream registry, in sentences that say whose turn it is.
//!
//! They name the host and never an address: a blob's address may carry a signature that is as good
//! as a password.

use std::{error::Error as StdError, io, time::Duration};

use http::StatusCode;

#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error(
        "the certificate of upstream registry {0} has expired: nothing is taken from it until it is renewed"
    )]
    CertificateExpired(String),
    #[error("the certificate of upstream registry {0} is not valid yet: check the clocks of both machines")]
    CertificateNotYetValid(String),
    #[error(
        "the certificate of upstream registry {0} is for another host name: write the name in the certificate in the mirror's `upstream`"
    )]
    CertificateForAnotherHost(String),
    #[error(
        "the certificate of upstream registry {0} is an authority's own, used as a server's: let that authority sign a certificate for the server"
    )]
    CertificateOfAnAuthority(String),
    #[error(
        "the certificate of upstream registry {0} is self-signed, or signed by an authority that is not known here: set the mirror's `ca` to that authority's certificate"
    )]
    UnknownAuthority(String),
    #[error("the connection to upstream registry {host} is not secure: {why}")]
    Tls { host: String, why: String },
    #[error("upstream registry {host} asks to wait another {} s: pull again then, or give its mirror a login with a higher limit", wait.as_secs().max(1))]
    TooManyRequests { host: String, wait: Duration },
    #[error("upstream registry {host} does not answer in time for {what}: pull again later")]
    Slow { host: String, what: String },
    #[error("upstream registry {host} cannot be reached for {what}: {why}: pull again later")]
    Unreachable { host: String, what: String, why: String },
    #[error(
        "the connection to upstream registry {host} broke while it was asked for {what}: {why}: pull again"
    )]
    Interrupted { host: String, what: String, why: String },
    #[error("upstream registry {host} answered {status} for {what}: pull again later")]
    Status { host: String, status: StatusCode, what: String },
    #[error(
        "upstream registry {host} does not accept user `{username}`: check the mirror's `username` and `password`"
    )]
    LoginRefused { host: String, username: String },
    #[error("{what} does not exist at upstream registry {host}, or the mirror's login may not read it")]
    Hidden { host: String, what: String },
    #[error("upstream registry {host} sent something else than it should for {what}: {why}")]
    Broken { host: String, what: String, why: String },
    #[error("{what} at upstream registry {host} is larger than the {limit} bytes this registry takes")]
    TooLarge { host: String, what: String, limit: u64 },
    #[error("the download from upstream was stopped: pull again")]
    Stopped,
}

impl UpstreamError {
    /// Is upstream merely not able to answer, so that what was copied before is the best there is?
    /// A login that is refused and an image that is not there are answers.
    pub fn is_outage(&self) -> bool {
        match self {
            UpstreamError::CertificateExpired(_)
            | UpstreamError::CertificateNotYetValid(_)
            | UpstreamError::CertificateForAnotherHost(_)
            | UpstreamError::CertificateOfAnAuthority(_)
            | UpstreamError::UnknownAuthority(_)
            | UpstreamError::Tls { .. }
            | UpstreamError::TooManyRequests { .. }
            | UpstreamError::Slow { .. }
            | UpstreamError::Unreachable { .. }
            | UpstreamError::Interrupted { .. }
            | UpstreamError::Broken { .. }
            | UpstreamError::Stopped => true,
            UpstreamError::Status { status, .. } => status.is_server_error(),
            UpstreamError::LoginRefused { .. }
            | UpstreamError::Hidden { .. }
            | UpstreamError::TooLarge { .. } => false,
        }
    }

    /// Did upstream answer, only badly, so that the next moment may bring a better one?
    pub(super) fn is_stumble(&self) -> bool {
        matches!(self, UpstreamError::Status { .. } | UpstreamError::Interrupted { .. }) && self.is_outage()
    }

    pub(crate) fn meaning(&self) -> (StatusCode, &'static str) {
        match self {
            UpstreamError::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
            UpstreamError::Hidden { .. } => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
            UpstreamError::Slow { .. } => (StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE"),
            UpstreamError::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            _ => (StatusCode::BAD_GATEWAY, "UNAVAILABLE"),
        }
    }

    /// Reads an error of the client. `host` is where the question went, unless a redirect led elsewhere.
    pub(super) fn of(error: &reqwest::Error, host: &str, what: &str) -> Self {
        let host = error.url().and_then(host_of).unwrap_or_else(|| host.to_owned());
        let what = what.to_owned();
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(why)) => certificate(host, why),
            Some(why) => UpstreamError::Tls { host, why: why.to_string() },
            None if error.is_timeout() => UpstreamError::Slow { host, what },
            None if error.is_redirect() => {
                let why = "it leads through too many redirects, or to an address that is not https".into();
                UpstreamError::Broken { host, what, why }
            }
            None if error.is_connect() => UpstreamError::Unreachable { host, what, why: root_cause(error) },
            None => UpstreamError::Interrupted { host, what, why: root_cause(error) },
        }
    }
}

/// `host[:port]`, the part of an address that may be shown.
pub(super) fn host_of(url: &url::Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn certificate(host: String, why: &rustls::CertificateError) -> UpstreamError {
    use rustls::CertificateError as C;
    match why {
        C::Expired | C::ExpiredContext { .. } => UpstreamError::CertificateExpired(host),
        C::NotValidYet | C::NotValidYetContext { .. } => UpstreamError::CertificateNotYetValid(host),
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            UpstreamError::CertificateForAnotherHost(host)
        }
        C::UnknownIssuer | C::BadSignature => UpstreamError::UnknownAuthority(host),
        // The verifier has no name of its own for it.
        C::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            UpstreamError::CertificateOfAnAuthority(host)
        }
        other => UpstreamError::Tls { host, why: other.to_string() },
    }
}

/// The TLS library's own error, wherever it lies in the chain: an I/O error skips the error it
/// wraps when it is asked for its source.
fn tls_error<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(|io| io.get_ref());
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    None
}

fn root_cause(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
