//! Services and other detached steps: started, followed until their workflow ends.
//!
//! They take no place of `engine.parallel`, because the steps that do may be waiting for them.
//! A detached step has a task of its own, its follower, from its start to its end. Its workflow's
//! end ends it in the database, so its follower finds its lease gone and lets go; what is left in
//! the engine goes with the workflow ([`crate::ends`]).

use std::sync::{Arc, Mutex};

use mergeyard_types::WorkflowId;
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ends,
    steps::{self, Watch},
    store::{Job, StoreError},
    yard::Yard,
};

/// Workflows that may have services running, for each place of `engine.parallel`. One whose services
/// come up while the steps of another run loses no time; all that wait would fill the machine.
const WORKFLOWS_PER_PLACE: usize = 2;

/// Starts the next detached step that is ready. What it returns is told when the step is up, or
/// has ended before that.
pub async fn begin(yard: &Arc<Yard>) -> Result<Option<oneshot::Receiver<()>>, StoreError> {
    let most = u32::try_from(yard.settings.parallel_steps * WORKFLOWS_PER_PLACE).unwrap_or(u32::MAX);
    let Some(job) = yard.store.claim_detached(yard.clock.now(), most).await? else { return Ok(None) };
    steps::started(yard, &job);
    let (up, told) = oneshot::channel();
    let follower = Follower::enter(yard, job.workflow);
    yard.followers.tasks.spawn(follow(yard.clone(), job, follower, up));
    Ok(Some(told))
}

async fn follow(yard: Arc<Yard>, job: Job, follower: Follower, up: oneshot::Sender<()>) {
    let died = yard.followers.dead.clone();
    let work = async {
        let watch = Watch { up: Some(up), stop: follower.place.stop.clone() };
        let ended = steps::work(&yard, &job, watch).await;
        let run = steps::settle(&yard, &job, ended).await;
        // Whoever ends the workflow waits until nobody follows its steps.
        drop(follower);
        if let Some(run) = run {
            ends::after(&yard, &run);
        }
        steps::tell(&yard);
    };
    tokio::select! {
        () = work => {}
        () = died.cancelled() => {}
    }
}

/// The followers of one server.
#[derive(Debug, Default)]
pub struct Followers {
    tasks: TaskTracker,
    /// A server that is killed says nothing more.
    dead: CancellationToken,
    places: Mutex<Vec<Arc<Place>>>,
}

#[derive(Debug)]
struct Place {
    workflow: WorkflowId,
    stop: CancellationToken,
    gone: CancellationToken,
}

/// One follower's place among them, until it is dropped.
struct Follower {
    yard: Arc<Yard>,
    place: Arc<Place>,
}

impl Follower {
    fn enter(yard: &Arc<Yard>, workflow: WorkflowId) -> Self {
        let place =
            Arc::new(Place { workflow, stop: CancellationToken::new(), gone: CancellationToken::new() });
        yard.followers.places.lock().expect("no holder of this lock panics").push(place.clone());
        Self { yard: yard.clone(), place }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut places = self.yard.followers.places.lock().expect("no holder of this lock panics");
        places.retain(|place| !Arc::ptr_eq(place, &self.place));
        self.place.gone.cancel();
    }
}

impl Followers {
    /// Lets go of the detached steps of a workflow; returns when nobody follows them.
    pub async fn leave(&self, workflow: WorkflowId) {
        let places = self.places.lock().expect("no holder of this lock panics").clone();
        for place in places.iter().filter(|place| place.workflow == workflow) {
            place.stop.cancel();
            place.gone.cancelled().await;
        }
    }

    /// Returns when every follower has ended; they have been asked to before.
    pub async fn wait(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends all followers where they stand.
    pub async fn die(&self) {
        self.dead.cancel();
        self.wait().await;
    }
}
