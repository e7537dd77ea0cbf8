//! The engine of a target, and what it needs to be let in by the registry.

use std::time::Duration;

use bytes::Bytes;
use mergeyard_types::ImageRef;

use crate::{
    StepFault,
    engine::{BaseCredentials, Engine},
    engine_trust::is_loopback,
    executor::{Docker, StepContext},
    ssh::{Hear, Program, Session},
    target::{Reach, Target},
};

/// Writing a certificate takes no time.
const SHORT: Duration = Duration::from_secs(30);

/// Puts its input into the folder `$1`, beside what somebody else put there.
const KEEP_CERTIFICATE: &str = r#"set -e; mkdir -p "$1"; f=$1/ca.crt; [ ! -e "$f" ] || f=$1/mergeyard-ca.crt; cat >"$f.new"; mv "$f.new" "$f""#;

/// An engine, and the way to it for as long as it is used.
pub(crate) enum Reached<'a> {
    Here(&'a Engine),
    Over(Box<Over>),
}

pub(crate) struct Over {
    pub(super) engine: Engine,
    session: Session,
}

impl<'a> Reached<'a> {
    pub(crate) async fn open(docker: &'a Docker, target: &Target) -> Result<Self, StepFault> {
        match &target.reach {
            Reach::Local => Ok(Reached::Here(&docker.engine)),
            Reach::Ssh(ssh) => {
                let session = Session::open(ssh).await?;
                let socket = session.forward(&target.engine).await?;
                let engine = Engine::connect(&format!("unix://{}", socket.display())).await;
                let engine = engine.map_err(|_| {
                    StepFault::lasting(format!(
                        "no Docker engine answers at {} of {}: start it there, and let `{}` use it (`usermod -aG docker {}`)",
                        target.engine, target.name, ssh.user, ssh.user
                    ))
                })?;
                Ok(Reached::Over(Box::new(Over { engine, session })))
            }
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        match self {
            Reached::Here(engine) => engine,
            Reached::Over(over) => &over.engine,
        }
    }

    /// Brings an image of our registry by its digest.
    pub(super) async fn bring(
        &self,
        docker: &Docker,
        target: &Target,
        image: &ImageRef,
        cx: &StepContext,
    ) -> Result<(), StepFault> {
        let name = image.to_string();
        if self.engine().has_image(&name).await? {
            return Ok(());
        }
        let section = cx.log.section(format!("pull {name}")).await;
        match self {
            Reached::Here(_) => docker.trust(&cx.log).await,
            Reached::Over(over) => self.trust(docker, target, &over.session, cx).await?,
        }
        let login = BaseCredentials::from([(image.registry.to_string(), docker.registry_login())]);
        self.engine().pull_base(&name, &login, &cx.log).await?;
        section.finish().await;
        Ok(())
    }

    /// Lets the target's engine know the registry's authority, or says what has to be done for it.
    async fn trust(
        &self,
        docker: &Docker,
        target: &Target,
        session: &Session,
        cx: &StepContext,
    ) -> Result<(), StepFault> {
        let access = docker.registry.access();
        let host = &access.host;
        if is_loopback(host) {
            return Err(StepFault::lasting(format!(
                "target `{}` cannot pull from registry {host}, because that name leads each machine to itself: set `registry.host` to a name of this machine that the target knows",
                target.name
            )));
        }
        let Some(ca) = &access.ca_pem else { return Ok(()) };
        let folder = format!("/etc/docker/certs.d/{host}");
        let known = Program::new("sh").args(["-c", r#"cat "$1"/*.crt"#, "sh", &folder]).within(SHORT);
        let known = session.run(&known, Hear::Nobody).await?.stdout;
        let wanted = ca.trim_ascii();
        if known.windows(wanted.len().max(1)).any(|part| part == wanted) {
            return Ok(());
        }
        let as_root = ["sudo", "-n", "sh", "-c", KEEP_CERTIFICATE, "sh", &folder];
        for words in [&as_root[2..], &as_root] {
            let arguments = words[1..].iter().copied();
            let program =
                Program::new(words[0]).args(arguments).stdin(Bytes::copy_from_slice(ca)).within(SHORT);
            if session.run(&program, Hear::Nobody).await?.code == 0 {
                cx.log.note(&format!("wrote the registry's authority to {folder} of {}", target.name)).await;
                return Ok(());
            }
        }
        Err(StepFault::lasting(format!(
            "target `{}` does not know the authority of registry {host}, and its user may not write it. As root of that machine: mkdir -p {folder} && cat >{folder}/ca.crt, with the certificate of the registry's authority as input (`tls/ca.pem` in the server's data directory, or what `registry.ca` names)",
            target.name
        )))
    }
}
