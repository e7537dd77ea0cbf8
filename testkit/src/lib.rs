//! What tests of mergeyard are made of: a GitHub in memory, played steps, and a whole yard
//! around them. Everything that can run for real, does.

pub mod fake_github;
pub mod process;
pub mod script;
pub mod sshd;
pub mod yard;
