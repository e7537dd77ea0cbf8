//! Which container a gateway forwards to, and who is still connected to which.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, sync::watch};

/// How long a new connection waits for a container that does not answer: one that starts again, or
/// one that is about to be switched away from.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two attempts of one connection.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);

/// For one attempt.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(2);

/// How long an address is believed: a container that was started again may have another, and its
/// old one may be another container's.
const BELIEVED: Duration = Duration::from_secs(1);

pub(super) struct Backends {
    /// Where the choice is kept.
    file: PathBuf,
    state: Mutex<State>,
    /// Told whenever the choice or a count changes; what it is stands in `state`.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// `HOST:PORT`
    live: Option<String>,
    /// By the host and port they were chosen for, those that wait for an answer among them.
    connections: BTreeMap<String, usize>,
    /// What the name of the live one was resolved to.
    address: Option<(SocketAddr, Instant)>,
}

impl Backends {
    pub(super) fn open(file: PathBuf) -> io::Result<Self> {
        let live = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text.trim().to_owned()).filter(|live| !live.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let state = Mutex::new(State { live, ..State::default() });
        Ok(Self { file, state, changes: watch::Sender::new(()) })
    }

    pub(super) fn live(&self) -> Option<String> {
        self.state().live.clone()
    }

    pub(super) fn connections(&self) -> BTreeMap<String, usize> {
        self.state().connections.clone()
    }

    /// From when this returns every new connection goes to `to`, also after a power cut.
    pub(super) fn switch(&self, to: &str) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(to.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.file)?;
        if let Some(folder) = self.file.parent() {
            File::open(folder)?.sync_all()?;
        }
        let mut state = self.state();
        state.live = Some(to.to_owned());
        state.address = None;
        drop(state);
        self.changes.send_replace(());
        Ok(())
    }

    /// A connection to the live container, which counts as its until the second part is dropped.
    pub(super) async fn connect(self: &Arc<Self>) -> Option<(TcpStream, Held)> {
        let connected = async {
            let mut changes = self.changes.subscribe();
            loop {
                changes.borrow_and_update();
                if let Some(held) = self.hold()
                    && let Some(stream) = self.attempt(&held.of).await
                {
                    return (stream, held);
                }
                let _ = tokio::time::timeout(BETWEEN_ATTEMPTS, changes.changed()).await;
            }
        };
        tokio::time::timeout(PATIENCE, connected).await.ok()
    }

    /// Choosing and counting are one: who waits until nobody is left overlooks nobody.
    fn hold(self: &Arc<Self>) -> Option<Held> {
        let mut state = self.state();
        let of = state.live.clone()?;
        *state.connections.entry(of.clone()).or_default() += 1;
        Some(Held { of, backends: Arc::clone(self) })
    }

    async fn attempt(&self, of: &str) -> Option<TcpStream> {
        let address = self.resolve(of).await?;
        match tokio::time::timeout(LONGEST_ATTEMPT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(_)) | Err(_) => {
                self.state().address = None;
                None
            }
        }
    }

    async fn resolve(&self, of: &str) -> Option<SocketAddr> {
        let fresh = |known: (SocketAddr, Instant)| (known.1.elapsed() < BELIEVED).then_some(known.0);
        let believed = {
            let state = self.state();
            state.address.filter(|_| state.live.as_deref() == Some(of)).and_then(fresh)
        };
        if believed.is_some() {
            return believed;
        }
        let address = tokio::net::lookup_host(of).await.ok()?.next()?;
        let mut state = self.state();
        if state.live.as_deref() == Some(of) {
            state.address = Some((address, Instant::now()));
        }
        Some(address)
    }

    /// Returns when nobody is connected to `of`; dropped when that takes too long.
    pub(super) async fn gone(&self, of: &str) {
        self.until(|state| !state.connections.contains_key(of)).await;
    }

    pub(super) async fn all_gone(&self) {
        self.until(|state| state.connections.is_empty()).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if holds(&self.state()) {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of one container.
pub(super) struct Held {
    of: String,
    backends: Arc<Backends>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.backends.state();
        if let Some(count) = state.connections.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                state.connections.remove(&self.of);
            }
        }
        drop(state);
        self.backends.changes.send_replace(());
    }
}
