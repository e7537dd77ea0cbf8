//! The certificates that the registry shows, and what it takes for someone to believe them.
//!
//! An installation without a certificate of its operator's has an [`authority`] that signs one;
//! [`files`] are the operator's. [`certificates`] looks after either kind, [`trust`] is the clients' side.

pub mod authority;
pub mod certificate;
pub mod certificates;
pub mod files;
mod shown;
pub mod trust;
