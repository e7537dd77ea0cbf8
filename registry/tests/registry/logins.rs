//! Stock clients log in as robots, by tokens.
