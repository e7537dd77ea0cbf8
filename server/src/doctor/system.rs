//! Whom this machine trusts without being told: curl, git and most programs go by that.

use std::path::{Path, PathBuf};

use mergeyard_registry::tls::certificate::certificates;

use super::{Finding, Machine, Remedy, Subject, clients::on_machine};

const CHECK: &str = "system trust";

/// Where distributions keep the bundle of all authorities.
const BUNDLES: [&str; 4] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];

/// How a family of distributions is told about one more.
struct Family {
    folder: &'static str,
    kind: &'static str,
    program: &'static str,
}

const FAMILIES: [Family; 3] = [
    Family { folder: "/etc/pki/ca-trust/source/anchors", kind: "pem", program: "update-ca-trust" },
    Family { folder: "/usr/local/share/ca-certificates", kind: "crt", program: "update-ca-certificates" },
    Family { folder: "/etc/pki/trust/anchors", kind: "pem", program: "update-ca-certificates" },
];

pub(super) fn bundle(root: &Path) -> Option<PathBuf> {
    BUNDLES.iter().map(|bundle| root.join(bundle)).find(|path| path.is_file())
}

pub(super) fn examine(subject: &Subject, machine: &Machine) -> Option<Finding> {
    let authority = subject.authority.as_ref()?;
    let text = bundle(&machine.root).and_then(|file| std::fs::read(file).ok()).unwrap_or_default();
    let there = certificates(&text).unwrap_or_default();
    let wanted = certificates(&authority.pem).ok()?;
    if !wanted.is_empty() && wanted.iter().all(|der| there.contains(der)) {
        return Some(Finding::ok(CHECK, "curl and other programs trust its authority too"));
    }
    let family = FAMILIES.iter().find(|family| machine.path(family.folder).is_dir());
    let Some(family) = family.filter(|family| machine.has_program(family.program)) else {
        let message =
            "curl and other programs do not trust its authority, and this system has no known way to add one";
        return Some(
            Finding::warning(CHECK, message)
                .fix(format!("give them the file, as in: curl --cacert {}", authority.path.display())),
        );
    };
    let name = subject.host.as_str().replace([':', '[', ']'], "_");
    let path = machine.path(family.folder).join(format!("mergeyard-{name}.{}", family.kind));
    let shown = on_machine(machine, &path);
    let program = family.program;
    if std::fs::read(&path).is_ok_and(|pem| pem == authority.pem) {
        let message = format!("{shown} is there, but {program} has not been run since");
        let finding = Finding::warning(CHECK, message).fix(program);
        return Some(if machine.is_this() { finding.remedy(Remedy::Run(program)) } else { finding });
    }
    let message = "curl and other programs do not trust its authority";
    let fix = format!("install -m 644 {} {shown} && {program}", authority.path.display());
    let files = vec![(path, authority.pem.clone())];
    // The program of another system runs there.
    let then = machine.is_this().then_some(program);
    Some(Finding::warning(CHECK, message).fix(fix).remedy(Remedy::Write { files, then }))
}
