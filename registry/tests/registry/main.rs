//! The registry from outside: its endpoints in process, its crashes on a real directory, and real
//! clients over TLS.

mod clients;
mod collect;
mod conformance;
mod crashes;
mod deletion;
mod images;
mod pull;
mod push;
mod quota;
mod referrers;
mod rights;
mod tags;
mod tls;
mod verify;
mod yard;
