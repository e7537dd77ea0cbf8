//! The vocabulary of mergeyard.
//!
//! Every crate speaks in these types, so that a commit cannot be handed over where a
//! digest is meant and text from outside is checked once, where it enters. Nothing
//! here reads a file, opens a socket or knows SQL.

mod digest;
mod git;
mod ids;
mod image;
mod secret;
mod state;
mod target;
mod time;

pub use digest::{Digest, DigestError};
pub use git::{CommitSha, GitRef, NameError, RepoName, ShaError, TreeId};
pub use ids::{DeliveryId, DeliveryIdError, DeploymentId, EffectId, ImageId, RunId, StepId, WorkflowId};
pub use image::{ImageName, ImageRef, ImageRefError, RegistryHost, Version};
pub use secret::Secret;
pub use state::{State, StateError};
pub use target::TargetName;
pub use time::Timestamp;
