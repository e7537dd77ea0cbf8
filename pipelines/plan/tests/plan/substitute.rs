//! `${…}` before YAML: each operator, and what is left alone.

use std::time::Duration;

use mergeyard_plan::{
    finding::Finding,
    spec::{Limits, read_with},
    substitute::substitute,
};
use proptest::prelude::*;

use crate::cpu_time;

const VALUES: [(&str, &str); 11] = [
    ("mixed", "abcdEFGH28ij"),
    ("upper", "ABCDEFGH28IJ"),
    ("path", "/home/bozo/ideas/thoughts.for.today"),
    ("file", "bash.string.txt"),
    ("dirs", "path/to/file"),
    ("twice", "abcABC123ABCabc"),
    ("slashes", "foo/bar/baz"),
    ("umlaut", "Größe"),
    ("lines", "first \"line\"\nsecond\t\\"),
    ("expression", "${mixed} $$ $(id)"),
    ("two", "2"),
];

fn lookup(name: &str) -> Option<String> {
    VALUES.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn filled(text: &str) -> String {
    let substituted = substitute("build.yml", text, &lookup);
    substituted.unwrap_or_else(|finding| panic!("{text}: {finding}")).to_string()
}

fn refused(text: &str) -> Finding {
    match substitute("build.yml", text, &lookup) {
        Ok(output) => panic!("{text:?} became {output:?}"),
        Err(finding) => finding,
    }
}

fn all(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(filled(text), *expected, "{text}");
    }
}

#[test]
fn a_name_becomes_its_value_and_an_unknown_one_nothing() {
    all(&[
        ("", ""),
        ("no expression }", "no expression }"),
        ("${mixed}", "abcdEFGH28ij"),
        ("a ${mixed} b ${two}", "a abcdEFGH28ij b 2"),
        ("[${nothing}]", "[]"),
        ("${with-dash_and_1}", ""),
    ]);
}

#[test]
fn what_the_shell_is_to_see_is_left_to_it() {
    all(&[
        ("$mixed $(id) $1 $", "$mixed $(id) $1 $"),
        ("$${mixed}", "${mixed}"),
        ("$$mixed", "$mixed"),
        ("$$$", "$$"),
        ("$$${two}", "$2"),
        ("a ${two}$${b$${c}$d${two}", "a 2${b${c}$d2"),
        ("$${x=${two}}", "${x=2}"),
        ("C:\\\\temp \\/ http://host", "C:\\\\temp \\/ http://host"),
    ]);
}

#[test]
fn outputs_of_steps_are_for_later() {
    all(&[
        ("${{ steps.a.outputs.b }}${two}", "${{ steps.a.outputs.b }}2"),
        ("${{ a }} ${{ b }}", "${{ a }} ${{ b }}"),
        ("${{ never closed\n${two}", "${{ never closed\n2"),
        ("${nothing:-${{ steps.a.outputs.b }}}", "${{ steps.a.outputs.b }}"),
        ("$${{ a }}", "${{ a }}"),
    ]);
}

#[test]
fn the_length_counts_bytes() {
    all(&[("${#mixed}", "12"), ("${#umlaut}", "7"), ("${#nothing}", "0")]);
}

#[test]
fn letters_change_case() {
    all(&[
        ("${mixed^}", "AbcdEFGH28ij"),
        ("${mixed^^}", "ABCDEFGH28IJ"),
        ("${upper,}", "aBCDEFGH28IJ"),
        ("${upper,,}", "abcdefgh28ij"),
        ("${umlaut^^}", "GRÖSSE"),
        ("[${nothing^}${nothing,}]", "[]"),
    ]);
}

#[test]
fn a_part_is_cut_out_by_position_and_length() {
    all(&[
        ("${path:11}", "ideas/thoughts.for.today"),
        ("${path:11:5}", "ideas"),
        ("${path:11:500}", "ideas/thoughts.for.today"),
        ("${mixed:0:-2}", "abcdEFGH28"),
        ("${mixed:500}", ""),
        ("${mixed:500:2}", ""),
        ("${mixed:5:-50}", ""),
        ("${mixed:${two}}", "cdEFGH28ij"),
        ("${mixed:${two}:${two}}", "cd"),
        ("${mixed:word}", "abcdEFGH28ij"),
        ("${mixed:1:word}", "abcdEFGH28ij"),
        ("${umlaut:3}", "öße"),
    ]);
}

#[test]
fn a_default_takes_the_place_of_nothing() {
    for operator in ["=", ":=", ":-", ":?", ":+"] {
        all(&[
            (&format!("${{two{operator}other}}"), "2"),
            (&format!("${{nothing{operator}other}}"), "other"),
            (&format!("[${{nothing{operator}}}]"), "[]"),
            (&format!("${{nothing{operator}a-${{two}}-${{mixed^^}}-b}}"), "a-2-ABCDEFGH28IJ-b"),
        ]);
    }
    // A dash belongs to the name, which is why a default needs its colon.
    all(&[("[${two-other}]", "[]")]);
}

#[test]
fn a_match_at_an_end_is_taken_away() {
    all(&[
        ("${file#*.}", "string.txt"),
        ("${file##*.}", "txt"),
        ("${file%.*}", "bash.string"),
        ("${file%%.*}", "bash"),
        ("${dirs#*/}", "to/file"),
        ("${path#*/}", "home/bozo/ideas/thoughts.for.today"),
        ("${dirs##*/}", "file"),
        ("${dirs%/*}", "path/to"),
        ("${mixed#abc}", "dEFGH28ij"),
        ("${mixed#[a-c]?}", "cdEFGH28ij"),
        ("${mixed#[^a]}", "abcdEFGH28ij"),
        ("${mixed#nothing}", "abcdEFGH28ij"),
        ("${mixed%[0-9]ij}", "abcdEFGH2"),
        ("${mixed#[}", "abcdEFGH28ij"),
        ("${twice#${two}}", "abcABC123ABCabc"),
        ("${two#$%:*{}", "2"),
        // One character, where a shell would take none.
        ("${mixed#*}", "bcdEFGH28ij"),
        ("[${mixed##*}]", "[]"),
    ]);
}

