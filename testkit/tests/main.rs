//! The one integration test binary: stories about the whole yard, told in one process,
//! and about the real program at the edges.

mod api;
mod architecture;
mod command_line;
mod crash;
mod deliver;
mod deployments;
mod doctor;
mod events;
mod github;
mod life;
mod lint;
mod logs;
mod real;
mod receive;
mod run_page;
mod sample;
mod secrets;
mod store;
mod targets;
mod targets_page;
mod tokens;
mod web;
