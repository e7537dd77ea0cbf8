//! Files written to do harm, and files that are only broken: reading ends soon and says why.

use std::{fmt::Write, time::Duration};

use mergeyard_plan::spec::{Limits, Read, includes, matrix, read, text};
use proptest::prelude::*;

use crate::cpu_time;

fn reading(text: &str) -> Read {
    read("build.yml", text, &Limits::default())
}

/// Refused, quickly, with one finding that has this code.
fn refused(text: &str, code: &str) {
    let started = cpu_time();
    let read = reading(text);
    let took = cpu_time() - started;
    assert!(read.workflow.is_none(), "{}", &text[..text.len().min(200)]);
    assert_eq!(read.findings[0].code, code, "{:?}", read.findings);
    // 100 ms as shipped; unoptimised, a multiple of it.
    assert!(took < Duration::from_secs(1), "{code} took {took:?}");
}

#[test]
fn aliases_of_aliases_do_not_become_a_billion() {
    let mut lists = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    let mut mappings = "a0: &a0 {k0: lol, k1: lol}\n".to_owned();
    let mut merged = "a0: &a0 {k: v}\n".to_owned();
    let mut spliced = "a0: &a0 [lol, lol]\n".to_owned();
    for i in 1..25 {
        let before = i - 1;
        let nine = format!("*a{before}, ").repeat(9);
        writeln!(lists, "a{i}: &a{i} [{nine}]").unwrap();
        writeln!(mappings, "a{i}: &a{i} {{k0: *a{before}, k1: *a{before}}}").unwrap();
        writeln!(merged, "a{i}: &a{i} {{k0: *a{before}, k1: *a{before}, <<: [*a{before}, *a{before}]}}")
            .unwrap();
        writeln!(spliced, "a{i}: &a{i}\n  - <<: *a{before}\n  - <<: *a{before}").unwrap();
    }
    for bomb in [lists, mappings, merged, spliced] {
        refused(&bomb, "yaml-size");
    }
}

/// Each bomb in a process of its own, whose largest size the kernel knows.
#[test]
#[cfg(target_os = "linux")]
fn no_file_takes_sixty_four_megabytes() {
    const BOMB: &str = "MERGEYARD_TEST_BOMB";
    let mut lists = "a0: &a0 [lol, lol, lol]\n".to_owned();
    let mut long = format!("a0: &a0 {}\n", "x".repeat(100_000));
    for i in 1..25 {
        writeln!(lists, "a{i}: &a{i} [{}]", format!("*a{}, ", i - 1).repeat(9)).unwrap();
        writeln!(long, "a{i}: &a{i} [*a{before}, *a{before}]", before = i - 1).unwrap();
    }
    let bombs = [
        lists,
        long,
        format!("a: [{}]", "{},".repeat(49_000)),
        format!("a: [{}]", "b: &c [1],".repeat(49_000)),
        "x".repeat(10_000_000),
        format!("a: [{}]", "1,".repeat(250_000)),
        "{a: ".repeat(100_000),
        "&a ".repeat(170_000),
    ];
    if let Ok(number) = std::env::var(BOMB) {
        assert!(reading(&bombs[number.parse::<usize>().unwrap()]).workflow.is_none());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
        return;
    }
    for number in 0..bombs.len() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hostile::no_file_takes_sixty_four_megabytes", "--nocapture"])
            .env(BOMB, number.to_string())
            .output()
            .unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let most = output.split("VmHWM:").nth(1).unwrap().split_whitespace().next().unwrap();
        let most: usize = most.parse().unwrap();
        // The test program itself and the text it was given are part of it.
        assert!(most < 64 * 1024, "bomb {number} took {most} KiB");
    }
}

#[test]
fn a_long_text_under_many_aliases_is_counted_by_its_bytes() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(10_000));
    refused(&text, "yaml-size");
}

#[test]
fn an_alias_inside_of_its_own_anchor() {
    for text in ["&a [*a]", "a: &a {b: *a}", "a: &a\n  <<: *a\n", "a: &a\n  - <<: *a\n", "&a {*a : b}"] {
        refused(text, "yaml-alias");
    }
}

