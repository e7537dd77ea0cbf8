//! Whether a machine has what deployments to it need.
//!
//! A mirror needs all that a mirror needs. Any other target is for rollouts or for playbooks, and
//! nobody says which: what lacks for one is a warning, and an error when it lacks for both. Playbooks
//! go over SSH, so a local target is for rollouts alone.

use mergeyard_run::{
    engine::EngineVersion,
    target::{Mirror, Reach, Target},
};

use super::{
    Finding,
    probe::{Seen, Socket},
};
use crate::doctor::disk;

const ENGINE: &str = "engine";
const PYTHON: &str = "python3";

/// `engine` is its version, or why there is none.
pub(super) fn judge(target: &Target, seen: &Seen, engine: Result<&EngineVersion, &str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if matches!(target.reach, Reach::Ssh(_)) && !seen.has("timeout") {
        findings.push(
            Finding::error("timeout", "it is missing, and every program there is run by it")
                .fix("install the package coreutils there"),
        );
    }
    match &target.mirror {
        Some(mirror) => {
            findings.extend(self::mirror(mirror, seen));
            findings.extend(engine.ok().map(|engine| answers(target, engine)));
        }
        None => findings.extend(applications(target, seen, engine)),
    }
    findings.push(room(target, seen));
    findings
}

fn mirror(mirror: &Mirror, seen: &Seen) -> Vec<Finding> {
    let missing = |check, package: &str| {
        Finding::error(check, "it is missing, and `uses: yum-mirror` needs it")
            .fix(format!("install the package {package} there"))
    };
    let mut findings = vec![match &seen.dnf {
        Some(version) => Finding::ok("dnf", format!("Python there knows dnf {version}")),
        None => missing("dnf", "python3-dnf"),
    }];
    for (tool, package) in [("createrepo_c", "createrepo_c (Debian: createrepo-c)"), ("rpmkeys", "rpm")] {
        findings.push(match seen.has(tool) {
            true => Finding::ok(tool, "it is there"),
            false => missing(tool, package),
        });
    }
    let (root, user, folder) = (&mirror.root, &seen.user, &seen.folder);
    findings.push(match seen.is_root_writable {
        true => Finding::ok("root", format!("`{user}` may write to {root}")),
        false => {
            Finding::error("root", format!("`{user}` may not write to {folder}, where the mirror is kept"))
                .fix(format!("install -d -o {user} {root}"))
        }
    });
    findings
}

fn applications(target: &Target, seen: &Seen, engine: Result<&EngineVersion, &str>) -> Vec<Finding> {
    let is_local = matches!(target.reach, Reach::Local);
    let is_useless = engine.is_err() && (is_local || seen.python.is_none());
    let lacking = |check, message: String| match is_useless {
        true => Finding::error(check, message),
        false => Finding::warning(check, message),
    };
    let no_rollout = |why: String| lacking(ENGINE, format!("{why}, so there is no `uses: rollout` here"));
    let (socket, user) = (&target.engine, &seen.user);
    let engine = match (engine, seen.socket) {
        (Ok(engine), _) => answers(target, engine),
        // It names the engine's address and what to do, which may be on another machine.
        (Err(why), _) if is_local => {
            lacking(ENGINE, format!("there is no `uses: rollout` here: {why}")).fix("systemctl start docker")
        }
        (Err(_), Socket::Missing) => no_rollout(format!("there is no socket {socket}"))
            .fix("install and start Docker there, or set the target's `engine` to its socket"),
        (Err(_), Socket::Closed) => no_rollout(format!("`{user}` may not use {socket}"))
            .fix(format!("usermod -aG docker {user}")),
        (Err(_), Socket::Open) => no_rollout(format!("no Docker engine answers at {socket}")).fix(
            "systemctl restart docker there; and sshd has to allow AllowStreamLocalForwarding, which is its default",
        ),
    };
    let python = match &seen.python {
        Some(version) => Finding::ok(PYTHON, format!("{version}, for `uses: ansible`")),
        None => lacking(PYTHON, "it is missing, so there is no `uses: ansible` here".to_owned())
            .fix("install the package python3 there"),
    };
    if is_local { vec![engine] } else { vec![engine, python] }
}

