//! The registry from outside: its endpoints in process, its crashes on a real directory, and real
//! clients over TLS.

mod attack;
mod clients;
mod collect;
mod conformance;
mod crashes;
mod deletion;
mod images;
mod logins;
mod mirror_blobs;
mod mirror_debian;
mod mirror_tags;
mod mirror_tls;
mod operator_certificate;
mod pull;
mod push;
mod quota;
mod referrers;
mod rights;
mod robots;
mod scripted;
mod tags;
mod tls;
mod tokens;
mod upkeep;
mod verify;
mod yard;
