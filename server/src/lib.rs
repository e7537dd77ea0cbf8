//! The server: the only crate that knows GitHub, SQL and the public HTTP.
//!
//! A delivery passes four stages that meet only in the database: [`http`] receives it,
//! [`inbox`] decides it, [`steps`] does it, [`outbox`] tells about it. [`yard`] holds what
//! they share, [`workers`] keep them going; [`serve`] puts a server together and takes it apart.

pub mod api;
pub mod asked;
mod audit;
mod called;
pub mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod doctor;
pub mod drift;
mod embedded_registry;
pub mod ends;
pub mod github;
mod given;
pub mod http;
pub mod inbox;
pub mod leases;
mod ledger;
pub mod lint;
pub mod logs;
pub mod missed;
pub mod outbox;
pub mod payload;
mod remote;
pub mod retention;
pub mod sample;
pub mod schedules;
pub mod secrets;
pub mod serve;
pub mod services;
pub mod steps;
pub mod store;
pub mod targets;
pub mod web;
pub mod workers;
pub mod yard;
