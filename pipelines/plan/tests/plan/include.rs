//! One file on top of others: what comes from where, and who wins.

use mergeyard_plan::{
    decide::Verdict,
    finding::Finding,
    spec::{Included, Limits, Read, includes, matrix, matrix_with, read, read_with},
    workflows::{self, PipelineFile, Request},
};

use crate::built::facts;

fn over(text: &str, included: &[(&str, &str)]) -> Read {
    let included: Vec<_> =
        included.iter().map(|(file, text)| Included { file, text: (*text).into() }).collect();
    read_with("build.yml", text, &included, &Limits::default())
}

fn said(read: &Read) -> Vec<String> {
    read.findings.iter().map(ToString::to_string).collect()
}

const BASE: (&str, &str) = (
    "ci/base.yml",
    "variables: {image: &golang golang:1.26}\nlabels: {platform: linux/amd64, size: small}\n\
     inputs: {tag: {description: base}}\nsteps:\n  lint: {image: *golang, commands: base lint}\n  test: {image: *golang, \
     commands: base test}\nservices: {db: {image: postgres}}\n",
);

#[test]
fn a_file_says_which_others_it_stands_on() {
    let list = includes("include: [ci/base.yml, ci/deploy.yml]\nsteps: {}\n");
    assert_eq!(list.iter().map(|file| file.as_str()).collect::<Vec<_>>(), ["ci/base.yml", "ci/deploy.yml"]);
    assert_eq!((list[1].at.line, list[1].at.column), (1, 24));
    assert_eq!(includes("include: base.yml")[0].as_str(), "base.yml");
    assert_eq!(
        includes("include: base.yml\nwhen: {branch: [${CI_REPO_DEFAULT_BRANCH}]}\n")[0].as_str(),
        "base.yml"
    );
    for none in [
        "",
        "steps: {}",
        "include:",
        "matrix: {include: [{a: b}]}",
        "include: [",
        "- include: a",
        "include: *gone",
        "include: ['', /etc/passwd, ../x, ./ci/base.yml, ci//base.yml, ., .., ci/, \"a\\0b\"]",
    ] {
        assert!(includes(none).is_empty(), "{none}");
    }
}

#[test]
fn included_steps_come_first_and_one_of_the_same_name_takes_their_place() {
    let text = "include: ci/base.yml\nlabels: {size: large}\nsteps:\n  test: {image: rust, commands: own test}\n  \
                ship: {image: *golang, depends_on: lint}\nservices: {mq: {image: mq}}\n";
    let read = over(text, &[BASE]);
    assert_eq!(said(&read), [""; 0]);
    let workflow = read.workflow.unwrap();
    let steps: Vec<_> = workflow
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.image.as_ref().unwrap().as_str(), step.origin.as_deref()))
        .collect();
    assert_eq!(
        steps,
        [("lint", "golang:1.26", Some("ci/base.yml")), ("test", "rust", None), ("ship", "golang:1.26", None),],
        "and its anchors can be used"
    );
    assert_eq!(workflow.services.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["db", "mq"]);
    assert_eq!(
        (workflow.labels["platform"].as_str(), workflow.labels["size"].as_str()),
        ("linux/amd64", "large")
    );
    assert_eq!(workflow.inputs["tag"].description.as_deref(), Some("base"));
}

#[test]
fn a_file_is_asked_what_it_includes_before_its_anchors_are_there() {
    let text = "include: ci/base.yml\nsteps: [{name: z, image: *golang, <<: *more}]\n";
    assert_eq!(includes(text)[0].as_str(), "ci/base.yml");
}

#[test]
fn a_matrix_takes_the_anchors_of_included_files() {
    let text = "include: ci/base.yml\nmatrix: {IMAGE: [*golang, rust]}\nsteps: {a: {image: '${IMAGE}'}}\n";
    let points = matrix_with("build.yml", text, &[BASE.1], &Limits::default()).unwrap();
    let images: Vec<&str> = points.iter().map(|point| point["IMAGE"].as_str()).collect();
    assert_eq!(images, ["golang:1.26", "rust"]);
    let whens = "variables: {only: &only {branch: [${CI_REPO_DEFAULT_BRANCH}]}, two: &two [a, b]}\n";
    let text = "include: ci/when.yml\nmatrix: {A: *two}\nwhen: *only\nsteps: {a: {image: x}}\n";
    assert_eq!(matrix_with("build.yml", text, &[whens], &Limits::default()).unwrap().len(), 2);
    let unknown = matrix("build.yml", text, &Limits::default()).unwrap_err();
    assert!(
        unknown[0].to_string().starts_with("build.yml:2:13: no anchor `two` stands above"),
        "{unknown:?}"
    );
}

