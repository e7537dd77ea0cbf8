//! Where the registry keeps everything: room, and keys that only its own user reads.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use mergeyard_registry::tls::certificate::certificates;
use mergeyard_types::Timestamp;

use super::{Finding, Machine, Remedy, Subject, chain};

const DISK: &str = "disk";
const KEYS: &str = "keys";

/// A push of one ordinary image fails below this.
const FEW_BYTES: u64 = 1 << 30;
/// With less than this nothing is stored at all.
const NO_BYTES: u64 = 64 << 20;
/// A layer is a blob, a link and two folders; a day's pushes are thousands.
const FEW_INODES: u64 = 10_000;
const NO_INODES: u64 = 100;

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let Some(own) = &subject.own else { return Vec::new() };
    let mut findings = Vec::new();
    findings.extend(room(own.data.root()));
    findings.extend(keys(subject));
    findings
}

/// What would be shown, when nothing serves it at the moment.
pub(super) fn stored_chain(subject: &Subject, machine: &Machine, now: Timestamp) -> Vec<Finding> {
    let Some(own) = &subject.own else { return Vec::new() };
    let stored = own.data.tls().join("leaf.pem");
    let file = own.config.tls.as_ref().map_or(&stored, |(cert, _)| cert);
    match fs::read(file).ok().and_then(|pem| certificates(&pem).ok()).filter(|chain| !chain.is_empty()) {
        Some(stored) => chain::judge(subject, machine, &stored, now),
        None if own.config.tls.is_some() => {
            vec![
                Finding::error(
                    "certificate",
                    format!("{} holds no certificate that can be read", file.display()),
                )
                .fix("correct `registry.tls`, or the file and who may read it"),
            ]
        }
        None => vec![Finding::ok(
            "certificate",
            "none was made yet; the first start makes an authority and a certificate",
        )],
    }
}

fn room(folder: &Path) -> Option<Finding> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let shown = folder.display();
    let stat = match rustix::fs::statvfs(there) {
        Ok(stat) => stat,
        Err(error) => {
            let message = format!("cannot look at the file system of {shown}: {error}");
            return Some(Finding::warning(DISK, message).fix(format!("df {shown}")));
        }
    };
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    // File systems without a table of inodes say that there are none at all.
    let inodes = (stat.f_files > 0).then_some(stat.f_favail);
    let fix = "make room: set `keep_last` or `keep_days` in [[registry.repository]], or move `data_dir` to a larger disk";
    Some(judge(&shown.to_string(), bytes, inodes, fix))
}

/// Whether what is free in a folder is enough for images or packages.
pub(super) fn judge(folder: &str, bytes: u64, inodes: Option<u64>, fix: &str) -> Finding {
    let gigabytes = bytes as f64 / 1e9;
    let is_out = bytes < NO_BYTES || inodes.is_some_and(|inodes| inodes < NO_INODES);
    let is_low = bytes < FEW_BYTES || inodes.is_some_and(|inodes| inodes < FEW_INODES);
    let inodes = inodes.map(|inodes| format!(" and {inodes} inodes")).unwrap_or_default();
    let message = format!("{gigabytes:.1} GB{inodes} are free in {folder}");
    match (is_out, is_low) {
        (true, _) => Finding::error(DISK, message).fix(fix),
        (false, true) => Finding::warning(DISK, message).fix(fix),
        (false, false) => Finding::ok(DISK, message),
    }
}

fn keys(subject: &Subject) -> Vec<Finding> {
    let Some(own) = &subject.own else { return Vec::new() };
    let tls = own.data.tls();
    let mut files = vec![tls.join("ca.key"), tls.join("leaf.key"), own.data.registry_password_file()];
    files.extend(own.config.tls.as_ref().map(|(_, key)| key.clone()));
    let mode = |path: &PathBuf| fs::metadata(path).ok().map(|file| file.permissions().mode() & 0o777);
    let there: Vec<_> = files.iter().filter_map(|path| Some((path, mode(path)?))).collect();
    let open: Vec<_> = there.iter().filter(|(path, mode)| mode & forbidden(subject, path) != 0).collect();
    if open.is_empty() {
        return match there.is_empty() {
            true => Vec::new(),
            false => vec![Finding::ok(KEYS, "only their owner can read them")],
        };
    }
    let found = open.iter().map(|(path, mode)| {
        let shown = path.display();
        Finding::error(KEYS, format!("others can read {shown} (mode {mode:o})"))
            .fix(format!("chmod 600 {shown}"))
            .remedy(Remedy::MakePrivate(path.to_path_buf()))
    });
    found.collect()
}

/// The bits that must not be there. Operators let a group read their own key, as Debian's `ssl-cert`.
fn forbidden(subject: &Subject, path: &Path) -> u32 {
    let config = subject.own.as_ref().map(|own| &own.config);
    let is_operators = config.is_some_and(|config| config.tls.as_ref().is_some_and(|(_, key)| key == path));
    if is_operators { 0o027 } else { 0o077 }
}
