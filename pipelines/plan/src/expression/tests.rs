use super::*;

fn yields(source: &str) -> Result<bool, String> {
    asked(source).map_err(|fault| fault.message)
}

fn asked(source: &str) -> Result<bool, Fault> {
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
fn what_expr_lang_takes_is_taken() {
    for (source, expected) in [
        ("CI_REPO | upper() == 'OWNER/REPO'", true),
        ("CI_REPO | split('/') | len() + 1 == 3 && true", true),
        ("(CI_REPO | upper()) endsWith 'REPO' ? CI_REPO | hasPrefix('own') : false", true),
        ("true ?: false", true),
        ("false ?: CI_REPO == 'owner/repo'", true),
        ("::upper('a') == 'A' && ::split('a,b', ',')[1] == 'b'", true),
        ("$env['CI_REPO'] == 'owner/repo' and $env.CI_PIPELINE_EVENT == 'push'", true),
        ("'CI_REPO' in $env && 'CI_COMMIT_TAG' not in $env && $env['CI_COMMIT_TAG'] == ''", true),
        ("let CI_REPO = 'mine'; $env?.CI_REPO != CI_REPO && get($env, 'TESTVAR') == 'testval'", true),
        (r#""\x41\u00e9\U0001F600\a" == "Aé😀\x07""#, true),
        (
            "toJSON({a: [1, 2.0, 'x<y'], b: nil}) == `{\n  \"a\": [\n    1,\n    2,\n    \"x\\u003cy\"\n  ],\n  \"b\": null\n}`",
            true,
        ),
        ("fromJSON(toJSON([1, {a: 'b'}])) == [1, {a: 'b'}]", true),
        ("get([1, 2], 5) == nil && get({a: 1}, 'a') == 1 && get([1, 2], -1) == 2", true),
        (
            "map([nil, true, 1, 1.5, 'a', [], {}], type(#)) == ['nil', 'bool', 'int', 'float', 'string', 'array', 'map']",
            true,
        ),
        ("concat([1], [2, 3], []) == 1..3 && flatten([1, [2, [3]]]) == 1..3", true),
        (
            "sum([1, 2, 3]) == 6 && sum([{n: 1}, {n: 2}], .n) == 3 && count([true, false]) == 1 && sum([]) == 0",
            true,
        ),
        ("uniq([1, 2, 1, 1.0, 'a', 'a']) == [1, 2, 'a']", true),
        ("sort([3, 1, 2]) == 1..3 && sort(['b', 'a'], 'desc') == ['b', 'a']", true),
        ("sortBy([{n: 2}, {n: 1}], .n)[0].n == 1 && sortBy(1..3, -#) == [3, 2, 1]", true),
        ("sort([0 / 0, 1, 0 / 0, 2, 0.5]) | len() == 5", true),
        ("reduce(1..4, #acc + #, 10) == 20 && reduce(['a', 'b'], {#acc + '-' + #}) == 'a-b'", true),
        ("reduce(5..7, #index, 0) == 2 && filter(['a', 'b'], #index > 0) == ['b']", true),
        (
            "findIndex(1..3, # > 1) == 1 && findLast(1..3, # < 3) == 2 && findLastIndex(1..3, # > 9) == -1",
            true,
        ),
        ("take(1..9, 2) == [1, 2] && ceil(1.2) == 2 && floor(-1.2) == -2 && round(2.5) == 3", true),
    ] {
        assert_eq!(yields(source), Ok(expected), "{source}");
    }
}

#[test]
fn an_error_has_its_place_inside_of_the_expression() {
    for (source, at) in [
        ("CI_REPO == §", 11),
        ("'é' == 'é' and 1 +", 18),
        ("CI_REPO == 'x' extra", 15),
        ("true && upper(1) == 'A'", 8),
        ("true && (1 < 'a')", 11),
        ("CI_REPO | nothing()", 10),
        ("any([1], {# startsWith 'a'})", 12),
        ("[1, 2][7] == 1", 6),
        ("not CI_REPO", 0),
        ("true and date('2026-01-01') == 1", 9),
        ("CI_REPO", 0),
    ] {
        let fault = asked(source).expect_err(source);
        assert_eq!(fault.at, at, "{source}: {}", fault.message);
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
        ("now() > 1", "does not know the time"),
        ("# == 1", "`#` stands for an element"),
        ("1 % 0 == 0", "divided by zero"),
        ("9223372036854775807 + 1 > 0", "too large"),
        ("true ; §", "`§` is no part"),
        ("fromJSON('{') == 1", "not JSON"),
        ("duration('1h') == 1", "there is no `duration`: a condition does not know the time"),
        ("'\\x4' == ''", "is not a character"),
        ("#acc == 1", "inside the block of `reduce`"),
        ("sort([1, 'a']) == 1", "have no order"),
        ("sort([1], 'up') == 1", "write `asc` or `desc`"),
        ("reduce([], #acc) == 1", "a value to begin with"),
        ("reduce(1..99, [#acc], 0) == 1", "more than 32 lists inside each other"),
        ("$env && true", "the environment is neither true nor false"),
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
        "reduce(1..100000, [#acc], 0) == 1".to_owned(),
        "reduce(1..60, [#acc, #acc], 0) == 1".to_owned(),
        "len(toJSON(reduce(1..30, [#acc, #acc], 0))) == 1".to_owned(),
        "len(reduce(1..100000, #acc + 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', '')) == 1".to_owned(),
        "len(reduce(1..100000, concat(#acc, [#]), [])) == 1".to_owned(),
        "len(uniq(1..100000)) + len(sort(1..1000000)) + len(sortBy(1..100000, -#)) == 1".to_owned(),
        "len(flatten(map(1..100000, {1..1000}))) == 1".to_owned(),
        format!("{}true", "CI_REPO | len() == ".repeat(50)),
        format!("{}true", "true ?: ".repeat(120)),
        format!("CI_REPO{}", " | upper()".repeat(100)),
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
