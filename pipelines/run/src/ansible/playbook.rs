//! One run of a playbook: its container, the files that it finds there, and how it ended.

use mergeyard_plan::action::{AnsibleAction, ContainerAction};
use serde_json::{Value, json};

use super::{book::Images, image, recap::Recap};
use crate::{
    StepFault, container,
    executor::{Docker, StepContext, StepJob, StepOutcome},
    ssh::Agent,
    target::{Ssh, Target},
};

/// What is ours in the container. It is no part of the workspace, which other steps write to.
const FOLDER: &str = "/mergeyard-ansible";

/// How ansible-playbook says that it could not talk to its host.
const UNREACHABLE: i64 = 4;

pub(super) struct Playbook<'a> {
    pub(super) docker: &'a Docker,
    pub(super) job: &'a StepJob,
    pub(super) action: &'a AnsibleAction,
    pub(super) cx: &'a StepContext,
    pub(super) target: &'a Target,
    pub(super) ssh: &'a Ssh,
    pub(super) image: String,
    pub(super) known_hosts: String,
    pub(super) agent: &'a Agent,
}

pub(super) enum Ended {
    Well { recap: Recap },
    Badly { code: i64, unreachable: bool },
}

impl Playbook<'_> {
    /// Ends what a server that is gone left running of this attempt: its agent is gone as well.
    pub(super) async fn clear(&self) -> Result<(), StepFault> {
        // Attempts are counted from one, so none of them stays.
        Ok(self.docker.engine.remove_attempts(self.job.step, 0).await?)
    }

    pub(super) async fn run(&self, images: &Images) -> Result<Ended, StepFault> {
        // Never a name that was there before: what the engine tells about one that was removed a moment
        // ago would be taken for this one's end.
        let part = format!("-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let files = self.files(images).map_err(|error| {
            StepFault::lasting(format!("the files for the playbook cannot be put together: {error}"))
        })?;
        let mut job = self.job.clone();
        job.environment.extend(self.environment());
        job.detached = false;
        let composed = container::Composed { part: &part, files: &files };
        match container::composed(self.docker, &job, &self.container(), composed, self.cx).await {
            Ok(StepOutcome::Success { .. }) => {
                let name = container::name(self.docker, self.job, &part);
                Ok(Ended::Well { recap: Recap::of(&self.docker.engine, &name).await? })
            }
            Ok(_) => Err(StepFault::transient("the playbook's container ended without a word")),
            Err(StepFault::Exited { code, message }) if container::is_no_program(code) => {
                Err(StepFault::Exited { code, message })
            }
            Err(StepFault::Exited { code, .. }) => {
                Ok(Ended::Badly { code, unreachable: code == UNREACHABLE })
            }
            Err(fault) => Err(fault),
        }
    }

    fn container(&self) -> ContainerAction {
        let AnsibleAction { playbook, folder, base, directory, check, .. } = self.action;
        let mut entrypoint: Vec<String> = vec!["ansible-playbook".to_owned()];
        let inventory = format!("{FOLDER}/inventory.json");
        let variables = format!("@{FOLDER}/variables.json");
        entrypoint.extend(["--inventory".to_owned(), inventory, "--extra-vars".to_owned(), variables]);
        if *check {
            entrypoint.extend(["--check".to_owned(), "--diff".to_owned()]);
        }
        entrypoint.extend(["--".to_owned(), playbook.clone()]);
        ContainerAction {
            image: self.image.clone(),
            entrypoint,
            base: base.clone(),
            directory: match folder.as_str() {
                "" => directory.clone(),
                folder => format!("{}/{folder}", directory.trim_end_matches('/')),
            },
            volumes: vec![format!("{}:{FOLDER}/agent", self.agent.socket().display())],
            ..ContainerAction::default()
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let fixed = [
            ("ANSIBLE_HOST_KEY_CHECKING", "True"),
            // Lines reach the log as they are written.
            ("PYTHONUNBUFFERED", "1"),
            // Whoever the image's user is, Ansible has a place for what it keeps.
            ("ANSIBLE_LOCAL_TEMP", "/tmp/ansible-local"),
            ("ANSIBLE_SSH_CONTROL_PATH_DIR", "/tmp/ansible-control"),
        ];
        let mut all: Vec<_> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        all.push(("SSH_AUTH_SOCK".to_owned(), format!("{FOLDER}/agent")));
        all
    }

    fn files(&self, images: &Images) -> std::io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let texts = [
            ("inventory.json", self.inventory().to_string()),
            ("variables.json", self.variables(images).to_string()),
            ("known_hosts", self.known_hosts.clone()),
        ];
        for (name, text) in texts {
            let mut header = tar::Header::new_gnu();
            // Whoever the image's user is may read them; nobody else is in the container.
            header.set_mode(0o444);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, format!("{}/{name}", &FOLDER[1..]), text.as_bytes())?;
        }
        tar.into_inner()
    }

    /// One host: the target, by its name.
    fn inventory(&self) -> Value {
        let ssh = self.ssh;
        let arguments = format!(
            "-o UserKnownHostsFile={FOLDER}/known_hosts -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes \
             -o IdentityAgent={FOLDER}/agent -o BatchMode=yes -o ForwardAgent=no"
        );
        json!({"all": {"hosts": {self.target.name.as_str(): {
            "ansible_host": ssh.address,
            "ansible_port": ssh.port,
            "ansible_user": ssh.user,
            "ansible_ssh_common_args": arguments,
        }}}})
    }

    /// The step's own, and what the server knows.
    fn variables(&self, images: &Images) -> Value {
        let StepJob { commit, run, .. } = self.job;
        let access = self.docker.registry.access();
        let ca = access.ca_pem.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let mut all: serde_json::Map<String, Value> =
            self.action.variables.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let ours = json!({
            "mergeyard_images": image::references(&access.host, images),
            "mergeyard_registry": access.host.to_string(),
            "mergeyard_registry_ca": ca,
            "mergeyard_check": self.action.check,
            "mergeyard_commit": commit.to_string(),
            "mergeyard_run": run.0,
            "mergeyard_target": self.target.name.as_str(),
        });
        if let Value::Object(ours) = ours {
            all.extend(ours);
        }
        all.into()
    }
}
