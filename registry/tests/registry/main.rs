//! The registry from outside: its endpoints in process, its crashes on a real directory, and real
//! clients over TLS.

mod clients;
mod crashes;
mod images;
mod mirror_blobs;
mod mirror_debian;
mod mirror_tags;
mod mirror_tls;
mod pull;
mod push;
mod rights;
mod scripted;
mod tags;
mod tls;
mod yard;
