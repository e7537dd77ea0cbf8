//! Network namespaces, lent to one step of a workflow after another.
//!
//! Making one is most of what an engine does to start a container. So a workflow whose steps are
//! many keeps a few, each held by a container that only waits, and a step's container joins one that is
//! free. No two steps ever have the same one at the same time, and nothing of a step stays in it:
//!
//! - its processes are gone, and their sockets with them; the kernel keeps no closed connections
//!   (`tcp_max_tw_buckets`), so the next step may listen where this one did;
//! - a container without privileges cannot change interfaces, routes or rules;
//! - the files about names that the engine mounts into all containers of a namespace are compared
//!   with what they were. One that was written to is not lent again, or a command could redirect a
//!   plugin that holds secrets.
//!
//! What is here is only known to this process. After a crash the containers that hold are removed with their
//! workflow, and steps that run in them go on until then.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bollard::{
    models::{ContainerCreateBody, HostConfig, HostConfigLogConfig},
    query_parameters::{DownloadFromContainerOptionsBuilder, InspectContainerOptions, StartContainerOptions},
};
use futures_util::StreamExt;
use mergeyard_plan::action::ContainerAction;
use mergeyard_types::WorkflowId;
use tokio_util::task::TaskTracker;

use super::own_image;
use crate::{StepFault, engine::Engine, executor::StepJob};

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`; a container that only waits has no other.
const NAMES: &str = "/etc";

/// The engine writes a few hundred bytes.
const MOST_BYTES_OF_NAMES: usize = 256 * 1024;

/// Those of one workflow that no step has.
#[derive(Default)]
pub(super) struct FreeNetns {
    free: Mutex<Vec<Netns>>,
    /// The workflow has ended, or none can be made.
    closed: AtomicBool,
    tasks: TaskTracker,
}

pub(super) struct Netns {
    /// The container that holds it.
    pub(super) holder: String,
    files: Files,
    /// What is in these files when no step has been there.
    names: Vec<u8>,
}

/// The files about names, as they are looked at.
enum Files {
    /// Here, where the engine says they are: it takes no time.
    Here([PathBuf; 3]),
    /// Through the engine.
    There,
}

/// Whether a step needs nothing of its namespace for itself: no name that others find it by, no
/// names of its own, no right to change it.
pub(super) fn may_borrow(job: &StepJob, action: &ContainerAction) -> bool {
    !job.detached
        && !action.privileged
        && action.network_mode.is_none()
        && [&action.ports, &action.dns, &action.dns_search, &action.extra_hosts]
            .iter()
            .all(|all| all.is_empty())
}

impl FreeNetns {
    pub(super) fn borrow(&self) -> Option<Netns> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Makes one that a step begins with and leaves to those after it. `None` where none can be made: then
    /// the step has its own, as it would on an engine that cannot do this.
    pub(super) async fn make(&self, engine: &Engine, workflow: WorkflowId) -> Option<Netns> {
        if self.closed.load(Ordering::SeqCst) {
            return None;
        }
        let made = make(engine, workflow).await;
        if let Err(error) = &made {
            tracing::debug!(%workflow, %error, "no network namespace could be made");
            self.closed.store(true, Ordering::SeqCst);
        }
        made.ok()
    }

    /// Makes one while something else goes on, for the first step. The workflow's network is there.
    pub(super) fn make_ahead(self: &Arc<Self>, engine: &Arc<Engine>, workflow: WorkflowId) {
        let (all, engine) = (Arc::clone(self), Arc::clone(engine));
        self.tasks.spawn(async move {
            if let Some(made) = all.make(&engine, workflow).await {
                all.add(made);
            }
        });
    }

    /// Takes one back from a step whose container has ended.
    pub(super) fn give_back(self: &Arc<Self>, engine: &Arc<Engine>, netns: Netns) {
        let (all, engine) = (Arc::clone(self), Arc::clone(engine));
        self.tasks.spawn(async move {
            match netns.files.read(&engine, &netns.holder).await {
                Ok(names) if names == netns.names => all.add(netns),
                Ok(_) => tracing::debug!(
                    holder = netns.holder,
                    "a step wrote to its names; no other step gets them"
                ),
                Err(error) => {
                    tracing::debug!(holder = netns.holder, %error, "a network namespace is not lent again")
                }
            }
        });
    }

    /// Returns when nothing is made any more.
    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn add(&self, netns: Netns) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(netns);
    }
}

async fn make(engine: &Engine, workflow: WorkflowId) -> Result<Netns, StepFault> {
    let network = engine.workflow_name(workflow);
    let holder = format!("{network}-n{}", uuid::Uuid::new_v4().simple());
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let body = ContainerCreateBody {
        image: Some(own_image::name()),
        entrypoint: words(&[own_image::HOLD]),
        labels: Some(engine.workflow_labels(workflow)),
        host_config: Some(HostConfig {
            network_mode: Some(network),
            // Nobody who listens after a step finds its closed connections in the way.
            sysctls: Some(HashMap::from([("net.ipv4.tcp_max_tw_buckets".to_owned(), "0".to_owned())])),
            cap_drop: words(&["ALL"]),
            security_opt: words(&["no-new-privileges"]),
            readonly_rootfs: Some(true),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..Default::default()
        }),
        ..Default::default()
    };
    own_image::create_of_it(engine, &holder, &body).await?;
    let started = engine.docker().await?.start_container(&holder, None::<StartContainerOptions>).await;
    engine.checked("start a container that holds a network namespace", started).await?;
    let files = Files::of(engine, &holder).await?;
    let names = files.read(engine, &holder).await?;
    Ok(Netns { holder, files, names })
}

impl Files {
    async fn of(engine: &Engine, holder: &str) -> Result<Self, StepFault> {
        if !engine.is_local() {
            return Ok(Files::There);
        }
        let inspected =
            engine.docker().await?.inspect_container(holder, None::<InspectContainerOptions>).await;
        let said = engine.checked("inspect a container that holds a network namespace", inspected).await?;
        let paths =
            [said.hosts_path, said.hostname_path, said.resolv_conf_path].map(Option::unwrap_or_default);
        let here = Files::Here(paths.map(PathBuf::from));
        // The engine keeps them where only root may look.
        Ok(if here.read(engine, holder).await.is_ok() { here } else { Files::There })
    }

    async fn read(&self, engine: &Engine, holder: &str) -> Result<Vec<u8>, StepFault> {
        match self {
            Files::Here(paths) => {
                let mut names = Vec::new();
                for path in paths {
                    let read = read(path, &mut names);
                    read.map_err(|e| StepFault::transient(format!("cannot read {}: {e}", path.display())))?;
                }
                Ok(names)
            }
            Files::There => archive(engine, holder).await,
        }
    }
}

/// A file with whose it is and who may read it. So small a file is read at once.
fn read(path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    for number in [about.mode(), about.uid(), about.gid()] {
        into.extend(number.to_le_bytes());
    }
    into.extend(about.len().to_le_bytes());
    file.take(MOST_BYTES_OF_NAMES as u64).read_to_end(into).map(drop)
}

async fn archive(engine: &Engine, holder: &str) -> Result<Vec<u8>, StepFault> {
    let options = DownloadFromContainerOptionsBuilder::new().path(NAMES).build();
    let docker = engine.docker().await?;
    let mut archive = docker.download_from_container(holder, Some(options));
    let mut names = Vec::new();
    while let Some(piece) = archive.next().await {
        names.extend_from_slice(&engine.checked("read the names of a network namespace", piece).await?);
        if names.len() > MOST_BYTES_OF_NAMES {
            break;
        }
    }
    Ok(names)
}
