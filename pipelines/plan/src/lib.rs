//! What should happen: pure decisions, without a runtime, a clock, SQL or HTTP.
//!
//! A delivery is read into an [`event::Event`]; [`decide`] turns it and the facts about
//! its commit into a plan or into a reason why not; [`run::Run::apply`] turns what the
//! steps report into new states and the effects the outside will notice. Everything is a
//! value, so every decision can be tested, printed and taken again.

pub mod action;
pub mod decide;
pub mod effect;
pub mod event;
pub mod facts;
pub mod finding;
pub mod package_list;
pub mod pipeline;
pub mod policy;
pub mod rules;
pub mod run;
pub mod service;
pub mod spec;
pub mod substitute;
