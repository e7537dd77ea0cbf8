//! What a long past costs: memory, start-up, and the list of runs.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::{
    Bench, Failed,
    load::{Answered, Load, closed_loop},
    process::Mergeyard,
    seed,
    table::{Aims, Table, median, mib, millis, percentile},
};

const SMALL: u64 = 30 * 1024 * 1024;
const SOON: Duration = Duration::from_millis(200);
const AT_ONCE: Duration = Duration::from_millis(10);

/// The pasts that are compared.
const MANY: i64 = 100_000;
const VERY_MANY: i64 = 1_000_000;

/// What a server is given to come to rest before its memory is looked at.
const REST: Duration = Duration::from_secs(3);

struct Figures {
    resident: u64,
    anonymous: u64,
    after_pages: u64,
    ready: Duration,
    pages: Vec<(&'static str, Answered)>,
}

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    let mut summary = Table::new(&[
        "past runs",
        "database",
        "resident, idle",
        "of it not the program's file",
        "resident after the load",
        "ready after",
    ]);
    let mut pages = Table::new(&["page", "past runs", "connections", "requests/s", "p50", "p99"]);
    for runs in bench.pick(&[0, MANY][..], &[0, MANY, VERY_MANY]) {
        let folder = bench.folder.join(format!("pages-{runs}"));
        let database = folder.join("data/mergeyard.sqlite");
        if *runs > 0 {
            std::fs::create_dir_all(folder.join("data"))?;
            seed::past(&database, *runs).await?;
        }
        let mut figures = measure(bench, &folder, *runs).await?;
        summary.row([
            runs.to_string(),
            mib(on_disk(&database)),
            mib(figures.resident),
            mib(figures.anonymous),
            mib(figures.after_pages),
            millis(figures.ready),
        ]);
        judge(*runs, &mut figures, aims);
        for (name, answered) in &mut figures.pages {
            let (path, connections) = name.split_once(' ').unwrap_or((name, "1"));
            pages.row([
                path.to_owned(),
                runs.to_string(),
                connections.to_owned(),
                format!("{:.0}", answered.per_second()),
                millis(percentile(&mut answered.times, 50.0)),
                millis(percentile(&mut answered.times, 99.0)),
            ]);
        }
        std::fs::remove_dir_all(folder)?;
    }
    println!("\npages: what a long past costs");
    summary.print();
    println!();
    pages.print();
    Ok(())
}

/// With what is still in its journal.
fn on_disk(database: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    size(database) + size(&database.with_extension("sqlite-wal"))
}

async fn measure(bench: &Bench, folder: &Path, runs: i64) -> Result<Figures, Failed> {
    // The first start makes keys and certificates, which is not what is measured.
    Mergeyard::start(bench, folder, "").await?.program.kill().await?;
    let mut ready = Vec::new();
    for _ in 0..bench.pick(3, 9) {
        let server = Mergeyard::start(bench, folder, "").await?;
        ready.push(server.ready_after);
        server.program.kill().await?;
    }
    let server = Mergeyard::start(bench, folder, "").await?;
    tokio::time::sleep(REST).await;
    let (resident, anonymous) = server.program.memory();
    let mut pages = Vec::new();
    if runs > 0 {
        for name in [
            "/runs",
            "/runs 8",
            "/runs?before=MIDDLE",
            "/runs?repo=acme/clock-7",
            "/",
            "/deliveries",
            "/images",
            "/runs/MIDDLE",
        ] {
            pages.push((name, page(bench, &server, name, runs).await?));
        }
    }
    let (after_pages, _) = server.program.memory();
    server.program.kill().await?;
    Ok(Figures { resident, anonymous, after_pages, ready: median(&ready), pages })
}

/// One page over and over; `name` is its path and, behind a blank, how many ask at once.
async fn page(bench: &Bench, server: &Mergeyard, name: &str, runs: i64) -> Result<Answered, Failed> {
    let (path, connections) = name.split_once(' ').unwrap_or((name, "1"));
    let address = format!("http://{}{}", server.http, path.replace("MIDDLE", &(runs / 2).to_string()));
    let uri: http::Uri = address.parse()?;
    let ask = move |_, _| {
        let request = Request::get(uri.clone()).header("Host", "bench");
        request.body(Full::new(Bytes::new())).expect("the parts of a request are right")
    };
    let load = Load {
        connections: connections.parse()?,
        time: bench.pick(Duration::from_secs(1), Duration::from_secs(3)),
    };
    let answered = closed_loop(server.http, load, ask).await?;
    match answered.refused.first_key_value() {
        None => Ok(answered),
        Some((status, count)) => Err(format!("{path} was answered with {status} {count} times").into()),
    }
}

fn judge(runs: i64, figures: &mut Figures, aims: &mut Aims) {
    if runs == 0 {
        aims.add(
            figures.resident <= SMALL,
            format!("memory: idle at most {}", mib(SMALL)),
            mib(figures.resident),
        );
    }
    if runs == MANY {
        let ready = figures.ready;
        aims.add(
            ready <= SOON,
            format!("start-up: ready within {} with {runs} runs", millis(SOON)),
            millis(ready),
        );
    }
    if let Some((_, answered)) = figures.pages.iter_mut().find(|(name, _)| *name == "/runs") {
        let p99 = percentile(&mut answered.times, 99.0);
        aims.add(
            p99 <= AT_ONCE,
            format!("/runs: p99 at most {} with {runs} runs", millis(AT_ONCE)),
            millis(p99),
        );
    }
}
