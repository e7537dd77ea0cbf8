//! Actions: the steps that are built in (`uses:`), with every choice already made.
//!
//! The planner fills these in completely, so that whoever performs one has nothing left
//! to decide (which image, which version, which tree), only work that can fail.

use std::collections::BTreeMap;

use mergeyard_types::{ImageName, TreeId, Version};
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

impl Action {
    pub fn name(&self) -> &'static str {
        match self {
            Action::Image(_) => "image",
            Action::Clone(_) => "clone",
            Action::Container(_) => "container",
        }
    }
}
