//! Logs: how long a line takes from a step's program to a browser, and what a million of them
//! cost in time, memory and disk.

mod speaker;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{process::Command, task::JoinSet};

use crate::{
    Bench, Failed,
    process::{PATIENCE, Program},
    table::{Aims, Table, mib, millis, percentile},
    until,
};

const SOON: Duration = Duration::from_millis(150);
const MANY_PER_SECOND: f64 = 200_000.0;

/// What a million lines may add to the server's memory, whoever looks on.
const FLAT: u64 = 32 * 1024 * 1024;

/// What each of many viewers may: a connection, an event, and what is on its way.
const A_VIEWER: u64 = 512 * 1024;

/// The argument that makes this program the measured side.
const SPEAK: &str = "--speak";

/// A step and how it speaks.
struct Speech {
    name: &'static str,
    /// As fast as it is heard, without a number.
    per_second: Option<usize>,
    viewers: usize,
}

const SPEECHES: [Speech; 3] = [
    Speech { name: "quick", per_second: Some(10_000), viewers: 1 },
    Speech { name: "crowd", per_second: Some(100), viewers: 500 },
    Speech { name: "flood", per_second: None, viewers: 1 },
];

/// The folder to serve in, when this process was started to be the measured side.
pub(crate) fn speaks() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == SPEAK).then(|| arguments.next().map(PathBuf::from))?
}

pub(crate) async fn serve(folder: PathBuf) -> Result<(), Failed> {
    speaker::serve(folder).await
}

/// What the viewers of one speech saw.
#[derive(Default)]
struct Seen {
    lags: Vec<Duration>,
    lines: usize,
    events: usize,
    took: Duration,
}

pub(crate) async fn run(bench: &Bench, aims: &mut Aims) -> Result<(), Failed> {
    let folder = bench.folder.join("logs");
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SPEAK).arg(&folder);
    let program = Program::start(command, folder.join("server.log"))?;
    let look = || async { Ok(std::fs::read_to_string(folder.join("address")).ok()) };
    let server = format!("http://{}", until("the speaking server's start", PATIENCE, look).await?);
    let mut table = Table::new(&[
        "speech",
        "viewers",
        "lines",
        "lag p50",
        "lag p99",
        "events/s",
        "resident before",
        "at most",
    ]);
    let counts = bench.pick([30_000, 300, 200_000], [200_000, 2000, 1_000_000]);
    for (at, (speech, lines)) in SPEECHES.iter().zip(counts).enumerate() {
        let (before, _) = program.memory();
        program.forget_peak()?;
        let mut seen = listen(&folder, &server, at + 1, speech, lines).await?;
        let peak = program.peak_memory();
        let (p50, p99) = (percentile(&mut seen.lags, 50.0), percentile(&mut seen.lags, 99.0));
        let paced = speech.per_second.is_some();
        table.row([
            speech.per_second.map_or("at full speed".to_owned(), |rate| format!("{rate} lines/s")),
            speech.viewers.to_string(),
            lines.to_string(),
            if paced { millis(p50) } else { "–".to_owned() },
            if paced { millis(p99) } else { "–".to_owned() },
            format!("{:.0}", seen.events as f64 / seen.took.as_secs_f64()),
            mib(before),
            mib(peak),
        ]);
        judge(speech, p99, peak.saturating_sub(before), aims);
    }
    println!("\nlogs: from a step's program to a browser");
    table.print();
    read_back(&folder, &server, SPEECHES.len(), counts[2], aims).await?;
    program.kill().await?;
    Ok(())
}

fn judge(speech: &Speech, p99: Duration, grown: u64, aims: &mut Aims) {
    if let Some(rate) = speech.per_second {
        let aim = format!(
            "logs: p99 of the lag at most {} at {rate} lines/s, {} viewers",
            millis(SOON),
            speech.viewers
        );
        aims.add(p99 <= SOON, aim, millis(p99));
    }
    let most = if speech.viewers > 1 { A_VIEWER * speech.viewers as u64 } else { FLAT };
    let aim = format!("logs: {} grows memory by at most {}", speech.name, mib(most));
    aims.add(grown <= most, aim, mib(grown));
}