#[test]
fn a_text_of_ten_megabytes() {
    refused(&format!("a: {}\n", "x".repeat(10_000_000)), "yaml-size");
    refused(&format!("a: \"{}\"\n", "x".repeat(200_000)), "yaml-size");
    refused(&"a".repeat(10_000_000), "yaml-size");
}

#[test]
fn nesting_without_end() {
    refused(&"[".repeat(400_000), "yaml-depth");
    refused(&"{a: ".repeat(100_000), "yaml-depth");
    refused(&"- ".repeat(200_000), "yaml-depth");
    refused(&(0..700).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>(), "yaml-depth");
    refused(&"? ".repeat(200_000), "yaml-depth");
    // Through aliases: each is shallow, together they are not.
    let mut text = "a0: &a0 [x]\n".to_owned();
    for i in 1..40 {
        writeln!(text, "a{i}: &a{i} [*a{}]", i - 1).unwrap();
    }
    refused(&text, "yaml-depth");
}

#[test]
fn more_values_than_anybody_writes() {
    refused(&format!("a: [{}]\n", "1,".repeat(200_000)), "yaml-size");
    let keys: String = (0..40_000).fold(String::new(), |mut keys, i| {
        writeln!(keys, "k{i}: 1").unwrap();
        keys
    });
    refused(&keys, "yaml-size");
}

#[test]
fn what_costs_a_parser_its_time() {
    let limit = 500_000;
    for (text, what) in [
        ("#\n".repeat(limit / 2), "comments"),
        ("\n".repeat(limit), "empty lines"),
        (" ".repeat(limit), "blanks"),
        (format!("a: \"{}", "\\u0041".repeat(20_000)), "escapes"),
        (format!("a: |\n{}", " x\n".repeat(limit / 4)), "a block"),
        (format!("a: {}", "x ".repeat(limit / 3)), "a plain text"),
        (format!("a: '{}'", "''".repeat(60_000)), "quotes"),
        ("a: &a x\n? ".repeat(20_000), "questions"),
        (format!("a: {}x\n", "!!str ".repeat(50_000)), "tags"),
        ("%TAG ! x\n".repeat(20_000), "directives"),
        ("--- a\n".repeat(50_000), "documents"),
        ("a\n".repeat(limit / 2), "lines"),
        (format!("{}: b\n", "k".repeat(limit / 2)), "a key"),
        ("\t".repeat(limit), "tabs"),
        ("*".repeat(limit), "stars"),
        ("&a ".repeat(limit / 4), "anchors"),
    ] {
        let started = cpu_time();
        let read = reading(&text);
        assert!(read.workflow.is_none(), "{what}");
        assert!(cpu_time() - started < Duration::from_secs(3), "{what} took {:?}", cpu_time() - started);
    }
}

#[test]
fn the_number_of_steps_services_and_findings_is_limited() {
    let steps: String = (0..501).fold("steps:\n".to_owned(), |mut steps, i| {
        writeln!(steps, "  s{i}: {{image: x}}").unwrap();
        steps
    });
    refused(&steps, "pipeline-size");
    let services: String =
        (0..51).fold("steps: {a: {image: x}}\nservices:\n".to_owned(), |mut services, i| {
            writeln!(services, "  s{i}: {{image: x}}").unwrap();
            services
        });
    refused(&services, "pipeline-size");
    let wrong: String = (0..400).fold("steps:\n".to_owned(), |mut steps, i| {
        writeln!(steps, "  s{i}: {{}}").unwrap();
        steps
    });
    assert_eq!(reading(&wrong).findings.len(), 100);
}

#[test]
fn bytes_that_are_no_text_or_too_many() {
    let limits = Limits::default();
    assert_eq!(text("a.yml", b"steps: {}", &limits).unwrap(), "steps: {}");
    let finding = text("a.yml", b"a: b\n\xc3\xb6: \xff", &limits).unwrap_err();
    assert_eq!((finding.line, finding.column, finding.code), (2, 4, "yaml-encoding"));
    let finding = text("a.yml", &vec![b'a'; limits.file_bytes + 1], &limits).unwrap_err();
    assert_eq!(finding.code, "yaml-size");
    assert!(
        finding.to_string().starts_with("a.yml: the file has 524289 bytes, more than the 524288"),
        "{finding}"
    );
}

