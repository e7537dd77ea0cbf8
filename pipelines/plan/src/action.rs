//! Actions: the steps that are built in (`uses:`), with every choice already made.
//!
//! The planner fills these in completely, so that whoever performs one has nothing left
//! to decide (which image, which version, which tree), only work that can fail.

use std::collections::BTreeMap;

use mergeyard_types::{Digest, ImageName, TargetName, TreeId, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::spec::Ready;

/// What one step does. Stored with the step as JSON, so variants and fields only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "uses", content = "with", rename_all = "kebab-case")]
pub enum Action {
    Image(ImageAction),
    Clone(CloneAction),
    Container(Box<ContainerAction>),
    YumMirror(YumMirrorAction),
    Ansible(Box<AnsibleAction>),
    Rollout(Box<RolloutAction>),
}

/// Build one folder of the commit and publish it as `<registry>/<name>:<version>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAction {
    /// The folder inside the commit, `""` for the root, otherwise without slashes at its ends.
    pub folder: String,
    pub name: ImageName,
    pub version: Version,
    /// The folder's git tree; becomes the label `dev.mergeyard.tree`.
    pub tree: TreeId,
}

/// The commit in the workspace, as a git checkout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneAction {
    /// Where the workspace's volume is mounted, `/woodpecker` unless the file says otherwise.
    pub base: String,
    /// The checkout, an absolute path at or below `base`.
    pub directory: String,
    /// Commits of history; `None` is all of it.
    pub depth: Option<u32>,
    pub tags: bool,
}

/// One container: a step with commands, a plugin, or a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerAction {
    pub image: String,
    /// Ask the registry even when the engine has an image of that name.
    pub pull: bool,
    /// Of a plugin: secrets with an image filter go to plugins only.
    pub plugin: bool,
    /// Run by one `/bin/sh -e`, each echoed. None: the image's own entrypoint and command.
    pub commands: Vec<String>,
    /// In the place of the image's; with `commands`, in the place of `/bin/sh -e -c` with the script
    /// in `$CI_SCRIPT`.
    pub entrypoint: Vec<String>,
    /// Values are text, or JSON with `{"from_secret": NAME}` at any depth, which is resolved at
    /// the last moment and never stored.
    pub environment: BTreeMap<String, Value>,
    /// As `environment`, under the names of the file's `settings`; they become `PLUGIN_…`.
    pub settings: BTreeMap<String, Value>,
    /// Where the workspace's volume is mounted.
    pub base: String,
    /// Where the program starts.
    pub directory: String,
    pub volumes: Vec<String>,
    pub devices: Vec<String>,
    pub tmpfs: Vec<String>,
    pub ports: Vec<String>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub network_mode: Option<String>,
    pub privileged: bool,
    pub user: Option<String>,
    pub ready: Option<Ready>,
    pub caches: Vec<Cache>,
    /// Names that must be among what the step writes to `$CI_OUTPUT`.
    pub outputs: Vec<String>,
}

/// A directory that outlives the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// An absolute path in the container.
    pub path: String,
    /// Says which runs share it: repository, branch, and whether they are trusted.
    pub key: String,
}

/// Make a mirror hold what a list of packages names, with all they depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct YumMirrorAction {
    pub target: TargetName,
    /// The list in the commit, `packages.txt` or `packages.json`.
    pub file: String,
    /// Only say what would change.
    pub check: bool,
    /// A rollback: switch to this snapshot, by the digest of its `repomd.xml`, and read no list.
    pub snapshot: Option<Digest>,
}

/// Run a playbook of the commit against a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsibleAction {
    pub target: TargetName,
    /// A file in `folder`.
    pub playbook: String,
    /// The folder of the commit where Ansible is started, `""` for the root.
    pub folder: String,
    /// An image that has `ansible-playbook`.
    pub image: String,
    /// Where the workspace's volume is mounted, and the checkout in it.
    pub base: String,
    pub directory: String,
    /// Extra variables. Values may hold `{"from_secret": NAME}`, as those of a container.
    pub variables: BTreeMap<String, Value>,
    /// Show the difference and change nothing.
    pub check: bool,
    pub health: Option<Health>,
    /// A rollback: these images in the place of those of the run.
    pub pinned: BTreeMap<ImageName, Digest>,
}

/// Put one image live on a target's Docker engine, beside the old one until it is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutAction {
    pub target: TargetName,
    /// What stays while its containers come and go: others on the target's network reach it by this name.
    pub service: String,
    /// Of our registry. What this run published of it, unless a version or a digest is named.
    pub image: ImageName,
    pub version: Option<Version>,
    /// A rollback: exactly this.
    pub digest: Option<Digest>,
    /// What the program listens on.
    pub port: u16,
    /// Where the target offers it, `[ADDRESS:]PORT`; empty: only to other services.
    pub publish: Vec<String>,
    /// The network that services of one application share on the target.
    pub network: String,
    /// Values may hold `{"from_secret": NAME}`, as those of a container.
    pub environment: BTreeMap<String, Value>,
    pub command: Vec<String>,
    pub volumes: Vec<String>,
    pub user: Option<String>,
    pub health: Health,
    /// Say what would change and change nothing.
    pub check: bool,
}

/// What proves that a deployment works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `http://…` or `https://…`, where `{address}` stands for the target's; of a rollout a path such as `/health`,
    /// asked on the service's own port.
    pub url: String,
    pub status: u16,
    /// A text that the answer must have in it.
    pub body: Option<String>,
    /// Of one try.
    pub timeout_ms: u64,
    pub retries: u32,
    pub interval_ms: u64,
}

impl Action {
    pub fn name(&self) -> &'static str {
        match self {
            Action::Image(_) => "image",
            Action::Clone(_) => "clone",
            Action::Container(_) => "container",
            Action::YumMirror(_) => "yum-mirror",
            Action::Ansible(_) => "ansible",
            Action::Rollout(_) => "rollout",
        }
    }

    /// The machine it delivers to.
    pub fn target(&self) -> Option<&TargetName> {
        match self {
            Action::Image(_) | Action::Clone(_) | Action::Container(_) => None,
            Action::YumMirror(action) => Some(&action.target),
            Action::Ansible(action) => Some(&action.target),
            Action::Rollout(action) => Some(&action.target),
        }
    }

    /// Whether it only says what it would change.
    pub fn is_check(&self) -> bool {
        match self {
            Action::Image(_) | Action::Clone(_) | Action::Container(_) => false,
            Action::YumMirror(action) => action.check,
            Action::Ansible(action) => action.check,
            Action::Rollout(action) => action.check,
        }
    }

    /// Steps with the same one run one after another, in merge order.
    pub fn serial(&self) -> Option<String> {
        match self {
            Action::Image(image) => Some(format!("image/{}", image.name)),
            _ if self.is_check() => None,
            _ => self.target().map(target_serial),
        }
    }
}

/// What all deployments to a target share, so that one happens at a time.
pub fn target_serial(target: &TargetName) -> String {
    format!("target/{target}")
}
