//! The measured side: the whole server in a process of its own, whose steps do nothing but
//! speak. What they say passes everything that a container's output passes: it is masked, cut
//! into lines, kept, and told to whoever looks on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::BoxFuture};
use mergeyard_plan::{
    action::{Action, ImageAction},
    decide::{PlannedRun, PlannedStep, PlannedWorkflow, Verdict},
    event::{Forge, Repository},
    rules::{StepRules, WorkflowRules},
};
use mergeyard_run::{
    executor::{Play, StepContext, StepJob, StepOutcome},
    log::Stream,
};
use mergeyard_server::{
    config::Config,
    serve::{Parts, Server},
    store::{Delivery, Source},
};
use mergeyard_types::{Timestamp, TreeId};

use super::{SPEECHES, Speech};
use crate::{BLINK, Failed, process::SECRET};

/// What a line says besides its time: as much as lines of builds do.
const FILLER: &str = "compiling one of the many crates this depends on";

struct Speaker {
    folder: PathBuf,
}

/// Serves in `folder` until it is killed. Each step waits for the file with its name.
pub(crate) async fn serve(folder: PathBuf) -> Result<(), Failed> {
    let config = format!(
        "data_dir = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n\
         [engine]\nparallel = {}\nlog_mb = 1024\n[github]\nwebhook_secret = \"{SECRET}\"\n\
         [[repo]]\nname = \"acme/notes\"\nclone_url = \"file:///nowhere\"\n",
        folder.join("data"),
        SPEECHES.len()
    );
    let play = Arc::new(Speaker { folder: folder.clone() });
    let parts = Parts { play: Some(play), ..Parts::default() };
    let server = Server::start(Config::from_table(config.parse()?)?, parts).await?;
    for (at, speech) in SPEECHES.iter().enumerate() {
        start(&server, at as u64, speech).await?;
    }
    let address = folder.join("address-unfinished");
    std::fs::write(&address, server.address.to_string())?;
    std::fs::rename(address, folder.join("address"))?;
    std::future::pending().await
}

/// A run of one step.
async fn start(server: &Server, number: u64, speech: &Speech) -> Result<(), Failed> {
    let (store, now) = (&server.yard.store, Timestamp::now());
    let delivery = Delivery {
        id: speech.name.parse()?,
        source: Source::Git,
        event: "push".to_owned(),
        content_type: "application/json".to_owned(),
        repo: Some("acme/notes".parse()?),
        body: Vec::new(),
        body_size: 0,
        received: now,
        ignored: Some("a benchmark".to_owned()),
    };
    let id = delivery.id.clone();
    store.receive(delivery).await?;
    let plan = plan(number, speech)?;
    let repository = Repository::named(plan.repo.clone());
    store.create_run(&id, 0, &repository, &plan, now).await?;
    server.yard.wake.steps.notify_waiters();
    Ok(())
}

fn plan(number: u64, speech: &Speech) -> Result<PlannedRun, Failed> {
    let action = ImageAction {
        folder: speech.name.to_owned(),
        name: speech.name.parse()?,
        version: "1.0.0".parse()?,
        tree: TreeId::new([7; 20]),
    };
    let step = PlannedStep {
        name: speech.name.to_owned(),
        verdict: Verdict::Run,
        action: Action::Image(action),
        rules: StepRules::default(),
        timeout: Duration::from_secs(3600),
        retry: 0,
        serial: None,
    };
    let workflow = PlannedWorkflow {
        name: speech.name.to_owned(),
        axis: None,
        verdict: Verdict::Run,
        rules: WorkflowRules::default(),
        steps: vec![step],
    };
    Ok(PlannedRun {
        id: None,
        forge: Forge::Git,
        repo: "acme/notes".parse()?,
        known_as: "acme/notes".parse()?,
        clone_url: None,
        source_url: None,
        event: "push".to_owned(),
        branch: "main".to_owned(),
        commit: format!("{number:040x}").parse()?,
        hints: Vec::new(),
        merged_at: None,
        title: speech.name.to_owned(),
        author: String::new(),
        number: None,
        supersede: false,
        occasion: String::new(),
        facts: serde_json::json!({}),
        account: None,
        fork: false,
        hold: None,
        rerun_of: None,
        workflows: vec![workflow],
    })
}

impl Play for Speaker {
    fn play(&self, job: StepJob, cx: StepContext) -> BoxFuture<'static, StepOutcome> {
        let folder = self.folder.clone();
        async move {
            let speech = SPEECHES.iter().find(|speech| speech.name == job.name);
            let spoken = match speech {
                Some(speech) => speak(&folder, speech, &cx).await,
                None => Err(format!("there is no speech for the step {}", job.name).into()),
            };
            match spoken {
                Ok(()) => StepOutcome::Success { outputs: Default::default() },
                Err(error) => StepOutcome::Error { message: error.to_string(), retry: false },
            }
        }
        .boxed()
    }
}

async fn speak(folder: &Path, speech: &Speech, cx: &StepContext) -> Result<(), Failed> {
    let go = folder.join(speech.name);
    while !go.exists() {
        tokio::time::sleep(BLINK).await;
    }
    let lines: usize = std::fs::read_to_string(&go)?.trim().parse()?;
    let begin = Instant::now();
    let mut said = 0;
    while said < lines {
        let due = match speech.per_second {
            Some(rate) => (begin.elapsed().as_secs_f64() * rate as f64) as usize,
            None => said + 1000,
        };
        let mut text = String::new();
        for number in said..due.min(lines) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
            text.push_str(&format!("{number} {now} {FILLER}\n"));
        }
        said = said.max(due.min(lines));
        cx.log.raw(Stream::Stdout, text.as_bytes()).await;
        if speech.per_second.is_some() {
            tokio::time::sleep(BLINK).await;
        }
    }
    cx.log.flush().await;
    std::fs::write(folder.join(format!("{}-took", speech.name)), begin.elapsed().as_micros().to_string())?;
    Ok(())
}
