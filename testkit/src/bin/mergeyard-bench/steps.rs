//! Steps of a workflow, beside the same containers typed by hand.
//!
//! By hand means `docker run --rm`, one after another or as many at once as there are
//! processors. What a container itself costs is measured through the engine's API, without any
//! program around it, with the limits, the volume and the network namespace that a step's has: the
//! rest of a step's time is mergeyard's own.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig, Mount, MountType},
    query_parameters::{
        RemoveContainerOptionsBuilder, RemoveVolumeOptions, StartContainerOptions, WaitContainerOptions,
    },
};
use futures_util::StreamExt;
use mergeyard_server::sample::{SampleMerge, SampleRepository};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    Bench, Failed,
    process::Mergeyard,
    table::{Aims, Table, median, millis, ratio},
};

const IMAGE: &str = "debian:bookworm-slim";
const STEPS: usize = 20;

/// Of the containers that are measured alone.
const VOLUME: &str = "mergeyard-bench-steps";

const SEQUENCE_AIM: f64 = 1.0;
const INDEPENDENT_AIM: f64 = 1.0;
const OVERHEAD_AIM: Duration = Duration::from_millis(15);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Sequence,
    Independent,
}

impl Order {
    fn pipeline(self) -> String {
        let mut text = String::from("when: {event: pull_request_merged}\nskip_clone: true\nsteps:\n");
        for at in 1..=STEPS {
            let needs = match self {
                Order::Sequence => "",
                Order::Independent => ", depends_on: []",
            };
            text += &format!("  - {{name: step-{at}, image: '{IMAGE}', commands: ['true']{needs}}}\n");
        }
        text
    }

    fn says(self) -> &'static str {
        match self {
            Order::Sequence => "in sequence",
            Order::Independent => "independent",
        }
    }
}

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    println!("\nsteps: {STEPS} trivial steps in a workflow, beside {STEPS} × `docker run --rm`");
    let processors = std::thread::available_parallelism()?.get();
    let docker = Docker::connect_with_unix_defaults()?;
    let alone = Alone::start(docker).await?;
    let measured = measure(bench, &alone, processors, aims).await;
    alone.end().await?;
    measured
}

async fn measure(bench: &Bench, alone: &Alone, processors: usize, aims: &mut Aims) -> Result<(), Failed> {
    let (mut bare, mut joined) = (Vec::new(), Vec::new());
    let mut table = Table::new(&["", "mergeyard", "by hand", "ratio", "a step's own cost", "webhook → end"]);
    let mut totals = Vec::new();
    for order in [Order::Sequence, Order::Independent] {
        let folder = bench.folder.join(format!("steps-{}", order.says().replace(' ', "-")));
        std::fs::create_dir_all(&folder)?;
        let mut yard = Side::start(bench, &folder, order).await?;
        let (mut ours, mut whole, mut own, mut hand) = (vec![], vec![], vec![], vec![]);
        for turn in 0..bench.pick(1, 7) {
            for first in [turn % 2 == 0, turn % 2 != 0] {
                match first {
                    true => {
                        // Before and after, because what an engine takes for one changes by the minute.
                        let mut beside = alone.some(bench.pick(3, 5), &mut bare).await?;
                        let took = yard.run().await?;
                        beside.extend(alone.some(bench.pick(3, 5), &mut bare).await?);
                        ours.push(took.steps);
                        whole.push(took.whole);
                        own.push(micros(median(&took.each)) - micros(median(&beside)));
                        joined.extend(beside);
                    }
                    false => hand.push(by_hand(order, processors).await?),
                }
            }
        }
        yard.server.program.kill().await?;
        let (mine, theirs) = (median(&ours), median(&hand));
        // Of each turn's own difference; one may be less than nothing.
        let own = median(&own).try_into().map_or(Duration::ZERO, Duration::from_micros);
        let times = ratio(mine.as_secs_f64(), theirs.as_secs_f64());
        table.row([
            order.says().into(),
            millis(mine),
            millis(theirs),
            times.clone(),
            millis(own),
            millis(median(&whole)),
        ]);
        if order == Order::Sequence {
            let met = mine.as_secs_f64() <= SEQUENCE_AIM * theirs.as_secs_f64();
            aims.add(met, format!("{STEPS} steps in sequence: at most {SEQUENCE_AIM:.1}× by hand"), times);
            aims.add(own < OVERHEAD_AIM, "a step beyond its container: under 15 ms p50", millis(own));
        }
        totals.push((mine, theirs));
    }
    table.print();
    println!(
        "  a container itself (create, start, wait through the engine's API): {}, as a step's {}",
        millis(median(&bare)),
        millis(median(&joined))
    );
    let [(sequence, by_hand_sequence), (independent, by_hand)] = totals[..] else {
        return Err("both orders are measured".into());
    };
    let faster =
        |sequence: Duration, independent: Duration| ratio(sequence.as_secs_f64(), independent.as_secs_f64());
    println!(
        "  independent beside in sequence, {processors} processors: {} faster, by hand {}",
        faster(sequence, independent),
        faster(by_hand_sequence, by_hand)
    );
    let times = independent.as_secs_f64() / by_hand.as_secs_f64();
    let aim =
        format!("{STEPS} independent steps: at most {INDEPENDENT_AIM:.1}× by hand, {processors} at a time");
    aims.add(times <= INDEPENDENT_AIM, aim, ratio(independent.as_secs_f64(), by_hand.as_secs_f64()));
    Ok(())
}

