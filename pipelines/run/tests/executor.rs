//! Steps always end, and end as what they are, whoever performs them.

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use mergeyard_plan::action::{Action, ImageAction};
use mergeyard_run::{
    engine::BuildSecret,
    executor::{Executor, Play, Scripted, StepContext, StepJob, StepOutcome},
    git::{GitCache, GitLimits},
    log::{LogSink, Stream},
    registry_client::{RegistryAccess, RegistryClient},
};
use mergeyard_types::{CommitSha, RunId, Secret, StepId, TreeId};
use support::{file_remote, repo_name};
use tokio_util::sync::CancellationToken;

struct Script<F>(F);

impl<F> Play for Script<F>
where
    F: Fn(StepJob, StepContext) -> BoxFuture<'static, StepOutcome> + Send + Sync,
{
    fn play(&self, job: StepJob, cx: StepContext) -> BoxFuture<'static, StepOutcome> {
        (self.0)(job, cx)
    }
}

async fn run(
    timeout: Duration,
    cancel: CancellationToken,
    script: impl Fn(StepJob, StepContext) -> BoxFuture<'static, StepOutcome> + Send + Sync + 'static,
) -> (StepOutcome, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let access = RegistryAccess {
        host: "registry.example.org".parse().unwrap(),
        ca_pem: None,
        username: String::new(),
        password: Secret::new(""),
    };
    let executor = Executor::Scripted(Scripted {
        play: Arc::new(Script(script)),
        git: GitCache::new(dir.path().join("cache"), GitLimits::default()).unwrap(),
        registry: Arc::new(RegistryClient::new(access).unwrap()),
    });
    let job = StepJob {
        workflow: mergeyard_types::WorkflowId(1),
        name: "image".to_owned(),
        environment: Vec::new(),
        masked: Vec::new(),
        detached: false,
        followed: false,
        kept_lines: 0,
        target: None,
        images: Default::default(),
        step: StepId(1),
        run: RunId(1),
        attempt: 1,
        repo: repo_name(),
        commit: CommitSha::new([1; 20]),
        hints: Vec::new(),
        remote: file_remote(dir.path()),
        source_url: None,
        action: Action::Image(ImageAction {
            folder: String::new(),
            name: "clock".parse().unwrap(),
            version: "1".parse().unwrap(),
            tree: TreeId::new([2; 20]),
        }),
        secrets: vec![BuildSecret { id: "token".to_owned(), value: Secret::new("hunter22") }],
        timeout,
    };
    let (log, mut lines) = LogSink::channel(job.masker(), 1 << 20);
    let outcome = executor.run(job, StepContext::new(log, cancel)).await;
    let mut said = Vec::new();
    while let Some(line) = lines.recv().await {
        said.push(line.text);
    }
    (outcome, said)
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_script_says_and_ends_as_it_likes_and_its_secrets_are_masked() {
    let (outcome, said) = run(MINUTE, CancellationToken::new(), |job, cx| {
        async move {
            cx.log.raw(Stream::Stdout, b"password hunter").await;
            cx.log.raw(Stream::Stdout, b"22 unfinished").await;
            let outputs = BTreeMap::from([("step".to_owned(), job.step.to_string())]);
            StepOutcome::Success { outputs }
        }
        .boxed()
    })
    .await;
    assert_eq!(
        outcome,
        StepOutcome::Success { outputs: BTreeMap::from([("step".to_owned(), "1".to_owned())]) }
    );
    assert_eq!(said, ["password ******** unfinished"]);

    let (outcome, _) = run(MINUTE, CancellationToken::new(), |_, _| {
        async { StepOutcome::Error { message: "login as hunter22 failed".to_owned(), retry: true } }.boxed()
    })
    .await;
    assert_eq!(outcome, StepOutcome::Error { message: "login as ******** failed".to_owned(), retry: true });
}

#[tokio::test]
async fn a_panic_is_an_error_of_ours() {
    let (outcome, _) =
        run(MINUTE, CancellationToken::new(), |_, _| async { panic!("a fault") }.boxed()).await;
    assert!(matches!(outcome, StepOutcome::Error { retry: false, .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_timeout_and_a_cancel_are_not_the_same() {
    let (outcome, _) =
        run(Duration::from_millis(50), CancellationToken::new(), |_, _| std::future::pending().boxed()).await;
    assert_eq!(outcome, StepOutcome::Failure { message: "timed out after 50ms".to_owned() });
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (outcome, _) = run(MINUTE, cancel, |_, _| std::future::pending().boxed()).await;
    assert_eq!(outcome, StepOutcome::Cancelled);
}

#[tokio::test]
async fn what_a_step_started_learns_that_the_step_is_over() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = std::sync::Mutex::new(Some(tell));
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let (outcome, _) = run(MINUTE, cancel, move |_, cx| {
        let (tell, stop) = (tell.lock().unwrap().take().unwrap(), stop.clone());
        async move {
            tokio::spawn(async move {
                cx.cancel.cancelled().await;
                tell.send(()).unwrap();
            });
            stop.cancel();
            std::future::pending().await
        }
        .boxed()
    })
    .await;
    assert_eq!(outcome, StepOutcome::Cancelled);
    told.await.unwrap();
}
