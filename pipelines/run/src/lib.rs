//! The effects of one step: what it takes to turn a planned action into something done.
//!
//! A step reads a commit ([`git`]), talks to the container engine ([`engine`]) and to a
//! registry ([`registry_client`]), tells what happens as it happens ([`log`]), and ends in
//! exactly one [`executor::StepOutcome`]. Nothing here knows SQL, GitHub or a web page: who
//! plans steps and who keeps their outcome is elsewhere, and only meets this crate in types.

mod ansible;
pub mod base_images;
mod container;
pub mod engine;
pub mod engine_trust;
pub mod executor;
mod exposed_secrets;
mod fault;
pub mod gateway;
pub mod git;
mod health;
mod image;
mod keyed_lock;
pub mod ledger;
pub mod log;
pub mod look;
pub mod mirror;
mod pull;
pub mod registry_client;
pub mod rollout;
pub mod ssh;
pub mod target;

pub use fault::StepFault;
