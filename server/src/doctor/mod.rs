//! Why a registry or a target cannot be reached, or is not believed, and what mends it.
//!
//! A push that fails with "x509" can have its cause in a name, a clock, a chain, a login or one
//! of half a dozen files that as many programs read. Each is looked at here by itself, from the
//! outside as a client would, and each finding says what to do. A password is only ever sent
//! over a connection that was verified.

mod chain;
mod clients;
mod disk;
mod engine;
mod finding;
mod mend;
mod protocol;
mod reach;
mod report;
mod system;
pub mod target;
mod wire;

use std::{path::PathBuf, time::Duration};

use mergeyard_registry::{
    tls::certificate::{Certificate, certificates},
    tls::trust::Roots,
};
use mergeyard_run::engine::RegistryCredentials;
use mergeyard_types::{RegistryHost, Timestamp};
use rustls::pki_types::CertificateDer;

use crate::{config::Embedded, data_dir::DataDir};

pub use finding::{Finding, Level, Remedy};
pub use mend::mend;
pub use report::report;

/// A server that is there answers this fast; all of them are asked one after the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// The registry that is looked at, and what is known about it.
pub struct Subject {
    pub host: RegistryHost,
    pub authority: Option<KnownAuthority>,
    pub login: Option<RegistryCredentials>,
    /// Where this installation keeps it, when it does.
    pub own: Option<Own>,
}

/// The authority that clients of this registry are told to trust.
pub struct KnownAuthority {
    pub path: PathBuf,
    pub pem: Vec<u8>,
}

pub struct Own {
    pub data: DataDir,
    pub config: Box<Embedded>,
}

/// The machine it is looked at from.
pub struct Machine {
    /// Where its `/etc` and `/usr` are.
    pub root: PathBuf,
    /// Whom its programs trust without being told.
    pub system: Roots,
    pub engine: String,
}

impl Machine {
    pub fn this(engine: String) -> Self {
        Self { root: "/".into(), system: Roots::system(), engine }
    }

    /// A machine's files below a folder, such as an image that is being made.
    pub fn below(root: PathBuf, engine: String) -> Self {
        let bundle = system::bundle(&root);
        Self { system: bundle.map_or_else(|| Roots::of(&[]), |file| Roots::bundle(&file)), root, engine }
    }

    /// Whom its programs trust may have changed.
    pub fn refreshed(self) -> Self {
        match self.is_this() {
            true => Self::this(self.engine),
            false => Self::below(self.root, self.engine),
        }
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    fn has_program(&self, name: &str) -> bool {
        let folders = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];
        folders.iter().any(|folder| self.root.join(folder).join(name).is_file())
    }

    fn is_this(&self) -> bool {
        self.root == std::path::Path::new("/")
    }
}

impl Subject {
    fn name(&self) -> &str {
        self.host.host().trim_matches(['[', ']'])
    }

    fn port(&self) -> u16 {
        let after = self.host.as_str().strip_prefix(self.host.host());
        after.and_then(|port| port.strip_prefix(':')?.parse().ok()).unwrap_or(443)
    }

    fn roots(&self) -> Option<Roots> {
        let authority = self.authority.as_ref()?;
        Some(Roots::of(&certificates(&authority.pem).unwrap_or_default()))
    }

    /// Whether its own authority signs it, so that a new certificate is one call away.
    fn signs_itself(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.config.tls.is_none())
    }
}

/// Looks at everything. What cannot be looked at because of an earlier finding is left out.
pub async fn examine(subject: &Subject, machine: &Machine, now: Timestamp) -> Vec<Finding> {
    let mut findings = known_authority(subject, now);
    let seen = look(subject, machine, now, &mut findings).await;
    match &seen {
        Some(chain) => findings.extend(chain::judge(subject, machine, chain, now)),
        None => findings.extend(disk::stored_chain(subject, machine, now)),
    }
    findings.extend(engine::examine(subject, machine, seen.is_some()).await);
    findings.extend(clients::examine(subject, machine));
    findings.extend(system::examine(subject, machine));
    findings.extend(disk::examine(subject));
    findings
}

/// What the network shows: the chain, when there is TLS at all.
async fn look(
    subject: &Subject,
    machine: &Machine,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) -> Option<Vec<CertificateDer<'static>>> {
    let address = reach::reach(subject, findings).await?;
    let shown = reach::shake_hands(subject, address, findings).await?;
    protocol::examine(subject, machine, address, &shown, now, findings).await;
    Some(shown)
}

/// The authority's own end is announced in time to tell every client.
fn known_authority(subject: &Subject, now: Timestamp) -> Vec<Finding> {
    const CHECK: &str = "authority";
    let Some(authority) = &subject.authority else { return Vec::new() };
    let path = authority.path.display();
    let read = certificates(&authority.pem).unwrap_or_default();
    let read: Vec<_> = read.iter().filter_map(|der| Certificate::read(der).ok()).collect();
    let Some(first) = read.iter().min_by_key(|certificate| certificate.not_after) else {
        return vec![Finding::error(CHECK, format!("{path} holds no certificate")).fix(
            "set `registry.ca` to the PEM file of the authority that signed the registry's certificate",
        )];
    };
    let soon = mergeyard_registry::tls::certificates::AUTHORITY_ENDS_SOON;
    let what = format!("the authority `{}` in {path}", first.subject);
    let new = match subject.signs_itself() {
        true => "stop the server, move tls/ca.pem and tls/ca.key out of the data directory, start it, then run `mergeyard registry doctor --fix` on every client".to_owned(),
        false => format!("get the authority's new certificate and put it into {path}"),
    };
    vec![match () {
        () if first.is_expired(now) => {
            Finding::error(CHECK, format!("{what} ended on {}", day(first.not_after))).fix(new)
        }
        () if first.ends_within(soon, now) => {
            let left = days(first.days_left(now));
            Finding::warning(CHECK, format!("{what} ends in {left}, on {}", day(first.not_after))).fix(new)
        }
        () if first.is_from_the_future(now) => {
            Finding::error(CHECK, format!("{what} begins only on {}", day(first.not_before)))
                .fix("set this machine's clock: timedatectl set-ntp true")
        }
        () => Finding::ok(CHECK, format!("{what} is good until {}", day(first.not_after))),
    }]
}

fn day(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(time) => time.strftime("%Y-%m-%d").to_string(),
        Err(_) => at.0.to_string(),
    }
}

fn days(days: u64) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}
