//! The registry beside Debian's `docker-registry`: the same requests from the same client, both over
//! TLS and with a login, on the same disk, by turns.

mod client;
mod side;

use std::{
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use crate::{
    Bench, Failed,
    process::Program,
    table::{Aims, Table, median, mib, millis, ratio},
};
use client::{Blob, Client, MANIFEST};
use side::{Served, Side};

/// What engines do at once unless they are told otherwise.
const PUSHED_AT_ONCE: usize = 5;
const PULLED_AT_ONCE: usize = 3;

const CONNECTIONS: usize = 32;
const PULLS: usize = 10;

/// Many pulls of one blob may not cost more memory than this, however large it is.
const FLAT: u64 = 64 << 20;

/// A push of what is there may take so much longer than asking whether it is.
const ASKING: f64 = 1.25;

const REPOSITORY: &str = "bench/image";
const TAG: &str = "1.0.0";
const OTHER_REPOSITORY: &str = "bench/other";

/// What a server is given to come to rest before its memory is looked at.
const REST: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Took {
    time: Duration,
    /// Of the server, not of the client.
    processor: Duration,
}

/// One figure for each turn.
#[derive(Default)]
struct Figures {
    push: Vec<Took>,
    pull: Vec<Took>,
    asked: Vec<Took>,
    pushed_again: Vec<Took>,
    mounted: Vec<Took>,
    shared: Vec<Took>,
    idle: Vec<u64>,
    peak: Vec<u64>,
    configs: Vec<Took>,
    manifests_pushed: Vec<Took>,
    manifests_pulled: Vec<Took>,
}

/// How much of everything.
#[derive(Clone, Copy)]
struct Amounts {
    rounds: usize,
    layers: usize,
    layer: usize,
    repeats: usize,
    shared: usize,
    manifests: usize,
}

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    let amounts = bench.pick(
        Amounts { rounds: 1, layers: 4, layer: 16 << 20, repeats: 5, shared: 50_000_000, manifests: 200 },
        Amounts { rounds: 5, layers: 16, layer: 64 << 20, repeats: 21, shared: 200_000_000, manifests: 1000 },
    );
    let sides = [Side::Mergeyard, Side::Debian, Side::DebianUnchecked];
    let mut all: [Figures; 3] = Default::default();
    let random = random(amounts.layer.max(amounts.shared))?;
    for round in 0..amounts.rounds {
        let mut turn: Vec<(Side, &mut Figures)> = sides.into_iter().zip(&mut all).collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for (at, (side, figures)) in turn.into_iter().enumerate() {
            let folder = bench.folder.join("registry");
            if side != Side::DebianUnchecked {
                let served = fresh(bench, side, &folder.join("large")).await?;
                image(&served, &random, amounts, figures).await?;
                shared(&served, &random, amounts, figures).await?;
                served.program.kill().await?;
                std::fs::remove_dir_all(folder.join("large"))?;
            }
            // It stays until the end: a file system may be slow to give names again that were many.
            let served = fresh(bench, side, &folder.join(format!("small-{round}-{at}"))).await?;
            manifests(&served, amounts, figures).await?;
            served.program.kill().await?;
        }
    }
    print(&all, amounts);
    judge(&all, aims);
    Ok(())
}

/// An empty registry, on a disk that has nothing of the one before left to do.
async fn fresh(bench: &Bench, side: Side, folder: &Path) -> Result<Served, Failed> {
    tokio::process::Command::new("sync").status().await?;
    side.serve(bench, folder).await
}

/// An image of large layers: pushed, pulled, and pushed where it is already.
async fn image(
    served: &Served,
    random: &Bytes,
    amounts: Amounts,
    figures: &mut Figures,
) -> Result<(), Failed> {
    tokio::time::sleep(REST).await;
    figures.idle.push(served.program.memory().0);
    let Served { program, client } = served;
    let layers: Vec<Blob> = (0..amounts.layers).map(|at| layer(at, random.slice(..amounts.layer))).collect();
    let image = Image::of(config(0), layers);
    figures.push.push(timed(program, image.push(client, REPOSITORY)).await?);
    figures.pull.push(timed(program, image.pull(client, REPOSITORY)).await?);
    let (mut asked, mut again, mut mounted) = (Vec::new(), Vec::new(), Vec::new());
    for repeat in 0..amounts.repeats {
        asked.push(timed(program, image.ask(client, REPOSITORY)).await?);
        again.push(timed(program, image.push(client, REPOSITORY)).await?);
        let other = format!("{OTHER_REPOSITORY}-{repeat}");
        mounted.push(timed(program, image.mount(client, &other)).await?);
    }
    figures.asked.push(median(&asked));
    figures.pushed_again.push(median(&again));
    figures.mounted.push(median(&mounted));
    Ok(())
}

