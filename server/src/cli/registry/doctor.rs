//! `mergeyard registry doctor`.

use std::{
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use mergeyard_run::engine::RegistryCredentials;
use mergeyard_types::{RegistryHost, Secret, Timestamp};

use super::configured;
use crate::{
    cli::{Failed, Format},
    config::{Embedded, Registry, RegistryAlone},
    data_dir::DataDir,
    doctor::{Finding, KnownAuthority, Level, Machine, Own, Subject, examine, mend, report},
    embedded_registry,
};

#[derive(Args)]
pub(in crate::cli) struct Doctor {
    /// The registry to look at [default: the configured one]
    host: Option<RegistryHost>,
    /// Do what can be done about it: write the files that programs here read, renew the certificate
    #[arg(long)]
    fix: bool,
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The certificate of the authority that clients trust for it
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Look at the /etc and /usr of another system, such as an image that is being made
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(super) async fn doctor(asked: Doctor, file: Option<PathBuf>) -> Result<(), Failed> {
    let RegistryAlone { data_dir: data, registry, engine_host: engine } = configured(file)?;
    let machine = match asked.root == Path::new("/") {
        true => Machine::this(engine),
        false => Machine::below(asked.root, engine),
    };
    let load = || subject(asked.host.as_ref(), asked.ca.as_deref(), &data, &registry, &machine);
    let mut subject = load()?;
    let mut findings = examine(&subject, &machine, Timestamp::now()).await;
    if asked.fix && findings.iter().any(|finding| finding.remedy.is_some()) {
        for said in mend(&subject, &machine, &findings) {
            // What was done is told beside the findings, which may be read by a program.
            match said {
                Ok(done) => eprintln!("fixed: {done}"),
                Err(why) => eprintln!("not fixed: {why}"),
            }
        }
        let again = Machine::refreshed(machine);
        subject = self::subject(asked.host.as_ref(), asked.ca.as_deref(), &data, &registry, &again)?;
        findings = examine(&subject, &again, Timestamp::now()).await;
    }
    print(&subject, &findings, asked.format)?;
    match findings.iter().any(|finding| finding.level == Level::Error) {
        true => Err(Failed::Told),
        false => Ok(()),
    }
}

/// What is known about the registry. Nothing is made by looking.
fn subject(
    asked: Option<&RegistryHost>,
    ca: Option<&Path>,
    data: &Path,
    registry: &Registry,
    machine: &Machine,
) -> Result<Subject, Failed> {
    let mut subject = match registry {
        Registry::Embedded(config) => embedded(config, DataDir::at(data))?,
        Registry::External { host, ca, username, password } => Subject {
            host: host.clone(),
            authority: ca.as_deref().map(authority).transpose()?,
            login: Some(RegistryCredentials { username: username.clone(), password: password.clone() }),
            own: None,
        },
    };
    if let Some(host) = asked.filter(|host| **host != subject.host) {
        let there = machine.root.join("etc/docker/certs.d").join(host.as_str()).join("ca.crt");
        let authority = there.exists().then(|| self::authority(&there)).transpose()?;
        subject = Subject { host: host.clone(), authority, login: None, own: None };
    }
    if let Some(ca) = ca {
        subject.authority = Some(authority(ca)?);
    }
    Ok(subject)
}

fn embedded(config: &Embedded, data: DataDir) -> Result<Subject, Failed> {
    if config.host.is_none() && config.listen.port() == 0 {
        let why = "`registry.listen` has port 0, so nobody knows where the registry is; name the host and port to look at";
        return Err(Failed::Usage(why.into()));
    }
    if let Err(error) = std::fs::read_dir(data.root())
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        let why = "cannot look into the data directory as this user; run it as root, or as the server's user";
        return Err(Failed::work(format!("{}: {why}", data.root().display())));
    }
    let address: SocketAddr = config.listen;
    let ca = data.ca_file();
    let made = data.tls().join("ca.pem");
    // The authority itself is what counts; its copy for clients is what they can read.
    let authority = match (&config.tls, ca.exists()) {
        (None, _) if made.exists() => {
            Some(KnownAuthority { pem: std::fs::read(&made)?, path: if ca.exists() { ca } else { made } })
        }
        (Some(_), true) => Some(authority(&ca)?),
        _ => None,
    };
    let password = std::fs::read_to_string(data.registry_password_file()).ok();
    let login = password.map(|password| RegistryCredentials {
        username: embedded_registry::ACCOUNT.to_owned(),
        password: Secret::new(password.trim().to_owned()),
    });
    let host = embedded_registry::host(config, address)?;
    Ok(Subject { host, authority, login, own: Some(Own { data, config: Box::new(config.clone()) }) })
}

fn authority(path: &Path) -> Result<KnownAuthority, Failed> {
    let pem = std::fs::read(path)
        .map_err(|error| Failed::work(format!("cannot read {}: {error}", path.display())))?;
    Ok(KnownAuthority { path: path.to_owned(), pem })
}

fn print(subject: &Subject, findings: &[Finding], format: Format) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, findings)?;
            writeln!(out)?;
        }
        Format::Text => {
            let colour =
                io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            write!(out, "{}", report(subject.host.as_str(), findings, colour))?;
        }
    }
    Ok(())
}
