//! The registry from outside: its endpoints in process, its crashes on a real directory, and real
//! clients over TLS.

mod attack;
mod clients;
mod crashes;
mod images;
mod operator_certificate;
mod pull;
mod push;
mod rights;
mod tags;
mod tls;
mod yard;