/// Many clients that read one blob at the same time.
async fn shared(
    served: &Served,
    random: &Bytes,
    amounts: Amounts,
    figures: &mut Figures,
) -> Result<(), Failed> {
    let Served { program, client } = served;
    let blob = layer(usize::MAX, random.slice(..amounts.shared));
    client.push(REPOSITORY, &blob).await?;
    program.forget_peak()?;
    let pulls = at_once(PULLS, std::iter::repeat_n(&blob, PULLS), |blob| client.pull(REPOSITORY, blob));
    figures.shared.push(timed(program, pulls).await?);
    figures.peak.push(program.peak_memory());
    Ok(())
}

/// Many small images that have all but their configuration in common.
async fn manifests(served: &Served, amounts: Amounts, figures: &mut Figures) -> Result<(), Failed> {
    let Served { program, client } = served;
    let base = layer(0, Bytes::from_static(b"what all images have in common"));
    let images: Vec<(String, Image)> = (0..amounts.manifests)
        .map(|at| (format!("1.0.{at}"), Image::of(config(at), vec![base.clone()])))
        .collect();
    client.push(REPOSITORY, &base).await?;
    let configs = at_once(CONNECTIONS, images.iter(), |(_, image)| client.push(REPOSITORY, &image.blobs[0]));
    figures.configs.push(timed(program, configs).await?);
    let pushes = at_once(CONNECTIONS, images.iter(), |(tag, image)| {
        client.push_manifest(REPOSITORY, tag, &image.manifest)
    });
    figures.manifests_pushed.push(timed(program, pushes).await?);
    let pulls = at_once(CONNECTIONS, images.iter(), |(tag, image)| {
        client.pull_manifest(REPOSITORY, tag, &image.manifest)
    });
    figures.manifests_pulled.push(timed(program, pulls).await?);
    Ok(())
}

struct Image {
    /// The configuration, then the layers.
    blobs: Vec<Blob>,
    manifest: Blob,
}

impl Image {
    fn of(config: Blob, layers: Vec<Blob>) -> Self {
        let descriptor = |kind: &str, blob: &Blob| {
            let media_type = format!("application/vnd.oci.image.{kind}");
            json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size() })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("config.v1+json", &config),
            "layers": layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect::<Vec<_>>(),
        });
        let blobs = std::iter::once(config).chain(layers).collect();
        Self { blobs, manifest: Blob::new(manifest.to_string().into(), Bytes::new()) }
    }

    async fn push(&self, client: &Client, name: &str) -> Result<(), Failed> {
        at_once(PUSHED_AT_ONCE, self.blobs.iter(), |blob| client.push(name, blob)).await?;
        client.push_manifest(name, TAG, &self.manifest).await
    }

    async fn pull(&self, client: &Client, name: &str) -> Result<(), Failed> {
        client.pull_manifest(name, TAG, &self.manifest).await?;
        at_once(PULLED_AT_ONCE, self.blobs.iter(), |blob| client.pull(name, blob)).await
    }

    async fn ask(&self, client: &Client, name: &str) -> Result<(), Failed> {
        let ask = |blob| async move {
            client.has(name, blob).await?.then_some(()).ok_or_else(|| "what was pushed is not there".into())
        };
        at_once(PUSHED_AT_ONCE, self.blobs.iter(), ask).await?;
        client.has_manifest(name, TAG).await
    }

    async fn mount(&self, client: &Client, name: &str) -> Result<(), Failed> {
        at_once(PUSHED_AT_ONCE, self.blobs.iter(), |blob| client.mount(name, REPOSITORY, blob)).await
    }
}

fn layer(number: usize, tail: Bytes) -> Blob {
    Blob::new(Bytes::copy_from_slice(&number.to_le_bytes()), tail)
}

fn config(number: usize) -> Blob {
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Labels": { "number": number.to_string() } },
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    Blob::new(config.to_string().into(), Bytes::new())
}

