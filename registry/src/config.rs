//! What the operator decides about the registry.

use std::{collections::BTreeSet, time::Duration};

use mergeyard_types::Version;

/// Everything has a default that suits one machine.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Tags that may be pointed at other content, such as `latest`. Every other tag is immutable:
    /// what was deployed under a version stays what that version means.
    pub mutable_tags: BTreeSet<Version>,
    pub limits: Limits,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Protects memory: a manifest is the one thing that is held whole.
    pub manifest_bytes: usize,
    /// Protects the disk from one endless upload.
    pub blob_bytes: u64,
    /// Protects memory (about half a megabyte for each that is being received) and the disk.
    pub open_uploads: usize,
    /// Protects the disk from uploads that nobody will finish.
    pub upload_age: Duration,
    /// Protects the pages and lists from being built whole for a client that asks for `n=2147483648`.
    pub page_entries: usize,
    /// Protects file descriptors and memory from too many clients at once.
    pub connections: usize,
    /// Protects the other clients from one address that takes all connections.
    pub connections_per_address: usize,
    /// Protects connections from clients that send a request head, or shake hands, one byte at a time.
    pub header_time: Duration,
    /// Protects connections from clients that have gone quiet, in either direction. Longer than the
    /// slowest sync of a blob, during which an honest client hears nothing.
    pub idle_time: Duration,
    /// Bounds how long a stopping server waits for transfers to end.
    pub shutdown_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            blob_bytes: 64 << 30,
            open_uploads: 512,
            upload_age: Duration::from_secs(24 * 60 * 60),
            page_entries: 1000,
            connections: 1024,
            connections_per_address: 512,
            header_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(120),
            shutdown_time: Duration::from_secs(10),
        }
    }
}
