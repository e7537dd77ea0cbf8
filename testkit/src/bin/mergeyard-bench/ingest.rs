//! Webhooks received: mergeyard, which makes each durable before it answers, beside Debian's
//! `webhook`, which keeps none. Both check the same signature over the same bytes and read
//! the same JSON.

use std::{collections::HashSet, path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use mergeyard_server::{
    github::signature,
    sample::{SampleMerge, SampleRepository, payload},
};
use mergeyard_types::Secret;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    Bench, Failed,
    load::{Answered, Ask, Load, closed_loop},
    process::{Mergeyard, SECRET, webhook},
    table::{Aims, Table, median, millis, percentile, ratio},
};

const CONNECTIONS: usize = 64;

/// The sizes GitHub's deliveries of merges have, from a small repository's to a busy one's.
const SIZES: std::ops::RangeInclusive<usize> = 8 * 1024..=30 * 1024;

const BODIES: usize = 45;

/// Nobody would call a webhook that takes longer than this fast.
const SLOWEST: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    MergeyardIgnored,
    MergeyardQueued,
    WebhookCheck,
    WebhookRun,
}

const SIDES: [(Side, &str); 4] = [
    (Side::MergeyardIgnored, "mergeyard: durable; nothing to do (branch not configured)"),
    (Side::WebhookCheck, "webhook: signature checked, then another rule says no"),
    (Side::MergeyardQueued, "mergeyard: durable, queued, and decided meanwhile"),
    (Side::WebhookRun, "webhook: signature checked, runs /bin/true afterwards"),
];

#[derive(Default)]
struct Figures {
    answered: Answered,
    processor: Duration,
    stored: Option<Stored>,
    per_second: Vec<u64>,
}

/// What the killed server's database holds.
#[derive(Default)]
struct Stored {
    rows: usize,
    decided: usize,
    again: usize,
}

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    let (rounds, time) = bench.pick((1, Duration::from_secs(2)), (3, Duration::from_secs(10)));
    let folder = bench.folder.join("ingest");
    let name = "acme/notes".parse()?;
    let (sample, merge) = SampleRepository::create(&folder.join("notes.git"), name, &[("notes", b"one\n")])?;
    let counted = bodies(&sample, &merge);
    let elsewhere = bodies(&sample, &SampleMerge { base_branch: "experiments".to_owned(), ..merge });
    let mut all: [Figures; SIDES.len()] = Default::default();
    for round in 0..rounds {
        for (at, (side, _)) in SIDES.iter().enumerate() {
            let bodies = if *side == Side::MergeyardQueued { &counted } else { &elsewhere };
            let folder = folder.join(format!("{round}-{at}"));
            let load = Load { connections: CONNECTIONS, time };
            measure(bench, *side, &folder, &sample, bodies, load, &mut all[at]).await?;
            let _ = std::fs::remove_dir_all(folder);
        }
    }
    print(&mut all, &elsewhere, rounds, time);
    judge(&all, aims);
    Ok(())
}

async fn measure(
    bench: &Bench,
    side: Side,
    folder: &Path,
    sample: &SampleRepository,
    bodies: &[Signed],
    load: Load,
    into: &mut Figures,
) -> Result<(), Failed> {
    let warm_up = Load { time: Duration::from_millis(500), ..load };
    if matches!(side, Side::MergeyardIgnored | Side::MergeyardQueued) {
        let repo = format!(
            "[[repo]]\nname = \"{}\"\nbranches = [\"develop\"]\nclone_url = \"{}\"\n",
            sample.name(),
            sample.hosted().clone_url
        );
        let server = Mergeyard::start(bench, folder, &repo).await?;
        let ask = |round: &'static str| asks(format!("http://{}/hooks/github", server.http), round, bodies);
        refuses_a_wrong_signature(server.http, ask("wrong")).await?;
        closed_loop(server.http, warm_up, ask("warm")).await?;
        let before = server.program.processor_time();
        let answered = closed_loop(server.http, load, ask("load")).await?;
        into.processor += server.program.processor_time() - before;
        server.program.kill().await?;
        let stored = verify(&server.data.join("mergeyard.sqlite"), &answered).await?;
        let sum = into.stored.get_or_insert_default();
        sum.rows += stored.rows;
        sum.decided += stored.decided;
        sum.again += stored.again;
        into.take(answered);
    } else {
        let (program, address) = webhook(folder, &hooks(side)).await?;
        let ask = |round: &'static str| asks(format!("http://{address}/hooks/bench"), round, bodies);
        refuses_a_wrong_signature(address, ask("wrong")).await?;
        closed_loop(address, warm_up, ask("warm")).await?;
        let before = program.processor_time();
        let answered = closed_loop(address, load, ask("load")).await?;
        into.processor += program.processor_time() - before;
        program.kill().await?;
        into.take(answered);
    }
    Ok(())
}

