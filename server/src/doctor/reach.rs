//! The way there: a name, an address, a port, and TLS on it.

use std::{io, net::SocketAddr};

use rustls::{
    ProtocolVersion,
    pki_types::CertificateDer,
    version::{TLS12, TLS13},
};
use tokio::time::timeout;

use super::{Finding, PATIENCE, Subject, wire};

const NAME: &str = "name";
const CONNECTION: &str = "connection";
const TLS: &str = "tls";

pub(super) async fn reach(subject: &Subject, findings: &mut Vec<Finding>) -> Option<SocketAddr> {
    let addresses = resolve(subject, findings).await?;
    let mut failed = None;
    for address in addresses {
        match wire::connect(address).await {
            Ok(_) => {
                findings.push(Finding::ok(CONNECTION, format!("{address} answers")));
                return Some(address);
            }
            Err(error) => failed = failed.or(Some((address, error))),
        }
    }
    let (address, error) = failed?;
    findings.push(unreachable(subject, address, &error));
    None
}

async fn resolve(subject: &Subject, findings: &mut Vec<Finding>) -> Option<Vec<SocketAddr>> {
    let name = subject.name();
    let looked = timeout(PATIENCE, tokio::net::lookup_host((name, subject.port()))).await;
    let looked = looked.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    let addresses: Vec<SocketAddr> = match looked {
        Ok(addresses) => addresses.collect(),
        Err(_) => Vec::new(),
    };
    let Some(first) = addresses.first() else {
        findings.push(
            Finding::error(
                NAME,
                format!("`{name}` has no address: no name server and no line in /etc/hosts knows it"),
            )
            .fix(format!("add a DNS record, or a line to /etc/hosts on every client: ADDRESS {name}")),
        );
        return None;
    };
    if first.ip().is_unspecified() {
        findings.push(
            Finding::warning(
                NAME,
                format!("`{name}` is every address of this machine, and none that another one could use"),
            )
            .fix("set `registry.host` in mergeyard.toml to the name and port that clients use"),
        );
    } else if name.parse::<std::net::IpAddr>().is_err() {
        findings.push(Finding::ok(NAME, format!("`{name}` is {}", first.ip())));
    }
    Some(addresses)
}

fn unreachable(subject: &Subject, address: SocketAddr, error: &io::Error) -> Finding {
    use io::ErrorKind as Kind;
    let port = subject.port();
    let (message, fix) = match error.kind() {
        Kind::ConnectionRefused => (
            format!("{address} refuses connections: nothing listens on port {port}"),
            match subject.own {
                Some(_) => "start it: mergeyard serve, or mergeyard registry serve".to_owned(),
                None => format!("start the registry on {}, or correct the port", subject.name()),
            },
        ),
        Kind::TimedOut => (
            format!("{address} does not answer: packets are dropped on the way, most likely by a firewall"),
            format!("let TCP port {port} through to {}", address.ip()),
        ),
        Kind::NetworkUnreachable | Kind::HostUnreachable => (
            format!("there is no route to {address}"),
            format!("see where packets go: ip route get {}", address.ip()),
        ),
        _ => (
            format!("cannot connect to {address}: {error}"),
            format!("see what stops it: nc -vz {} {port}", address.ip()),
        ),
    };
    Finding::error(CONNECTION, message).fix(fix)
}

/// The chain that is shown, and what the connection can do.
pub(super) async fn shake_hands(
    subject: &Subject,
    address: SocketAddr,
    findings: &mut Vec<Finding>,
) -> Option<Vec<CertificateDer<'static>>> {
    let name = subject.name();
    let shown = match wire::look(address, name, rustls::ALL_VERSIONS).await {
        Ok(shown) => shown,
        Err(error) => {
            findings.push(no_tls(subject, address, &error).await);
            return None;
        }
    };
    let has_12 =
        shown.version == Some(ProtocolVersion::TLSv1_2) || wire::look(address, name, &[&TLS12]).await.is_ok();
    let has_13 =
        shown.version == Some(ProtocolVersion::TLSv1_3) || wire::look(address, name, &[&TLS13]).await.is_ok();
    let versions = match (has_12, has_13) {
        (true, true) => "TLS 1.2 and 1.3",
        (true, false) => "TLS 1.2 only",
        _ => "TLS 1.3 only",
    };
    let http2 = if shown.has_http2 { "HTTP/2" } else { "HTTP/1.1 only" };
    findings.push(Finding::ok(TLS, format!("{versions}, {http2}")));
    Some(shown.chain)
}

async fn no_tls(subject: &Subject, address: SocketAddr, error: &io::Error) -> Finding {
    if wire::speaks_plain_http(address, subject.host.as_str()).await {
        let message = format!("{address} speaks plain HTTP, and everything here is asked for over TLS");
        return Finding::error(TLS, message).fix(match subject.own {
            Some(_) => "another program has this port: see which with `ss -ltnp`, or set `registry.listen`",
            None => "give that registry a certificate (mergeyard registry certificate makes one), or correct the port",
        });
    }
    let message = match error.kind() {
        io::ErrorKind::TimedOut => format!("{address} takes connections but does not begin TLS"),
        _ => format!("{address} does not finish the TLS handshake: {error}"),
    };
    Finding::error(TLS, message)
        .fix(format!("see what it says: openssl s_client -connect {address} -servername {}", subject.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_port_a_firewall_and_a_missing_route_are_told_apart() {
        let subject =
            Subject { host: "192.0.2.9:5000".parse().unwrap(), authority: None, login: None, own: None };
        let address = "192.0.2.9:5000".parse().unwrap();
        let told = |kind: io::ErrorKind| {
            let finding = unreachable(&subject, address, &kind.into());
            format!("{}: {}", finding.message, finding.fix.unwrap())
        };
        assert_eq!(
            told(io::ErrorKind::ConnectionRefused),
            "192.0.2.9:5000 refuses connections: nothing listens on port 5000: start the registry on 192.0.2.9, or correct the port"
        );
        assert_eq!(
            told(io::ErrorKind::TimedOut),
            "192.0.2.9:5000 does not answer: packets are dropped on the way, most likely by a firewall: let TCP port 5000 through to 192.0.2.9"
        );
        for kind in [io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable] {
            assert_eq!(
                told(kind),
                "there is no route to 192.0.2.9:5000: see where packets go: ip route get 192.0.2.9"
            );
        }
    }
}
