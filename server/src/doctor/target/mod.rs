//! Whether a target can be delivered to.
//!
//! It is reached as a deployment reaches it, and asked once what it has. A host key that nobody
//! pinned is shown and not believed: without it there is nothing more to find out.

mod door;
mod equipment;
mod probe;

use mergeyard_run::{
    engine::{Engine, EngineVersion},
    ssh::Session,
    target::{Reach, Target},
};

use super::Finding;
use probe::Seen;

/// Looks at everything, and changes nothing. `engine` is the address of the engine that runs steps,
/// whose machine a local target is.
pub async fn examine(target: &Target, engine: &str) -> Vec<Finding> {
    match &target.reach {
        Reach::Local => {
            let seen = probe::here(target).await;
            let version = Engine::at(engine).version().await.map_err(|error| error.to_string());
            equip(target, seen, version.as_ref().map_err(String::as_str), Vec::new())
        }
        Reach::Ssh(ssh) => {
            let session = match Session::open(ssh).await {
                Ok(session) => session,
                Err(error) => return door::closed(ssh, &error),
            };
            let findings = door::open(ssh);
            let seen = probe::there(target, &session).await.map_err(|error| error.to_string());
            let version = version_through(&session, &target.engine).await;
            session.close().await;
            let version = version.as_ref().ok_or("no Docker engine answers");
            equip(target, seen, version, findings)
        }
    }
}

/// The engine answers by the way that a rollout takes.
async fn version_through(session: &Session, socket: &str) -> Option<EngineVersion> {
    let local = session.forward(socket).await.ok()?;
    Engine::at(&format!("unix://{}", local.display())).version().await.ok()
}

fn equip(
    target: &Target,
    seen: Result<Seen, String>,
    engine: Result<&EngineVersion, &str>,
    mut findings: Vec<Finding>,
) -> Vec<Finding> {
    match seen {
        Ok(seen) => findings.extend(equipment::judge(target, &seen, engine)),
        Err(why) => findings.push(
            Finding::error("shell", why)
                .fix("give the account a login shell that runs what it is told, such as /bin/sh"),
        ),
    }
    findings
}