impl Figures {
    fn take(&mut self, answered: Answered) {
        self.per_second.push(answered.per_second() as u64);
        self.answered.add(answered);
    }
}

struct Signed {
    body: Bytes,
    signature: HeaderValue,
}

/// The same merge in payloads of many sizes. What people write is of any length; without the
/// two repositories inside it, it is as small as other senders and other events are.
fn bodies(sample: &SampleRepository, merge: &SampleMerge) -> Vec<Signed> {
    let whole = payload::merged_pull_request(&sample.hosted(), merge);
    let mut small = whole.clone();
    for side in ["head", "base"] {
        small["pull_request"][side]["repo"] = serde_json::Value::Null;
    }
    let step = (SIZES.end() - SIZES.start()) / (BODIES - 1);
    (0..BODIES)
        .map(|at| {
            let wanted = SIZES.start() + at * step;
            let fits = whole.to_string().len() <= wanted;
            let mut payload = if fits { whole.clone() } else { small.clone() };
            let missing = wanted.saturating_sub(payload.to_string().len());
            payload["pull_request"]["body"] = prose(missing).into();
            let body = payload.to_string();
            let signature = signature::sign(&Secret::new(SECRET), body.as_bytes());
            Signed {
                body: body.into(),
                signature: HeaderValue::try_from(signature).expect("hexadecimal digits"),
            }
        })
        .collect()
}

/// Text that compresses about as prose does.
fn prose(length: usize) -> String {
    let word = |at: usize| hex::encode(&Sha256::digest(at.to_le_bytes())[..4]);
    (0..length / 9 + 1).flat_map(|at| [word(at), " ".to_owned()]).collect::<String>()[..length].to_owned()
}

fn asks(
    uri: String,
    round: &'static str,
    bodies: &[Signed],
) -> impl Fn(usize, usize) -> Ask + Clone + Send + 'static {
    let bodies: Vec<(Bytes, HeaderValue)> =
        bodies.iter().map(|signed| (signed.body.clone(), signed.signature.clone())).collect();
    let uri: http::Uri = uri.parse().expect("an address of this machine");
    move |connection, number| {
        let (body, signature) = &bodies[(connection * 7 + number) % bodies.len()];
        let (body, signature) = match round {
            "wrong" => (body.slice(1..), signature),
            _ => (body.clone(), signature),
        };
        Request::post(uri.clone())
            .header("Host", "bench")
            .header("Content-Type", "application/json")
            .header("X-GitHub-Event", "pull_request")
            .header("X-GitHub-Delivery", guid(round, connection, number))
            .header("X-Hub-Signature-256", signature)
            .body(Full::new(body))
            .expect("the parts of a request are right")
    }
}

fn guid(round: &str, connection: usize, number: usize) -> String {
    format!("{round}-{connection}-{number}")
}

/// Without this the comparison could be with a program that checks nothing.
async fn refuses_a_wrong_signature(
    address: std::net::SocketAddr,
    ask: impl Fn(usize, usize) -> Ask + Clone + Send + 'static,
) -> Result<(), Failed> {
    let once = Load { connections: 1, time: Duration::from_millis(20) };
    let answered = closed_loop(address, once, ask).await?;
    match answered.accepted.len() {
        0 => Ok(()),
        _ => Err("a webhook with a wrong signature was accepted".into()),
    }
}

