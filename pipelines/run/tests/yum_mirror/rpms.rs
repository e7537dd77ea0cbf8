//! Packages made by rpmbuild, and upstreams of them.

use std::{path::Path, process::Command};

pub(crate) struct Rpm {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) requires: &'static [&'static str],
}

pub(crate) const fn rpm(name: &'static str, version: &'static str, requires: &'static [&'static str]) -> Rpm {
    Rpm { name, version, requires }
}

/// Builds packages into an upstream's folder.
pub(crate) fn add(folder: &Path, rpms: &[Rpm]) {
    let build = tempfile::tempdir().unwrap();
    let mut specs = Vec::new();
    for Rpm { name, version, requires } in rpms {
        let requires: String = requires.iter().map(|needed| format!("Requires: {needed}\n")).collect();
        // Something that does not get smaller by compression, so that its transfer can be held half way.
        let spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\nEpoch: 1\nSummary: {name}\nLicense: MIT\nBuildArch: noarch\n{requires}\
             %description\n{name}\n%install\nmkdir -p %{{buildroot}}/opt\nhead -c 100000 /dev/urandom >%{{buildroot}}/opt/{name}\n\
             %files\n/opt/{name}\n"
        );
        let file = build.path().join(format!("{name}-{version}.spec"));
        std::fs::write(&file, spec).unwrap();
        specs.push(file);
    }
    let mut command = Command::new("rpmbuild");
    command.arg("-bb").arg("--quiet");
    for (key, value) in [("_topdir", build.path()), ("_rpmdir", folder)] {
        command.args(["--define", &format!("{key} {}", value.display())]);
    }
    good(command.args(specs));
    index(folder);
}

/// What an upstream says it has.
pub(crate) fn index(folder: &Path) {
    good(Command::new("createrepo_c").arg("--quiet").arg(folder));
}

/// A key pair in a folder, its public half in `key`.
pub(crate) fn make_key(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let gpg = |args: &[&str]| {
        good(Command::new("gpg").arg("--homedir").arg(folder).args(["--batch", "--quiet"]).args(args))
    };
    gpg(&["--passphrase", "", "--quick-gen-key", "upstream@example.org", "rsa2048", "sign", "never"]);
    gpg(&["--armor", "--output", folder.join("key").to_str().unwrap(), "--export"]);
}

pub(crate) fn sign(key: &Path, rpm: &Path) {
    let path = format!("_gpg_path {}", key.display());
    good(
        Command::new("rpmsign")
            .args(["--define", "_gpg_name upstream@example.org", "--define", "__gpg /usr/bin/gpg"])
            .args(["--define", &path, "--addsign"])
            .arg(rpm),
    );
    good(Command::new("gpgconf").arg("--homedir").arg(key).args(["--kill", "all"]));
}

fn good(command: &mut Command) {
    let name = command.get_program().to_owned();
    let missing = |e| panic!("{}: {e}; run scripts/setup.sh --tests", name.display());
    let output = command.output().unwrap_or_else(missing);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
