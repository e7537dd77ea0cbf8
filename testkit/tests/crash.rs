//! Killed at every moment there is, and started again: the same world.
//!
//! A moment is a commit of the database or something the outside noticed. The story is told
//! once undisturbed; then once for each moment with the server killed there, and told again
//! from its beginning to the next server, so that every delivery also arrives twice.

use mergeyard_server::{sample::SampleMerge, store::Fuse};
use mergeyard_testkit::{
    script::Act,
    yard::{TestYard, borrowed, service},
};
use serde_json::Value;

use crate::{deployments, life};

/// Deliveries of every kind of ending: published, unchanged, refused, ignored.
struct Story(Vec<(&'static str, Value)>);

impl Story {
    fn write(yard: &mut TestYard) -> Self {
        let raised = service("backend", "0.2.0", "two");
        let forgotten = service("frontend", "0.1.0", "two");
        let second = yard.sample.merge_change("Raise the backend", &borrowed(&raised)).unwrap();
        let third = yard.sample.merge_change("Forget to raise", &borrowed(&forgotten)).unwrap();
        let closed = mergeyard_server::sample::payload::closed_pull_request(&yard.sample.hosted(), &third);
        Self(vec![
            ("s-first", yard.merged(&yard.first)),
            ("s-closed", closed),
            ("s-second", yard.merged(&second)),
            ("s-third", yard.merged(&third)),
        ])
    }

    async fn tell(&self, yard: &TestYard) {
        for (id, payload) in &self.0 {
            let answer = yard.send(id, "pull_request", payload).await;
            assert!(answer.status.is_success(), "{id}: {answer:?}");
            yard.settle().await;
        }
    }
}

#[tokio::test]
async fn the_world_is_the_same_wherever_the_server_was_killed() {
    let mut yard = TestYard::new().await;
    let story = Story::write(&mut yard);
    story.tell(&yard).await;
    let world = yard.world().await;
    let moments = yard.yard().store.moments();
    yard.close().await;
    assert!(moments > 20, "the story has only {moments} moments, so the fuse is not where it should be");

    for moment in 1..=moments {
        let mut yard = TestYard::new().await;
        let story = Story::write(&mut yard);
        yard.kill().await;
        yard.start(Fuse::of(moment)).await;
        let server = yard.yard().clone();
        tokio::select! {
            () = story.tell(&yard) => {}
            () = server.store.burnt_out() => {}
        }
        drop(server);
        yard.kill().await;
        yard.start(Fuse::endless()).await;
        yard.settle().await;
        story.tell(&yard).await;
        assert_eq!(yard.world().await, world, "killed at moment {moment} of {moments}");
        let published = yard.script.played().iter().filter(|line| line.starts_with("publish")).count();
        assert_eq!(published, 3, "killed at moment {moment}: {:?}", yard.script.played());
        yard.close().await;
    }
}

/// Everything a run can go through: a clone, a service, two steps side by side, outputs, a gate that is
/// answered, a failure and its handler.
async fn live(yard: &TestYard) {
    life::start(yard, &life::pipeline(1)).await;
    yard.settle().await;
    yard.answer(1, Some("production"), true).await;
    yard.settle().await;
}

fn prepare(yard: &TestYard) {
    yard.script.next("compile", Act::Output(&[("version", "1.2.3")]));
    yard.script.next("deploy", Act::Fail("no such host"));
}

#[tokio::test]
async fn a_run_with_services_gates_and_handlers_ends_the_same_wherever_the_server_was_killed() {
    let yard = TestYard::new().await;
    prepare(&yard);
    live(&yard).await;
    let (world, moments) = (yard.world().await, yard.yard().store.moments());
    let mut played = yard.script.played();
    played.sort();
    assert_eq!(
        life::states(&yard, 1).await,
        "failure: clone success, db success, compile success, lint success, test success, deploy failure, tell success"
    );
    yard.close().await;
    assert!(moments > 20, "the story has only {moments} moments");

    for moment in 1..=moments {
        let mut yard = TestYard::new().await;
        prepare(&yard);
        yard.kill().await;
        yard.start(Fuse::of(moment)).await;
        let server = yard.yard().clone();
        tokio::select! {
            () = live(&yard) => {}
            () = server.store.burnt_out() => {}
        }
        drop(server);
        yard.kill().await;
        yard.start(Fuse::endless()).await;
        yard.settle().await;
        live(&yard).await;
        assert_eq!(yard.world().await, world, "killed at moment {moment} of {moments}");
        let mut done = yard.script.played();
        done.sort();
        assert_eq!(done, played, "killed at moment {moment}: each container is made once");
        assert!(yard.script.serving().is_empty(), "killed at moment {moment}");
        yard.close().await;
    }
}

/// One that goes live, and one that is not proven.
async fn deploy(yard: &TestYard, second: &SampleMerge) {
    deployments::merge(yard, "d-1", &yard.first).await;
    yard.settle().await;
    deployments::merge(yard, "d-2", second).await;
    yard.settle().await;
}

async fn to_be_deployed() -> (TestYard, SampleMerge) {
    let mut yard = deployments::rollouts().await;
    yard.script.next("rollout", Act::Publish);
    yard.script.next("rollout", Act::Unhealthy("/health answered 500"));
    let second = deployments::raise(&mut yard, "0.2.0");
    (yard, second)
}

#[tokio::test]
async fn a_deployment_is_made_written_down_and_told_once_wherever_the_server_was_killed() {
    let (yard, second) = to_be_deployed().await;
    deploy(&yard, &second).await;
    let (world, moments, played) = (yard.world().await, yard.yard().store.moments(), yard.script.played());
    assert!(world.contains("rolled_back") && world.contains("github clock-vm"), "{world}");
    yard.close().await;
    assert!(moments > 20, "the story has only {moments} moments");

    for moment in 1..=moments {
        let (mut yard, second) = to_be_deployed().await;
        yard.kill().await;
        yard.start(Fuse::of(moment)).await;
        let server = yard.yard().clone();
        tokio::select! {
            () = deploy(&yard, &second) => {}
            () = server.store.burnt_out() => {}
        }
        drop(server);
        yard.kill().await;
        yard.start(Fuse::endless()).await;
        yard.settle().await;
        deploy(&yard, &second).await;
        assert_eq!(yard.world().await, world, "killed at moment {moment} of {moments}");
        assert_eq!(yard.script.played(), played, "killed at moment {moment}: nothing goes live twice");
        yard.close().await;
    }
}
