//! The registry from outside: its endpoints in process, its crashes on a real directory, and real
//! clients over TLS.

mod clients;
mod crashes;
mod images;
mod logins;
mod pull;
mod push;
mod rights;
mod robots;
mod tags;
mod tls;
mod tokens;
mod yard;