fn answers(target: &Target, engine: &EngineVersion) -> Finding {
    let version = &engine.version;
    Finding::ok(
        ENGINE,
        match &target.reach {
            Reach::Local => format!("Docker {version} answers"),
            Reach::Ssh(_) => format!("Docker {version} answers at {}", target.engine),
        },
    )
}

fn room(target: &Target, seen: &Seen) -> Finding {
    let folder = &seen.folder;
    let fix = match &target.mirror {
        Some(_) => "make room there, or lower the mirror's `keep`",
        None => "make room there: docker system df shows what images take",
    };
    match seen.free_bytes {
        Some(bytes) => disk::judge(folder, bytes, None, fix),
        None => Finding::warning("disk", format!("cannot tell what is free in {folder}"))
            .fix(format!("df {folder}")),
    }
}

#[cfg(test)]
mod tests {
    use mergeyard_run::target::Ssh;
    use mergeyard_types::Secret;

    use super::*;
    use crate::doctor::Level;

    fn target(mirror: bool) -> Target {
        let url = "https://mirror.example.org/".parse().unwrap();
        let kept =
            Mirror { root: "/srv/mirror".to_owned(), url, ca_pem: None, upstreams: Vec::new(), keep: 3 };
        let (name, engine) = ("vm".parse().unwrap(), "/var/run/docker.sock".to_owned());
        let ssh = Ssh {
            address: "192.0.2.10".to_owned(),
            port: 22,
            user: "deploy".to_owned(),
            host_key: None,
            key: Secret::new(""),
        };
        Target { name, reach: Reach::Ssh(ssh), mirror: mirror.then_some(kept), engine }
    }

    fn told(findings: &[Finding]) -> Vec<(&str, Level)> {
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn what_lacks_for_one_kind_of_deployment_warns_and_for_all_is_an_error() {
        let tools = vec!["timeout".to_owned()];
        let bare = Seen { user: "deploy".to_owned(), tools, free_bytes: Some(1 << 40), ..Seen::default() };
        let engine =
            EngineVersion { version: "20.10".to_owned(), api: "1.41".to_owned(), has_buildkit: true };
        let python = Seen { python: Some("Python 3.11.2".to_owned()), ..bare.clone() };
        let gone = "no engine answers at unix:///nowhere.sock";
        let (ok, warning, error) = (Level::Ok, Level::Warning, Level::Error);
        for (seen, engine, expected) in [
            (&bare, Err(gone), [(ENGINE, error), (PYTHON, error), ("disk", ok)]),
            (&bare, Ok(&engine), [(ENGINE, ok), (PYTHON, warning), ("disk", ok)]),
            (&python, Err(gone), [(ENGINE, warning), (PYTHON, ok), ("disk", ok)]),
        ] {
            assert_eq!(told(&judge(&target(false), seen, engine)), expected);
        }
        let local = Target { reach: Reach::Local, ..target(false) };
        let found = judge(&local, &python, Err(gone));
        assert_eq!(told(&found), [(ENGINE, error), ("disk", ok)]);
        assert!(found[0].message.contains("unix:///nowhere.sock"), "{found:?}");
        let full = Seen { free_bytes: Some(1 << 20), ..bare };
        let found = judge(&target(true), &full, Ok(&engine));
        let expected = [
            ("dnf", error),
            ("createrepo_c", error),
            ("rpmkeys", error),
            ("root", error),
            (ENGINE, ok),
            ("disk", error),
        ];
        assert_eq!(told(&found), expected);
        assert!(found.iter().all(|finding| finding.level == ok || finding.fix.is_some()), "{found:?}");
    }
}