#[test]
fn a_text_is_replaced_by_another() {
    all(&[
        ("${twice/abc/x}", "xABC123ABCabc"),
        ("${twice//abc/x}", "xABC123ABCx"),
        ("${twice/#abc/x}", "xABC123ABCabc"),
        ("${twice/%abc/x}", "abcABC123ABCx"),
        ("${twice/#ABC/x}", "abcABC123ABCabc"),
        ("${twice//abc/}", "ABC123ABC"),
        ("${twice/#abc/}", "abcABC123ABCabc"),
        ("${slashes/\\//-}", "foo-bar/baz"),
        ("${slashes//\\//-}", "foo-bar-baz"),
        ("${slashes//\\//\\\\}", "foo\\bar\\baz"),
        ("${file/./}", "bashstring.txt"),
        ("${twice/*/x}", "abcABC123ABCabc"),
        ("${twice//${nothing=abc}/${two}}", "2ABC123ABC2"),
    ]);
}

#[test]
fn a_value_of_several_lines_stays_on_one() {
    assert_eq!(filled("echo ${lines}"), r#"echo "first \"line\"\nsecond\t\\""#);
}

#[test]
fn a_value_is_data_and_not_looked_at_again() {
    assert_eq!(filled("${expression}"), "${mixed} $$ $(id)");
    assert_eq!(filled("${nothing:-${expression}}"), "${mixed} $$ $(id)");
}

#[test]
fn what_is_no_expression_is_refused_with_its_place_and_a_way_out() {
    for text in [
        "${",
        "${}",
        "${a",
        "${a b}",
        "${a[@]}",
        "${#}",
        "${#a:1}",
        "${a+b}",
        "${a:}",
        "${a/b}\n/",
        "${a#}",
        "${!a}",
    ] {
        let finding = refused(&format!("steps:\n  ö ${{two}} {text}"));
        assert_eq!((finding.line, finding.column, finding.code), (2, 12, "substitution"), "{text}");
        assert!(finding.message.contains("`$$`"), "{finding}");
    }
}

#[test]
fn expressions_inside_of_each_other_have_an_end() {
    let nested = |depth: usize| format!("{}x{}", "${a:-".repeat(depth), "}".repeat(depth));
    assert_eq!(filled(&nested(16)), "x");
    assert!(refused(&nested(17)).message.contains("16 times"));
    assert!(refused(&"${a:-".repeat(100_000)).message.contains("16 times"));
}

/// A commit message of 64 KiB under every operator there is.
#[test]
fn no_expression_takes_long_or_grows_without_end() {
    let long = "ab".repeat(32 * 1024);
    let lookup = |_: &str| Some(long.clone());
    for expression in [
        "${a}",
        "${a##*a*b*a*b*c}",
        "${a%%*b*a*c}",
        "${a//a/${a}}",
        "${a//${nothing}/${a}}",
        "${a:-${a}${a}}",
        "${a^^}",
        "${a/#[a-z]*/x}",
    ] {
        let started = cpu_time();
        let output = substitute("build.yml", &expression.repeat(2000), &lookup);
        assert!(
            output.is_err(),
            "{expression} was allowed {} bytes",
            output.map_or(0, |output| output.len())
        );
        assert!(
            cpu_time() - started < Duration::from_secs(5),
            "{expression} took {:?}",
            cpu_time() - started
        );
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}", value in any::<String>()) {
        let _ = substitute("build.yml", &text, &|_| Some(value.clone()));
    }

    #[test]
    fn every_place_behind_a_substitution_is_one_of_the_file(
        values in proptest::collection::vec("[a-z\nö]{0,5}", 0..5), tail in "[a-z ]{0,5}",
    ) {
        // What stands behind the values is wrong, and said to be where the file has it.
        let names: String = (0..values.len()).map(|at| format!("  $$ö${{V{at}}}\n")).collect();
        let text = format!("x: |\n{names}steps: 3{tail}\n");
        let value = |name: &str| values.get(name[1..].parse::<usize>().unwrap()).cloned();
        let substituted = substitute("build.yml", &text, &value).unwrap();
        let read = read_with("build.yml", &substituted, &[], &Limits::default());
        let place = read.findings.iter().find(|finding| finding.message.starts_with("`steps`"));
        let place = place.map(|finding| (finding.line, finding.column));
        prop_assert_eq!(place, Some((values.len() + 2, 8)), "{}", text);
    }

    #[test]
    fn no_expression_makes_it_panic(text in r"(\$\{?\{?|a|#|%|:|/|\*|\[|\]|-|1|,|\^|=|ö|\\|\}|\n){0,30}", value in ".{0,20}") {
        match substitute("build.yml", &text, &|_| Some(value.clone())) {
            Ok(output) => prop_assert!(output.len() <= 512 * 1024),
            Err(finding) => {
                prop_assert!(finding.line >= 1 && finding.line <= text.matches('\n').count() + 1);
                prop_assert!(!finding.message.contains(char::is_control));
            }
        }
    }

    #[test]
    fn text_without_a_dollar_is_left_as_it_is(text in "[^$]{0,200}") {
        prop_assert_eq!(substitute("build.yml", &text, &|_| None).unwrap().to_string(), text);
    }
}
