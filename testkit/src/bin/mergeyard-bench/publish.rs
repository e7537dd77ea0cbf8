//! From a merge to a digest in the registry, beside the same `docker build` and `docker push`
//! typed by hand on the same engine, to the same registry.
//!
//! By hand means: the commit is checked out already, the login is done, and nobody reads the
//! digest back. What mergeyard does beyond that counts against it. Both sides take turns, so
//! that a slow minute of the machine is shared.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use mergeyard_server::sample::{SampleMerge, SampleRepository};
use mergeyard_types::Timestamp;
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    Bench, Failed,
    process::Mergeyard,
    table::{Aims, Table, median, millis, ratio},
};

/// The folder of the image inside the repository.
pub(crate) const FOLDER: &str = "app";

const KINDS: [Kind; 4] = [
    Kind { content: Content::Made, cold: true },
    Kind { content: Content::Made, cold: false },
    Kind { content: Content::Committed, cold: true },
    Kind { content: Content::Committed, cold: false },
];

const COLD_AIM: f64 = 1.05;
const CACHED_AIM: Duration = Duration::from_millis(150);

/// What a merge asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    content: Content,
    /// Whether the content is new, or only the version.
    cold: bool,
}

/// Where the 20 MiB of an image come from, which decides what has to be moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// The commit is small, and building makes the rest: what merges usually are.
    Made,
    /// All of it lies in the commit: the most that git and the context can have to move.
    Committed,
}

impl Content {
    fn dockerfile(self) -> &'static str {
        match self {
            Content::Made => {
                "FROM debian:bookworm-slim\nCOPY data /data\nRUN head -c 20M /dev/urandom >/made && sha256sum /made /data\n"
            }
            Content::Committed => "FROM debian:bookworm-slim\nCOPY data /data\nRUN sha256sum /data >/sum\n",
        }
    }

    /// Bytes that nobody has built before.
    fn unique(self) -> Result<Vec<u8>, Failed> {
        let size = match self {
            Content::Made => 1024,
            Content::Committed => 20 * 1024 * 1024,
        };
        let mut bytes = vec![0; size];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// What one kind of change took, turn by turn.
#[derive(Default)]
struct Turns {
    mergeyard: Vec<Duration>,
    parts: Vec<Parts>,
    build: Vec<Duration>,
    push: Vec<Duration>,
    by_hand: Vec<Duration>,
    checkout: Vec<Duration>,
    /// By hand in the other ways there are.
    curl: Vec<Duration>,
    classic: Vec<Duration>,
}

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    let folder = bench.folder.join("publish");
    std::fs::create_dir_all(&folder)?;
    let mut yard = Side::new(&folder, "mergeyard")?;
    let mut typed = Side::new(&folder, "typed")?;
    let repo = format!(
        "[[repo]]\nname = \"{}\"\nbranches = [\"develop\"]\nclone_url = \"{}\"\n",
        yard.sample.name(),
        yard.sample.hosted().clone_url
    );
    let server = Mergeyard::start(bench, &folder, &repo).await?;
    let hand = Hand::new(&folder, &server, &typed.sample).await?;
    let mut clock = Clockwork { server, runs: 0 };
    println!("\npublish: merge → digest; {}; mergeyard drives the engine's BuildKit", by_hand_is(&hand));
    // Both sides push the base image's layers once before anything is measured.
    clock.publish(&yard.sample, &yard.first).await?;
    hand.publish(&hand.tag(&typed), hand.builder).await?;
    let mut results = Vec::new();
    for kind in KINDS {
        let turns = if kind.cold { bench.pick(2, 7) } else { bench.pick(3, 11) };
        let mut took = Turns::default();
        for turn in 0..turns {
            for first in [turn % 2 == 0, turn % 2 != 0] {
                match first {
                    true => yard_turn(&mut clock, &mut yard, kind, &mut took).await?,
                    false => hand_turn(&hand, &mut typed, kind, &mut took).await?,
                }
            }
            let other = [(Builder::BuildKitByCurl, &mut took.curl), (Builder::Classic, &mut took.classic)];
            for (builder, took) in other.into_iter().filter(|_| !bench.quick) {
                typed.change(kind).await?;
                hand.check_out().await?;
                let (build, push) = hand.publish(&hand.tag(&typed), builder).await?;
                took.push(build + push);
            }
        }
        results.push((kind, took));
    }
    clock.server.program.kill().await?;
    hand.forget(&[&yard, &typed]).await?;
    print(&results);
    judge(&results, aims);
    Ok(())
}

