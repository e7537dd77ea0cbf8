//! The files in which other programs of this machine look for the registry's authority.

use std::path::{Path, PathBuf};

use mergeyard_registry::tls::certificate::{Certificate, certificates};
use mergeyard_run::engine_trust::{CertsDir, Standing};
use toml::Value;

use super::{Finding, Level, Machine, Remedy, Subject, day};

const CONTAINERD: &str = "containerd";
const CONTAINERS: &str = "podman";

/// Configuration files are small; a larger one is something else.
const MOST: u64 = 1 << 20;

pub(super) fn examine(subject: &Subject, machine: &Machine) -> Vec<Finding> {
    let mut findings = containers(subject, machine);
    findings.extend(containerd(subject, machine));
    findings
}

/// One folder by hosts, as Docker began it and podman took over.
pub(super) fn in_certs_dir(
    check: &'static str,
    who: &str,
    subject: &Subject,
    machine: &Machine,
    certs: &CertsDir,
) -> Option<Finding> {
    let authority = subject.authority.as_ref()?;
    let shown = |path: &Path| on_machine(machine, path);
    let put = |finding: Finding, path: PathBuf| {
        let install = format!("install -D -m 644 {} {}", authority.path.display(), shown(&path));
        finding.fix(install).remedy(Remedy::Write { files: vec![(path, authority.pem.clone())], then: None })
    };
    Some(match certs.standing(&subject.host, &authority.pem) {
        Standing::LoopbackNeedsNone => return None,
        Standing::There(path) => Finding::ok(check, format!("{who} can verify it by {}", shown(&path))),
        Standing::Missing(path) => {
            let message = format!("{who} cannot verify it: there is no {}", shown(&path));
            put(Finding::error(check, message), path)
        }
        Standing::Another { theirs, ours } => {
            let message = format!("{who} cannot verify it: {} holds {}", shown(&theirs), held(&theirs));
            put(Finding::error(check, message), ours)
        }
    })
}

/// Who is in a file, so that a stale authority is seen to be one.
fn held(path: &Path) -> String {
    let pem = read(path).unwrap_or_default();
    let first = certificates(pem.as_bytes()).ok().and_then(|all| Certificate::read(all.first()?).ok());
    match first {
        Some(first) => format!("another authority, `{}`, good until {}", first.subject, day(first.not_after)),
        None => "no certificate".to_owned(),
    }
}

/// podman, skopeo and buildah share their files.
fn containers(subject: &Subject, machine: &Machine) -> Vec<Finding> {
    let programs = ["podman", "skopeo", "buildah"];
    let installed: Vec<_> = programs.into_iter().filter(|name| machine.has_program(name)).collect();
    if installed.is_empty() {
        return vec![Finding::ok(CONTAINERS, "podman, skopeo and buildah are not installed")];
    }
    let who = match installed.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => installed.concat(),
    };
    // The first folder that exists for a host is the only one that is read.
    let (own, dockers) = (machine.path("/etc/containers/certs.d"), machine.path("/etc/docker/certs.d"));
    let host = subject.host.as_str();
    let folder = if !own.join(host).is_dir() && dockers.join(host).is_dir() { dockers } else { own };
    let certs = CertsDir::new(folder).verifying_loopback();
    let mut finding = in_certs_dir(CONTAINERS, &who, subject, machine, &certs);
    // Whoever pulls with these is told, and nothing that is served or built depends on it.
    if let Some(finding) = finding.as_mut().filter(|finding| finding.level == Level::Error) {
        finding.level = Level::Warning;
    }
    finding.into_iter().chain(marked_insecure(subject, machine)).collect()
}

fn marked_insecure(subject: &Subject, machine: &Machine) -> Option<Finding> {
    let mut files = vec![machine.path("/etc/containers/registries.conf")];
    let more = std::fs::read_dir(machine.path("/etc/containers/registries.conf.d"));
    let mut more: Vec<_> = more.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    more.sort();
    files.extend(more.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "conf")));
    let file = files
        .iter()
        .find(|file| table(file).is_some_and(|table| says_insecure(&table, subject.host.as_str())))?;
    let path = on_machine(machine, file);
    let message =
        format!("podman, skopeo and buildah do not verify {}: {path} marks it insecure", subject.host);
    Some(Finding::warning(CONTAINERS, message).fix(format!("remove `insecure = true` for it from {path}")))
}

fn says_insecure(table: &toml::Table, host: &str) -> bool {
    let is_it = |value: Option<&Value>| {
        let text = value.and_then(Value::as_str).unwrap_or_default();
        text == host || text.strip_prefix(host).is_some_and(|rest| rest.starts_with('/'))
    };
    let entries = table.get("registry").and_then(Value::as_array).into_iter().flatten();
    let mut insecure = entries.filter(|entry| entry.get("insecure").and_then(Value::as_bool) == Some(true));
    // The older form lists hosts.
    let listed = table.get("registries").and_then(|old| old.get("insecure")?.get("registries")?.as_array());
    insecure.any(|entry| is_it(entry.get("location")) || is_it(entry.get("prefix")))
        || listed.into_iter().flatten().any(|entry| entry.as_str() == Some(host))
}

