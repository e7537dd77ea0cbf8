//! "Something changed": a word without content, for pages that show what is.
//!
//! Whoever hears it looks at the database. A word that is missed costs nothing, because
//! the next look sees everything.

use tokio::sync::watch;

#[derive(Debug, Clone)]
pub struct Changes(watch::Sender<()>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Changes {
    pub fn tell(&self) {
        self.0.send_replace(());
    }

    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}