async fn yard_turn(
    clock: &mut Clockwork,
    yard: &mut Side,
    kind: Kind,
    took: &mut Turns,
) -> Result<(), Failed> {
    let merge = yard.change(kind).await?;
    let (time, parts) = clock.publish(&yard.sample, &merge).await?;
    took.mergeyard.push(time);
    took.parts.push(parts);
    Ok(())
}

async fn hand_turn(hand: &Hand, typed: &mut Side, kind: Kind, took: &mut Turns) -> Result<(), Failed> {
    typed.change(kind).await?;
    took.checkout.push(hand.check_out().await?);
    let (build, push) = hand.publish(&hand.tag(typed), hand.builder).await?;
    took.build.push(build);
    took.push.push(push);
    took.by_hand.push(build + push);
    Ok(())
}

/// One side's repository and the versions it has published.
struct Side {
    name: &'static str,
    sample: SampleRepository,
    first: SampleMerge,
    versions: u32,
}

impl Side {
    fn new(folder: &Path, name: &'static str) -> Result<Self, Failed> {
        let files = files(name, 0, Content::Made, true)?;
        let repository = format!("acme/{name}").parse()?;
        let (sample, first) =
            SampleRepository::create(&folder.join(format!("{name}.git")), repository, &borrowed(&files))?;
        Ok(Self { name, sample, first, versions: 0 })
    }

    /// Merges the next version: with new content, or with the same.
    async fn change(&mut self, kind: Kind) -> Result<SampleMerge, Failed> {
        self.versions += 1;
        let files = files(self.name, self.versions, kind.content, kind.cold)?;
        let merge = self.sample.merge_change("Raise the version", &borrowed(&files))?;
        // As forges keep what was pushed: packed, so that a fetch is not spent in compressing it.
        let mut repack = Command::new("git");
        repack.arg("-C").arg(self.sample.path()).args(["repack", "-d", "--quiet"]);
        fed(repack, b"").await?;
        Ok(merge)
    }

    fn tag(&self, registry: &str, version: u32) -> String {
        format!("{registry}/bench-{}:1.0.{version}", self.name)
    }
}