fn containerd(subject: &Subject, machine: &Machine) -> Vec<Finding> {
    if !machine.has_program("containerd") {
        return vec![Finding::ok(CONTAINERD, "containerd is not installed")];
    }
    if !["nerdctl", "kubelet", "crictl", "k3s"].iter().any(|name| machine.has_program(name)) {
        return vec![Finding::ok(CONTAINERD, "containerd serves only Docker, which has files of its own")];
    }
    let Some(authority) = &subject.authority else { return Vec::new() };
    let folder = machine.path("/etc/containerd/certs.d").join(subject.host.as_str());
    let (hosts, ca) = (folder.join("hosts.toml"), folder.join("ca.crt"));
    let finding = match table(&hosts) {
        Some(table) if skips_verification(&table) => {
            let path = on_machine(machine, &hosts);
            Finding::warning(
                CONTAINERD,
                format!("containerd does not verify {}: {path} says `skip_verify`", subject.host),
            )
            .fix(format!("remove `skip_verify = true` from {path}"))
        }
        Some(table) if names_authority(machine, &table, &authority.pem) => {
            Finding::ok(CONTAINERD, format!("containerd can verify it by {}", on_machine(machine, &hosts)))
        }
        Some(_) => {
            let path = on_machine(machine, &hosts);
            let ca = authority.path.display();
            Finding::warning(
                CONTAINERD,
                format!("containerd cannot verify it: {path} names another authority, or none"),
            )
            .fix(format!("in {path}, below [host.\"https://{}\"], write: ca = \"{ca}\"", subject.host))
        }
        None => {
            let text = hosts_toml(subject, &on_machine(machine, &ca));
            let (path, ca_path) = (on_machine(machine, &hosts), on_machine(machine, &ca));
            let message = format!("containerd cannot verify it: there is no {path}");
            let fix = format!(
                "install -D -m 644 {} {ca_path}, and write {path}:\n{text}",
                authority.path.display()
            );
            // The file that is named has to be there first.
            let files = vec![(ca, authority.pem.clone()), (hosts, text.into_bytes())];
            Finding::warning(CONTAINERD, message).fix(fix).remedy(Remedy::Write { files, then: None })
        }
    };
    std::iter::once(finding).chain(config_path(machine)).collect()
}

fn hosts_toml(subject: &Subject, ca: &str) -> String {
    let host = &subject.host;
    format!(
        "server = \"https://{host}\"\n\n[host.\"https://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"{ca}\"\n"
    )
}

/// The folder of hosts is read by the Kubernetes part only when it is told to.
fn config_path(machine: &Machine) -> Option<Finding> {
    let file = machine.path("/etc/containerd/config.toml");
    let config = table(&file).unwrap_or_default();
    let plugins = config.get("plugins").and_then(Value::as_table);
    let parts = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];
    let said = plugins.into_iter().flat_map(|all| parts.iter().filter_map(|part| all.get(*part)));
    let mut said = said.filter_map(|part| part.get("registry")?.get("config_path")?.as_str());
    if said.any(|path| path.split(':').any(|path| path.trim_end_matches('/') == "/etc/containerd/certs.d")) {
        return None;
    }
    let path = on_machine(machine, &file);
    let version = config.get("version").and_then(Value::as_integer).unwrap_or(2);
    let part = if version >= 3 { "io.containerd.cri.v1.images" } else { "io.containerd.grpc.v1.cri" };
    let message = format!(
        "containerd does not look into /etc/containerd/certs.d for Kubernetes: {path} has no `config_path`"
    );
    Some(Finding::warning(CONTAINERD, message).fix(format!(
        "add to {path}, then run systemctl restart containerd:\n[plugins.\"{part}\".registry]\n  config_path = \"/etc/containerd/certs.d\""
    )))
}

fn tables(hosts: &toml::Table) -> impl Iterator<Item = &toml::Table> {
    let named = hosts.get("host").and_then(Value::as_table);
    std::iter::once(hosts).chain(named.into_iter().flat_map(|all| all.values().filter_map(Value::as_table)))
}

fn skips_verification(hosts: &toml::Table) -> bool {
    tables(hosts).any(|table| table.get("skip_verify").and_then(Value::as_bool) == Some(true))
}

fn names_authority(machine: &Machine, hosts: &toml::Table, pem: &[u8]) -> bool {
    let wanted = certificates(pem).unwrap_or_default();
    let holds = |path: &str| {
        let text = read(&machine.path(path)).unwrap_or_default();
        let there = certificates(text.as_bytes()).unwrap_or_default();
        !wanted.is_empty() && wanted.iter().all(|der| there.contains(der))
    };
    let mut named = tables(hosts).filter_map(|table| table.get("ca"));
    named.any(|ca| match ca {
        Value::String(path) => holds(path),
        Value::Array(paths) => paths.iter().filter_map(Value::as_str).any(holds),
        _ => false,
    })
}

/// A file as the machine itself names it.
pub(super) fn on_machine(machine: &Machine, path: &Path) -> String {
    match path.strip_prefix(&machine.root) {
        Ok(inside) => format!("/{}", inside.display()),
        Err(_) => path.display().to_string(),
    }
}

fn table(path: &Path) -> Option<toml::Table> {
    read(path)?.parse().ok()
}

fn read(path: &Path) -> Option<String> {
    let size = std::fs::metadata(path).ok()?.len();
    if size <= MOST { std::fs::read_to_string(path).ok() } else { None }
}