/// Bytes that nobody can compress.
fn random(length: usize) -> Result<Bytes, Failed> {
    let mut bytes = Vec::with_capacity(length);
    std::fs::File::open("/dev/urandom")?.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

async fn at_once<T, F>(
    most: usize,
    items: impl Iterator<Item = T>,
    work: impl FnMut(T) -> F,
) -> Result<(), Failed>
where
    F: Future<Output = Result<(), Failed>>,
{
    stream::iter(items.map(work)).buffer_unordered(most).try_collect().await
}

async fn timed(program: &Program, work: impl Future<Output = Result<(), Failed>>) -> Result<Took, Failed> {
    let before = program.processor_time();
    let begin = Instant::now();
    work.await?;
    let time = begin.elapsed();
    Ok(Took { time, processor: program.processor_time() - before })
}

/// One of the figures.
type Turns = fn(&Figures) -> &Vec<Took>;

fn print(all: &[Figures; 3], amounts: Amounts) {
    println!(
        "\nregistry: beside docker-registry, both with TLS, HTTP/1.1 and a login; medians of {} turns each",
        amounts.rounds
    );
    print_rates(all, amounts);
    print_times_and_memory(all);
    println!(
        "  mergeyard answers 201 when a file's bytes and the directory entries that lead to it are on the disk;\n  \
         docker-registry syncs each file it writes, where it stays, but no directory\n  \
         docker-registry's log is off, its cache is on, and its passwords are hashed at bcrypt's lowest cost"
    );
}

fn print_rates(all: &[Figures; 3], amounts: Amounts) {
    let Amounts { layers, layer, shared, manifests, .. } = amounts;
    let image = mib((layers * layer) as u64);
    let blob = shared / 1_000_000;
    let named = |what: &str, kind: &str| format!("{what} {manifests} {kind}, {CONNECTIONS} connections");
    let mut table = Table::new(&[
        "",
        "mergeyard",
        "docker-registry",
        "beside it",
        "CPU, mergeyard",
        "CPU, docker-registry",
        "[login unchecked",
        "beside that]",
    ]);
    let rows: [(String, Turns, Amount); 6] = [
        (
            format!("push {image}, {layers} layers, {PUSHED_AT_ONCE} at once"),
            |f| &f.push,
            Amount::Bytes(layers * layer),
        ),
        (
            format!("pull {image}, {layers} layers, {PULLED_AT_ONCE} at once"),
            |f| &f.pull,
            Amount::Bytes(layers * layer),
        ),
        (
            format!("pull one blob of {blob} MB {PULLS} times at once"),
            |f| &f.shared,
            Amount::Bytes(shared * PULLS),
        ),
        (named("push", "small blobs"), |f| &f.configs, Amount::Pieces(manifests)),
        (named("push", "manifests"), |f| &f.manifests_pushed, Amount::Pieces(manifests)),
        (named("pull", "manifests"), |f| &f.manifests_pulled, Amount::Pieces(manifests)),
    ];
    for (name, figure, amount) in rows {
        let [this, other, unchecked] = all.each_ref().map(|figures| took(figure(figures)));
        let beside = |other: Took| ratio(other.time.as_secs_f64(), this.time.as_secs_f64());
        let measured = unchecked != Took::default();
        table.row([
            name,
            amount.in_time(this),
            amount.in_time(other),
            beside(other),
            millis(this.processor),
            millis(other.processor),
            if measured { amount.in_time(unchecked) } else { "–".to_owned() },
            if measured { beside(unchecked) } else { "–".to_owned() },
        ]);
    }
    table.print();
}

/// How much was moved.
#[derive(Clone, Copy)]
enum Amount {
    Bytes(usize),
    Pieces(usize),
}

impl Amount {
    fn in_time(self, took: Took) -> String {
        let seconds = took.time.as_secs_f64();
        match self {
            Amount::Bytes(bytes) => format!("{:.0} MB/s", bytes as f64 / seconds / 1e6),
            Amount::Pieces(count) => format!("{:.0}/s", count as f64 / seconds),
        }
    }
}

fn print_times_and_memory(all: &[Figures; 3]) {
    let [this, other, _] = all;
    let mut table = Table::new(&["", "mergeyard", "docker-registry"]);
    let mut row = |name: &str, shown: &dyn Fn(&Figures) -> String| {
        table.row([name.to_owned(), shown(this), shown(other)]);
    };
    row("the large image: is it there, and each of its blobs?", &|f| millis(took(&f.asked).time));
    row("  pushed where it is already", &|f| millis(took(&f.pushed_again).time));
    row("  its blobs mounted into another repository", &|f| millis(took(&f.mounted).time));
    row("resident, idle", &|f| mib(median(&f.idle)));
    row("resident at most, during the pulls at once", &|f| mib(median(&f.peak)));
    table.print();
}

fn took(turns: &[Took]) -> Took {
    let part = |part: fn(&Took) -> Duration| median(&turns.iter().map(part).collect::<Vec<_>>());
    Took { time: part(|took| took.time), processor: part(|took| took.processor) }
}

fn judge(all: &[Figures; 3], aims: &mut Aims) {
    let [this, other, _] = all;
    let times: [(&str, f64, Turns); 6] = [
        ("push of a large image", 1.0, |f| &f.push),
        ("pull of a large image", 1.0, |f| &f.pull),
        ("pulls of one blob at once", 1.0, |f| &f.shared),
        ("mount of what is there", 1.0, |f| &f.mounted),
        ("push of small manifests", 2.0, |f| &f.manifests_pushed),
        ("pull of small manifests", 2.0, |f| &f.manifests_pulled),
    ];
    for (what, wanted, figure) in times {
        let [this, other] = [this, other].map(|figures| took(figure(figures)).time.as_secs_f64());
        let measured = ratio(other, this);
        aims.add(
            other >= this * wanted,
            format!("registry, {what}: at least {wanted}× docker-registry"),
            measured,
        );
    }
    let over = median(&this.peak).saturating_sub(median(&this.idle));
    aims.add(
        over <= FLAT,
        format!("registry, pulls of one blob at once: at most {} over idle", mib(FLAT)),
        mib(over),
    );
    let (asked, again) = (took(&this.asked).time, took(&this.pushed_again).time);
    aims.add(
        again.as_secs_f64() <= asked.as_secs_f64() * ASKING,
        format!("registry, push of what is there: at most {ASKING}× of asking for it"),
        ratio(again.as_secs_f64(), asked.as_secs_f64()),
    );
}