fn files(name: &str, version: u32, content: Content, new: bool) -> Result<Vec<(String, Vec<u8>)>, Failed> {
    let spec = format!(r#"{{"service":{{"name":"bench-{name}","version":"1.0.{version}"}}}}"#);
    let mut files = vec![
        (format!("{FOLDER}/Dockerfile"), content.dockerfile().as_bytes().to_vec()),
        (format!("{FOLDER}/spec.json"), spec.into_bytes()),
    ];
    if new {
        files.push((format!("{FOLDER}/data"), content.unique()?));
    }
    Ok(files)
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect()
}

/// The server, and how many runs it has had.
struct Clockwork {
    server: Mergeyard,
    runs: i64,
}

/// Where mergeyard's time went, in the order it went there.
#[derive(Default, Clone)]
struct Parts(Vec<(&'static str, i64)>);

impl Clockwork {
    /// From the first byte of the webhook to the digest on the run.
    async fn publish(
        &mut self,
        sample: &SampleRepository,
        merge: &SampleMerge,
    ) -> Result<(Duration, Parts), Failed> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        self.runs += 1;
        let (begin, sent) = (Instant::now(), Timestamp::now());
        self.server.announce(&client, sample, merge).await?;
        let published = |run: &serde_json::Value| run["images"][0]["digest"].is_string();
        self.server.follow(&client, self.runs, published).await?;
        let (time, seen) = (begin.elapsed(), Timestamp::now());
        Ok((time, self.parts(&client, sent, seen).await?))
    }

    /// From the database's times and the step's log, all by this machine's one clock.
    async fn parts(
        &self,
        client: &reqwest::Client,
        sent: Timestamp,
        seen: Timestamp,
    ) -> Result<Parts, Failed> {
        let options =
            SqliteConnectOptions::new().filename(self.server.data.join("mergeyard.sqlite")).read_only(true);
        let mut database = SqliteConnection::connect_with(&options).await?;
        let row = sqlx::query(
            "SELECT d.received, s.started, s.finished, s.id FROM runs r \
             JOIN deliveries d ON d.run = r.id JOIN steps s ON s.run = r.id WHERE r.id = ?",
        )
        .bind(self.runs)
        .fetch_one(&mut database)
        .await?;
        database.close().await?;
        let time = |column: &str| row.try_get::<i64, _>(column);
        let log = self.log(client, time("id")?).await?;
        let section = |name: &str, done: bool| {
            let line = |line: &serde_json::Value| {
                let text = line["text"].as_str()?;
                let is_meant = text.starts_with(name) && text.contains(" done in ") == done;
                is_meant.then(|| line["at"].as_i64())?
            };
            log["lines"].as_array()?.iter().find_map(line)
        };
        let marks = [
            ("receive", Some(time("received")?)),
            ("decide (git fetch, look into the registry)", self.decided()),
            ("lease", Some(time("started")?)),
            ("begin the step", section("== fetch", false)),
            ("look into the mirror", section("== fetch", true)),
            ("look for base images", section("== build", false)),
            ("build", section("== build", true)),
            ("push", section("== push", true)),
            ("read back", section("== read back", false)),
            ("report", Some(time("finished")?)),
            ("digest seen", Some(seen.0)),
        ];
        let mut last = sent.0;
        let mut parts = Parts::default();
        for (name, at) in marks {
            let at =
                at.ok_or_else(|| format!("the log of run {} does not say when `{name}` was", self.runs))?;
            parts.0.push((name, at - last));
            last = at;
        }
        Ok(parts)
    }

    /// The first lines of a step's log, each with its time.
    async fn log(&self, client: &reqwest::Client, step: i64) -> Result<serde_json::Value, Failed> {
        let url = format!("http://{}/api/v1/steps/{step}/lines?after=0&limit=1000", self.server.http);
        Ok(client.get(url).send().await?.error_for_status()?.json().await?)
    }
    /// When the server said that the run's plan is written.
    fn decided(&self) -> Option<i64> {
        let said = std::fs::read_to_string(self.server.data.with_file_name("server.log")).ok()?;
        let run = format!("run={} ", self.runs);
        let line = said.lines().find(|line| line.contains("started a run") && line.contains(&run))?;
        let at: jiff::Timestamp = line.split(' ').next()?.parse().ok()?;
        Some(at.as_millisecond())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builder {
    /// The client's own: it sends the engine only the files that changed since its last build.
    BuildKit,
    /// The engine's BuildKit without a client: a tar stream to its end point.
    BuildKitByCurl,
    Classic,
}

/// A person at a terminal.
pub(crate) struct Hand {
    docker: PathBuf,
    home: PathBuf,
    work: PathBuf,
    pub(crate) registry: String,
    pub(crate) builder: Builder,
}

impl Hand {
    pub(crate) async fn new(
        folder: &Path,
        server: &Mergeyard,
        typed: &SampleRepository,
    ) -> Result<Self, Failed> {
        let (home, work) = (folder.join("docker"), folder.join("work"));
        std::fs::create_dir_all(&home)?;
        let mut hand = Self {
            docker: "docker".into(),
            home,
            work,
            registry: server.registry.to_string(),
            builder: Builder::BuildKitByCurl,
        };
        // The newest client may lack a plug-in that Debian's own does not need.
        for docker in ["docker", "/usr/bin/docker"] {
            hand.docker = docker.into();
            let mut build = hand.docker(Builder::BuildKit);
            build.args(["build", "-q", "-"]);
            if fed(build, b"FROM scratch\nLABEL bench=probe\n").await.is_ok() {
                hand.builder = Builder::BuildKit;
                break;
            }
        }
        let password = std::fs::read(server.data.join("registry-password"))?;
        let mut login = hand.docker(hand.builder);
        login.args(["login", "--username", "mergeyard", "--password-stdin", &hand.registry]);
        fed(login, &password).await?;
        let mut clone = Command::new("git");
        clone.args(["clone", "--quiet", "--depth=1", "--branch=develop", "--"]);
        clone.arg(&typed.hosted().clone_url).arg(&hand.work);
        fed(clone, b"").await?;
        Ok(hand)
    }

    pub(crate) fn docker(&self, builder: Builder) -> Command {
        let mut command = Command::new(&self.docker);
        command.env("DOCKER_CONFIG", &self.home);
        command.env("DOCKER_BUILDKIT", if builder == Builder::Classic { "0" } else { "1" });
        command
    }

    /// Not counted as typed by hand, but told: mergeyard does it too.
    pub(crate) async fn check_out(&self) -> Result<Duration, Failed> {
        let begin = Instant::now();
        for arguments in [
            &["fetch", "--quiet", "--depth=1", "origin", "develop"][..],
            &["reset", "--quiet", "--hard", "FETCH_HEAD"],
        ] {
            let mut git = Command::new("git");
            git.arg("-C").arg(&self.work).args(arguments);
            fed(git, b"").await?;
        }
        Ok(begin.elapsed())
    }

    fn tag(&self, typed: &Side) -> String {
        typed.tag(&self.registry, typed.versions)
    }

    /// How long building took, and pushing.
    pub(crate) async fn publish(&self, tag: &str, builder: Builder) -> Result<(Duration, Duration), Failed> {
        let begin = Instant::now();
        if builder == Builder::BuildKitByCurl {
            fed(self.curl(tag), b"").await?;
        } else {
            let mut build = self.docker(builder);
            build.args(["build", "--tag", tag]).arg(self.work.join(FOLDER));
            fed(build, b"").await?;
        }
        let built = begin.elapsed();
        let mut push = self.docker(builder);
        push.args(["push", tag]);
        fed(push, b"").await?;
        Ok((built, begin.elapsed() - built))
    }

    fn curl(&self, tag: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["-c", "set -o pipefail; tar -c -C \"$0\" . | curl -sS --fail --unix-socket \"$2\" -X POST -H 'Content-Type: application/x-tar' \
            --data-binary @- \"http://engine/build?version=2&t=$1\" | tee /dev/stderr | { ! grep -q '\"error\"'; }"]);
        shell.arg(self.work.join(FOLDER)).arg(tag).arg("/var/run/docker.sock");
        shell
    }

    /// The images of both sides; the engine's build cache is its own to clean.
    async fn forget(&self, sides: &[&Side]) -> Result<(), Failed> {
        for side in sides {
            for version in 0..=side.versions {
                let mut remove = self.docker(self.builder);
                remove.args(["image", "rm", "--force", &side.tag(&self.registry, version)]);
                fed(remove, b"").await?;
            }
        }
        Ok(())
    }
}

pub(crate) fn by_hand_is(hand: &Hand) -> String {
    match hand.builder {
        Builder::BuildKit => {
            format!("by hand is `DOCKER_BUILDKIT=1 {} build` and `push`", hand.docker.display())
        }
        _ => {
            "by hand is curl to the engine's BuildKit and `docker push`, because no client here has BuildKit"
                .to_owned()
        }
    }
}

/// Runs a program to its end with this on its standard input.
pub(crate) async fn fed(mut command: Command, input: &[u8]) -> Result<(), Failed> {
    let program = format!("{:?}", command.as_std());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it all will say why by how it ends.
        let _ = stdin.write_all(input).await;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr))
        .into())
}

