//! Actions: the steps that are built in (`uses:`), with every choice already made.
//!
//! The planner fills these in completely, so that whoever performs one has nothing left
//! to decide (which image, which version, which tree), only work that can fail.

use mergeyard_types::{ImageName, TreeId, Version};
use serde::{Deserialize, Serialize};

/// What one step does. Stored with the step as JSON, so variants and fields only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "uses", content = "with", rename_all = "kebab-case")]
pub enum Action {
    Image(ImageAction),
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

impl Action {
    pub fn name(&self) -> &'static str {
        match self {
            Action::Image(_) => "image",
        }
    }
}
