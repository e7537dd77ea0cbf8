//! The container engine, which connects by itself: it is asked to, instead of guessed about.

use std::net::IpAddr;

use mergeyard_run::{
    engine::{Engine, Reach},
    engine_trust::{CertsDir, is_loopback},
};

use super::{Finding, Level, Machine, Subject, clients::in_certs_dir};

const ENGINE: &str = "engine";
const DOCKER: &str = "docker";

/// `is_reached` says whether this process came through: where it did not, an engine of this
/// machine would only say so again.
pub(super) async fn examine(subject: &Subject, machine: &Machine, is_reached: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let engine = Engine::at(&machine.engine);
    let is_installed = machine.has_program("dockerd") || machine.has_program("docker");
    match engine.version().await {
        Ok(version) => {
            let message = format!("Docker {} answers at {}", version.version, machine.engine);
            findings.push(Finding::ok(ENGINE, message));
        }
        Err(_) if !is_installed => {
            findings.push(Finding::ok(ENGINE, "Docker is not installed"));
            return findings;
        }
        Err(error) => {
            findings.push(Finding::warning(ENGINE, error.to_string()).fix("systemctl start docker"));
            findings.extend(file(subject, machine, &engine));
            return findings;
        }
    }
    findings.extend(insecure(subject, &engine).await);
    if is_reached || !engine.is_local() {
        findings.extend(asked(subject, machine, &engine).await);
    } else {
        findings.extend(file(subject, machine, &engine));
    }
    findings
}

/// The file by which the engine of this machine trusts the registry.
fn file(subject: &Subject, machine: &Machine, engine: &Engine) -> Option<Finding> {
    let certs = CertsDir::new(machine.path("/etc/docker/certs.d"));
    if engine.is_local() { in_certs_dir(DOCKER, "the engine", subject, machine, &certs) } else { None }
}

/// Whether the engine comes through to the registry, trusts it and is let in.
async fn asked(subject: &Subject, machine: &Machine, engine: &Engine) -> Vec<Finding> {
    let host = &subject.host;
    let reach = match engine.reach(host, subject.login.as_ref()).await {
        Ok(reach) => reach,
        Err(error) => {
            return vec![Finding::warning(ENGINE, error.to_string()).fix("systemctl start docker")];
        }
    };
    let file = file(subject, machine, engine);
    let is_there = file.as_ref().is_some_and(|finding| finding.level == Level::Ok);
    match reach {
        Reach::LetIn | Reach::LoginRefused => {
            let how = match (is_loopback(host), is_there) {
                (true, _) => Finding::ok(
                    DOCKER,
                    "the engine does not verify registries on loopback addresses, so it needs no file; other programs do verify",
                ),
                (false, true) => return file.into_iter().chain([let_in(subject, &reach)]).collect(),
                (false, false) => Finding::ok(DOCKER, "the engine can verify it without a file of its own"),
            };
            vec![how, let_in(subject, &reach)]
        }
        Reach::UnknownAuthority if !is_there && file.is_some() => file.into_iter().collect(),
        Reach::UnknownAuthority => {
            let message = format!("the engine does not know the authority of {host}");
            let fix = "put the certificate of its authority into /etc/docker/certs.d";
            vec![Finding::error(ENGINE, message).fix(format!("{fix}/{host}/ca.crt on the engine's machine"))]
        }
        Reach::Certificate(why) => {
            let message = format!("the engine refuses the certificate of {host}: {why}");
            vec![Finding::error(ENGINE, message).fix("see what `certificate` says")]
        }
        Reach::Failed(why) => {
            let message = format!("the engine does not reach {host}: {why}");
            vec![
                Finding::error(ENGINE, message)
                    .fix("give the engine's machine a way to it: a name, a route, an open port"),
            ]
        }
    }
}

fn let_in(subject: &Subject, reach: &Reach) -> Finding {
    let host = &subject.host;
    match (reach, &subject.login) {
        (Reach::LetIn, _) => Finding::ok(ENGINE, format!("the engine reaches {host} and is let in")),
        (_, None) => Finding::ok(ENGINE, format!("the engine reaches {host}, which wants a login")),
        (_, Some(_)) => Finding::error(ENGINE, format!("the engine reaches {host} and is not let in"))
            .fix(format!("docker login {host}")),
    }
}

async fn insecure(subject: &Subject, engine: &Engine) -> Option<Finding> {
    let listed = engine.insecure_registries().await.ok()?;
    let host = &subject.host;
    let address = subject.name().parse::<IpAddr>().ok();
    let is_it = |entry: &&String| {
        entry.as_str() == host.as_str()
            || entry.as_str() == subject.name()
            || address.is_some_and(|address| !address.is_loopback() && is_within(address, entry))
    };
    let entry = listed.iter().find(is_it)?;
    let message = format!("the engine does not verify {host}: `{entry}` is one of its insecure registries");
    Some(Finding::warning(DOCKER, message).fix(format!(
        "remove \"{entry}\" from `insecure-registries` in /etc/docker/daemon.json, then: systemctl reload docker"
    )))
}

/// Whether an address is in a network such as `10.0.0.0/8`.
fn is_within(address: IpAddr, network: &str) -> bool {
    let Some((base, length)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    };
    let ((ours, width), (theirs, other)) = (bits(address), bits(base));
    width == other && length <= width && (length == 0 || (ours ^ theirs) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_its_networks_and_in_no_others() {
        let is = |address: &str, network: &str| is_within(address.parse().unwrap(), network);
        assert!(is("10.1.2.3", "10.0.0.0/8") && is("10.1.2.3", "0.0.0.0/0") && is("10.1.2.3", "10.1.2.3/32"));
        assert!(is("fd00::2", "fd00::/8") && !is("fe00::2", "fd00::/8"));
        assert!(!is("11.1.2.3", "10.0.0.0/8") && !is("10.1.2.3", "::/0") && !is("10.1.2.3", "10.1.2.2/32"));
        for nonsense in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", ""] {
            assert!(!is("10.1.2.3", nonsense), "{nonsense}");
        }
    }
}
