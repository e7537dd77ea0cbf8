//! What should happen: pure decisions, without a runtime, a clock, SQL or HTTP.
//!
//! A delivery is read into an [`event::Event`]; [`decide`] turns it and the facts about
//! its commit into a plan or into a reason why not; [`run::Run::apply`] turns what the
//! steps report into new states and the effects the outside will notice. Everything is a
//! value, so every decision can be tested, printed and taken again.

pub mod action;
pub mod builtin;
pub mod change;
pub mod decide;
pub mod effect;
pub mod environment;
pub mod event;
mod explain;
pub mod expression;
pub mod facts;
pub mod finding;
pub mod gather;
mod glob;
pub mod labels;
pub mod outputs;
pub mod package_list;
pub mod policy;
pub mod rules;
pub mod run;
pub mod secrets;
pub mod service;
pub mod settings;
pub mod spec;
mod steps;
pub mod substitute;
pub mod trust;
mod uses;
pub mod when;
pub mod workflows;
