//! `--fix`: what the doctor may do by itself, each thing said.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
    process::{Command, Stdio},
};

use mergeyard_run::engine_trust::write;

use super::{Finding, Machine, Remedy, Subject, clients::on_machine};
use crate::embedded_registry;

/// Does what the findings ask for, and says each thing that was done or could not be.
pub fn mend(subject: &Subject, machine: &Machine, findings: &[Finding]) -> Vec<Result<String, String>> {
    let mut done: Vec<&Remedy> = Vec::new();
    let mut said = Vec::new();
    for remedy in findings.iter().filter_map(|finding| finding.remedy.as_ref()) {
        if !done.contains(&remedy) {
            done.push(remedy);
            said.push(apply(subject, machine, remedy));
        }
    }
    said
}

fn apply(subject: &Subject, machine: &Machine, remedy: &Remedy) -> Result<String, String> {
    match remedy {
        Remedy::Write { files, then } => {
            let mut written = Vec::new();
            for (path, content) in files {
                let shown = on_machine(machine, path);
                write(path, content).map_err(failed(&format!("cannot write {shown}")))?;
                written.push(shown);
            }
            let written = format!("wrote {}", written.join(" and "));
            match then {
                Some(program) => run(program).map(|()| format!("{written}, and ran {program}")),
                None => Ok(written),
            }
        }
        Remedy::Run(program) => run(program).map(|()| format!("ran {program}")),
        Remedy::MakePrivate(path) => {
            let shown = path.display();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))
                .map_err(failed(&format!("cannot change the mode of {shown}")))?;
            Ok(format!("made {shown} readable by its owner only"))
        }
        Remedy::Renew => renew(subject),
    }
}

/// Opening the authority makes a new certificate when one is due; a server that runs takes it up.
fn renew(subject: &Subject) -> Result<String, String> {
    let own = subject.own.as_ref().ok_or("only the machine that serves it can renew the certificate")?;
    embedded_registry::certificates(&own.config, &own.data, &subject.host)
        .map_err(|error| format!("cannot renew the certificate: {}", reason(&error)))?;
    leave_to_owner(&own.data.tls())
        .map_err(failed("cannot give the new certificate to the server's user"))?;
    Ok("renewed the registry's certificate; a server that runs takes it up within the hour, or when it is restarted"
        .to_owned())
}

/// What root writes here, the server's own user has to read and one day replace.
fn leave_to_owner(folder: &Path) -> io::Result<()> {
    let owner = fs::metadata(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.uid() != owner.uid() {
            lchown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

fn run(program: &str) -> Result<(), String> {
    let output = Command::new(program)
        .stdin(Stdio::null())
        .output()
        .map_err(failed(&format!("cannot run {program}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or_default().chars().take(200).collect::<String>();
            Err(format!("{program} ended with {}: {said}", output.status))
        }
    }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> String {
    let what = what.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::PermissionDenied => format!("{what}: permission denied; run it as root"),
        _ => format!("{what}: {error}"),
    }
}

fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
