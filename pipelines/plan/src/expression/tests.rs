use super::*;

fn yields(source: &str) -> Result<bool, String> {
    let variables = |name: &str| match name {
        "CI_PIPELINE_EVENT" => Some("push"),
        "CI_REPO" => Some("owner/repo"),
        "CI_COMMIT_MESSAGE" => Some("Fix the clock [deploy]"),
        "CI_PIPELINE_FILES" => Some(r#"["docs/a.md","src/main.rs"]"#),
        "TESTVAR" => Some("testval"),
        _ => None,
    };
    holds(source, &variables)
}

#[test]
fn what_woodpeckers_own_tests_evaluate_has_the_same_result() {
    for (source, expected) in [
        (r#"CI_PIPELINE_EVENT == "push""#, true),
        (r#"CI_PIPELINE_EVENT == "push" && CI_REPO == "owner/repo""#, true),
        (r#"TESTVAR == "testval""#, true),
        (r#"TESTVAR == "qwe""#, false),
    ] {
        assert_eq!(yields(source), Ok(expected), "{source}");
    }
}

#[test]
fn operators_bind_as_in_expr_lang() {
    for (source, expected) in [
        ("1 + 2 * 3 == 7", true),
        ("2 ** 3 ** 0 == 2", true),
        ("-2 ** 2 == -4", true),
        ("7 % 4 == 3 and 7 / 2 == 3.5", true),
        ("1 == 1.0 && 1 < 1.5", true),
        ("false and unknown == nil or true", true),
        ("!(1 > 2) && not false", true),
        ("not (CI_COMMIT_MESSAGE contains 'skip')", true),
        ("CI_COMMIT_MESSAGE not contains 'skip'", true),
        ("2 not in [1, 2, 3]", false),
        ("CI_REPO matches '^owner/[a-z]+$' and CI_REPO startsWith \"own\" && CI_REPO endsWith `po`", true),
        ("nil ?? true", true),
        ("CI_REPO == 'x' ? false : 3 in 1..3", true),
        ("let parts = split(CI_REPO, '/'); parts[0] == 'owner' && parts[-1] == 'repo'", true),
        ("CI_REPO | upper() | hasPrefix('OWNER')", true),
        ("if CI_REPO == 'x' { false } else if true { len(CI_REPO[0:5]) == 5 } else { false }", true),
        ("any(fromJSON(CI_PIPELINE_FILES), {# startsWith 'docs/'})", true),
        ("all(fromJSON(CI_PIPELINE_FILES), {# endsWith '.md'})", false),
        ("count(filter(fromJSON(CI_PIPELINE_FILES), # contains 'main'), {true}) == 1", true),
        ("map([{n: 1}, {n: 2}], .n) == [1, 2]", true),
        ("{a: {b: 'c'}}.a.b == 'c' and {a: 1}?.x == nil", true),
        ("replace('a-b', '-', '_') == 'a_b' // and a comment", true),
        ("int('7') + 1 == 8 && float(1) == 1 && string(1.5) == '1.5' && max(1, 3, 2) == 3", true),
        (
            "indexOf('clock', 'o') == 2 and trimPrefix('v1', 'v') == '1' and join(['a', 'b'], ',') == 'a,b'",
            true,
        ),
    ] {
        assert_eq!(yields(source), Ok(expected), "{source}");
    }
}

#[test]
fn a_variable_that_is_not_set_is_the_empty_text() {
    assert_eq!(yields("CI_COMMIT_TAG == ''"), Ok(true));
    assert_eq!(yields("CI_COMMIT_PULL_REQUEST_LABELS contains 'deploy'"), Ok(false));
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    for (source, says) in [
        ("CI_REPO", "yields text"),
        ("1 +", "ends too early"),
        ("(true", "`)` is expected"),
        ("true true", "`true` is not expected"),
        ("'open", "not closed"),
        ("1 && true", "neither true nor false"),
        ("'a' < 1", "have no order"),
        ("CI_REPO matches '('", "is not a regular expression"),
        ("now() > 1", "no function `now`"),
        ("# == 1", "`#` stands for an element"),
        ("1 % 0 == 0", "divided by zero"),
        ("9223372036854775807 + 1 > 0", "too large"),
        ("true ; §", "`§` is no part"),
        ("fromJSON('{') == 1", "not JSON"),
    ] {
        let said = yields(source).expect_err(source);
        assert!(said.contains(says), "{source}: {said}");
    }
}

#[test]
fn no_expression_costs_more_than_its_purse() {
    let nested =
        |open: &str, close: &str, times: usize| format!("{}true{}", open.repeat(times), close.repeat(times));
    let doubling: String = (0..60).map(|n| format!("let x{n}=x{0}+x{0};", n.max(1) - 1)).collect();
    let hostile = [
        nested("(", ")", 500),
        nested("[", "]", 500),
        nested("!(", ")", 300),
        nested("not ", "", 250),
        nested("true?", ":true", 140),
        nested("if true {", "} else {false}", 40),
        format!("true{}", " && true".repeat(120)),
        format!("true{}", "??true".repeat(160)),
        "1..9223372036854775807 == []".to_owned(),
        "repeat(repeat('a', 10000), 10000) == ''".to_owned(),
        format!("let x0='aaaaaaaaaaaaaaaaaaaa';{doubling}true"),
        "all(1..1000, {all(1..1000, {all(1..1000, {true})})})".to_owned(),
        "len(join(map(split(repeat('a', 60000), ''), {repeat('a', 60000)}))) > 1".to_owned(),
        "replace(repeat('a', 60000), 'a', repeat('a', 60000)) == ''".to_owned(),
        "all(1..100000, {'a' matches '(a{1,1000}){1,1000}'})".to_owned(),
        "x".repeat(LONGEST + 1),
    ];
    for source in hostile {
        let began = std::time::Instant::now();
        // Some of them are fine and cheap; what counts is that none of them is dear.
        let _ = yields(&source);
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{source}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(source in "[a-z#.?:|&!=<>+*/%^(){}\\[\\], '\"0-9\\-\\\\;é]{0,60}") {
        let _ = yields(&source);
    }
}