/// Lets a step speak while its viewers look on; each has to see every line once, in order.
async fn listen(
    folder: &Path,
    server: &str,
    step: usize,
    speech: &Speech,
    lines: usize,
) -> Result<Seen, Failed> {
    let mut viewers = JoinSet::new();
    for _ in 0..speech.viewers {
        let address = format!("{server}/api/v1/steps/{step}/log");
        let answer = reqwest::Client::builder().no_proxy().build()?.get(address).send().await?;
        viewers.spawn(view(answer.error_for_status()?, lines));
    }
    let begin = Instant::now();
    let go = folder.join(format!("{}-unfinished", speech.name));
    std::fs::write(&go, lines.to_string())?;
    std::fs::rename(go, folder.join(speech.name))?;
    let mut all = Seen::default();
    while let Some(seen) = viewers.join_next().await {
        let seen = seen??;
        all.lags.extend(seen.lags);
        (all.lines, all.events) = (all.lines + seen.lines, all.events + seen.events);
    }
    all.took = begin.elapsed();
    Ok(all)
}

async fn view(mut answer: reqwest::Response, lines: usize) -> Result<Seen, Failed> {
    let mut seen = Seen::default();
    let mut read = Vec::new();
    while let Some(bytes) = answer.chunk().await? {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        read.extend_from_slice(&bytes);
        // Five hundred viewers share this process with what they measure, so each is frugal.
        let mut rest = std::str::from_utf8(&read)?;
        while let Some((event, behind)) = rest.split_once("\n\n") {
            rest = behind;
            let field = |name: &str| event.split('\n').find_map(|line| line.strip_prefix(name));
            match field("event: ") {
                Some("lines") => hear(field("data: ").unwrap_or_default(), now, &mut seen)?,
                Some("end") if seen.lines == lines => return Ok(seen),
                Some("end") => return Err(format!("{} lines of {lines} arrived", seen.lines).into()),
                _ => {}
            }
        }
        let seen_to = read.len() - rest.len();
        read.drain(..seen_to);
    }
    Err("the log's events ended too soon".into())
}

/// What is read of a line.
#[derive(serde::Deserialize)]
struct Heard<'a> {
    text: &'a str,
}

fn hear(data: &str, now: Duration, seen: &mut Seen) -> Result<(), Failed> {
    seen.events += 1;
    let lines: Vec<Heard<'_>> = serde_json::from_str(data)?;
    for line in lines {
        let mut words = line.text.split(' ');
        let (number, at) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if number.parse() != Ok(seen.lines) {
            return Err(format!("line {} came where line {} belongs", number, seen.lines).into());
        }
        seen.lines += 1;
        seen.lags.push(now.saturating_sub(Duration::from_micros(at.parse()?)));
    }
    Ok(())
}

/// What is done with a log when its step is over.
async fn read_back(
    folder: &Path,
    server: &str,
    step: usize,
    lines: usize,
    aims: &mut Aims,
) -> Result<(), Failed> {
    let took = std::fs::read_to_string(folder.join("flood-took"))?;
    let took = Duration::from_micros(took.parse()?);
    let rate = lines as f64 / took.as_secs_f64();
    let (text, whole) = ask(format!("{server}/api/v1/steps/{step}/log?format=text")).await?;
    let is_whole = text.lines().enumerate().all(|(at, line)| line.starts_with(&format!("{at} ")));
    if !is_whole || text.lines().count() != lines {
        return Err(format!("the log's text is not the {lines} lines that were said").into());
    }
    let (_, middle) = ask(format!("{server}/runs/{step}/steps/{step}?line={}", lines / 2)).await?;
    let last = format!("{server}/api/v1/steps/{step}/search?q={}%20&limit=1&after=10", lines - 1);
    let (found, search) = ask(last).await?;
    if !found.contains(&format!("\"line\":{lines}")) {
        return Err("the last line was not found".into());
    }
    let sealed = folder.join(format!("data/logs/0/{step}/{step}.zst"));
    let mut table = Table::new(&[
        "lines",
        "written",
        "lines/s",
        "text",
        "on disk",
        "read as text",
        "page of one line",
        "search to the end",
    ]);
    table.row([
        lines.to_string(),
        millis(took),
        format!("{rate:.0}"),
        mib(text.len() as u64),
        mib(std::fs::metadata(sealed)?.len()),
        millis(whole),
        millis(middle),
        millis(search),
    ]);
    println!();
    table.print();
    aims.add(
        rate >= MANY_PER_SECOND,
        format!("logs: at least {MANY_PER_SECOND} lines/s are kept"),
        format!("{rate:.0}"),
    );
    Ok(())
}

async fn ask(address: String) -> Result<(String, Duration), Failed> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let begin = Instant::now();
    let text = client.get(address).send().await?.error_for_status()?.text().await?;
    Ok((text, begin.elapsed()))
}
