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

/// Checks beside asking for the layers: a push of what is there may take so much longer.
const ASKING: f64 = 1.25;

const REPOSITORY: &str = "bench/image";
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
        for (side, figures) in turn {
            let folder = bench.folder.join("registry");
            if side != Side::DebianUnchecked {
                let served = fresh(bench, side, &folder).await?;
                image(&served, &random, amounts, figures).await?;
                shared(&served, &random, amounts, figures).await?;
                served.program.kill().await?;
            }
            let served = fresh(bench, side, &folder).await?;
            manifests(&served, amounts, figures).await?;
            served.program.kill().await?;
            std::fs::remove_dir_all(&folder)?;
        }
    }
    print(&all, amounts);
    judge(&all, aims);
    Ok(())
}

/// An empty registry, on a disk that has nothing of the one before left to do.
async fn fresh(bench: &Bench, side: Side, folder: &Path) -> Result<Served, Failed> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
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
        client.push_manifest(name, "1.0.0", &self.manifest).await
    }

    async fn pull(&self, client: &Client, name: &str) -> Result<(), Failed> {
        client.pull_manifest(name, "1.0.0", &self.manifest).await?;
        at_once(PULLED_AT_ONCE, self.blobs.iter(), |blob| client.pull(name, blob)).await
    }

    async fn ask(&self, client: &Client, name: &str) -> Result<(), Failed> {
        let ask = |blob| async move {
            client.has(name, blob).await?.then_some(()).ok_or_else(|| "what was pushed is not there".into())
        };
        at_once(PUSHED_AT_ONCE, self.blobs.iter(), ask).await
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

fn print(all: &[Figures; 3], amounts: Amounts) {
    let Amounts { rounds, layers, layer, shared, manifests, .. } = amounts;
    println!(
        "\nregistry: beside docker-registry, both with TLS, HTTP/1.1 and a login; medians of {rounds} turns each"
    );
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
    let image = layers * layer;
    let bytes = |bytes: usize| move |per_second: f64| format!("{:.0} MB/s", bytes as f64 * per_second / 1e6);
    let each = |count: usize| move |per_second: f64| format!("{:.0}/s", count as f64 * per_second);
    let size = mib(image as u64);
    let mut row = |name: String, figure: fn(&Figures) -> &Vec<Took>, shown: &dyn Fn(f64) -> String| {
        let [this, other, unchecked] = all.each_ref().map(|figures| took(figure(figures)));
        let rate = |took: Took| 1.0 / took.time.as_secs_f64();
        let measured = unchecked != Took::default();
        table.row([
            name,
            shown(rate(this)),
            shown(rate(other)),
            ratio(rate(this), rate(other)),
            millis(this.processor),
            millis(other.processor),
            if measured { shown(rate(unchecked)) } else { "–".to_owned() },
            if measured { ratio(rate(this), rate(unchecked)) } else { "–".to_owned() },
        ]);
    };
    row(format!("push {size}, {layers} layers, {PUSHED_AT_ONCE} at once"), |f| &f.push, &bytes(image));
    row(format!("pull {size}, {layers} layers, {PULLED_AT_ONCE} at once"), |f| &f.pull, &bytes(image));
    row(
        format!("pull one blob of {} MB {PULLS} times at once", shared / 1_000_000),
        |f| &f.shared,
        &bytes(shared * PULLS),
    );
    row(format!("push {manifests} small blobs, {CONNECTIONS} connections"), |f| &f.configs, &each(manifests));
    row(
        format!("push {manifests} manifests, {CONNECTIONS} connections"),
        |f| &f.manifests_pushed,
        &each(manifests),
    );
    row(
        format!("pull {manifests} manifests, {CONNECTIONS} connections"),
        |f| &f.manifests_pulled,
        &each(manifests),
    );
    table.print();
    let mut table = Table::new(&["", "mergeyard", "docker-registry"]);
    let mut row = |name: &str, shown: &dyn Fn(&Figures) -> String| {
        table.row([name.to_owned(), shown(&all[0]), shown(&all[1])]);
    };
    row("the large image: is each blob there?", &|f| millis(took(&f.asked).time));
    row("  pushed where it is already", &|f| millis(took(&f.pushed_again).time));
    row("  its blobs mounted into another repository", &|f| millis(took(&f.mounted).time));
    row("resident, idle", &|f| mib(median(&f.idle)));
    row("resident at most, during the pulls at once", &|f| mib(median(&f.peak)));
    table.print();
    println!(
        "  mergeyard answers 201 when a file's bytes and the directory entries that lead to it are on the disk;\n  \
         docker-registry syncs each file it writes, but not the directories, nor what it renames into place\n  \
         docker-registry's log is off, its cache is on, and its passwords are hashed at bcrypt's lowest cost"
    );
}

fn took(turns: &[Took]) -> Took {
    let part = |part: fn(&Took) -> Duration| median(&turns.iter().map(part).collect::<Vec<_>>());
    Took { time: part(|took| took.time), processor: part(|took| took.processor) }
}

fn judge(all: &[Figures; 3], aims: &mut Aims) {
    let [this, other, _] = all;
    let times: [(&str, f64, fn(&Figures) -> &Vec<Took>); 5] = [
        ("push of a large image", 1.0, |f| &f.push),
        ("pull of a large image", 1.0, |f| &f.pull),
        ("pulls of one blob at once", 1.0, |f| &f.shared),
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
    let asked = took(&this.asked).time.as_secs_f64();
    for (what, figure) in
        [("push of what is there", &this.pushed_again), ("mount of what is there", &this.mounted)]
    {
        let time = took(figure).time.as_secs_f64();
        aims.add(
            time <= asked * ASKING,
            format!("registry, {what}: at most {ASKING}× of asking for it"),
            ratio(time, asked),
        );
    }
}
