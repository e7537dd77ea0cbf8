//! Where the steps of one workflow meet: its network and its volume, made by whichever step comes
//! first, once, also when several come at the same time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bollard::{body_full, query_parameters::UploadToContainerOptionsBuilder};
use bytes::Bytes;
use mergeyard_types::WorkflowId;
use tokio::sync::OnceCell;

use super::{netns::FreeNetns, outputs};
use crate::{
    StepFault,
    engine::EngineError,
    executor::{Docker, StepNetwork},
};

/// What this process has made sure of. The engine is what knows; this only saves asking it.
#[derive(Default)]
pub(crate) struct Places(Mutex<HashMap<WorkflowId, Vec<Arc<Place>>>>);

#[derive(Default)]
pub(crate) struct Place {
    network: OnceCell<()>,
    volume: OnceCell<()>,
    pub(super) netns: Arc<FreeNetns>,
}

impl Places {
    pub(super) fn of(&self, workflow: WorkflowId) -> Arc<Place> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = places.entry(workflow).or_default();
        if places.is_empty() {
            places.push(Arc::default());
        }
        Arc::clone(&places[places.len() - 1])
    }

    /// What was made sure of may not hold any more; from here on it is asked again.
    pub(super) fn doubt(&self, workflow: WorkflowId) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(workflow).or_default().push(Arc::default());
    }

    /// The workflow has ended. Returns when nothing is made for it any more.
    pub(crate) async fn leave(&self, workflow: WorkflowId) {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&workflow);
        for place in places.unwrap_or_default() {
            place.netns.close().await;
        }
    }
}

impl Place {
    pub(super) async fn network(&self, docker: &Docker, workflow: WorkflowId) -> Result<(), EngineError> {
        let internal = docker.step_network == StepNetwork::Internal;
        let make = || docker.engine.ensure_workflow_network(workflow, internal);
        self.network.get_or_try_init(make).await.copied()
    }

    /// The volume itself is made by the engine with the first container that mounts it; this is
    /// what has to be in it. `container` mounts it and has not been started.
    pub(super) async fn volume(&self, docker: &Docker, container: &str, base: &str) -> Result<(), StepFault> {
        let fill = || async {
            let upload = UploadToContainerOptionsBuilder::new().path(base).build();
            let archive = body_full(Bytes::from(first_content()?));
            let engine = &docker.engine;
            let uploaded = engine.docker().await?.upload_to_container(container, Some(upload), archive).await;
            engine.checked("prepare the workspace", uploaded).await.map_err(StepFault::from)
        };
        self.volume.get_or_try_init(fill).await.copied()
    }

    /// Whoever fills the volume otherwise says so here.
    pub(super) fn volume_is_filled(&self) {
        let _ = self.volume.set(());
    }
}

fn first_content() -> Result<Vec<u8>, StepFault> {
    let mut tar = tar::Builder::new(Vec::new());
    let written = append_output_directory(&mut tar).and_then(|()| tar.into_inner());
    written.map_err(|e| StepFault::lasting(format!("cannot prepare the workspace: {e}")))
}

/// Any user may make files there, and only their owner removes them.
pub(super) fn append_output_directory<W: std::io::Write>(tar: &mut tar::Builder<W>) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    tar.append_data(&mut header, format!("{}/", outputs::DIRECTORY), std::io::empty())
}
