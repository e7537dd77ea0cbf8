//! The logs of steps: what was said is kept, all of it, in order, under numbers that stay,
//! whatever kills the server; and is found again from any place.

use std::{ops::Range, path::PathBuf, time::Duration};

use mergeyard_run::log::{LogLine, Stream};
use mergeyard_server::logs::{Logs, Needle, Way};
use mergeyard_types::{RunId, StepId, Timestamp};
use proptest::{prelude::*, test_runner::Config};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::web::{Events, NOW, Site, plan, said, serve, text};

const RUN: RunId = RunId(1234);
const STEP: StepId = StepId(5);

/// A place for logs, and what they should hold.
struct Keeper {
    folder: tempfile::TempDir,
    logs: Logs,
    kept: Vec<LogLine>,
    /// Of the last attempt, by its program.
    attempt: (u32, u64),
}

impl Keeper {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { logs: Logs::new(folder.path().into()), folder, kept: Vec::new(), attempt: (0, 0) }
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.folder.path().join(format!("1/{RUN}/{STEP}.{extension}"))
    }

    async fn say(&mut self, attempt: u32, lines: Vec<LogLine>) {
        let (sender, receiver) = mpsc::channel(64);
        let write = self.logs.write(RUN, STEP, attempt, receiver);
        let speak = async {
            for line in lines.clone() {
                sender.send(line).await.unwrap();
            }
            drop(sender);
        };
        tokio::join!(write, speak).0.unwrap();
        let said = lines.iter().filter(|line| line.stream != Stream::Note).count() as u64;
        let before = if self.attempt.0 == attempt { self.attempt.1 } else { 0 };
        self.attempt = (attempt, before + said);
        self.kept.extend(lines);
    }

    /// What a server that starts now finds.
    fn restart(&mut self) {
        self.logs = Logs::new(self.folder.path().into());
    }

    async fn read(&self, from: u64, limit: usize) -> Vec<(u64, LogLine)> {
        let (mut all, mut next) = (Vec::new(), from);
        loop {
            let piece = self.logs.read(RUN, STEP, next, limit).await.unwrap();
            if piece.lines.is_empty() {
                assert_eq!((piece.next, piece.total), (next, self.kept.len() as u64));
                return all;
            }
            next = piece.next;
            all.extend(piece.lines);
        }
    }

    fn expected(&self, lines: Range<u64>) -> Vec<(u64, LogLine)> {
        lines.map(|at| (at + 1, self.kept[at as usize].clone())).collect()
    }

    async fn check(&self) {
        let total = self.kept.len() as u64;
        assert_eq!(self.read(0, 50_000).await, self.expected(0..total));
        assert_eq!(self.logs.size(RUN, STEP).await.unwrap().lines, total);
        let kept = self.logs.kept_lines(RUN, STEP, self.attempt.0).await.unwrap();
        assert_eq!(kept, self.attempt.1);
        assert_eq!(self.logs.kept_lines(RUN, STEP, self.attempt.0 + 1).await.unwrap(), 0);
    }
}

fn line(number: usize, length: usize) -> LogLine {
    let stream = [Stream::Stdout, Stream::Stderr, Stream::Note][number % 3];
    let text = format!("{number} {}", "word ".repeat(length / 5));
    LogLine { at: Timestamp(NOW.0 + number as i64), stream, text }
}

/// What may happen to a log.
#[derive(Debug, Clone)]
enum Happening {
    /// Lines of about a length, by a further attempt or by the same.
    Said { lines: usize, length: usize, anew: bool },
    /// Killed in the middle of writing a line.
    Torn(String),
    /// Killed in the middle of writing a chunk.
    HalfChunk(Vec<u8>),
    /// Killed after a chunk was written and before its text was emptied.
    NotEmptied { lines: usize },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..120usize, 0..4000usize, any::<bool>())
            .prop_map(|(lines, length, anew)| Happening::Said { lines, length, anew }),
        1 => "[0-9]{0,13}( [oen]( [a-z ]{0,20})?)?".prop_map(Happening::Torn),
        1 => proptest::collection::vec(any::<u8>(), 1..200).prop_map(Happening::HalfChunk),
        1 => (1..40usize).prop_map(|lines| Happening::NotEmptied { lines }),
    ]
}

