//! Waiting for the disk together.
//!
//! All pushes to a repository end in the same few directories. A sync of a directory makes durable
//! whatever was done in it before the sync began, so those who ask while one is under way need only
//! one more between them, however many they are.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The directories somebody waits for at this moment.
static WAITED_FOR: LazyLock<Mutex<HashMap<PathBuf, Arc<Directory>>>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Directory {
    /// Who asks takes a number, after having done what is to be made durable.
    asked: AtomicU64,
    /// Held by the one who syncs.
    outcome: Mutex<Outcome>,
}

/// What became of the numbers so far.
#[derive(Default)]
struct Outcome {
    synced: u64,
    /// The kernel tells a lost write once, so everybody who relied on that sync is told here.
    failed: Option<(u64, io::ErrorKind)>,
}

/// Returns once a run of `sync` that began after this call has ended, whoever ran it.
pub(super) fn sync(path: &Path, sync: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let place = Place::take(path);
    let number = place.directory.asked.fetch_add(1, Ordering::AcqRel) + 1;
    let mut outcome = place.directory.outcome.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome.failed {
        Some((failed, kind)) if number <= failed => return Err(kind.into()),
        _ if number <= outcome.synced => return Ok(()),
        _ => {}
    }
    let all = place.directory.asked.load(Ordering::Acquire);
    let synced = sync(path);
    match &synced {
        Ok(()) => outcome.synced = all,
        Err(error) => outcome.failed = Some((all, error.kind())),
    }
    synced
}

/// A place among those who wait for one directory.
struct Place<'a> {
    path: &'a Path,
    directory: Arc<Directory>,
}

impl<'a> Place<'a> {
    fn take(path: &'a Path) -> Self {
        let mut all = lock();
        if let Some(directory) = all.get(path) {
            return Self { path, directory: directory.clone() };
        }
        let directory = Arc::<Directory>::default();
        all.insert(path.to_owned(), directory.clone());
        Self { path, directory }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut all = lock();
        // The map's and this one: nobody else waits, and nobody can begin to while the map is held.
        if Arc::strong_count(&self.directory) == 2 {
            all.remove(self.path);
        }
    }
}

fn lock() -> MutexGuard<'static, HashMap<PathBuf, Arc<Directory>>> {
    // Each holder does one operation on the map, so a panic cannot leave it half changed.
    WAITED_FOR.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Receiver, Sender, channel},
        thread::{Scope, ScopedJoinHandle, scope, yield_now},
    };

    use super::*;

    const WAITERS: u64 = 8;

    /// Begins a sync that ends as it is told, and returns once it is under way.
    fn begin<'s>(
        scope: &'s Scope<'s, '_>,
        path: &'s Path,
    ) -> (Sender<io::Result<()>>, ScopedJoinHandle<'s, io::Result<()>>) {
        let (end, told): (_, Receiver<io::Result<()>>) = channel();
        let (started, under_way) = channel();
        let running = scope.spawn(move || {
            sync(path, |_| {
                started.send(()).unwrap();
                told.recv().unwrap()
            })
        });
        under_way.recv().unwrap();
        (end, running)
    }

    fn until_asked(path: &Path, times: u64) {
        while lock().get(path).is_none_or(|directory| directory.asked.load(Ordering::Acquire) < times) {
            yield_now();
        }
    }

    #[test]
    fn who_asks_during_a_sync_waits_for_one_more_and_shares_it() {
        let path = Path::new("who/asks/during/a/sync");
        let more = AtomicU64::new(0);
        scope(|scope| {
            let (end, first) = begin(scope, path);
            let count = |_: &Path| {
                more.fetch_add(1, Ordering::AcqRel);
                Ok(())
            };
            let waiting: Vec<_> = (0..WAITERS).map(|_| scope.spawn(move || sync(path, count))).collect();
            until_asked(path, WAITERS + 1);
            assert_eq!(more.load(Ordering::Acquire), 0);
            end.send(Ok(())).unwrap();
            first.join().unwrap().unwrap();
            waiting.into_iter().for_each(|waiting| waiting.join().unwrap().unwrap());
        });
        assert_eq!(more.load(Ordering::Acquire), 1);
        assert!(!lock().contains_key(path));
    }

    #[test]
    fn a_sync_that_fails_fails_for_all_who_relied_on_it_and_for_nobody_after() {
        let path = Path::new("a/sync/that/fails");
        scope(|scope| {
            let (end, first) = begin(scope, path);
            let full = |_: &Path| Err(io::ErrorKind::StorageFull.into());
            let waiting: Vec<_> = (0..WAITERS).map(|_| scope.spawn(move || sync(path, full))).collect();
            until_asked(path, WAITERS + 1);
            end.send(Ok(())).unwrap();
            first.join().unwrap().unwrap();
            for waiting in waiting {
                assert_eq!(waiting.join().unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
            }
            sync(path, |_| Ok(())).unwrap();
        });
    }
}