/// A server with a repository whose pipeline is measured.
struct Side {
    server: Mergeyard,
    sample: SampleRepository,
    next: SampleMerge,
    runs: i64,
}

/// One run of the workflow.
struct Took {
    /// From the first step's start to the last one's end.
    steps: Duration,
    each: Vec<Duration>,
    whole: Duration,
}

impl Side {
    async fn start(bench: &Bench, folder: &std::path::Path, order: Order) -> Result<Self, Failed> {
        let pipeline = order.pipeline();
        let files: [(&str, &[u8]); 1] = [(".mergeyard.yml", pipeline.as_bytes())];
        let (sample, next) =
            SampleRepository::create(&folder.join("steps.git"), "acme/steps".parse()?, &files)?;
        let repo = format!(
            "[[repo]]\nname = \"{}\"\nbranches = [\"develop\"]\nclone_url = \"{}\"\n",
            sample.name(),
            sample.hosted().clone_url
        );
        let mut side = Self { server: Mergeyard::start(bench, folder, &repo).await?, sample, next, runs: 0 };
        // The first run pulls and learns what later ones know.
        side.run().await?;
        Ok(side)
    }

    async fn run(&mut self) -> Result<Took, Failed> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        self.runs += 1;
        let begin = Instant::now();
        self.server.announce(&client, &self.sample, &self.next).await?;
        let run = self.server.follow(&client, self.runs, |run| run["run"]["state"] == "success").await?;
        let whole = begin.elapsed();
        let content = format!("{}", self.runs);
        self.next = self.sample.merge_change("Change something", &[("content", content.as_bytes())])?;
        let steps = run["workflows"][0]["steps"].as_array().cloned().unwrap_or_default();
        let time = |step: &Value, key: &str| step[key].as_i64().unwrap_or_default();
        let from = steps.iter().map(|step| time(step, "started")).min().unwrap_or_default();
        let to = steps.iter().map(|step| time(step, "finished")).max().unwrap_or_default();
        let span = |from: i64, to: i64| Duration::from_millis(to.abs_diff(from));
        let each = steps.iter().map(|step| span(time(step, "started"), time(step, "finished"))).collect();
        Ok(Took { steps: span(from, to), each, whole })
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

async fn by_hand(order: Order, processors: usize) -> Result<Duration, Failed> {
    let at_once = match order {
        Order::Sequence => 1,
        Order::Independent => processors,
    };
    let script =
        format!("seq {STEPS} | xargs -P {at_once} -I{{}} docker run --rm {IMAGE} /bin/sh -e -c true");
    let begin = Instant::now();
    let status = Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).status().await?;
    if !status.success() {
        return Err(format!("`docker run` ended with {status}").into());
    }
    Ok(begin.elapsed())
}

/// Containers without anything around them.
struct Alone {
    docker: Docker,
    /// Whose network namespace others join.
    holder: String,
}

impl Alone {
    async fn start(docker: Docker) -> Result<Self, Failed> {
        let holder = create(&docker, &["sleep", "infinity"], None).await?;
        docker.start_container(&holder, None::<StartContainerOptions>).await?;
        Ok(Self { docker, holder })
    }

    /// So many in another's network namespace, each after one with its own.
    async fn some(&self, count: usize, own: &mut Vec<Duration>) -> Result<Vec<Duration>, Failed> {
        let mut joined = Vec::new();
        for _ in 0..count {
            own.push(self.one(None).await?);
            joined.push(self.one(Some(format!("container:{}", self.holder))).await?);
        }
        Ok(joined)
    }

    /// One with a network namespace of its own or that of another.
    async fn one(&self, network: Option<String>) -> Result<Duration, Failed> {
        let begin = Instant::now();
        let id = create(&self.docker, &["/bin/sh", "-e", "-c", "true"], network).await?;
        self.docker.start_container(&id, None::<StartContainerOptions>).await?;
        self.docker
            .wait_container(&id, None::<WaitContainerOptions>)
            .next()
            .await
            .ok_or("the engine did not say how a container ended")??;
        let took = begin.elapsed();
        remove(&self.docker, &id).await?;
        Ok(took)
    }

    async fn end(self) -> Result<(), Failed> {
        remove(&self.docker, &self.holder).await?;
        Ok(self.docker.remove_volume(VOLUME, None::<RemoveVolumeOptions>).await?)
    }
}

async fn create(docker: &Docker, command: &[&str], network_mode: Option<String>) -> Result<String, Failed> {
    let body = ContainerCreateBody {
        image: Some(IMAGE.into()),
        cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        host_config: Some(match network_mode {
            Some(_) => HostConfig { network_mode, ..as_of_a_step() },
            None => HostConfig::default(),
        }),
        ..Default::default()
    };
    Ok(docker.create_container(None, body).await?.id)
}

/// What every step's container has, unless its file says otherwise.
fn as_of_a_step() -> HostConfig {
    let workspace = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(VOLUME.to_owned()),
        target: Some("/woodpecker".to_owned()),
        ..Default::default()
    };
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    HostConfig {
        mounts: Some(vec![workspace]),
        init: Some(true),
        memory: Some(4 << 30),
        memory_swap: Some(4 << 30),
        pids_limit: Some(4096),
        cap_drop: words(&["MKNOD", "NET_RAW"]),
        security_opt: words(&["no-new-privileges"]),
        ..Default::default()
    }
}

async fn remove(docker: &Docker, container: &str) -> Result<(), Failed> {
    let force = RemoveContainerOptionsBuilder::new().force(true).build();
    Ok(docker.remove_container(container, Some(force)).await?)
}