fn append(path: PathBuf, bytes: &[u8]) {
    use std::io::Write;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

async fn befall(keeper: &mut Keeper, happening: Happening, count: &mut usize) {
    let mut lines = |lines: usize, length: usize| {
        *count += lines;
        (*count - lines..*count).map(|number| line(number, length)).collect::<Vec<_>>()
    };
    match happening {
        Happening::Said { lines: many, length, anew } => {
            let attempt = (keeper.attempt.0 + u32::from(anew)).max(1);
            let said = lines(many, length);
            keeper.say(attempt, said).await;
        }
        Happening::Torn(piece) => append(keeper.file("log"), piece.as_bytes()),
        Happening::HalfChunk(piece) => append(keeper.file("zst"), &piece),
        Happening::NotEmptied { lines: many } => {
            // So much that it is sealed when its step ends; the text comes back as it was then.
            let attempt = keeper.attempt.0.max(1);
            let said = lines(many, 500);
            keeper.say(attempt, said).await;
            let before = std::fs::read(keeper.file("log")).unwrap_or_default();
            let rest = lines(10, 4000);
            keeper.say(attempt, rest).await;
            if std::fs::read(keeper.file("log")).unwrap_or_default().is_empty() {
                std::fs::write(keeper.file("log"), before).unwrap();
            }
        }
    }
    keeper.restart();
}

proptest! {
    #![proptest_config(Config { cases: 48, ..Config::default() })]

    #[test]
    fn whatever_happens_exactly_the_lines_that_were_said_are_read(
        happenings in proptest::collection::vec(happening(), 1..8),
        places in proptest::collection::vec((any::<prop::sample::Index>(), 1..200_000usize), 4),
    ) {
        runtime().block_on(async {
            let (mut keeper, mut count) = (Keeper::new(), 0);
            for happening in happenings {
                befall(&mut keeper, happening, &mut count).await;
                keeper.check().await;
            }
            let total = keeper.kept.len() as u64;
            for (place, limit) in places {
                let from = place.index(keeper.kept.len() + 2) as u64;
                let expected = keeper.expected(from.min(total)..total);
                assert_eq!(keeper.read_from(from, limit).await, expected);
                let one = keeper.logs.line(RUN, STEP, from).await.unwrap();
                let expected = from.checked_sub(1).and_then(|at| keeper.kept.get(at as usize)).cloned();
                assert_eq!(one, expected);
            }
        });
    }

    #[test]
    fn a_search_finds_what_reading_every_line_finds(
        seeds in proptest::collection::vec((0..6usize, 0..900usize), 1..400),
        from in any::<prop::sample::Index>(), limit in 1..60usize,
        wanted in 0..5usize, ignore_case in any::<bool>(),
    ) {
        runtime().block_on(async {
            let wanted = ["needle", "NEEDLE", "größe", "x n", "17952504"][wanted];
            let parts = ["a needle", "Needle!", "hay", "n\u{1b}[31mee\u{1b}[0mdle", "die GRÖßE", "10%\rneedle"];
            let lines = seeds.iter().map(|(part, length)| said(&format!("{} {}", "x ".repeat(*length), parts[*part])));
            let mut keeper = Keeper::new();
            keeper.say(1, lines.collect()).await;
            let needle = Needle::new(wanted, ignore_case).unwrap();
            let shown = |line: &LogLine| {
                let after = line.text.rsplit('\r').next().unwrap().to_owned();
                after.replace("\u{1b}[31m", "").replace("\u{1b}[0m", "")
            };
            let matching = |line: &LogLine| match ignore_case {
                true => shown(line).to_lowercase().contains(&wanted.to_lowercase()),
                false => shown(line).contains(wanted),
            };
            let all: Vec<u64> =
                (1..).zip(&keeper.kept).filter(|(_, line)| matching(line)).map(|(number, _)| number).collect();
            let from = from.index(keeper.kept.len() + 2) as u64;
            for way in [Way::Forward, Way::Backward] {
                let (mut found, mut place) = (Vec::new(), Some(from));
                while let Some(at) = place {
                    let some = keeper.logs.search(RUN, STEP, &needle, (at, way), limit).await.unwrap();
                    assert!(some.matches.len() <= limit);
                    found.extend(some.matches.iter().map(|(number, _)| *number));
                    place = some.next;
                }
                let expected: Vec<u64> = match way {
                    Way::Forward => all.iter().copied().filter(|number| *number > from).collect(),
                    Way::Backward => all.iter().rev().copied().filter(|number| *number < from).collect(),
                };
                assert_eq!(found, expected, "{way:?} from {from}");
            }
        });
    }
}

impl Keeper {
    /// As [`Keeper::read`], also from behind the end.
    async fn read_from(&self, from: u64, limit: usize) -> Vec<(u64, LogLine)> {
        if from > self.kept.len() as u64 {
            let piece = self.logs.read(RUN, STEP, from, limit).await.unwrap();
            assert_eq!(piece.next, from);
            return piece.lines;
        }
        self.read(from, limit).await
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test]
async fn a_very_long_log_is_complete_compressed_and_never_in_memory_as_a_whole() {
    const LINES: u64 = 200_000;
    let keeper = Keeper::new();
    let (sender, receiver) = mpsc::channel(1024);
    let logs = keeper.logs.clone();
    let writer = tokio::spawn(async move { logs.write(RUN, STEP, 1, receiver).await });
    for n in 0..LINES {
        let spoken = said(&format!("{n} compiling one of the many crates that this workspace depends on"));
        sender.send(spoken).await.unwrap();
        if n % 10_000 == 0 {
            // What is held of it is the newest text, which is the `.log`.
            let text = std::fs::metadata(keeper.file("log")).map_or(0, |file| file.len());
            assert!(text < 512 * 1024, "{text} bytes are not sealed");
        }
    }
    drop(sender);
    writer.await.unwrap().unwrap();
    let size = keeper.logs.size(RUN, STEP).await.unwrap();
    let on_disk = std::fs::metadata(keeper.file("zst")).unwrap().len();
    assert_eq!(size.lines, LINES);
    assert!(on_disk * 5 < size.bytes, "{on_disk} bytes of {}", size.bytes);
    let (mut next, mut expected) = (0, 0);
    loop {
        let piece = keeper.logs.read(RUN, STEP, next, 64 * 1024).await.unwrap();
        assert!(piece.lines.iter().map(|(_, line)| line.text.len()).sum::<usize>() <= 64 * 1024);
        for (number, line) in &piece.lines {
            assert_eq!(
                (*number, line.text.split(' ').next().unwrap()),
                (expected + 1, &*expected.to_string())
            );
            expected += 1;
        }
        if piece.next == next {
            break;
        }
        next = piece.next;
    }
    assert_eq!(expected, LINES);
}

#[tokio::test]
async fn logs_of_older_servers_are_read_and_gone_on_with() {
    for lines in [3_usize, 60_000] {
        let mut keeper = Keeper::new();
        keeper.kept = (0..lines).map(|number| line(number, 20)).collect();
        let letter = |line: &LogLine| match line.stream {
            Stream::Stdout => 'o',
            Stream::Stderr => 'e',
            Stream::Note => 'n',
        };
        let framed = |line: &LogLine| format!("{} {} {}\n", line.at.0, letter(line), line.text);
        let old: String = keeper.kept.iter().map(framed).collect();
        append(keeper.file("log"), format!("{old}1795250 torn").as_bytes());
        keeper.attempt = (0, (0..lines).filter(|number| number % 3 != 2).count() as u64);
        keeper.check().await;
        keeper.say(1, vec![said("and on it goes")]).await;
        keeper.check().await;
        keeper.restart();
        keeper.check().await;
    }
}

#[tokio::test]
async fn a_log_that_was_being_converted_when_the_server_died_is_converted_again() {
    let mut keeper = Keeper::new();
    keeper.kept = (0..40_000).map(|number| said(&format!("line {number} {}", "x".repeat(40)))).collect();
    let old: String = keeper.kept.iter().map(|line| format!("{} o {}\n", line.at.0, line.text)).collect();
    append(keeper.file("log"), old.as_bytes());
    append(keeper.file("zst-unfinished"), b"half of a chunk");
    keeper.attempt = (0, 40_000);
    keeper.check().await;
    // Killed after the chunks had their name: the text is as old as they are.
    std::fs::write(keeper.file("log"), old).unwrap();
    keeper.restart();
    keeper.check().await;
}

#[tokio::test]
async fn a_chunk_that_is_damaged_is_an_error_that_names_it_and_nothing_more() {
    let mut keeper = Keeper::new();
    keeper.say(1, (0..2000).map(|number| line(number, 200)).collect()).await;
    let mut sealed = std::fs::read(keeper.file("zst")).unwrap();
    sealed[60] ^= 0xff;
    std::fs::write(keeper.file("zst"), sealed).unwrap();
    keeper.restart();
    assert!(keeper.logs.read(RUN, STEP, 0, 1000).await.is_err());
    let last = keeper.logs.line(RUN, STEP, 2000).await.unwrap().unwrap();
    assert_eq!(last, keeper.kept[1999]);
}

#[tokio::test]
async fn a_writer_that_is_given_up_leaves_whole_lines_to_the_next() {
    let mut keeper = Keeper::new();
    let (sender, receiver) = mpsc::channel(1);
    let logs = keeper.logs.clone();
    let writer = tokio::spawn(async move { logs.write(RUN, STEP, 1, receiver).await });
    sender.send(said("one")).await.unwrap();
    loop {
        let Some(mut growing) = keeper.logs.follow(STEP) else {
            tokio::task::yield_now().await;
            continue;
        };
        if keeper.logs.size(RUN, STEP).await.unwrap().lines == 1 {
            break;
        }
        growing.changed().await.unwrap();
    }
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    assert!(keeper.logs.follow(STEP).is_none(), "nobody writes it any more");
    (keeper.kept, keeper.attempt) = (vec![said("one")], (1, 1));
    keeper.say(1, vec![said("two")]).await;
    keeper.check().await;
    keeper.say(2, vec![said("three")]).await;
    keeper.check().await;
}

#[tokio::test]
async fn a_log_of_a_step_that_said_nothing_is_empty() {
    let keeper = Keeper::new();
    keeper.check().await;
    assert_eq!(keeper.logs.line(RUN, STEP, 1).await.unwrap(), None);
    let needle = Needle::new("x", true).unwrap();
    for way in [Way::Forward, Way::Backward] {
        let found = keeper.logs.search(RUN, STEP, &needle, (0, way), 10).await.unwrap();
        assert!(found.matches.is_empty() && found.next.is_none());
    }
}

#[tokio::test]
async fn events_are_bounded_and_end_when_the_server_goes() {
    let site = Site::new().await;
    let run = site.run(&plan(1, "much to say")).await;
    let job = site.claim().await;
    site.log(&job, (0..20_000).map(|n| format!("line {n} {}", "x".repeat(90)))).await;
    let server = serve(&site).await;
    let path = format!("/api/v1/steps/{}/log", job.lease.step);
    let mut log = Events::open(&server, &path, None).await;
    let mut states = Events::open(&server, &format!("/api/v1/runs/{run}/events"), None).await;
    assert_eq!(states.next().await.unwrap().name, "run");
    let mut lines = 0;
    while lines < 20_000 {
        let event = log.next().await.unwrap();
        assert!(event.data.to_string().len() < 256 * 1024, "one event is one piece");
        lines += event.texts().count();
        assert_eq!(event.id.unwrap(), lines.to_string(), "the name of a place is the line before it");
    }
    // The step is not over, so both streams wait; the server goes nevertheless.
    site.pages.closing.cancel();
    assert!(log.next().await.is_none() && states.next().await.is_none());
}

#[tokio::test]
async fn what_is_said_in_quick_succession_is_told_together() {
    let site = Site::new().await;
    site.run(&plan(1, "title")).await;
    let job = site.claim().await;
    let server = serve(&site).await;
    let (sender, receiver) = mpsc::channel(8);
    let (logs, lease) = (site.pages.logs.clone(), job.lease);
    let writer = tokio::spawn(async move { logs.write(lease.run, lease.step, 1, receiver).await });
    sender.send(said("0")).await.unwrap();
    let mut events = Events::open(&server, &format!("/api/v1/steps/{}/log", lease.step), None).await;
    let begun = std::time::Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    for n in 1..=300 {
        pace.tick().await;
        sender.send(said(&n.to_string())).await.unwrap();
    }
    let (mut count, mut told) = (0, Vec::new());
    while told.len() <= 300 {
        told.extend(events.next().await.unwrap().texts());
        count += 1;
    }
    let most = 3 + begun.elapsed().as_millis() / 30;
    assert!(told.iter().eq((0..=300).map(|n| n.to_string()).collect::<Vec<_>>().iter()));
    assert!(count <= most, "{count} events for 301 lines, where {most} are enough");
    drop(sender);
    writer.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_page_of_a_log_shows_any_line_and_finds_any_text_without_a_script() {
    let site = Site::new().await;
    let run = site.run(&plan(1, "much to say")).await;
    let job = site.claim().await;
    let lines = (1..=50_000).map(|n| match n {
        20_000 => "thread main \u{1b}[31mpanicked\u{1b}[0m at <script>".to_owned(),
        45_000 => "it Panicked again".to_owned(),
        n => format!("line {n}."),
    });
    site.log(&job, lines).await;
    let path = format!("/runs/{run}/steps/{}", job.lease.step);
    let holds = |page: &str, line: u64| page.contains(&format!("id=\"L{line}\""));

    let end = site.page(&path).await;
    assert!(holds(&end, 50_000) && holds(&end, 49_501) && !holds(&end, 49_500) && end.contains("of 50,000"));
    assert!(end.contains("data-live"), "the step runs");
    let middle = site.page(&format!("{path}?line=25000")).await;
    assert!(holds(&middle, 24_751) && holds(&middle, 25_249) && !holds(&middle, 25_260));
    assert!(middle.contains("class=\"stdout here\" id=\"L25000\"") && middle.contains("autofocus"));
    assert!(middle.contains("Earlier lines") && middle.contains("Later lines"));
    let first = site.page(&format!("{path}?line=1")).await;
    assert!(holds(&first, 1) && !first.contains("Earlier lines"));
    for beyond in ["99999999999", "18446744073709551615"] {
        assert!(holds(&site.page(&format!("{path}?line={beyond}")).await, 50_000));
    }
    assert!(holds(&site.page(&format!("{path}?line=")).await, 50_000), "an empty field is the end");

    let found = site.page(&format!("{path}?q=PANICKED")).await;
    assert!(found.contains("stdout here\" id=\"L20000\"") && found.contains("class=\"red hit\">panicked<"));
    assert!(found.contains("&#60;script&#62;") && !found.contains("at <script>"));
    let next = site.page(&format!("{path}?q=PANICKED&after=20000")).await;
    assert!(next.contains("stdout here\" id=\"L45000\""));
    let last = site.page(&format!("{path}?q=PANICKED&after=45000")).await;
    assert!(last.contains("no more matches"));
    let back = site.page(&format!("{path}?q=PANICKED&before=45000")).await;
    assert!(back.contains("stdout here\" id=\"L20000\""));
    let exact = site.page(&format!("{path}?q=PANICKED&case=exact")).await;
    assert!(exact.contains("not found") && !exact.contains("stdout here"));
    let long = format!("{path}?q={}", "x".repeat(300));
    assert_eq!(site.get(&long).await.status(), 400);
    for nothing in ["/runs/1/steps/999", "/runs/999/steps/1", "/runs/1/steps/x"] {
        assert_eq!(site.get(nothing).await.status(), 404, "{nothing}");
    }
}

#[tokio::test]
async fn programs_read_lines_and_matches() {
    let site = Site::new().await;
    site.run(&plan(1, "title")).await;
    let job = site.claim().await;
    site.log(&job, (1..=3000).map(|n| format!("\u{1b}[1mline {n}\u{1b}[0m"))).await;
    let api = format!("/api/v1/steps/{}", job.lease.step);
    let get = async |path: String| -> Value {
        let answer = site.get(&format!("{api}/{path}")).await;
        assert_eq!(answer.status(), 200, "{path}");
        serde_json::from_str(&text(answer).await).unwrap()
    };
    let numbers = |document: &Value| -> Vec<u64> {
        document["lines"].as_array().unwrap().iter().map(|line| line["line"].as_u64().unwrap()).collect()
    };
    assert!(numbers(&get("lines?after=10&limit=3".into()).await).iter().eq(&[11, 12, 13]));
    assert!(numbers(&get("lines?before=10&limit=3".into()).await).iter().eq(&[7, 8, 9]));
    assert!(numbers(&get("lines?limit=2".into()).await).iter().eq(&[2999, 3000]));
    assert!(numbers(&get("lines?before=1".into()).await).is_empty());
    assert!(numbers(&get("lines?after=3000".into()).await).is_empty());
    assert_eq!(numbers(&get("lines?after=0&limit=999999".into()).await).len(), 1000);
    let lines = get("lines?after=10&limit=1&q=LINE".into()).await;
    assert_eq!((&lines["total"], &lines["lines"][0]["text"]), (&3000.into(), &"line 11".into()));
    assert_eq!(lines["lines"][0]["spans"][0]["style"], "bold hit");

    let found = get("search?q=line%20299&limit=4".into()).await;
    assert_eq!(found["matches"][0]["line"], 299);
    assert_eq!(found["matches"].as_array().unwrap().len(), 4);
    let rest = get(format!("search?q=line%20299&after={}", found["next"])).await;
    assert_eq!(rest["matches"].as_array().unwrap().len(), 7);
    assert_eq!(rest["next"], Value::Null);
    assert_eq!(site.get(&format!("{api}/search")).await.status(), 400);
    assert_eq!(site.get("/api/v1/steps/999/search?q=x").await.status(), 404);
}

#[tokio::test]
async fn viewers_who_come_at_different_times_each_see_every_line_once() {
    let site = Site::new().await;
    site.run(&plan(1, "title")).await;
    let job = site.claim().await;
    let server = serve(&site).await;
    let (sender, receiver) = mpsc::channel(8);
    let (logs, lease) = (site.pages.logs.clone(), job.lease);
    let writer = tokio::spawn(async move { logs.write(lease.run, lease.step, 1, receiver).await });
    let path = format!("/api/v1/steps/{}/log", lease.step);
    let mut viewers = Vec::new();
    for n in 0..120_u64 {
        sender.send(said(&n.to_string())).await.unwrap();
        // Somebody begins at the beginning, somebody goes on from a line in the middle of a piece.
        if n % 20 == 7 {
            let from = n / 2;
            let seen = Events::open(&server, &path, Some(&from.to_string())).await;
            viewers.push(tokio::spawn(async move { (from, lines_until(seen, 120).await) }));
        }
    }
    for viewer in viewers {
        let (from, seen) = viewer.await.unwrap();
        assert_eq!(seen, (from..120).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    drop(sender);
    writer.await.unwrap().unwrap();
}

/// What is told until line `last` was.
async fn lines_until(mut events: Events, last: u64) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let event = events.next().await.expect("the step goes on");
        seen.extend(event.texts());
        if event.id.as_deref() == Some(&last.to_string()) {
            return seen;
        }
    }
}
