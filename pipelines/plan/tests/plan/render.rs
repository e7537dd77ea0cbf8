//! A finding as a person sees it.

use mergeyard_plan::{
    finding::Finding,
    spec::{Limits, read},
};

#[test]
fn a_finding_shows_its_line_and_a_mark_below_the_place() {
    let text = "when: {event: push}\nsteps:\n".to_owned() + "  büild: {image: x, comands: make}\n";
    let read = read(".mergeyard/build.yml", &text, &Limits::default());
    let rendered = read.findings[0].render(&text);
    assert_eq!(
        rendered,
        "warning[pipeline-unknown-key]: the step `büild` has no key `comands` and passes it over: did you mean `commands`?\n \
         --> .mergeyard/build.yml:3:21\n  |\n3 |   büild: {image: x, comands: make}\n  |                     ^\n"
    );
}

#[test]
fn the_gutter_is_as_wide_as_the_number() {
    let text = "\n".repeat(119) + "a: b: c";
    let rendered = Finding::error("a.yml", "yaml-syntax", "no").at(120, 5).render(&text);
    assert_eq!(rendered, "error[yaml-syntax]: no\n   --> a.yml:120:5\n    |\n120 | a: b: c\n    |     ^\n");
}

#[test]
fn a_finding_about_a_file_has_no_line() {
    let rendered = Finding::error("a.yml", "pipeline-empty", "the file is empty").render("");
    assert_eq!(rendered, "error[pipeline-empty]: the file is empty\n --> a.yml\n");
    let beyond = Finding::error("a.yml", "x", "y").at(9, 9).render("one line");
    assert_eq!(beyond, "error[x]: y\n --> a.yml:9:9\n");
}

#[test]
fn tabs_and_control_characters_take_one_column() {
    let rendered = Finding::error("a.yml", "x", "y").at(1, 4).render("\ta\u{1b}b\r\n");
    assert!(rendered.contains("1 |  a\u{fffd}b\n  |    ^\n"), "{rendered:?}");
}

#[test]
fn of_a_long_line_the_part_around_the_place_is_shown() {
    let line = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
    let rendered = Finding::error("a.yml", "x", "y").at(1, 501).render(&line);
    let lines: Vec<_> = rendered.lines().collect();
    assert!(lines[3].chars().count() < 120, "{rendered}");
    let mark = lines[4].chars().count() - 1;
    assert_eq!(lines[3].chars().skip(mark).take(4).collect::<String>(), "HERE", "{rendered}");
}
