//! The points of a matrix, from text that is not substituted yet.

use std::time::Duration;

use mergeyard_plan::spec::{Limits, matrix};

use crate::cpu_time;

fn points(text: &str) -> Vec<String> {
    let points = matrix("build.yml", text, &Limits::default());
    let points = points.unwrap_or_else(|findings| panic!("{text}: {findings:?}"));
    points
        .iter()
        .map(|point| {
            point.iter().map(|(axis, value)| format!("{axis}={value}")).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

fn refused(text: &str) -> String {
    let findings = matrix("build.yml", text, &Limits::default()).unwrap_err();
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn axes_are_sorted_by_name_and_the_last_varies_fastest() {
    let text = "matrix:\n  redis: [2.6, 2.8]\n  go: [go1, '1.20', 1.20]\nsteps: {a: {image: 'go:${go}'}}\n";
    assert_eq!(
        points(text),
        ["go=go1 redis=2.6", "go=go1 redis=2.8", "go=1.20 redis=2.6", "go=1.20 redis=2.8",],
        "a value that stands there twice is one value, and keeps its zeros"
    );
}

#[test]
fn all_combinations_of_four_axes() {
    let text =
        "matrix:\n  go: [1, 2]\n  python: [3.2, 3.3]\n  django: [1.7, 1.7.1, 1.7.2]\n  redis: [2.6, 2.8]\n";
    let points = points(text);
    assert_eq!(points.len(), 24);
    assert_eq!(points[0], "django=1.7 go=1 python=3.2 redis=2.6");
    assert_eq!(points[23], "django=1.7.2 go=2 python=3.3 redis=2.8");
}

#[test]
fn written_out_points_take_the_place_of_axes() {
    let text = "matrix:\n  go: [1, 2, 3]\n  include:\n    - go: 1.5\n      python: 3.4\n    - {go: 1.6, python: 3.4}\n";
    assert_eq!(points(text), ["go=1.5 python=3.4", "go=1.6 python=3.4"]);
}

#[test]
fn no_matrix_is_one_point_with_nothing_in_it() {
    for text in [
        "",
        "steps: {}",
        "steps: {a: {when: {matrix: {go: 1}}}}",
        "matrix:",
        "matrix: {}",
        "image: [${not} yaml: [",
    ] {
        assert_eq!(points(text), [""], "{text}");
    }
}

#[test]
fn values_come_from_anchors_too() {
    let text = "variables:\n  - &all [a, b]\nmatrix:\n  x: *all\n  y:\n    - <<: *all\n    - c\n";
    assert_eq!(points(text).len(), 6);
}

#[test]
fn values_are_data_whatever_they_look_like() {
    let text = "matrix:\n  x: ['$(id)', '\"; rm -rf /', \"a\\nb\", '${x}']\n";
    assert_eq!(points(text), ["x=$(id)", "x=\"; rm -rf /", "x=a\nb", "x=${x}"]);
}

#[test]
fn what_is_no_matrix_is_said_where_it_stands() {
    for (text, line, column, says) in [
        ("matrix: [a]\n", 1, 9, "`matrix` is a list, but takes a mapping of axes"),
        ("matrix:\n  go: 1\n", 2, 7, "needs a list of values"),
        ("matrix:\n  go:\n", 2, 3, "needs a list of values"),
        ("matrix:\n  go: []\n", 2, 7, "needs a list of values"),
        ("matrix:\n  go: [1, {a: b}]\n", 2, 11, "is a mapping, but takes text or a number"),
        ("matrix:\n  include: [a]\n", 2, 13, "a point of the matrix is text"),
        ("matrix: {\n", 1, 9, "this is not YAML"),
    ] {
        let said = refused(text);
        assert!(
            said.starts_with(&format!("build.yml:{line}:{column}: ")) && said.contains(says),
            "{text}: {said}"
        );
    }
}

#[test]
fn a_million_points_are_refused_before_there_are_any() {
    let axis = |name: &str| {
        format!("  {name}: [{}]\n", (0..100).map(|i| i.to_string()).collect::<Vec<_>>().join(", "))
    };
    let started = cpu_time();
    let said = refused(&format!("matrix:\n{}{}{}", axis("a"), axis("b"), axis("c")));
    assert!(said.contains("1000000 points, more than 100"), "{said}");
    let axes: String = (0..64).map(|i| axis(&format!("a{i}"))).collect();
    assert!(
        refused(&format!("matrix:\n{axes}")).contains("more than 100"),
        "and more than any number can count"
    );
    let included = "    - {a: 1}\n".repeat(101);
    assert!(refused(&format!("matrix:\n  include:\n{included}")).contains("101 points"));
    assert!(cpu_time() - started < Duration::from_secs(1), "{:?}", cpu_time() - started);
}

#[test]
fn the_number_of_points_is_configuration() {
    let text = "matrix: {a: [1, 2], b: [1, 2]}";
    assert!(matrix("build.yml", text, &Limits { matrix_points: 3, ..Limits::default() }).is_err());
    assert_eq!(
        matrix("build.yml", text, &Limits { matrix_points: 4, ..Limits::default() }).unwrap().len(),
        4
    );
}

#[test]
fn an_empty_value_of_an_axis_is_an_empty_text() {
    for text in ["matrix: {A: [~, null, '', b]}", "matrix: {include: [{A: ~}, {A: }, {A: b}]}"] {
        let points = matrix("build.yml", text, &Limits::default()).unwrap();
        let values: Vec<&str> = points.iter().map(|point| point["A"].as_str()).collect();
        assert_eq!(values, ["", "b"], "{text}");
    }
    assert_eq!(matrix("build.yml", "matrix: {A: ['~']}", &Limits::default()).unwrap()[0]["A"], "~");
}
