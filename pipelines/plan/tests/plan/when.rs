//! `when`, asked as Woodpecker's own tests ask it, and the sentences it answers with.

use std::collections::BTreeMap;

use mergeyard_plan::{
    environment,
    event::EventKind,
    facts::Facts,
    rules::RunsOn,
    spec::{PathConstraint, Point, Spanned, Status, When},
    when::{Answer, Circumstances, answer, matches},
};

use crate::built::{at, constraint, facts, on, pull_request, texts};

#[test]
fn globs_are_doublestar() {
    for (pattern, text, expected) in [
        ("master", "develop", false),
        ("master", "master", true),
        ("feature/*", "feature/foo", true),
        ("feature/*", "feature/foo/bar", false),
        ("*.md", "README.md", true),
        ("*.md", "docs/README.md", false),
        ("docs/*", "docs/sub/README.md", false),
        ("docs/**", "docs/sub/README.md", true),
        ("docs/**", "docs", true),
        ("docs/**", "README.md", false),
        ("**/*.rs", "main.rs", true),
        ("**/*.rs", "a/b/main.rs", true),
        ("release/**/test", "release/v1.12.1//test", true),
        ("release/**/test", "release/v1.12.1/qest", false),
        ("{main,release/*}", "release/2", true),
        ("v[0-9].?", "v1.2", true),
        ("v[!0-9]", "v1", false),
        ("3.*", "3.0", true),
        ("*.y{,a}ml", "x.yml", true),
        ("*.y{,a}ml", "x.yaml", true),
        ("*.y{,a}ml", "x.yaaml", false),
        ("main{,-next}", "main", true),
        ("main{,-next}", "main-next", true),
        ("{,a/}x", "x", true),
        ("{,a/}x", "a/x", true),
        (r"[\]]x", "]x", true),
        (r"[\]]x", r"\x", false),
        (r"[a\-c]*", "-x", true),
        (r"[a\-c]*", "b", false),
        (r"[\^]", "^", true),
        (r"[\^\-]", "-", true),
        (r"[!\]]x", "]x", false),
        (r"[!\]]x", "ax", true),
        (r"\[a]", "[a]", true),
        ("[", "[", false),
        ("", "", true),
        ("*", "", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
    }
}

#[test]
fn a_branch_is_included_and_what_is_excluded_is_out_either_way() {
    for (include, exclude, branch, expected) in [
        (&["master", "feature/*"][..], &[][..], "develop", false),
        (&["master", "feature/*"], &[], "feature/foo", true),
        (&[], &["master"], "develop", true),
        (&[], &["feature/*", "bar"], "feature/foo", false),
        (&["master", "feature/*"], &["feature/bar"], "feature/bar", false),
        (&["master", "feature/*"], &["master", "develop"], "master", false),
        (&[], &[], "master", true),
    ] {
        let when = When { branch: constraint(include, exclude), ..When::default() };
        let mut facts = facts();
        facts.commit.branch = branch.into();
        assert_eq!(runs(&[when], &facts), expected, "{include:?} without {exclude:?} on {branch}");
    }
}

#[test]
fn files_that_changed_include_if_any_and_exclude_only_if_all_match() {
    let path = |include: &[&str], exclude: &[&str]| PathConstraint {
        include: texts(include),
        exclude: texts(exclude),
        ..PathConstraint::default()
    };
    let all = || PathConstraint { ignore_message: Some("[all]".into()), ..path(&["README.md"], &["*.php"]) };
    for (constraint, files, message, expected) in [
        (path(&[], &[]), &["CHANGELOG.md", "README.md"][..], "", true),
        (path(&["CHANGELOG.md"], &[]), &["CHANGELOG.md", "README.md"], "", true),
        (path(&["docs/*"], &[]), &["docs/sub/README.md"], "", false),
        (path(&["README.md"], &[]), &["CHANGELOG.md"], "", false),
        (path(&[], &["README.md"]), &["design.md"], "", true),
        (path(&["*.md", "*.ini"], &["CHANGELOG.md"]), &["README.md"], "", true),
        (path(&["*.md"], &["CHANGELOG.md"]), &["CHANGELOG.md"], "", false),
        (path(&["*.md"], &["CHANGELOG.md"]), &["README.md", "CHANGELOG.md"], "", true),
        (all(), &["CHANGELOG.md"], "Build them [ALL]", true),
        (all(), &["myfile.php"], "Build them", false),
        (path(&["README.md"], &[]), &[], "", true),
        (PathConstraint { on_empty: false, ..path(&["README.md"], &[]) }, &[], "", false),
    ] {
        let mut facts = facts();
        facts.pipeline.files = Some(files.iter().map(|file| (*file).to_owned()).collect());
        facts.commit.message = message.into();
        let when = [When { path: constraint, ..When::default() }];
        assert_eq!(runs(&when, &facts), expected, "{when:?} on {files:?}");
        // Whoever asked for it by hand changed no files.
        facts.pipeline.event = EventKind::Manual;
        assert!(runs(&when, &facts));
    }
}

#[test]
fn a_key_that_does_not_concern_the_event_is_passed_over() {
    let branch = When { branch: constraint(&["develop"], &[]), ..When::default() };
    assert!(runs(std::slice::from_ref(&branch), &on(EventKind::Tag)));
    assert!(!runs(&[branch], &on(EventKind::Push)));
    let cron = When { cron: constraint(&["nightly"], &[]), ..When::default() };
    assert!(runs(std::slice::from_ref(&cron), &on(EventKind::Push)));
    assert!(!runs(std::slice::from_ref(&cron), &on(EventKind::Cron)));
    let mut nightly = on(EventKind::Cron);
    nightly.pipeline.cron = "nightly".into();
    assert!(runs(&[cron], &nightly));
}

#[test]
fn a_merged_pull_request_is_a_closed_one_to_pipelines_that_know_no_other_word() {
    let listed = |event| [When { event: vec![at(3, event)], ..When::default() }];
    assert!(runs(&listed(EventKind::PullRequestClosed), &on(EventKind::PullRequestMerged)));
    assert!(runs(&listed(EventKind::PullRequestMerged), &on(EventKind::PullRequestMerged)));
    assert!(!runs(&listed(EventKind::PullRequestMerged), &on(EventKind::PullRequestClosed)));
    assert!(!runs(&listed(EventKind::PullRequest), &on(EventKind::PullRequestMerged)));
}

#[test]
fn each_key_compares_what_it_is_named_after() {
    let is = |pattern: &str| constraint(&[pattern], &[]);
    for (when, expected) in [
        (When { repo: is("acme/*"), ..When::default() }, true),
        (When { repo: is("octocat/*"), ..When::default() }, false),
        (When { git_ref: is("refs/heads/**"), ..When::default() }, true),
        (When { git_ref: is("refs/tags/*"), ..When::default() }, false),
        (When { platform: is("linux/amd64"), ..When::default() }, true),
        (When { platform: is("windows/*"), ..When::default() }, false),
        (When { instance: is("ci.example.org"), ..When::default() }, true),
        (When { instance: is("*.ci.example.org"), ..When::default() }, false),
        (When { evaluate: Some(at(6, "CI_COMMIT_BRANCH == 'main'".into())), ..When::default() }, true),
        (When { evaluate: Some(at(6, "CI_COMMIT_TAG != ''".into())), ..When::default() }, false),
    ] {
        assert_eq!(runs(std::slice::from_ref(&when), &facts()), expected, "{when:?}");
    }
}

#[test]
fn the_matrix_is_a_question_of_steps() {
    let when =
        [When { matrix: BTreeMap::from([("GO".to_owned(), at(6, "1.*".to_owned()))]), ..When::default() }];
    let at_point = |version: &str| {
        let point = Point::from([("GO".to_owned(), version.to_owned())]);
        matches!(asked(&when, &facts(), Some(&point)), Answer::Runs { .. })
    };
    assert!(at_point("1.7"));
    assert!(!at_point("2.0"));
    assert!(runs(&when, &facts()), "a workflow is not asked about its matrix");
}

#[test]
fn success_is_implied_and_failure_has_to_be_listed_by_an_item_that_holds() {
    let status =
        |listed: &[Status]| When { status: listed.iter().map(|s| at(5, *s)).collect(), ..When::default() };
    let elsewhere = |listed: &[Status]| When { branch: constraint(&["other"], &[]), ..status(listed) };
    for (when, success, failure) in [
        (vec![], true, false),
        (vec![status(&[])], true, false),
        (vec![status(&[Status::Failure])], false, true),
        (vec![status(&[Status::Success])], true, false),
        (vec![status(&[Status::Failure, Status::Success])], true, true),
        (vec![status(&[]), elsewhere(&[Status::Failure])], true, false),
        (vec![status(&[]), status(&[Status::Failure, Status::Success])], true, true),
    ] {
        let Answer::Runs { on, .. } = asked(&when, &facts(), None) else { panic!("{when:?}") };
        assert_eq!(on, RunsOn { success, failure }, "{when:?}");
    }
}

#[test]
fn items_are_alternatives_and_each_says_why_it_does_not_hold() {
    let tag = When { event: vec![at(3, EventKind::Tag), at(3, EventKind::Release)], ..When::default() };
    let branch = When { branch: constraint(&["main", "release/*"], &[]), ..When::default() };
    let mut feature = facts();
    feature.commit.branch = "feature".into();
    let Answer::Not { why } = asked(&[tag.clone(), branch.clone()], &feature, None) else { panic!() };
    assert_eq!(
        why,
        "the event is `push`, and it runs on `tag, release` (build.yml:3); \
         `branch` is `feature`, and it runs on `main, release/*` (build.yml:4)"
    );
    assert!(runs(&[tag, branch], &facts()));
}

#[test]
fn only_local_runs_ask_whether_a_step_is_local() {
    let when = [When { local: Some(false), ..When::default() }];
    let local = Facts { local: true, ..facts() };
    let point = Point::new();
    assert!(matches!(asked(&when, &local, Some(&point)), Answer::Not { .. }));
    assert!(matches!(asked(&when, &facts(), Some(&point)), Answer::Runs { .. }));
    let always = [When { local: Some(true), ..When::default() }];
    assert!(matches!(asked(&always, &facts(), Some(&point)), Answer::Runs { .. }), "as in Woodpecker");
}

#[test]
fn a_point_is_out_where_all_axes_of_an_exclusion_agree() {
    let axes = |axes: &[(&str, &str)]| -> BTreeMap<String, Spanned<String>> {
        axes.iter().map(|(axis, pattern)| ((*axis).to_owned(), at(6, (*pattern).to_owned()))).collect()
    };
    let when = |include: &[(&str, &str)], exclude: &[(&str, &str)]| {
        [When { matrix: axes(include), matrix_exclude: axes(exclude), ..When::default() }]
    };
    let old_on_arm = when(&[("GO", "1.*")], &[("GO", "1.5"), ("ARCH", "arm*")]);
    let at_point = |when: &[When], go: &str, arch: &str| {
        let point = Point::from([("GO".to_owned(), go.to_owned()), ("ARCH".to_owned(), arch.to_owned())]);
        asked(when, &facts(), Some(&point))
    };
    assert_eq!(
        at_point(&old_on_arm, "1.5", "arm64"),
        Answer::Not {
            why: "`ARCH` is `arm64` and `GO` is `1.5` here, which is excluded (build.yml:6)".into()
        }
    );
    for (go, arch, expected) in [("1.5", "amd64", true), ("1.6", "arm64", true), ("2.0", "amd64", false)] {
        let runs = matches!(at_point(&old_on_arm, go, arch), Answer::Runs { .. });
        assert_eq!(runs, expected, "{go} on {arch}");
    }
    let not_old = when(&[], &[("GO", "1.5")]);
    assert!(matches!(at_point(&not_old, "1.5", "amd64"), Answer::Not { .. }));
    assert!(runs(&not_old, &facts()), "a workflow is not asked about its matrix");
}

#[test]
fn labels_of_a_pull_request_can_be_looked_at() {
    let when = |source: &str| [When { evaluate: Some(at(6, source.to_owned())), ..When::default() }];
    assert!(runs(&when("CI_COMMIT_PULL_REQUEST_LABELS contains 'deploy'"), &pull_request(false)));
    assert!(!runs(&when("CI_COMMIT_PULL_REQUEST_LABELS contains 'deploy'"), &facts()));
}

fn runs(when: &[When], facts: &Facts) -> bool {
    matches!(asked(when, facts, None), Answer::Runs { .. })
}

fn asked(when: &[When], facts: &Facts, point: Option<&Point>) -> Answer {
    let variables = environment::of_run(facts);
    answer(when, &Circumstances { facts, variables: &variables, point, file: "build.yml" }).unwrap()
}
