//! What a delivery would start, without starting it.

use mergeyard_plan::{
    change::{self, At, Identity},
    event::{Event, Rehearsal},
    workflows::Plan,
};
use mergeyard_types::GitRef;

use super::{located, work};
use crate::yard::Yard;

/// Plans the commit of a working tree as if it had come by `event`, or else as the rehearsal says.
/// The inner error is the reason why nothing would run, the outer one why that is not known.
pub async fn rehearse(
    yard: &Yard,
    event: Option<Event>,
    rehearsal: &Rehearsal,
) -> Result<Result<Plan, String>, String> {
    let event = event.unwrap_or_else(|| Event::Rehearsed {
        repository: mergeyard_plan::event::Repository::named(rehearsal.repository.clone()),
        rehearsal: rehearsal.clone(),
    });
    let rules = yard.rules();
    let mut change = match change::change(&event, &rules.policies, &Identity::default()) {
        Ok(change) => change,
        Err(why) => return Ok(Err(why)),
    };
    // A payload says what happened; the files are those that lie here.
    change.commit = At::Commit(rehearsal.commit);
    change.hints = GitRef::branch(&rehearsal.branch).into_iter().collect();
    let remote = yard.settings.remote(change.policy, &change.repository.name, None)?;
    let planned = async {
        let change = located(yard, change, &remote).await?;
        let number = yard.store.next_run().await?;
        work::plan(yard, &event, &change, &remote, (number, yard.clock.now())).await
    };
    planned.await.map_err(|fault| fault.why)
}
