//! Where a test pulls the plug.
//!
//! A server can be killed after any commit and after anything the outside noticed. The
//! fuse counts these moments; when it has burnt down, the world of this process stands
//! still from that moment on, as it does for a killed one, and the test starts another on
//! the same data directory. In production the fuse has no end.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug)]
pub struct Fuse {
    length: u64,
    burnt: AtomicU64,
    out: Notify,
}

impl Fuse {
    pub fn endless() -> Self {
        Self::of(u64::MAX)
    }

    /// A fuse that is out after `length` moments.
    pub fn of(length: u64) -> Self {
        Self { length, burnt: AtomicU64::new(0), out: Notify::new() }
    }

    /// One moment has passed. Does not return once the fuse is out.
    pub async fn burn(&self) {
        if self.burnt.fetch_add(1, Ordering::SeqCst) + 1 >= self.length {
            self.out.notify_waiters();
            std::future::pending::<()>().await;
        }
    }

    /// Does not return once the fuse is out.
    pub async fn gate(&self) {
        if self.is_out() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once the fuse is out.
    pub async fn burnt_out(&self) {
        let notified = self.out.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_out() {
            notified.await;
        }
    }

    pub fn moments(&self) -> u64 {
        self.burnt.load(Ordering::SeqCst)
    }

    fn is_out(&self) -> bool {
        self.moments() >= self.length
    }
}
