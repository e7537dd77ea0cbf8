//! The server: the only crate that knows GitHub, SQL and the public HTTP.

pub mod changes;
pub mod clock;
pub mod config;
pub mod logs;
pub mod store;