#[test]
fn what_lies_in_the_place_of_an_included_file_is_told_where_it_is_asked_for() {
    let include = |path: &str, content: Result<&str, &str>| PipelineFile {
        path: path.to_owned(),
        content: content
            .map(|text| text.as_bytes().to_vec())
            .map_err(|why| Finding::error(path, "file-kind", why)),
        included: Vec::new(),
    };
    let text = "steps: [{name: a, image: x}]\ninclude: [ci/base.yml, ci]\n";
    let file = PipelineFile {
        included: vec![include("ci/base.yml", Ok(BASE.1)), include("ci", Err("it is not a file"))],
        ..include(".mergeyard/a.yml", Ok(text))
    };
    let other = include(".mergeyard/b.yml", Ok("steps: [{name: b, image: x}]\n"));
    let facts = facts();
    let sources = workflows::read(&[file, other], &facts, &Limits::default());
    let plan = workflows::plan(&sources, &Request::of(&facts));
    let said: Vec<String> = plan.findings.iter().map(ToString::to_string).collect();
    assert_eq!(said, [".mergeyard/a.yml:2:24: `ci` cannot be included: it is not a file"]);
    let verdicts: Vec<bool> =
        plan.workflows.iter().map(|workflow| workflow.verdict == Verdict::Run).collect();
    assert_eq!(verdicts, [false, true], "the other file is planned");
}

#[test]
fn all_steps_may_come_from_the_other_file() {
    let read = over("include: ci/base.yml\n", &[BASE]);
    assert_eq!(read.workflow.unwrap().steps.len(), 2);
}

#[test]
fn later_files_stand_on_earlier_ones() {
    let text = "include: [ci/base.yml, more.yml]\nsteps: {last: {image: x}}\n";
    let read =
        over(text, &[BASE, ("more.yml", "steps:\n  lint: {image: other}\n  more: {image: *golang}\n")]);
    let steps: Vec<_> = read.workflow.as_ref().unwrap().steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["lint", "test", "more", "last"]);
    assert_eq!(read.workflow.unwrap().steps[0].image.as_ref().unwrap().as_str(), "other");
}

#[test]
fn findings_name_the_file_they_are_in() {
    let part = ("part.yml", "steps:\n  a: {image: x, comands: y}\n  b: {image: x, depends_on: zzz}\n");
    let read = over("include: part.yml\nsteps: {c: {timeout: 1}}\n", &[part]);
    assert_eq!(
        said(&read),
        [
            "build.yml:2:9: the step `c` has no `image`: name one, or an action with `uses`",
            "build.yml:2:22: `1` is not a duration: write a number and s, m or h, such as 30m",
            "part.yml:2:17: the step `a` has no key `comands` and passes it over: did you mean `commands`?",
            "part.yml:3:29: `b` depends on `zzz`, which is no step: add it, or write `optional: true`",
        ]
    );
}

#[test]
fn what_cannot_be_included_is_said() {
    let own = "steps: {a: {image: x}}\n";
    for (include, part, says) in [
        (
            "gone.yml",
            None,
            "build.yml:1:10: `gone.yml` is not there: included files are read at the repository's default branch",
        ),
        ("../x.yml", None, "build.yml:1:10: `../x.yml` is not the path of a file"),
        ("/etc/passwd", None, "build.yml:1:10: `/etc/passwd` is not the path of a file"),
        ("p.yml", Some("include: q.yml\n"), "p.yml:1:1: an included file cannot include others"),
        ("p.yml", Some("when: {event: push}\n"), "p.yml:1:1: `when` means nothing in an included file"),
        ("p.yml", Some("steps: [{image: x}]\n"), "p.yml:1:9: name the steps of an included file"),
        ("p.yml", Some("steps: [\n"), "p.yml:1:8: this is not YAML"),
        ("p.yml", Some("- a\n"), "p.yml:1:1: a pipeline is a list"),
    ] {
        let included: Vec<_> = part.iter().map(|text| ("p.yml", *text)).collect();
        let said = said(&over(&format!("include: {include}\n{own}"), &included));
        assert!(said.len() == 1 && said[0].starts_with(says), "{include}: {said:#?}");
    }
    assert!(
        said(&read("build.yml", &format!("include: a.yml\n{own}"), &Limits::default()))[0]
            .contains("`a.yml` is not there")
    );
}

#[test]
fn two_steps_of_one_name_in_one_file_stay_an_error() {
    let read = over("include: ci/base.yml\nsteps: [{name: a, image: x}, {name: a, image: x}]\n", &[BASE]);
    assert!(said(&read)[0].contains("there are two steps `a`"), "{:?}", said(&read));
}

#[test]
fn aliases_across_files_are_counted_too() {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for i in 1..14 {
        text += &format!("a{i}: &a{i} [*a{before}, *a{before}]\n", before = i - 1);
    }
    let own = format!("include: p.yml\nsteps: {{a: {{image: x}}}}\nx-a: [{}]\n", "*a10, ".repeat(60));
    let read = over(&own, &[("p.yml", &text)]);
    assert!(
        said(&read).iter().any(|finding| finding.contains("with its aliases the file holds more than")),
        "{:?}",
        said(&read)
    );
}

#[test]
fn what_a_file_includes_is_read_before_substitution() {
    let file = PipelineFile {
        path: "build.yml".to_owned(),
        content: Ok(b"steps: [{name: a, image: x}]\ninclude: [ci/a.yml, 'ci/${CI_REPO_NAME}.yml']\n".to_vec()),
        included: Vec::new(),
    };
    let facts = facts();
    let sources = workflows::read(&[file], &facts, &Limits::default());
    let said: Vec<String> = sources[0].points[0].findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "build.yml:2:21: `ci/${CI_REPO_NAME}.yml` cannot be included: includes are read before substitution, \
          write the path without `${…}`"
        ]
    );
    assert_eq!(includes("include: ['ci/${CI_REPO_NAME}.yml', b.yml]").len(), 1);
}