fn print(results: &[(Kind, Turns)]) {
    let mut table = Table::new(&[
        "",
        "mergeyard",
        "by hand",
        "(build",
        "push)",
        "median of turns",
        "git by hand",
        "beside git, build, push",
        "[tar by curl",
        "classic builder]",
    ]);
    let shown = |times: &[Duration]| if times.is_empty() { "–".to_owned() } else { millis(median(times)) };
    for (kind, took) in results {
        let with_git = median(&took.by_hand) + median(&took.checkout);
        table.row([
            name(*kind).to_owned(),
            shown(&took.mergeyard),
            shown(&took.by_hand),
            shown(&took.build),
            shown(&took.push),
            format!("{:.2}×, {:+} ms", pairs_ratio(took), pairs_more(took)),
            shown(&took.checkout),
            ratio(median(&took.mergeyard).as_secs_f64(), with_git.as_secs_f64()),
            shown(&took.curl),
            shown(&took.classic),
        ]);
    }
    table.print();
    println!("  where mergeyard's time goes, medians in ms");
    let mut table = Table::new(&["", "cold, made", "cached, made", "cold, committed", "cached, committed"]);
    let names = results.first().and_then(|(_, took)| took.parts.first());
    for (at, (name, _)) in names.into_iter().flat_map(|parts| parts.0.iter().enumerate()) {
        let part = |took: &Turns| median(&took.parts.iter().map(|parts| parts.0[at].1).collect::<Vec<_>>());
        let cell =
            |kind: usize| results.get(kind).map(|(_, took)| part(took).to_string()).unwrap_or_default();
        table.row([format!("  {name}"), cell(0), cell(1), cell(2), cell(3)]);
    }
    table.print();
}

