//! The registry's certificate, whoever signs it, looked after while it is served.

use std::{path::Path, sync::Arc, time::Duration};

use mergeyard_types::Timestamp;
use rustls::{ServerConfig, pki_types::CertificateDer};

use super::{
    authority::AuthorityError,
    files::{Anchor, CertificateFiles, FilesError, Reloaded},
    trust::Roots,
};
use crate::{Authority, error::chain};

/// Far oftener than anything can end. Each look asks what time it is, so a machine that slept for
/// a month is right an hour after it woke.
const LOOK_AT_AUTHORITY: Duration = Duration::from_secs(60 * 60);

/// How long a certificate that certbot replaced may stay unnoticed; a change counts at the second look.
const LOOK_AT_FILES: Duration = Duration::from_secs(30);

/// A warning that comes more often is not read.
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Time to tell every client about a new authority.
pub const AUTHORITY_ENDS_SOON: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// By then whatever renews a certificate has failed to.
pub const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("cannot serve the certificate")]
    Tls(#[from] rustls::Error),
}

pub struct Certificates(Kind);

enum Kind {
    /// Signed here, for these names.
    Authority(Box<Authority>, Vec<String>),
    /// The operator's own.
    Files(Box<CertificateFiles>),
}

impl Certificates {
    /// Signed by this installation's own authority.
    pub fn signed_here(directory: &Path, names: &[String]) -> Result<Self, CertificatesError> {
        Ok(Self::by(Authority::open(directory, names)?, names))
    }

    pub fn by(authority: Authority, names: &[String]) -> Self {
        Self(Kind::Authority(Box::new(authority), names.to_owned()))
    }

    /// The operator's own, which has to be for `host`.
    pub fn files(cert: &Path, key: &Path, host: &str, now: Timestamp) -> Result<Self, CertificatesError> {
        Self::files_with(cert, key, host, Roots::system(), now)
    }

    /// As [`Certificates::files`], on a machine that trusts `system`.
    pub fn files_with(
        cert: &Path,
        key: &Path,
        host: &str,
        system: Roots,
        now: Timestamp,
    ) -> Result<Self, CertificatesError> {
        Ok(Self(Kind::Files(Box::new(CertificateFiles::open(cert, key, host, system, now)?))))
    }

    pub fn server_config(&self) -> Result<Arc<ServerConfig>, CertificatesError> {
        match &self.0 {
            Kind::Authority(authority, _) => Ok(authority.server_config()?),
            Kind::Files(files) => Ok(files.server_config()?),
        }
    }

    /// The one certificate clients have to be told to trust; `None` when their system knows the
    /// authority. The server itself verifies with exactly this.
    pub fn ca_pem(&self) -> Option<String> {
        match &self.0 {
            Kind::Authority(authority, _) => Some(authority.ca_pem().to_owned()),
            Kind::Files(files) => match files.anchor() {
                Anchor::System => None,
                Anchor::Own(der) => Some(pem(der)),
            },
        }
    }

    /// Looks after the certificate for as long as it is polled.
    pub async fn look_after(&self, clock: impl Fn() -> Timestamp) -> std::convert::Infallible {
        let mut tick = tokio::time::interval(match &self.0 {
            Kind::Authority(..) => LOOK_AT_AUTHORITY,
            Kind::Files(_) => LOOK_AT_FILES,
        });
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut warned = None;
        loop {
            tick.tick().await;
            let now = clock();
            self.look(now);
            if warned.is_none_or(|at: Timestamp| now < at || now.since(at) >= WARN_EVERY) {
                warned = self.warning(now).map(|why| tracing::warn!("{why}")).map(|()| now);
            }
        }
    }

    /// One look: renews or takes up what is due. Reads and writes a few small files.
    pub fn look(&self, now: Timestamp) {
        match &self.0 {
            Kind::Authority(authority, names) => match authority.renew(names, now) {
                Ok(true) => tracing::info!("the registry's certificate was renewed"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(
                        "the registry's certificate cannot be renewed: {}; it is tried again every hour",
                        chain(&error)
                    );
                }
            },
            Kind::Files(files) => match files.reload(now) {
                Reloaded::Nothing => {}
                Reloaded::Changed => {
                    tracing::info!("took up the new certificate in {}", files.path().display())
                }
                Reloaded::Bad(error) => {
                    tracing::error!("the old certificate is served on: {}", chain(&error));
                }
            },
        }
    }

    /// What somebody has to do soon.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        match &self.0 {
            Kind::Authority(authority, _) => authority.warning(now),
            Kind::Files(files) => {
                let certificate = files.certificate()?;
                let path = files.path().display();
                if certificate.is_expired(now) {
                    return Some(format!(
                        "the certificate in {path} has expired and every client refuses it: renew it"
                    ));
                }
                if certificate.is_from_the_future(now) {
                    return Some(format!(
                        "the certificate in {path} is not valid yet: check this machine's clock"
                    ));
                }
                certificate.ends_within(CERTIFICATE_ENDS_SOON, now).then(|| {
                    let days = certificate.days_left(now);
                    format!("the certificate in {path} ends in {days} days and nothing has renewed it: see to what does")
                })
            }
        }
    }
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_for_a_year_has_a_good_certificate_an_hour_later() {
        let directory = tempfile::tempdir().unwrap();
        let names = ["registry.example.org".to_owned()];
        let authority = Authority::open_at(directory.path(), &names, NOW).unwrap();
        let leaf = authority.leaf_chain_pem();
        let (first, certificates) = (std::fs::read(&leaf).unwrap(), Certificates::by(authority, &names));
        // The clock jumps between two looks while the timer's time goes its own way.
        let looks = std::cell::Cell::new(0);
        let (looked, later) = (&looks, NOW.plus(380 * DAY));
        let clock = || {
            looked.set(looked.get() + 1);
            if looked.get() < 3 { NOW } else { later }
        };
        let began = tokio::time::Instant::now();
        tokio::select! {
            never = certificates.look_after(clock) => match never {},
            () = async {
                while std::fs::read(&leaf).unwrap() == first {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            } => {}
        }
        assert_eq!(looks.get(), 3);
        assert!(began.elapsed() <= 2 * LOOK_AT_AUTHORITY + Duration::from_secs(60), "{:?}", began.elapsed());
        let renewed = crate::tls::certificate::certificates(&std::fs::read(&leaf).unwrap()).unwrap();
        let renewed = crate::tls::certificate::Certificate::read(&renewed[0]).unwrap();
        assert!(!renewed.is_expired(later.plus(300 * DAY)));
    }
}
