//! Whether clients will believe the certificate, and if not, exactly why.

use mergeyard_registry::{
    tls::certificate::{Certificate, certificates, is_for, is_signed_by},
    tls::certificates::CERTIFICATE_ENDS_SOON,
};
use mergeyard_types::Timestamp;
use rustls::pki_types::CertificateDer;

use super::{Finding, Machine, Remedy, Subject, day, days};

const CERTIFICATE: &str = "certificate";
const TRUST: &str = "trust";

const ORDER: &str =
    "write the server's certificate first, then each one's issuer, into the server's certificate file";

pub(super) fn judge(
    subject: &Subject,
    machine: &Machine,
    chain: &[CertificateDer<'static>],
    now: Timestamp,
) -> Vec<Finding> {
    let Some((der, leaf)) = chain.first().and_then(|der| Some((der, Certificate::read(der).ok()?))) else {
        let message = format!("{} shows something that is no certificate", subject.host);
        return vec![Finding::error(CERTIFICATE, message).fix("give the server a certificate in PEM form")];
    };
    vec![
        validity(subject, &leaf, now),
        names(subject, der, &leaf),
        trust(subject, machine, chain, &leaf, now),
    ]
}

fn validity(subject: &Subject, leaf: &Certificate, now: Timestamp) -> Finding {
    let (host, end) = (&subject.host, day(leaf.not_after));
    if leaf.is_expired(now) {
        return renewable(
            subject,
            Finding::error(CERTIFICATE, format!("the certificate of {host} expired on {end}")),
        );
    }
    if leaf.is_from_the_future(now) {
        let message = format!(
            "the certificate of {host} is valid only from {}, and here it is {}",
            day(leaf.not_before),
            day(now)
        );
        return Finding::error(CERTIFICATE, message)
            .fix("set the clock of whichever machine is wrong: timedatectl set-ntp true");
    }
    let left = days(leaf.days_left(now));
    if leaf.ends_within(CERTIFICATE_ENDS_SOON, now) {
        let message =
            format!("the certificate of {host} ends in {left}, on {end}, and nothing has renewed it");
        return renewable(subject, Finding::warning(CERTIFICATE, message));
    }
    Finding::ok(CERTIFICATE, format!("good for another {left}, until {end}"))
}

/// With what would renew it.
pub(super) fn renewable(subject: &Subject, finding: Finding) -> Finding {
    match &subject.own {
        Some(own) => match &own.config.tls {
            Some((cert, _)) => finding.fix(format!(
                "renew {}, for example with `certbot renew`; the server takes it up by itself within a minute",
                cert.display()
            )),
            None => finding.fix("mergeyard registry doctor --fix").remedy(Remedy::Renew),
        },
        None => finding.fix(format!("renew it on the machine that serves {}", subject.host)),
    }
}

fn names(subject: &Subject, der: &CertificateDer<'_>, leaf: &Certificate) -> Finding {
    let wanted = subject.name();
    if is_for(der, wanted) {
        return Finding::ok(CERTIFICATE, format!("it is for `{wanted}`"));
    }
    let names = leaf.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let names = if names.is_empty() { "no host at all".to_owned() } else { names };
    let finding = Finding::error(CERTIFICATE, format!("the certificate is for {names}, not for `{wanted}`"));
    match (&subject.own, subject.signs_itself()) {
        (_, true) => {
            finding.fix("mergeyard registry doctor --fix makes one with this name").remedy(Remedy::Renew)
        }
        (Some(_), _) => {
            finding.fix(format!("set `registry.host` to a name it has, or get a certificate for `{wanted}`"))
        }
        (None, _) => {
            finding.fix(format!("use a name it has, or give the server a certificate for `{wanted}`"))
        }
    }
}

/// Whether the authority that is known for it, or else the system, believes the chain.
fn trust(
    subject: &Subject,
    machine: &Machine,
    chain: &[CertificateDer<'static>],
    leaf: &Certificate,
    now: Timestamp,
) -> Finding {
    let by_system = machine.system.verify(chain, now).is_ok();
    let Some((known, authority)) = subject.roots().zip(subject.authority.as_ref()) else {
        return match by_system {
            true => Finding::ok(TRUST, "this system trusts it without being told"),
            false => unknown(subject, chain, leaf),
        };
    };
    let path = authority.path.display();
    if known.verify(chain, now).is_ok() && !is_linked(chain) {
        let message = format!(
            "the authority in {path} signed it, but the chain is out of order, which some clients refuse"
        );
        return Finding::warning(TRUST, message).fix(ORDER);
    }
    if known.verify(chain, now).is_ok() {
        return Finding::ok(TRUST, format!("the authority in {path} signed it"));
    }
    if by_system {
        let message =
            format!("this system trusts `{}`, but the authority in {path} is another one", leaf.issuer);
        return Finding::error(TRUST, message).fix("remove `registry.ca` from mergeyard.toml");
    }
    let mut finding = unknown(subject, chain, leaf);
    if subject.signs_itself() {
        finding = finding.fix(
            "restart the server, which may still have an earlier authority; if that changes nothing, another program has its port: ss -ltnp",
        );
    }
    let all = certificates(&authority.pem).unwrap_or_default();
    if let Some(trusted) = all.first().and_then(|der| Certificate::read(der).ok()) {
        finding.message += &format!("; {path} holds `{}`", trusted.subject);
    }
    finding
}

fn unknown(subject: &Subject, chain: &[CertificateDer<'static>], leaf: &Certificate) -> Finding {
    let host = &subject.host;
    let last = chain.last().and_then(|der| Certificate::read(der).ok());
    let last = last.as_ref().unwrap_or(leaf);
    let told = |what: &str| {
        format!("put the certificate of {what} into a file, set `registry.ca` to it, or pass it as --ca FILE")
    };
    if leaf.is_self_signed {
        let message =
            format!("the certificate of {host} is signed by nobody but itself (`{}`)", leaf.subject);
        return Finding::error(TRUST, message).fix(format!(
            "see it with `openssl s_client -connect {} -showcerts`; if it is the right one, put it into a file and set `registry.ca` to it, or pass it as --ca FILE",
            address(subject)
        ));
    }
    if !is_linked(chain) {
        let message =
            format!("{host} sends its certificates in the wrong order, or one is missing between them");
        return Finding::error(TRUST, message).fix(ORDER);
    }
    if chain.len() == 1 {
        let message = format!(
            "the chain of {host} is incomplete or its authority unknown: only `{}` is sent, and its issuer `{}` is not trusted here",
            leaf.subject, leaf.issuer
        );
        let told = told(&format!("`{}`", leaf.issuer));
        return Finding::error(TRUST, message).fix(format!(
            "give the server its full chain (`fullchain.pem`, not `cert.pem`); if it has none, {told}"
        ));
    }
    let authority = if last.is_self_signed { &last.subject } else { &last.issuer };
    Finding::error(
        TRUST,
        format!("the certificate of {host} leads to `{authority}`, which is not trusted here"),
    )
    .fix(told(&format!("`{authority}`")))
}

fn is_linked(chain: &[CertificateDer<'static>]) -> bool {
    chain.windows(2).all(|pair| is_signed_by(&pair[0], &pair[1]))
}

fn address(subject: &Subject) -> String {
    format!("{}:{}", subject.host.host(), subject.port())
}
