//! Where a target offers a service: `[ADDRESS:]PORT`.

use std::net::{IpAddr, Ipv4Addr};

use crate::StepFault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Published {
    /// `None`: all of the target's.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Published {
    pub(super) fn read(text: &str) -> Result<Self, StepFault> {
        let (address, port) =
            text.rsplit_once(':').map_or((None, text), |(address, port)| (Some(address), port));
        let address = address.map(|address| address.trim_matches(['[', ']']).parse()).transpose();
        match (address, port.parse()) {
            (Ok(address), Ok(port)) if port != 0 => Ok(Self { address, port }),
            _ => Err(StepFault::Failure(format!(
                "`publish: {text}` is no port of a machine: write `80`, or `127.0.0.1:8080` for one of its addresses"
            ))),
        }
    }

    /// How the target itself gets there.
    pub(super) fn on_the_target(&self) -> String {
        let address = self.address.filter(|address| !address.is_unspecified());
        with_port(&address.unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string(), self.port)
    }

    /// How others get there who know the target as `name`. `None`: only the target itself can.
    pub(super) fn for_others(&self, name: &str) -> Option<String> {
        match self.address.filter(|address| !address.is_unspecified()) {
            Some(address) if address.is_loopback() => None,
            Some(address) => Some(with_port(&address.to_string(), self.port)),
            None => Some(with_port(name, self.port)),
        }
    }
}

fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_read_and_found_from_both_sides() {
        for (text, here, there) in [
            ("80", "127.0.0.1:80", Some("vm:80")),
            ("0.0.0.0:80", "127.0.0.1:80", Some("vm:80")),
            ("127.0.0.1:8080", "127.0.0.1:8080", None),
            ("192.0.2.7:80", "192.0.2.7:80", Some("192.0.2.7:80")),
            ("[::1]:80", "[::1]:80", None),
            ("[2001:db8::1]:80", "[2001:db8::1]:80", Some("[2001:db8::1]:80")),
        ] {
            let published = Published::read(text).unwrap();
            assert_eq!(published.on_the_target(), here, "{text}");
            assert_eq!(published.for_others("vm").as_deref(), there, "{text}");
        }
        for bad in ["", "0", "80:80", "x", "1:2:80", "65536", "host:80", "80/udp"] {
            assert!(Published::read(bad).is_err(), "{bad}");
        }
    }
}