/// Two hooks that differ in what comes after the signature was found right.
fn hooks(side: Side) -> String {
    let parameter = |source: &str, name: &str| json!({ "source": source, "name": name });
    let signed = json!({ "match": {
        "type": "payload-hmac-sha256", "secret": SECRET, "parameter": parameter("header", "X-Hub-Signature-256"),
    } });
    let never = json!({ "match": { "type": "value", "value": "never", "parameter": parameter("payload", "action") } });
    let rule = if side == Side::WebhookCheck { json!({ "and": [signed, never] }) } else { signed };
    json!([{
        "id": "bench",
        "execute-command": "/bin/true",
        "success-http-response-code": 202,
        "trigger-rule": rule,
        "trigger-rule-mismatch-http-response-code": 202,
    }])
    .to_string()
}

/// Each delivery that was answered with 2xx must be in the database of the killed server.
async fn verify(database: &Path, answered: &Answered) -> Result<Stored, Failed> {
    let mut connection =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(database)).await?;
    let rows = sqlx::query("SELECT guid, state, attempts FROM deliveries").fetch_all(&mut connection).await?;
    // Nothing here is hard to decide, so a second attempt is a mistake and a dead delivery a lost one.
    let again = rows.iter().filter(|row| row.get::<i64, _>(2) > 1).count();
    if rows.iter().any(|row| row.get::<&str, _>(1) == "dead") {
        return Err("a delivery was given up although nothing was wrong with it".into());
    }
    let decided = rows.iter().filter(|row| row.get::<&str, _>(1) != "queued").count();
    let known: HashSet<&str> = rows.iter().map(|row| row.get(0)).collect();
    let lost =
        answered.accepted.iter().filter(|(c, n)| !known.contains(guid("load", *c, *n).as_str())).count();
    match lost {
        0 => Ok(Stored { rows: rows.len(), decided, again }),
        lost => Err(format!("{lost} deliveries were accepted and are not in the database").into()),
    }
}

fn print(all: &mut [Figures; SIDES.len()], bodies: &[Signed], rounds: usize, time: Duration) {
    let sizes: Vec<usize> = bodies.iter().map(|signed| signed.body.len()).collect();
    println!(
        "\ningest: {CONNECTIONS} connections, signed merges of {:.0} to {:.0} KiB, {rounds} × {} s, rates are medians",
        sizes.iter().min().copied().unwrap_or_default() as f64 / 1024.0,
        sizes.iter().max().copied().unwrap_or_default() as f64 / 1024.0,
        time.as_secs_f64()
    );
    let mut table =
        Table::new(&["", "deliveries/s", "p50", "p99", "CPU each", "not 2xx", "beside webhook's check"]);
    let check = rate(&all[1]);
    for (figures, (_, name)) in all.iter_mut().zip(SIDES) {
        let times = &mut figures.answered.times;
        let (p50, p99) = (percentile(times, 50.0), percentile(times, 99.0));
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
        table.row([
            name.to_owned(),
            format!("{:.0}", rate(figures)),
            millis(p50),
            millis(p99),
            millis(figures.processor / count),
            format!("{:?}", figures.answered.refused),
            ratio(rate(figures), check),
        ]);
    }
    table.print();
    for (figures, (_, name)) in all.iter().zip(SIDES) {
        if let Some(Stored { rows, decided, again }) = figures.stored {
            println!(
                "  {name}: after kill -9 each of {} accepted is among {rows} rows, {decided} of them decided, {again} tried more than once",
                figures.answered.accepted.len()
            );
        }
    }
}

fn rate(figures: &Figures) -> f64 {
    median(&figures.per_second) as f64
}

fn judge(all: &[Figures; SIDES.len()], aims: &mut Aims) {
    let check = rate(&all[1]);
    for (at, what) in [(0, "ingest"), (2, "ingest while deciding")] {
        let (rate, p99) = (rate(&all[at]), percentile(&mut all[at].answered.times.clone(), 99.0));
        aims.add(rate > check, format!("{what}: faster than webhook's check"), ratio(rate, check));
        aims.add(p99 < SLOWEST, format!("{what}: p99 under {}", millis(SLOWEST)), millis(p99));
    }
}