fn name(kind: Kind) -> &'static str {
    match (kind.cold, kind.content) {
        (true, Content::Made) => "cold: a small commit, RUN makes 20 MiB",
        (false, Content::Made) => "cached: the same small tree",
        (true, Content::Committed) => "cold: 20 MiB in the commit",
        (false, Content::Committed) => "cached: the same 20 MiB tree",
    }
}

fn pairs(took: &Turns) -> impl Iterator<Item = (f64, f64)> {
    took.mergeyard.iter().zip(&took.by_hand).map(|(yard, hand)| (yard.as_secs_f64(), hand.as_secs_f64()))
}

/// The median of the turns' own ratios, in which a slow minute has no part.
fn pairs_ratio(took: &Turns) -> f64 {
    median(&pairs(took).map(|(yard, hand)| (yard / hand * 1000.0) as u64).collect::<Vec<_>>()) as f64 / 1000.0
}

fn pairs_more(took: &Turns) -> i64 {
    median(&pairs(took).map(|(yard, hand)| ((yard - hand) * 1000.0) as i64).collect::<Vec<_>>())
}

fn judge(results: &[(Kind, Turns)], aims: &mut Aims) {
    for (kind, took) in results {
        let (ratio, more) = (pairs_ratio(took), pairs_more(took));
        let what = name(*kind);
        match kind.cold {
            true => aims.add(
                ratio <= COLD_AIM,
                format!("publish {what}: at most {COLD_AIM}× by hand"),
                format!("{ratio:.2}×"),
            ),
            false => aims.add(
                more <= CACHED_AIM.as_millis() as i64,
                format!("publish {what}: at most {} more than by hand", millis(CACHED_AIM)),
                format!("{more:+} ms"),
            ),
        }
    }
}
