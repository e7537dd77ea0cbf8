//! A small world to show and to test with: a git repository with a merged pull request,
//! and the webhook GitHub would have sent about it.
//!
//! The demo and the tests go the same way as the real thing, so what they post must be
//! what GitHub posts, field for field, and what they build must be a real commit.

pub mod payload;
mod repository;

pub use repository::{SampleError, SampleMerge, SampleRepository};
