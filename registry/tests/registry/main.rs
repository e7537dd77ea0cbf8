//! The registry from outside: its endpoints in process, its crashes on a real directory, and real
//! clients over TLS.

mod clients;
mod collect;
mod conformance;
mod crashes;
mod deletion;
mod images;
mod logins;
mod pull;
mod push;
mod quota;
mod referrers;
mod rights;
mod robots;
mod tags;
mod tls;
mod tokens;
mod upkeep;
mod verify;
mod yard;
