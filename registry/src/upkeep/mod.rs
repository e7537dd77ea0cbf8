//! What a registry does for itself while it serves: collecting garbage and reading everything again.

pub(crate) mod collect;
pub(crate) mod verify;

use std::{
    collections::HashSet,
    convert::Infallible,
    fs, io,
    path::Path,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use mergeyard_types::{Digest, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{Collected, Collection, Error, Registry, Verified, Verifying, durable, error::chain};

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// Keeps one slow read from making the next wait for long.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Says which manifests run somewhere. What it cannot learn, it says in words for the log.
pub type AskInUse = Arc<dyn Fn() -> BoxFuture<'static, Result<HashSet<Digest>, String>> + Send + Sync>;

/// How often a registry looks after itself; `None` is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Care {
    pub collect_every: Option<Duration>,
    pub verify_every: Option<Duration>,
}

impl Registry {
    /// From now on collections ask this before they remove a tag or manifest by a rule.
    pub fn set_in_use(&self, ask: AskInUse) {
        *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = Some(ask);
    }

    /// A collection as of now. Where nobody can say what runs, no rule removes anything.
    pub async fn collection(&self, dry_run: bool) -> Collection {
        let ask = self.in_use.read().unwrap_or_else(PoisonError::into_inner).clone();
        let in_use = match ask.map(|ask| ask()) {
            None => Some(HashSet::new()),
            Some(asked) => match asked.await {
                Ok(in_use) => Some(in_use),
                Err(why) => {
                    tracing::warn!("the registry keeps every tag, because it cannot learn what runs: {why}");
                    None
                }
            },
        };
        Collection { in_use, now: Timestamp::now(), dry_run }
    }

    /// Does what is due, for ever. What was done is remembered across restarts.
    pub async fn care(&self, care: Care) -> Infallible {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            if self.is_due(&self.store.paths.collected(), care.collect_every) {
                say("collect garbage", self.collect_and_tell().await);
            }
            if self.is_due(&self.store.paths.verified(), care.verify_every) {
                say("read everything again", self.verify_and_tell().await);
            }
        }
    }

    /// A registry that was never looked after begins its first period now.
    fn is_due(&self, stamp: &Path, every: Option<Duration>) -> bool {
        let Some(every) = every else { return false };
        let last = fs::metadata(stamp).and_then(|metadata| metadata.modified());
        match last {
            Ok(last) => Timestamp::now().since(last.into()) >= every,
            Err(_) => {
                let _ = durable::stamp(stamp);
                false
            }
        }
    }

    async fn collect_and_tell(&self) -> Result<(), Error> {
        let asked = self.collection(false).await;
        let Collected { tags, manifests, blobs, contents, bytes } = self.collect(asked, |_| {}).await?;
        tracing::info!(tags, manifests, blobs, contents, bytes, "the registry removed what nothing keeps");
        Ok(())
    }

    async fn verify_and_tell(&self) -> Result<(), Error> {
        let mut began = Instant::now();
        let tell = move |what: Verifying<'_>| match what {
            Verifying::Fault(fault) => tracing::error!("the registry found a fault: {fault}"),
            // Nobody waits for it: half of the time the disk is left to those who do.
            Verifying::Progress(_) => {
                std::thread::sleep(began.elapsed().min(LONGEST_REST));
                began = Instant::now();
            }
        };
        let Verified { contents, bytes, faults } = self.verify(tell).await?;
        tracing::info!(contents, bytes, faults, "the registry read everything again");
        Ok(())
    }
}

fn say(what: &str, outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        tracing::error!("the registry could not {what}, and tries again: {}", chain(&error));
    }
}

/// Ends long work that nobody waits for any more: a server that stops must not go on with it.
fn unless(abandoned: &CancellationToken) -> io::Result<()> {
    match abandoned.is_cancelled() {
        true => Err(io::ErrorKind::Interrupted.into()),
        false => Ok(()),
    }
}