/// A ring of 500 steps, and a step that depends on all others.
#[test]
fn large_graphs_are_walked_once() {
    let ring: String = (0..500).fold("steps:\n".to_owned(), |mut steps, i| {
        writeln!(steps, "  s{i}: {{image: x, depends_on: s{}}}", (i + 1) % 500).unwrap();
        steps
    });
    refused(&ring, "pipeline-cycle");
    let cycle = reading(&ring).findings.remove(0).message;
    assert!(cycle.contains("`s0` → `s1` → ") && cycle.contains("… → `s499` → `s0`"), "{cycle}");
    let dense: String = (0..200).fold("steps:\n".to_owned(), |mut steps, i| {
        let needs: Vec<_> = (0..i).map(|before| format!("s{before}")).collect();
        writeln!(steps, "  s{i}: {{image: x, depends_on: [{}]}}", needs.join(",")).unwrap();
        steps
    });
    assert_eq!(reading(&dense).findings, []);
}

/// 50 files of 10 steps each, as a repository with many workflows has them.
#[test]
fn fifty_files_of_ten_steps_are_read_at_once() {
    let mut file =
        "when: {event: [push, pull_request], branch: main}\nvariables: &env {A: 1, B: two}\nsteps:\n"
            .to_owned();
    for i in 0..10 {
        writeln!(
            file,
            "  - name: step-{i}\n    image: golang:1.{i}\n    environment: {{<<: *env, C: {i}}}\n    commands:\n      \
             - go build ./...\n      - go test ./...\n    when:\n      - event: push\n        path: ['**/*.go']\n    \
             depends_on: [{}]",
            if i > 0 { format!("step-{}", i - 1) } else { String::new() }
        )
        .unwrap();
    }
    let file = file.replace("variables: &env", "x-env: &env");
    let started = cpu_time();
    for _ in 0..50 {
        assert_eq!(reading(&file).findings, []);
    }
    let took = cpu_time() - started;
    eprintln!("50 files of 10 steps ({} bytes each): {took:?}", file.len());
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Pieces that YAML and the language are made of.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "steps",
            "services",
            "when",
            "image",
            "commands",
            "name",
            "event",
            "depends_on",
            "matrix",
            "include",
            "settings",
            "clone",
            "a",
            "b",
            "x",
            "1",
            "true",
            "push",
            "<<",
            "*a",
            "&a ",
            "- ",
            ": ",
            ":",
            "\n",
            "\n  ",
            "\n    ",
            "\n      ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "|",
            ">",
            "\"",
            "'",
            "#",
            "!!str ",
            "---",
            "...",
            "~",
            "\u{feff}",
            "\r\n",
            "\t",
            "?",
            "ö",
            "%",
            "@",
            "`",
            "\u{0}",
            "\u{85}",
            "\u{2028}",
        ])
        .prop_map(str::to_owned),
        ".".prop_map(|character| character),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn reading_is_total_and_its_places_are_in_the_text(source in pieces()) {
        let read = reading(&source);
        prop_assert!(read.workflow.is_some() || !read.findings.is_empty());
        // The parser also ends lines where YAML 1.1 and the editors of old did.
        let lines: Vec<&str> = source.split('\n').collect();
        for finding in &read.findings {
            prop_assert!(finding.line <= source.matches(['\n', '\r']).count() + 1, "{finding}");
            if let Some(line) = finding.line.checked_sub(1).and_then(|line| lines.get(line)) && !source.contains('\r') {
                prop_assert!(finding.column >= 1 && finding.column <= line.chars().count() + 1, "{finding} in {line:?}");
            }
            prop_assert!(!finding.message.contains(|c: char| c.is_control()), "{:?}", finding.message);
            prop_assert!(finding.message.chars().count() < 600, "{finding}");
            prop_assert!(!finding.render(&source).is_empty());
        }
        let _ = includes(&source);
        let _ = matrix("build.yml", &source, &Limits::default());
    }

    #[test]
    fn any_bytes_are_text_or_a_finding(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(text) = text("build.yml", &bytes, &Limits::default()) {
            reading(text);
        }
    }

    #[test]
    fn reading_twice_says_the_same(source in pieces()) {
        prop_assert_eq!(reading(&source), reading(&source));
    }
}
