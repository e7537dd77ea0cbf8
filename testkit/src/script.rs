//! Steps that are played instead of run, so that everything around them is tested without
//! an engine. What they publish is a real image in a real registry.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use mergeyard_plan::action::{Action, ImageAction};
use mergeyard_run::{
    executor::{Play, StepContext, StepJob, StepOutcome},
    ledger::{Intent, Verdict},
    look::{OutOfReach, Seen, Sought},
    registry_client::{RegistryAccess, RegistryClient},
    target::Target,
};
use mergeyard_server::store::Fuse;
use mergeyard_types::{Digest, ImageName, ImageRef, StepId};
use serde_json::json;
use sha2::Digest as _;
use tokio::sync::Notify;

/// How a step goes the next time.
#[derive(Debug, Clone)]
pub enum Act {
    /// An image is published, a container ends well, a detached one serves.
    Publish,
    /// A container ends well and puts this out.
    Output(&'static [(&'static str, &'static str)]),
    /// A detached container comes up and ends with this when [`Script::stopping`] is rung.
    Collapse(&'static str),
    /// The user's files are wrong.
    Fail(&'static str),
    /// Nobody's fault, and worth another try.
    Stumble(&'static str),
    /// A deployment is not proven, and what was live before is live again.
    Unhealthy(&'static str),
    /// Works until somebody stops it.
    Hang,
    Panic,
}

/// What the steps do, and the engine they do it in, which outlives servers: an attempt whose
/// container is there is found again and not played twice.
#[derive(Default)]
pub struct Script {
    acts: Mutex<BTreeMap<String, VecDeque<Act>>>,
    played: Mutex<Vec<String>>,
    /// How the container of each attempt goes, from its start until its workflow ends.
    containers: Mutex<BTreeMap<(StepId, u32), Act>>,
    serving: Mutex<BTreeSet<String>>,
    given: Mutex<BTreeMap<String, StepJob>>,
    /// What each service of each target runs.
    live: Mutex<BTreeMap<String, Digest>>,
    /// Why nobody reaches a target.
    cut_off: Mutex<BTreeMap<String, String>>,
    /// Rings when a step has begun to hang.
    pub hanging: Notify,
    /// Makes what is to collapse do so.
    pub stopping: Notify,
}

impl Script {
    /// The next step that publishes the image `name`, or is called that, goes like this; may be said
    /// several times.
    pub fn next(&self, name: &str, act: Act) {
        self.acts.lock().unwrap().entry(name.to_owned()).or_default().push_back(act);
    }

    /// The detached steps that are followed now.
    pub fn serving(&self) -> Vec<String> {
        self.serving.lock().unwrap().iter().cloned().collect()
    }

    /// What the step of that name was last given.
    pub fn given(&self, step: &str) -> StepJob {
        self.given.lock().unwrap().get(step).cloned().unwrap_or_else(|| panic!("`{step}` was not played"))
    }

    /// What the targets run, by `target/service`.
    pub fn live(&self) -> BTreeMap<String, Digest> {
        self.live.lock().unwrap().clone()
    }

    /// Somebody changes what a target runs behind the server's back; `None`: takes it away.
    pub fn meddle(&self, place: &str, digest: Option<Digest>) {
        let mut live = self.live.lock().unwrap();
        match digest {
            Some(digest) => live.insert(place.to_owned(), digest),
            None => live.remove(place),
        };
    }

    /// Nobody reaches the target any more, or somebody does again.
    pub fn cut_off(&self, target: &str, why: Option<&str>) {
        let mut cut_off = self.cut_off.lock().unwrap();
        match why {
            Some(why) => cut_off.insert(target.to_owned(), why.to_owned()),
            None => cut_off.remove(target),
        };
    }

    fn seen(&self, target: &Target, sought: &Sought) -> Result<Seen, OutOfReach> {
        if let Some(why) = self.cut_off.lock().unwrap().get(target.name.as_str()) {
            return Err(OutOfReach(why.clone()));
        }
        let live = self.live.lock().unwrap().get(&format!("{}/{}", target.name, sought.service)).copied();
        Ok(live.map_or(Seen::Nothing, Seen::Digest))
    }

    /// What was really done, in order.
    pub fn played(&self) -> Vec<String> {
        self.played.lock().unwrap().clone()
    }

    fn take(&self, image: &str) -> Act {
        let mut acts = self.acts.lock().unwrap();
        acts.get_mut(image).and_then(VecDeque::pop_front).unwrap_or(Act::Publish)
    }

    fn note(&self, line: String) {
        self.played.lock().unwrap().push(line);
    }
}

/// The script as one server sees it: it dies with the server's fuse.
pub struct Stage {
    pub script: Arc<Script>,
    pub registry: RegistryAccess,
    pub fuse: Arc<Fuse>,
}

impl Play for Stage {
    fn play(
        &self,
        job: StepJob,
        cx: StepContext,
    ) -> std::pin::Pin<Box<dyn Future<Output = StepOutcome> + Send + 'static>> {
        let stage =
            Stage { script: self.script.clone(), registry: self.registry.clone(), fuse: self.fuse.clone() };
        Box::pin(async move { stage.perform(job, cx).await })
    }

    fn look(&self, target: &Target, sought: &[Sought]) -> BoxFuture<'static, Vec<Result<Seen, OutOfReach>>> {
        let seen = sought.iter().map(|one| self.script.seen(target, one)).collect();
        Box::pin(std::future::ready(seen))
    }
}

impl Stage {
    async fn perform(self, job: StepJob, cx: StepContext) -> StepOutcome {
        match &job.action {
            Action::Image(action) => self.image(action, cx).await,
            action if action.target().is_some() => self.deploy(job, cx).await,
            _ => self.container(job, cx).await,
        }
    }

    /// As the real one does: the container of an attempt is made once, whatever happens to servers.
    async fn container(self, job: StepJob, cx: StepContext) -> StepOutcome {
        let name = job.name.clone();
        let known = self.script.containers.lock().unwrap().get(&(job.step, job.attempt)).cloned();
        let act = match known {
            Some(act) => act,
            None => {
                let act = self.script.take(&name);
                self.script.containers.lock().unwrap().insert((job.step, job.attempt), act.clone());
                let deed = if job.detached { "serve" } else { job.action.name() };
                self.script.note(format!("{deed} {name}"));
                self.fuse.burn().await;
                cx.log.note(&format!("playing {name}")).await;
                act
            }
        };
        let detached = job.detached;
        self.script.given.lock().unwrap().insert(name.clone(), job);
        match act {
            Act::Fail(message) => StepOutcome::Failure { message: message.to_owned() },
            Act::Stumble(message) => StepOutcome::Error { message: message.to_owned(), retry: true },
            Act::Panic => panic!("the script says so"),
            Act::Output(outputs) => {
                let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
                StepOutcome::Success { outputs: outputs.iter().map(own).collect() }
            }
            Act::Collapse(message) => {
                let _serving = Serving::begin(&self.script, &name, &cx);
                self.script.stopping.notified().await;
                StepOutcome::Failure { message: message.to_owned() }
            }
            Act::Unhealthy(_) => panic!("`{name}` deploys nothing"),
            Act::Publish if detached => {
                let _serving = Serving::begin(&self.script, &name, &cx);
                cx.cancel.cancelled().await;
                StepOutcome::Cancelled
            }
            Act::Publish => StepOutcome::Success { outputs: BTreeMap::new() },
            Act::Hang => {
                self.script.hanging.notify_one();
                cx.cancel.cancelled().await;
                StepOutcome::Cancelled
            }
        }
    }

    /// As the real ones do: the intent first, then a look at what is there, then the change and its proof.
    async fn deploy(self, job: StepJob, cx: StepContext) -> StepOutcome {
        let (name, target) = (job.name.clone(), job.action.target().cloned().expect("it deploys"));
        self.script.given.lock().unwrap().insert(name.clone(), job.clone());
        let error = |message: String| StepOutcome::Error { message, retry: false };
        let (service, image, digest) = match Self::what(&job) {
            Ok(what) => what,
            Err(message) => return error(message),
        };
        let key = format!("{target}/{service}");
        if job.action.is_check() {
            self.script.note(format!("check {key} {}", digest.short()));
            return StepOutcome::Success { outputs: summary(&format!("would run {}", digest.short())) };
        }
        let before = self.script.live().get(&key).copied();
        let intent = Intent { step: job.step, target, service, image, digest, before };
        let id = match cx.ledger.begin(intent).await {
            Ok(id) => id,
            Err(refused) => return error(refused.to_string()),
        };
        // One that is looked at again after a crash goes as it went.
        let known = self.script.containers.lock().unwrap().get(&(job.step, job.attempt)).cloned();
        let act = known.unwrap_or_else(|| self.script.take(&name));
        self.script.containers.lock().unwrap().insert((job.step, job.attempt), act.clone());
        if before != Some(digest)
            && !matches!(act, Act::Unhealthy(_) | Act::Fail(_) | Act::Stumble(_) | Act::Hang)
        {
            self.script.live.lock().unwrap().insert(key.clone(), digest);
            self.script.note(format!("deploy {key} {}", digest.short()));
            self.fuse.burn().await;
        }
        let verdict = match act {
            Act::Hang => {
                self.script.hanging.notify_one();
                cx.cancel.cancelled().await;
                return StepOutcome::Cancelled;
            }
            Act::Stumble(message) => return StepOutcome::Error { message: message.to_owned(), retry: true },
            Act::Panic => panic!("the script says so"),
            Act::Unhealthy(why) => Verdict::RolledBack { why: why.to_owned(), to: before },
            Act::Fail(why) => Verdict::Failed { why: why.to_owned() },
            Act::Publish | Act::Output(_) | Act::Collapse(_) => {
                Verdict::Healthy { said: "200 OK".to_owned() }
            }
        };
        if let Err(refused) = cx.ledger.end(id, verdict.clone()).await {
            return error(refused.to_string());
        }
        match verdict {
            Verdict::Healthy { .. } => {
                StepOutcome::Success { outputs: summary(&format!("{key} {}", digest.short())) }
            }
            Verdict::RolledBack { why, .. } | Verdict::Failed { why } => {
                StepOutcome::Failure { message: why }
            }
        }
    }

    /// Service, image and digest of what is to be live.
    fn what(job: &StepJob) -> Result<(String, Option<ImageName>, Digest), String> {
        let missing = |what: &str| format!("the run published no {what}");
        match &job.action {
            Action::Rollout(rollout) => {
                let published = job.images.get(&rollout.image).copied();
                let digest = rollout.digest.or(published).ok_or_else(|| missing(rollout.image.as_str()))?;
                Ok((rollout.service.clone(), Some(rollout.image.clone()), digest))
            }
            Action::Ansible(ansible) => {
                let images = if ansible.pinned.is_empty() { &job.images } else { &ansible.pinned };
                let (image, digest) = images.iter().next().ok_or_else(|| missing("image"))?;
                Ok((image.to_string(), Some(image.clone()), *digest))
            }
            Action::YumMirror(mirror) => {
                let digest = mirror.snapshot.unwrap_or_else(|| digest_of(job.commit.to_string().as_bytes()));
                Ok((mirror.file.clone(), None, digest))
            }
            Action::Image(_) | Action::Clone(_) | Action::Container(_) => {
                Err("it deploys nothing".to_owned())
            }
        }
    }

    async fn image(self, action: &ImageAction, cx: StepContext) -> StepOutcome {
        let image = format!("{}:{}", action.name, action.version);
        cx.log.note(&format!("playing {image}")).await;
        match self.script.take(action.name.as_str()) {
            Act::Publish | Act::Output(_) | Act::Collapse(_) | Act::Unhealthy(_) => {
                self.publish(action).await
            }
            Act::Fail(message) => StepOutcome::Failure { message: message.to_owned() },
            Act::Stumble(message) => StepOutcome::Error { message: message.to_owned(), retry: true },
            Act::Panic => panic!("the script says so"),
            Act::Hang => {
                self.script.note(format!("hang {image}"));
                self.script.hanging.notify_one();
                cx.cancel.cancelled().await;
                StepOutcome::Cancelled
            }
        }
    }

    /// As the real action does: what is published from the same tree is not published again.
    async fn publish(&self, action: &ImageAction) -> StepOutcome {
        let client = RegistryClient::new(self.registry.clone()).expect("the test registry's access is right");
        let published =
            client.published(&action.name, &action.version).await.expect("the test registry answers");
        let digest = match published {
            Some(image) if image.labels.get("dev.mergeyard.tree") == Some(&action.tree.to_string()) => {
                image.digest
            }
            Some(_) => {
                let message =
                    format!("{}:{} is already published from other files", action.name, action.version);
                return StepOutcome::Failure { message };
            }
            None => {
                let digest = push(&self.registry, action).await;
                self.script.note(format!(
                    "publish {}:{} from tree {}",
                    action.name,
                    action.version,
                    action.tree.short()
                ));
                self.fuse.burn().await;
                digest
            }
        };
        let image = ImageRef::tagged(self.registry.host.clone(), action.name.clone(), action.version.clone());
        let outputs = [("image", image.to_string()), ("digest", digest.to_string())];
        StepOutcome::Success { outputs: outputs.map(|(key, value)| (key.to_owned(), value)).into() }
    }
}

fn summary(text: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("summary".to_owned(), text.to_owned())])
}

/// A service that is followed, for as long as it is.
struct Serving {
    script: Arc<Script>,
    name: String,
}

impl Serving {
    fn begin(script: &Arc<Script>, name: &str, cx: &StepContext) -> Self {
        script.serving.lock().unwrap().insert(name.to_owned());
        cx.ready.notify_one();
        Self { script: script.clone(), name: name.to_owned() }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.script.serving.lock().unwrap().remove(&self.name);
    }
}

/// Pushes the smallest image there can be, made from the tree alone: equal trees, equal digests.
async fn push(registry: &RegistryAccess, action: &ImageAction) -> Digest {
    let name = &action.name;
    let layer = action.tree.to_string().into_bytes();
    let layer_digest = digest_of(&layer);
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Labels": { "dev.mergeyard.tree": action.tree } },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    })
    .to_string()
    .into_bytes();
    let config_digest = digest_of(&config);
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len() }],
    })
    .to_string()
    .into_bytes();
    let digest = digest_of(&manifest);
    let ca = registry.ca_pem.as_deref().expect("the test registry has an authority of its own");
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(ca).expect("a certificate")])
        .build()
        .expect("a client");
    let base = format!("https://{}/v2/{name}", registry.host);
    let login = |request: reqwest::RequestBuilder| {
        request.basic_auth(&registry.username, Some(registry.password.expose()))
    };
    for (digest, blob) in [(layer_digest, layer), (config_digest, config)] {
        let upload = login(client.post(format!("{base}/blobs/uploads/?digest={digest}")).body(blob));
        let answer = upload.send().await.expect("the registry answers");
        assert_eq!(answer.status(), 201, "blob {digest}");
    }
    let put = client
        .put(format!("{base}/manifests/{}", action.version))
        .header("Content-Type", MANIFEST)
        .body(manifest);
    let answer = login(put).send().await.expect("the registry answers");
    assert_eq!(answer.status(), 201, "manifest {name}:{}", action.version);
    digest
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::Sha256(sha2::Sha256::digest(bytes).into())
}
